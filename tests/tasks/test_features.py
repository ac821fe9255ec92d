"""Features of real and made videos: golden values one frame at a time, files as video_features has them, reruns."""

import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import models.torchvision_operators  # noqa: F401

import torchvision.transforms as transforms  # isort: skip  (after models.torchvision_operators)
from models.encoder import EncoderParams, OnnxParams, save_encoder, untrained_encoder
from models.errors import ParamsError, VideoError
from models.feature_tower import FeatureTower, TowerChoice, load_tower
from tasks.feature_files import feature_paths, is_finished, save_array, writing_rows
from tasks.feature_workers import choose_devices, extract_all
from tasks.features import (
    FeatureOptions,
    FeatureRow,
    extract_one,
    extract_to_file,
    extract_video,
    prediction_table,
    refuse_same_stems,
)
from tasks.footage import Footage
from tests.onnx_files import DIM, MEAN, SIDE, STD, write_network

ROOT = Path(__file__).resolve().parents[2]
# Features one frame at a time differ from those in batches by the order of sums alone.
TOLERANCE = 1e-4
MOBILENET = OnnxParams(
    image_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input="image", output="view"
)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> TowerChoice:
    folder = tmp_path_factory.mktemp("nano") / "encoder"
    save_encoder(folder, *untrained_encoder(EncoderParams(), seed=1))
    return TowerChoice("clip", "nano", weights=folder)


@pytest.fixture(scope="module")
def tower(nano: TowerChoice) -> FeatureTower:
    return load_tower(nano, "cpu")


@pytest.fixture(scope="module")
def clip(shared: Path) -> Path:
    path = shared / "data" / "wildlife" / "elephant_river_rider.mp4"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing in ../shared")
    return path


@pytest.fixture
def film(make_film, tmp_path: Path) -> Path:
    return make_film(tmp_path / "film one.mp4")


@pytest.fixture(scope="session")
def make_film():
    def make(path: Path, num_frames: int = 20, rate: int = 10) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(num_frames)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for _ in range(num_frames):
                pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


def options(out: Path, **more) -> FeatureOptions:
    return FeatureOptions(**{"feature_type": "clip", "model_name": "nano", "output": out,
                             "on_extraction": "save_numpy", **more})  # fmt: skip


def load(folder: Path, stem: str, key: str = "clip") -> list[np.ndarray]:
    return [np.load(folder / f"{stem}_{name}.npy") for name in (key, "fps", "timestamps_ms")]


def test_real_footage_equals_each_frame_alone(tower: FeatureTower, clip: Path, tmp_path: Path) -> None:
    wanted = options(tmp_path, extraction_fps=1.0, batch_size=4)
    row = extract_video(tower, Footage(clip, clip.name), wanted, print)
    features, fps, times_ms = load(tmp_path / "clip" / "nano", clip.stem)
    assert (features.dtype, fps.dtype, times_ms.dtype) == (np.float32, np.float64, np.float64)
    assert (features.shape, fps.shape, times_ms.shape) == ((row.num_rows, 128), (), (row.num_rows,))
    assert float(fps) == 1.0
    assert times_ms.tolist() == [1000.0 * k for k in range(row.num_rows)]
    alone = []
    for picture in reference_pictures(clip, row.num_rows):
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (tower.spec.mean, tower.spec.std))
        with torch.inference_mode():
            alone.append(tower.clip.encode_image((x - mean) / std)[0].numpy())  # open_clip's own way in
    assert np.abs(features - np.stack(alone)).max() < TOLERANCE


def test_opencv_and_pillow_give_the_same_rows(tower: FeatureTower, clip: Path, tmp_path: Path) -> None:
    """As video_features reads and prepares every frame, one by one."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    extract_video(tower, Footage(clip, clip.name), options(tmp_path), print)
    features, fps, times_ms = load(tmp_path / "clip" / "nano", clip.stem)
    capture, index = cv2.VideoCapture(str(clip)), 0
    prepare = clip_transform()
    while (read := capture.read())[0]:
        pixels = np.array(prepare(Image.fromarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))))
        if index % 10 == 0:
            assert np.abs(tower.embed(pixels[None])[0] - features[index]).max() < TOLERANCE
        index += 1
    assert index == len(features)
    assert float(fps) == pytest.approx(capture.get(cv2.CAP_PROP_FPS), rel=1e-3)
    assert np.allclose(times_ms, 1000 * np.arange(index) / float(fps), atol=1.5)


def clip_transform() -> transforms.Compose:
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose([transforms.Resize(64, bicubic), transforms.CenterCrop(64)])


def reference_pictures(path: Path, num_rows: int) -> list[Image.Image]:
    """Return the frames on screen at 0, 1, 2, … s, prepared as CLIP does it, by another way through PyAV."""
    prepare = transforms.Compose(
        [transforms.Resize(64, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(64)]
    )
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_image()) for frame in container.decode(video=0)]
    start_s = frames[0][0]
    shown = [[image for time_s, image in frames if time_s - start_s <= k + 0.001][-1] for k in range(num_rows)]
    return [prepare(image) for image in shown]


def test_every_frame_at_its_true_time(tower: FeatureTower, film: Path, tmp_path: Path) -> None:
    extract_video(tower, Footage(film, film.name), options(tmp_path, batch_size=7), print)
    features, fps, times_ms = load(tmp_path / "clip" / "nano", "film one")
    assert features.shape == (20, 128)
    assert float(fps) == 10.0
    assert np.allclose(times_ms, 100 * np.arange(20))
    several = options(tmp_path / "again", batch_size=32)
    extract_video(tower, Footage(film, film.name), several, print)
    assert np.abs(load(tmp_path / "again" / "clip" / "nano", "film one")[0] - features).max() < TOLERANCE


@pytest.mark.parametrize("total", [1, 7, 20, 53])
def test_a_fixed_number_of_rows(tower: FeatureTower, film: Path, tmp_path: Path, total: int) -> None:
    extract_video(tower, Footage(film, film.name), options(tmp_path, extraction_total=total), print)
    features, fps, times_ms = load(tmp_path / "clip" / "nano", "film one")
    assert len(features) == len(times_ms) == total
    assert np.allclose(times_ms, np.arange(total) * 2000 / total)
    assert float(fps) == pytest.approx(total / 2)


def test_a_rate_above_the_video_repeats_what_is_on_screen(tower: FeatureTower, film: Path, tmp_path: Path) -> None:
    extract_video(tower, Footage(film, film.name), options(tmp_path, extraction_fps=20.0), print)
    features, _, times_ms = load(tmp_path / "clip" / "nano", "film one")
    assert np.allclose(times_ms, 50 * np.arange(40))
    assert np.array_equal(features[0::2], features[1::2])


def test_finished_files_are_kept_and_damaged_ones_made_again(
    tower: FeatureTower, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, item = options(tmp_path), Footage(film, "film")
    paths = wanted.paths(film)
    assert not extract_video(tower, item, wanted, print).kept
    whole = {key: path.read_bytes() for key, path in paths.items()}
    before = paths["clip"].stat().st_mtime_ns
    assert extract_video(tower, item, wanted, print).kept
    assert "already exist" in capsys.readouterr().out
    assert paths["clip"].stat().st_mtime_ns == before
    for key, content in {"clip": b"", "fps": b"\x93NUMPY", "timestamps_ms": b"\x80\x04nonsense."}.items():
        paths[key].write_bytes(content)
        assert not extract_video(tower, item, wanted, print).kept
        assert {name: path.read_bytes() for name, path in paths.items()} == whole
    paths["clip"].write_bytes(whole["clip"][:-5])
    assert not is_finished(paths, 128)
    paths["clip"].write_bytes(whole["clip"])
    assert not is_finished(paths, 127)  # another tower's
    extract_video(tower, item, options(tmp_path, extraction_fps=5.0), print)
    assert "made at 10 a second, not 5" in capsys.readouterr().out


def test_pickles_are_written_whole_and_never_read(tower: FeatureTower, film: Path, tmp_path: Path) -> None:
    wanted, item = options(tmp_path, on_extraction="save_pickle"), Footage(film, "film")
    extract_video(tower, item, wanted, print)
    # Another process reads it, as users do: this one has pickle loading switched off.
    code = "import pickle, sys; [print(pickle.load(open(path, 'rb')).shape) for path in sys.argv[1:]]"
    command = [sys.executable, "-c", code, *map(str, wanted.paths(film).values())]
    shapes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert shapes[:3] == ["(20, 128)", "()", "(20,)"]
    assert extract_video(tower, item, wanted, print).kept
    path = wanted.paths(film)["clip"]
    path.write_bytes(path.read_bytes()[:-1])
    assert not extract_video(tower, item, wanted, print).kept


def test_printing_saves_nothing(tower: FeatureTower, film: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    extract_video(tower, Footage(film, "film"), options(out, on_extraction="print", extraction_fps=1.0), print)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("clip", "fps", "timestamps_ms")] == ["clip", "fps", "timestamps_ms"]
    assert sum(line.startswith("max: ") and "; mean: " in line and "; min: " in line for line in lines) == 3
    assert not out.exists()


def test_texts_are_told_apart_as_clip_does_it(tower: FeatureTower, film: Path, tmp_path: Path, capsys) -> None:
    words = ("a dog", "an elephant", "rain", "a car", "a tree", "the sea")
    texts = tower.embed_texts(words)
    wanted = options(tmp_path, extraction_fps=1.0, pred_texts=words)
    extract_video(tower, Footage(film, "film"), wanted, print, texts)
    tables = capsys.readouterr().out.split("  Logits | Prob. | Label \n")[1:]
    features = load(tmp_path / "clip" / "nano", "film one")[0]
    assert len(tables) == len(features) == 2
    for table, feature in zip(tables, features, strict=True):
        rows = [line.split(" | ") for line in table.strip("\n").splitlines()]
        unit = torch.nn.functional.normalize(torch.from_numpy(feature)[None], dim=-1)
        with torch.inference_mode():
            import open_clip

            embedded = tower.clip.encode_text(open_clip.get_tokenizer("nano")(list(words)), normalize=True)
            logits = (tower.clip.logit_scale.exp() * unit @ embedded.T)[0]
        order = logits.argsort(descending=True)[:5]
        assert [row[2] for row in rows] == [words[index] for index in order]
        assert [float(row[0]) for row in rows] == pytest.approx(logits[order].tolist(), abs=2e-3)
        assert [float(row[1]) for row in rows] == pytest.approx(logits.softmax(0)[order].tolist(), abs=2e-3)


def test_the_table_is_that_of_video_features() -> None:
    lines = prediction_table(np.array([19.824, 23.061]), ("a woman is lifting", "a dog smiles")).splitlines()
    assert lines[0] == "  Logits | Prob. | Label "
    assert lines[1:] == ["  23.061 | 0.962 | a dog smiles", "  19.824 | 0.038 | a woman is lifting"]


def test_bad_videos_are_rows_and_the_rest_goes_on(nano: TowerChoice, film: Path, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    names = [tmp_path / "bad.mp4", film, tmp_path / "nowhere.mp4", tmp_path]
    footage = [Footage(path, path.name) for path in names]
    footage += [Footage(path, path.name) for path in sorted((shared / "data" / "odd_media").glob("*"))[:12]]
    report = extract_all(nano, ["cpu"], footage, options(tmp_path / "out", extraction_fps=1.0), print)
    assert "film one.mp4" in [row.video for row in report.extracted]
    assert {"bad.mp4", "nowhere.mp4"} <= {row.video for row in report.rejected}
    assert all(row.reason and "\n" not in row.reason for row in report.rejected)
    assert len(report.extracted) + len(report.rejected) == len(footage)
    folder = tmp_path / "out" / "clip" / "nano"
    assert len(list(folder.iterdir())) == 3 * len(report.extracted)  # nothing half done, no temporary file


def test_two_processes_make_what_one_makes(nano: TowerChoice, make_film, tmp_path: Path) -> None:
    footage = [Footage(make_film(tmp_path / f"{n}.mp4", n), f"{n}.mp4") for n in (3, 4, 5)]
    footage.insert(1, Footage(tmp_path / "nowhere.mp4", "nowhere.mp4"))
    done: list[str] = []
    two = extract_all(nano, ["cpu", "cpu"], footage, options(tmp_path / "two"), print, done.append)
    one = extract_all(nano, ["cpu"], footage, options(tmp_path / "one"), print)
    assert sorted(done) == sorted(item.name for item in footage)
    assert two == one
    for path in (tmp_path / "one").rglob("*.npy"):
        other = np.load(tmp_path / "two" / path.relative_to(tmp_path / "one"))
        assert np.abs(np.load(path) - other).max() < TOLERANCE


def test_a_kill_leaves_nothing_that_looks_finished(nano: TowerChoice, make_film, tmp_path: Path) -> None:
    film = make_film(tmp_path / "long.mp4", 900)
    words = ["feature_type=clip", "model_name=nano", f"weights={nano.weights}", f"video_paths={film}", "batch_size=1",
             "device=cpu", "on_extraction=save_numpy", f"output_path={tmp_path / 'out'}"]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "app", "features", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.glob("out/clip/nano/.features*/rows.npy")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wanted = options(tmp_path / "out")
    assert not is_finished(wanted.paths(film), 128)
    (other,) = (wanted.folder / f".features.another-machine.{process.pid}.x.part",)
    other.mkdir()
    (row,) = extract_all(nano, ["cpu"], [Footage(film, "long")], wanted, print).extracted
    assert (row.kept, row.num_rows) == (False, 900)
    assert is_finished(wanted.paths(film), 128)
    # What the killed process left is gone; what may belong to another machine on the same disk is not.
    assert {path for path in wanted.folder.iterdir() if path.is_dir()} == {other}


def test_memory_does_not_grow_with_the_video(tower: FeatureTower, make_film, tmp_path: Path) -> None:
    def peak(film: Path) -> int:
        tracemalloc.start()
        try:
            extract_to_file(tower, film, options(tmp_path, batch_size=8), tmp_path / "rows.npy")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def least_peak(num_frames: int) -> int:
        film = make_film(tmp_path / f"{num_frames}.mp4", num_frames)
        # Threads that earlier tests left behind are traced too: what the video costs is in every peak, they are not.
        return min(peak(film) for _ in range(4))

    # 8 bytes a frame of times, twice for the array, and the packets' clocks; features alone would be 614,400 bytes.
    assert least_peak(1240) - least_peak(40) < 120_000


def test_an_onnx_tower_of_real_weights(clip: Path, shared: Path, tmp_path: Path) -> None:
    weights = shared / "data" / "models" / "mobilenet_v2_int8.onnx"
    tower = load_tower(TowerChoice("onnx", "mobilenet", weights=weights, onnx=MOBILENET), "cpu")
    wanted = options(tmp_path, feature_type="onnx", model_name="mobilenet_v2_int8", extraction_fps=1.0)
    row = extract_one(tower, Footage(clip, clip.name), wanted, print, None)
    assert isinstance(row, FeatureRow)
    features, _, _ = load(tmp_path / "onnx" / "mobilenet_v2_int8", clip.stem, "onnx")
    assert features.shape == (row.num_rows, 1280)
    fast = options(tmp_path / "fast", feature_type="onnx", model_name="m", extraction_fps=1.0, exact_resize=False)
    extract_video(tower, Footage(clip, clip.name), fast, print)
    near, _, _ = load(tmp_path / "fast" / "onnx" / "m", clip.stem, "onnx")
    cosines = (features * near).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(near, axis=1)
    assert 0.9 < cosines.min() < 1


def test_a_small_onnx_file(film: Path, tmp_path: Path) -> None:
    section = OnnxParams(image_size=SIDE, mean=MEAN, std=STD, output="view")
    choice = TowerChoice("onnx", "net", weights=write_network(tmp_path / "net.onnx"), onnx=section)
    report = extract_all(choice, ["cpu"], [Footage(film, "film")], options(tmp_path, feature_type="onnx"), print)
    assert report.extracted[0].num_rows == 20
    assert load(tmp_path / "onnx" / "nano", "film one", "onnx")[0].shape == (20, DIM)


def test_a_timm_tower_from_a_file(film: Path, tmp_path: Path) -> None:
    model, spec = untrained_encoder(EncoderParams(name="timm:test_resnet"), seed=0)
    save_file(model.visual.state_dict(), tmp_path / "weights.safetensors")
    tower = load_tower(TowerChoice("timm", "test_resnet", weights=tmp_path / "weights.safetensors"), "cpu")
    assert tower.resize.side == spec.image_size < tower.resize.scaled_side
    extract_video(tower, Footage(film, "film"), options(tmp_path, feature_type="timm"), print)
    assert load(tmp_path / "timm" / "nano", "film one", "timm")[0].shape == (20, spec.embed_dim)
    with pytest.raises(ParamsError, match="no text tower"):
        tower.embed_texts(("a",))


def test_devices() -> None:
    assert choose_devices(["cpu", "cpu"]) == (("cpu", "cpu"), None)
    if not torch.cuda.is_available():
        devices, remark = choose_devices(["0", "cuda:2"])
        assert devices == ("cpu",)
        assert "CPU" in str(remark)
    for bad in ("tpu", "cuda:x", "-1"):
        with pytest.raises(ParamsError, match="must be cpu"):
            choose_devices([bad])


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for bad in ({"extraction_fps": 0.0}, {"extraction_fps": float("nan")}, {"extraction_total": 0}, {"batch_size": 0},
                {"extraction_fps": 1.0, "extraction_total": 3}):  # fmt: skip
        with pytest.raises(ParamsError):
            options(tmp_path, **bad)
    same = [Footage(Path("a/x.mp4"), "x"), Footage(Path("b/x.mkv"), "x")]
    with pytest.raises(ParamsError, match="one stem"):
        refuse_same_stems(same, options(tmp_path))
    refuse_same_stems(same, options(tmp_path, on_extraction="print"))


def test_an_error_in_the_middle_leaves_no_file(tower: FeatureTower, film: Path, tmp_path: Path) -> None:
    content = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError):
        extract_video(tower, Footage(tmp_path / "cut.mp4", "cut"), options(tmp_path / "out"), print)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_rows_are_counted_at_the_end(tmp_path: Path) -> None:
    for num_rows in (0, 1, 12_345):
        with writing_rows(tmp_path / "rows.npy", 2) as writer:
            for _ in range(num_rows):
                writer.add(np.array([1, 2], np.float32))
        assert np.load(tmp_path / "rows.npy").shape == (num_rows, 2)
    paths = feature_paths(tmp_path, Path("a.mp4"), "clip", ".npy")
    (tmp_path / "rows.npy").rename(paths["clip"])
    save_array(paths["fps"], np.array(1.0))
    save_array(paths["timestamps_ms"], np.zeros(12_344))
    assert not is_finished(paths, 2)
