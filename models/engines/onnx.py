"""ONNX: the tower as a standard graph, run by onnxruntime on the processor."""

import shutil
from dataclasses import replace
from pathlib import Path

from models.engines.base import Built, EngineRecord, MakeTower, Runner, unreadable, version_of
from models.engines.source import GRAPH_FILE, TowerSource
from models.errors import EngineError
from models.onnx_session import open_session


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Write the ONNX file and what lies beside it."""
    files = sorted(source.onnx(precision).parent.glob(f"{GRAPH_FILE}*"))
    for file in files:
        shutil.copyfile(file, folder / file.name)
    versions = {**version_of("torch"), **version_of("onnxruntime")}
    return Built(tuple(file.name for file in files), versions, "cpu", source.batch_size)


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote."""
    path = folder / GRAPH_FILE
    session = open_session(path, unreadable(path, record, "onnxruntime"), error=EngineError)
    return replace(session, place=f"engine {record.name}")
