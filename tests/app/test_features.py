"""`herdlight features` as users of video_features type it, and with flags."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from app.cli import app as command_line
from app.feature_arguments import parse_arguments
from models.encoder import EncoderParams, save_encoder, untrained_encoder
from models.errors import ParamsError

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano") / "encoder"
    save_encoder(folder, *untrained_encoder(EncoderParams(), seed=1))
    return folder


def run(*words: str) -> Result:
    return RUNNER.invoke(command_line, ["features", *words])


def test_the_line_of_the_documentation(nano: Path, make_video, tmp_path: Path) -> None:
    videos = [make_video(tmp_path / name, seconds=3, seed=seed) for seed, name in enumerate(("a 1.mp4", "é.mp4"))]
    listed = tmp_path / "paths.txt"
    listed.write_text("".join(f"{path}\n" for path in videos) + "\n")
    out = tmp_path / "output"
    words = ["feature_type=clip", "model_name=nano", f"weights={nano}", "extraction_fps=1", "batch_size=128",
             'device_ids="[0]"'.replace('"', ""), f"file_with_video_paths={listed}", "on_extraction=save_numpy",
             f"output_path={out}", "show_pred=true", "pred_texts=['a dog smiles', 'a woman is lifting']"]  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("  Logits | Prob. | Label \n") == 6
    assert "a woman is lifting" in result.stdout
    folder = out / "clip" / "nano"
    names = {f"{path.stem}_{key}.npy" for path in videos for key in ("clip", "fps", "timestamps_ms")}
    assert {path.name for path in folder.iterdir()} == names
    assert np.load(folder / "é_clip.npy").shape == (3, 128)
    again = run(*words)
    assert again.exit_code == 0
    assert again.stdout.count("already exist") == 2
    assert "2 kept" in again.stderr


def test_both_styles_mean_the_same(nano: Path, make_video, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4")
    flags = run("--model-name", "nano", "--weights", str(nano), "--extraction_fps=2", "--video-paths", str(video),
                "--on-extraction", "save_numpy", "--output-path", str(tmp_path / "flags"), "--cpu")  # fmt: skip
    keys = run("model_name=nano", f"weights={nano}", "extraction_fps=2", f"video_paths=[{video}]", "cpu=true",
               "on_extraction=save_numpy", f"output_path={tmp_path / 'keys'}", "extraction_total=null")  # fmt: skip
    assert flags.exit_code == keys.exit_code == 0, flags.stderr + keys.stderr
    for path in (tmp_path / "flags").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "keys" / path.relative_to(tmp_path / "flags")).read_bytes()


def test_a_bad_video_is_told_and_the_status_is_1(nano: Path, make_video, tmp_path: Path) -> None:
    good = make_video(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    result = run("model_name=nano", f"weights={nano}", "device=cpu", "on_extraction=save_pickle",
                 f"video_paths=[{good}, {tmp_path / 'bad.mp4'}]", f"output_path={tmp_path / 'out'}")  # fmt: skip
    assert result.exit_code == 1
    assert "bad.mp4" in result.stderr.replace("\n", "")
    assert "1 videos with features, 1 rejected" in result.stderr
    assert len(list((tmp_path / "out" / "clip" / "nano").glob("good_*.pkl"))) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model_nmae=nano"], "the nearest is model_name"),
        (["--extraction-fsp", "1"], "the nearest is extraction_fps"),
        (["video.mp4"], "videos are video_paths="),
        (["feature_type=clop"], "the nearest is clip"),
        (["on_extraction=save_numppy"], "the nearest is save_numpy"),
        (["feature_type=i3d"], "must be one of clip, timm, resnet, onnx"),
        ([], "name the videos by video_paths"),
        (["video_paths=[]"], "no videos"),
        (["video_paths=[a: b]"], "put each that has"),
        (["video_paths=[a"], "not a list"),
        (["video_paths=a.mp4", "file_with_video_paths=b"], "one of them"),
        (["file_with_video_paths=nowhere.txt"], "No such file"),
        (["video_paths=a.mp4", "extraction_fps=fast"], "must be a number"),
        (["video_paths=a.mp4", "extraction_fps=nan"], "must be above 0"),
        (["video_paths=a.mp4", "batch_size=1.5"], "whole number"),
        (["video_paths=a.mp4", "batch_size=1", "--batch-size", "2"], "given twice"),
        (["video_paths=a.mp4", "device=cpu", "device_ids=[0]"], "exclude each other"),
        (["video_paths=a.mp4", "device=gpu"], "must be cpu, cuda:N"),
        (["video_paths=a.mp4", "feature_type=timm"], "needs one"),
        (["video_paths=a.mp4", "model_name=custom"], "needs weights"),
        (["video_paths=a.mp4", "feature_type=onnx", "model_name=x.onnx"], "needs image_size"),
        (["video_paths=a.mp4", "model_name=timm:resnet18", "show_pred=true"], "no text tower"),
        (["video_paths=a.mp4", "show_pred=maybe"], "true or false"),
        (["video_paths=a.mp4", "show_pred=true", "pred_texts=['']"], "at least one text"),
        (["video_paths=a.mp4", "model_name=ViT-B-33", "pretrained=openai"], "near: "),
        (["video_paths=a.mp4", "extraction_fps=1", "extraction_total=5"], "exclude each other"),
        (["--video-paths"], "needs a value"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("herdlight: ")
    assert told in lines[-1]
    assert len([line for line in lines if line.startswith("herdlight")]) == 1


def test_words_are_read_as_they_were_written() -> None:
    given = parse_arguments(
        ["video_paths=['a, b.mp4', 001.mp4, yes, \"q'.mp4\"]", "--show-pred", "model_name=timm:resnet18"]
    )
    assert [str(path) for path in given.videos] == ["a, b.mp4", "001.mp4", "yes", "q'.mp4"]
    assert (given.feature_type, given.model_name, given.show_pred) == ("timm", "resnet18", True)
    assert given.devices == ("cuda:0",)
    onnx = parse_arguments(["feature_type=onnx", "model_name=x/tower.onnx", "image_size=64", "mean=[0.5, 0.5, 0.5]",
                            "std=[1, 1, 1]", "video_paths=-a.mp4", "device_ids=[0, 2]"])  # fmt: skip
    assert (onnx.model_name, str(onnx.weights)) == ("tower", "x/tower.onnx")
    assert onnx.devices == ("0", "2")
    with pytest.raises(ParamsError, match="no model has this name"):
        parse_arguments(["video_paths=a", "model_name=.."])


def test_ctrl_c_ends_all_processes_and_leaves_no_half(nano: Path, make_video, tmp_path: Path) -> None:
    videos = [str(make_video(tmp_path / f"{n}.mp4", seconds=150)) for n in range(3)]
    words = ["model_name=nano", f"weights={nano}", f"video_paths={json.dumps(videos)}", "device_ids=[cpu, cpu]",
             "on_extraction=save_numpy", f"output_path={tmp_path / 'out'}", "batch_size=1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "features", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 100
    while not list(tmp_path.glob("out/clip/nano/.features*/rows.npy")) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    folder = tmp_path / "out" / "clip" / "nano"
    finished = {path.name.split("_")[0] for path in folder.glob("*_clip.npy")}
    assert not list(folder.glob(".features*"))
    assert len(list(folder.iterdir())) == 3 * len(finished) < 9
