"""The rule of intervals, and what is built on it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ShapeError
from models.spans import ScoreTrack, Span, label_times, merge_spans, spans_above, total_duration_s

starts = st.floats(0, 1000, allow_nan=False)
spans = st.builds(lambda s, d: Span(s, s + d), starts, st.floats(0.01, 100))


def track(scores: list[float], step_s: float = 1.0) -> ScoreTrack:
    times_s = np.arange(len(scores)) * step_s
    return ScoreTrack(times_s, np.array(scores, np.float32), len(scores) * step_s)


def test_a_span_is_closed_at_its_start_and_open_at_its_end() -> None:
    assert label_times(np.array([0.9, 1.0, 1.9, 2.0]), [Span(1.0, 2.0)]).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (-0.1, 1.0), (0.0, float("nan")), (0.0, float("inf"))])
def test_a_span_that_covers_nothing_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ShapeError, match="start < end"):
        Span(*bounds)


@given(st.lists(spans, max_size=20))
def test_merging_keeps_every_instant_and_leaves_gaps_between(parts: list[Span]) -> None:
    merged = merge_spans(parts)
    assert all(a.end_s < b.start_s for a, b in pairwise(merged))
    instants = np.array([p.start_s for p in parts] + [(p.start_s + p.end_s) / 2 for p in parts])
    assert (label_times(instants, parts) == label_times(instants, merged)).all()


@given(st.lists(spans, min_size=1, max_size=20), st.randoms())
def test_merging_does_not_depend_on_order(parts: list[Span], random: object) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [(s.start_s, s.end_s) for s in merge_spans(parts)] == [(s.start_s, s.end_s) for s in merge_spans(shuffled)]
    assert total_duration_s(parts) <= sum(p.duration_s for p in parts) + 1e-9


def test_the_last_frame_stands_until_the_end_of_the_video() -> None:
    last = ScoreTrack(np.array([0.0, 1.0]), np.array([0.1, 0.9], np.float32), 1.25)
    assert [(s.start_s, s.end_s) for s in spans_above(last, 0.5)] == [(1.0, 1.25)]


def test_a_score_equal_to_the_threshold_is_inside() -> None:
    assert len(spans_above(track([0.25, 0.5, 0.25]), 0.5)) == 1


def test_gaps_are_closed_before_short_spans_are_dropped() -> None:
    found = spans_above(track([0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9]), 0.5, min_duration_s=2.0, merge_gap_s=1.0)
    assert [(s.start_s, s.end_s) for s in found] == [(0.0, 3.0)]


def test_the_score_of_a_span_is_the_mean_of_its_frames_by_their_length() -> None:
    uneven = ScoreTrack(np.array([0.0, 1.0, 4.0]), np.array([0.6, 0.8, 0.1], np.float32), 5.0)
    (span,) = spans_above(uneven, 0.5)
    assert span.score == pytest.approx((0.6 * 1 + 0.8 * 3) / 4)


@pytest.mark.parametrize(
    ("times", "scores", "duration"),
    [
        ([0, 0], [0.1, 0.2], 3),
        ([0, 1], [0.1], 3),
        ([0, 1], [0.1, float("nan")], 3),
        ([0, 1], [0, 1.1], 3),
        ([0, 1], [0, 1], 1),
    ],
)
def test_a_track_that_no_video_can_have_is_refused(times: list[float], scores: list[float], duration: float) -> None:
    with pytest.raises(ShapeError):
        ScoreTrack(np.array(times, float), np.array(scores, np.float32), duration)
