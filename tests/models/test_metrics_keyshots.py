"""Keyshot F1: exact optima against brute force, the change points of made signals, and the human row of SumMe."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ShapeError
from models.metrics import (
    choose_items,
    human_keyshot_f1,
    kernel_change_points,
    keyshot_f1,
    keyshot_summary,
    random_keyshot_f1,
    segments_between,
)


@given(
    st.lists(st.tuples(st.integers(-3, 20), st.integers(1, 9)), min_size=1, max_size=9),
    st.integers(0, 30),
)
def test_knapsack_is_the_best_of_all_subsets(items: list[tuple[int, int]], capacity: int) -> None:
    values, lengths = (np.array(column) for column in zip(*items, strict=True))
    chosen = choose_items(values.astype(float), lengths, capacity)
    assert lengths[chosen].sum() <= capacity
    subsets = itertools.product([False, True], repeat=len(items))
    best = max(values[list(s)].sum() for s in subsets if lengths[list(s)].sum() <= capacity)
    assert values[chosen].sum() == best
    assert (values[chosen] > 0).all()


def test_knapsack_beats_taking_the_densest_first() -> None:
    assert choose_items(np.array([6.0, 5.0, 5.0]), np.array([6, 5, 5]), 10).tolist() == [False, True, True]
    assert not choose_items(np.array([1.0]), np.array([5]), 4).any()
    assert not choose_items(np.array([]), np.array([], int), 4).any()


def scatter(features: np.ndarray) -> float:
    return float(((features - features.mean(axis=0)) ** 2).sum())


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([0.0, 0.5, 1.0, 5.0]))
def test_change_points_minimise_the_penalised_scatter(seed: int, num: int, penalty: float) -> None:
    features = np.random.default_rng(seed).normal(size=(num, 3))

    def cost(points: tuple[int, ...]) -> float:
        inside = sum(scatter(features[a:b]) for a, b in itertools.pairwise([0, *points, num]))
        changes = len(points)
        return inside / num + penalty * (changes * (math.log(num / changes) + 1) / (2 * num) if changes else 0.0)

    every = [points for size in range(num) for points in itertools.combinations(range(1, num), size)]
    found = kernel_change_points(features, max_changes=num - 1, penalty=penalty)
    assert cost(tuple(found.tolist())) == pytest.approx(min(map(cost, every)), abs=1e-9)


def test_change_points_of_scenes_are_found_with_their_number() -> None:
    generator = np.random.default_rng(0)
    scenes = np.repeat(np.eye(5), [12, 30, 7, 18, 40], axis=0)
    features = scenes + generator.normal(scale=0.05, size=scenes.shape)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    assert kernel_change_points(features).tolist() == [12, 42, 49, 67]
    assert len(kernel_change_points(features, max_changes=2)) == 2
    assert kernel_change_points(np.tile(features[:1], (50, 1))).tolist() == []
    assert kernel_change_points(features[:1]).tolist() == []


@given(st.integers(0, 2**32 - 1), st.integers(20, 60))
@settings(max_examples=30)
def test_a_summary_is_whole_segments_within_its_share(seed: int, num: int) -> None:
    generator = np.random.default_rng(seed)
    points = np.unique(generator.integers(1, num, 8))
    segments = segments_between(points, num)
    scores = generator.random(num)
    summary = keyshot_summary(scores, segments, 0.3)
    assert summary.sum() <= 0.3 * num
    means = np.array([scores[a:b].mean() for a, b in segments])
    taken = np.array([summary[a] for a, b in segments])
    assert all(summary[a:b].all() == summary[a:b].any() for a, b in segments)
    lengths = segments[:, 1] - segments[:, 0]
    subsets = (list(s) for s in itertools.product([False, True], repeat=len(segments)))
    best = max(means[s].sum() for s in subsets if lengths[s].sum() <= math.floor(0.3 * num + 1e-9))
    assert means[taken].sum() == pytest.approx(best)


def test_f1_by_annotator() -> None:
    summary = np.array([1, 1, 0, 0, 0, 0], bool)
    annotated = np.array([[1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0] * 6], bool)
    found = keyshot_f1(summary, annotated)
    assert found.maximum == 1
    assert found.mean == pytest.approx((1 + 2 / 5 + 0) / 3)
    assert found.num_annotators == 3
    nothing = keyshot_f1(np.zeros(6, bool), annotated)
    assert (nothing.maximum, nothing.mean) == (0, 0)
    undefined = keyshot_f1(summary, annotated[3:])
    assert math.isnan(undefined.maximum)
    assert undefined.num_annotators == 0


def test_human_row_leaves_one_out() -> None:
    first, second = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    human = human_keyshot_f1(np.stack([first, first, second]))
    assert human.maximum == pytest.approx((1 + 1 + 0.5) / 3)
    assert human.mean == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    assert math.isnan(human_keyshot_f1(first[None]).mean)
    assert math.isnan(human_keyshot_f1(np.zeros((3, 4), bool)).mean)


def test_random_row_is_seeded_and_undefined_without_annotations() -> None:
    segments = segments_between(np.arange(5, 100, 5), 100)
    annotated = np.zeros((3, 100), bool)
    annotated[:, 20:35] = True
    first = random_keyshot_f1(segments, annotated, num_draws=200, seed=1)
    assert first == random_keyshot_f1(segments, annotated, num_draws=200, seed=1)
    assert first.mean == pytest.approx(0.15, abs=0.04)
    assert math.isnan(random_keyshot_f1(segments, annotated & False).mean)


def test_human_and_random_rows_of_summe(shared: Path) -> None:
    """People against people: 0.54 by the best match and 0.31 on average (Gygli et al., Otani et al.)."""
    from scipy.io import loadmat

    humans, chances = [], []
    for path in sorted((shared / "data" / "summe_gt").glob("*.mat")):
        annotated = (loadmat(path)["user_score"] > 0).T
        num_frames = annotated.shape[1]
        humans.append(human_keyshot_f1(annotated))
        segments = segments_between(np.arange(60, num_frames, 60), num_frames)
        chances.append(random_keyshot_f1(segments, annotated, num_draws=5))
    assert len(humans) == 18
    assert np.mean([human.maximum for human in humans]) == pytest.approx(0.54, abs=0.03)
    assert np.mean([human.mean for human in humans]) == pytest.approx(0.31, abs=0.03)
    assert 0.2 < np.mean([chance.maximum for chance in chances]) < 0.45
    assert 0.09 < np.mean([chance.mean for chance in chances]) < 0.18


def test_change_points_and_rows_of_tvsum(shared: Path) -> None:
    """Chance comes within a tenth of people by this figure: Otani et al.'s point, and why both stand beside ours."""
    h5py = pytest.importorskip("h5py")
    humans, chances = [], []
    with h5py.File(shared / "data" / "tvsum" / "tvsum_2s.h5") as file:
        for group in list(file.values())[:12]:
            features = np.asarray(group["features"][:], np.float64)
            points = kernel_change_points(features / np.linalg.norm(features, axis=1, keepdims=True))
            assert len(points) <= len(features) // 4
            segments = segments_between(points, len(features))
            scores = np.asarray(group["user_scores"][:], np.float64).T
            annotated = np.stack([keyshot_summary(own, segments) for own in scores])
            humans.append(human_keyshot_f1(annotated).mean)
            chances.append(random_keyshot_f1(segments, annotated, num_draws=5).mean)
    assert np.nanmean(humans) == pytest.approx(np.nanmean(chances), abs=0.1)
    assert 0.4 < np.nanmean(humans) < 0.65


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_change_points(np.full((3, 2), math.nan)), "3 units"),
        (lambda: kernel_change_points(np.zeros((0, 2))), r"\(0, 2\)"),
        (lambda: kernel_change_points(np.zeros((3, 2)), max_changes=-1), "negative"),
        (lambda: segments_between(np.array([3, 3]), 9), "rise strictly"),
        (lambda: segments_between(np.array([9]), 9), "rise strictly"),
        (lambda: choose_items(np.array([math.nan]), np.array([1]), 3), "finite"),
        (lambda: choose_items(np.array([1.0]), np.array([0]), 3), "whole numbers"),
        (lambda: choose_items(np.array([1.0]), np.array([1.5]), 3), "whole numbers"),
        (lambda: keyshot_summary(np.array([0.1, math.nan]), np.array([[0, 2]])), "1 of 2"),
        (lambda: keyshot_summary(np.zeros(4), np.array([[0, 2], [3, 4]])), "tile"),
        (lambda: keyshot_summary(np.zeros(4), np.array([[0, 4]]), 0.0), "share"),
        (lambda: keyshot_f1(np.zeros(4, bool), np.zeros((2, 5), bool)), r"\(2, 5\)"),
    ],
)
def test_bad_input_is_refused_with_its_value(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ShapeError, match=words):
        call()
