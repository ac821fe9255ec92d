"""Calibration: rising, bounded, blind to the order of frames, and never a wild curve from little evidence."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import sklearn.isotonic
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import (
    MAX_BIAS,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    NO_CALIBRATION,
    ORDER_SHARE,
    Calibration,
    brier_score,
    fit_calibration,
    logit,
)
from models.errors import ModelError, ShapeError
from models.highlighter import HighlighterSpec
from models.manifest import VideoRow
from models.metrics import average_precision, calibration_error, roc_auc
from models.predictions import calibrated_predictions, check_predictions, read_predictions, write_predictions
from models.spans import Span
from tasks.train import calibrate_on_val
from tests.tiny_model import TINY

METHODS = ("temperature", "platt", "isotonic")


def draw_frames(seed: int, num_videos: int = 40, temperature: float = 1.0, bias: float = 0.0):
    """Return logits, labels and videos of frames whose true probability is sigmoid(logit / temperature + bias)."""
    rng = np.random.default_rng(seed)
    videos = np.repeat(np.arange(num_videos), 30)
    logits = (rng.normal(scale=2.5, size=len(videos)) + rng.normal(size=num_videos)[videos]).astype(np.float32)
    labels = (rng.random(len(videos)) < 1 / (1 + np.exp(-(logits / temperature + bias)))).astype(np.int8)
    return logits, labels, videos


# Logits a thousandth apart, so that float32 tells their probabilities apart at any temperature.
@st.composite
def frames(draw):
    steps = draw(st.lists(st.integers(-6000, 6000), min_size=2, max_size=60))
    logits = np.array(steps) / 1000
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=len(steps), max_size=len(steps))), np.int8)
    videos = np.array(draw(st.lists(st.integers(0, 4), min_size=len(steps), max_size=len(steps))))
    return logits, labels, videos


@settings(max_examples=60, deadline=None)
@given(frames(), st.sampled_from(METHODS))
def test_every_curve_rises_and_stays_inside_its_bounds(drawn, method) -> None:
    fitted = fit_calibration(method, *drawn)
    assert fitted.method == method
    assert MIN_TEMPERATURE <= fitted.temperature <= MAX_TEMPERATURE
    assert abs(fitted.bias) <= (MAX_BIAS if method == "platt" else 0)
    grid = np.linspace(-40, 40, 400)
    scores = fitted.apply(grid)
    assert scores.dtype == np.float32
    assert np.all(np.diff(scores) >= 0)
    assert scores.min() >= 0
    assert scores.max() <= 1
    middle = fitted.apply(np.linspace(-4, 4, 50))
    assert np.all(np.diff(middle) > 0)
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


@settings(max_examples=60, deadline=None)
@given(frames(), st.sampled_from(["temperature", "platt"]))
def test_temperature_changes_no_order(drawn, method) -> None:
    logits, labels, _ = drawn
    fitted = fit_calibration(method, *drawn)
    if fitted.temperature < 0.3:  # then 6 / T is past what float32 resolves near 1
        return
    for figure in (average_precision, roc_auc):
        before, after = figure(labels, logits), figure(labels, fitted.apply(logits))
        assert after == pytest.approx(before, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(frames())
def test_isotonic_is_never_worse_on_what_it_was_fitted_to(drawn) -> None:
    logits, labels, _ = drawn
    raw, scores = NO_CALIBRATION.apply(logits), fit_calibration("isotonic", *drawn).apply(logits)
    assert brier_score(labels, scores) <= brier_score(labels, raw) + 1e-7
    assert calibration_error(labels, scores) <= calibration_error(labels, raw) + ORDER_SHARE


@settings(max_examples=40, deadline=None)
@given(frames())
def test_isotonic_is_that_of_scikit_learn(drawn) -> None:
    logits, labels, _ = drawn
    if len(set(labels)) < 2:
        return
    peer = sklearn.isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(logits, labels)
    raw = NO_CALIBRATION.apply(logits)
    expected = (1 - ORDER_SHARE) * peer.predict(logits) + ORDER_SHARE * raw
    assert np.allclose(fit_calibration("isotonic", *drawn).apply(logits), expected, atol=1e-6)


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.5, 0.0), (0.5, 0.0), (1.6, -1.2)])
def test_what_was_wrong_is_found_with_enough_videos(temperature: float, bias: float) -> None:
    drawn = draw_frames(1, num_videos=2000, temperature=temperature, bias=bias)
    fitted = fit_calibration("platt", *drawn)
    assert fitted.temperature == pytest.approx(temperature, rel=0.15)
    assert fitted.bias == pytest.approx(bias, abs=0.15)


def test_few_videos_move_it_less_than_many() -> None:
    shifts = [
        abs(fit_calibration("temperature", *draw_frames(3, num_videos=n, temperature=2.5)).temperature - 1)
        for n in (2, 20, 200)
    ]
    assert shifts == sorted(shifts)
    assert shifts[0] < 0.5 < shifts[2]


def test_frames_of_one_video_count_once() -> None:
    logits, labels, videos = draw_frames(4, num_videos=6, temperature=3.0)
    once = fit_calibration("temperature", logits, labels, videos)
    tenfold = fit_calibration("temperature", *(np.tile(part, 10) for part in (logits, labels, videos)))
    assert tenfold.temperature == pytest.approx(once.temperature, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_it_helps_frames_that_it_has_not_seen(method) -> None:
    fitted = fit_calibration(method, *draw_frames(5, num_videos=300, temperature=3.0))
    logits, labels, _ = draw_frames(6, num_videos=300, temperature=3.0)
    assert calibration_error(labels, NO_CALIBRATION.apply(logits)) > 0.08
    assert calibration_error(labels, fitted.apply(logits)) < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_little_evidence_gives_no_wild_curve(method) -> None:
    logits = np.array([-9.0, -8.0, 8.0, 9.0], np.float32)
    videos = np.arange(4)
    separated = fit_calibration(method, logits, np.array([0, 0, 1, 1]), videos)
    assert 0.7 < separated.temperature < 1.5
    assert np.all(np.isfinite(separated.apply(logits)))
    for label in (0, 1):
        blank = fit_calibration(method, logits, np.full(4, label), videos)
        assert blank == Calibration(method)
        assert np.array_equal(blank.apply(logits), NO_CALIBRATION.apply(logits))
    nothing = fit_calibration(method, logits[:0], np.zeros(0, np.int8), videos[:0])
    assert nothing == Calibration(method)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda logits, labels, videos: (logits[1:], labels, videos), "must all be"),
        (lambda logits, labels, videos: (logits * np.nan, labels, videos), "finite"),
        (lambda logits, labels, videos: (logits, labels + 1, videos), "0 or 1"),
    ],
)
def test_frames_that_make_no_sense_are_refused(edit: Callable, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        fit_calibration("temperature", *edit(*draw_frames(0, num_videos=2)))


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "magic"},
        {"temperature": 0.0},
        {"bias": 99.0},
        {"logits": (1.0, 1.0), "probabilities": (0.0, 1.0)},
        {"logits": (1.0,)},
        {"logits": (0.0, 1.0), "probabilities": (0.5, 0.4)},
    ],
)
def test_a_curve_that_is_none_is_refused(fields) -> None:
    with pytest.raises(ShapeError, match="calibration"):
        Calibration(**fields)


def test_a_model_from_before_there_was_calibration_still_loads() -> None:
    fitted = replace(TINY, calibration=fit_calibration("isotonic", *draw_frames(7)))
    stored = json.loads(json.dumps(fitted.to_json()))
    assert HighlighterSpec.from_json(stored) == fitted
    del stored["calibration"]
    assert HighlighterSpec.from_json(stored).calibration == NO_CALIBRATION
    with pytest.raises(ModelError, match="calibration"):
        HighlighterSpec.from_json(stored | {"calibration": {"method": "isotonic", "shape": 3}})


def test_the_frame_table_keeps_scores_of_before_and_after(make_row: Callable[..., VideoRow], tmp_path) -> None:
    row = make_row("0123456789abcdef", split="val", segments=(Span(0.0, 1.0),), duration_s=3.0)
    logits = np.array([2.0, -1.0, 0.5], np.float32)
    table = calibrated_predictions([(row, np.arange(3.0), logits)], Calibration("temperature", 2.0))
    assert np.allclose(logit(table["score"].to_numpy()), logits / 2, atol=1e-6)
    assert np.allclose(logit(table["raw_score"].to_numpy()), logits, atol=1e-6)
    write_predictions(tmp_path / "p.parquet", table)
    assert read_predictions(tmp_path / "p.parquet").equals(table)
    with pytest.raises(ShapeError, match=r"\[0, 1\]"):
        check_predictions(table.assign(raw_score=np.float32(1.5)), "here")
    assert "raw_score" not in check_predictions(table.drop(columns="raw_score"), "here")


def test_only_val_is_fitted_and_the_method_stays(make_row: Callable[..., VideoRow]) -> None:
    logits, labels, _ = draw_frames(8, num_videos=1, temperature=3.0)
    spans = tuple(Span(float(place), float(place + 1)) for place in np.flatnonzero(labels))
    val = make_row("0" * 16, split="val", segments=spans, duration_s=30.0)
    test = make_row("1" * 16, split="test", segments=(), duration_s=30.0)
    alone = calibrate_on_val(Calibration("platt"), [(val, np.arange(30.0), logits)])
    both = [(val, np.arange(30.0), logits), (test, np.arange(30.0), np.full(30, 9.0, np.float32))]
    assert calibrate_on_val(Calibration("platt"), both) == alone
    assert alone == fit_calibration("platt", logits, labels, np.zeros(30))
    assert alone.method == "platt"
    assert alone.temperature > 1
    assert calibrate_on_val(Calibration("platt"), both[1:]) == Calibration("platt")


def test_logits_of_certain_scores_are_finite() -> None:
    assert np.isfinite(logit(np.array([0.0, 1.0, 0.5], np.float32))).all()
