"""onnxruntime sessions: open a graph, run it in the batches that it takes, tell every failure in one line.

Shapes: N rows of a batch, B rows of every call of a graph with a fixed batch. Knows onnxruntime; knows nothing of
what a graph computes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ModelError

ANY_BATCH = 0
Array = npt.NDArray[Any]


def onnx_failures() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: every status of its own is a class below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (
        *(getattr(state, name) for name in (*names, "RuntimeException", "EPFail")),
        *(RuntimeError, ValueError, OSError),
    )


@dataclass(frozen=True, eq=False)
class OnnxSession:
    """A graph with one input and one output, ready to run on the processor.

    session:    onnxruntime.InferenceSession
    place:      what an error message calls it
    batch_size: rows of every call; ANY_BATCH where the graph takes any number
    error:      class of what is raised where it cannot run
    """

    session: Any
    place: str
    batch_size: int
    error: type[ModelError]

    def __call__(self, x: Array) -> Array:
        """Return the output for the rows of `x` [N, …], N from 1. Raises `error` where onnxruntime does."""
        name, failures = self.session.get_inputs()[0].name, onnx_failures()
        try:
            return in_batches(lambda rows: self.session.run(None, {name: rows})[0], x, self.batch_size)
        except failures as error:
            raise self.error(f"{self.place} cannot run: {first_line(error)}") from None


def open_session(
    graph: bytes | Path, place: str, batch_size: int = ANY_BATCH, error: type[ModelError] = ModelError
) -> OnnxSession:
    """Return a session of an ONNX graph in memory or in a file. Raises `error`, one line, where it is not one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would say it again on standard error
    failures = onnx_failures()
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except failures as failure:
        raise error(f"{place}: {first_line(failure)}") from None
    return OnnxSession(session, place, batch_size, error)


def in_batches(run: Callable[[Array], Array], x: Array, batch_size: int) -> Array:
    """Return `run` over the rows of `x` [N, …] in calls of exactly `batch_size` rows, or in one call for ANY_BATCH.

    The last call is filled up with its last row; what comes of the filling is dropped.
    """
    if batch_size == ANY_BATCH:
        return run(x)
    parts = []
    for first in range(0, len(x), batch_size):
        rows = x[first : first + batch_size]
        missing = batch_size - len(rows)
        filled = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
        parts.append(np.array(run(filled))[: len(rows)])
    return np.concatenate(parts)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
