"""Quantising to int8: what it needs, what it says where that is missing, and a real one where NNCF is installed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import build_engine, engine_bytes, load_engine, read_record
from models.errors import EngineError, MissingExtra
from models.quantise import MIN_FRAMES, choose_frames, quantise_openvino
from models.tower import Tower
from tests.tiny_model import SIDE, TINY

FRAMES = np.random.default_rng(0).integers(0, 256, (MIN_FRAMES, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    build_engine("openvino", Tower(TINY.encoder, 1), tmp_path / "engine", SIDE, "float32")
    return tmp_path / "engine"


def test_frames_are_evenly_spaced_and_of_both_classes() -> None:
    labels = np.arange(MIN_FRAMES) % 3 == 0
    np.testing.assert_array_equal(choose_frames(FRAMES, labels, 2), FRAMES[[0, -1]])
    np.testing.assert_array_equal(choose_frames(FRAMES, labels, 1000), FRAMES)
    for only, told in ((labels | True, "highlights only"), (labels & False, "no highlight"), (labels[:0], "no frame")):
        with pytest.raises(EngineError, match=f"int8: {told} among .* add train videos"):
            choose_frames(FRAMES[: len(only)], only, 8)


def test_what_is_missing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"3 frames to calibrate with, needs 32; add train videos"):
        quantise_openvino(folder, FRAMES[:3])
    monkeypatch.setitem(sys.modules, "nncf", None)
    before = engine_bytes(folder)
    with pytest.raises(MissingExtra, match=r"int8 needs NNCF: pip install .*\[int8\]"):
        quantise_openvino(folder, FRAMES)
    assert engine_bytes(folder) == before
    load_engine(folder)


def test_a_quantised_engine_is_smaller_and_close(folder: Path) -> None:
    pytest.importorskip("nncf", reason="the package of herdlight[int8] is not installed")
    before, num_bytes = load_engine(folder)(FRAMES), engine_bytes(folder)
    record = quantise_openvino(folder, FRAMES)
    assert "nncf" in record.versions
    assert record.precision == read_record(folder).precision == load_engine(folder).precision == "int8"
    assert engine_bytes(folder) < num_bytes
    after = load_engine(folder)(FRAMES)
    assert 0 < np.abs(after - before).mean() < 0.1 * np.abs(before).mean()
