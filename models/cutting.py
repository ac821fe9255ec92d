"""Making a highlight shorter: cut at its valleys, or its best part.

A frame's score is constant over the stretch that it stands for (models/spans.py). Frames that are `inside` are those
that made the highlight; those of a gap that was closed are not, and count for no score. Knows scores and seconds only.

Shapes: T frames of the track.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.spans import ScoreTrack, Span

# Seconds are held as floats, and containers round to a thousandth of one: lengths are compared to this.
TOLERANCE_S = 1e-6
_DECIMALS = 9  # sums that differ by less are equal

Inside = npt.NDArray[np.bool_]


def mean_score(track: ScoreTrack, inside: Inside, span: Span) -> Span:
    """Return `span` with the mean score of the frames inside it, weighted by the seconds of each within the span.

    Its score is None where it holds no such frame.
    """
    frames = _frames_of(track, span)
    ends_s = track.ends_s()[frames]
    shared_s = np.minimum(ends_s, span.end_s) - np.maximum(track.times_s[frames], span.start_s)
    weights_s = np.where(inside[frames], np.maximum(shared_s, 0), 0)
    total_s = float(weights_s.sum())
    score = float(weights_s @ track.scores[frames].astype(np.float64)) / total_s if total_s > 0 else None
    return Span(span.start_s, span.end_s, None if score is None else min(score, 1.0))


def best_part(track: ScoreTrack, inside: Inside, span: Span, length_s: float) -> Span:
    """Return the part of `span` of `length_s` seconds that holds most score, of equals the earliest.

    length_s: above 0; at least the span's length gives the span itself
    """
    if length_s >= span.duration_s:
        return span
    frames = _frames_of(track, span)
    edges_s = np.append(track.times_s, track.duration_s)[frames.start : frames.stop + 1]
    held = np.append(0.0, np.cumsum(np.diff(edges_s) * track.scores[frames] * inside[frames]))
    # A sum over a window of a step function is largest where one end of the window lies on an edge of a step.
    starts_s = np.concatenate([edges_s, edges_s - length_s, [span.start_s]])
    starts_s = np.unique(np.clip(starts_s, span.start_s, span.end_s - length_s))
    sums = np.interp(starts_s + length_s, edges_s, held) - np.interp(starts_s, edges_s, held)
    start_s = float(starts_s[np.argmax(np.round(sums, _DECIMALS))])
    return mean_score(track, inside, Span(start_s, min(start_s + length_s, span.end_s)))


def cut_at_valleys(
    track: ScoreTrack, inside: Inside, span: Span, max_s: float, least_s: float, shots_s: Sequence[float]
) -> list[Span]:
    """Return `span` as parts of at most `max_s` seconds, in order, cut in two again and again.

    A cut lies at least max(least_s, max_s / 2) from both ends, so that no part is a scrap: at a shot boundary where
    there is one, else between two frames, where the two beside it score lowest, of equals nearest the middle. Where
    two parts of that length do not fit, the best part of `max_s` is kept. A part without a frame inside goes.

    max_s:   longest part, above 0; least_s: shortest, at most max_s; shots_s: shot boundaries; all seconds
    """
    parts: list[Span] = []
    todo = [span]
    margin_s = max(least_s, max_s / 2)
    while todo:
        part = todo.pop()
        if part.duration_s <= max_s + TOLERANCE_S:
            parts.append(mean_score(track, inside, part))
        elif part.duration_s < 2 * margin_s:
            parts.append(best_part(track, inside, part, max_s))
        else:
            cut_s = _valley(track, part, margin_s, shots_s)
            todo += [Span(cut_s, part.end_s), Span(part.start_s, cut_s)]
    return [part for part in parts if part.score is not None]


def _valley(track: ScoreTrack, part: Span, margin_s: float, shots_s: Sequence[float]) -> float:
    """Return where to cut `part`, at least `margin_s` from both ends."""
    middle_s = (part.start_s + part.end_s) / 2
    for places in (np.array(sorted(shots_s), np.float64), track.times_s[_frames_of(track, part)]):
        near_s = places[(places - part.start_s >= margin_s) & (part.end_s - places >= margin_s)]
        if len(near_s):
            after = np.clip(np.searchsorted(track.times_s, near_s, side="right") - 1, 0, None)
            before = np.clip(np.searchsorted(track.times_s, near_s, side="left") - 1, 0, None)
            beside = track.scores[before].astype(np.float64) + track.scores[after]
            order = np.lexsort((near_s, np.abs(near_s - middle_s), np.round(beside, _DECIMALS)))
            return float(near_s[order[0]])
    return middle_s


def _frames_of(track: ScoreTrack, span: Span) -> slice:
    """Return the frames whose stretches overlap `span`, at least one."""
    first = max(int(np.searchsorted(track.times_s, span.start_s, side="right")) - 1, 0)
    last = max(int(np.searchsorted(track.times_s, span.end_s, side="left")), first + 1)
    return slice(first, last)
