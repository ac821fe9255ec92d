"""Rungs for other devices and compilers in the ladder: built and not runnable here, or a row with the reason."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.highlighter import Highlighter
from models.ladder import RUNTIMES, Rung, RungResult
from models.manifest import VideoRow
from models.spans import Span
from models.video import SampledVideo
from tasks.rungs import Footage, build_rung
from tests.tiny_model import SIDE, TINY

FRAMES = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), np.uint8)
NO_GPU = pytest.mark.skipif(
    torch.cuda.is_available() or importlib.util.find_spec("tensorrt_rtx") is None,
    reason="building ahead of time needs the package of herdlight[tensorrt] and no CUDA in torch",
)


@pytest.fixture
def footage(make_row: Callable[..., VideoRow]) -> Footage:
    rows = [make_row(split, split=split, duration_s=3.0, segments=(Span(0.0, 1.5),)) for split in ("val", "test")]
    return Footage(rows, lambda _name: SampledVideo(FRAMES[:12], np.arange(12) / 4, 3.0), lambda: FRAMES)


def outcome(name: str, footage: Footage, scratch: Path) -> RungResult:
    torch.manual_seed(0)
    found = build_rung(Rung((RUNTIMES[name],)), (Highlighter(TINY).eval(), TINY), footage, 4, {}, scratch)
    assert isinstance(found, RungResult)
    assert found.reason is not None
    return found


@NO_GPU
def test_eight_bit_plans_are_built_from_the_train_frames_and_wait_for_their_gpu(
    footage: Footage, tmp_path: Path
) -> None:
    found = outcome("tensorrt-fp8", footage, tmp_path)
    assert found.status == "built"
    assert str(found.reason).startswith("built for sm89+sm120, which is not here (")


@NO_GPU
def test_a_plan_without_enough_train_frames_is_a_failed_row(footage: Footage, tmp_path: Path) -> None:
    few = replace(footage, calibrate=lambda: FRAMES[:3])
    for found in (
        outcome("tensorrt-int8", few, tmp_path / "few"),
        outcome("tensorrt-int8", replace(footage, calibrate=None), tmp_path / "none"),
    ):
        assert found.status == "failed"
        assert "add train videos" in str(found.reason)


@pytest.mark.parametrize("name", ["compiled", "aot-bfloat16"])
def test_without_a_compiler_it_is_not_possible(name: str, footage: Footage, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = outcome(name, footage, tmp_path)
    assert found.status == "not_possible"
    assert "no C++ compiler on this machine; install g++" in str(found.reason)
