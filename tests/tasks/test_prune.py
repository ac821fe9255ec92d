"""Prune: the stage's function and its shell, through the real training loop on a few stored tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import ParamsError
from models.highlighter import Highlighter, load_highlighter, save_highlighter
from models.manifest import VideoRow, write_manifest
from models.params import parse_section
from models.predictions import read_predictions
from models.pruning import HoldMasks, prunable_weights
from models.shards import write_shard
from models.spans import Span
from tasks.prune import PruneParams, main, prune_highlighter
from tasks.train import TrainResult
from tests.tiny_model import TINY


def highlighter() -> Highlighter:
    torch.manual_seed(0)
    return Highlighter(TINY).eval()


def num_zeros(model: Highlighter) -> int:
    return sum(int((weight == 0).sum()) for weight in prunable_weights(model).values())


def result(val_average_precision: float) -> TrainResult:
    import pandas as pd

    return TrainResult(TINY, [], pd.DataFrame(), {"val_average_precision": val_average_precision})


@pytest.mark.parametrize("epochs", [0, 2])
def test_recovery_is_asked_for_once_and_cannot_fill_the_gaps(epochs: int) -> None:
    model, calls = highlighter(), []

    def recover(hold: HoldMasks) -> TrainResult:
        calls.append(num_zeros(model))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1.0)  # a loop that ignores its callback
        return result(0.8)

    params = PruneParams(amount=0.3, recovery_epochs=epochs)
    pruned = prune_highlighter(model, params, lambda: result(0.6), recover)
    expected = round(0.3 * sum(weight.numel() for weight in prunable_weights(model).values()))
    assert calls == ([expected] if epochs else [])
    assert num_zeros(model) == expected == pruned.report.num_pruned == pruned.trained.metrics["num_pruned"]
    assert pruned.trained.metrics["val_average_precision"] == (0.8 if epochs else 0.6)
    assert pruned.trained.metrics["val_average_precision_before_recovery"] == 0.6
    assert pruned.trained.metrics["sparsity"] == pytest.approx(0.3, abs=1e-3)


def test_params_are_checked() -> None:
    for wrong in ({"amount": 1.2}, {"method": "magic"}, {"recovery_epochs": -1}, {"share": 0.2}):
        with pytest.raises(ParamsError, match="prune"):
            parse_section(wrong, "prune", PruneParams)


def store(root: Path) -> None:
    """A manifest and tokens of a few videos whose highlights lie in one direction of the tokens."""
    rng = np.random.default_rng(0)
    rows = []
    for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        video_id, num_frames = f"video{index}", 12
        rows.append(
            VideoRow(
                video_id=video_id, path=f"{split}/good/{index}.mp4", split=split, folder="good", group=f"g{index}",
                content="", caption="", captions=(), segments=(Span(0.0, 1.5),), duration_s=3.0, start_pts_s=0.0,
                num_frames=75, mean_fps=25.0, nominal_fps=25.0, is_vfr=False, width=64, height=48, rotation_deg=0,
                codec="h264", pix_fmt="yuv420p", container="mp4", has_audio=False, num_bytes=1000,
            )
        )  # fmt: skip
        tokens = rng.normal(size=(1, num_frames, 5, 32))
        tokens[:, :6, :, :4] += 2.0
        times_s = np.arange(num_frames) / 4
        tensors = {"tokens": tokens.astype(np.float16), "times_s": times_s}
        write_shard(root / "tokens", video_id, tensors, {"num_views": "1", "fingerprint": video_id})
    write_manifest(root / "manifest.parquet", rows)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_stage_leaves_a_pruned_model_that_learned_and_the_same_bytes_twice(tmp_path: Path) -> None:
    store(tmp_path)
    original = highlighter()
    save_highlighter(tmp_path / "trained", original, TINY)
    sections = {"train": {"batch_size": 4}, "prune": {"amount": 0.25, "recovery_epochs": 2, "recovery_rate": 1.0}}
    (tmp_path / "params.yaml").write_text(json.dumps(sections))
    for out in ("one", "two"):
        paths = {"params": "params.yaml", "manifest": "manifest.parquet", "tokens": "tokens", "model": "trained"}
        arguments = [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))]
        main([*arguments, "--out", str(tmp_path / out)])
    model, spec = load_highlighter(tmp_path / "one" / "model")
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert num_zeros(model) == metrics["num_pruned"] == round(0.25 * metrics["num_prunable"])
    assert spec.threshold == metrics["val_threshold"]
    frozen = "tower.visual.transformer.resblocks.0.mlp.c_fc.weight"
    before, after = original.state_dict(), model.state_dict()
    assert torch.equal(before[frozen], after[frozen])
    moved = [name for name in before if "weight" in name and not torch.equal(before[name], after[name])]
    kept = prunable_weights(model)["head.mix.weight"] != 0
    assert "head.mix.weight" in moved
    assert not torch.equal(before["head.mix.weight"][kept], after["head.mix.weight"][kept])  # it went on learning
    assert len((tmp_path / "one" / "history.jsonl").read_text().splitlines()) == 2
    assert set(read_predictions(tmp_path / "one" / "predictions.parquet")["split"]) == {"val", "test"}
    assert not (tmp_path / "one" / "checkpoints").exists()
    for name in ("model/model.safetensors", "model/model.json", "predictions.parquet", "metrics.json", "history.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_structured_stage_leaves_a_smaller_model_that_learned_from_its_teacher(tmp_path: Path) -> None:
    store(tmp_path)
    original = highlighter()
    save_highlighter(tmp_path / "trained", original, TINY)
    pruning = {"method": "structured", "amount": 0.5, "recovery_epochs": 2, "recovery_rate": 1.0}
    results = {}
    for out, distil in (("one", 0.5), ("two", 0.5), ("alone", 0.0)):
        sections = {"train": {"batch_size": 4, "keep": "last"}, "prune": {**pruning, "distil": distil}}
        (tmp_path / "params.yaml").write_text(json.dumps(sections))
        paths = {"params": "params.yaml", "manifest": "manifest.parquet", "tokens": "tokens", "model": "trained"}
        arguments = [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))]
        main([*arguments, "--out", str(tmp_path / out)])
        results[out] = (tmp_path / out / "model" / "model.safetensors").read_bytes()
    assert results["one"] == results["two"] != results["alone"]
    model, spec = load_highlighter(tmp_path / "one" / "model")
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert spec.encoder.surgery is not None
    assert all(path.startswith("transformer.resblocks.1.") for path in spec.encoder.surgery.kept)
    lost = sum(w.numel() for w in original.parameters()) - sum(w.numel() for w in model.parameters())
    assert 0 < lost == metrics["num_pruned"] <= 0.5 * metrics["num_prunable"]
    assert metrics["num_weights"] == sum(w.numel() for w in model.parameters())
    frames = torch.rand(2, 3, 32, 32) * 255
    assert torch.equal(model.tower.front(frames), original.tower.front(frames))  # stored tokens stay true
