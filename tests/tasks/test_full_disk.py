"""A disk that fills in the middle of a stage: a real small file system, one line, and a rerun that goes on."""

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.highlighter import Highlighter, save_highlighter
from models.manifest import write_manifest
from models.shards import write_shard
from models.spans import Span
from tests.tiny_model import SIDE, TINY

ROOT = Path(__file__).resolve().parents[2]
NUM_FRAMES = 400


@functools.cache
def can_mount() -> bool:
    """Return whether this user may mount a file system in a namespace of their own."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="this user may not mount a small file system")


def on_small_disk(folder: Path, num_bytes: int, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands with `folder` on a file system of `num_bytes`, which goes when they end."""
    mount = f"mount -t tmpfs -o size={num_bytes} none {shlex.quote(str(folder))}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    script = "\n".join([mount, *commands])
    command = ["unshare", "-rm", "sh", "-c", script]
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)


def stage(name: str, *words: str) -> str:
    return shlex.join([sys.executable, "-m", f"tasks.{name}", *words])


@pytest.fixture
def clips(make_row: Callable[..., Any], tmp_path: Path) -> Path:
    """Make a manifest, frame shards and a model; return the folder that is to be the small disk."""
    rows = [make_row(f"{split}{i}", split=split, duration_s=100.0, segments=(Span(0.0, 50.0),))
            for split in ("train", "val", "test") for i in range(2)]  # fmt: skip
    write_manifest(tmp_path / "manifest.parquet", rows)
    draw = np.random.default_rng(0)
    for row in rows:
        frames = draw.integers(0, 255, (NUM_FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        times_s = np.arange(NUM_FRAMES) / 4
        write_shard(tmp_path / "frames", row.video_id, {"frames": frames, "times_s": times_s}, {"duration_s": "100.0"})
    torch.manual_seed(0)
    save_highlighter(tmp_path / "model", Highlighter(TINY), TINY)
    (tmp_path / "params.yaml").write_text("compile: {engine: torchscript, candidates: [], also_build: []}\n")
    small = tmp_path / "small"
    small.mkdir()
    return small


def assert_one_line(done: subprocess.CompletedProcess[str], place: str) -> None:
    told = [line for line in done.stderr.splitlines() if "No space left" in line]
    assert len(told) == 1, done.stderr
    assert told[0].startswith(place)
    assert told[0].endswith("free some space or rights and run it again")
    assert "Traceback" not in done.stderr


@needs_mount
def test_frames_on_a_full_disk_keep_what_is_whole_and_go_on_when_there_is_room(clips: Path) -> None:
    import av

    videos = clips.parent / "data" / "videos" / "train" / "good"
    videos.mkdir(parents=True)
    draw = np.random.default_rng(1)
    for name in ("train0", "train1", "val0", "val1", "test0", "test1"):
        with av.open(str(videos / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=4)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(40):
                pixels = draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    run = stage("frames", "--data", "data", "--manifest", "manifest.parquet", "--out", "small")
    whole = "ls small/shards | wc -l"
    # a shard is 40 frames of 64 x 64 x 3 bytes, 0.5 MB
    done = on_small_disk(
        clips, 1_700_000, run, "echo status $?", whole, "stat -c %Y.%y small/shards/* > kept", "ls -A small/shards",
        "mount -o remount,size=64m small", run, "echo status $?", whole,
        "stat -c %Y.%y $(ls -tr small/shards/* | head -3) > after",
    )  # fmt: skip
    lines = done.stdout.split()
    assert lines[:3] == ["status", "1", "3"], done.stdout + done.stderr
    assert not [name for name in lines if ".part" in name]
    assert lines[-3:] == ["status", "0", "6"]
    assert_one_line(done, "stage frames: ")
    assert sorted((clips.parent / "kept").read_text().split()) == sorted((clips.parent / "after").read_text().split())


@needs_mount
@pytest.mark.parametrize("num_bytes", [100_000, 400_000])
def test_compile_on_a_full_disk_is_one_line_and_leaves_no_model(clips: Path, num_bytes: int) -> None:
    words = ["--manifest", "manifest.parquet", "--frames", "frames", "--model", "model", "--rung", "none"]
    words += ["--categories", "none", "--out", "small"]
    done = on_small_disk(clips, num_bytes, stage("compile", *words), "echo status $?", "ls -A small")
    assert done.stdout.split() == ["status", "1"]
    assert_one_line(done, "stage compile: ")


def test_an_engine_is_not_begun_where_it_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.engines import build_engine

    left = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: left)
    with pytest.raises(OSError, match="No space left"):
        build_engine("torchscript", Highlighter(TINY).tower, tmp_path / "engine", SIDE, "float32")
    assert list(tmp_path.iterdir()) == []
