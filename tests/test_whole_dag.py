"""The whole DAG, for real, on a tiny drawn data set in a repository of its own: `dvc repro`, then the flow.

One set-up, several looks: bytes that do not change, everything cached the second time, MLflow complete all the same,
and a gate at an impossible threshold that refuses and leaves the alias alone.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from models.files import read_json
from tasks.sample.make import make_sample

ROOT = Path(__file__).resolve().parents[1]
STAGES = [
    "ingest", "validate", "frames", "pretrain", "embed", "train", "prune", "ladder", "categorise", "compile",
    "evaluate", "gate", "report",
]  # fmt: skip
# What a clock, a meter or a page with times writes; everything else must be the same bytes.
MEASURED = (
    "energy.json", "latency.json", "data_docs", "report.html", "model_card.md", "build/report/metrics.json",
    "build/ladder/chosen", "build/ladder/ladder.json", "build/ladder/ladder.png", "build/ladder/metrics.json",
)  # fmt: skip
PARAMS = """
pretrain: {epochs: 1, batch_size: 32}
embed: {views: 1}
train: {epochs: 1, window: 8, hidden_dim: 16}
prune: {recovery_epochs: 1}
ladder: {rungs: [openvino], num_rounds: 2, latency_budget_s: 0.01, energy_budget_s: 0, resident: false}
compile: {engine: openvino, candidates: [openvino], also_build: [], latency_budget_s: 0.05}
evaluate: {num_bootstrap: 200}
validate: {min_videos_per_split: 2}
gate: {min_f1: 1.0}
"""


def make_house(folder: Path, data: Path) -> Path:
    """Make a repository with this checkout's DAG, code and nothing else, and the given data."""
    folder.mkdir()
    for name in ("models", "tasks", "flows", "dvc.yaml", ".dvcignore"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    shutil.copytree(data, folder / "data")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in yaml.safe_load(PARAMS).items():
        params[section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / ".gitignore").write_text("/build/\n/data/\n/mlflow/\n__pycache__/\n")
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "add", "-q", "data")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start")
    return folder


def run(folder: Path, *command: str, status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PREFECT_HOME": str(folder / ".prefect")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def locked(folder: Path) -> Mapping[str, str]:
    """Return the hash of every output that is no measurement."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in outs.items() if not path.endswith(MEASURED)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    make_sample(folder, num_clips=16, seed=5, duration_s=(2.0, 2.5))
    return folder


@pytest.fixture(scope="module")
def house(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which `dvc repro` has run once."""
    folder = make_house(tmp_path_factory.mktemp("house") / "a", data)
    run(folder, sys.executable, "-m", "dvc", "repro")
    return folder


def test_dvc_repro_runs_every_stage_and_leaves_metrics_and_energy_of_each(house: Path) -> None:
    for stage in STAGES:
        metrics: dict[str, Any] = read_json(house / "build" / stage / "metrics.json")
        assert all(value is None or isinstance(value, (int, float)) for value in metrics.values()), stage
        assert read_json(house / "build" / stage / "energy.json")["kwh"] > 0
    assert "http" not in (house / "build/report/report.html").read_text().split("<body")[0].replace("http-equiv", "")


def test_a_second_dvc_repro_does_nothing(house: Path) -> None:
    before = (house / "dvc.lock").read_bytes()
    started = time.monotonic()
    assert "up to date" in run(house, sys.executable, "-m", "dvc", "repro")
    print(f"second dvc repro: {time.monotonic() - started:.1f} s")  # noqa: T201  (measured, never judged)
    assert (house / "dvc.lock").read_bytes() == before


def test_the_same_data_and_params_give_the_same_bytes_in_another_repository(
    house: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_house(tmp_path_factory.mktemp("other") / "b", data)
    run(other, sys.executable, "-m", "dvc", "repro")
    first, second = locked(house), locked(other)
    assert first.keys() == second.keys()
    assert {path for path in first if first[path] != second[path]} == set()


def test_dvc_shows_metrics_and_plots(house: Path) -> None:
    assert "compiled_f1" in run(house, sys.executable, "-m", "dvc", "metrics", "show", "--md")
    run(house, sys.executable, "-m", "dvc", "plots", "show")
    assert (house / "dvc_plots" / "index.html").is_file()


def test_the_flow_finds_every_stage_cached_logs_all_of_them_and_the_gate_refuses(house: Path) -> None:
    said = run(house, sys.executable, "-m", "flows.train", status=1)
    assert "it must be at least 1.0000" in said
    client = MlflowClient(f"sqlite:///{house / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=100)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert len(parents) == 1
    assert sorted(children) == sorted(STAGES)
    for stage, child in children.items():
        assert child.data.tags["cached"] == "true", stage
        assert set(read_json(house / "build" / stage / "metrics.json")) - set(child.data.metrics) == {
            key for key, value in read_json(house / "build" / stage / "metrics.json").items() if value is None
        }, stage
    assert len(client.get_metric_history(children["train"].info.run_id, "loss")) == 1
    assert parents[0].data.metrics["energy_spent_kwh"] == 0
    assert parents[0].data.metrics["energy_embodied_kwh"] > 0
    (version,) = client.search_model_versions("name='herdlight'")
    assert version.tags["verdict"] == "refused"
    assert "champion" not in client.get_registered_model("herdlight").aliases
