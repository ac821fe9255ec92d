"""TensorRT plans in 8 bits, built ahead of time without a GPU: what is in them, and what is said where none can be."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.engines import ENGINES, TowerSource, build_engine, build_engine_from, load_engine, read_record, tensorrt
from models.engines.plan_cache import cached_plan, plan_key, timing_cache
from models.engines.plan_text import PlanFacts, read_plan
from models.errors import EngineError, EngineNotPossible
from models.ladder import RUNTIMES
from models.tower import Tower
from tests.tiny_model import SIDE, TINY

AHEAD_OF_TIME = pytest.mark.skipif(
    torch.cuda.is_available() or importlib.util.find_spec("tensorrt_rtx") is None,
    reason="building ahead of time needs the package of herdlight[tensorrt] and no CUDA in torch",
)
FRAMES = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), np.uint8)
# Two blocks of qkv, out and the two products of the MLP, and the projection at the end.
NUM_PRODUCTS = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TowerSource:
    torch.manual_seed(1)
    return TowerSource(Tower(TINY.encoder, 1).eval(), SIDE, tmp_path_factory.mktemp("graphs"), lambda: FRAMES)


def facts_of(source: TowerSource, name: str, folder: Path) -> PlanFacts:
    build_engine_from(name, source, folder, "float32")
    return read_plan((folder / "tower.plan").read_bytes())


@AHEAD_OF_TIME
@pytest.mark.parametrize(
    ("name", "kind", "targets"),
    [
        ("tensorrt", "half", ("sm80", "sm86", "sm89", "sm120")),
        ("tensorrt-int8", "int8", ("sm80", "sm86", "sm89", "sm120")),
        ("tensorrt-fp8", "fp8_e4m3", ("sm89", "sm120")),
    ],
)
def test_products_are_in_the_arithmetic_that_was_asked_for(
    name: str, kind: str, targets: tuple[str, ...], source: TowerSource, tmp_path: Path
) -> None:
    facts = facts_of(source, name, tmp_path / "engine")
    record = read_record(tmp_path / "engine")
    assert (record.name, record.precision) == (name, ENGINES[name].precisions[0])
    assert record.device == "+".join(targets)
    assert facts.targets == targets
    assert facts.batches == (1, tensorrt.MAX_BATCH)
    if kind == "half":
        assert not facts.num_products("int8") + facts.num_products("fp8")
    else:
        assert facts.num_products(kind) == NUM_PRODUCTS, facts
    with pytest.raises(EngineError, match="torch sees no GPU"):
        load_engine(tmp_path / "engine")


@AHEAD_OF_TIME
def test_the_same_frames_give_the_same_plan(source: TowerSource, tmp_path: Path) -> None:
    first = build_engine_from("tensorrt-int8", source, tmp_path / "first", "int8")
    for folder, frames, is_same in (("again", FRAMES, True), ("others", FRAMES // 8, False)):
        for precision in ("float32", "float16"):  # what was exported once; the ranges are taken again
            shutil.copytree(source.folder / precision, tmp_path / folder / precision)
        other = TowerSource(source.tower, SIDE, tmp_path / folder, lambda frames=frames: frames)  # type: ignore[misc]
        record = build_engine_from("tensorrt-int8", other, tmp_path / f"{folder}-engine", "int8")
        assert (record == first) == is_same


class _WithoutProducts(nn.Module):
    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return pixels_NCHW.mean(dim=(2, 3))


@AHEAD_OF_TIME
def test_what_cannot_be_quantised_is_one_line(source: TowerSource, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="int8: no train frames to calibrate with; add train videos"):
        build_engine("tensorrt-int8", source.tower, tmp_path / "engine", SIDE, "int8")
    few = TowerSource(source.tower, SIDE, tmp_path / "few", lambda: FRAMES[:5])
    with pytest.raises(EngineError, match="fp8: 5 frames to calibrate with, needs 32; add train videos"):
        build_engine_from("tensorrt-fp8", few, tmp_path / "engine", "fp8")
    plain = TowerSource(_WithoutProducts(), SIDE, tmp_path / "graphs", lambda: FRAMES)
    with pytest.raises(EngineNotPossible, match="fp8: the tower has no product with weights"):
        build_engine_from("tensorrt-fp8", plain, tmp_path / "engine", "fp8")
    assert not (tmp_path / "engine").exists()


@AHEAD_OF_TIME
def test_a_gpu_without_fp8_is_refused_by_the_builder(
    source: TowerSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan really is in fp8: TensorRT itself says that Ampere cannot run it."""
    monkeypatch.setitem(tensorrt.AHEAD_OF_TIME, "fp8", ("sm80",))
    with pytest.raises(EngineError, match=r"tensorrt in fp8: the builder gave no engine: .*fp8_e4m3") as told:
        build_engine_from("tensorrt-fp8", source, tmp_path / "engine", "fp8")
    assert "\n" not in str(told.value)


def test_rungs_name_engines_that_there_are() -> None:
    for part in RUNTIMES.values():
        precisions = ENGINES[part.engine].precisions
        assert part.precision in precisions or (part.engine, part.precision) == ("openvino", "int8")


def test_other_bytes_tell_nothing() -> None:
    for plan in (b"", b"tensor={ name=", bytes(range(256)) * 8):
        assert read_plan(plan) == PlanFacts((), {}, (), None)


def test_a_plan_is_kept_and_a_damaged_one_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERDLIGHT_CACHE", str(tmp_path / "cache"))
    graph = tmp_path / "tower.onnx"
    graph.write_bytes(b"graph")
    keys = [plan_key(graph, "tensorrt", "1", "sm80"), plan_key(graph, "tensorrt", "2", "sm80")]
    (tmp_path / "tower.onnx.data").write_bytes(b"weights")
    keys.append(plan_key(graph, "tensorrt", "1", "sm80"))
    assert len(set(keys)) == 3
    made: list[str] = []

    def make() -> bytes:
        made.append("plan")
        return b"the plan"

    assert [cached_plan(keys[0], make) for _ in range(3)] == [b"the plan"] * 3
    assert len(made) == 1
    (file,) = (tmp_path / "cache" / "plans").iterdir()
    for harm in (b"", file.read_bytes()[:20], file.read_bytes()[:-1] + b"?"):
        file.write_bytes(harm)
        assert cached_plan(keys[0], make) == b"the plan"
    assert len(made) == 4
    monkeypatch.setenv("HERDLIGHT_CACHE", str(graph))  # a file: nothing can be kept there
    assert cached_plan(keys[0], make) == b"the plan"
    assert timing_cache("tensorrt", "1", "sm80").parent.parent == graph
