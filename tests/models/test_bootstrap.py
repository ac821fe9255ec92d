"""Bootstrap over videos: replicates are what resampling gives, intervals cover, pairs are paired."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bootstrap import (
    Interval,
    count_replicates,
    draw_weights,
    paired_f1_difference,
    percentile_interval,
    score_replicates,
)
from models.errors import ModelError, ShapeError
from models.metrics import Counts, average_precision, calibration_error, count_frames, roc_auc


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([2, 10, 1000]))
def test_replicates_are_the_metrics_of_the_resampled_frames(seed: int, num_videos: int, grid: int) -> None:
    rng = np.random.default_rng(seed)
    videos = np.sort(rng.integers(0, num_videos, 40))
    labels = rng.integers(0, 2, 40)
    scores = rng.integers(0, grid + 1, 40) / grid
    weights = draw_weights(num_videos, 5, seed)
    by_video = [count_frames(labels[videos == v], scores[videos == v] >= 0.5) for v in range(num_videos)]
    counted = count_replicates(np.array([astuple(counts) for counts in by_video], float), weights)
    scored = score_replicates(labels, scores, videos, weights)
    for replicate, weight in enumerate(weights):
        drawn = np.repeat(np.arange(40), weight[videos])
        counts = count_frames(labels[drawn], scores[drawn] >= 0.5)
        for name in ("precision", "recall", "f1", "accuracy"):
            assert counted[name][replicate] == pytest.approx(getattr(counts, name), abs=1e-9, nan_ok=True)
        for name, function in (
            ("average_precision", average_precision),
            ("roc_auc", roc_auc),
            ("ece", calibration_error),
        ):
            expected = function(labels[drawn], scores[drawn])
            assert scored[name][replicate] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_weights_are_draws_of_whole_videos() -> None:
    weights = draw_weights(7, 2000, 1)
    assert (weights.sum(axis=1) == 7).all()
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.1
    assert np.array_equal(weights, draw_weights(7, 2000, 1))
    assert not np.array_equal(weights, draw_weights(7, 2000, 2))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, scores, videos = rng.integers(0, 2, 50), rng.random(50), np.repeat(np.arange(5), 10)
    weights = draw_weights(5, 30, 0)
    whole = score_replicates(labels, scores, videos, weights)
    monkeypatch.setattr("models.bootstrap._BLOCK_ELEMENTS", 130)
    for name, values in score_replicates(labels, scores, videos, weights).items():
        np.testing.assert_array_equal(values, whole[name])


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Videos whose accuracy varies; frames inside one are alike, so a bootstrap over frames would cover far less."""
    rng = np.random.default_rng(4)
    covered = by_frame = 0
    for trial in range(200):
        shares = rng.beta(3, 1, size=25)
        right = rng.binomial(40, shares)
        counts = np.stack([right, 40 - right, np.zeros(25), np.zeros(25)], axis=1).astype(float)
        replicates = count_replicates(counts, draw_weights(25, 300, trial))["precision"]
        interval = percentile_interval(right.sum() / 1000, replicates, 0.9, 25)
        covered += interval.low <= 0.75 <= interval.high
        naive = 1.645 * math.sqrt(0.75 * 0.25 / 1000)
        by_frame += abs(right.sum() / 1000 - 0.75) <= naive
    assert 0.82 <= covered / 200 <= 0.96
    assert by_frame / 200 < 0.75


def test_interval_is_undefined_rather_than_guessed() -> None:
    values = np.linspace(0, 1, 100)
    interval = percentile_interval(0.5, values, 0.9, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.05), pytest.approx(0.95))
    assert math.isnan(percentile_interval(math.nan, values, 0.9, 10).low)
    assert math.isnan(percentile_interval(0.5, values, 0.9, 1).low)
    few_missing, many_missing = values.copy(), values.copy()
    few_missing[:10], many_missing[:11] = math.nan, math.nan
    assert percentile_interval(0.5, few_missing, 0.9, 10).low > 0.1
    assert math.isnan(percentile_interval(0.5, many_missing, 0.9, 10).high)
    with pytest.raises(ShapeError, match="confidence"):
        percentile_interval(0.5, values, 1.0, 10)
    with pytest.raises(ShapeError, match="low"):
        Interval(0.6, 0.5)


def _videos(f1_like: float, num: int = 12, seed: int = 0) -> dict[str, Counts]:
    rng = np.random.default_rng(seed)
    found = rng.binomial(20, f1_like, num)
    return {f"v{index}": Counts(int(hit), 4, int(20 - hit), 16) for index, hit in enumerate(found)}


def test_a_model_does_not_differ_from_itself() -> None:
    same = paired_f1_difference(_videos(0.6), _videos(0.6), num_bootstrap=200, seed=3)
    assert (same.value, same.low, same.high, same.num_videos) == (0, 0, 0, 12)


def test_pairing_sees_a_small_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(7)
    found = rng.integers(2, 18, 15)
    worse = {f"v{i}": Counts(int(hit), 4, int(20 - hit), 16) for i, hit in enumerate(found)}
    better = {video: Counts(c.tp + 1, c.fp, c.fn - 1, c.tn) for video, c in worse.items()}
    difference = paired_f1_difference(better, worse, num_bootstrap=500, seed=0)
    opposite = paired_f1_difference(worse, better, num_bootstrap=500, seed=0)
    assert difference.low > 0
    assert difference.high < 0.1
    assert opposite.value == -difference.value
    assert opposite.high == pytest.approx(-difference.low)


def test_the_order_of_videos_does_not_matter() -> None:
    first, second = _videos(0.7, seed=1), _videos(0.5, seed=2)
    turned = dict(reversed(first.items()))
    assert paired_f1_difference(first, second, num_bootstrap=200, seed=1) == paired_f1_difference(
        turned, second, num_bootstrap=200, seed=1
    )


def test_pairs_need_the_same_videos_and_labels() -> None:
    first = _videos(0.7)
    with pytest.raises(ModelError, match=r"only the first has v0.*11 in common"):
        paired_f1_difference(first, {v: c for v, c in first.items() if v != "v0"}, num_bootstrap=100, seed=0)
    with pytest.raises(ModelError, match=r"v3 has 20 highlights in 40 frames .* 21 in 40"):
        paired_f1_difference(first, first | {"v3": Counts(10, 4, 11, 15)}, num_bootstrap=100, seed=0)
    with pytest.raises(ModelError, match="same test videos"):
        paired_f1_difference({}, {}, num_bootstrap=100, seed=0)
