"""OpenVINO: the tower as an IR (XML graph and weights), compiled for this processor when it is loaded.

`bfloat16` is a hint to the runtime: a processor without bfloat16 instructions runs the same file in float32.
"""

import functools
from pathlib import Path
from typing import Any

from models.engines.base import (
    Built,
    EngineRecord,
    Features,
    Frames,
    MakeTower,
    Runner,
    engine_errors,
    unreadable,
    version_of,
)
from models.engines.source import TowerSource

_GRAPH_FILE, _WEIGHTS_FILE = "tower.xml", "tower.bin"
# Of int8 (`models.quantise`): what was left in floating point.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# A thread that is held on one core waits there for a decoder that works beside it, and all others wait for that thread.
_SCHEDULING = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Convert by way of ONNX and write the IR with float32 weights; the precision is applied when it is loaded.

    The runtime reads the graph itself: `openvino.convert_model` would report its use over the network, from a process
    that it forks while threads run, which now and then never ends.
    """
    import openvino

    model = _runtime().read_model(source.onnx("float32"))
    _name_by_order(model)
    openvino.save_model(model, folder / _GRAPH_FILE, compress_to_fp16=False)
    versions = {**version_of("torch"), **version_of("openvino")}
    return Built((_GRAPH_FILE, _WEIGHTS_FILE), versions, "cpu", source.batch_size)


def _name_by_order(model: Any) -> None:
    """Give nodes names that depend on the graph alone: OpenVINO numbers them by what its process did before."""
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{index}")
    for note in ("conversion_parameters",):  # the path of the ONNX file
        if model.has_rt_info([note]):
            del model.rt_info[note]


@functools.cache
def _runtime() -> Any:
    """Return this process's one runtime, which is never taken down.

    Every OpenVINO `Core` gives the calling thread a stack for signals (for AMX) and takes it away with the last model
    that uses it. Of two cores the one that goes last puts back the stack of the other, which is gone: the next signal
    that Python handles, an ended child process say, then ends the process. Seen in OpenVINO 2026.4 and shown in a test.
    """
    import openvino

    return openvino.Core()


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote."""
    path = folder / _GRAPH_FILE
    with engine_errors(unreadable(path, record, "openvino")):
        compiled = _runtime().compile_model(
            path, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[record.precision], **_SCHEDULING}
        )

    def run(frames_NHWC: Frames) -> Features:
        features_ND: Features = compiled(frames_NHWC)[0].copy()  # the runtime's buffer is overwritten by the next call
        return features_ND

    return run
