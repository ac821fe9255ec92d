"""From any image network in an ONNX file to the graph that is kept: normalised RGB pixels in, pooled features out.

What lies behind the features (a classifier) is cut off, a tensor inside the graph is made its output, a map
[N, D, H, W] is averaged over H and W (global average pooling, Lin et al. 2013, arXiv:1312.4400), and a fixed batch
size is made free where the graph gives the same then. Works on the file once, with the onnx package; running the
result later needs onnxruntime alone. Shapes: N frames, D features, S side of the input in pixels.
"""

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.encoder.onnx_tower import OnnxGraph
from models.encoder.spec import OnnxParams
from models.errors import ModelError, ParamsError, WeightsUnavailable
from models.files import hash_file
from models.onnx_session import ANY_BATCH, Array, open_session

INPUT, OUTPUT = "pixels", "features"
_PREFIX = "herdlight_"  # of tensors that are added, so that they meet none of the file's
_TOLERANCE = 1e-4  # of features in batches from those one by one, share of the largest; quantised graphs give 0
_TOO_LARGE = 2**31 - 2**20  # protobuf's limit, with room for what is added


def prepare_graph(path: Path, params: OnnxParams) -> tuple[bytes, OnnxGraph]:
    """Return the prepared graph of the file at `path`, serialized, and what it is.

    Raises ParamsError where `params` name tensors or sizes that the file has not, WeightsUnavailable where the file
    is not ONNX, lacks its external data, or gives no features.
    """
    digest = _check_digest(path, params)
    model = _read(path)
    source = _choose_input(model, params, path)
    output = _choose_output(model, params, path)
    layout, batch_size = _check_input(source, params, path)
    _cut(model, source.name, output, path)
    _set_input(model, source, layout, batch_size, params)
    fixed = _with_features(model, output, batch_size, params, path)
    features = _probe(fixed.SerializeToString(), params.image_size, batch_size or 1, 1)
    if not np.isfinite(features).all():
        raise WeightsUnavailable(f"{path}: {output!r} is not finite for a frame of noise; the weights are damaged")
    content, batch_size = _freed(fixed, batch_size, params.image_size)
    sha256 = hashlib.sha256(content).hexdigest()
    facts = OnnxGraph(
        features.shape[1], batch_size, len(content), sha256, source.name, output, params.channels, source_sha256=digest
    )
    return content, facts


def _check_digest(path: Path, params: OnnxParams) -> str:
    digest = hash_file(path)
    if params.sha256 is not None and digest != params.sha256:
        raise WeightsUnavailable(f"{path}: SHA-256 is {digest}, encoder.onnx.sha256 asks for {params.sha256}")
    return digest


def _read(path: Path) -> Any:
    """Return the model, weights that lie beside the file taken in."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
    except (DecodeError, UnicodeDecodeError):
        raise WeightsUnavailable(f"{path}: not an ONNX file; name one in encoder.pretrained") from None
    except (OSError, onnx.checker.ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise WeightsUnavailable(f"{path}: its external data cannot be read, bring it along: {first}") from None
    if not model.graph.node or not model.opset_import:
        raise WeightsUnavailable(f"{path}: not an ONNX file, or one without a graph; name one in encoder.pretrained")
    if (size := model.ByteSize()) > _TOO_LARGE:
        raise WeightsUnavailable(f"{path}: {size / 2**30:.1f} GiB with its weights; an ONNX tower has 2 GiB at most")
    return model


def _choose_input(model: Any, params: OnnxParams, path: Path) -> Any:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in constants}
    if params.input is None:
        if len(inputs) != 1:
            raise ParamsError(f"encoder.onnx.input: {path} has the inputs {_listed(inputs)}; name one")
        return next(iter(inputs.values()))
    if params.input not in inputs:
        raise ParamsError(f"encoder.onnx.input = {params.input!r}: {path} has the inputs {_listed(inputs)}")
    return inputs[params.input]


def _choose_output(model: Any, params: OnnxParams, path: Path) -> str:
    outputs = [str(value.name) for value in model.graph.output]
    if params.output is None:
        if len(outputs) != 1:
            raise ParamsError(f"encoder.onnx.output: {path} has the outputs {_listed(outputs)}; name one")
        return outputs[0]
    inner = [name for node in model.graph.node for name in node.output if name]
    if params.output not in {*inner, *outputs}:
        near = difflib.get_close_matches(params.output, inner, n=5, cutoff=0.5)
        raise ParamsError(
            f"encoder.onnx.output = {params.output!r}: {path} has no such tensor; near: {_listed(near)}; "
            f"its outputs: {_listed(outputs)}"
        )
    return params.output


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _check_input(source: Any, params: OnnxParams, path: Path) -> tuple[str, int]:
    """Return "nchw" or "nhwc", and the fixed batch size or ANY_BATCH."""
    import onnx

    kind = source.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        name = onnx.TensorProto.DataType.Name(kind).lower()
        raise ParamsError(f"encoder.onnx.input: {source.name!r} of {path} is {name}; must be float32 or float16")
    shape = source.type.tensor_type.shape.dim if source.type.tensor_type.HasField("shape") else ()
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in shape]
    if len(sizes) != 4 or (sizes[1] not in (3, None) and sizes[3] != 3):
        shape_text = ", ".join(str(size or "?") for size in sizes)
        raise ParamsError(
            f"encoder.onnx.input: {source.name!r} of {path} is [{shape_text}], not [N, 3, H, W] or [N, H, W, 3]"
        )
    layout = "nhwc" if sizes[3] == 3 and sizes[1] != 3 else "nchw"
    sides = sizes[1:3] if layout == "nhwc" else sizes[2:]
    if any(side not in (params.image_size, None) for side in sides):
        shown = " x ".join(str(side or "?") for side in sides)
        raise ParamsError(f"encoder.onnx.image_size = {params.image_size}: {source.name!r} of {path} takes {shown} px")
    return layout, sizes[0] or ANY_BATCH


def _cut(model: Any, source: str, output: str, path: Path) -> None:
    """Leave what `output` is computed from and nothing else."""
    graph = model.graph
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    kept: set[int] = set()
    used: set[str] = {output}
    queue = [output]
    while queue:
        index = maker.get(queue.pop())
        if index is not None and index not in kept:
            kept.add(index)
            reads = set(_reads(graph.node[index]))
            used |= reads
            queue += reads
    constants = {tensor.name for tensor in [*graph.initializer, *graph.sparse_initializer] if hasattr(tensor, "name")}
    others = [value.name for value in graph.input if value.name in used - constants - {source}]
    if source not in used:
        raise ParamsError(f"encoder.onnx.output = {output!r}: in {path} it does not depend on the input {source!r}")
    if others:
        raise ParamsError(f"encoder.onnx.output = {output!r}: in {path} it also needs the inputs {_listed(others)}")
    nodes = [node for index, node in enumerate(graph.node) if index in kept]
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in (("node", nodes), ("initializer", weights), ("input", []), ("output", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.ClearField("value_info")  # has the old batch size
    graph.ClearField("doc_string")
    model.ClearField("metadata_props")


def _reads(node: Any) -> Iterator[str]:
    """Yield the tensors that a node reads, those inside its branches and loops too."""
    yield from node.input
    for attribute in node.attribute:
        for branch in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for inner in branch.node:
                yield from _reads(inner)
            yield from (value.name for value in branch.output)


def _set_input(model: Any, source: Any, layout: str, batch_size: int, params: OnnxParams) -> None:
    """Put float32 RGB pixels [N, 3, S, S] in front of whatever the graph takes."""
    from onnx import TensorProto, helper, numpy_helper

    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if params.channels == "bgr":
        order = numpy_helper.from_array(np.array([2, 1, 0], np.int64), f"{_PREFIX}bgr")
        model.graph.initializer.append(order)
        steps.append(("Gather", [order.name], {"axis": 1}))
    if layout == "nhwc":
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    if source.type.tensor_type.elem_type == TensorProto.FLOAT16:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    steps = steps or [("Identity", [], {})]
    names = [INPUT, *(f"{_PREFIX}in_{index}" for index in range(len(steps) - 1)), source.name]
    nodes = [
        helper.make_node(kind, [names[index], *extra], [names[index + 1]], **options)
        for index, (kind, extra, options) in enumerate(steps)
    ]
    _rename(model.graph, INPUT, f"{_PREFIX}{INPUT}")
    rest = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *rest])
    shape = [batch_size or "N", 3, params.image_size, params.image_size]
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a tensor of the file that has a name which is needed here; branches read outer names too."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for attribute in node.attribute:
            for branch in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _rename(branch, old, new)
    for value in [*graph.initializer, *graph.output]:
        if value.name == old:
            value.name = new


def _with_features(model: Any, output: str, batch_size: int, params: OnnxParams, path: Path) -> Any:
    """Make `output`, pooled where it is a map, the float32 output [N, D]; the graph is run once to see its shape."""
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    graph.output.append(onnx.ValueInfoProto(name=output))
    place = f"encoder.onnx: {path} does not run with {params.image_size} px up to {output!r}"
    found = open_session(model.SerializeToString(), place, ANY_BATCH, WeightsUnavailable)(
        np.zeros((batch_size or 1, 3, params.image_size, params.image_size), np.float32)
    )
    if found.dtype not in (np.float32, np.float16, np.float64):
        raise ParamsError(f"encoder.onnx.output = {output!r}: in {path} it is {found.dtype}; name a float tensor")
    if found.ndim not in (2, 4) or found.shape[0] != (batch_size or 1) or 0 in found.shape:
        raise ParamsError(
            f"encoder.onnx.output = {output!r}: in {path} it is {list(found.shape)} for {batch_size or 1} frame(s); "
            "must be features [N, D] or a map [N, D, H, W]"
        )
    graph.ClearField("output")
    _rename(graph, OUTPUT, f"{_PREFIX}{OUTPUT}")
    last = f"{_PREFIX}{OUTPUT}" if output == OUTPUT else output
    pooling: list[tuple[str, dict[str, Any]]] = [("GlobalAveragePool", {}), ("Flatten", {"axis": 1})]
    cast: tuple[str, dict[str, Any]] = ("Cast", {"to": TensorProto.FLOAT})
    for index, (kind, options) in enumerate([*(pooling if found.ndim == 4 else []), cast]):
        made = OUTPUT if kind == "Cast" else f"{_PREFIX}out_{index}"
        graph.node.append(helper.make_node(kind, [last], [made], **options))
        last = made
    width = found.shape[1]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch_size or "N", width]))
    return model


def _freed(fixed: Any, batch_size: int, image_size: int) -> tuple[bytes, int]:
    """Return the graph for any batch size where that gives the same features, else for a fixed one, and its size."""
    content = fixed.SerializeToString(deterministic=True)
    free = _with_free_batch(fixed, batch_size)
    try:
        # More frames than the fixed batch, and one alone: a graph may take the batch that it was made for and no other.
        expected = _probe(content, image_size, batch_size or 1, (batch_size or 1) + 2)
        found = _probe(free, image_size, ANY_BATCH, (batch_size or 1) + 2)
        _probe(free, image_size, ANY_BATCH, 1)
    except ModelError:
        same = False  # it has a batch size in its bones
    else:
        same = found.shape == expected.shape and bool(
            np.abs(found - expected).max() <= _TOLERANCE * max(float(np.abs(expected).max()), 1e-12)
        )
    return (free, ANY_BATCH) if same else (content, batch_size or 1)


def _with_free_batch(fixed: Any, batch_size: int) -> bytes:
    """Return a copy whose batch is free: of input and output, and where a Reshape has it as a constant."""
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(fixed)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node if batch_size else ():
        if node.op_type != "Reshape" or node.input[1] not in constants or node.input[0] in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if len(shape) < 2 or shape[0] != batch_size or 0 in shape:
            continue
        shape[0] = 0  # as the input has it; `allowzero` would make it a real 0, and no other size is 0
        for attribute in [part for part in node.attribute if part.name == "allowzero"]:
            node.attribute.remove(attribute)
        name = f"{_PREFIX}shape_{node.output[0]}"
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
    return bytes(model.SerializeToString(deterministic=True))


def _probe(content: bytes, image_size: int, batch_size: int, num_frames: int) -> Array:
    """Return features of made frames that are unlike each other. Raises WeightsUnavailable where it cannot run."""
    draw = np.random.default_rng(0)
    level = draw.uniform(-1, 1, (num_frames, 3, 1, 1))
    pixels = (level + draw.normal(0, 1, (num_frames, 3, image_size, image_size))).astype(np.float32)
    return open_session(content, "encoder.onnx: the prepared graph", batch_size, WeightsUnavailable)(pixels)


def with_frames_input(
    content: bytes, facts: OnnxGraph, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Any:
    """Return the prepared graph as an onnx model that takes uint8 RGB frames [N, S, S, 3]: what engines are made of.

    mean, std: float32 [3] of pixels in 0 to 255, as `models.tower.Tower` has them
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(content)
    shaped = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    for name, values in zip(("mean", "std"), shaped, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(values, _PREFIX + name))
    steps: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Sub", [f"{_PREFIX}mean"], {}),
        ("Div", [f"{_PREFIX}std"], {}),
    )
    names = ["frames", *(f"{_PREFIX}frames_{index}" for index in range(len(steps) - 1)), INPUT]
    _rename(model.graph, "frames", f"{_PREFIX}frames")
    nodes = [
        helper.make_node(kind, [names[index], *extra], [names[index + 1]], **options)
        for index, (kind, extra, options) in enumerate(steps)
    ]
    rest = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *rest])
    model.graph.ClearField("input")
    shape = [facts.batch_size or "N", image_size, image_size, 3]
    model.graph.input.append(helper.make_tensor_value_info("frames", TensorProto.UINT8, shape))
    return model
