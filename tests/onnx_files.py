"""Small image networks as ONNX files, made here, and what they compute, told by torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SIDE, DIM, CLASSES = 16, 8, 5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SECTION: Mapping[str, Any] = {"image_size": SIDE, "mean": MEAN, "std": STD, "output": "view"}
_draw = np.random.default_rng(3)
KERNEL = _draw.normal(0, 0.2, (DIM, 3, 4, 4)).astype(np.float32)
BIAS = _draw.normal(0, 0.5, DIM).astype(np.float32)
CLASSIFIER = _draw.normal(0, 1, (CLASSES, DIM)).astype(np.float32)


def write_network(
    path: Path,
    *,
    batch: int | str = 1,
    reshape: Sequence[int] | None = (1, DIM),
    layout: str = "nchw",
    kind: int = TensorProto.FLOAT,
    more_inputs: Sequence[str] = (),
    external: bool = False,
) -> Path:
    """Write convolution, ReLU ("map"), mean over space, a Reshape ("view") and a classifier ("logits")."""
    shape = [batch, 3, SIDE, SIDE] if layout == "nchw" else [batch, SIDE, SIDE, 3]
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    weights = {"kernel": KERNEL, "bias": BIAS, "classifier": CLASSIFIER}
    initializers = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array(reshape or (0, -1), np.int64), "view_shape"))
    front = [helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []
    nodes = [
        *front,
        helper.make_node("Conv", ["planes" if front else "image", "kernel", "bias"], ["raw"], strides=[4, 4]),
        helper.make_node("Relu", ["raw"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Reshape", ["mean", "view_shape"], ["view"], allowzero=int(reshape is not None)),
        helper.make_node("Gemm", ["view", "classifier"], ["logits"], transB=1),
        *(helper.make_node("Add", ["view", name], [f"view_and_{name}"]) for name in more_inputs),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, shape)]
        + [helper.make_tensor_value_info(name, kind, [batch, DIM]) for name in more_inputs],
        [helper.make_tensor_value_info("logits", kind, [batch, CLASSES])],
        initializer=initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save(model, str(path), **options)
    return path


def expected_features(frames_NHWC: np.ndarray, *, bgr: bool = False) -> np.ndarray:
    """Return "view" of uint8 RGB frames, by torch."""
    pixels = torch.from_numpy(frames_NHWC.transpose(0, 3, 1, 2).astype("f4")) / 255
    pixels = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    if bgr:
        pixels = pixels.flip(1)
    mapped = nn.functional.conv2d(pixels, torch.from_numpy(KERNEL), torch.from_numpy(BIAS), stride=4)
    return mapped.relu().mean(dim=(2, 3)).numpy()


def noise_frames(num_frames: int, seed: int = 0) -> np.ndarray:
    """Return unlike uint8 frames [N, SIDE, SIDE, 3] whose axes and channels cannot be swapped unseen."""
    draw = np.random.default_rng(seed)
    slope = np.linspace(0, 200, SIDE)[None, :, None, None] * np.array([1.0, 0.6, 0.2])
    frames = slope * draw.uniform(0.2, 1, (num_frames, 1, 1, 3)) + draw.normal(0, 40, (num_frames, SIDE, SIDE, 3))
    return np.clip(frames, 0, 255).astype(np.uint8)
