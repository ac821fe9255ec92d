"""Where a flow works: the repository, the store, the names. Flows take these as parameters and know no others."""

import os
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from tasks.mlflow_store import MODEL_NAME, default_tracking_uri


@dataclass(frozen=True)
class Settings:
    """One place of work.

    root:         repository root, absolute, the folder of dvc.yaml
    tracking_uri: of the MLflow store
    model_name:   of the registered model
    experiment:   of the runs
    """

    root: Path
    tracking_uri: str
    model_name: str = MODEL_NAME
    experiment: str = MODEL_NAME

    @staticmethod
    def of(root: str | Path | None = None, tracking_uri: str | None = None) -> "Settings":
        """Return settings for `root`, by default $HERDLIGHT_ROOT or the working folder, and its tracking store.

        Raises DataError when `root` is no folder.
        """
        folder = Path(root or os.environ.get("HERDLIGHT_ROOT") or Path.cwd()).resolve()
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; pass --root or set HERDLIGHT_ROOT to the repository")
        return Settings(folder, tracking_uri or default_tracking_uri(folder))

    @property
    def build(self) -> Path:
        """Folder of every stage's output."""
        return self.root / "build"
