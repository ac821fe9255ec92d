"""The served model: what it scores is what the model that it came from scores, with no training code in the process."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import build_engine, load_engine
from models.errors import EngineError, ModelError, ShapeError
from models.highlighter import Highlighter, score_features
from models.served import ServedModel, load_served, save_served
from models.video import SampledVideo
from tests.tiny_model import DIM, SIDE, TINY


@pytest.fixture(scope="module")
def highlighter() -> Highlighter:
    torch.manual_seed(3)
    return Highlighter(TINY).eval()


@pytest.fixture(scope="module")
def served_folder(highlighter: Highlighter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    build_engine("torchscript", highlighter.tower, root / "engine", SIDE, "float32")
    save_served(root / "model", root / "engine", highlighter.head, TINY)
    shutil.rmtree(root / "engine")
    return root / "model"


def video(num_frames: int, seed: int = 0) -> SampledVideo:
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.uniform(0.1, 0.4, num_frames)) - 0.1
    frames = rng.integers(0, 256, (num_frames, SIDE, SIDE, 3), dtype=np.uint8)
    return SampledVideo(frames, times_s, float(times_s[-1]) + 0.3)


@pytest.mark.parametrize("num_frames", [1, 5, 6, 17])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_those_of_the_model_it_came_from(
    num_frames: int, batch_size: int, served_folder: Path, highlighter: Highlighter
) -> None:
    clip = video(num_frames)
    with torch.no_grad():
        pixels = torch.from_numpy(clip.frames_THWC).permute(0, 3, 1, 2).float()
        features = highlighter.tower(pixels).numpy()
    expected = score_features(highlighter.head, features, clip.times_s, TINY.window)
    model = load_served(served_folder, batch_size)
    track = model.score_video(clip)
    np.testing.assert_allclose(track.scores, expected, atol=1e-5)
    np.testing.assert_array_equal(track.times_s, clip.times_s)
    assert track.duration_s == clip.duration_s
    assert (model.spec, model.engine_name) == (TINY, "torchscript")


def test_engine_never_gets_more_than_a_batch(highlighter: Highlighter) -> None:
    sizes = []

    class Counting:
        name, precision = "counting", "float32"

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            sizes.append(len(frames))
            return frames.reshape(len(frames), -1)[:, :DIM].astype(np.float32)

    clip = video(10)
    model = ServedModel(TINY, Counting(), highlighter.head, batch_size=4)
    features = model.embed(clip.frames_THWC)
    assert sizes == [4, 4, 2]
    np.testing.assert_array_equal(features, clip.frames_THWC.reshape(10, -1)[:, :DIM])
    assert model.embed(clip.frames_THWC[:0]).shape == (0, DIM)
    assert model.with_threshold(0.9).spec.threshold == 0.9
    with pytest.raises(ShapeError, match="batch_size 0"):
        ServedModel(TINY, Counting(), highlighter.head, batch_size=0)


def test_frames_of_another_size_are_refused(served_folder: Path) -> None:
    with pytest.raises(ShapeError, match=rf"must be uint8 \[N, {SIDE}, {SIDE}, 3\]"):
        load_served(served_folder).embed(np.zeros((2, SIDE * 2, SIDE * 2, 3), np.uint8))


def test_saving_twice_gives_the_same_bytes(served_folder: Path, highlighter: Highlighter, tmp_path: Path) -> None:
    save_served(tmp_path / "again", served_folder, highlighter.head, TINY)  # a served folder is an engine folder too
    files = sorted(path.name for path in served_folder.iterdir())
    assert files == ["engine.json", "head.safetensors", "model.json", "tower.torchscript"]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (served_folder / name).read_bytes()


@pytest.mark.parametrize("name", ["engine.json", "head.safetensors", "model.json", "tower.torchscript"])
def test_a_missing_or_truncated_file_is_one_line(name: str, served_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(served_folder, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError) as truncated:
        load_served(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError) as missing:
        load_served(folder)
    for caught in (truncated, missing):
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_engine_of_another_model_is_not_saved(served_folder: Path, highlighter: Highlighter, tmp_path: Path) -> None:
    other = replace(TINY, encoder=replace(TINY.encoder, image_size=64))
    with pytest.raises(EngineError, match="the model has 64 px"):
        save_served(tmp_path / "model", served_folder, highlighter.head, other)
    assert not (tmp_path / "model").exists()


def test_eager_engine_gets_its_tower_from_the_spec(highlighter: Highlighter, tmp_path: Path) -> None:
    build_engine("eager-bf16", highlighter.tower, tmp_path / "engine", SIDE, "bfloat16")
    save_served(tmp_path / "model", tmp_path / "engine", highlighter.head, TINY)
    clip = video(5)
    direct = load_engine(tmp_path / "engine", make_tower=lambda: Highlighter(TINY).tower)(clip.frames_THWC)
    np.testing.assert_array_equal(load_served(tmp_path / "model").embed(clip.frames_THWC), direct)


def test_scoring_needs_no_training_code_and_no_pickle(served_folder: Path) -> None:
    program = """
import pickle, sys
from pathlib import Path
import numpy as np
from models.served import load_served
from tests.tiny_model import SIDE, DIM, TINY
def refuse(*_):
    raise AssertionError("pickle was loaded")
sys.addaudithook(lambda event, _: refuse() if event == "pickle.find_class" else None)
pickle.load = pickle.loads = refuse
model = load_served(Path(sys.argv[1]))
assert model.embed(np.zeros((3, 32, 32, 3), np.uint8)).shape == (3, 24)
loaded = {name.split(".")[0] for name in sys.modules} & {"lightning", "pytorch_lightning", "mlflow", "onnx", "tasks"}
assert not loaded, loaded
assert "models.loop" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(served_folder)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
