"""The report: self-contained, escaped, complete, and robust when optional pieces are missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from models.energy import Energy
from models.files import write_json
from models.metrics import choose_threshold
from models.predictions import write_predictions
from tasks.evaluate import EvaluateParams, evaluate
from tasks.gate import GateParams, judge
from tasks.pictures import write_pictures, write_plots

FPS = 4.0
# Noise of the logits by model: the lower, the better the model.
NOISE = {"zero_shot": 3.2, "fine_tuned": 1.1, "pruned": 1.2, "compiled": 1.2}
HOSTILE = "test/good/<script>alert('x')</script> & \"calf\".mp4"


def make_videos(seed: int = 3, num_val: int = 6, num_test: int = 9) -> pd.DataFrame:
    """Return manifest rows of val and test videos, some without any highlight, one with a hostile name."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for index in range(num_val + num_test):
        split = "val" if index < num_val else "test"
        duration_s = float(rng.uniform(5, 14))
        start_s, length_s = float(rng.uniform(0.5, duration_s / 2)), float(rng.uniform(1.5, 4.5))
        segments = [{"start_s": start_s, "end_s": min(start_s + length_s, duration_s)}] if index % 4 != 3 else []
        content = ["calf at play", "bathing", "charging", "walking", ""][index % 5]
        path = (
            HOSTILE if index == num_val else f"{split}/{'good' if segments else 'bad'}/{content or 'plain'} {index}.mp4"
        )
        rows.append(
            {
                "video_id": f"{index:016x}",
                "path": path,
                "split": split,
                "folder": "good" if segments else "bad",
                "group": f"g{index}",
                "content": content,
                "segments": segments,
                "duration_s": duration_s,
                "num_frames": int(duration_s * 30),
                "mean_fps": 30.0,
                "width": 320,
                "height": 240,
                "codec": ["h264", "hevc", "vp9"][index % 3],
                "container": "mp4",
                "num_bytes": 100_000 + index,
            }
        )
    return pd.DataFrame(rows)


def make_tables(videos: pd.DataFrame, seed: int = 5) -> dict[str, pd.DataFrame]:
    """Return a frame table a model: noisy logits of the truth, smooth in time, shifted a little for each video."""
    rng = np.random.default_rng(seed)
    shared: dict[str, np.ndarray] = {}
    tables = {}
    for name, noise in NOISE.items():
        parts = []
        for video in videos.itertuples():
            times_s = np.arange(int(video.duration_s * FPS)) / FPS
            labels = np.zeros(len(times_s), np.int8)
            for segment in video.segments:
                labels[(times_s >= segment["start_s"]) & (times_s < segment["end_s"])] = 1
            white = shared.setdefault(video.video_id, rng.normal(size=len(times_s)))
            smooth = np.convolve(white, np.ones(5) / 5**0.5, mode="same") + rng.normal(scale=0.05)
            slow = np.convolve(labels * 4.0, [0.2, 0.6, 0.2], mode="same")
            logits = slow - 1.6 + noise * smooth + 0.8 * (white[0] > 0)
            score = (1 / (1 + np.exp(-logits))).astype(np.float32)
            parts.append(
                pd.DataFrame(
                    {
                        "video_id": video.video_id,
                        "group": video.group,
                        "split": video.split,
                        "time_s": times_s,
                        "label": labels,
                        "score": score,
                    }
                )
            )
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def _draw_frames(num_frames: int, size: int = 48) -> np.ndarray:
    """Return uint8 [T, S, S, 3]: a sky, a plain and a grey animal that walks."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for t in range(num_frames):
        frames[t] = np.where(y[..., None] < 0.45, [150, 190, 225], [190, 160, 95])
        at = 0.2 + 0.6 * t / max(1, num_frames - 1)
        frames[t][((x - at) / 0.16) ** 2 + ((y - 0.55) / 0.12) ** 2 < 1] = [105, 100, 98]
        frames[t][((x - at - 0.15) / 0.06) ** 2 + ((y - 0.5) / 0.08) ** 2 < 1] = [95, 90, 88]
    return frames


def write_build(root: Path) -> Path:
    """Write a whole build folder as the stages before the report leave it, and return it."""
    videos = make_videos()
    tables = make_tables(videos)
    (root / "ingest").mkdir(parents=True)
    videos.to_parquet(root / "ingest" / "manifest.parquet")
    write_json(
        root / "ingest" / "rejected.json",
        [{"path": "train/good/<b>broken</b>.mp4", "reason": "moov atom not found <script>alert(1)</script>"}],
    )
    write_json(root / "validate" / "metrics.json", {"num_expectations": 14, "num_failed": 0})
    write_json(root / "validate" / "expectations.json", {"success": True, "results": []})
    for video in videos.itertuples():
        count = int(video.duration_s * FPS)
        (root / "frames" / "shards").mkdir(parents=True, exist_ok=True)
        save_file(
            {"frames": _draw_frames(count), "times_s": np.arange(count) / FPS},
            root / "frames" / "shards" / f"{video.video_id}.safetensors",
            {"duration_s": repr(video.duration_s), "fingerprint": "f"},
        )
    places = {"zero_shot": "embed/zero_shot", "fine_tuned": "train/predictions"}
    places |= {"pruned": "prune/predictions", "compiled": "compile/predictions"}
    for name, place in places.items():
        write_predictions(root / f"{place}.parquet", tables[name])
    evaluation = evaluate(tables, EvaluateParams(num_bootstrap=400))
    write_json(root / "evaluate" / "evaluation.json", evaluation.to_json())
    write_plots(root / "evaluate" / "plots", evaluation, tables)
    write_pictures(root / "evaluate" / "pictures", evaluation, tables)
    val = tables["compiled"][tables["compiled"]["split"] == "val"]
    engines = make_engines(choose_threshold(val["label"].to_numpy(), val["score"].to_numpy()))
    write_json(root / "compile" / "engines.json", engines)
    write_json(root / "gate" / "verdict.json", judge(evaluation, engines, GateParams(), None).to_json())
    stages = ("ingest", "validate", "frames", "pretrain", "embed", "train", "prune", "compile", "evaluate", "gate")
    for index, stage in enumerate(stages):
        energy = Energy(3.0 + 9 * index, 1e-5 * (1 + index), 0, 2e-6, 1e-6 * (2 + index), "estimated", "CPU x2", "KEN")
        write_json(root / stage / "energy.json", energy.to_json())
    return root


def make_engines(threshold: float) -> dict[str, Any]:
    """Return an engines.json with one engine of each status."""
    measured = {
        "name": "openvino",
        "status": "measured",
        "reason": "",
        "precision": "bfloat16",
        "num_bytes": 5_400_000,
        "latency_ms_p50": 3.1,
        "latency_ms_p99": 4.8,
        "frames_per_s": 812.0,
        "max_score_diff": 0.011,
        "mean_score_diff": 0.0012,
        "f1": 0.81,
        "f1_diff": 0.0,
    }
    unmeasured = dict.fromkeys(list(measured)[5:])
    tensorrt = {"name": "tensorrt", "status": "built", "reason": "no GPU here", "precision": "float16"}
    onnx = {"name": "onnx", "status": "failed", "reason": "no <kernel> for 'Foo'", "precision": "float32"}
    return {
        "chosen": "openvino",
        "threshold": threshold,
        "engines": [
            measured,
            {**measured, "name": "eager-bf16", "frames_per_s": 402.0, "latency_ms_p50": 6.0},
            {**tensorrt, "num_bytes": 3_000_000, **unmeasured},
            {**onnx, "num_bytes": None, **unmeasured},
        ],
    }
