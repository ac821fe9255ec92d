"""Compile: parity, choice, statuses and files, on a tiny model with real engines."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import store
from models.engines.compare import compare_scores, measure_latency
from models.errors import EngineError, MissingExtra, ModelError, ParamsError, ShapeError
from models.highlighter import Highlighter, save_highlighter, score_features
from models.manifest import VideoRow, write_manifest
from models.metrics import choose_threshold
from models.params import parse_section
from models.predictions import read_predictions
from models.served import load_served
from models.shards import write_shard
from models.spans import Span
from models.video import SampledVideo
from tasks.compile import CompileParams, compile_model, engines_of, main
from tests.tiny_model import SIDE, TINY

QUICK = CompileParams(
    engine="torchscript", candidates=("torchscript", "eager-bf16"), also_build=(), batch_size=4,
    num_latency_runs=2, latency_budget_s=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def highlighter() -> Highlighter:
    torch.manual_seed(5)
    model = Highlighter(TINY).eval()
    with torch.no_grad():
        model.head.classifier[2].weight.mul_(30)  # scores that spread over [0, 1]
    return model


def row(video_id: str, split: str, duration_s: float) -> VideoRow:
    return VideoRow(
        video_id=video_id, path=f"{split}/good/{video_id}.mp4", split=split, folder="good", group=f"g{video_id}",
        content="", caption="", captions=(), segments=(Span(0.0, duration_s / 2),), duration_s=duration_s,
        start_pts_s=0.0, num_frames=10, mean_fps=25.0, nominal_fps=25.0, is_vfr=False, width=64, height=48,
        rotation_deg=0, codec="h264", pix_fmt="yuv420p", container="mp4", has_audio=False, num_bytes=1000,
    )  # fmt: skip


def footage(seed: int, num_frames: int) -> SampledVideo:
    rng = np.random.default_rng(seed)
    light = rng.uniform(0, 255, (num_frames, 1, 1, 3))
    frames = np.clip(light + rng.normal(0, 30, (num_frames, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    return SampledVideo(frames, np.arange(num_frames) / 4, num_frames / 4)


ROWS = [row("a", "train", 3.0), row("b", "val", 3.25), row("c", "test", 2.25), row("d", "test", 5.0)]
VIDEOS = {r.video_id: footage(i, int(r.duration_s * 4)) for i, r in enumerate(ROWS)}


def read_video(video_id: str) -> SampledVideo:
    assert video_id != "a", "train videos are not scored"
    return VIDEOS[video_id]


def expected_scores(model: Highlighter, video: SampledVideo) -> np.ndarray:
    with torch.no_grad():
        features = model.tower(torch.from_numpy(video.frames_THWC).permute(0, 3, 1, 2).float()).numpy()
    return score_features(model.head, features, video.times_s, TINY.window)


def test_chosen_engine_scores_and_its_parity(highlighter: Highlighter, tmp_path: Path) -> None:
    done: list[int] = []
    result = compile_model(highlighter, TINY, ROWS, read_video, QUICK, tmp_path, done.append)
    assert done == [1, 2]
    table = result.predictions
    assert list(zip(table["split"].unique(), strict=False)) == [("test",), ("val",)]
    for video_id in "bcd":
        scores = table[table["video_id"] == video_id]["score"].to_numpy()
        np.testing.assert_allclose(scores, expected_scores(highlighter, VIDEOS[video_id]), atol=1e-5)
    val = table[table["split"] == "val"]
    assert result.spec.threshold == choose_threshold(val["label"].to_numpy(), val["score"].to_numpy())
    assert replace(result.spec, threshold=TINY.threshold) == TINY
    exact, rough = result.reports
    assert (exact.name, exact.status, exact.precision) == ("torchscript", "measured", "float32")
    assert (rough.name, rough.status, rough.precision) == ("eager-bf16", "measured", "bfloat16")
    assert exact.parity is not None
    assert rough.parity is not None
    assert exact.parity.max_score_diff < 1e-5 < rough.parity.mean_score_diff < rough.parity.max_score_diff < 0.5
    assert exact.parity.f1_diff == 0
    test = table[table["split"] == "test"]
    truth, found = test["label"].to_numpy() == 1, test["score"].to_numpy() >= TINY.threshold
    assert exact.parity.f1 == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "also_built"}
    assert exact.num_bytes == (tmp_path / "model" / "tower.torchscript").stat().st_size


def test_served_folder_gives_the_predictions_again(highlighter: Highlighter, tmp_path: Path) -> None:
    result = compile_model(highlighter, TINY, ROWS, read_video, QUICK, tmp_path)
    model = load_served(tmp_path / "model", batch_size=4)
    assert (model.spec, model.engine_name) == (result.spec, "torchscript")
    for video_id in "bcd":
        scores = result.predictions.query("video_id == @video_id")["score"].to_numpy()
        np.testing.assert_array_equal(model.score_video(VIDEOS[video_id]).scores, scores)


def break_engine(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Let engine `name` fail when it is built."""
    build = store._module_of

    class Broken:
        @staticmethod
        def build(*_arguments: object) -> None:
            raise error

    monkeypatch.setattr(store, "_module_of", lambda asked: Broken if asked == name else build(asked))


def test_a_failing_candidate_is_told_and_the_others_go_on(
    highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, "eager-bf16", RuntimeError("no such operator: warp\nand a page of advice"))
    result = compile_model(highlighter, TINY, ROWS, read_video, QUICK, tmp_path)
    good, bad = result.reports
    assert good.status == "measured"
    assert (bad.status, bad.reason) == ("failed", "engine eager-bf16 cannot be built: no such operator: warp")
    flat = bad.to_json()
    for key in ("precision", "num_bytes", "max_score_diff", "mean_score_diff", "f1", "f1_diff"):
        assert flat[key] is None
    assert [latency.name for latency in result.latencies] == ["torchscript"]
    assert result.metrics()["num_failed"] == 1


def test_chosen_engine_that_fails_stops_the_stage(
    highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, "torchscript", RuntimeError("boom"))
    with pytest.raises(EngineError, match=r"compile.engine = 'torchscript': failed: .*boom; choose another"):
        compile_model(highlighter, TINY, ROWS, read_video, QUICK, tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_package_is_told_apart_from_a_failure(
    highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, "tensorrt", MissingExtra("pip install herdlight[tensorrt]"))
    params = QUICK.model_copy(update={"also_build": ("tensorrt",), "candidates": ()})
    report = compile_model(highlighter, TINY, ROWS, read_video, params, tmp_path).reports[1]
    assert (report.name, report.status, report.reason) == ("tensorrt", "missing", "pip install herdlight[tensorrt]")
    with pytest.raises(EngineError, match="'tensorrt': missing: pip install"):
        compile_model(
            highlighter, TINY, ROWS, read_video, params.model_copy(update={"engine": "tensorrt"}), tmp_path / "other"
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the engine runs and is measured")
def test_engine_for_another_device_is_built_kept_and_never_measured(highlighter: Highlighter, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the package of herdlight[tensorrt] is not installed")
    params = QUICK.model_copy(update={"also_build": ("tensorrt",), "candidates": ()})
    result = compile_model(highlighter, TINY, ROWS, read_video, params, tmp_path)
    report = result.reports[1]
    assert (report.status, report.precision, report.parity) == ("built", "float16", None)
    assert report.reason is not None
    assert "sm86" in report.reason
    plan = tmp_path / "also_built" / "tensorrt" / "tower.plan"
    assert report.num_bytes == plan.stat().st_size > 10_000
    assert [latency.name for latency in result.latencies] == ["torchscript"]
    auto = params.model_copy(update={"engine": "auto", "candidates": ("tensorrt",), "also_build": ()})
    with pytest.raises(EngineError, match="none runs here"):
        compile_model(highlighter, TINY, ROWS, read_video, auto, tmp_path / "auto")


@pytest.mark.parametrize(("limit", "expected"), [(1.0, "eager-bf16"), (1e-5, "torchscript")])
def test_auto_takes_the_fastest_whose_scores_agree(
    limit: float, expected: str, highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.compile

    def pretend(engine: Callable[..., np.ndarray], *args: object) -> object:
        speed = {"eager-bf16": 100.0, "torchscript": 50.0}[engine.name]  # type: ignore[attr-defined]
        return replace(measure_latency(engine, *args), frames_per_s=speed)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks.compile, "measure_latency", pretend)
    params = QUICK.model_copy(update={"engine": "auto", "max_mean_score_diff": limit})
    result = compile_model(highlighter, TINY, ROWS, read_video, params, tmp_path)
    assert result.chosen == expected == load_served(tmp_path / "model").engine_name


def test_auto_without_an_engine_that_agrees_lists_them(highlighter: Highlighter, tmp_path: Path) -> None:
    params = QUICK.model_copy(update={"engine": "auto", "candidates": ("eager-bf16",), "max_mean_score_diff": 0.0})
    with pytest.raises(EngineError, match=r"max_mean_score_diff: eager-bf16 measured mean_score_diff 0\.\d+"):
        compile_model(highlighter, TINY, ROWS, read_video, params, tmp_path)


def test_both_splits_are_needed(highlighter: Highlighter, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="val and in test"):
        compile_model(highlighter, TINY, ROWS[:2], read_video, QUICK, tmp_path)


def test_parity_figures() -> None:
    reference = np.array([0.1, 0.6, 0.6, 0.4, 0.9], np.float32)
    scores = np.array([0.2, 0.4, 0.6, 0.4, 0.9], np.float32)
    labels = np.array([0, 1, 1, 0, 1], np.int8)
    is_test = np.array([False, True, True, True, True])
    parity = compare_scores(reference, scores, labels, is_test, 0.5)
    assert parity.max_score_diff == pytest.approx(0.2)
    assert parity.mean_score_diff == pytest.approx(0.06)
    assert parity.f1 == pytest.approx(0.8)
    assert parity.f1_diff == pytest.approx(-0.2)
    undefined = compare_scores(reference, scores, 0 * labels, is_test, 0.99)
    assert (undefined.f1, undefined.f1_diff) == (None, None)
    with pytest.raises(ShapeError):
        compare_scores(reference, scores[:4], labels, is_test, 0.5)


def test_latency_is_of_single_frames_and_full_batches() -> None:
    sizes: list[int] = []

    class Recording:
        name, precision = "recording", "float32"

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            sizes.append(len(frames))
            return np.zeros((len(frames), 1), np.float32)

    latency = measure_latency(Recording(), VIDEOS["b"].frames_THWC[:3], batch_size=8, num_runs=5, budget_s=10)
    assert sizes == [1] * 8 + [8] * 8  # three calls to warm up, five timed
    assert 0 < latency.latency_ms_p50 <= latency.latency_ms_p99
    assert latency.frames_per_s > 0


def test_params_are_checked() -> None:
    assert engines_of(CompileParams(engine="onnx", candidates=("openvino",), also_build=("onnx",))) == [
        "openvino",
        "onnx",
    ]
    for wrong in ({"engine": "warp"}, {"batch_size": 0}, {"candidates": ["eager-bf16", "x"]}, {"enginee": "onnx"}):
        with pytest.raises(ParamsError):
            parse_section(wrong, "compile", CompileParams)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stage_leaves_its_files_and_the_same_bytes_twice(
    highlighter: Highlighter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_highlighter(tmp_path / "pruned", highlighter, TINY)
    write_manifest(tmp_path / "manifest.parquet", ROWS)
    for video_id, video in VIDEOS.items():
        tensors = {"frames": video.frames_THWC, "times_s": video.times_s}
        write_shard(tmp_path / "shards", video_id, tensors, {"duration_s": repr(video.duration_s)})
    section = {**QUICK.model_dump(mode="json"), "engine": "onnx", "candidates": ["onnx"]}
    (tmp_path / "params.yaml").write_text(json.dumps({"compile": section}))

    def run(out: Path, params: str = "params.yaml") -> None:
        paths = {"params": params, "manifest": "manifest.parquet", "frames": "shards", "model": "pruned"}
        paths["categories"] = "none"
        paths["rung"] = "none"  # nothing reads it for a named engine
        main(
            [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))] + ["--out", str(out)]
        )

    run(tmp_path / "one")
    run(tmp_path / "two")
    stable = ["engines.json", "metrics.json", "predictions.parquet", "model/model.json", "model/tower.onnx"]
    for name in (*stable, "model/engine.json", "model/head.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    engines = json.loads((tmp_path / "one" / "engines.json").read_text())
    assert engines["chosen"] == "onnx"
    assert set(engines["engines"][0]) == {
        "name", "status", "reason", "precision", "num_bytes", "max_score_diff", "mean_score_diff", "f1", "f1_diff"
    }  # fmt: skip
    latency = json.loads((tmp_path / "one" / "latency.json").read_text())["engines"][0]
    assert set(latency) == {"name", "latency_ms_p50", "latency_ms_p99", "frames_per_s", "batch_size"}
    assert len(read_predictions(tmp_path / "one" / "predictions.parquet")) == 13 + 9 + 20
    assert (tmp_path / "one" / "energy.json").is_file()
    assert (tmp_path / "one" / "also_built").is_dir()
    (tmp_path / "bad.yaml").write_text("compile: {engine: warp}")
    with pytest.raises(SystemExit, match="1"):
        run(tmp_path / "three", "bad.yaml")
    assert "compile.engine" in capsys.readouterr().err
