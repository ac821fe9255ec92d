"""The ladder measured on a tiny model with real engines: its rows, its failures, its files and its picture."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks.quantise
import tasks.rung_timing
import tasks.rungs
from models.energy import Energy
from models.errors import EngineError, MissingExtra, ModelError, ParamsError
from models.highlighter import Highlighter, HighlighterSpec, save_highlighter
from models.ladder import REFERENCE, RUNTIMES, Part, Rung, RungResult
from models.manifest import VideoRow, write_manifest
from models.shards import write_shard
from tasks.energy import EnergyMeter
from tasks.ladder import LadderParams, main, measure_ladder, measure_rung, rungs_of
from tasks.ladder_picture import draw_ladder
from tasks.resident import measure_resident_mb
from tasks.rungs import BuiltRung, Footage, Model, build_rung, measure_memory
from tests.tiny_ladder import QUICK, break_engine, make_footage, make_model

HEADS = Part("pruning", "heads")


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.rungs, "measure_resident_mb", lambda _folder, _size: 321.0)


@pytest.fixture
def footage(make_row: Callable[..., VideoRow]) -> Footage:
    return make_footage(make_row)


def test_every_rung_has_its_figures_and_one_is_chosen(model: Any, footage: Footage, tmp_path: Path) -> None:
    done: list[int] = []
    result = measure_ladder(model, footage, QUICK, {}, tmp_path, done.append)
    assert done == [1, 2, 3]
    assert [row.rung.name for row in result.rows] == ["float32", "torchscript", "bfloat16"]
    reference, exact, rough = (row.figures for row in result.rows)
    assert reference is not None
    assert exact is not None
    assert rough is not None
    assert (reference.max_score_diff, reference.f1_difference.value, reference.p_worse) == (0, 0, 1)
    assert exact.max_score_diff < 1e-5 < rough.mean_score_diff < rough.max_score_diff < 0.5
    assert exact.f1 == reference.f1
    assert exact.f1.low <= exact.f1.value <= exact.f1.high
    assert rough.f1_difference.value == pytest.approx(rough.f1.value - reference.f1.value)
    for figures in (reference, exact, rough):
        assert (figures.single.batch_size, figures.resident_mb, figures.kwh_per_1000) == (1, 321.0, None)
        assert figures.best.batch_size in (1, 4)
        assert figures.best.frames_per_s >= figures.single.frames_per_s
        assert figures.latency_ms_p99 >= figures.latency_ms_p50 > 0
    assert rough.disk_mb < 0.6 * reference.disk_mb
    assert result.decision.chosen in result.decision.kept
    assert {row.status for row in result.rows} <= {"measured", "rejected"}
    metrics = result.metrics()
    assert metrics["speedup"] >= 1
    assert np.isnan(metrics["energy_ratio"])
    assert metrics["ladder_torchscript_frames_per_s"] == exact.best.frames_per_s
    assert (metrics["num_failed"], metrics["num_measured"] + metrics["num_rejected"]) == (0, 3)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("no such operator: warp\nadvice"), "failed", "engine torchscript cannot be built: no such op"),
        (MemoryError(), "failed", "not enough memory"),
        (MissingExtra("pip install herdlight[warp]"), "not_possible", "pip install herdlight[warp]"),
    ],
)
def test_a_rung_that_fails_is_a_row_and_the_others_go_on(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, status: str, reason: str
) -> None:
    break_engine(monkeypatch, "torchscript", error)
    result = measure_ladder(model, footage, QUICK, {}, tmp_path)
    bad = result.row("torchscript")
    assert (bad.status, bad.figures) == (status, None)
    assert bad.reason is not None
    assert bad.reason.startswith(reason)
    assert str(tmp_path) not in bad.reason
    assert "\n" not in bad.reason
    assert result.row("bfloat16").figures is not None
    assert result.metrics()[f"num_{status}"] == 1


def test_a_rung_that_fails_while_it_is_timed_is_a_row(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = tasks.rung_timing.time_calls

    def fail(engine: Any, *arguments: Any) -> Any:
        if engine.name == "torchscript":
            raise EngineError("engine torchscript cannot run: lost its device")
        if engine.name == "eager-bf16":
            raise MemoryError
        return measure(engine, *arguments)

    monkeypatch.setattr(tasks.rung_timing, "time_calls", fail)
    result = measure_ladder(model, footage, QUICK, {}, tmp_path)
    assert [row.status for row in result.rows] == ["measured", "failed", "failed"]
    assert result.rows[1].reason == "engine torchscript cannot run: lost its device"
    assert str(result.rows[2].reason).startswith("not enough memory; use a larger machine")


def test_without_its_reference_there_is_no_ladder(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(monkeypatch, "eager", RuntimeError("boom"))
    with pytest.raises(ModelError, match="the reference float32 failed: engine eager cannot be built: boom"):
        measure_ladder(model, footage, QUICK, {}, tmp_path)
    with pytest.raises(ModelError, match="val and in test"):
        Footage(footage.rows[:1], footage.read_video)


def test_a_rung_of_two_parts_changes_the_model_first(model: Any, footage: Footage, tmp_path: Path) -> None:
    def zero_weights(highlighter: Highlighter, spec: HighlighterSpec) -> tuple[Highlighter, HighlighterSpec]:
        other = Highlighter(spec)
        return other, spec

    def fail(_highlighter: Highlighter, _spec: HighlighterSpec) -> tuple[Highlighter, HighlighterSpec]:
        raise RuntimeError("calibration: 3 frames of one class")

    reference = build_rung(REFERENCE, model, footage, 4, {}, tmp_path / "reference")
    assert isinstance(reference, BuiltRung)
    rung = Rung((HEADS, RUNTIMES["torchscript"]))
    other = measure_rung(rung, reference, model, footage, QUICK, {HEADS: zero_weights}, tmp_path / "one")
    assert other.rung.name == "heads+torchscript"
    assert other.figures is not None
    assert other.figures.mean_score_diff > 0.01
    bad = measure_rung(rung, reference, model, footage, QUICK, {HEADS: fail}, tmp_path / "two")
    assert (bad.status, bad.reason) == ("failed", "pruning heads cannot be done: calibration: 3 frames of one class")


def test_rungs_of_params_are_each_there_once_after_the_reference() -> None:
    params = LadderParams(rungs=("openvino", "heads+onnx", "onnx+heads", "float32"))
    names = [rung.name for rung in rungs_of(params, {HEADS: lambda *model: model})]
    assert names == ["float32", "openvino", "heads+onnx"]
    with pytest.raises(ParamsError, match="no part 'heads'; there are float32, "):
        rungs_of(params, {})


def test_energy_is_of_a_thousand_frames(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib
    from collections.abc import Iterator

    @contextlib.contextmanager
    def pretend() -> Iterator[EnergyMeter]:
        meter = EnergyMeter()
        yield meter
        meter.energy = Energy(1.0, 0.004, 0.0, 0.001, 0.002, "estimated", "a processor", "KEN")

    monkeypatch.setattr(tasks.rung_timing, "measure_energy", pretend)
    params = QUICK.model_copy(update={"energy_budget_s": 1e-9, "rungs": ()})
    result = measure_ladder(model, footage, params, {}, tmp_path)
    figures = result.rows[0].figures
    assert figures is not None
    assert figures.kwh_per_1000 == pytest.approx(0.005 * 1000 / figures.best.batch_size)
    assert (figures.energy_method, result.device) == ("estimated", "a processor")


def test_the_shell_writes_the_table_and_its_picture(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "manifest.parquet", list(footage.rows))
    for row in footage.rows:
        video = footage.read_video(row.video_id)
        tensors = {"frames": video.frames_THWC, "times_s": video.times_s}
        write_shard(tmp_path / "frames", row.video_id, tensors, {"duration_s": repr(video.duration_s)})
    save_highlighter(tmp_path / "model", *model)
    values = QUICK.model_dump(mode="json")
    (tmp_path / "params.yaml").write_text(json.dumps({"ladder": values}))
    paths = {"params": "params.yaml", "manifest": "manifest.parquet", "frames": "frames", "model": "model"}
    main([f"--{name}={tmp_path / path}" for name, path in {**paths, "out": "ladder"}.items()])
    table = json.loads((tmp_path / "ladder" / "ladder.json").read_text())
    rows = [RungResult.from_json(row) for row in table["rungs"]]
    assert [row.rung.name for row in rows] == ["float32", "torchscript", "bfloat16"]
    assert table["chosen"] in table["kept"]
    assert set(table["reasons"]) == {row.rung.name for row in rows}
    expected = {"ladder.json", "ladder.png", "metrics.json", "energy.json", "chosen"}
    assert {path.name for path in (tmp_path / "ladder").iterdir()} == expected
    assert (tmp_path / "ladder" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_a_process_that_serves(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.rungs, "measure_resident_mb", measure_resident_mb)
    rung = Rung((RUNTIMES["torchscript"],))
    built = build_rung(rung, model, footage, 4, {}, tmp_path)
    assert isinstance(built, BuiltRung)
    found = measure_memory([built], 4)[rung]
    assert found is None or 50 < found < 5000


def test_the_picture_tells_what_is_not_in_it(model: Any, footage: Footage, tmp_path: Path) -> None:
    result = measure_ladder(model, footage, QUICK, {}, tmp_path)
    failed = RungResult(Rung((RUNTIMES["tensorrt"],)), "built", "built for sm80, which is not here")
    figure = draw_ladder((*result.rows, failed), result.decision)
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert "Not in the picture: tensorrt (built)" in texts
    assert "not measured here" in texts  # no energy was taken
    assert {"float32", "torchscript", "bfloat16"} <= set(texts)
    undefined = replace(result.rows[0], figures=replace(result.rows[0].figures, kwh_per_1000=1e-6))  # type: ignore[type-var]
    draw_ladder((undefined,), replace(result.decision, chosen="float32", kept=("float32",)))


def test_int8_without_its_package_or_its_frames_is_a_row(
    model: Any, footage: Footage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = Rung((RUNTIMES["openvino-int8"],))
    found = build_rung(rung, model, footage, 4, {}, tmp_path / "one")
    assert isinstance(found, RungResult)
    assert (found.status, found.reason) == ("failed", "int8: no train frames to calibrate with; add train videos")
    monkeypatch.setattr(tasks.quantise.importlib.util, "find_spec", lambda _name: None)
    frames = footage.frames(32)
    found = build_rung(rung, model, replace(footage, calibrate=lambda: frames), 4, {}, tmp_path / "two")
    assert isinstance(found, RungResult)
    assert found.status == "not_possible"
    assert found.reason is not None
    assert "[int8]" in found.reason
