"""The rung that the ladder chose, on disk: the highlighter that it serves, its engine, and what both were made from.

`build/ladder/chosen` holds `model.json` and `model.safetensors` (the highlighter, smaller where a part of the rung
made it so), `engine/` and `rung.json`. Stage `ladder` writes it and stage `compile` reads it. A folder that was made
from another model than the one at hand, as an old cache has it, is refused.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from models.engines import EngineRecord, read_record
from models.errors import EngineError, ModelError
from models.files import hash_file, read_json, replacing_folder, write_json
from models.highlighter import load_highlighter, save_highlighter
from tasks.rungs import BuiltRung, Model

RUNG_FILE, ENGINE_FOLDER = "rung.json", "engine"
LADDER_AGAIN = "run stage ladder again on this machine (dvc repro -f -s ladder)"


@dataclass(frozen=True, eq=False)
class ChosenRung:
    """A rung to serve.

    name:   of the rung
    model:  what its engine was built from, in eval mode, and its spec
    engine: folder of the engine
    """

    name: str
    model: Model
    engine: Path

    def copy_engine(self, folder: Path) -> EngineRecord:
        """Copy the engine to `folder` and return its record. Raises EngineError where a file is not as it was."""
        record = read_record(self.engine)
        shutil.copytree(self.engine, folder)
        return record


def save_chosen(folder: Path, built: BuiltRung, parent: Path) -> None:
    """Write a chosen rung, atomically.

    parent: folder of the model that the ladder was given
    """
    with replacing_folder(folder) as temporary:
        save_highlighter(temporary, *built.model)
        shutil.copytree(built.folder, temporary / ENGINE_FOLDER)
        rung = {"name": built.rung.name, "kind": built.rung.kind, "threshold": built.threshold}
        write_json(temporary / RUNG_FILE, {**rung, "made_from": fingerprint(parent)})


def load_chosen(folder: Path, parent: Path) -> ChosenRung:
    """Return the chosen rung in `folder`.

    Raises EngineError where it is missing or damaged, or was not made from the model in `parent`.
    """
    path = folder / RUNG_FILE
    try:
        value = read_json(path)
        name, made_from = str(value["name"]), dict(value["made_from"])
    except FileNotFoundError:
        raise EngineError(f"{path}: no rung was chosen; {LADDER_AGAIN}, or set compile.engine to an engine") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: not a chosen rung ({error}); {LADDER_AGAIN}") from None
    if made_from != fingerprint(parent):
        raise EngineError(f"rung {name}: {folder} was made from another model than {parent}; {LADDER_AGAIN}")
    try:
        return ChosenRung(name, load_highlighter(folder), folder / ENGINE_FOLDER)
    except ModelError as error:
        raise EngineError(f"rung {name}: {error}; {LADDER_AGAIN}") from None


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model, by name; {} where there is no such folder."""
    return {path.name: hash_file(path) for path in sorted(folder.glob("*")) if path.is_file()}
