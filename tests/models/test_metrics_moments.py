"""Segment metrics: matching against a brute force, pooling, the bootstrap, and what is undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ShapeError
from models.metrics import (
    IOU_THRESHOLDS,
    Moments,
    RankedMoments,
    match_spans,
    mean_query_map,
    query_average_precision,
    recall_at_1,
    segment_map,
    temporal_iou,
)

Spans = list[tuple[float, float]]


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    both = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return both / (first[1] - first[0] + second[1] - second[0] - both)


@st.composite
def moments(draw: st.DrawFn, max_predicted: int = 8, levels: int = 4) -> Moments:
    """Spans on a coarse grid, so that equal overlaps and equal confidences are common."""

    def spans(max_size: int) -> Spans:
        starts = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=max_size))
        return [(float(start), float(start + length)) for start, length in starts]

    predicted = spans(max_predicted)
    scores = draw(st.lists(st.integers(0, levels), min_size=len(predicted), max_size=len(predicted)))
    return Moments.of([(*span, score / levels) for span, score in zip(predicted, scores, strict=True)], spans(5))


def brute_force_matches(predicted: Spans, truth: Spans, threshold: float) -> list[bool]:
    free = dict(enumerate(truth))
    found = []
    for span in predicted:
        best = max(free, key=lambda index: (overlap(span, truth[index]), index), default=None)
        hit = best is not None and overlap(span, truth[best]) >= threshold
        found.append(hit)
        if hit:
            del free[best]
    return found


def area_under_envelope(hits: list[bool], num_true: int, ends: list[int]) -> float:
    """Interpolated average precision by its definition: at each recall the best precision at that recall or more."""
    points = [(sum(hits[: end + 1]) / num_true, sum(hits[: end + 1]) / (end + 1)) for end in ends]
    recalls = sorted({recall for recall, _ in points if recall > 0})
    area, before = 0.0, 0.0
    for recall in recalls:
        area += (recall - before) * max(precision for other, precision in points if other >= recall)
        before = recall
    return area


@given(moments(), st.sampled_from(IOU_THRESHOLDS))
def test_matching_is_greedy_and_takes_a_true_span_once(video: Moments, threshold: float) -> None:
    predicted, truth = [tuple(s) for s in video.predicted], [tuple(s) for s in video.truth]
    found = match_spans(temporal_iou(video.predicted, video.truth), [threshold])[0]
    assert found.tolist() == brute_force_matches(predicted, truth, threshold)
    assert found.sum() <= len(truth)


@given(moments())
def test_one_query_is_the_area_under_the_envelope_in_the_order_given(query: Moments) -> None:
    found = query_average_precision(query, max_predicted=5)
    order = sorted(range(min(5, len(query.scores))), key=lambda index: -query.scores[index])
    for threshold, value in zip(IOU_THRESHOLDS, found, strict=True):
        if not len(query.truth):
            assert math.isnan(value)
            continue
        predicted = [tuple(query.predicted[index]) for index in order]
        hits = brute_force_matches(predicted, [tuple(s) for s in query.truth], threshold)
        assert value == pytest.approx(area_under_envelope(hits, len(query.truth), list(range(len(hits)))), abs=1e-9)


@given(st.lists(moments(), min_size=1, max_size=4))
def test_pooled_figure_is_one_ranking_with_ties_as_one_step(videos: list[Moments]) -> None:
    threshold = 0.5
    ranked: list[tuple[float, bool]] = []
    for video in videos:
        order = sorted(range(len(video.scores)), key=lambda index: -video.scores[index])
        hits = brute_force_matches(
            [tuple(video.predicted[index]) for index in order], [tuple(s) for s in video.truth], threshold
        )
        ranked += [(float(video.scores[index]), hit) for index, hit in zip(order, hits, strict=True)]
    ranked.sort(key=lambda pair: -pair[0])
    ends = [i for i, pair in enumerate(ranked) if i + 1 == len(ranked) or ranked[i + 1][0] != pair[0]]
    num_true = sum(len(video.truth) for video in videos)
    expected = area_under_envelope([hit for _, hit in ranked], num_true, ends) if num_true else math.nan
    assert segment_map(videos, [threshold]) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert segment_map(videos[::-1]) == pytest.approx(segment_map(videos), abs=1e-9, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(moments(), min_size=1, max_size=4), st.data())
def test_a_replicate_is_the_figure_of_the_drawn_videos(videos: list[Moments], data: st.DataObject) -> None:
    weights = np.array([data.draw(st.lists(st.integers(0, 3), min_size=len(videos), max_size=len(videos)))])
    drawn = [video for video, times in zip(videos, weights[0], strict=True) for _ in range(times)]
    expected = RankedMoments.of(drawn).average_precision()
    np.testing.assert_allclose(RankedMoments.of(videos).replicates(weights)[0], expected, atol=1e-9)


@given(moments())
def test_the_truth_itself_scores_1_and_shifted_far_away_0(video: Moments) -> None:
    rows = [(start, end, 1.0) for start, end in video.truth]
    exact = Moments.of(rows, video.truth.tolist())
    away = Moments.of([(start + 100, end + 100, score) for start, end, score in rows], video.truth.tolist())
    if not rows:
        assert math.isnan(segment_map([exact]))
        return
    assert segment_map([exact]) == pytest.approx(1)
    assert segment_map([away]) == 0
    assert recall_at_1([exact]).tolist() == [1.0] * 10
    assert recall_at_1([away]).tolist() == [0.0] * 10


def test_a_second_prediction_of_one_highlight_is_false() -> None:
    truth = [(0.0, 10.0)]
    once = Moments.of([(0, 10, 0.9)], truth)
    twice = Moments.of([(0, 10, 0.9), (0, 10, 0.8), (0, 10, 0.7)], [*truth, (50.0, 60.0)])
    assert segment_map([once]) == 1
    assert match_spans(temporal_iou(twice.predicted, twice.truth), [0.5]).tolist() == [[True, False, False]]
    assert segment_map([twice]) == 0.5


def test_pooling_is_not_the_mean_of_videos() -> None:
    """A sure mistake in a video without a highlight costs the pooled figure; the mean over queries cannot see it."""
    good = Moments.of([(0, 10, 0.5)], [(0, 10)])
    nothing_there = Moments.of([(0, 10, 0.9)], [])
    assert segment_map([good, nothing_there]) == 0.5
    assert mean_query_map([good, nothing_there]).tolist() == [1.0] * 10


def test_overlap_decides_up_to_its_threshold() -> None:
    """8 of 10 seconds: IoU 0.8 passes 0.5 to 0.8, and so 7 of the 10 thresholds."""
    video = Moments.of([(0, 8, 1)], [(0, 10)])
    assert segment_map([video]) == pytest.approx(0.7)
    assert recall_at_1([video]).tolist() == [1.0] * 7 + [0.0] * 3


def test_the_first_prediction_counts_for_recall_and_the_first_ten_for_precision() -> None:
    late = Moments.of([(20 + i, 21 + i, 0.1) for i in range(10)] + [(0, 10, 0.9)], [(0, 10)])
    assert recall_at_1([late]).tolist() == [0.0] * 10
    assert mean_query_map([late]).tolist() == [0.0] * 10
    assert mean_query_map([late], max_predicted=None).tolist() == [1.0] * 10


def test_undefined_is_nan_and_nothing_found_is_0() -> None:
    no_truth, no_prediction = Moments.of([(0, 1, 0.5)], []), Moments.of([], [(0, 1)])
    for nothing in ([], [no_truth]):
        assert math.isnan(segment_map(nothing))
        assert np.isnan(mean_query_map(nothing)).all()
        assert np.isnan(recall_at_1(nothing)).all()
    assert segment_map([no_prediction]) == 0
    assert mean_query_map([no_prediction]).tolist() == recall_at_1([no_prediction]).tolist() == [0.0] * 10
    assert np.isnan(RankedMoments.of([no_prediction]).replicates(np.array([[0], [1]]))[:, 0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("predicted", "truth", "words"),
    [
        ([(0, 1, math.nan)], [(0, 1)], "1 of 1"),
        ([(1, 0, 0.5)], [(0, 1)], "start <= end"),
        ([(0, math.inf, 0.5)], [(0, 1)], "finite"),
        ([(0, 1)], [(0, 1)], "start, end and score"),
        ([(0, 1, 0.5)], [(0, 1, 2)], "truth"),
    ],
)
def test_bad_spans_are_refused(predicted: Spans, truth: Spans, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        Moments.of(predicted, truth)
