"""Deployments: their schedules, and a real server on which scheduled runs start by themselves and finish."""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.registry import CHAMPION, Registry
from flows.serve import DEFAULT_INBOX_INTERVAL_S, DEFAULT_TRAIN_CRON, make_deployments
from tasks.mlflow_store import connect
from tests.flows.tiny import TinyRepository

ROOT = Path(__file__).resolve().parents[2]


def _entrypoint(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_both_deployments_have_dotted_entry_points_and_schedules(repository: TinyRepository) -> None:
    nightly, inbox = make_deployments(repository.settings)
    assert (nightly.flow_name, nightly.name, nightly.entrypoint) == ("train", "nightly", "flows.train.train")
    assert (inbox.flow_name, inbox.name) == ("score-library", "inbox")
    assert inbox.entrypoint == "flows.score_library.score_library"
    (cron,), (interval,) = ([entry.schedule for entry in found.schedules or []] for found in (nightly, inbox))
    assert cron.cron == DEFAULT_TRAIN_CRON == "0 2 * * *"
    assert interval.interval.total_seconds() == DEFAULT_INBOX_INTERVAL_S == 900
    assert nightly.parameters["root"] == str(repository.root)
    assert (nightly.concurrency_limit, inbox.concurrency_limit) == (1, 1)


def test_schedules_can_be_replaced(repository: TinyRepository) -> None:
    nightly, inbox = make_deployments(repository.settings, train_interval_s=5, inbox_interval_s=7, inbox_min_age_s=1)
    intervals = [found.schedules[0].schedule.interval.total_seconds() for found in (nightly, inbox)]
    assert intervals == [5, 7]
    assert inbox.parameters["min_age_s"] == 1
    nightly, _ = make_deployments(repository.settings, train_cron="30 4 * * 1")
    assert nightly.schedules[0].schedule.cron == "30 4 * * 1"


def test_prefect_yaml_names_the_same_two(repository: TinyRepository) -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for entry, served in zip(content["deployments"], make_deployments(repository.settings), strict=True):
        assert (entry["name"], entry["entrypoint"]) == (served.name, served.entrypoint)
        assert entry["description"] == served.description
        assert _entrypoint(entry["entrypoint"]).name == served.flow_name
        assert entry["concurrency_limit"]["limit"] == served.concurrency_limit
        (schedule,) = entry["schedules"]
        (expected,) = served.schedules
        if "cron" in schedule:
            assert schedule["cron"] == expected.schedule.cron
        else:
            assert schedule["interval"] == expected.schedule.interval.total_seconds()


def test_a_scheduled_run_starts_by_itself_and_finishes(repository: TinyRepository, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    serve = ["flows.serve", "--root", str(repository.root), "--tracking-uri", repository.settings.tracking_uri]
    quick = ["--train-interval-s", "6", "--inbox-interval-s", "6"]
    with _running(
        ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        environment,
        tmp_path / "server",
    ):
        _wait_for(lambda: _answers(f"{api}/health"))
        with _running(["-m", *serve, *quick], environment, tmp_path / "serve"):
            finished = _wait_for(lambda: _finished(api))
    assert set(finished) == {"nightly", "inbox"}
    assert all(run["state_type"] == "COMPLETED" and run["auto_scheduled"] for run in finished.values()), finished
    assert repository.stages_run()[:3] == ["prepare", "compile", "evaluate"]
    champion = Registry(connect(repository.settings.tracking_uri), repository.settings).alias(CHAMPION)
    assert champion is not None
    assert champion.version == "1"
    assert (repository.root / "inbox").is_dir()


@contextlib.contextmanager
def _running(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a Python process from another folder than the code's; end it, and what it started, by its group."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from error
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _post(url: str, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _finished(api: str) -> dict[str, Any] | None:
    """Return the first finished run of each deployment by its name, once both have one."""
    deployments = {entry["id"]: entry["name"] for entry in _post(f"{api}/deployments/filter", {})}
    states = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
    runs = _post(f"{api}/flow_runs/filter", {"flow_runs": states, "sort": "START_TIME_DESC"})
    found = {deployments[run["deployment_id"]]: run for run in runs if run["deployment_id"] in deployments}
    return found if len(found) == 2 else None


def _wait_for(condition: Any) -> Any:
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("did not happen within three minutes")
