"""INT8 and FP8 for ONNX graphs: explicit quantise and dequantise nodes around every product with weights.

A product (MatMul, Gemm) gets its activation through QuantizeLinear and DequantizeLinear and its weights, stored in
8 bits, through DequantizeLinear. A runtime that knows the pattern computes the product in 8 bits; one that does not
computes the same numbers in floating point, so that onnxruntime on a processor shows what the engine will say. What is
no product with weights, and the convolution that reads the pixels (the patch embedding), stays as it was.

int8: symmetric, weights per output channel, activations per tensor with the range that holds 99.99% of the values
    (Wu et al., "Integer Quantization for Deep Learning Inference", arXiv:2004.09602, 2020)
fp8: E4M3, symmetric, one scale a tensor, activations by their largest value (Micikevicius et al., "FP8 Formats for
    Deep Learning", arXiv:2209.05433, 2022)

Knows graphs and frames; knows nothing of engines or of where frames come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from models.errors import EngineError, EngineNotPossible
from models.onnx_session import first_line, onnx_failures

QUANTISED = ("int8", "fp8")
# Largest value that the type holds; int8 leaves -128 out to stay symmetric.
_LARGEST = {"int8": 127.0, "fp8": 448.0}
_STORED: dict[str, Any] = {"int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn}
_PERCENTILE = {"int8": 99.99, "fp8": 100.0}
_PRODUCTS = ("MatMul", "Gemm")
_BATCH = 8
MIN_FRAMES = 32
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Product:
    """A product with weights in a graph.

    place:      of its node among the graph's nodes
    activation: name of the tensor that is multiplied
    weight:     name of the weights
    axis:       of the weights, along which the output channels lie
    shape:      of the weights
    """

    place: int
    activation: str
    weight: str
    axis: int
    shape: tuple[int, ...]


def products_of(model: Any) -> tuple[Product, ...]:
    """Return the products with constant weights of an ONNX model, in the order of its nodes."""
    weights = {value.name: tuple(value.dims) for value in model.graph.initializer}
    found = []
    for place, node in enumerate(model.graph.node):
        if node.op_type not in _PRODUCTS or node.domain:
            continue
        activation, weight = node.input[0], node.input[1]
        if activation in weights or len(weights.get(weight, ())) != 2:
            continue
        attributes = {item.name: item.i for item in node.attribute if item.name in ("transA", "transB")}
        if attributes.get("transA", 0):
            continue
        found.append(Product(place, activation, weight, 0 if attributes.get("transB", 0) else 1, weights[weight]))
    return tuple(found)


def measure_ranges(path: Path, frames_NHWC: Frames, precision: str) -> tuple[float, ...]:
    """Return the range of each product's activation in a float32 graph over frames of the train split.

    path: float32 graph, uint8 frames [N, H, W, 3] -> features; frames_NHWC: at least MIN_FRAMES
    Raises EngineNotPossible without a product, EngineError with too few frames, and where
    the graph cannot be run or a value is not finite.
    """
    import onnx
    import onnxruntime

    if len(frames_NHWC) < MIN_FRAMES:
        raise EngineError(
            f"{precision}: {len(frames_NHWC)} frames to calibrate with, needs {MIN_FRAMES}; add train videos"
        )
    model = onnx.load(path)
    products = _some_products(model, precision)
    names = list(dict.fromkeys(product.activation for product in products))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with_outputs = path.with_name(f"ranges-{path.name}")
    found: dict[str, list[float]] = {name: [] for name in names}
    failures = onnx_failures()
    try:
        onnx.save(model, with_outputs)
        session = onnxruntime.InferenceSession(str(with_outputs), options, providers=["CPUExecutionProvider"])
        frames_name = session.get_inputs()[0].name
        for first in range(0, len(frames_NHWC), _BATCH):
            for name, value in zip(
                names, session.run(names, {frames_name: frames_NHWC[first : first + _BATCH]}), strict=True
            ):
                found[name].append(float(np.percentile(np.abs(value), _PERCENTILE[precision])))
    except failures as error:
        raise EngineError(f"{precision}: the network cannot be run for its ranges: {first_line(error)}") from None
    finally:
        with_outputs.unlink(missing_ok=True)
    combine = np.mean if precision == "int8" else np.max
    ranges = {name: float(combine(values)) for name, values in found.items()}
    unsound = [name for name, value in ranges.items() if not np.isfinite(value)]
    if unsound:
        raise EngineError(f"{precision}: values of {unsound[0]!r} are not finite on the calibration frames")
    return tuple(ranges[product.activation] for product in products)


def quantise_graph(model: Any, ranges: Sequence[float], precision: str) -> Any:
    """Return `model` with its products quantised.

    model:     float16 or float32 graph; stays as it is
    ranges:    of each product's activation, as `measure_ranges` gives them
    precision: int8 or fp8
    Raises EngineNotPossible without a product to quantise, EngineError where `ranges` are of another graph.
    """
    import onnx

    products = _some_products(model, precision)
    if len(ranges) != len(products):
        raise EngineError(f"{precision}: {len(ranges)} ranges for {len(products)} products; calibrate this graph")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = _GraphOf(result, precision)
    for product, largest in zip(products, ranges, strict=True):
        node = result.graph.node[product.place]
        node.input[0] = graph.activation(product.activation, largest)
        node.input[1] = graph.weight(product)
    graph.finish()
    return result


def _some_products(model: Any, precision: str) -> tuple[Product, ...]:
    products = products_of(model)
    if not products:
        raise EngineNotPossible(f"{precision}: the tower has no product with weights that could be quantised")
    return products


class _GraphOf:
    """A graph in the making: what is added to it, each thing once."""

    def __init__(self, model: Any, precision: str) -> None:
        self.graph, self.precision = model.graph, precision
        self.weights = {value.name: value for value in self.graph.initializer}
        self.before: dict[str, list[Any]] = {}
        self.done: dict[tuple[str, int], str] = {}

    def activation(self, name: str, largest: float) -> str:
        """Return the name of `name` rounded to 8 bits."""
        if (name, -1) not in self.done:
            scale = self._scale(np.array(largest))
            parameters = self._parameters(name, scale)
            self._node("QuantizeLinear", [name, *parameters], f"{name}_quantised", name)
            self._node("DequantizeLinear", [f"{name}_quantised", *parameters], f"{name}_dequantised", name)
            self.done[name, -1] = f"{name}_dequantised"
        return self.done[name, -1]

    def weight(self, product: Product) -> str:
        """Return the name of a product's weights, stored in 8 bits and dequantised."""
        from onnx import numpy_helper

        name = product.weight
        if (name, product.axis) not in self.done:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float32)
            per_channel = self.precision == "int8"
            largest = np.abs(values).max(axis=1 - product.axis) if per_channel else np.abs(values).max()
            scale = self._scale(largest)
            divisor = np.expand_dims(scale.astype(np.float32), 1 - product.axis) if per_channel else scale
            stored = self._round(values / divisor)
            kept = f"{name}_{self.precision}_{product.axis}"
            self._constant(kept, stored)
            axis = {"axis": product.axis} if per_channel else {}
            self._node("DequantizeLinear", [kept, *self._parameters(kept, scale)], f"{kept}_dequantised", "", **axis)
            self.done[name, product.axis] = f"{kept}_dequantised"
        return self.done[name, product.axis]

    def finish(self) -> None:
        """Put the new nodes right after what they read, and drop weights that nothing reads any more."""
        nodes = [*self.before.pop("", [])]
        for name in [value.name for value in self.graph.input]:
            nodes += self.before.pop(name, [])
        for node in self.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.before.pop(name, [])
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        read = {name for node in kept for name in node.input}
        for value in [value for value in self.graph.initializer if value.name not in read]:
            self.graph.initializer.remove(value)

    @property
    def dtype(self) -> Any:
        from onnx import helper

        first = next(value for value in self.weights.values() if value.data_type in (1, 10))
        return helper.tensor_dtype_to_np_dtype(first.data_type)

    def _scale(self, largest: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return scales in the graph's own type; a tensor of zeros gets the smallest there is."""
        smallest = float(np.finfo(self.dtype).smallest_normal)
        return np.asarray(np.maximum(largest / _LARGEST[self.precision], smallest)).astype(self.dtype)

    def _round(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        limited = np.clip(values, -_LARGEST[self.precision], _LARGEST[self.precision])
        rounded = np.round(limited) if self.precision == "int8" else limited
        stored: npt.NDArray[Any] = rounded.astype(_STORED[self.precision])
        return stored

    def _parameters(self, name: str, scale: npt.NDArray[Any]) -> list[str]:
        self._constant(f"{name}_scale", scale)
        self._constant(f"{name}_zero", np.zeros(scale.shape, _STORED[self.precision]))
        return [f"{name}_scale", f"{name}_zero"]

    def _constant(self, name: str, values: npt.NDArray[Any]) -> None:
        from onnx import helper

        dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.graph.initializer.append(helper.make_tensor(name, dtype, values.shape, values.tobytes(), raw=True))

    def _node(self, kind: str, inputs: list[str], output: str, after: str, **attributes: Any) -> None:
        from onnx import helper

        self.before.setdefault(after, []).append(helper.make_node(kind, inputs, [output], name=output, **attributes))
