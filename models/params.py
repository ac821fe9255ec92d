"""Reading `params.yaml`: one frozen, typed section a stage.

Knows how a section is read, checked and refused; each section's own class sits in the file of its stage. YAML is
read with the safe loader only.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ParamsError


class Section(BaseModel):
    """Base of every params section: frozen, unknown keys refused, each field documented by the string below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=BaseModel)


def read_params(path: Path) -> dict[str, Any]:
    """Return the mapping in `path`. Raises ParamsError where it is missing or not a mapping of sections."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such params file; run from the repository root or pass --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: must hold one section a stage, found {type(content).__name__}")
    return content


def parse_section(values: Any, name: str, kind: type[SectionT], where: str = "params.yaml") -> SectionT:
    """Return `values` as a section of class `kind`; every problem of the section in one ParamsError."""
    try:
        return kind.model_validate({} if values is None else values)
    except ValidationError as error:
        lines = [
            ".".join(str(part) for part in (name, *problem["loc"]))
            + f" = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
            for problem in error.errors()
        ]
        raise ParamsError(f"{where}: " + "; ".join(lines)) from None


def load_section(path: Path, name: str, kind: type[SectionT]) -> SectionT:
    """Return section `name` of the params file `path`; an absent section means all defaults."""
    return parse_section(read_params(path).get(name), name, kind, str(path))
