"""The GPU's rungs: ways to run one image tower, each a function on frames that lie on the device already.

Knows how a rung is built from a tower; knows nothing of clocks. What cannot be built raises one of FAILURES.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.encoder import EncoderSpec
from models.encoder.openclip import image_size, model_config
from models.engines import EngineRecord, TowerSource, tensorrt
from models.engines.base import Frames, frames_tower, quiet_export
from models.engines.compiler import INDUCTOR, quiet_compiler
from models.engines.plan_text import read_plan
from models.errors import EngineNotPossible, HerdlightError
from models.tower import Tower

# What torch, TensorRT and their compilers raise where something is not supported; a rung that fails is one line.
FAILURES = (
    HerdlightError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
TINY = "tiny"
NUM_CALIBRATION_FRAMES = 32
Call = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A tower to be run in every way.

    name:       of the architecture
    tower:      float32 on the processor, weights drawn from `seed`
    image_size: side of its frames, px
    device:     cuda or cpu
    scratch:    for exported graphs and plans
    seed:       of the weights; the calibration frames have the next one
    """

    name: str
    tower: nn.Module
    image_size: int
    device: str
    scratch: Path
    seed: int


@dataclass(frozen=True, eq=False)
class Ready:
    """A rung that is built: its function, the tower whose float32 features it is compared with, and more figures."""

    call: Call
    tower: nn.Module
    figures: Mapping[str, float] = field(default_factory=dict)


def make_subject(name: str, device: str, scratch: Path, seed: int) -> Subject:
    """Return an open_clip architecture, or the tiny one, with random weights of `seed`."""
    if name == TINY:
        config: dict[str, object] = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
        side, whole = 32, {"embed_dim": 24, "vision_cfg": config}
    else:
        side, whole = image_size(name), model_config(name)
    spec = EncoderSpec(name, None, whole, side, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.2613, 0.27577711))
    torch.manual_seed(seed)
    tower = Tower(spec, 0).eval().requires_grad_(False)
    with torch.no_grad():
        for key, weight in tower.named_parameters():
            if key.endswith("bias"):
                weight.normal_(std=0.02)  # they start at 0, and a rung that drops them would pass
    return Subject(name, tower, side, device, scratch, seed)


def make_frames(num_frames: int, side: int, seed: int) -> Frames:
    """Return unlike frames: coloured gradients under noise, uint8 [N, side, side, 3]."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.linspace(0, 1, side)[None, :, None, None] * rng.uniform(2, 40, (num_frames, 1, 1, 3)))
    light = rng.uniform(20, 220, (num_frames, 1, 1, 3)) + 60 * waves
    noise = rng.integers(-20, 21, (num_frames, side, side, 3), dtype=np.int8)
    frames: Frames = np.clip(light + noise, 0, 255).astype(np.uint8)
    return frames


def eager(subject: Subject, dtype: torch.dtype) -> Ready:
    """Return torch, operator by operator."""
    return Ready(frames_tower(subject.tower, dtype, subject.device), subject.tower)


def compiled(subject: Subject, dtype: torch.dtype) -> Ready:
    """Return torch.compile with any batch size in one graph, and one frame alone in another."""
    module = frames_tower(subject.tower, dtype, subject.device)
    with quiet_compiler():
        function = torch.compile(module, options=INDUCTOR)

    def call(frames_NHWC: torch.Tensor) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(frames_NHWC, 0)
        with quiet_compiler():
            features_ND: torch.Tensor = function(frames_NHWC)
        return features_ND

    return Ready(call, subject.tower)


def planned(subject: Subject, precision: str, by_torch: bool) -> Ready:
    """Return a TensorRT plan for the GPU here, by way of torch_tensorrt or of ONNX."""
    if subject.device != "cuda":
        raise EngineNotPossible("TensorRT plans run on an NVIDIA GPU, and none was asked for")
    if by_torch:
        importlib.import_module("torch_tensorrt")  # without it the plan would come from ONNX after all
    folder = subject.scratch / f"{subject.name}-{precision}-{'torch' if by_torch else 'onnx'}"
    folder.mkdir(parents=True, exist_ok=True)
    source = TowerSource(
        subject.tower,
        subject.image_size,
        subject.scratch / f"{subject.name}-graphs",
        lambda: make_frames(NUM_CALIBRATION_FRAMES, subject.image_size, subject.seed + 1),
    )
    with quiet_export():
        built = tensorrt.build(source, folder, precision, by_torch=by_torch)
    record = EngineRecord(
        "tensorrt", precision, {}, built.versions, built.device, subject.image_size, source.feature_dim
    )
    plan = (folder / built.files[0]).read_bytes()
    facts, kind = read_plan(plan), {"float16": "half"}.get(precision, precision)
    figures = {"disk_mb": len(plan) / 1e6, f"num_products_{kind}": facts.num_products(kind)}
    return Ready(tensorrt.load_on_gpu(folder, record), subject.tower, figures)


def sparse(subject: Subject, dtype: torch.dtype) -> Ready:
    """Return eager float16 with the MLPs' weights 2:4 sparse; it is compared with the same pruned tower, dense.

    Of every four weights along the input the two largest are kept (Mishra et al., "Accelerating Sparse Deep Neural
    Networks", arXiv:2104.08378, 2021).
    """
    if subject.device != "cuda":
        raise EngineNotPossible("2:4 sparse products run on an NVIDIA GPU, and none was asked for")
    from torch.sparse import to_sparse_semi_structured

    pruned = frames_tower(subject.tower, torch.float32).tower
    linears = [name for name, module in pruned.named_modules() if isinstance(module, nn.Linear) and ".mlp." in name]
    for name in linears:
        weight = pruned.get_parameter(f"{name}.weight")
        weight.copy_(keep_two_of_four(weight))
    module = frames_tower(pruned, dtype, subject.device)
    for name in linears:
        halved = to_sparse_semi_structured(module.tower.get_parameter(f"{name}.weight").detach().contiguous())
        module.tower.get_submodule(name).weight = nn.Parameter(halved, requires_grad=False)
    return Ready(module, pruned)


def keep_two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Return `weight` [O, I] with the two smaller of every four along I at 0; I is a multiple of 4."""
    fours = weight.reshape(len(weight), -1, 4)
    kept = torch.zeros_like(fours).scatter_(2, fours.abs().topk(2, dim=2).indices, 1.0)
    return (fours * kept).reshape(weight.shape)


RUNGS: Mapping[str, Callable[[Subject], Ready]] = {
    "eager-float32": partial(eager, dtype=torch.float32),
    "eager-float16": partial(eager, dtype=torch.float16),
    "eager-bfloat16": partial(eager, dtype=torch.bfloat16),
    "compile-float16": partial(compiled, dtype=torch.float16),
    "torch-tensorrt-float16": partial(planned, precision="float16", by_torch=True),
    "tensorrt-float16": partial(planned, precision="float16", by_torch=False),
    "tensorrt-int8": partial(planned, precision="int8", by_torch=False),
    "tensorrt-fp8": partial(planned, precision="fp8", by_torch=False),
    "sparse24-float16": partial(sparse, dtype=torch.float16),
}
