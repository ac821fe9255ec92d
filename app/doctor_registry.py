"""Checks of the tracking store and of the model registry in it; the ones that need MLflow.

A store that is not there is reported and not made.
"""

from pathlib import Path

from app.check import Check, http_problem
from models.errors import HerdlightError


def check_tracking(root: Path) -> Check:
    """Return whether the MLflow store answers: $MLFLOW_TRACKING_URI, or the embedded store of the repository `root`."""
    from tasks.mlflow_store import default_tracking_uri, sqlite_path

    uri = default_tracking_uri(root)
    store = sqlite_path(uri)
    if store is not None:
        if store.is_file():
            return Check("tracking store", True, f"{uri}, {store.stat().st_size / 1e6:.1f} MB")
        return Check("tracking store", False, f"{uri}: no such file", "make run makes and fills it")
    problem = http_problem(f"{uri.rstrip('/')}/health")
    remedy = "start the server, or unset MLFLOW_TRACKING_URI for the embedded store" if problem else ""
    return Check("tracking store", not problem, f"{uri}: {problem}" if problem else uri, remedy)


def check_champion(root: Path, tracking: Check) -> Check:
    """Return which version of the model is the champion; `tracking` tells whether the registry can be asked at all."""
    remedy = "make run trains a model and promotes it if it passes the gate; or herdlight score --model FOLDER"
    if not tracking.ok:
        return Check("champion", False, "the tracking store does not answer", remedy)
    from tasks.mlflow_store import MODEL_NAME, connect, default_tracking_uri
    from tasks.model_uri import registered_aliases

    uri = default_tracking_uri(root)
    try:
        aliases = registered_aliases(connect(uri), uri, MODEL_NAME) or {}
    except HerdlightError as error:
        return Check("champion", False, str(error), remedy)
    if "champion" not in aliases:
        return Check("champion", False, f"no version of {MODEL_NAME} is the champion", remedy)
    return Check("champion", True, f"{MODEL_NAME} version {aliases['champion']}")
