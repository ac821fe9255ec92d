"""What a stage left, read back as values, and what a person reads at the end."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from flows.dag import parse_dag
from flows.dvc import Outcome
from flows.settings import Settings
from flows.stage_files import add_totals, data_hash, read_stage, select_params
from flows.summary import RunSummary, render
from models.energy import Energy
from models.errors import ModelError, StageFailed
from models.evaluation import METRIC_NAMES, UNDEFINED, Estimate, Evaluation, Row
from models.metrics import Counts
from models.verdict import Resolution, Verdict, VerdictLine

STAGE = parse_dag({"stages": {"train": {"cmd": "x", "params": ["train", "spans.gap"], "outs": ["build/train/model"]}}})[
    "train"
]
ENERGY = Energy(60.0, 2e-3, 0.0, 1e-3, 4e-4, "estimated", "a processor", "KEN")


def _leave(root: Path, name: str, text: str) -> None:
    path = root / "build" / "train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_stage_is_read_from_its_files(tmp_path: Path) -> None:
    _leave(tmp_path, "metrics.json", json.dumps({"ap": 0.5, "auc": None, "n": 3}))
    _leave(tmp_path, "history.jsonl", '{"step": 0, "loss": 1.0}\n{"step": 5, "loss": 0.5}\n')
    _leave(tmp_path, "energy.json", json.dumps(ENERGY.to_json()))
    _leave(tmp_path, "model/weights.safetensors", "w")
    _leave(tmp_path, "model/model.json", "{}")
    params = {"train": {"epochs": 3, "warmup": {"steps": 2}}, "spans": {"gap": 0.5, "other": 1}}
    record = read_stage(tmp_path, STAGE, Outcome.RAN, params)
    assert record.metrics == {"ap": 0.5, "n": 3.0}
    assert record.undefined == ("auc",)
    assert [row["step"] for row in record.history] == [0, 5]
    assert record.energy == ENERGY
    assert record.params == {"train.epochs": 3, "train.warmup.steps": 2, "spans.gap": 0.5}
    assert record.artifacts == ("build/train/history.jsonl", "build/train/model/model.json")  # and no weights


def test_a_stage_may_leave_nothing_but_not_rubbish(tmp_path: Path) -> None:
    record = read_stage(tmp_path, STAGE, Outcome.CACHED, {})
    assert (record.metrics, record.history, record.energy, record.params) == ({}, (), None, {})
    _leave(tmp_path, "energy.json", '{"seconds": 1}')
    with pytest.raises(StageFailed, match=r"stage train: .*damaged.*dvc repro -f -s train"):
        read_stage(tmp_path, STAGE, Outcome.RAN, {})


def test_params_that_are_false_or_zero_are_there_and_absent_ones_are_not() -> None:
    assert select_params({"a": {"x": 0, "y": False, "z": None}}, ["a.x", "a.y", "b", "a.nope"]) == {
        "a.x": 0,
        "a.y": False,
    }
    assert select_params({"a": {"z": None, "l": [1]}}, ["a"]) == {"a.z": None, "a.l": [1]}


def test_energy_of_cached_stages_is_embodied_and_not_spent(tmp_path: Path) -> None:
    ran = replace(read_stage(tmp_path, STAGE, Outcome.RAN, {}), energy=ENERGY)
    cached = replace(ran, outcome=Outcome.CACHED, energy=replace(ENERGY, cpu_kwh=5e-3))
    without = replace(ran, energy=None)
    totals = add_totals([ran, cached, without])
    assert totals.embodied is not None
    assert totals.spent is not None
    assert totals.embodied.kwh == pytest.approx(9e-3)
    assert totals.spent.kwh == pytest.approx(3e-3)
    assert add_totals([cached]).spent is None


def test_the_data_hash_is_that_of_data_dvc(tmp_path: Path) -> None:
    assert data_hash(tmp_path) is None
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc.dir\n  size: 1\n  hash: md5\n  path: data\n")
    assert data_hash(tmp_path) == "abc.dir"


def _evaluation() -> Evaluation:
    metrics = {name: Estimate(0.75, 0.61, 0.88) for name in METRIC_NAMES}
    rows = (
        Row("compiled", 0.4, Counts(6, 2, 2, 6), metrics),
        Row("all_positive", None, Counts(8, 8, 0, 0), {**metrics, "f1": UNDEFINED}),
    )
    return Evaluation(rows, (), {}, 4, 16, 0.5, 0.5, 0.95, 100, 0)


RESOLUTION = Resolution(12, 0.2345, 0.8, 0.025, 0.2, True, 6)


def _summary(*, passed: bool) -> RunSummary:
    line = VerdictLine("min_f1", passed, 0.75, 0.6 if passed else 0.9, ">=", "F1 is 0.7500, must be at least that")
    outcomes = {"ingest": Outcome.CACHED, "train": Outcome.RAN}
    uri = "sqlite:////somewhere/repository/mlflow/mlflow.db"
    return RunSummary("run1", uri, outcomes, ENERGY, None, Verdict.of((line,), RESOLUTION), "models:/herdlight/3")


def test_a_summary_survives_json() -> None:
    for summary in (_summary(passed=True), replace(_summary(passed=False), verdict=None, version=None, embodied=None)):
        assert RunSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    with pytest.raises(ModelError, match="summary"):
        RunSummary.from_json({"run_id": "x"})


def _text(summary: RunSummary, evaluation: Evaluation | None, root: Path) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(summary, evaluation, Settings(root, summary.tracking_uri)))
    return console.export_text()


def test_a_person_sees_ladder_verdict_energy_and_where_to_look(tmp_path: Path) -> None:
    for name in ("build/report/report.html", "highlights/clip.timeline.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    summary = replace(_summary(passed=True), tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    text = _text(summary, _evaluation(), tmp_path)
    assert "compiled (served)" in text
    assert "0.750" in text
    assert "0.610 to 0.880" in text
    assert "promoted: models:/herdlight/3 is champion" in text
    assert "3.00 Wh" in text
    assert "estimated, a processor, grid of KEN" in text
    assert "2 stages, 1 of them cached" in text
    assert "mlflow ui --backend-store-uri sqlite:///mlflow/mlflow.db" in text
    assert "build/report/report.html" in text
    assert "highlights/clip.timeline.png" in text
    assert "model_card" not in text  # it is not there
    assert "12 test videos can show is 0.2345" in text
    assert "too small" in text
    assert "nan" not in text.lower()


def test_a_refusal_names_its_line_and_offers_no_scoring(tmp_path: Path) -> None:
    text = _text(_summary(passed=False), None, tmp_path)
    assert "refused: models:/herdlight/3 did not pass min_f1; the champion stays as it was" in text
    assert "herdlight score" not in text
    assert "0 Wh" in text  # spent: everything was cached
