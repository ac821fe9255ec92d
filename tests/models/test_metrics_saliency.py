"""Highlight metrics of the benchmarks: agreement with slow definitions, conventions kept, ties, what is undefined."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from models.errors import ShapeError
from models.metrics import (
    RatedClips,
    highlight_map,
    hit_at_1,
    ranked_average_precision,
    top_k_average_precision,
    top_k_map,
)


@st.composite
def rated(draw: st.DrawFn, num_annotators: int = 3) -> RatedClips:
    """Ratings 0 to 4 of 1 to 15 clips, and scores that are often tied and up to two clips too many or too few."""
    num_clips = draw(st.integers(1, 15))
    num_scores = max(1, num_clips + draw(st.integers(-2, 2)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.integers(-2, draw(st.sampled_from([0, 3, 1000])), num_scores) / 7
    highest = draw(st.sampled_from([0, 2, 4]))
    return RatedClips(generator.integers(0, highest + 1, (num_annotators, num_clips)).astype(float), scores)


def interpolated_average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """By scikit-learn's curve: the mean of the best later precision, over thresholds that find a new positive."""
    if not positive.any() or positive.all():
        return float(positive.any())
    precision, recall, _ = sk.precision_recall_curve(positive, scores)
    best = np.maximum.accumulate(precision)
    return float(np.mean(best[:-1][np.diff(recall) != 0]))


@given(st.lists(rated(), min_size=1, max_size=5), st.sampled_from([2, 3, 4]))
def test_highlight_map_is_the_mean_over_queries_and_annotators(queries: list[RatedClips], level: int) -> None:
    values = []
    for query in queries:
        num_clips = query.ratings.shape[1]
        scores = np.append(query.scores, np.zeros(num_clips))[:num_clips]
        values += [interpolated_average_precision(own >= level, scores) for own in query.ratings]
    assert highlight_map(queries, level) == pytest.approx(np.mean(values), abs=1e-9)


@given(st.lists(rated(), min_size=1, max_size=5), st.sampled_from([2, 3, 4]))
def test_hit_at_1_is_the_best_clip_for_any_annotator(queries: list[RatedClips], level: int) -> None:
    hits = []
    for query in queries:
        best = query.scores.tolist().index(max(query.scores))
        hits.append(best < query.ratings.shape[1] and max(query.ratings[:, best]) >= level)
    assert hit_at_1(queries, level) == pytest.approx(np.mean(hits))


def test_the_interpolated_form_differs_from_the_plain_one() -> None:
    """Two positives share a step: that step counts once, where plain average precision counts both."""
    ratings = np.array([[4, 4, 0, 4.0, 0]])
    scores = np.array([0.9, 0.9, 0.8, 0.7, 0.1])
    assert highlight_map([RatedClips(ratings, scores)], 4) == pytest.approx((1 + 3 / 4) / 2)
    assert sk.average_precision_score(ratings[0] >= 4, scores) == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_ratings_that_no_clip_reaches_count_0_and_all_count_1() -> None:
    scores = np.array([0.3, 0.2])
    assert highlight_map([RatedClips(np.array([[1.0, 1.0]]), scores)], 2) == 0
    assert highlight_map([RatedClips(np.array([[4.0, 4.0]]), scores)], 2) == 1
    assert math.isnan(highlight_map([], 2))
    assert math.isnan(hit_at_1([], 2))


def test_queries_with_other_numbers_of_annotators_are_refused() -> None:
    first, second = (RatedClips(np.ones((number, 4)), np.arange(4.0)) for number in (3, 2))
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        highlight_map([first, second], 1)


@pytest.mark.parametrize(
    ("ratings", "scores", "words"),
    [
        ([[1, math.nan]], [0.1, 0.2], "ratings: 1 of 2"),
        ([[1, 2]], [math.nan, 0.2], "scores: 1 of 2"),
        ([1, 2], [0.1, 0.2], "annotators"),
        ([[1, 2]], [], "at least one"),
    ],
)
def test_bad_clips_are_refused(ratings: list[float], scores: list[float], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        RatedClips(np.array(ratings, float), np.array(scores, float))


def trapezoid(hits: list[int]) -> float:
    """Area under precision over recall, point by point, from recall 0 at precision 1."""
    points = [(0.0, 1.0)] + [(sum(hits[:n]) / sum(hits), sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


@given(st.lists(st.integers(0, 1), min_size=2, max_size=12), st.sampled_from([None, 3, 5]))
def test_ranked_average_precision_is_the_trapezoid_rule(hits: list[int], k: int | None) -> None:
    scores = -np.arange(len(hits), dtype=float)
    expected = trapezoid(hits[:k]) if sum(hits[:k]) else 0.0
    assert ranked_average_precision(np.array(hits), scores, k) == pytest.approx(expected, abs=1e-9)


def test_top_5_judges_five_shots_by_each_annotator_s_own_median() -> None:
    importance = np.array([[1, 1, 1, 1, 5, 5, 5, 5.0], [5, 5, 5, 5, 1, 1, 1, 1]])
    scores = np.array([1, 2, 3, 4, 5, 6, 7, 8.0])
    # The five best are shots 7, 6, 5, 4 and 3: the first annotator likes the first four, the second only the fifth.
    second = (1 / 5) / 2
    assert top_k_average_precision(importance[:1], scores) == 1
    assert top_k_average_precision(importance[1:], scores) == pytest.approx(second)
    assert top_k_average_precision(importance, scores) == pytest.approx((1 + second) / 2)


def test_top_k_leaves_missing_annotations_out() -> None:
    importance = np.array([[1, 5, math.nan, 5], [math.nan] * 4])
    scores = np.array([0.1, 0.8, 0.9, 0.7])
    # The median is the lower of the middle two of 1, 5, 5: nothing lies above 5.
    assert top_k_average_precision(importance, scores, 2) == 0
    importance[0, 1] = 4
    assert top_k_average_precision(importance, scores, 2) == pytest.approx((1 / 2) / 2)
    assert math.isnan(top_k_average_precision(importance[1:], scores))


def test_equal_scores_are_no_ranking() -> None:
    importance = np.arange(12.0).reshape(2, 6)
    assert math.isnan(top_k_average_precision(importance, np.full(6, 0.5)))
    defined = (importance, np.arange(6.0))
    assert top_k_map([defined, (importance, np.full(6, 0.5))]) == top_k_average_precision(*defined) == 1
    assert math.isnan(top_k_map([(importance, np.full(6, 0.5))]))
    assert math.isnan(top_k_map([]))


@pytest.mark.parametrize("scores", [[0.1, math.nan, 0.3], [0.1, 0.2], [math.inf, 0.1, 0.2]])
def test_bad_scores_of_shots_are_refused(scores: list[float]) -> None:
    with pytest.raises(ShapeError):
        top_k_average_precision(np.ones((2, 3)), np.array(scores))
    with pytest.raises(ShapeError):
        ranked_average_precision(np.array([1, 0, 1]), np.array(scores))


def test_top_5_on_tvsum_puts_chance_below_people_below_their_mean(shared: object) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(f"{shared}/data/tvsum/tvsum_2s.h5") as file:
        videos = [np.asarray(group["user_scores"][:], np.float64).T for group in file.values()]
    generator = np.random.default_rng(0)
    chance = top_k_map([(video, generator.random(video.shape[1])) for video in videos])
    person = top_k_map([(np.delete(video, 0, axis=0), video[0]) for video in videos])
    mean = top_k_map([(video, video.mean(axis=0)) for video in videos])
    assert 0.33 < chance < 0.49 < person < 0.7 < mean < 0.9
