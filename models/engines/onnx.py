"""ONNX: the tower as a standard graph (torch's dynamo exporter, any batch size), run by onnxruntime on the processor.

`export_onnx` is also where OpenVINO and TensorRT ahead of time begin.
"""

import logging
from pathlib import Path

import torch
from torch import nn

from models.engines.base import (
    DTYPES,
    Built,
    EngineRecord,
    Features,
    Frames,
    MakeTower,
    Runner,
    describe_versions,
    engine_errors,
    example_frames,
    frames_tower,
    one_line,
    quiet_export,
    version_of,
)
from models.errors import EngineError

INPUT, OUTPUT = "frames", "features"
_FILE = "tower.onnx"


def export_onnx(tower: nn.Module, path: Path, image_size: int, precision: str) -> None:
    """Write the tower as ONNX: uint8 frames [N, H, W, 3] in, float32 features [N, D] out, N free."""
    module = frames_tower(tower, DTYPES[precision])
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the exporter tells its steps, and of torchvision's operators that it lacks
    try:
        with quiet_export():
            program = torch.onnx.export(
                module,
                (example_frames(image_size),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # source lines and paths of the machine that exported
    program.save(path)


def build(tower: nn.Module, folder: Path, image_size: int, precision: str) -> Built:
    """Write the ONNX file; weights above protobuf's 2 GiB go beside it."""
    export_onnx(tower, folder / _FILE, image_size, precision)
    beside = tuple(sorted(path.name for path in folder.glob(f"{_FILE}.*")))
    return Built((_FILE, *beside), {**version_of("torch"), **version_of("onnxruntime")}, "cpu")


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # Every status of onnxruntime's is its own class below Exception.
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    failures = tuple(getattr(state, name) for name in (*names, "RuntimeException", "EPFail"))
    changed = describe_versions(record, version_of("onnxruntime"))
    place = f"{folder / _FILE}: not readable{changed}; run stage compile again"
    try:
        with engine_errors(place):
            session = onnxruntime.InferenceSession(str(folder / _FILE), providers=["CPUExecutionProvider"])
    except failures as error:
        raise EngineError(f"{place}: {one_line(error)}") from None

    def run(frames_NHWC: Frames) -> Features:
        try:
            features_ND: Features = session.run([OUTPUT], {INPUT: frames_NHWC})[0]
        except failures as error:
            raise EngineError(f"engine {record.name} cannot run: {one_line(error)}") from None
        return features_ND

    return run
