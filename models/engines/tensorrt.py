"""TensorRT in float16, int8 or fp8: one serialized engine ("plan") for NVIDIA GPUs, always of the whole tower.

Two ways to the same kind of file. Where torch has CUDA, the plan is for the GPU that is there: `torch_tensorrt` makes
it of the exported float16 program, TensorRT's ONNX parser of the others. Anywhere else, also with no GPU at all,
TensorRT for RTX builds one ahead of time from ONNX for the compute capabilities in AHEAD_OF_TIME. Neither way leaves a
part of the graph in eager mode: what TensorRT cannot convert stops the build. TensorRT is strongly typed, so the tower
is made float16 before it is exported, and 8 bits stand in the graph as quantise and dequantise nodes (`qdq`). An ONNX
tower keeps its own arithmetic and goes through TensorRT's ONNX parser on either way.

A plan is no portable file: it runs with the TensorRT that wrote it, on the GPUs that it was written for.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Iterator
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
from models.engines.plan_cache import cached_plan, plan_key, timing_cache
from models.engines.source import INPUT, TowerSource
from models.errors import EngineError, EngineNotPossible, MissingExtra
from models.files import write_bytes

# Ampere (A100; A10 and RTX 30), Ada (L4, RTX 40) and Blackwell (RTX 50); E4M3 is there from Ada on.
AHEAD_OF_TIME = {
    "float16": ("sm80", "sm86", "sm89", "sm120"),
    "float32": ("sm80", "sm86", "sm89", "sm120"),
    "int8": ("sm80", "sm86", "sm89", "sm120"),
    "fp8": ("sm89", "sm120"),
}
_FP8_FROM = (8, 9)
MAX_BATCH = 512
_OPTIMAL_BATCH = 32
_PLAN_FILE = "tower.plan"


def build(source: TowerSource, folder: Path, precision: str, by_torch: bool = True) -> Built:
    """Write the plan, for the GPU here or else ahead of time. Raises MissingExtra where no TensorRT is installed.

    by_torch: on a GPU host, a torch tower in float16 goes through torch_tensorrt where that is installed
    """
    if not (torch.cuda.is_available() and torch.version.cuda is not None):
        trt = _import("tensorrt_rtx", "tensorrt")
        targets = AHEAD_OF_TIME[precision]
        (folder / _PLAN_FILE).write_bytes(_plan_of_onnx(trt, source, precision, targets))
        return Built((_PLAN_FILE,), version_of("tensorrt_rtx"), "+".join(targets), source.batch_size)
    if precision == "fp8" and torch.cuda.get_device_capability() < _FP8_FROM:
        raise EngineNotPossible(f"engine tensorrt-fp8: this GPU, {_capability_here()}, has no fp8; sm89 and later have")
    package = _package_here()
    is_torch = by_torch and precision == "float16" and source.graph_tower is None
    if is_torch and importlib.util.find_spec("torch_tensorrt"):
        plan = _plan_of_torch(source.tower, source.image_size, package)
    else:
        trt = _import(package, "cuda")
        key = plan_key(source.onnx(precision), package, _version(package), _capability_here(), str(MAX_BATCH))
        plan = cached_plan(key, lambda: _plan_of_onnx(trt, source, precision, ()))
    (folder / _PLAN_FILE).write_bytes(plan)
    return Built((_PLAN_FILE,), version_of(package), _capability_here(), source.batch_size)


def _package_here() -> str:
    """Return the TensorRT of a GPU host: the full one where it is installed, else that for RTX."""
    for package in ("tensorrt", "tensorrt_rtx"):
        if _version(package):
            return package
    raise MissingExtra("engine tensorrt needs tensorrt or tensorrt_rtx: pip install herdlight[cuda]")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _plan_of_torch(tower: nn.Module, image_size: int, package: str) -> bytes:
    """Return the plan of a torch tower in float16, by way of torch_tensorrt's dynamo front end."""
    torch_tensorrt: Any = _import("torch_tensorrt", "cuda")
    module = frames_tower(tower, torch.float16, "cuda")
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    wanted: dict[str, Any] = {
        "require_full_compilation": True,
        "use_explicit_typing": True,  # an option up to 2.11, the only way there is since
        "min_block_size": 1,
        "timing_cache_path": str(timing_cache(package, _version(package), _capability_here())),
    }
    known = inspect.signature(convert).parameters
    frames = torch_tensorrt.Input(
        min_shape=_shape(1, image_size),
        opt_shape=_shape(_OPTIMAL_BATCH, image_size),
        max_shape=_shape(MAX_BATCH, image_size),
        dtype=torch.uint8,
    )
    with quiet_export(), torch.no_grad():
        batch = torch.export.Dim("batch", max=MAX_BATCH)
        program = torch.export.export(module, (example_frames(image_size, "cuda"),), dynamic_shapes=({0: batch},))
        plan = convert(program, arg_inputs=[frames], **{name: wanted[name] for name in wanted if name in known})
    return bytes(plan)


def _capability_here() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def _plan_of_onnx(trt: ModuleType, source: TowerSource, precision: str, capabilities: tuple[str, ...]) -> bytes:
    """Return the plan of the ONNX graph, for `capabilities`; none means the GPU that is here."""
    logger = _logger(trt)
    logger.last = ""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source.onnx(precision))):
        told = parser.get_error(0).desc().splitlines()[0]
        raise EngineError(f"engine tensorrt in {precision}: operator not supported: {told}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    batches = [source.batch_size] * 3 if source.batch_size else (1, _OPTIMAL_BATCH, MAX_BATCH)
    profile.set_shape(INPUT, *(_shape(batch, source.image_size) for batch in batches))
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and types of layers, for who inspects it
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], index)
    with _timing(trt, config, capabilities):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"engine tensorrt in {precision}: the builder gave no engine: {logger.last or 'no reason told'}"
        )
    return bytes(plan)


@contextlib.contextmanager
def _timing(trt: ModuleType, config: Any, capabilities: tuple[str, ...]) -> Iterator[None]:
    """Let a builder that times kernels on the GPU here keep what it found; TensorRT for RTX times none."""
    if capabilities or trt.__name__ != "tensorrt":
        yield
        return
    path = timing_cache("tensorrt", _version("tensorrt"), _capability_here())
    known = path.read_bytes() if path.is_file() else b""
    # One that is damaged or of another version is refused by TensorRT, and an empty one begins.
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    yield
    write_bytes(path, bytes(config.get_timing_cache().serialize()))


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of a plan. Raises EngineError where this GPU or this TensorRT is not the plan's."""
    call = load_on_gpu(folder, record)

    def run(frames_NHWC: Frames) -> Features:
        on_gpu = torch.from_numpy(frames_NHWC).to("cuda")
        result: Features = call(on_gpu).cpu().numpy()
        return result

    return run


def load_on_gpu(folder: Path, record: EngineRecord) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function of a plan on tensors of the GPU: uint8 [N, H, W, 3] -> float32 [N, D].

    It is done once the current stream is. Raises what `load` raises.
    """
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
    logger = _logger(trt)
    with engine_errors(f"{folder / _PLAN_FILE}: not readable"):
        engine = trt.Runtime(logger).deserialize_cuda_engine((folder / _PLAN_FILE).read_bytes())
    context = engine.create_execution_context() if engine is not None else None
    if context is None:
        raise EngineError(f"{folder / _PLAN_FILE}: TensorRT does not take it: {logger.last or 'no reason told'}")
    return _plan_call(trt, engine, context, record)


def _plan_call(
    trt: ModuleType, engine: Any, context: Any, record: EngineRecord
) -> Callable[[torch.Tensor], torch.Tensor]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    frames_name = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    features_name = next(name for name in names if name != frames_name)

    def run_batch(frames_NHWC: torch.Tensor) -> torch.Tensor:
        features_ND = torch.empty(len(frames_NHWC), record.feature_dim, dtype=torch.float32, device="cuda")
        context.set_input_shape(frames_name, tuple(frames_NHWC.shape))
        context.set_tensor_address(frames_name, frames_NHWC.data_ptr())
        context.set_tensor_address(features_name, features_ND.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"engine {record.name} cannot run a batch of {len(frames_NHWC)}")
        return features_ND

    def call(frames_NHWC: torch.Tensor) -> torch.Tensor:
        if len(frames_NHWC) <= MAX_BATCH:
            return run_batch(frames_NHWC)
        return torch.cat([run_batch(part) for part in torch.split(frames_NHWC, MAX_BATCH)])

    return call


def _shape(batch: int, image_size: int) -> tuple[int, int, int, int]:
    return (batch, image_size, image_size, 3)


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"engine tensorrt needs {package} ({one_line(error)}): pip install herdlight[{extra}]"
        ) from None


@functools.cache
def _logger(trt: ModuleType) -> Any:
    """Return TensorRT's logger with nothing printed: `last` keeps the last error for the message.

    One for the process: TensorRT keeps to the first that it is given.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        last = ""

        def log(self, severity: Any, message: str) -> None:
            # Builders without a GPU tell of its absence as an error; the build goes on and is sound.
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and "cudaError" not in message:
                self.last = message.splitlines()[0]

    return Logger()
