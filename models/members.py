"""The folder of an ensemble: `ensemble.json`, {"members": ["fold-0", "fold-1", …]}, beside the served models it lists.

Knows that file and how a folder that scores is told from any other; does not load a model (models/ensemble.py does),
so that a door may ask before it imports torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.files import read_json, write_json

ENSEMBLE_FILE = "ensemble.json"
_MODEL_FILE = "model.json"


def is_ensemble_folder(folder: Path) -> bool:
    """Return whether `folder` holds an ensemble."""
    return (folder / ENSEMBLE_FILE).is_file()


def is_scorer_folder(folder: Path) -> bool:
    """Return whether `folder` holds a served model or an ensemble."""
    return (folder / _MODEL_FILE).is_file() or is_ensemble_folder(folder)


def write_members(folder: Path, members: Sequence[str]) -> None:
    """Write `ensemble.json` into `folder`, atomically; `members` are the names of served models that lie below it.

    Raises ModelError where one does not.
    """
    _check(folder / ENSEMBLE_FILE, list(members))
    write_json(folder / ENSEMBLE_FILE, {"members": list(members)})


def member_folders(folder: Path) -> list[Path]:
    """Return the folders that `ensemble.json` in `folder` lists. Raises ModelError where one is no served model."""
    path = folder / ENSEMBLE_FILE
    try:
        content: Any = read_json(path)
        members = content["members"]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(f'{path}: not {{"members": [folder, …]}} ({type(error).__name__}: {error})') from None
    return _check(path, members)


def _check(path: Path, members: Any) -> list[Path]:
    if not isinstance(members, list) or not members or not all(isinstance(name, str) and name for name in members):
        raise ModelError(f"{path}: members = {members!r} must be a list of folders, one at least")
    for name in members:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path}: member {name!r} must lie below the folder of the ensemble")
        if not (path.parent / name / _MODEL_FILE).is_file():
            raise ModelError(f"{path}: member {name!r} is no served model, there is no {name}/{_MODEL_FILE}")
    return [path.parent / name for name in members]
