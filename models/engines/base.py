"""What every engine has in common: the protocol, its record on disk, and how other people's errors are told.

Shapes: N frames of a batch, H and W pixels, C channels, D features.

An engine is a folder: `engine.json` (the `EngineRecord`) and the files that it lists with their hashes. Knows
nothing of any one runtime; each has its own module beside this one.
"""

import contextlib
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.errors import EngineError, ShapeError
from models.files import hash_file, read_json, write_json
from models.onnx_session import ANY_BATCH, first_line, in_batches

RECORD_FILE = "engine.json"
EXAMPLE_BATCH = 2  # torch.export takes a batch of 1 for a constant
Frames = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Runner = Callable[[Frames], Features]
MakeTower = Callable[[], nn.Module]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine(Protocol):
    """An image tower made ready for one device.

    name:      engine, as in params.yaml
    precision: arithmetic of the network: float32, bfloat16, float16, int8 or fp8
    """

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    def __call__(self, frames_NHWC: Frames) -> Features:
        """Return float32 [N, D] features of uint8 [N, H, W, 3] RGB frames; N is any number from 1."""


@dataclass(frozen=True)
class EngineRecord:
    """What `engine.json` says of an engine.

    name:        engine
    precision:   float32, bfloat16, float16, int8 or fp8
    files:       SHA-256 of each file of the engine, by name inside the folder
    versions:    version of each package that wrote the files
    device:      where it runs: "cpu", "cuda", or for TensorRT the compute capabilities, "sm80+sm86"
    image_size:  side of the square input, px
    feature_dim: length of the output
    batch_size:  frames of every call of the runtime, 0 for any number
    """

    name: str
    precision: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    image_size: int
    feature_dim: int
    batch_size: int = ANY_BATCH


@dataclass(frozen=True)
class Built:
    """What a module's `build` hands back: the files it wrote (names), the rest as in EngineRecord."""

    files: tuple[str, ...]
    versions: Mapping[str, str]
    device: str
    batch_size: int = ANY_BATCH


@dataclass(frozen=True, eq=False)
class CheckedEngine:
    """The Engine that callers get: a runtime's function between a check of its input and one of its output.

    record: what engine.json says
    run:    the runtime's function
    """

    record: EngineRecord
    run: Runner

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def precision(self) -> str:
        return self.record.precision

    def __call__(self, frames_NHWC: Frames) -> Features:
        """Return float32 [N, D]. Raises ShapeError for other frames, EngineError where the result is not finite."""
        side = self.record.image_size
        if frames_NHWC.dtype != np.uint8 or frames_NHWC.ndim != 4 or frames_NHWC.shape[1:] != (side, side, 3):
            raise ShapeError(
                f"engine {self.name}: frames {frames_NHWC.dtype} {frames_NHWC.shape} "
                f"must be uint8 [N, {side}, {side}, 3]"
            )
        if not len(frames_NHWC):
            raise ShapeError(f"engine {self.name}: a batch needs at least one frame")
        with engine_errors(f"engine {self.name} cannot run"):
            features_ND = in_batches(self.run, np.ascontiguousarray(frames_NHWC), self.record.batch_size)
        expected = (len(frames_NHWC), self.record.feature_dim)
        if features_ND.shape != expected:
            raise EngineError(f"engine {self.name}: gave {features_ND.shape} for {expected}; run stage compile again")
        if not np.isfinite(features_ND).all():
            raise EngineError(
                f"engine {self.name}: features are not finite in {self.precision}; "
                "choose another compile.precision or compile.engine"
            )
        return features_ND.astype(np.float32, copy=False)


class FramesTower(nn.Module):
    """The tower as engines export it: uint8 NHWC frames in, float32 features out, `dtype` between."""

    def __init__(self, tower: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.tower = tower
        self.dtype = dtype

    def forward(self, frames_NHWC: torch.Tensor) -> torch.Tensor:
        # The cast comes first: TensorRT moves no axes of uint8. 0 to 255 are exact in float16 and bfloat16.
        pixels_NCHW = frames_NHWC.to(self.dtype).permute(0, 3, 1, 2)
        features_ND: torch.Tensor = self.tower(pixels_NCHW)
        return features_ND.float()


def frames_tower(tower: nn.Module, dtype: torch.dtype, device: str = "cpu") -> FramesTower:
    """Return a frozen copy of `tower` in `dtype` that takes frames; `tower` itself stays as it is."""
    return FramesTower(copy.deepcopy(tower), dtype).to(device, dtype).eval().requires_grad_(False)


def example_frames(image_size: int, device: str = "cpu") -> torch.Tensor:
    """Return uint8 frames of the shape that an engine is exported with."""
    return torch.zeros(EXAMPLE_BATCH, image_size, image_size, 3, dtype=torch.uint8, device=device)


def torch_device() -> str:
    """Return the device that torch's engines are made for here: "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_runner(module: Callable[[torch.Tensor], torch.Tensor], device: str) -> Runner:
    """Return `module` as a function on arrays."""

    def run(frames_NHWC: Frames) -> Features:
        with torch.inference_mode():
            features_ND = module(torch.from_numpy(frames_NHWC).to(device))
        result: Features = features_ND.cpu().numpy()
        return result

    return run


def require_torch_device(record: EngineRecord) -> None:
    """Raise EngineError where an engine of torch's was made for a device that is not here."""
    if record.device == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            f"engine {record.name}: made for cuda, and torch sees no GPU here; run stage compile on this machine"
        )


@contextlib.contextmanager
def engine_errors(place: str) -> Iterator[None]:
    """Turn what torch, OpenVINO and exporters raise (RuntimeError and its kin) into one line of EngineError."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        if isinstance(error, ShapeError):
            raise
        raise EngineError(f"{place}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the first line of what an error came from: exporters wrap the cause in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Silence what torch's exporters warn of in their own code: TorchScript's retirement and pytree's renames."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.* is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*", category=FutureWarning)
        yield


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write `engine.json`."""
    write_json(folder / RECORD_FILE, asdict(record))


def read_record(folder: Path) -> EngineRecord:
    """Return what `engine.json` says, every file's hash checked. Raises EngineError where anything is not as it was."""
    path = folder / RECORD_FILE
    try:
        record = EngineRecord(**read_json(path))
        expected = dict(record.files)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: not an engine's record ({one_line(error)}); run stage compile again") from None
    for name, digest in expected.items():
        if Path(name).name != name:
            raise EngineError(f"{path}: file {name!r} lies outside the engine's folder; run stage compile again")
        try:
            found = hash_file(folder / name)
        except OSError as error:
            raise EngineError(f"{folder / name}: {error.strerror}; run stage compile again") from None
        if found != digest:
            raise EngineError(f"{folder / name}: damaged, not the file of {RECORD_FILE}; run stage compile again")
    return record


def version_of(package: str) -> dict[str, str]:
    """Return the installed version of `package`, by its name."""
    from importlib.metadata import version

    return {package: version(package)}


def describe_versions(record: EngineRecord, current: Mapping[str, str]) -> str:
    """Return " (written by …, here …)" where the packages changed since the engine was built, else nothing."""
    changed = [(name, old, current[name]) for name, old in record.versions.items() if current.get(name, old) != old]
    return "".join(f" (written by {name} {old}, here {new})" for name, old, new in changed)


def unreadable(path: Path, record: EngineRecord, package: str) -> str:
    """Return what is said of an engine's file that its runtime does not take, with both versions where they differ."""
    return f"{path}: not readable{describe_versions(record, version_of(package))}; run stage compile again"


def feature_dim_of(tower: nn.Module, image_size: int) -> int:
    """Return the length of the tower's output, by running it once."""
    with torch.inference_mode(), engine_errors("the image tower does not take a frame"):
        device: Any = next((p.device for p in tower.parameters()), torch.device("cpu"))
        return int(tower(torch.zeros(1, 3, image_size, image_size, device=device)).shape[-1])
