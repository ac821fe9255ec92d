"""The compression ladder in MLflow: figures of every rung by name, the table and its picture, once, with its stage."""

from pathlib import Path
from typing import cast

from flows.dag import load_dag
from flows.dvc import Outcome
from flows.stage_files import read_stage
from flows.tracking import parent_run
from models.bootstrap import PairedDifference
from models.evaluation import Estimate
from models.files import write_bytes, write_json
from models.ladder import REFERENCE, RUNTIMES, Figures, Part, Rung, RungResult, Speed, apply_decision, choose_rung
from tasks.ladder import LadderResult
from tasks.mlflow_store import connect
from tasks.rungs import BuiltRung
from tasks.shell import Shell
from tests.flows.tiny import TinyRepository

ROOT = Path(__file__).resolve().parents[2]


def figures(frames_per_s: float) -> Figures:
    return Figures(
        Estimate(0.8, 0.7, 0.9), PairedDifference(0.0, 0.0, 0.0, 0.95, 28), 0.5, 0.01, 0.001, Speed(1, 100.0, 2.0),
        Speed(32, frames_per_s, 5.0), 2.0, 3.0, 10.0,
    )  # fmt: skip


def test_every_rung_is_logged_with_the_stage(repository: TinyRepository) -> None:
    rows = (
        RungResult(REFERENCE, "measured", None, figures(1000.0)),
        RungResult(Rung((Part("pruning", "small"), RUNTIMES["openvino"])), "measured", None, figures(3000.0)),
        RungResult(Rung((RUNTIMES["tensorrt"],)), "built", "built for sm80, which is not here"),
    )
    decision = choose_rung(rows)
    result = LadderResult(apply_decision(rows, decision), decision, "a processor", cast(BuiltRung, None))
    folder = repository.root / "build" / "ladder"
    write_json(folder / "ladder.json", result.to_json())
    write_json(folder / "chosen" / "rung.json", {"name": decision.chosen})
    write_bytes(folder / "chosen" / "model.safetensors", b"weights stay in DVC's cache")
    write_bytes(folder / "ladder.png", b"a picture")
    Shell({}, repository.root / "params.yaml", folder).write_metrics(result.metrics())

    client, stage = connect(repository.settings.tracking_uri), load_dag(ROOT / "dvc.yaml")["ladder"]
    with parent_run(client, repository.settings, "a run", {}) as tracker:
        asked = {"ladder": {"rungs": ["small+openvino"], "prunings": {"small": {"amount": 0.5}}}}
        run_id = tracker.log_stage(read_stage(repository.root, stage, Outcome.RAN, asked))

    run = client.get_run(run_id).data
    assert run.metrics["ladder_float32_frames_per_s"] == 1000.0
    assert run.metrics["ladder_small.openvino_frames_per_s"] == 3000.0
    assert run.metrics["speedup"] == 3.0
    assert not [name for name in run.metrics if "tensorrt" in name]  # never measured, so never a number
    assert "ladder_float32_kwh_per_1000" in run.tags["undefined_metrics"]
    assert (run.metrics["num_built"], run.metrics["num_failed"]) == (1, 0)
    assert run.params["ladder.prunings.small.amount"] == "0.5"
    kept = {entry.path for entry in client.list_artifacts(run_id)}
    assert {"ladder.json", "ladder.png", "chosen"} <= kept
    assert [entry.path for entry in client.list_artifacts(run_id, "chosen")] == ["chosen/rung.json"]
