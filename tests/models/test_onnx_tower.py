"""An ONNX file as the image tower: what it computes, how it is stored, which engines it gives, what is refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.encoder import EncoderParams, OnnxParams, OnnxTower, image_tower, load_encoder, named_encoder, save_encoder
from models.engines import (
    TowerSource,
    build_engine,
    build_engine_from,
    load_engine,
    read_record,
    reference_engine,
)
from models.engines import source as engine_source
from models.errors import EngineError, EngineNotPossible, HerdlightError, ModelError, ParamsError, WeightsUnavailable
from models.onnx_session import in_batches
from models.params import parse_section
from models.tower import Tower
from tests.onnx_files import DIM, MEAN, SECTION, SIDE, STD, expected_features, noise_frames, write_network
from tests.tiny_model import TINY


def tower_of(path: Path, **section: Any) -> Tower:
    params = EncoderParams(name="onnx", pretrained=str(path), onnx=OnnxParams(**{**SECTION, **section}))
    encoder, spec = named_encoder(params)
    return Tower(spec, params.unfreeze_blocks, encoder.visual).eval()  # type: ignore[arg-type]


def facts_of(tower: Tower) -> Any:
    assert isinstance(tower.visual, OnnxTower)
    return tower.visual.facts


def features_of(tower: Tower, frames: np.ndarray) -> np.ndarray:
    return reference_engine(tower, SIDE)(frames)


@pytest.mark.parametrize("output", ["view", "map", "mean"])
@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_features_of_an_inner_tensor_or_a_map_are_those_of_the_network(
    batch: int | str, output: str, tmp_path: Path
) -> None:
    path = write_network(tmp_path / "net.onnx", batch=batch, reshape=None if batch == "N" else (batch, DIM))
    tower = tower_of(path, output=output)
    frames = noise_frames(7)
    np.testing.assert_allclose(features_of(tower, frames), expected_features(frames), atol=1e-5)
    assert facts_of(tower).batch_size == 0  # the batch could be made free
    assert facts_of(tower).embed_dim == DIM
    assert not list(tower.parameters())


def test_the_only_input_and_output_need_no_name(tmp_path: Path) -> None:
    tower = tower_of(write_network(tmp_path / "net.onnx"), output=None)
    assert (facts_of(tower).input, facts_of(tower).output, facts_of(tower).embed_dim) == ("image", "logits", 5)


def test_a_graph_with_its_batch_in_its_bones_is_run_in_calls_of_that_size(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.load(str(write_network(tmp_path / "plain.onnx", batch=3, reshape=(3, DIM))))
    # Rows taken one by one, three of them: with any other batch this gives other rows or none.
    rows = helper.make_tensor("rows", TensorProto.INT64, [3], [0, 1, 2])
    model.graph.initializer.append(rows)
    model.graph.node.append(helper.make_node("Gather", ["view", "rows"], ["picked"], axis=0))
    onnx.save(model, str(path))
    tower = tower_of(path, output="picked")
    assert facts_of(tower).batch_size == 3
    frames = noise_frames(7)
    np.testing.assert_allclose(features_of(tower, frames), expected_features(frames), atol=1e-5)
    for name in ("onnx", "openvino"):
        build_engine(name, tower, tmp_path / name, SIDE, "float32")
        assert read_record(tmp_path / name).batch_size == 3
        features = load_engine(tmp_path / name)(frames)
        np.testing.assert_allclose(features, expected_features(frames), atol=1e-4)


@given(num_rows=st.integers(1, 40), batch_size=st.integers(0, 9))
def test_calls_of_a_fixed_size_give_each_row_its_own_result(num_rows: int, batch_size: int) -> None:
    sizes: list[int] = []

    def double(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return rows * 2

    x = np.arange(num_rows * 2.0).reshape(num_rows, 2)
    np.testing.assert_array_equal(in_batches(double, x, batch_size), x * 2)
    assert set(sizes) == {batch_size or num_rows}
    assert sum(sizes) - num_rows < max(batch_size, 1)  # no call is for the filling alone


def test_channels_layout_and_half_precision_are_put_in_front(tmp_path: Path) -> None:
    frames = noise_frames(3)
    plain = expected_features(frames)
    bgr = tower_of(write_network(tmp_path / "a.onnx"), channels="bgr")
    np.testing.assert_allclose(features_of(bgr, frames), expected_features(frames, bgr=True), atol=1e-5)
    assert np.abs(expected_features(frames, bgr=True) - plain).max() > 0.05
    nhwc = tower_of(write_network(tmp_path / "b.onnx", layout="nhwc"))
    np.testing.assert_allclose(features_of(nhwc, frames), plain, atol=1e-5)
    half = tower_of(write_network(tmp_path / "c.onnx", kind=TensorProto.FLOAT16))
    np.testing.assert_allclose(features_of(half, frames), plain, atol=2e-2)


def test_tensors_with_the_names_that_are_added_are_no_matter(tmp_path: Path) -> None:
    model = onnx.load(str(write_network(tmp_path / "plain.onnx")))
    text = {"image": "frames", "raw": "pixels", "view": "features"}
    for node in model.graph.node:
        node.input[:] = [text.get(name, name) for name in node.input]
        node.output[:] = [text.get(name, name) for name in node.output]
    model.graph.input[0].name = "frames"
    onnx.save(model, str(tmp_path / "net.onnx"))
    tower = tower_of(tmp_path / "net.onnx", output="features", input="frames")
    build_engine("onnx", tower, tmp_path / "engine", SIDE, "float32")
    frames = noise_frames(3)
    np.testing.assert_allclose(load_engine(tmp_path / "engine")(frames), expected_features(frames), atol=1e-5)


def test_the_folder_needs_the_file_no_more_and_damage_is_seen(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx")
    params = EncoderParams(name="onnx", pretrained=str(path), onnx=OnnxParams(**SECTION))
    encoder, spec = named_encoder(params)
    save_encoder(tmp_path / "a", encoder, spec)
    save_encoder(tmp_path / "b", *named_encoder(params))
    assert (tmp_path / "a" / "tower.onnx").read_bytes() == (tmp_path / "b" / "tower.onnx").read_bytes()
    path.unlink()
    loaded, found = load_encoder(tmp_path / "a")
    assert (found, found.has_text_tower) == (spec, False)
    frames = noise_frames(3)
    again = Tower(found, 0, loaded.visual)  # type: ignore[arg-type]
    np.testing.assert_allclose(features_of(again, frames), expected_features(frames), atol=1e-5)
    content = bytearray((tmp_path / "a" / "tower.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a" / "tower.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        load_encoder(tmp_path / "a")
    (tmp_path / "a" / "tower.onnx").unlink()
    with pytest.raises(ModelError, match=r"tower\.onnx"):
        load_encoder(tmp_path / "a")


def test_the_graph_travels_in_the_state_and_a_tower_without_it_says_so(tmp_path: Path) -> None:
    tower = tower_of(write_network(tmp_path / "net.onnx"))
    frames = noise_frames(2)
    expected = features_of(tower, frames)  # opens the session
    np.testing.assert_array_equal(features_of(copy.deepcopy(tower), frames), expected)
    params = EncoderParams(name="onnx", pretrained=str(tmp_path / "net.onnx"), onnx=OnnxParams(**SECTION))
    spec = named_encoder(params)[1]
    empty = Tower(spec, 0, image_tower(spec))
    with pytest.raises(ModelError, match="not loaded"):
        empty(torch.zeros(1, 3, SIDE, SIDE))
    empty.load_state_dict(tower.state_dict())
    np.testing.assert_array_equal(features_of(empty, frames), expected)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_engines_of_the_graph_take_frames_and_say_the_same(name: str, tmp_path: Path) -> None:
    tower = tower_of(write_network(tmp_path / "net.onnx"))
    record = build_engine(name, tower, tmp_path / "engine", SIDE, "float32")
    assert record == build_engine(name, tower, tmp_path / "again", SIDE, "float32")
    (tmp_path / "net.onnx").unlink()
    engine = load_engine(tmp_path / "engine")
    for size in (1, 2, 5):
        frames = noise_frames(size, seed=size)
        np.testing.assert_allclose(engine(frames), expected_features(frames), atol=1e-4)


@pytest.mark.parametrize("name", ["eager", "eager-bf16", "torchscript"])
def test_engines_of_torch_are_not_possible_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    tower = tower_of(write_network(tmp_path / "net.onnx"))
    with pytest.raises(EngineNotPossible, match=rf"engine {name} .*ONNX graph; possible: onnx, openvino, tensorrt"):
        build_engine(name, tower, tmp_path / "engine", SIDE, "float32")
    assert not (tmp_path / "engine").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the plan is built for it")
def test_tensorrt_is_built_from_the_graph_in_its_own_arithmetic(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the package of herdlight[tensorrt] is not installed")
    tower = tower_of(write_network(tmp_path / "net.onnx"))
    record = build_engine("tensorrt", tower, tmp_path / "engine", SIDE, "float32")
    assert (record.precision, record.feature_dim) == ("float32", DIM)
    assert (tmp_path / "engine" / "tower.plan").read_bytes()[:4] == b"vtrt"


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"output": "veiw"}, r"output = 'veiw': .*no such tensor; near: 'view'.*its outputs: 'logits'"),
        ({"input": "pixels"}, "input = 'pixels': .*has the inputs 'image'"),
        ({"image_size": 32}, "image_size = 32: 'image' of .* takes 16 x 16 px"),
        ({"output": "view_and_age"}, "also needs the inputs 'age'"),
        ({"input": "age", "output": "view"}, r"'age' of .* is \[1, 8\], not \[N, 3, H, W\]"),
        ({"input": None}, "has the inputs 'image', 'age'; name one"),
    ],
)
def test_names_and_sizes_that_the_file_has_not_are_told_with_those_it_has(
    section: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = write_network(tmp_path / "net.onnx", more_inputs=["age"])
    with pytest.raises(ParamsError, match=says) as caught:
        tower_of(path, **{"input": "image", **section})
    assert "\n" not in str(caught.value)


def _appended(path: Path, kind: str, name: str, inputs: list[str], **options: Any) -> Path:
    model = onnx.load(str(write_network(path)))
    model.graph.node.append(helper.make_node(kind, inputs, [name], **options))
    onnx.save(model, str(path))
    return path


def test_an_output_that_is_no_features_is_refused_with_its_shape(tmp_path: Path) -> None:
    tokens = _appended(tmp_path / "a.onnx", "Flatten", "flat", ["map"], axis=2)
    tower_of(tokens, output="map")
    with pytest.raises(ParamsError, match=r"'flat': .*is \[8, 16\] for 1 frame"):
        tower_of(tokens, output="flat")
    three = _appended(tmp_path / "b.onnx", "ReduceMax", "rows", ["map"], keepdims=0)
    with pytest.raises(ParamsError, match=r"'rows': .*is \[\] for 1 frame"):
        tower_of(three, output="rows")
    whole = _appended(tmp_path / "c.onnx", "Cast", "counts", ["view"], to=TensorProto.INT64)
    with pytest.raises(ParamsError, match=r"'counts': .*is int64; name a float tensor"):
        tower_of(whole, output="counts")
    with pytest.raises(ParamsError, match="does not depend on the input"):
        tower_of(_appended(tmp_path / "d.onnx", "Neg", "constant", ["classifier"]), output="constant")


def test_files_that_are_no_onnx_or_lack_their_data_are_one_line(tmp_path: Path) -> None:
    for name, content in (("text", b"not a graph"), ("empty", b""), ("zip", b"PK\x03\x04" + bytes(200))):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(WeightsUnavailable, match=rf"{name}\.onnx: not an ONNX file") as caught:
            tower_of(tmp_path / f"{name}.onnx")
        assert "\n" not in str(caught.value)
    whole = write_network(tmp_path / "net.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HerdlightError, match=r"cut\.onnx"):
        tower_of(tmp_path / "cut.onnx")
    with pytest.raises(WeightsUnavailable, match="no such file"):
        tower_of(tmp_path / "gone.onnx")
    beside = write_network(tmp_path / "split.onnx", external=True)
    frames = noise_frames(2)
    np.testing.assert_allclose(features_of(tower_of(beside), frames), expected_features(frames), atol=1e-5)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(WeightsUnavailable, match=r"split\.onnx: its external data .*weights\.bin") as caught:
        tower_of(beside)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_before_any_frame_is_embedded(tmp_path: Path) -> None:
    model = onnx.load(str(write_network(tmp_path / "net.onnx")))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(DIM, np.inf, np.float32), "bias"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(WeightsUnavailable, match="'view' is not finite"):
        tower_of(tmp_path / "net.onnx")


def test_the_graph_is_exported_once_for_all_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TowerSource(Tower(TINY.encoder, 1).eval(), TINY.encoder.image_size, tmp_path / "graphs")
    exports: list[str] = []
    export = engine_source._export
    monkeypatch.setattr(engine_source, "_export", lambda *args: (exports.append(args[-1]), export(*args)))
    for name in ("onnx", "openvino"):
        build_engine_from(name, source, tmp_path / name, "float32")
    assert exports == ["float32"]


def test_another_file_than_the_digest_says_is_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx")
    digest = facts_of(tower_of(path)).source_sha256
    tower_of(path, sha256=digest)
    with pytest.raises(WeightsUnavailable, match=f"SHA-256 is {digest}"):
        tower_of(path, sha256="0" * 64)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"name": "onnx", "pretrained": "a.onnx"}, "encoder.onnx = None: .*name onnx needs image_size"),
        ({"name": "onnx", "onnx": {"image_size": 8}}, r"encoder\.onnx\.mean.*encoder\.onnx\.std"),
        ({"name": "onnx", "onnx": {**SECTION, "std": [0.1, 0, 0.1]}}, r"encoder\.onnx\.std.*above 0"),
        ({"name": "onnx", "onnx": dict(SECTION), "unfreeze_blocks": 2}, "unfreeze_blocks = 2: .*frozen.*set it to 0"),
        ({"name": "timm:resnet18", "unfreeze_blocks": 1}, "unfreeze_blocks = 1: .*timm:resnet18 is frozen"),
    ],
)
def test_params_that_cannot_be_are_told(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        parse_section(section, "encoder", EncoderParams)


def test_a_frozen_tower_needs_no_word_of_its_blocks() -> None:
    section = {"name": "onnx", "pretrained": "a.onnx", "onnx": dict(SECTION)}
    assert parse_section(section, "encoder", EncoderParams).unfreeze_blocks == 0
    assert EncoderParams().unfreeze_blocks == 2
    assert parse_section({"name": "ViT-B-32", "pretrained": "openai"}, "encoder", EncoderParams).unfreeze_blocks == 2
    with pytest.raises(ParamsError, match=r"encoder\.pretrained: name the \.onnx file"):
        named_encoder(EncoderParams(name="onnx", onnx=OnnxParams(image_size=8, mean=MEAN, std=STD)))


def test_a_graph_that_stops_running_is_an_engine_error(tmp_path: Path) -> None:
    tower = tower_of(write_network(tmp_path / "net.onnx", batch="N", reshape=None))
    build_engine("onnx", tower, tmp_path / "engine", SIDE, "float32")
    engine = load_engine(tmp_path / "engine")
    with pytest.raises(EngineError):
        engine.run(np.zeros((1, SIDE + 1, SIDE, 3), np.uint8))  # type: ignore[attr-defined]


def test_the_real_mobilenet_gives_the_stored_features_of_real_frames(shared: Path) -> None:
    """Cosines and not equality: the stored features are of the frames before they were encoded again as AV1."""
    import av

    h5py = pytest.importorskip("h5py")

    section = OnnxParams(output="view", image_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    path = shared / "data/models/mobilenet_v2_int8.onnx"
    encoder, spec = named_encoder(EncoderParams(name="onnx", pretrained=str(path), onnx=section))
    tower = Tower(spec, 0, encoder.visual)  # type: ignore[arg-type]
    assert (facts_of(tower).embed_dim, facts_of(tower).batch_size) == (1280, 0)
    with h5py.File(shared / "data/tvsum/tvsum_2s.h5") as store:
        video_id = "0tmA_C6XwfM"
        shots = np.arange(0, len(store[video_id]["thumb"]), 6)
        wanted, stored = store[video_id]["thumb"][:][shots] - 1, store[video_id]["features"][:][shots].astype("f4")
    with av.open(str(shared / f"data/tvsum/video_3fps/{video_id}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    batch = np.stack([frames[index] for index in wanted])
    found = reference_engine(tower, 224)(batch)
    alone = np.concatenate([reference_engine(tower, 224)(batch[i : i + 1]) for i in range(3)])
    np.testing.assert_array_equal(found[:3], alone)

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    same, other = cosine(found, stored), cosine(found, np.roll(stored, 3, axis=0))
    assert same.mean() > 0.85
    assert same.min() > 0.65
    assert other.mean() < 0.6
    swapped = cosine(reference_engine(tower, 224)(batch[..., ::-1]), stored)
    assert swapped.mean() < same.mean() - 0.02  # red and blue are not mixed up
    assert (same > other).all()
