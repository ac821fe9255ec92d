"""Engines: they say what the tower says, at any batch size, and refuse what is damaged or not for this machine."""

import importlib.util
import json
import multiprocessing
import multiprocessing.process
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.encoder import EncoderSpec
from models.engines import (
    ENGINES,
    Engine,
    build_engine,
    engine_bytes,
    load_engine,
    read_record,
    reference_engine,
    resolve_precision,
    runs_here,
)
from models.errors import EngineError, MissingExtra, ShapeError
from models.tower import Tower
from tests.tiny_model import DIM, SIDE, TINY, tower_with_biases

VISION = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
SPEC: EncoderSpec = replace(TINY.encoder, model_config={"embed_dim": DIM, "vision_cfg": VISION})
ROOT = Path(__file__).resolve().parents[2]
# Engines that compile machine code have a file of their own, those for NVIDIA GPUs run on none of the tests' machines.
ELSEWHERE = ("torch-compile", "aot", "tensorrt", "tensorrt-int8", "tensorrt-fp8")
RUNS_HERE = [
    (name, precision) for name, kind in ENGINES.items() if name not in ELSEWHERE for precision in kind.precisions
]
# Largest difference, relative to the spread of the features.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.04}


def make_tower() -> Tower:
    return Tower(SPEC, 1).eval()


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tower_with_biases(SPEC)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Seven unlike frames, float noise over gradients, so that axes and channels cannot be swapped unseen."""
    rng = np.random.default_rng(0)
    base = np.linspace(0, 255, SIDE)[None, :, None, None] * np.array([1.0, 0.5, 0.1])
    return np.clip(base * rng.uniform(0.2, 1, (7, 1, 1, 3)) + rng.normal(0, 40, (7, SIDE, SIDE, 3)), 0, 255).astype(
        "u1"
    )


@pytest.fixture(scope="module")
def built(tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("engines")
    folders = {}
    for name, precision in RUNS_HERE:
        folders[name, precision] = root / f"{name}-{precision}"
        build_engine(name, tower, folders[name, precision], SIDE, precision)
    return folders


@pytest.fixture(scope="module")
def engines(built: dict[tuple[str, str], Path]) -> dict[tuple[str, str], Engine]:
    return {key: load_engine(folder, make_tower) for key, folder in built.items()}


def expected_features(tower: Tower, frames: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tower(torch.from_numpy(frames.transpose(0, 3, 1, 2).astype("f4"))).numpy()


@pytest.mark.parametrize(("name", "precision"), RUNS_HERE)
def test_engine_says_what_the_tower_says_at_any_batch_size(
    name: str, precision: str, engines: dict[tuple[str, str], Engine], tower: Tower, frames: np.ndarray
) -> None:
    engine = engines[name, precision]
    assert (engine.name, engine.precision) == (name, precision)
    expected = expected_features(tower, frames)
    spread = expected.std(axis=0).mean()
    assert spread > 0.05  # frames are told apart at all
    for size in (1, 2, 3, 7):
        features = engine(frames[:size])
        assert features.dtype == np.float32
        assert features.shape == (size, DIM)
        assert np.abs(features - expected[:size]).max() < TOLERANCE[precision] * np.abs(expected).max()


@pytest.mark.parametrize(("name", "precision"), RUNS_HERE)
def test_engine_gives_the_same_twice_and_keeps_what_it_gave(
    name: str, precision: str, engines: dict[tuple[str, str], Engine], frames: np.ndarray
) -> None:
    engine = engines[name, precision]
    first = engine(frames)
    before = first.copy()
    engine(frames[::-1])  # a runtime that hands out its own buffer would overwrite `first`
    np.testing.assert_array_equal(first, before)
    np.testing.assert_array_equal(engine(frames), first)


def test_reference_is_the_tower_in_memory(tower: Tower, frames: np.ndarray) -> None:
    np.testing.assert_allclose(reference_engine(tower, SIDE)(frames), expected_features(tower, frames), atol=1e-6)


def test_building_leaves_the_tower_as_it_was(tower: Tower, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    trainable = [p.requires_grad for p in tower.parameters()]
    build_engine("eager-bf16", tower, tmp_path / "engine", SIDE, "bfloat16")
    assert all(value.dtype == torch.float32 for value in tower.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert [p.requires_grad for p in tower.parameters()] == trainable


@pytest.mark.parametrize("name", ["eager-bf16", "openvino"])  # OpenVINO is made from the ONNX file
def test_the_same_tower_gives_the_same_bytes(
    name: str, built: dict[tuple[str, str], Path], tower: Tower, tmp_path: Path
) -> None:
    precision = resolve_precision(name, "float32")
    record = build_engine(name, tower, tmp_path / "elsewhere", SIDE, precision)
    assert record == read_record(built[name, precision])


def test_bfloat16_weights_are_half_as_large(built: dict[tuple[str, str], Path]) -> None:
    assert engine_bytes(built["eager-bf16", "bfloat16"]) < 0.6 * engine_bytes(built["eager", "float32"])


@pytest.mark.parametrize(("name", "precision"), RUNS_HERE)
@pytest.mark.parametrize("harm", ["remove", "truncate", "flip"])
def test_damaged_file_is_one_line_with_its_name(
    name: str, precision: str, harm: str, built: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    for file in (*read_record(built[name, precision]).files, "engine.json"):
        folder = tmp_path / f"{file}-{harm}"
        shutil.copytree(built[name, precision], folder)
        content = bytearray((folder / file).read_bytes())
        if harm == "remove":
            (folder / file).unlink()
        elif harm == "truncate":
            (folder / file).write_bytes(content[: len(content) // 2])
        else:
            content[len(content) // 2] ^= 0xFF
            (folder / file).write_bytes(content)
        with pytest.raises(EngineError) as caught:
            load_engine(folder, make_tower)
        assert file in str(caught.value)
        assert "\n" not in str(caught.value)


def test_record_that_names_a_file_outside_its_folder_is_refused(
    built: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(built["onnx", "float32"], folder)
    record = json.loads((folder / "engine.json").read_text())
    record["files"] = {"../secret": "0" * 64}
    (folder / "engine.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="outside"):
        load_engine(folder)


def test_unknown_engine_in_a_record_is_refused(built: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(built["onnx", "float32"], folder)
    record = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**record, "name": "warp"}))
    with pytest.raises(EngineError, match="no engine 'warp'; there are eager"):
        load_engine(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so an engine for one is not refused")
@pytest.mark.parametrize("name", ["eager", "torchscript"])
def test_engine_for_a_gpu_is_refused_without_one(name: str, built: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(built[name, "float32"], folder)
    record = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**record, "device": "cuda"}))
    assert not runs_here(read_record(folder))
    with pytest.raises(EngineError, match="made for cuda"):
        load_engine(folder, make_tower)


def test_file_of_another_kind_is_refused_with_both_versions(built: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    """A file whose hash is right and which the runtime cannot read, as one of a later version would be."""
    import hashlib

    for name in ("torchscript", "onnx", "openvino"):
        folder = tmp_path / name
        shutil.copytree(built[name, "float32"], folder)
        record = json.loads((folder / "engine.json").read_text())
        record["versions"] = dict.fromkeys(record["versions"], "99.0")
        for file in record["files"]:
            (folder / file).write_bytes(b"not this")
            record["files"][file] = hashlib.sha256(b"not this").hexdigest()
        (folder / "engine.json").write_text(json.dumps(record))
        with pytest.raises(EngineError, match=r"99\.0, here \d") as caught:
            load_engine(folder, make_tower)
        assert "\n" not in str(caught.value)


def test_eager_weights_need_their_tower(built: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(EngineError, match="holds weights alone"):
        load_engine(built["eager", "float32"])
    other = EncoderSpec(**{**SPEC.__dict__, "model_config": {**SPEC.model_config, "embed_dim": DIM + 8}})
    with pytest.raises(EngineError, match="do not fit"):
        load_engine(built["eager", "float32"], lambda: Tower(other, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, SIDE, SIDE, 3), np.uint8),
        np.zeros((2, SIDE, SIDE + 1, 3), np.uint8),
        np.zeros((2, 3, SIDE, SIDE), np.uint8),
        np.zeros((2, SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(wrong: np.ndarray, engines: dict[tuple[str, str], Engine]) -> None:
    for engine in engines.values():
        with pytest.raises(ShapeError):
            engine(wrong)


class _Overflowing(nn.Module):
    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return (pixels_NCHW.mean(dim=(2, 3)) - 200).exp2().exp2()


def test_features_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    build_engine("torchscript", _Overflowing(), tmp_path / "engine", SIDE, "float32")
    engine = load_engine(tmp_path / "engine")
    assert np.isfinite(engine(np.zeros((1, SIDE, SIDE, 3), np.uint8))).all()
    with pytest.raises(EngineError, match="not finite in float32"):
        engine(np.full((1, SIDE, SIDE, 3), 255, np.uint8))


class _Unsupported(nn.Module):
    """Singular values: neither ONNX nor TensorRT has them."""

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(pixels_NCHW.mean(dim=1).float())


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_unsupported_operator_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"engine {name} cannot be built: .*svd") as caught:
        build_engine(name, _Unsupported(), tmp_path / "engine", SIDE, "float32")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_precision_is_checked_where_there_is_a_choice() -> None:
    assert resolve_precision("eager-bf16", "float32") == "bfloat16"
    assert resolve_precision("tensorrt", "float32") == "float16"
    assert resolve_precision("openvino", "bfloat16") == "bfloat16"
    with pytest.raises(EngineError, match="float16"):
        resolve_precision("openvino", "float16")
    with pytest.raises(EngineError, match="no engine 'tpu'"):
        resolve_precision("tpu", "float32")


AHEAD_OF_TIME = pytest.mark.skipif(
    torch.cuda.is_available() or importlib.util.find_spec("tensorrt_rtx") is None,
    reason="building ahead of time needs the package of herdlight[tensorrt] and no CUDA in torch",
)


@pytest.fixture(scope="module")
def plan_folder(tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt") / "engine"
    build_engine("tensorrt", tower, folder, SIDE, "float16")
    return folder


@AHEAD_OF_TIME
def test_tensorrt_builds_a_real_engine_without_a_gpu(tower: Tower, plan_folder: Path, tmp_path: Path) -> None:
    record = read_record(plan_folder)
    assert sorted(path.name for path in plan_folder.iterdir()) == ["engine.json", "tower.plan"]
    assert record.device == "sm80+sm86+sm89+sm120"
    assert list(record.versions) == ["tensorrt_rtx"]
    plan = (plan_folder / "tower.plan").read_bytes()
    assert plan[:4] == b"vtrt"
    # The weights are inside, in float16, once for each of the four capabilities at most.
    halves = sum(p.numel() for p in tower.parameters()) * 2
    assert halves < len(plan)
    kernel = tower.visual.transformer.resblocks[0].mlp.c_fc.weight.detach().half().numpy()
    transposed, straight = np.ascontiguousarray(kernel.T).tobytes(), kernel.tobytes()
    assert straight in plan or transposed in plan
    assert not runs_here(record)
    with pytest.raises(EngineError, match="no GPU"):
        load_engine(plan_folder)
    assert build_engine("tensorrt", tower, tmp_path / "again", SIDE, "float16") == record


@AHEAD_OF_TIME
def test_tensorrt_refuses_what_it_cannot_convert(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="engine tensorrt"):
        build_engine("tensorrt", _Unsupported(), tmp_path / "engine", SIDE, "float16")


@AHEAD_OF_TIME
def test_plan_of_another_version_is_refused(plan_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(plan_folder, folder)
    record = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**record, "versions": {"tensorrt_rtx": "0.9"}}))
    with pytest.raises(EngineError, match=r"plan of tensorrt_rtx 0\.9, here is"):
        load_engine(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA another package is asked for")
def test_missing_tensorrt_names_the_extra(tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"pip install herdlight\[tensorrt\]"):
        build_engine("tensorrt", tower, tmp_path / "engine", SIDE, "float16")
    assert not list(tmp_path.iterdir())


SIGNAL_AFTER_TWO_MODELS = """
import gc, signal, sys
from pathlib import Path
from models.engines import load_engine
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
engines = [load_engine(Path(sys.argv[1])) for _ in range(2)]
del engines[0]
gc.collect()
del engines[0]
gc.collect()
signal.raise_signal(signal.SIGUSR1)
assert handled
"""


def test_a_process_survives_a_signal_after_its_openvino_engines_are_gone(tower: Tower, tmp_path: Path) -> None:
    build_engine("openvino", tower, tmp_path / "engine", SIDE, "float32")
    command = [sys.executable, "-c", SIGNAL_AFTER_TWO_MODELS, str(tmp_path / "engine")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_building_an_openvino_engine_starts_no_process_and_tells_nobody(
    tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    build_engine("openvino", tower, tmp_path / "engine", SIDE, "float32")
    assert load_engine(tmp_path / "engine").name == "openvino"
