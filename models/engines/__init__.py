"""Inference engines for the image tower, by name: build one into a folder, load it, call it on frames."""

from models.engines.base import Engine, EngineRecord, read_record
from models.engines.source import TowerSource
from models.engines.store import (
    ENGINES,
    build_engine,
    build_engine_from,
    engine_bytes,
    load_engine,
    reference_engine,
    resolve_precision,
    runs_here,
)

__all__ = [
    "ENGINES",
    "Engine",
    "EngineRecord",
    "TowerSource",
    "build_engine",
    "build_engine_from",
    "engine_bytes",
    "load_engine",
    "read_record",
    "reference_engine",
    "resolve_precision",
    "runs_here",
]
