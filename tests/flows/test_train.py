"""The flow `train` on a tiny repository: real Prefect, real DVC, real MLflow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from flows.dvc import Outcome
from flows.registry import CHAMPION, Registry
from flows.summary import RunSummary, summary_path
from flows.train import train
from models.errors import GateRefused, ParamsError, StageFailed, TrackingUnavailable
from models.files import read_json
from tasks.mlflow_store import MlflowClient, connect
from tests.flows.tiny import TinyRepository

pytestmark = pytest.mark.usefixtures("prefect_server")
STAGES = ["prepare", "compile", "evaluate"]
EMBODIED_KWH = pytest.approx(7e-4)


def _parents(client: MlflowClient) -> list[Any]:
    """Return the parent runs, oldest first."""
    experiment = client.get_experiment_by_name("herdlight")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def _children(client: MlflowClient, parent_id: str) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("herdlight")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent_id}'")
    return {run.data.tags["stage"]: run for run in runs}


def _champion(repository: TinyRepository) -> str | None:
    version = Registry(connect(repository.settings.tracking_uri), repository.settings).alias(CHAMPION)
    return version.version if version else None


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    found: set[str] = set()
    for entry in client.list_artifacts(run_id, folder):
        found |= _artifacts(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return found


def _task_states(flow_run_id: Any) -> dict[str, tuple[str, set[str]]]:
    """Return state name and names of the task runs waited for, by name; Prefect's server writes them a little later."""
    with get_client(sync_client=True) as client:
        for _ in range(100):
            runs = [run for run in client.read_task_runs() if run.flow_run_id == flow_run_id]
            if len(runs) >= len(STAGES) and all(run.state and run.state.is_final() for run in runs):
                break
            time.sleep(0.2)
    names = {run.id: run.name for run in runs}
    return {
        run.name: (run.state_name or "", {names[entry.id] for entry in run.task_inputs.get("wait_for", ())})
        for run in runs
    }


def _assert_complete(client: MlflowClient, parent_id: str, cached: dict[str, str]) -> None:
    """Hold a parent run against everything that the three stages left."""
    children = _children(client, parent_id)
    assert {name: run.data.tags["cached"] for name, run in children.items()} == cached
    assert all(run.info.status == "FINISHED" for run in children.values())
    compiled = children["compile"].data
    assert compiled.params == {
        "model.quality": "0.9", "model.seed": "0", "model.sleep_s": "0", "model.fail": "False"
    }  # fmt: skip
    assert children["prepare"].data.params == {"prepare.num_videos": "8"}
    assert children["prepare"].data.tags["undefined_metrics"] == "undefined"
    assert compiled.metrics["latency_ms"] == 2.5
    assert compiled.metrics["energy_kwh"] == compiled.metrics["energy_embodied_kwh"] == pytest.approx(2e-4)
    assert compiled.metrics["energy_spent_kwh"] == (0.0 if cached["compile"] == "true" else pytest.approx(2e-4))
    assert compiled.metrics["energy_co2e_kg"] == pytest.approx(2e-5)
    assert (compiled.tags["energy_method"], compiled.tags["energy_country"]) == ("estimated", "KEN")
    curve = client.get_metric_history(children["compile"].info.run_id, "loss")
    assert [(point.step, point.value) for point in sorted(curve, key=lambda point: point.step)] == [
        (step, pytest.approx(1 / (1 + step))) for step in range(4)
    ]
    assert _artifacts(client, children["evaluate"].info.run_id) == {
        "evaluation.json", "energy.json", "metrics.json", "pictures/curve.svg"
    }  # fmt: skip
    assert "history.jsonl" in _artifacts(client, children["compile"].info.run_id)


def test_a_run_a_cached_run_and_a_refusal(repository: TinyRepository, capfd: pytest.CaptureFixture[str]) -> None:
    client = connect(repository.settings.tracking_uri)
    (repository.root / "data.dvc").write_text("outs:\n- md5: 0123abc.dir\n  path: data\n")

    first = train(**repository.flow_arguments)
    assert isinstance(first, RunSummary)
    assert first.verdict is not None
    assert first.verdict.promoted
    assert first.version == "models:/herdlight/1"
    assert list(first.outcomes.values()) == [Outcome.RAN] * 3
    assert repository.stages_run() == STAGES
    assert _champion(repository) == "1"
    _assert_complete(client, first.run_id, dict.fromkeys(STAGES, "false"))
    parent = client.get_run(first.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["verdict"] == "promoted"
    assert parent.data.tags["mlflow.note.content"].startswith("**Promoted**")
    assert client.get_experiment(parent.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert parent.data.tags["model_version"] == "1"
    assert parent.data.tags["data_hash"] == "0123abc.dir"
    assert parent.data.metrics["compiled_f1"] == 1.0
    assert "compiled_f1_low" in parent.data.metrics
    assert parent.data.metrics["energy_embodied_kwh"] == parent.data.metrics["energy_spent_kwh"] == EMBODIED_KWH
    assert {"verdict.json", "evaluation.json", "dvc.lock"} <= _artifacts(client, first.run_id)
    version = client.get_model_version("herdlight", "1")
    assert version.description == parent.data.tags["mlflow.note.content"]
    assert (version.tags["f1"], version.tags["verdict"], version.run_id) == ("1.0000", "promoted", first.run_id)

    state = train(**repository.flow_arguments, return_state=True)
    second = state.result()
    assert repository.stages_run() == STAGES  # nothing ran again
    _assert_complete(client, second.run_id, dict.fromkeys(STAGES, "true"))
    totals = client.get_run(second.run_id).data.metrics
    assert (totals["energy_embodied_kwh"], totals["energy_spent_kwh"]) == (EMBODIED_KWH, 0.0)
    assert (second.version, _champion(repository)) == ("models:/herdlight/1", "1")  # the same model: no new version
    tasks = _task_states(state.state_details.flow_run_id)
    assert {name: tasks[name][0] for name in STAGES} == dict.fromkeys(STAGES, "Cached")
    assert tasks["evaluate"][1] == {"compile"}
    assert tasks["compile"][1] == {"prepare"}

    capfd.readouterr()
    refused = train(**repository.flow_arguments, overrides=["gate.min_f1=1.0", "model.quality=0.4"], return_state=True)
    assert refused.is_failed()
    with pytest.raises(GateRefused) as refusal:
        refused.result()
    line = str(refusal.value)
    assert "min_f1" in line
    assert "1.0000" in line  # the bound
    summary = RunSummary.from_json(read_json(summary_path(repository.settings)))
    assert summary.verdict is not None
    value = {entry.name: entry for entry in summary.verdict.lines}["min_f1"].value
    assert f"{value:.4f}" in line  # and the figure
    assert refused.message == line
    assert "Traceback" not in capfd.readouterr().err
    assert _champion(repository) == "1"
    assert summary.version == "models:/herdlight/2"
    assert client.get_model_version("herdlight", "2").tags["verdict"] == "refused"
    assert {name: outcome.value for name, outcome in summary.outcomes.items()} == {
        "prepare": "cached", "compile": "ran", "evaluate": "ran"
    }  # fmt: skip
    third = client.get_run(summary.run_id).data.metrics
    assert third["energy_embodied_kwh"] == EMBODIED_KWH
    assert third["energy_spent_kwh"] == pytest.approx(6e-4)


def test_a_better_model_replaces_the_champion_and_an_equal_one_does_not(repository: TinyRepository) -> None:
    repository.set("gate", min_f1=0.0)
    weak = train(**repository.flow_arguments, overrides=["model.quality=0.3"])
    assert weak.verdict is not None
    assert weak.verdict.resolution is not None
    assert not weak.verdict.resolution.is_paired

    better = train(**repository.flow_arguments, overrides=["model.quality=0.9"])
    assert better.verdict is not None
    line = {entry.name: entry for entry in better.verdict.lines}["champion"]
    assert line.value is not None
    assert line.value <= 0.025
    assert better.verdict.resolution is not None
    assert better.verdict.resolution.is_paired
    assert _champion(repository) == "2"

    with pytest.raises(GateRefused, match=r"^refused: champion: .*none of 8 videos has other counts"):
        train(**repository.flow_arguments, overrides=["model.seed=1"])
    assert _champion(repository) == "2"


def test_a_failing_stage_stops_the_run_and_a_rerun_goes_on(repository: TinyRepository) -> None:
    client = connect(repository.settings.tracking_uri)
    state = train(**repository.flow_arguments, overrides=["model.fail=true"], return_state=True)
    assert state.is_failed()
    with pytest.raises(StageFailed, match=r"^stage compile: weights of layer 3 do not fit; lower model.quality$"):
        state.result()
    assert repository.stages_run() == ["prepare"]
    tasks = _task_states_of_two(state.state_details.flow_run_id)
    assert tasks == {"prepare": "Completed", "compile": "Failed"}
    (parent,) = _parents(client)
    assert parent.info.status == "FAILED"
    children = _children(client, parent.info.run_id)
    assert {name: run.info.status for name, run in children.items()} == {"prepare": "FINISHED", "compile": "FAILED"}
    assert "layer 3" in children["compile"].data.tags["error"]
    assert _champion(repository) is None

    summary = train(**repository.flow_arguments, overrides=["model.fail=false"])
    assert repository.stages_run() == STAGES
    assert list(summary.outcomes.values()) == [Outcome.CACHED, Outcome.RAN, Outcome.RAN]


def _task_states_of_two(flow_run_id: Any) -> dict[str, str]:
    with get_client(sync_client=True) as client:
        for _ in range(100):
            runs = [run for run in client.read_task_runs() if run.flow_run_id == flow_run_id]
            if len(runs) >= 2 and all(run.state and run.state.is_final() for run in runs):
                break
            time.sleep(0.2)
    return {run.name: run.state_name or "" for run in runs}


def _stop_in_compile(repository: TinyRepository, number: signal.Signals) -> tuple[int, str, int]:
    """Start the flow as a process, send the signal while stage compile sleeps; return status, errors, stage's pid."""
    sleeping = repository.root / "sleeping"
    sleeping.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.train", "--root", str(repository.root)],
        env={**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_until(lambda: sleeping.is_file() and bool(sleeping.read_text()))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors, int(sleeping.read_text())


def test_stopping_in_the_middle_of_a_stage(repository: TinyRepository) -> None:
    client = connect(repository.settings.tracking_uri)
    repository.set("model", sleep_s=600)
    status, errors, stage_pid = _stop_in_compile(repository, signal.SIGINT)
    assert status == 130
    assert "train: interrupted" in errors
    _wait_until(lambda: not _is_running(stage_pid))
    assert _parents(client)[0].info.status == "KILLED"

    status, _, stage_pid = _stop_in_compile(repository, signal.SIGTERM)
    assert status == 130
    _wait_until(lambda: not _is_running(stage_pid))
    assert _parents(client)[1].info.status == "KILLED"

    status, _, stage_pid = _stop_in_compile(repository, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert _parents(client)[2].info.status == "RUNNING"  # nobody was left to close it
    os.kill(stage_pid, signal.SIGKILL)
    _wait_until(lambda: not _is_running(stage_pid))

    repository.set("model", sleep_s=0)
    summary = train(**repository.flow_arguments)
    assert list(summary.outcomes.values()) == [Outcome.CACHED, Outcome.RAN, Outcome.RAN]
    assert repository.stages_run() == STAGES
    assert [run.info.status for run in _parents(client)] == ["KILLED", "KILLED", "KILLED", "FINISHED"]
    assert _champion(repository) == "1"


def test_no_tracking_server_means_no_stage_and_one_line(repository: TinyRepository) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        before = (repository.root / "params.yaml").read_bytes()
        state = train(
            root=str(repository.root), tracking_uri=address, overrides=["model.quality=0.1"], return_state=True
        )
    with pytest.raises(TrackingUnavailable) as away:
        state.result()
    assert address in str(away.value)
    assert "MLFLOW_TRACKING_URI" in str(away.value)
    assert "\n" not in str(away.value)
    assert repository.stages_run() == []
    assert (repository.root / "params.yaml").read_bytes() == before


def test_a_store_that_goes_away_in_the_middle_loses_no_stage(
    repository: TinyRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MlflowClient.create_run

    def create_run(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        from mlflow.exceptions import MlflowException

        if kwargs.get("run_name") == "compile":
            raise MlflowException("API request failed: connection refused\nby the peer")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", create_run)
        with pytest.raises(TrackingUnavailable, match="connection refused by the peer"):
            train(**repository.flow_arguments)
    assert repository.stages_run() == ["prepare", "compile"]
    summary = train(**repository.flow_arguments)
    assert repository.stages_run() == STAGES
    _assert_complete(
        connect(repository.settings.tracking_uri),
        summary.run_id,
        {"prepare": "true", "compile": "true", "evaluate": "false"},
    )


def test_a_dag_without_a_candidate_ends_with_its_last_stage(repository: TinyRepository) -> None:
    import yaml

    content = yaml.safe_load((repository.root / "dvc.yaml").read_text())
    del content["stages"]["evaluate"]
    (repository.root / "dvc.yaml").write_text(yaml.safe_dump(content))
    summary = train(**repository.flow_arguments)
    assert (summary.verdict, summary.version) == (None, None)
    assert repository.stages_run() == ["prepare", "compile"]


def test_wrong_overrides_stop_before_any_stage(repository: TinyRepository) -> None:
    for setting, words in [("gate.min_f1=2", "gate.min_f1"), ("nope.x=1", "no such section"), ("gate", "section.key")]:
        with pytest.raises(ParamsError, match=words):
            train(**repository.flow_arguments, overrides=[setting])
    assert repository.stages_run() == []
    assert json.dumps(_parents_or_none(repository)) == "[]"


def _parents_or_none(repository: TinyRepository) -> list[str]:
    client = connect(repository.settings.tracking_uri)
    return [] if client.get_experiment_by_name("herdlight") is None else [run.info.run_id for run in _parents(client)]


def _wait_until(condition: Any) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for a minute")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").is_dir() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
