"""Rank correlation: agreement with scipy, missing annotations, ties, and what is undefined."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.errors import ShapeError
from models.metrics import (
    RankCorrelation,
    annotator_against_each,
    annotator_against_rest,
    kendall_tau,
    mean_over_videos,
    per_annotator,
    spearman_rho,
)

NAN = math.nan


def reference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """tau-b and rho by scipy, of the shots that have both."""
    given_both = ~(np.isnan(first) | np.isnan(second))
    if given_both.sum() < 2:
        return NAN, NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tau = stats.kendalltau(first[given_both], second[given_both], variant="b").statistic
        rho = stats.spearmanr(first[given_both], second[given_both]).statistic
    return float(tau), float(rho)


@st.composite
def annotated(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Importance of 1 to 5 annotators with gaps, and scores, both often tied, of 1 to 40 shots."""
    num_annotators, num_shots = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    importance = generator.integers(0, levels, (num_annotators, num_shots)) / 10
    importance[generator.random(importance.shape) < draw(st.sampled_from([0.0, 0.2, 0.9]))] = NAN
    scores = generator.integers(0, draw(st.sampled_from([1, 3, 1000])), num_shots) * 0.1 - 3
    return importance, scores


@given(annotated())
def test_one_annotator_agrees_with_scipy(data: tuple[np.ndarray, np.ndarray]) -> None:
    importance, scores = data
    tau, rho = reference(importance[0], scores)
    assert kendall_tau(importance[0], scores) == pytest.approx(tau, abs=1e-9, nan_ok=True)
    assert spearman_rho(importance[0], scores) == pytest.approx(rho, abs=1e-9, nan_ok=True)


@given(annotated())
def test_means_over_annotators_are_those_of_scipy_where_defined(data: tuple[np.ndarray, np.ndarray]) -> None:
    importance, scores = data
    pairs = np.array([reference(own, scores) for own in importance])
    assert_mean(per_annotator(importance, scores), pairs)
    each = [reference(a, b) for i, a in enumerate(importance) for b in importance[i + 1 :]]
    assert_mean(annotator_against_each(importance), np.array(each).reshape(-1, 2))
    rest = []
    for index, own in enumerate(importance):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            others = np.nanmean(np.delete(importance, index, axis=0), axis=0) if len(importance) > 1 else own * NAN
        rest.append(reference(np.round(others, 9), own))
    assert_mean(annotator_against_rest(importance), np.array(rest))


def assert_mean(found: RankCorrelation, pairs: np.ndarray) -> None:
    defined = pairs[~np.isnan(pairs).any(axis=1)]
    assert found.num_pairs == len(defined)
    expected = defined.mean(axis=0) if len(defined) else (NAN, NAN)
    assert (found.tau, found.rho) == pytest.approx(tuple(expected), abs=1e-9, nan_ok=True)


def test_orders_agree_reverse_or_mean_nothing() -> None:
    rising = np.arange(7.0)
    assert (kendall_tau(rising, rising**3), spearman_rho(rising, rising**3)) == (1, 1)
    assert (kendall_tau(rising, -rising), spearman_rho(rising, -rising)) == (-1, -1)
    tied = np.array([1.0, 1, 2, 2])
    assert kendall_tau(tied, np.array([1.0, 2, 3, 4])) == pytest.approx(4 / math.sqrt(4 * 6))


@pytest.mark.parametrize(
    ("truth", "scores"),
    [
        ([2, 2, 2], [1, 2, 3]),
        ([1, 2, 3], [5, 5, 5]),
        ([1], [1]),
        ([], []),
        ([1, NAN, NAN], [1, 2, 3]),
        ([NAN, NAN], [1, 2]),
    ],
)
def test_undefined_is_nan_and_counts_nothing(truth: list[float], scores: list[float]) -> None:
    truth_S, scores_S = np.array(truth, float), np.array(scores, float)
    assert math.isnan(kendall_tau(truth_S, scores_S))
    assert math.isnan(spearman_rho(truth_S, scores_S))
    video = per_annotator(truth_S[None], scores_S)
    assert math.isnan(video.tau)
    assert video.num_pairs == 0


def test_one_annotator_alone_is_no_human_row() -> None:
    for human in (annotator_against_rest, annotator_against_each):
        found = human(np.array([[1.0, 2.0, 3.0]]))
        assert math.isnan(found.rho)
        assert found.num_pairs == 0


def test_an_annotator_with_a_gap_is_measured_on_what_they_scored() -> None:
    importance = np.array([[1, 2, NAN, 3], [4, 3, 2, 1], [5, 5, 5, 5.0]])
    found = per_annotator(importance, np.array([1.0, 2, -9, 3]))
    assert found.num_pairs == 2
    assert found.rho == pytest.approx((1 + spearman_rho(importance[1], np.array([1.0, 2, -9, 3]))) / 2)


def test_mean_over_videos_says_how_many_are_undefined() -> None:
    videos = [RankCorrelation(0.2, 0.3, 5), RankCorrelation(NAN, NAN, 0), RankCorrelation(0.4, 0.5, 1)]
    found = mean_over_videos(videos)
    assert (found.tau, found.rho) == pytest.approx((0.3, 0.4))
    assert (found.num_videos, found.num_undefined) == (2, 1)
    nothing = mean_over_videos([videos[1]])
    assert math.isnan(nothing.tau)
    assert (nothing.num_videos, nothing.num_undefined) == (0, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 900), st.integers(2, 50))
def test_pairs_are_counted_at_every_length_and_with_ties_on_both_sides(seed: int, num_shots: int, num: int) -> None:
    generator = np.random.default_rng(seed)
    truth, scores = generator.integers(0, 6, num_shots).astype(float), generator.integers(0, num, num_shots) / num
    assert kendall_tau(truth, scores) == pytest.approx(reference(truth, scores)[0], abs=1e-9, nan_ok=True)


def test_a_value_for_every_frame_of_a_long_video_takes_no_minutes() -> None:
    generator = np.random.default_rng(0)
    truth, scores = generator.integers(0, 6, 100_000).astype(float), generator.random(100_000)
    assert kendall_tau(truth, scores) == pytest.approx(reference(truth, scores)[0], abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "scores", "words"),
    [
        ([1, 2], [1, 2, 3], r"\(2,\).*\(3,\)"),
        ([1, 2], [1, NAN], "1 of 2 scores"),
        ([1, 2], [1, math.inf], "1 of 2 scores"),
        ([1, math.inf], [1, 2], "infinite"),
    ],
)
def test_bad_input_is_refused_with_its_value(truth: list[float], scores: list[float], words: str) -> None:
    for metric in (kendall_tau, spearman_rho):
        with pytest.raises(ShapeError, match=words):
            metric(np.array(truth, float), np.array(scores, float))
    with pytest.raises(ShapeError, match=words):
        per_annotator(np.array([truth], float), np.array(scores, float))
    with pytest.raises(ShapeError, match="A annotators"):
        per_annotator(np.array(truth, float), np.array(scores, float))


def test_human_rows_of_tvsum(shared: object) -> None:
    """One against the mean of the rest 0.40 (rho, on these 33 videos), one against another 0.204 on all 50."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(f"{shared}/data/tvsum/tvsum_2s.h5") as file:
        videos = [np.asarray(group["user_scores"][:], np.float64).T for group in file.values()]
    rest = mean_over_videos(annotator_against_rest(video) for video in videos)
    each = mean_over_videos(annotator_against_each(video) for video in videos)
    assert rest.num_videos == each.num_videos == 33
    assert rest.rho == pytest.approx(0.40, abs=0.03)
    assert each.rho == pytest.approx(0.204, abs=0.05)
    assert each.tau == pytest.approx(0.177, abs=0.05)
