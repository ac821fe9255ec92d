"""Profiles and overrides: other values into `params.yaml`, as `dvc exp run -S` puts them there.

DVC compares params.yaml with dvc.lock, so an override is an edit of that file; comments and order stay. Knows which
class checks which section; the classes themselves sit in the files of their stages and are imported when needed.
"""

import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from models.errors import ParamsError
from models.files import write_text
from models.params import Section, parse_section, read_params

# The stage file that holds the class of each section; the class is named after the section: train -> TrainParams.
SECTION_MODULES: Mapping[str, str] = {
    "ingest": "tasks.ingest",
    "validate": "tasks.validate",
    "encoder": "models.encoder",
    "frames": "tasks.frames",
    "pretrain": "tasks.pretrain",
    "embed": "tasks.embed",
    "train": "tasks.train",
    "prune": "tasks.prune",
    "ladder": "tasks.ladder",
    "compile": "tasks.compile",
    "calibration": "models.calibration",
    "evaluate": "tasks.evaluate",
    "gate": "tasks.gate",
    "spans": "tasks.train",
    "categories": "models.category",
}


def override_params(path: Path, profile: str | None = None, settings: Sequence[str] = ()) -> list[str]:
    """Merge a profile and then `settings` into the params file `path`; return one line for each changed value.

    profile:  NAME of a file params/NAME.yaml beside `path`, or None
    settings: "section.key=value", the value read as YAML

    All or nothing: the file is replaced only when every value is acceptable. Raises ParamsError otherwise.
    """
    if profile is None and not settings:
        return []
    read_params(path)  # one message for a missing or malformed file
    document, yaml_io = _read_round_trip(path)
    changes: list[str] = []
    if profile is not None:
        _merge(document, _read_profile(path.parent / "params", profile), (), changes)
    for setting in settings:
        keys, value = parse_setting(setting)
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        _merge(document, nested, (), changes)
    _check_sections(document, path, {change.partition(":")[0].split(".")[0] for change in changes})
    if changes:
        buffer = io.StringIO()
        yaml_io.dump(document, buffer)
        write_text(path, buffer.getvalue())
    return changes


def parse_setting(setting: str) -> tuple[tuple[str, ...], Any]:
    """Return ("a", "b") and the value of "a.b=value", read as YAML. Raises ParamsError when it is not of that form."""
    name, equals, text = setting.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ParamsError(f"--set {setting!r}: must be section.key=value, for example train.epochs=6")
    return keys, read_value(setting, text)


def read_value(setting: str, text: str) -> Any:
    """Return `text`, the value in `--set setting`, read as YAML. Raises ParamsError where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"--set {setting!r}: value is not YAML: {' '.join(str(error).split())}") from None


def section_class(name: str) -> type[Section] | None:
    """Return the class that checks section `name`, or None where its stage's file has none by that name."""
    module_name = SECTION_MODULES[name]
    if importlib.util.find_spec(module_name) is None:
        return None
    found = getattr(importlib.import_module(module_name), f"{name.title()}Params", None)
    return found if isinstance(found, type) and issubclass(found, Section) else None


def _read_profile(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ParamsError(f"profile {name!r}: no file {path}; profiles there are: {known}")
    return read_params(path)


def _read_round_trip(path: Path) -> tuple[CommentedMap, YAML]:
    yaml_io = YAML(typ="rt")
    yaml_io.preserve_quotes = True
    yaml_io.width = 4096
    # The house writes null as `null`; ruamel's default writes an empty value.
    yaml_io.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    try:
        return yaml_io.load(path.read_text(encoding="utf-8")), yaml_io
    except YAMLError as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def _merge(target: Any, values: Mapping[str, Any], place: tuple[str, ...], changes: list[str]) -> None:
    """Put `values` into `target` in place, deep; note each value that becomes another."""
    for key, value in values.items():
        here = (*place, str(key))
        present = target.get(key)
        if not place and present is None:
            if key not in SECTION_MODULES:
                raise ParamsError(f"{key}: no such section; params.yaml and the stages have {_sections(target)}")
            target[key] = present = CommentedMap()
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            _merge(present, value, here, changes)
        elif isinstance(value, Mapping) and present is not None:
            raise ParamsError(f"{'.'.join(here)}: is the value {_plain(present)!r}, not a section; it has no keys")
        elif isinstance(present, Mapping):
            raise ParamsError(f"{'.'.join(here)}: is a section, cannot become {value!r}; set a key in it")
        else:
            known = _plain(present)
            if key not in target or known != value or type(known) is not type(value):
                before = f"{known!r} -> " if key in target else ""
                changes.append(f"{'.'.join(here)}: {before}{value!r}")
                target[key] = value


def _check_sections(document: Mapping[str, Any], path: Path, changed: set[str]) -> None:
    """Hold each changed section against its class; a section that no stage of herdlight has is DVC's business alone."""
    for name in sorted(changed):
        kind = section_class(name) if name in SECTION_MODULES else None
        if kind is not None:
            parse_section(_plain(document[name]), name, kind, str(path))


def _sections(document: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys([*map(str, document), *SECTION_MODULES]))


def _plain(value: Any) -> Any:
    """Return `value` without ruamel's own types, which pydantic would not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
