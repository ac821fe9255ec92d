"""Reaching MLflow: which store, and one clear line when it does not answer.

Everything of MLflow that herdlight uses is imported here, once. Knows tracking URIs, retries and how MLflow reports a
store that is away; knows nothing of what is logged there.
"""

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path

from models.errors import TrackingUnavailable
from tasks.shell import quiet_environment

with warnings.catch_warnings():
    # MLflow 3.17 warns about type hints of its own classes while it is being imported.
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

__all__ = [
    "CHAMPION_URI",
    "MODEL_NAME",
    "ColSpec",
    "DataType",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "ModelSignature",
    "Param",
    "ParamSchema",
    "ParamSpec",
    "RunTag",
    "Schema",
    "connect",
    "default_tracking_uri",
    "fluent",
    "mlflow",
    "reachable",
    "sqlite_path",
]

MODEL_NAME = "herdlight"
CHAMPION_URI = f"models:/{MODEL_NAME}@champion"

# MLflow's own defaults wait for minutes before they admit that a server is down, and draw a bar for each file.
_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def default_tracking_uri(root: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, or the embedded store of the repository `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow' / 'mlflow.db'}"


def sqlite_path(tracking_uri: str) -> Path | None:
    """Return the file of a sqlite store, None for any other URI."""
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of the store, after it has answered once. Raises TrackingUnavailable within seconds if not."""
    quiet_environment()
    for name, value in _MANNERS.items():
        os.environ.setdefault(name, value)
    path = sqlite_path(tracking_uri)
    if path is not None:
        _check_sqlite(path, tracking_uri)
    with reachable(tracking_uri), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's tables use what SQLAlchemy calls deprecated
        client = MlflowClient(tracking_uri, tracking_uri)
        client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def reachable(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow and its drivers raise in the block into TrackingUnavailable, in one line."""
    try:
        yield
    except MlflowException as error:
        raise _unavailable(tracking_uri, str(error)) from error


@contextlib.contextmanager
def fluent(tracking_uri: str) -> Iterator[None]:
    """Point MLflow's global state at the store for the block, for the calls that take no client; then put it back."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # set_tracking_uri writes the first
    before, environment = mlflow.get_tracking_uri(), {name: os.environ.pop(name, None) for name in names}
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on type hints and input examples, in colour
            yield
    finally:
        mlflow.set_tracking_uri(before)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _check_sqlite(path: Path, tracking_uri: str) -> None:
    """Open the file for writing: MLflow would try for minutes where the folder or the file is not usable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA user_version").fetchone()
            connection.execute("BEGIN IMMEDIATE").connection.rollback()
    except (OSError, sqlite3.Error) as error:
        raise _unavailable(tracking_uri, str(error)) from None


def _unavailable(tracking_uri: str, reason: str) -> TrackingUnavailable:
    line = " ".join(reason.split())
    short = line if len(line) <= 300 else f"{line[:300]}…"
    return TrackingUnavailable(
        f"MLflow at {tracking_uri} does not answer as it should: {short}; start it or correct MLFLOW_TRACKING_URI "
        "(without it the store is mlflow/mlflow.db); finished stages are kept"
    )
