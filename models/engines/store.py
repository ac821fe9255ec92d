"""Engines by name: building one into a folder and loading it again.

Knows the table of engines; each one's module is imported when it is used, since runtimes take seconds to import.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from models.engines.base import (
    Built,
    CheckedEngine,
    Engine,
    EngineRecord,
    MakeTower,
    Runner,
    engine_errors,
    feature_dim_of,
    read_record,
    write_record,
)
from models.engines.eager import run_tower
from models.errors import EngineError
from models.files import hash_file, replacing_folder, require_space

# What a build writes at most, in copies of the tower in float32: ONNX, its graph, and an archive that is rewritten.
_COPIES = 3


@dataclass(frozen=True)
class EngineKind:
    """One line of the table.

    module:     where its `build` and `load` are
    precisions: arithmetic it can be built for, the default first
    """

    module: str
    precisions: tuple[str, ...]


class _Module(Protocol):
    build: Callable[[nn.Module, Path, int, str], Built]
    load: Callable[[Path, EngineRecord, MakeTower | None], Runner]


ENGINES = {
    "eager": EngineKind("models.engines.eager", ("float32",)),
    "eager-bf16": EngineKind("models.engines.eager", ("bfloat16",)),
    "torchscript": EngineKind("models.engines.torchscript", ("float32", "bfloat16")),
    "onnx": EngineKind("models.engines.onnx", ("float32",)),
    "openvino": EngineKind("models.engines.openvino", ("float32", "bfloat16")),
    "tensorrt": EngineKind("models.engines.tensorrt", ("float16",)),
}


def resolve_precision(name: str, precision: str) -> str:
    """Return the precision that engine `name` is built in when `precision` is asked for.

    An engine with one precision keeps it. Raises EngineError for an unknown engine, and for one with a choice that
    does not include `precision`.
    """
    kind = _kind_of(name)
    if len(kind.precisions) == 1:
        return kind.precisions[0]
    if precision not in kind.precisions:
        raise EngineError(f"engine {name}: precision {precision!r} is none of {', '.join(kind.precisions)}")
    return precision


def build_engine(name: str, tower: nn.Module, folder: Path, image_size: int, precision: str) -> EngineRecord:
    """Build engine `name` of `tower` into `folder`, which is replaced as a whole.

    tower:      pixels [N, 3, H, W] float32, 0 to 255 -> features [N, D], normalisation inside
    image_size: side of the frames, px
    precision:  see `resolve_precision`
    Raises EngineError where it cannot be built, MissingExtra where its package is not installed, OSError on a disk
    that has no room for it.
    """
    precision = resolve_precision(name, precision)
    feature_dim = feature_dim_of(tower, image_size)
    with replacing_folder(folder) as temporary:
        require_space(temporary, _COPIES * sum(4 * weight.numel() for weight in tower.state_dict().values()))
        with engine_errors(f"engine {name} cannot be built"):
            built = _module_of(name).build(tower, temporary, image_size, precision)
        hashes = {file: hash_file(temporary / file) for file in built.files}
        record = EngineRecord(name, precision, hashes, built.versions, built.device, image_size, feature_dim)
        write_record(temporary, record)
    return record


def load_engine(folder: Path, make_tower: MakeTower | None = None) -> Engine:
    """Return the engine in `folder`, its files checked against their hashes.

    make_tower: gives a tower of the right architecture; only the eager engines, which store weights alone, need it
    Raises EngineError where files are missing or damaged, or are for another device or version.
    """
    record = read_record(folder)
    return CheckedEngine(record, _module_of(record.name).load(folder, record, make_tower))


def runs_here(record: EngineRecord) -> bool:
    """Return whether this machine has the device that an engine was built for."""
    if record.device == "cpu":
        return True
    if not torch.cuda.is_available():
        return False
    major, minor = torch.cuda.get_device_capability()
    return record.device == "cuda" or f"sm{major}{minor}" in record.device.split("+")


def reference_engine(tower: nn.Module, image_size: int) -> Engine:
    """Return the float32 tower as it is in memory: what every other engine is compared with."""
    record = EngineRecord("eager", "float32", {}, {}, "cpu", image_size, feature_dim_of(tower, image_size))
    return CheckedEngine(record, run_tower(tower, "float32", "cpu"))


def engine_bytes(folder: Path) -> int:
    """Return the size of an engine's files together, bytes."""
    return sum((folder / name).stat().st_size for name in read_record(folder).files)


def _kind_of(name: str) -> EngineKind:
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]


def _module_of(name: str) -> _Module:
    return cast(_Module, importlib.import_module(_kind_of(name).module))
