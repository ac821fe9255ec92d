"""Reliability: the bins are a partition of the frames, and the error is theirs."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from models.errors import ModelError, ShapeError
from models.metrics import NUM_CALIBRATION_BINS, calibration_error
from models.reliability import (
    Reliability,
    ReliabilityPair,
    measure_reliability,
    reliability_metrics,
    reliability_of,
    shares,
)
from tasks.reliability import reliability_table, write_reliability

FRAME = st.tuples(st.integers(0, 1), st.floats(0, 1, width=32))


@settings(deadline=None)
@given(st.lists(FRAME, max_size=80))
def test_bins_add_up(frames: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in frames], np.int8)
    scores = np.array([score for _, score in frames], np.float32)
    measured = measure_reliability(labels, scores)
    assert len(measured.bins) == NUM_CALIBRATION_BINS
    assert sum(one.num_frames for one in measured.bins) == len(frames)
    assert sum(one.num_highlights for one in measured.bins) == labels.sum()
    for one in measured.bins:
        assert (one.mean_score is None) == (one.share is None) == (one.num_frames == 0)
        if one.mean_score is not None:
            assert one.low - 1e-6 <= one.mean_score <= one.high + 1e-6
    gaps = [
        abs(one.num_highlights - one.mean_score * one.num_frames) for one in measured.bins if one.mean_score is not None
    ]
    assert measured.ece == pytest.approx(sum(gaps) / len(frames) if frames else np.nan, nan_ok=True, abs=1e-9)
    assert measured.ece == pytest.approx(calibration_error(labels, scores), nan_ok=True)


def make_predictions() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    score = rng.random(400).astype(np.float32)
    label = (rng.random(400) < score).astype(np.int8)
    return pd.DataFrame(
        {"split": ["test"] * 300 + ["val"] * 100, "label": label, "score": score, "raw_score": score**3}
    )


def test_test_frames_are_measured_before_and_after() -> None:
    pair = reliability_of(make_predictions())
    assert pair.before is not None
    assert sum(one.num_frames for one in pair.after.bins) == 300
    assert pair.after.ece < 0.1 < pair.before.ece
    assert reliability_metrics("compiled", pair) == {"compiled_ece_uncalibrated": pair.before.ece}
    assert ReliabilityPair.from_json(json.loads(json.dumps(pair.to_json(), allow_nan=False))) == pair
    alone = reliability_of(make_predictions().drop(columns="raw_score"))
    assert alone.before is None
    assert reliability_metrics("compiled", alone) == {}
    assert ReliabilityPair.from_json(json.loads(json.dumps(alone.to_json()))) == alone


def test_what_is_no_reliability_is_refused() -> None:
    with pytest.raises(ModelError, match="reliability"):
        Reliability.from_json({"ece": 0.1, "bins": [{"low": 0}]})
    with pytest.raises(ShapeError):
        measure_reliability(np.array([0, 1]), np.array([0.5, 1.5]))


@pytest.mark.parametrize("columns", [[], ["raw_score"]])
def test_plot_and_picture_are_written(tmp_path, columns: list[str]) -> None:
    predictions = make_predictions().drop(columns=columns)
    write_reliability(tmp_path / "plots", tmp_path / "pictures", reliability_of(predictions))
    table = pd.read_csv(tmp_path / "plots" / "reliability.csv")
    assert ("before" in table.columns) == (not columns)
    assert table["frames_after"].sum() == 300
    assert np.allclose(table["after"], shares(reliability_of(predictions).after.bins), atol=1e-5, equal_nan=True)
    picture = imread(tmp_path / "pictures" / "reliability.png")
    assert min(picture.shape[:2]) > 600
    assert picture.std() > 0.02


def test_one_class_or_one_score_can_be_drawn(tmp_path) -> None:
    predictions = make_predictions().assign(label=np.int8(0), score=np.float32(0.5))
    table = reliability_table(reliability_of(predictions))
    assert table["after"].notna().sum() == 1
    write_reliability(tmp_path, tmp_path, reliability_of(predictions))
