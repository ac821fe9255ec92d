"""The test of an improvement: its definition by hand, its symmetries, its level, and what it cannot say."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.errors import ModelError, ShapeError
from models.metrics import Counts
from models.paired import (
    NUM_EXCHANGES,
    Improvement,
    compare_models,
    detectable_difference,
    draw_exchanges,
    exchange_p_values,
    f1_differences,
    f1_error,
    min_differing_videos,
)

Pair = tuple[dict[str, Counts], dict[str, Counts]]


def make_pair(seed: int, num_videos: int, first: float = 0.6, second: float = 0.6) -> Pair:
    """Return counts of two models that find `first` and `second` of 20 highlights in each video."""
    rng = np.random.default_rng(seed)
    sides = []
    for share in (first, second):
        tp, fp = rng.binomial(20, share, num_videos), rng.binomial(20, 0.2, num_videos)
        sides.append(
            {
                f"v{i:03}": Counts(int(t), int(f), int(20 - t), int(20 - f))
                for i, (t, f) in enumerate(zip(tp, fp, strict=True))
            }
        )
    return sides[0], sides[1]


def by_hand(first: dict[str, Counts], second: dict[str, Counts]) -> float:
    """Return the p-value by going through all exchanges with the pooled F1 itself."""

    def gain(one: list[Counts], other: list[Counts]) -> float:
        return sum(one, Counts(0, 0, 0, 0)).f1 - sum(other, Counts(0, 0, 0, 0)).f1

    pairs = [(first[video], second[video]) for video in sorted(first)]
    observed = gain(*map(list, zip(*pairs, strict=True)))
    hits = [
        gain(*map(list, zip(*(pair[::sign] for pair, sign in zip(pairs, signs, strict=True)), strict=True)))
        >= observed - 1e-12
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    return float(np.mean(hits))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([0.3, 0.6, 0.8]))
def test_the_p_value_is_that_of_exchanging_the_models_by_hand(seed: int, num_videos: int, share: float) -> None:
    first, second = make_pair(seed, num_videos, share, 0.5)
    improvement = compare_models(first, second, seed=0)
    # The linear form orders the exchanges as F1 does but for near ties, of which a few may fall on the other side.
    assert improvement.p_value == pytest.approx(by_hand(first, second), abs=2.01 / 2**num_videos + 0.02)
    assert improvement.p_value >= 2.0**-improvement.num_differing - 1e-12
    pooled = [sum(side.values(), Counts(0, 0, 0, 0)).f1 for side in (first, second)]
    assert improvement.value == pytest.approx(pooled[0] - pooled[1], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 11))
def test_one_of_two_models_gains_at_most(seed: int, num_videos: int) -> None:
    first, second = make_pair(seed, num_videos)
    one, other = compare_models(first, second, 0), compare_models(second, first, 0)
    assert one.value == -other.value
    assert one.standard_error == pytest.approx(other.standard_error)
    # What is exchanged is gained or lost, and what neither gains nor loses counts for both.
    assert one.p_value + other.p_value >= 1 - 1e-12
    assert (one.p_value > 0.5 - 1e-12) or one.value > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 5))
def test_neither_order_nor_scale_nor_videos_without_a_difference_matter(seed: int, num: int, factor: int) -> None:
    first, second = make_pair(seed, num)
    base = compare_models(first, second, 3)
    turned = compare_models(dict(reversed(first.items())), second, 3)
    assert turned == base
    scaled = [
        {video: Counts(c.tp * factor, c.fp * factor, c.fn * factor, c.tn * factor) for video, c in side.items()}
        for side in (first, second)
    ]
    larger = compare_models(scaled[0], scaled[1], 3)
    assert (larger.p_value, larger.num_differing) == (base.p_value, base.num_differing)
    assert larger.value == pytest.approx(base.value)
    assert larger.standard_error == pytest.approx(base.standard_error)


def test_the_standard_error_is_that_of_many_test_sets() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.array([list(vars(c).values()) for c in side.values()], float) for side in make_pair(1, 4000))
    drawn = rng.integers(0, 4000, (400, 60))
    value_T, error_T = f1_differences(first[drawn], second[drawn])
    assert np.median(error_T) == pytest.approx(value_T.std(), rel=0.1)


def test_the_standard_error_of_one_model_is_its_bootstrap_spread() -> None:
    side, _ = make_pair(2, 200)
    counts = np.array([list(vars(c).values()) for c in side.values()], float)
    tp, fp, fn, _ = (np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), 4000) @ counts).T
    assert f1_error(side) == pytest.approx((2 * tp / (2 * tp + fp + fn)).std(), rel=0.05)
    assert math.isnan(f1_error({}))
    assert math.isnan(f1_error({"v": Counts(1, 1, 1, 1)}))


@pytest.mark.parametrize("num_videos", [6, 12, 13, 40])
def test_exchanges_are_all_or_many_and_always_the_data_themselves(num_videos: int) -> None:
    exchanges = draw_exchanges(num_videos, 0)
    assert exchanges.shape == (min(2**num_videos, NUM_EXCHANGES), num_videos)
    assert set(np.unique(exchanges)) == {-1.0, 1.0}
    assert (exchanges[0] == 1).all()
    if 2**num_videos <= NUM_EXCHANGES:
        assert len(np.unique(exchanges, axis=0)) == 2**num_videos
    else:
        assert np.abs(exchanges.mean(axis=0)).max() < 0.08
        assert not np.array_equal(exchanges, draw_exchanges(num_videos, 1))
    assert np.array_equal(exchanges, draw_exchanges(num_videos, 0))


def test_drawn_exchanges_agree_with_the_normal_law() -> None:
    first, second = make_pair(5, 60, 0.63, 0.6)
    improvement = compare_models(first, second, 0)
    expected = stats.norm.sf(improvement.value / improvement.standard_error)
    assert improvement.p_value == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("num_videos", [8, 30])
def test_equal_models_pass_as_rarely_as_the_level_says_and_better_ones_often(num_videos: int) -> None:
    """400 test sets each; a level of 5% that held gives at most 37 with a probability of 99.9%."""
    rng = np.random.default_rng(11)
    exchanges = draw_exchanges(num_videos, 0)

    def passes(gain: float) -> int:
        # What is common to a video makes frames alike, and the two models' counts as well.
        ease = rng.beta(4, 3, (400, num_videos))
        sides = []
        for extra in (gain, 0.0):
            share = np.clip(ease + rng.normal(0, 0.1, ease.shape) + extra, 0, 1)
            tp, fp = rng.binomial(30, share), rng.binomial(90, 0.15, ease.shape)
            sides.append(np.stack([tp, fp, 30 - tp, 90 - fp], axis=2).astype(float))
        return int((exchange_p_values(sides[0], sides[1], exchanges) <= 0.05).sum())

    assert 6 <= passes(0.0) <= 37
    assert passes(0.2) > 200


def test_a_model_and_itself() -> None:
    first, _ = make_pair(0, 9)
    assert compare_models(first, first, 0) == Improvement(0.0, 0.0, 1.0, 9, 0)


def test_the_same_gain_everywhere_has_no_error_and_counts_by_the_number_of_videos() -> None:
    worse = {f"v{i}": Counts(8, 4, 12, 16) for i in range(5)}
    better = {video: Counts(9, 4, 11, 16) for video in worse}
    improvement = compare_models(better, worse, 0)
    assert improvement.standard_error == pytest.approx(0, abs=1e-12)
    assert improvement.p_value == 1 / 32
    assert compare_models(worse, better, 0).p_value == 1


def test_one_video_and_one_class_are_undefined_where_they_must_be() -> None:
    one = compare_models({"v": Counts(9, 1, 1, 9)}, {"v": Counts(5, 5, 5, 5)}, 0)
    assert one.p_value == 0.5
    assert math.isnan(one.standard_error)
    nothing = compare_models(
        {f"v{i}": Counts(0, i, 0, 9 - i) for i in range(8)},
        dict.fromkeys((f"v{i}" for i in range(8)), Counts(0, 0, 0, 9)),
        0,
    )
    assert all(math.isnan(part) for part in (nothing.value, nothing.standard_error, nothing.p_value))
    assert nothing.num_differing == 7
    only = compare_models(
        {f"v{i}": Counts(9, 0, 0, 0) for i in range(8)},
        {f"v{i}": Counts(6 - i % 2, 0, 3 + i % 2, 0) for i in range(8)},
        0,
    )
    assert only.p_value == 1 / 256


def test_other_videos_are_refused_and_an_improvement_is_checked() -> None:
    first, second = make_pair(0, 3)
    with pytest.raises(ModelError, match="only the first has v002"):
        compare_models(first, {video: second[video] for video in ("v000", "v001")}, 0)
    with pytest.raises(ShapeError, match="4 of 3 videos"):
        Improvement(0.1, 0.1, 0.5, 3, 4)
    with pytest.raises(ShapeError, match="p-value of 0"):
        Improvement(0.1, 0.1, 0.0, 3, 3)
    with pytest.raises(ShapeError, match="0 videos"):
        draw_exchanges(0, 0)


def test_the_detectable_difference_is_the_textbook_s_and_falls_with_the_error_and_the_videos() -> None:
    # Two-sided 5% and 80%: 1.96 + 0.84 standard errors for very many videos.
    assert detectable_difference(0.01, 10**6, 0.025, 0.8) == pytest.approx(0.028015, abs=1e-5)
    assert detectable_difference(0.01, 10, 0.025, 0.8) == pytest.approx(
        0.01 * (stats.t.ppf(0.975, 9) + stats.t.ppf(0.8, 9))
    )
    assert detectable_difference(0.0, 10, 0.025, 0.8) == 0
    assert [min_differing_videos(level) for level in (0.5, 0.05, 0.025, 0.01)] == [1, 5, 6, 7]
    assert math.isnan(detectable_difference(0.01, 5, 0.025, 0.8))
    assert math.isnan(detectable_difference(0.01, 1, 0.5, 0.8))
    assert math.isnan(detectable_difference(math.nan, 50, 0.025, 0.8))
    with pytest.raises(ShapeError, match="level"):
        min_differing_videos(0.0)
