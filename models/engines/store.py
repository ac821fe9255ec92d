"""Engines by name: building one into a folder and loading it again.

Knows the table of engines; each one's module is imported when it is used, since runtimes take seconds to import.
"""

import importlib
import tempfile
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
from models.engines.source import TowerSource
from models.errors import EngineError, EngineNotPossible
from models.files import hash_file, replacing_folder, require_space

# What a build writes at most, in copies of the tower in float32: ONNX, its graph, and an archive that is rewritten.
_COPIES = 3


@dataclass(frozen=True)
class EngineKind:
    """One line of the table.

    module:     where its `build` and `load` are
    precisions: arithmetic it can be built for, the default first
    of_graph:   the same for a tower that is an ONNX graph, whose inner arithmetic stays its own; none: not possible
    """

    module: str
    precisions: tuple[str, ...]
    of_graph: tuple[str, ...] = ()


class _Module(Protocol):
    build: Callable[[TowerSource, Path, str], Built]
    load: Callable[[Path, EngineRecord, MakeTower | None], Runner]


ENGINES = {
    "eager": EngineKind("models.engines.eager", ("float32",)),
    "eager-bf16": EngineKind("models.engines.eager", ("bfloat16",)),
    "torchscript": EngineKind("models.engines.torchscript", ("float32", "bfloat16")),
    "onnx": EngineKind("models.engines.onnx", ("float32",), ("float32",)),
    "openvino": EngineKind("models.engines.openvino", ("float32", "bfloat16"), ("float32", "bfloat16")),
    "torch-compile": EngineKind("models.engines.torch_compile", ("float32", "bfloat16")),
    "aot": EngineKind("models.engines.aot", ("float32", "bfloat16")),
    "tensorrt": EngineKind("models.engines.tensorrt", ("float16",), ("float32",)),
    "tensorrt-int8": EngineKind("models.engines.tensorrt", ("int8",)),
    "tensorrt-fp8": EngineKind("models.engines.tensorrt", ("fp8",)),
}


def resolve_precision(name: str, precision: str, is_graph: bool = False) -> str:
    """Return the precision that engine `name` is built in when `precision` is asked for.

    is_graph: the tower is an ONNX graph

    An engine with one precision keeps it. Raises EngineError for an unknown engine, and for one with a choice that
    does not include `precision`; EngineNotPossible where there is no such engine of an ONNX graph.
    """
    kind = _kind_of(name)
    precisions = kind.of_graph if is_graph else kind.precisions
    if not precisions:
        able = ", ".join(other for other, entry in ENGINES.items() if entry.of_graph)
        raise EngineNotPossible(f"engine {name} runs towers of torch, and this one is an ONNX graph; possible: {able}")
    if len(precisions) == 1:
        return precisions[0]
    if precision not in precisions:
        raise EngineError(f"engine {name}: precision {precision!r} is none of {', '.join(precisions)}")
    return precision


def build_engine(name: str, tower: nn.Module, folder: Path, image_size: int, precision: str) -> EngineRecord:
    """Build engine `name` of `tower` into `folder`, which is replaced as a whole.

    tower:      pixels [N, 3, H, W] float32, 0 to 255 -> features [N, D], normalisation inside
    image_size: side of the frames, px
    precision:  see `resolve_precision`
    Raises EngineError where it cannot be built, MissingExtra where its package is not installed, OSError on a disk
    that has no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="herdlight-") as scratch:
        return build_engine_from(name, TowerSource(tower, image_size, Path(scratch)), folder, precision)


def build_engine_from(name: str, source: TowerSource, folder: Path, precision: str) -> EngineRecord:
    """Build engine `name` as `build_engine` does, of a source whose exported graph several engines share."""
    precision = resolve_precision(name, precision, source.graph_tower is not None)
    feature_dim = source.feature_dim
    with replacing_folder(folder) as temporary:
        require_space(temporary, _COPIES * sum(4 * weight.numel() for weight in source.tower.state_dict().values()))
        with engine_errors(f"engine {name} cannot be built"):
            built = _module_of(name).build(source, temporary, precision)
        record = EngineRecord(
            name=name,
            precision=precision,
            files={file: hash_file(temporary / file) for file in built.files},
            versions=built.versions,
            device=built.device,
            image_size=source.image_size,
            feature_dim=feature_dim,
            batch_size=built.batch_size,
        )
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
