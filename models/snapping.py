"""Moving the edges of highlights onto shot boundaries. Knows seconds only."""

from bisect import bisect_left
from collections.abc import Sequence

from models.spans import Span


def snap_spans(spans: Sequence[Span], shots_s: Sequence[float], snap_s: float, duration_s: float) -> list[Span]:
    """Return `spans` with each edge moved to the nearest shot boundary, where one is within `snap_s` of it.

    The start and the end of the video are boundaries too, and others outside of it are none. A span whose edges would
    meet stays where it was, and an edge that would reach into such a neighbour stays as well: as many spans come back
    as were given, in order, disjoint and inside the video. Scores are left as they are.

    spans: in order, disjoint; shots_s: in any order; snap_s: above 0; duration_s: of the video; all seconds
    """
    places = sorted({0.0, duration_s, *(time_s for time_s in shots_s if 0 < time_s < duration_s)})
    edges = [(_nearest(places, span.start_s, snap_s), _nearest(places, span.end_s, snap_s)) for span in spans]
    moved = [edge if edge[0] < edge[1] else (span.start_s, span.end_s) for span, edge in zip(spans, edges, strict=True)]
    for i in range(1, len(moved)):
        if moved[i - 1][1] > moved[i][0]:  # one of the two stayed
            moved[i - 1] = (moved[i - 1][0], spans[i - 1].end_s)
        if moved[i - 1][1] > moved[i][0]:
            moved[i] = (spans[i].start_s, moved[i][1])
    return [Span(start_s, end_s, span.score) for span, (start_s, end_s) in zip(spans, moved, strict=True)]


def _nearest(places: Sequence[float], time_s: float, reach_s: float) -> float:
    """Return the place nearest to `time_s`, of equals the earlier one; `time_s` where none is within `reach_s`."""
    at = bisect_left(places, time_s)
    near = min(places[max(at - 1, 0) : at + 1], key=lambda place: abs(place - time_s))
    return near if abs(near - time_s) <= reach_s else time_s
