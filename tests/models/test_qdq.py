"""Quantise and dequantise nodes: in the right places, with weights in 8 bits, and near what the graph said before."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.engines.qdq import measure_ranges, products_of, quantise_graph
from models.engines.source import TowerSource
from models.errors import EngineError, EngineNotPossible
from models.onnx_session import open_session
from models.tower import Tower
from tests.tiny_model import SIDE, TINY

FRAMES = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TowerSource:
    torch.manual_seed(1)
    return TowerSource(Tower(TINY.encoder, 1).eval(), SIDE, tmp_path_factory.mktemp("graphs"))


def run_as_it_is(content: bytes) -> np.ndarray:
    """Run a graph with none of onnxruntime's rewriting: 1.32 ends the process over float16 layer norms."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": FRAMES})[0]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("base", ["float32", "float16"])
def test_a_quantised_tower_says_nearly_what_it_said(precision: str, base: str, source: TowerSource) -> None:
    ranges = measure_ranges(source.onnx("float32"), FRAMES, precision)
    before = onnx.load(source.onnx(base))
    content = before.SerializeToString()
    after = quantise_graph(before, ranges, precision)
    assert before.SerializeToString() == content
    onnx.checker.check_model(after)
    expected, features = run_as_it_is(content), run_as_it_is(after.SerializeToString())
    difference = np.abs(features - expected)
    part, least = {"int8": (0.03, 0.9995), "fp8": (0.08, 0.996)}[precision]
    assert 0 < difference.mean() < part * np.abs(expected).mean(), "rounded, and not by much"
    similar = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert similar.min() > least


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)])
def test_every_product_and_nothing_else_is_in_8_bits(precision: str, kind: int, source: TowerSource) -> None:
    before = onnx.load(source.onnx("float16"))
    products = products_of(before)
    # two blocks of qkv, out, two of the MLP, and the projection
    assert len(products) == 9
    after = quantise_graph(before, measure_ranges(source.onnx("float32"), FRAMES, precision), precision)
    by_output = {name: node for node in after.graph.node for name in node.output}
    weights = {value.name: value for value in after.graph.initializer}
    for product in products:
        node = next(x for x in after.graph.node if x.output[0] == before.graph.node[product.place].output[0])
        read = [by_output[name] for name in node.input[:2]]
        assert [x.op_type for x in read] == ["DequantizeLinear"] * 2
        assert by_output[read[0].input[0]].op_type == "QuantizeLinear"
        assert weights[read[1].input[0]].data_type == kind
        per_channel = len(weights[read[1].input[1]].dims)
        assert per_channel == (1 if precision == "int8" else 0)
        assert product.weight not in weights
    convolutions = [node for node in after.graph.node if node.op_type == "Conv"]
    assert [node.input[1] for node in convolutions] == ["tower.visual.conv1.weight"]


def product_graph(weight: np.ndarray, op: str = "MatMul", **attributes: int) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "graph", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    transposed=st.booleans(),
    size=st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 300.0]),
    precision=st.sampled_from(["int8", "fp8"]),
)
def test_a_product_is_as_near_as_8_bits_allow(
    seed: int, inputs: int, outputs: int, transposed: bool, size: float, precision: str
) -> None:
    rng = np.random.default_rng(seed)
    weight = (size * rng.normal(size=(inputs, outputs))).astype("f4")
    x = rng.normal(size=(4, inputs)).astype("f4")
    model = product_graph(weight.T.copy(), "Gemm", transB=1) if transposed else product_graph(weight)
    largest = float(np.abs(x).max())
    found = open_session(quantise_graph(model, [largest], precision).SerializeToString(), "graph")(x)
    # Half a step of each factor: 1/254 of the range in int8, 1/16 of the value in E4M3 (3 bits of mantissa).
    step = 1 / 254 if precision == "int8" else 1 / 16
    bound = 2.1 * step * inputs * largest * np.abs(weight).max() + 1e-4 * size
    assert np.abs(found - x @ weight).max() <= bound


def test_what_cannot_be_quantised_is_told(source: TowerSource, tmp_path: Path) -> None:
    weight = np.ones((2, 3), "f4")
    with pytest.raises(EngineNotPossible, match="int8: the tower has no product with weights"):
        quantise_graph(product_graph(weight[0]), [1.0], "int8")
    with pytest.raises(EngineError, match="2 ranges for 1 products"):
        quantise_graph(product_graph(weight), [1.0, 1.0], "fp8")
    path = tmp_path / "graph.onnx"
    onnx.save(product_graph(weight), path)
    with pytest.raises(EngineError, match="cannot be run for its ranges") as told:
        measure_ranges(path, FRAMES, "int8")
    assert "\n" not in str(told.value)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.onnx"]
