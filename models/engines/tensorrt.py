"""TensorRT, float16 for a torch tower: one serialized engine ("plan") for NVIDIA GPUs, always of the whole tower.

Two ways to the same kind of file. Where torch has CUDA, `torch_tensorrt` turns the exported program into a plan for
the GPU that is there. Anywhere else, also with no GPU at all, TensorRT for RTX builds one ahead of time from ONNX
for the compute capabilities in AHEAD_OF_TIME. Neither way leaves a part of the graph in eager mode: what TensorRT
cannot convert stops the build. TensorRT is strongly typed, so the tower is made float16 before it is exported. An
ONNX tower keeps its own arithmetic and goes through TensorRT's ONNX parser on either way.

A plan is no portable file: it runs with the TensorRT that wrote it, on the GPUs that it was written for.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from models.engines.base import (
    Built,
    EngineRecord,
    Features,
    Frames,
    MakeTower,
    Runner,
    engine_errors,
    example_frames,
    frames_tower,
    one_line,
    quiet_export,
    version_of,
)
from models.engines.source import INPUT, TowerSource
from models.errors import EngineError, MissingExtra

# Ampere (A100; A10 and RTX 30), Ada (L4, RTX 40) and Blackwell (RTX 50).
AHEAD_OF_TIME = ("sm80", "sm86", "sm89", "sm120")
MAX_BATCH = 256
_OPTIMAL_BATCH = 32
_PLAN_FILE = "tower.plan"


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Write the plan, for the GPU here or else ahead of time. Raises MissingExtra where no TensorRT is installed."""
    if torch.cuda.is_available() and torch.version.cuda is not None:
        if source.graph_tower is None:
            return _build_with_torch(source.tower, folder, source.image_size)
        trt = _import("tensorrt", "cuda")
        _write_plan(trt, source, folder, precision, ())
        return Built((_PLAN_FILE,), version_of("tensorrt"), _capability_here(), source.batch_size)
    trt = _import("tensorrt_rtx", "tensorrt")
    _write_plan(trt, source, folder, precision, AHEAD_OF_TIME)
    return Built((_PLAN_FILE,), version_of("tensorrt_rtx"), "+".join(AHEAD_OF_TIME), source.batch_size)


def _build_with_torch(tower: nn.Module, folder: Path, image_size: int) -> Built:
    torch_tensorrt: Any = _import("torch_tensorrt", "cuda")
    module = frames_tower(tower, torch.float16, "cuda")
    frames = example_frames(image_size, "cuda")
    with quiet_export():
        batch = torch.export.Dim("batch", max=MAX_BATCH)
        program = torch.export.export(module, (frames,), dynamic_shapes=({0: batch},))
        plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=[
                torch_tensorrt.Input(
                    min_shape=_shape(1, image_size),
                    opt_shape=_shape(_OPTIMAL_BATCH, image_size),
                    max_shape=_shape(MAX_BATCH, image_size),
                    dtype=torch.uint8,
                )
            ],
            require_full_compilation=True,
        )
    (folder / _PLAN_FILE).write_bytes(bytes(plan))
    return Built((_PLAN_FILE,), version_of("tensorrt"), _capability_here())


def _capability_here() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def _write_plan(
    trt: ModuleType, source: TowerSource, folder: Path, precision: str, capabilities: tuple[str, ...]
) -> None:
    """Build the plan from the ONNX graph, for `capabilities`; none means the GPU that is here."""
    logger = _QuietLogger.of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source.onnx(precision))):
        raise EngineError(f"engine tensorrt: operator not supported: {parser.get_error(0).desc().splitlines()[0]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    batches = [source.batch_size] * 3 if source.batch_size else (1, _OPTIMAL_BATCH, MAX_BATCH)
    profile.set_shape(INPUT, *(_shape(batch, source.image_size) for batch in batches))
    config.add_optimization_profile(profile)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"engine tensorrt: the builder gave no engine: {logger.last or 'no reason told'}")
    (folder / _PLAN_FILE).write_bytes(bytes(plan))


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of a plan. Raises EngineError where this GPU or this TensorRT is not the plan's."""
    (package, written_by), *_ = record.versions.items()
    trt = _import(package, "tensorrt" if package == "tensorrt_rtx" else "cuda")
    current = version_of(package)[package]
    if current != written_by:
        raise EngineError(f"{folder}: plan of {package} {written_by}, here is {current}; run stage compile again")
    if not torch.cuda.is_available():
        raise EngineError(f"{folder}: engine for NVIDIA {record.device}; torch sees no GPU on this machine")
    if (here := _capability_here()) not in record.device.split("+"):
        raise EngineError(
            f"{folder}: engine for NVIDIA {record.device}, this GPU is {here}; run stage compile on this machine"
        )
    logger = _QuietLogger.of(trt)
    with engine_errors(f"{folder / _PLAN_FILE}: not readable"):
        engine = trt.Runtime(logger).deserialize_cuda_engine((folder / _PLAN_FILE).read_bytes())
    if engine is None:
        raise EngineError(f"{folder / _PLAN_FILE}: TensorRT does not take it: {logger.last or 'no reason told'}")
    return _plan_runner(trt, engine, record)


def _plan_runner(trt: ModuleType, engine: Any, record: EngineRecord) -> Runner:
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    frames_name = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    features_name = next(name for name in names if name != frames_name)

    def run_batch(frames_NHWC: torch.Tensor) -> torch.Tensor:
        features_ND = torch.empty(len(frames_NHWC), record.feature_dim, dtype=torch.float32, device="cuda")
        stream = torch.cuda.current_stream()
        context.set_input_shape(frames_name, tuple(frames_NHWC.shape))
        context.set_tensor_address(frames_name, frames_NHWC.data_ptr())
        context.set_tensor_address(features_name, features_ND.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"engine tensorrt cannot run a batch of {len(frames_NHWC)}")
        stream.synchronize()
        return features_ND

    def run(frames_NHWC: Frames) -> Features:
        on_gpu = torch.from_numpy(frames_NHWC).to("cuda")
        parts = [run_batch(part) for part in torch.split(on_gpu, MAX_BATCH)]
        result: Features = torch.cat(parts).cpu().numpy()
        return result

    return run


def _shape(batch: int, image_size: int) -> tuple[int, int, int, int]:
    return (batch, image_size, image_size, 3)


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"engine tensorrt needs {package} ({one_line(error)}): pip install herdlight[{extra}]"
        ) from None


class _QuietLogger:
    """TensorRT's logger interface with nothing printed: the last error is kept for the message."""

    @staticmethod
    def of(trt: ModuleType) -> Any:
        """Return a logger; the base class exists only once TensorRT is imported."""

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            last = ""

            def log(self, severity: Any, message: str) -> None:
                # Builders without a GPU tell of its absence as an error; the build goes on and is sound.
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and "cudaError" not in message:
                    self.last = message.splitlines()[0]

        return Logger()
