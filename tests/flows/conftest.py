"""Fixtures of the tests of flows: a tiny repository, and a Prefect server for one session of tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.settings import Settings
from tasks.mlflow_store import connect
from tests.flows.tiny import TinyRepository, make_repository

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect database and server of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh tiny repository with an empty MLflow store, made once: MLflow takes seconds to lay out its tables."""
    root = tmp_path_factory.mktemp("template")
    make_repository(root)
    connect(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    return root


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRepository:
    root = tmp_path / "repository"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(root / "scripts"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    return TinyRepository(Settings(root, f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"))
