"""Logging a flow run to MLflow: the one place where runs, parameters, metrics and artifacts are written.

One parent run a flow run, a child run a stage. A cached stage is logged in full, so that every parent run is complete;
its energy counts as embodied in the model and not as spent again. Knows the values of `flows.stage_files`; knows
nothing of the registry.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prefect.exceptions import TerminationSignal

from flows.dag import Stage
from flows.settings import Settings
from flows.stage_files import EnergyTotals, StageRecord, data_hash, is_figure
from models.energy import Energy
from models.errors import TrackingUnavailable
from models.evaluation import Evaluation
from models.files import hash_file
from models.verdict import Verdict
from tasks.mlflow_store import Metric, MlflowClient, MlflowException, Param, RunTag, reachable, sqlite_path

# MLflow's limits on one call and on one value.
_MAX_METRICS = 1000
_MAX_PARAMS = 100
_MAX_VALUE_CHARS = 6000
# MLflow's pages show an experiment of this kind as model training; without it they open on traces of language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class Tracker:
    """The parent run of one flow run.

    client, settings: the store
    experiment_id:    of the runs
    run_id:           of the parent run
    """

    client: MlflowClient
    settings: Settings
    experiment_id: str
    run_id: str

    def log_stage(self, record: StageRecord) -> str:
        """Write the child run of a stage, complete, and return its id."""
        cached = record.outcome.value == "cached"
        tags = {"cached": str(cached).lower(), "stage_cmd": record.stage.cmd}
        if record.undefined:
            tags["undefined_metrics"] = ", ".join(record.undefined)
        if record.energy is not None:
            tags |= {
                "energy_method": record.energy.method,
                "energy_device": record.energy.device,
                "energy_country": record.energy.country,
            }
        with self._child(record.stage, tags) as run_id:
            _log_params(self.client, run_id, record.params)
            _log_metrics(self.client, run_id, _stage_metrics(record, cached))
            for name in record.artifacts:
                self.client.log_artifact(run_id, str(self.settings.root / name), _artifact_folder(name, record.stage))
        return run_id

    def log_failed_stage(self, stage: Stage, message: str) -> None:
        """Write the child run of a stage that failed."""
        with contextlib.suppress(_StageEndedError), self._child(stage, {"cached": "false", "error": message}):
            raise _StageEndedError

    def log_result(self, totals: EnergyTotals, evaluation: Evaluation | None, tags: Mapping[str, str]) -> None:
        """Write the totals and the ladder on the parent run, and `tags`."""
        figures: dict[str, Any] = dict(evaluation.to_metrics()) if evaluation else {}
        for name, energy in (("embodied", totals.embodied), ("spent", totals.spent)):
            figures |= _energy_figures(f"energy_{name}", energy)
        with reachable(self.settings.tracking_uri):
            _log_metrics(
                self.client,
                self.run_id,
                [Metric(k, float(v), _now_ms(), 0) for k, v in figures.items() if is_figure(v)],
            )
            known = totals.embodied.method if totals.embodied else "none"
            self.client.log_batch(
                self.run_id, tags=[RunTag(key, value) for key, value in {**tags, "energy_method": known}.items()]
            )

    def log_verdict(self, verdict: Verdict) -> None:
        """Write the final verdict, champion line included, on the parent run."""
        with reachable(self.settings.tracking_uri):
            self.client.log_dict(self.run_id, verdict.to_json(), "verdict.json")
            self.client.set_tag(self.run_id, "verdict", "promoted" if verdict.promoted else "refused")
            self.client.set_tag(self.run_id, "verdict_text", verdict.text[:_MAX_VALUE_CHARS])
            self.client.set_tag(self.run_id, "mlflow.note.content", describe_verdict(verdict))

    def log_files(self, names: Iterable[str]) -> None:
        """Keep files of the repository with the parent run, those that are there."""
        with reachable(self.settings.tracking_uri):
            for name in names:
                if (self.settings.root / name).is_file():
                    self.client.log_artifact(self.run_id, str(self.settings.root / name))

    @contextlib.contextmanager
    def _child(self, stage: Stage, tags: Mapping[str, str]) -> Iterator[str]:
        """Open a child run, and close it as finished or failed."""
        with reachable(self.settings.tracking_uri):
            run = self.client.create_run(
                self.experiment_id,
                run_name=stage.name,
                tags={
                    "mlflow.parentRunId": self.run_id,
                    "mlflow.note.content": stage.desc,
                    "stage": stage.name,
                    **_provenance(self.settings.root),
                    **tags,
                },
            )
            status = "FAILED"
            try:
                yield run.info.run_id
                status = "FINISHED"
            finally:
                self.client.set_terminated(run.info.run_id, status)


class _StageEndedError(Exception):
    """Leaves the block of a child run as failed."""


@contextlib.contextmanager
def parent_run(client: MlflowClient, settings: Settings, name: str, tags: Mapping[str, str]) -> Iterator[Tracker]:
    """Open the parent run of a flow run; close it as FINISHED, FAILED, or KILLED when somebody stopped it."""
    with reachable(settings.tracking_uri):
        experiment_id = _experiment(client, settings)
        _close_abandoned(client, experiment_id)
        process = {"host": socket.gethostname(), "pid": str(os.getpid())}
        run = client.create_run(experiment_id, run_name=name, tags={**_provenance(settings.root), **process, **tags})
    status = "FAILED"
    try:
        yield Tracker(client, settings, experiment_id, run.info.run_id)
        status = "FINISHED"
    except (KeyboardInterrupt, TerminationSignal):
        status = "KILLED"
        raise
    finally:
        # A store that went away in the meantime is already being reported by what is raised here.
        with contextlib.suppress(TrackingUnavailable), reachable(settings.tracking_uri):
            client.set_terminated(run.info.run_id, status)


def _close_abandoned(client: MlflowClient, experiment_id: str) -> None:
    """Close as KILLED the parent runs whose process on this machine is gone: a kill leaves them open."""
    host = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], host):
        try:
            os.kill(int(run.data.tags["pid"]), 0)
        except ProcessLookupError:
            client.set_terminated(run.info.run_id, "KILLED")
        except PermissionError:
            continue


def _experiment(client: MlflowClient, settings: Settings) -> str:
    """Return the id of the experiment, made on first use; artifacts of a sqlite store lie beside its file."""
    found = client.get_experiment_by_name(settings.experiment)
    if found is not None:
        return str(found.experiment_id)
    database = sqlite_path(settings.tracking_uri)
    location = None if database is None else (database.resolve().parent / "artifacts").as_uri()
    try:
        return str(client.create_experiment(settings.experiment, artifact_location=location, tags=_KIND))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another flow run was quicker
            raise
        return _experiment(client, settings)


def _provenance(root: Path) -> dict[str, str]:
    """Return tags that say what the figures were made from: git commit, data, dvc.lock."""
    commit = _git(root, "rev-parse", "HEAD")
    tags = {"git_commit": commit or "none"}
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git_dirty"] = str(bool(_git(root, "status", "--porcelain", "--untracked-files=no"))).lower()
    data = data_hash(root)
    if data:
        tags["data_hash"] = data
    if (root / "dvc.lock").is_file():
        tags["dvc_lock_hash"] = hash_file(root / "dvc.lock")
    return tags


def describe_verdict(verdict: Verdict) -> str:
    """Return the verdict as Markdown, a line for each rule: the description of run and version in MLflow."""
    head = "**Promoted**" if verdict.promoted else "**Refused**"
    lines = [f"- {'passed' if line.passed else '**failed**'}: {line.text}" for line in verdict.lines]
    return "\n".join([f"{head}. The report is among the artifacts of its run.", "", *lines])


def git_commit(root: Path) -> str:
    """Return the commit of the repository, "none" outside git."""
    return _git(root, "rev-parse", "HEAD") or "none"


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _stage_metrics(record: StageRecord, cached: bool) -> list[Metric]:
    now = _now_ms()
    figures: dict[str, float] = dict(record.metrics) | _energy_figures("energy", record.energy)
    if record.energy is not None:
        figures["energy_embodied_kwh"] = record.energy.kwh
        figures["energy_spent_kwh"] = 0.0 if cached else record.energy.kwh
    metrics = [Metric(key, value, now, 0) for key, value in figures.items()]
    for index, row in enumerate(record.history):
        step = row.get("step", index)
        metrics.extend(
            Metric(key, float(value), now, int(step))
            for key, value in row.items()
            if key != "step" and is_figure(value)
        )
    return metrics


def _energy_figures(prefix: str, energy: Energy | None) -> dict[str, float]:
    if energy is None:
        return {f"{prefix}_kwh": 0.0} if prefix == "energy_spent" else {}
    return {
        f"{prefix}_kwh": energy.kwh,
        f"{prefix}_cpu_kwh": energy.cpu_kwh,
        f"{prefix}_gpu_kwh": energy.gpu_kwh,
        f"{prefix}_ram_kwh": energy.ram_kwh,
        f"{prefix}_co2e_kg": energy.co2e_kg,
        f"{prefix}_seconds": energy.seconds,
    }


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    entries = [Param(key, str(value)[:_MAX_VALUE_CHARS]) for key, value in params.items()]
    for first in range(0, len(entries), _MAX_PARAMS):
        client.log_batch(run_id, params=entries[first : first + _MAX_PARAMS])


def _log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    for first in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])


def _artifact_folder(name: str, stage: Stage) -> str | None:
    """Return the folder of an artifact in its run, as it lies in the stage's folder; None for its top."""
    path, folder = PurePosixPath(name), PurePosixPath(stage.folder)
    parent = (path.relative_to(folder) if folder in path.parents else path).parent
    return None if parent == PurePosixPath(".") else parent.as_posix()


def _now_ms() -> int:
    return int(time.time() * 1000)
