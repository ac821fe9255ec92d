"""Segment mAP of the evaluate stage: highlights as serving makes them, truth in seconds, chance, and bad input."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from models.errors import ModelError
from models.manifest import VideoRow
from models.spans import Span
from tasks.evaluate_segments import NUM_RANDOM_DRAWS, SegmentFrames, SegmentTruth, random_draws

TIMES_S = np.arange(20) / 2
ONCE = np.ones((1, 2), np.int64)


def make_truth(**changes: float) -> SegmentTruth:
    spans = {"a": (Span(2.0, 5.0),), "b": ()}
    values = {"min_duration_s": 0.0, "merge_gap_s": 0.0} | changes
    return SegmentTruth(spans, {"a": 10.0, "b": 10.0}, **values)


def make_frames(truth: SegmentTruth) -> SegmentFrames:
    """Return frames of two videos of 10 s at 2 frames a second."""
    return SegmentFrames(truth, ("a", "b"), np.repeat([0, 1], 20), np.tile(TIMES_S, 2))


def flags(start_s: float, end_s: float, score: float = 0.9) -> np.ndarray:
    """Return scores [40]: `score` inside a stretch of video a, 0.1 elsewhere."""
    inside = (start_s <= TIMES_S) & (end_s > TIMES_S)
    return np.concatenate([np.where(inside, score, 0.1), np.full(20, 0.1)])


def figure(frames: SegmentFrames, scores: np.ndarray) -> float:
    return float(frames.segment_average_precision([scores], 0.5, ONCE)[0].mean())


def test_the_marked_highlight_scores_1_and_half_of_it_only_up_to_its_overlap() -> None:
    frames = make_frames(make_truth())
    assert figure(frames, flags(2, 5)) == 1
    by_iou, _ = frames.segment_average_precision([flags(2, 4)], 0.5, ONCE)
    assert by_iou.tolist() == [1.0] * 4 + [0.0] * 6  # IoU 2/3: thresholds 0.5, 0.55, 0.6 and 0.65
    assert figure(frames, flags(6, 9)) == 0
    assert figure(frames, flags(0, 0)) == 0


def test_truth_is_in_seconds_and_not_on_the_grid_of_frames() -> None:
    """A highlight between two frames has no labelled frame, and is missed all the same."""
    truth = SegmentTruth({"a": (Span(2.125, 2.4375),), "b": ()}, {"a": 10.0, "b": 10.0}, 0.0, 0.0)
    assert figure(make_frames(truth), flags(0, 0)) == 0
    assert figure(make_frames(truth), flags(2, 2.5)) == pytest.approx(0.3)  # IoU 0.625: 0.5, 0.55 and 0.6


def test_highlights_are_joined_and_dropped_as_in_serving() -> None:
    with_gap = flags(2, 5)
    with_gap[6] = 0.1  # from 3.0 to 3.5 s
    assert figure(make_frames(make_truth()), with_gap) < 0.5
    assert figure(make_frames(make_truth(merge_gap_s=0.5)), with_gap) == 1
    assert figure(make_frames(make_truth(min_duration_s=4.0)), flags(2, 5)) == 0


def test_a_surer_highlight_where_nothing_is_costs_more() -> None:
    frames = make_frames(make_truth())
    for other, expected in ((0.7, 1.0), (0.95, 0.5)):
        scores = flags(2, 5, 0.9)
        scores[30:34] = other
        assert figure(frames, scores) == pytest.approx(expected)


def test_a_replicate_without_a_true_highlight_is_undefined() -> None:
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    by_iou, replicates = make_frames(make_truth()).segment_average_precision([flags(2, 5)], 0.5, weights)
    assert by_iou.tolist() == [1.0] * 10
    assert replicates[:2].tolist() == [1, 1]
    assert math.isnan(replicates[2])


def test_without_any_true_highlight_it_is_undefined() -> None:
    truth = SegmentTruth({"a": (), "b": ()}, {"a": 10.0, "b": 10.0}, 0.0, 0.0)
    assert math.isnan(figure(make_frames(truth), flags(2, 5)))


def test_chance_is_drawn_often_and_the_same_each_time() -> None:
    draws = random_draws(np.full(1000, 0.3), seed=4)
    assert len(draws) == NUM_RANDOM_DRAWS
    assert np.mean(draws) == pytest.approx(0.3, abs=0.02)
    assert all(set(draw) == {0.0, 1.0} for draw in draws)
    assert np.array_equal(draws, random_draws(np.full(1000, 0.3), seed=4))
    certain = np.array([0.0, 1.0, 1.0])
    assert random_draws(certain, seed=4) == [certain]


def test_truth_comes_from_the_manifest_with_touching_highlights_as_one(make_row: Callable[..., VideoRow]) -> None:
    row = make_row("a", segments=(Span(1.0, 2.0), Span(2.0, 3.0), Span(3.5, 4.0)), duration_s=4.0)
    truth = SegmentTruth.of([row], min_duration_s=0.1, merge_gap_s=0.2)
    assert truth.durations_s == {"a": 4.0}
    found = truth.moments("a", np.arange(8) / 2, np.zeros(8), 0.5)
    assert found.truth.tolist() == [[1.0, 3.0], [3.5, 4.0]]
    assert found.predicted.shape == (0, 2)


def test_a_video_without_truth_is_refused() -> None:
    with pytest.raises(ModelError, match=r"1 of 2 test videos are not in the manifest, e\.g\. c; "):
        make_truth().check(["a", "c"])


def test_a_duration_short_of_the_last_frame_is_taken_up_to_it() -> None:
    truth = SegmentTruth({"a": (Span(2.0, 5.0),)}, {"a": 9.5}, 0.0, 0.0)
    found = truth.moments("a", TIMES_S, np.where(TIMES_S >= 9, 0.9, 0.1), 0.5)
    np.testing.assert_allclose(found.predicted, [[9.0, 9.501]])
