"""Frame metrics: agreement with scikit-learn, counts that add, and what is undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from models.errors import ShapeError
from models.metrics import (
    NEUTRAL_THRESHOLD,
    Counts,
    average_precision,
    calibration_error,
    choose_threshold,
    count_frames,
    precision_recall_curve,
    roc_auc,
    score_histogram,
)


@st.composite
def frames(draw: st.DrawFn, both_classes: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores, often tied, of 2 to 60 frames."""
    num = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=num, max_size=num)))
    if both_classes:
        labels[0], labels[1] = 0, 1
    grid = draw(st.sampled_from([2, 5, 1000]))
    steps = draw(st.lists(st.integers(0, grid), min_size=num, max_size=num))
    return labels, np.array(steps) / grid


@given(frames(), st.floats(0, 1))
def test_counts_agree_with_sklearn(data: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    labels, scores = data
    predicted = scores >= threshold
    counts = count_frames(labels, predicted)
    expected = {
        "precision": sk.precision_score(labels, predicted, zero_division=np.nan),
        "recall": sk.recall_score(labels, predicted, zero_division=np.nan),
        "f1": sk.f1_score(labels, predicted, zero_division=np.nan),
        "accuracy": sk.accuracy_score(labels, predicted),
    }
    for name, value in expected.items():
        assert getattr(counts, name) == pytest.approx(value, abs=1e-9, nan_ok=True), name


@given(frames())
def test_ranking_figures_agree_with_sklearn(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    assert average_precision(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-9)
    assert roc_auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-9)


@given(frames())
def test_curve_agrees_with_sklearn(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    curve = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(curve.thresholds[::-1], thresholds, atol=1e-9)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1], atol=1e-9)
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1], atol=1e-9)


@given(frames(both_classes=False))
def test_calibration_error_is_the_definition_of_guo_et_al(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    bins = [min(int(score * 15), 14) for score in scores]
    expected = 0.0
    for index in set(bins):
        inside = np.array([place == index for place in bins])
        expected += inside.mean() * abs(labels[inside].mean() - scores[inside].mean())
    assert calibration_error(labels, scores) == pytest.approx(expected, abs=1e-9)


def test_calibrated_scores_have_no_error_and_sure_mistakes_have_all() -> None:
    assert calibration_error(np.array([0, 1, 0, 1]), np.full(4, 0.5)) == 0
    assert calibration_error(np.array([0, 0, 1]), np.array([1.0, 1.0, 0.0])) == 1


@given(frames(), st.integers(0, 60))
def test_counts_of_parts_add_up_to_counts_of_the_whole(data: tuple[np.ndarray, np.ndarray], cut: int) -> None:
    labels, scores = data
    predicted = scores >= 0.5
    parts = count_frames(labels[:cut], predicted[:cut]) + count_frames(labels[cut:], predicted[cut:])
    assert parts == count_frames(labels, predicted)


@given(frames())
def test_no_threshold_has_a_better_f1_and_equals_take_the_highest(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    chosen = choose_threshold(labels, scores)
    best = count_frames(labels, scores >= chosen).f1
    for candidate in np.unique(np.concatenate([scores, np.linspace(0, 1, 41)])):
        f1 = count_frames(labels, scores >= candidate).f1
        assert f1 <= best + 1e-12
        assert candidate <= chosen or f1 < best - 1e-12


@settings(max_examples=50)
@given(frames())
def test_threshold_of_float32_scores_flags_the_same_frames_in_float64(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data[0], data[1].astype(np.float32)
    chosen = choose_threshold(labels, scores)
    assert np.array_equal(scores >= chosen, scores.astype(np.float64) >= chosen)
    assert chosen in scores.astype(np.float64)


def test_of_equally_good_thresholds_the_highest_is_chosen() -> None:
    """Flagging one frame (1 of 1 right, 1 of 2 found) and all four (2 of 4 right, 2 of 2 found) both have F1 2/3."""
    assert choose_threshold(np.array([1, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6])) == 0.9


def test_threshold_with_one_class() -> None:
    scores = np.array([0.2, 0.9, 0.4])
    assert choose_threshold(np.zeros(3, int), scores) == NEUTRAL_THRESHOLD
    assert choose_threshold(np.ones(3, int), scores) == 0.2


def test_undefined_is_nan() -> None:
    nothing_flagged = Counts(0, 0, 3, 5)
    assert math.isnan(nothing_flagged.precision)
    assert (nothing_flagged.recall, nothing_flagged.f1) == (0, 0)
    no_positive = Counts(0, 0, 0, 5)
    assert math.isnan(no_positive.recall)
    assert math.isnan(no_positive.f1)
    assert no_positive.accuracy == 1
    assert math.isnan(Counts(0, 0, 0, 0).accuracy)
    assert math.isnan(Counts(0, 0, 0, 0).prevalence)
    scores = np.array([0.1, 0.8])
    assert math.isnan(average_precision(np.array([0, 0]), scores))
    assert average_precision(np.array([1, 1]), scores) == 1
    assert math.isnan(roc_auc(np.array([0, 0]), scores))
    assert math.isnan(roc_auc(np.array([1, 1]), scores))
    assert math.isnan(calibration_error(np.array([], int), np.array([])))
    assert np.isnan(precision_recall_curve(np.array([0, 0]), scores).recall).all()


def test_histogram_counts_each_frame_once_in_its_class() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.0, 0.5, 0.99, 1.0])
    assert score_histogram(labels, scores, 4).tolist() == [[1, 0, 0, 0], [0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1], [0.5], r"\(2,\).*\(1,\)"),
        ([0, 2], [0.5, 0.6], "0 or 1"),
        ([0, 1], [0.5, math.nan], "1 of 2"),
        ([], [], "no frames"),
    ],
)
def test_bad_input_is_refused_with_its_value(labels: list[int], scores: list[float], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        choose_threshold(np.array(labels, int), np.array(scores))


def test_counts_refuse_what_is_no_count() -> None:
    with pytest.raises(ShapeError, match="-1"):
        Counts(-1, 0, 0, 0)
    with pytest.raises(ShapeError, match="nan"):
        Counts(math.nan, 0, 0, 0)
