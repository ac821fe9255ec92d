"""The chain from videos to a served model and its evaluation, with an ONNX file as the image tower."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from models.files import read_json
from models.highlighter import load_highlighter
from models.manifest import VideoRow, write_manifest
from models.predictions import read_predictions
from models.pruning import prunable_weights
from models.served import load_served
from models.shards import read_frames_shard, read_tensors
from models.spans import Span
from models.video import Sampling, sample_video
from tests.onnx_files import DIM, MEAN, SECTION, SIDE, STD, expected_features, write_network

PARAMS: dict[str, Any] = {
    "encoder": {"name": "onnx", "pretrained": "net.onnx", "onnx": {**SECTION, "mean": [*MEAN], "std": [*STD]}},
    "frames": {"fps": 4.0},
    "embed": {"views": 1},
    "train": {"epochs": 3, "window": 8, "hidden_dim": 16, "learning_rate": 0.01, "temporal": "none"},
    "prune": {"amount": 0.3, "recovery_epochs": 1},
    "ladder": {
        "rungs": ["bfloat16"],
        "num_rounds": 2,
        "latency_budget_s": 0.01,
        "energy_budget_s": 0,
        "resident": False,
    },
    "compile": {"engine": "onnx", "also_build": [], "num_latency_runs": 2, "latency_budget_s": 0.01},
    "evaluate": {"num_bootstrap": 100},
}
STAGES = {
    "frames": {"data": "data", "manifest": "manifest.parquet"},
    "pretrain": {"manifest": "frames/manifest.parquet", "frames": "frames/shards"},
    "embed": {"manifest": "frames/manifest.parquet", "frames": "frames/shards", "encoder": "pretrain/encoder"},
    "train": {"manifest": "frames/manifest.parquet", "tokens": "embed/shards", "encoder": "pretrain/encoder"},
    "prune": {"manifest": "frames/manifest.parquet", "tokens": "embed/shards", "model": "train/model"},
    "ladder": {"manifest": "frames/manifest.parquet", "frames": "frames/shards", "model": "prune/model"},
    "compile": {
        "manifest": "frames/manifest.parquet",
        "frames": "frames/shards",
        "model": "prune/model",
        "rung": "ladder/chosen",
        "categories": "categorise/model",
    },
    "evaluate": {
        "manifest": "frames/manifest.parquet",
        "zero-shot": "embed/zero_shot.parquet",
        "fine-tuned": "train/predictions.parquet",
        "pruned": "prune/predictions.parquet",
        "compiled": "compile/predictions.parquet",
    },
}


def write_video(path: Path, seed: int) -> None:
    """Write a clip of noise that turns red in its second half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(24):
            shade = np.array([60, 90, 60]) if index < 12 else np.array([200, 60, 40])
            pixels = np.clip(shade + draw.normal(0, 12, (32, 48, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def run_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage's shell in this process, in the current folder."""
    arguments = [part for key, path in STAGES[name].items() for part in (f"--{key}", path)]
    monkeypatch.setattr(sys, "argv", ["stage", *arguments, "--out", name])
    importlib.import_module(f"tasks.{name}").main()


@pytest.fixture
def folder(make_row: Callable[..., VideoRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = []
    for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        name = f"{split}/good/{index}.mp4"
        write_video(tmp_path / "data" / "videos" / name, index)
        rows.append(make_row(f"v{index}", path=name, split=split, segments=(Span(1.5, 3.0),), duration_s=3.0))
    write_manifest(tmp_path / "manifest.parquet", rows)
    write_network(tmp_path / "net.onnx")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(PARAMS))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("default")
def test_an_onnx_tower_goes_through_every_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("frames", "pretrain"):
        run_stage(name, monkeypatch)
    (folder / "net.onnx").unlink()  # every later stage reads the encoder's folder alone
    for name in ("embed", "train", "prune", "ladder", "compile", "evaluate"):
        run_stage(name, monkeypatch)

    frames = read_frames_shard(folder / "frames/shards", "v0")
    assert frames.frames_THWC.shape == (12, SIDE, SIDE, 3)
    tokens = read_tensors(folder / "embed/shards", "v0", ("tokens",))[0]["tokens"]
    assert tokens.shape == (2, 12, 1, DIM)
    np.testing.assert_allclose(tokens[0, :, 0], expected_features(frames.frames_THWC), atol=5e-3)
    assert read_predictions(folder / "embed/zero_shot.parquet").empty

    pruned, _ = load_highlighter(folder / "prune/model")
    fresh, _ = load_highlighter(folder / "train/model")
    assert all(name.startswith("head.") for name in prunable_weights(pruned))
    assert torch.equal(pruned.tower.visual.content, fresh.tower.visual.content)
    assert read_json(folder / "prune/metrics.json")["num_pruned"] > 0

    rungs = {rung["name"]: rung for rung in read_json(folder / "ladder/ladder.json")["rungs"]}
    assert {name: rung["status"] for name, rung in rungs.items()} == {
        "float32": "measured", "bfloat16": "not_possible"
    }  # fmt: skip
    assert "ONNX graph" in rungs["bfloat16"]["reason"]
    assert read_json(folder / "ladder/chosen/engine/engine.json")["name"] == "onnx"  # which is float32 of such a tower

    engines = {engine["name"]: engine for engine in read_json(folder / "compile/engines.json")["engines"]}
    assert {name: engine["status"] for name, engine in engines.items()} == {
        "eager-bf16": "not_possible", "torchscript": "not_possible", "onnx": "measured", "openvino": "measured"
    }  # fmt: skip
    assert engines["onnx"]["max_score_diff"] < 1e-5
    assert "ONNX graph" in engines["torchscript"]["reason"]
    assert read_json(folder / "compile/metrics.json")["num_not_possible"] == 2

    evaluation = read_json(folder / "evaluate/evaluation.json")
    rows = {row["name"]: row for row in evaluation["rows"]}
    assert list(rows) == ["fine_tuned", "pruned", "compiled", "all_positive", "random", "uniform"]
    assert any("no zero-shot row" in note for note in evaluation["notes"])
    assert rows["compiled"]["f1"]["value"] > 0.9  # red frames are told apart by the tower that was brought
    pairs = [(row["name"], row["against"]) for row in evaluation["differences"]]
    assert pairs[-2:] == [("pruned", "fine_tuned"), ("compiled", "pruned")]
    curves = pd.read_csv(folder / "evaluate/plots/pr_curve.csv")
    assert curves["zero_shot"].isna().all()
    assert curves["compiled"].notna().any()

    shutil.move(folder / "compile/model", folder / "served")
    for name in STAGES:
        shutil.rmtree(folder / name)
    served = load_served(folder / "served")
    video = sample_video(folder / "data/videos/test/good/6.mp4", Sampling(4.0, SIDE, "squash"))
    track = served.score_video(video)
    assert track.scores[:5].max() < served.spec.threshold <= track.scores[7:].min()
