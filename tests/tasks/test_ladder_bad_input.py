"""What may go wrong with a rung: one line that names it, a row that says failed, and the others go on."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tasks.quantise
import tasks.rungs
from models.engines import store
from models.errors import EngineError
from models.ladder import RungResult
from models.manifest import VideoRow
from models.spans import Span
from tasks.ladder import measure_ladder
from tasks.quantise import quantise_apart
from tasks.rungs import Footage, Model, calibration_frames
from tests.tiny_ladder import QUICK, break_engine, make_footage, make_model, make_video
from tests.tiny_model import SIDE, TINY


@pytest.fixture
def footage(make_row: Callable[..., VideoRow]) -> Footage:
    return make_footage(make_row)


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.rungs, "measure_resident_mb", lambda _folder, _size: None)


def table(model: Model, footage: Footage, folder: Path, *rungs: str) -> dict[str, RungResult]:
    result = measure_ladder(model, footage, QUICK.model_copy(update={"rungs": rungs}), {}, folder)
    return {row.rung.name: row for row in result.rows}


def assert_told(row: RungResult, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The row says failed and why, and one line of the log names the rung and says the same."""
    assert (row.status, row.figures) == ("failed", None)
    told = [record.getMessage() for record in caplog.records if f"rung {row.rung.name} failed" in record.getMessage()]
    assert len(told) == 1
    for text in (told[0], str(row.reason)):
        assert "\n" not in text
        assert all(word in text for word in words), text


class Eigen(nn.Module):
    """A network with an operator that torch has and ONNX has not."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        features_ND: Tensor = self.network(pixels_NCHW)
        return features_ND + 0 * torch.linalg.eigvalsh(torch.eye(2, dtype=features_ND.dtype)).sum()


@pytest.mark.filterwarnings("ignore")
def test_an_operator_that_an_engine_lacks(footage: Footage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    highlighter, _ = make_model()
    highlighter.tower.visual.ln_post = Eigen(highlighter.tower.visual.ln_post)
    with caplog.at_level(logging.WARNING):
        rows = table((highlighter, TINY), footage, tmp_path, "onnx", "torchscript")
    assert rows["torchscript"].figures is not None
    assert_told(rows["onnx"], caplog, "engine onnx cannot be built", "eig")


@pytest.mark.parametrize(
    ("segments", "told"),
    [((Span(0.0, 3.0),), "highlights only"), ((), "no highlight"), (None, "no train frames")],
)
def test_a_calibration_set_of_one_class_or_none(
    segments: tuple[Span, ...] | None, told: str, footage: Footage, tmp_path: Path,
    make_row: Callable[..., VideoRow], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    rows = [] if segments is None else [make_row("a", duration_s=3.0, segments=segments)]
    asked = replace(footage, calibrate=lambda: calibration_frames(rows, lambda _name: make_video(9), 8))
    with caplog.at_level(logging.WARNING):
        found = table(make_model(), asked, tmp_path, "openvino-int8", "bfloat16")
    assert_told(found["openvino-int8"], caplog, told, "add train videos")
    assert found["bfloat16"].figures is not None


def test_a_calibration_set_too_small(footage: Footage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = replace(footage, calibrate=lambda: np.zeros((3, SIDE, SIDE, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        found = table(make_model(), asked, tmp_path, "openvino-int8", "bfloat16")
    assert_told(found["openvino-int8"], caplog, "3 train frames to calibrate with, needs 32; add train videos")
    assert found["bfloat16"].figures is not None


def test_an_engine_for_another_gpu_is_built_and_never_run(
    footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = store._module_of("torchscript").build

    class Elsewhere:
        @staticmethod
        def build(*arguments: Any) -> Any:
            return replace(build(*arguments), device="sm90")

    module_of = store._module_of
    monkeypatch.setattr(store, "_module_of", lambda name: Elsewhere if name == "torchscript" else module_of(name))
    rows = table(make_model(), footage, tmp_path, "torchscript", "bfloat16")
    assert (rows["torchscript"].status, rows["torchscript"].figures) == ("built", None)
    assert str(rows["torchscript"].reason).startswith("built for sm90, which is not here (")
    assert rows["bfloat16"].figures is not None


@pytest.mark.parametrize("ask_too_much", [lambda: torch.empty(1 << 52), lambda: np.empty(1 << 52, np.float64)])
def test_not_enough_memory(
    ask_too_much: Callable[[], object], footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with pytest.raises((RuntimeError, MemoryError)) as refusal:
        ask_too_much()
    break_engine(monkeypatch, "torchscript", refusal.value)
    with caplog.at_level(logging.WARNING):
        rows = table(make_model(), footage, tmp_path, "torchscript", "bfloat16")
    assert_told(rows["torchscript"], caplog, "not enough memory: ", "use a larger machine")
    assert rows["bfloat16"].figures is not None


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        ("kill -9 $$", MemoryError, ""),  # as the system does with a process that takes too much
        ("echo 'a warning' >&2; echo 'int8: operator warp' >&2; exit 1", EngineError, "int8: operator warp"),
        ("exit 3", EngineError, "int8: ended with status 3"),
    ],
)
def test_how_the_quantising_process_ended_is_told(
    script: str, error: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.quantise.importlib.util, "find_spec", lambda _name: "there")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(error, match=f"^{told}$"):
        quantise_apart(tmp_path, np.zeros((1, 2, 2, 3), np.uint8), tmp_path)


@pytest.mark.parametrize(("num_videos", "wanted"), [(3, 12), (3, 7), (20, 8), (3, 1000), (4, 4)])
def test_calibration_frames_come_evenly_from_all_videos_and_one_video_is_held_at_a_time(
    num_videos: int, wanted: int, make_row: Callable[..., VideoRow]
) -> None:
    lengths = [5 + 7 * (index % 3) for index in range(num_videos)]
    rows = [
        make_row(f"v{index}", duration_s=lengths[index] / 4, segments=(Span(0.0, lengths[index] / 4),) * (index % 2))
        for index in range(num_videos)
    ]
    read: list[str] = []

    def read_video(name: str) -> Any:
        read.append(name)
        video = make_video(0, lengths[int(name[1:])])
        frames = np.full_like(video.frames_THWC, int(name[1:]))  # whose video it is
        frames[:, 0, 0, 0] = np.arange(len(frames))
        return replace(video, frames_THWC=frames)

    frames = calibration_frames(rows, read_video, wanted)
    assert len(frames) == min(wanted, sum(lengths))
    per_video = np.bincount(frames[:, 1, 1, 0], minlength=num_videos)
    if wanted >= num_videos:
        assert len(read) == num_videos
        full = [per_video[index] == lengths[index] for index in range(num_videos)]
        shares = [count for count, is_full in zip(per_video, full, strict=True) if not is_full]
        assert not shares or min(shares) >= min(per_video)
        assert all(per_video >= np.minimum(lengths, wanted // num_videos))
    else:
        assert len(read) == wanted  # and no other video is opened
        assert set(per_video) == {0, 1}
        assert np.ptp(np.diff(np.flatnonzero(per_video))) <= 1
    for index in np.flatnonzero(per_video > 1):
        steps = np.diff(frames[frames[:, 1, 1, 0] == index, 0, 0, 0].astype(int))
        assert np.ptp(steps) <= 1


def test_a_missing_rung_of_the_table_is_a_mistake_in_params(footage: Footage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no part 'warp'; there are float32, "):
        table(make_model(), footage, tmp_path, "warp")
