"""From the ladder to what is served: the chosen rung on disk, compiled, and refused where it does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks.chosen_rung
from models.errors import EngineError
from models.highlighter import Highlighter, HighlighterSpec, save_highlighter, score_features
from models.ladder import RUNTIMES, Part, Rung
from models.manifest import VideoRow, write_manifest
from models.served import load_served
from models.shards import write_shard
from models.spans import Span
from tasks.chosen_rung import load_chosen, save_chosen
from tasks.compile import CompileParams, compile_model, engines_of, main
from tasks.ladder import LadderParams, rungs_of, split_footage
from tasks.rungs import BuiltRung, Footage, Model, build_rung
from tasks.train import TrainParams
from tests.tiny_ladder import make_footage, make_model, make_video

PARAMS = CompileParams(also_build=(), batch_size=4, num_latency_runs=2, latency_budget_s=0.01)
NARROW = Part("pruning", "narrow")


@pytest.fixture
def footage(make_row: Callable[..., VideoRow]) -> Footage:
    return make_footage(make_row)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    save_highlighter(tmp_path / "pruned", *make_model())
    return tmp_path / "pruned"


def narrow(_highlighter: Highlighter, spec: HighlighterSpec) -> Model:
    """Stand for pruning: another model with a smaller head."""
    torch.manual_seed(8)
    small = replace(spec, hidden_dim=8)
    return Highlighter(small).eval(), small


def build(footage: Footage, folder: Path, *parts: Part) -> BuiltRung:
    built = build_rung(Rung(parts), make_model(), footage, 4, {NARROW: narrow}, folder)
    assert isinstance(built, BuiltRung)
    return built


def scores_in_float32(model: Model, footage: Footage, video_id: str) -> np.ndarray:
    highlighter, spec = model
    video = footage.read_video(video_id)
    with torch.no_grad():
        features = highlighter.tower(torch.from_numpy(video.frames_THWC).permute(0, 3, 1, 2).float()).numpy()
    return score_features(highlighter.head, features, video.times_s, spec.window)


def test_compile_serves_the_chosen_rung_and_its_smaller_highlighter(
    footage: Footage, parent: Path, tmp_path: Path
) -> None:
    built = build(footage, tmp_path / "rung", NARROW, RUNTIMES["torchscript"])
    save_chosen(tmp_path / "chosen", built, parent)
    rung = load_chosen(tmp_path / "chosen", parent)
    assert rung.name == "narrow+torchscript"
    assert rung.model[1] == built.model[1]
    assert engines_of(CompileParams(also_build=("onnx",)), rung) == ["narrow+torchscript", "onnx"]
    result = compile_model(*rung.model, footage.rows, footage.read_video, PARAMS, tmp_path / "out", rung=rung)
    (report,) = result.reports
    assert (result.chosen, report.name, report.status, report.precision) == (
        "narrow+torchscript", "narrow+torchscript", "measured", "float32"
    )  # fmt: skip
    assert [latency.name for latency in result.latencies] == ["narrow+torchscript"]
    assert report.parity is not None
    assert report.parity.max_score_diff < 1e-5  # of the smaller highlighter, not of the one that the ladder began with
    served = load_served(tmp_path / "out" / "model", batch_size=4)
    assert (served.engine_name, served.spec.hidden_dim) == ("torchscript", 8)
    for row in footage.rows:
        scores = served.score_video(footage.read_video(row.video_id)).scores
        np.testing.assert_allclose(scores, scores_in_float32(built.model, footage, row.video_id), atol=1e-5)
    assert np.abs(scores - scores_in_float32(make_model(), footage, "e")).max() > 0.01


def test_a_pruned_and_merged_rung_of_params_is_served_as_it_was_measured(
    make_row: Callable[..., VideoRow], footage: Footage, parent: Path, tmp_path: Path
) -> None:
    params = LadderParams.model_validate(
        {
            "rungs": ["small+merged"],
            "prunings": {"small": {"amount": 0.3, "recovery_epochs": 1}},
            "tokens": {"merged": {"num_merged": 1}},
        }
    )
    rows = [*footage.rows, make_row("a", split="train", duration_s=3.0, segments=(Span(0.0, 1.5),))]
    videos = {row.video_id: make_video(seed) for seed, row in enumerate(rows)}
    judged, shrinks = split_footage(rows, videos.__getitem__, params, TrainParams(batch_size=2))
    assert {row.split for row in judged.rows} == {"val", "test"}
    _, asked = rungs_of(params, shrinks)
    built = build_rung(asked, make_model(), judged, 4, shrinks, tmp_path / "rung")
    assert isinstance(built, BuiltRung), built
    before, after = (sum(p.numel() for p in model[0].tower.parameters()) for model in (make_model(), built.model))
    assert after < before
    save_chosen(tmp_path / "chosen", built, parent)
    rung = load_chosen(tmp_path / "chosen", parent)
    result = compile_model(*rung.model, judged.rows, judged.read_video, PARAMS, tmp_path / "out", rung=rung)
    assert result.reports[0].parity is not None
    assert result.reports[0].parity.max_score_diff < 1e-5
    served = load_served(tmp_path / "out" / "model", batch_size=4)
    scores = built.table[built.table["video_id"] == "e"]["score"].to_numpy()
    np.testing.assert_allclose(served.score_video(videos["e"]).scores, scores, atol=1e-5)


def test_parity_of_a_rougher_engine_is_against_its_highlighter_in_float32(
    footage: Footage, parent: Path, tmp_path: Path
) -> None:
    built = build(footage, tmp_path / "rung", RUNTIMES["bfloat16"])
    save_chosen(tmp_path / "chosen", built, parent)
    rung = load_chosen(tmp_path / "chosen", parent)
    result = compile_model(*rung.model, footage.rows, footage.read_video, PARAMS, tmp_path / "out", rung=rung)
    (report,) = result.reports
    assert (result.chosen, report.precision) == ("bfloat16", "bfloat16")
    assert report.parity is not None
    exact = np.concatenate([scores_in_float32(make_model(), footage, row.video_id) for row in footage.rows])
    rough = built.table.set_index("video_id")["score"]
    rough = np.concatenate([rough[row.video_id].to_numpy() for row in footage.rows])
    assert report.parity.mean_score_diff == pytest.approx(np.abs(exact - rough).mean(), rel=1e-3)
    assert result.spec.threshold == built.threshold


def run_compile(tmp_path: Path, footage: Footage, section: dict[str, Any]) -> None:
    write_manifest(tmp_path / "manifest.parquet", list(footage.rows))
    for row in footage.rows:
        video = footage.read_video(row.video_id)
        tensors = {"frames": video.frames_THWC, "times_s": video.times_s}
        write_shard(tmp_path / "frames", row.video_id, tensors, {"duration_s": repr(video.duration_s)})
    (tmp_path / "params.yaml").write_text(json.dumps({"compile": {**PARAMS.model_dump(mode="json"), **section}}))
    paths = {
        "params": "params.yaml",
        "manifest": "manifest.parquet",
        "model": "pruned",
        "rung": "chosen",
        "categories": "none",
        "out": "out",
    }
    main([f"--{name}={tmp_path / path}" for name, path in {**paths, "frames": "frames"}.items()])


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def damage(tmp_path: Path, how: str) -> None:
    chosen = tmp_path / "chosen"
    if how == "nothing chosen":
        (chosen / "rung.json").unlink()
    elif how == "another commit":  # the cache gave back what an older model made
        save_highlighter(tmp_path / "pruned", *make_model(seed=6))
    elif how == "another gpu":
        edit(chosen / "engine" / "engine.json", device="sm90")
    elif how == "another version":  # of a format that this one does not read
        (chosen / "engine" / "tower.torchscript").write_bytes(b"a later format")
        from models.files import hash_file

        files = {"tower.torchscript": hash_file(chosen / "engine" / "tower.torchscript")}
        edit(chosen / "engine" / "engine.json", files=files, versions={"torch": "9.9.9"})
    elif how == "damaged engine":
        (chosen / "engine" / "tower.torchscript").write_bytes(b"cut short")
    elif how == "damaged record":
        (chosen / "rung.json").write_text("[]")
    else:
        (chosen / "model.safetensors").write_bytes(b"cut short")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nothing chosen", ["rung.json: no rung was chosen", "or set compile.engine to an engine"]),
        ("another commit", ["rung torchscript: ", "was made from another model than"]),
        ("another gpu", ["rung torchscript built: built for sm90, which is not here"]),
        ("another version", ["rung torchscript failed: ", "9.9.9"]),
        ("damaged engine", ["rung torchscript failed: ", "damaged, not the file of engine.json"]),
        ("damaged record", ["not a chosen rung"]),
        ("damaged model", ["rung torchscript: ", "model.safetensors"]),
    ],
)
def test_a_chosen_rung_that_does_not_fit_is_one_line_with_its_remedy(
    how: str, words: list[str], footage: Footage, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_chosen(tmp_path / "chosen", build(footage, tmp_path / "rung", RUNTIMES["torchscript"]), parent)
    damage(tmp_path, how)
    with pytest.raises(SystemExit, match="1"):
        run_compile(tmp_path, footage, {"engine": "ladder"})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stage compile: ")]
    assert all(word in line for word in words), line
    assert "run stage ladder again" in line
    assert not (tmp_path / "out" / "model").exists()


def test_a_named_engine_needs_no_chosen_rung(footage: Footage, parent: Path, tmp_path: Path) -> None:
    run_compile(tmp_path, footage, {"engine": "torchscript", "candidates": []})
    assert load_served(tmp_path / "out" / "model").engine_name == "torchscript"


def test_the_ladder_needs_its_rung(footage: Footage, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"compile\.engine = 'ladder': no rung was given; run stage ladder again"):
        compile_model(*make_model(), footage.rows, footage.read_video, PARAMS, tmp_path)


def test_what_was_chosen_before_stays_whole_when_writing_is_cut_off(
    footage: Footage, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_chosen(tmp_path / "chosen", build(footage, tmp_path / "one", RUNTIMES["torchscript"]), parent)
    before = {path: path.read_bytes() for path in (tmp_path / "chosen").rglob("*") if path.is_file()}

    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.chosen_rung, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        save_chosen(tmp_path / "chosen", build(footage, tmp_path / "two", RUNTIMES["bfloat16"]), parent)
    after = {path: path.read_bytes() for path in (tmp_path / "chosen").rglob("*") if path.is_file()}
    assert after == before
    assert sorted(path.name for path in tmp_path.iterdir() if "part" in path.name) == []


def test_a_model_that_is_gone_is_told(footage: Footage, parent: Path, tmp_path: Path) -> None:
    save_chosen(tmp_path / "chosen", build(footage, tmp_path / "one", RUNTIMES["bfloat16"]), parent)
    with pytest.raises(EngineError, match="was made from another model"):
        load_chosen(tmp_path / "chosen", tmp_path / "gone")
