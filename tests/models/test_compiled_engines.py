"""Engines of torch's compiler: the tower's features at any batch size, no pickle, one line where nothing compiles."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.encoder import EncoderSpec
from models.engines import build_engine, load_engine, reference_engine
from models.errors import EngineError, EngineNotPossible
from models.tower import Tower
from tests.tiny_model import SIDE, TINY, tower_with_biases

ROOT = Path(__file__).resolve().parents[2]
VISION = {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
SPEC: EncoderSpec = replace(TINY.encoder, model_config={"embed_dim": 24, "vision_cfg": VISION})
FRAMES = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)


def make_tower() -> Tower:
    return Tower(SPEC, 1).eval()


@pytest.fixture(scope="module")
def tower() -> Tower:
    return tower_with_biases(SPEC)


@pytest.fixture(scope="module")
def needs_compiler() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")


@pytest.fixture(scope="module")
def aot_folder(needs_compiler: None, tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aot") / "engine"
    build_engine("aot", tower, folder, SIDE, "bfloat16")
    return folder


@pytest.mark.usefixtures("needs_compiler")
def test_a_compiled_tower_says_what_the_tower_says(tower: Tower, tmp_path: Path) -> None:
    build_engine("torch-compile", tower, tmp_path / "engine", SIDE, "float32")
    assert {path.name for path in (tmp_path / "engine").iterdir()} == {"engine.json", "tower.safetensors"}
    with pytest.raises(EngineError, match="holds weights alone"):
        load_engine(tmp_path / "engine")
    engine = load_engine(tmp_path / "engine", make_tower)
    expected = reference_engine(tower, SIDE)(FRAMES)
    for size in (1, 2, 3, 5):
        features = engine(FRAMES[:size])
        assert np.abs(features - expected[:size]).max() < 1e-5 * np.abs(expected).max()
    counters = torch._dynamo.utils.counters["stats"]
    assert counters["unique_graphs"] == 2, "one graph for a single frame and one for any other number"


def test_an_ahead_of_time_engine_says_what_the_tower_says(aot_folder: Path, tower: Tower) -> None:
    engine = load_engine(aot_folder)
    expected = reference_engine(tower, SIDE)(FRAMES)
    for size in (1, 2, 3, 5):
        assert np.abs(engine(FRAMES[:size]) - expected[:size]).max() < 0.04 * np.abs(expected).max()


LOADS_WITHOUT_THE_CODE = """
import pickle, sys
import numpy as np
def refuse(*_args, **_kwargs): raise AssertionError("something loads a pickle")
pickle.load = pickle.loads = refuse
import torch
torch.load = refuse
from pathlib import Path
from models.engines import load_engine
features = load_engine(Path(sys.argv[1]))(np.load(sys.argv[2], allow_pickle=False))
np.save(sys.argv[3], features, allow_pickle=False)
assert "models.tower" not in sys.modules, "the code of the tower was imported"
"""


def test_it_loads_without_the_code_of_the_tower_and_without_pickle(aot_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(aot_folder / "tower.pt2") as archive:
        assert not [name for name in archive.namelist() if name.endswith((".pkl", ".pt", ".pickle"))]
    frames, features = tmp_path / "frames.npy", tmp_path / "features.npy"
    np.save(frames, FRAMES, allow_pickle=False)
    command = [sys.executable, "-c", LOADS_WITHOUT_THE_CODE, str(aot_folder), str(frames), str(features)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(features, allow_pickle=False), load_engine(aot_folder)(FRAMES))


def test_machine_code_for_another_machine_or_torch_is_refused(
    aot_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(aot_folder, folder)
    record = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**record, "versions": {"torch": "1.0"}}))
    with pytest.raises(EngineError, match=r"compiled by torch 1\.0, here is .*; run stage compile again"):
        load_engine(folder)
    monkeypatch.setattr("models.engines.aot.machine", lambda: "some other processor")
    with pytest.raises(EngineError, match=r"compiled for .*, this is some other processor; run stage compile on"):
        load_engine(aot_folder)


@pytest.mark.parametrize("name", ["torch-compile", "aot"])
def test_without_a_compiler_it_is_one_line_and_nothing_is_left(name: str, tower: Tower, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(EngineNotPossible, match=f"engine {name}: no C\\+\\+ compiler on this machine; install") as told,
    ):
        build_engine(name, tower, tmp_path / "engine", SIDE, "float32")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
