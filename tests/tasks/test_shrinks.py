"""Steps that shrink a model: what they leave is smaller or faster, stored and served like any model, and learns."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks.rungs
from models.encoder.openclip import model_config
from models.engines import build_engine
from models.errors import EngineNotPossible, ParamsError
from models.highlighter import Highlighter, HighlighterSpec, load_highlighter, save_highlighter
from models.ladder import RUNTIMES, Part, parse_rung
from models.manifest import VideoRow
from models.merging_tower import MergingTower
from models.params import parse_section
from models.pruning import mask_two_four
from models.served import load_served, save_served
from models.spans import Span
from models.token_merging import MergeSchedule
from models.video import SampledVideo
from tasks.rungs import BuiltRung, Footage, build_rung
from tasks.shrinks import Shrinking, TokenSchedule, TrainingData, make_shrinks, parts_of
from tasks.train import TrainParams
from tests.tiny_model import SIDE, TINY

NUM_FRAMES = 12
# 17 tokens of two blocks, so that there is something to merge.
VISION = {**TINY.encoder.model_config["vision_cfg"], "patch_size": 8}
SPEC = replace(TINY, encoder=replace(TINY.encoder, model_config={"embed_dim": 24, "vision_cfg": VISION}))
HALF = Shrinking(amount=0.5, multiple_of=4, recovery_epochs=1)


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.rungs, "measure_resident_mb", lambda _folder, _size: None)


@pytest.fixture(scope="module")
def model() -> tuple[Highlighter, HighlighterSpec]:
    torch.manual_seed(5)
    highlighter = Highlighter(SPEC).eval()
    with torch.no_grad():
        highlighter.head.classifier[2].weight.mul_(30)  # scores that spread over [0, 1]
    return highlighter, SPEC


@pytest.fixture
def training(make_row: Callable[..., VideoRow]) -> TrainingData:
    """Videos whose first half is a highlight, and light."""
    rows, videos = [], {}
    splits = ("train", "train", "train", "val", "test", "test")
    for seed, (name, split) in enumerate(zip("abcdef", splits, strict=True)):
        rng = np.random.default_rng(seed)
        light = np.where(np.arange(NUM_FRAMES) < NUM_FRAMES // 2, 170, 80)[:, None, None, None]
        frames = np.clip(light + rng.normal(0, 30, (NUM_FRAMES, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        videos[name] = SampledVideo(frames, np.arange(NUM_FRAMES) / 4, 3.0)
        rows.append(make_row(name, split=split, duration_s=3.0, segments=(Span(0.0, 1.5),)))
    return TrainingData(rows, videos.__getitem__, TrainParams())


def state_of(highlighter: Highlighter) -> dict[str, torch.Tensor]:
    return copy.deepcopy(highlighter.state_dict())


def num_weights(highlighter: Highlighter) -> int:
    return sum(weight.numel() for weight in highlighter.tower.parameters())


def pixels() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 255


def test_parts_have_their_names_and_kinds() -> None:
    parts = parts_of({"structured-50": HALF, "sparse-2:4": Shrinking(method="two_four")}, {"merged-8": TokenSchedule()})
    assert parts["merged-8"] == Part("tokens", "merged-8")
    assert [part.kind for part in parts.values()] == ["pruning", "pruning", "tokens"]
    rung = parse_rung("openvino-int8+merged-8+structured-50", parts)
    assert rung.name == "structured-50+merged-8+openvino-int8"


@pytest.mark.parametrize(
    ("prunings", "tokens", "told"),
    [
        ({"a+b": HALF}, {}, r"'a\+b'"),
        ({"a": HALF}, {"a": TokenSchedule()}, "'a' is in ladder.prunings too"),
        ({"openvino": HALF}, {}, "'openvino' is the name of a runtime"),
        ({}, {"": TokenSchedule()}, "rung part ''"),
    ],
)
def test_names_that_cannot_be_are_refused(prunings: Any, tokens: Any, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        parts_of(prunings, tokens)


@pytest.mark.parametrize("value", [{"amount": 1}, {"method": "magic"}, {"amont": 0.2}, {"structures": []}])
def test_params_out_of_range_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"ladder\.prunings"):
        parse_section(value, "ladder.prunings", Shrinking)


@pytest.mark.parametrize("whole_tower", [True, False])
def test_a_structured_step_leaves_a_smaller_model_that_is_stored_and_loaded(
    model: Any, training: TrainingData, tmp_path: Path, whole_tower: bool
) -> None:
    before = state_of(model[0])
    params = HALF.model_copy(update={"whole_tower": whole_tower})
    small, spec = next(iter(make_shrinks({"half": params}, {}, training).values()))(*model)
    assert all(torch.equal(before[name], weight) for name, weight in model[0].state_dict().items())
    assert num_weights(small) < num_weights(model[0])
    assert spec.encoder.surgery is not None
    touched = {path.split(".")[2] for path in (*spec.encoder.surgery.kept, *spec.encoder.surgery.removed)}
    assert touched == ({"0", "1"} if whole_tower else {"1"})
    save_highlighter(tmp_path / "small", small, spec)
    again, loaded = load_highlighter(tmp_path / "small")
    assert loaded == spec
    torch.testing.assert_close(again.tower(pixels()), small.tower(pixels()))


def test_recovery_draws_a_cut_model_to_its_teacher(model: Any, training: TrainingData) -> None:
    frames = np.concatenate([training.read_video(name).frames_THWC for name in "abc"])
    pixels_NCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    wanted = model[0].tower(pixels_NCHW).detach()

    def distance(epochs: int) -> float:
        params = HALF.model_copy(update={"recovery_epochs": epochs, "recovery_rate": 4.0, "batch_size": 1})
        small, _ = next(iter(make_shrinks({"half": params}, {}, training).values()))(*model)
        return float((small.tower(pixels_NCHW).detach() - wanted).square().mean())

    assert distance(12) < 0.7 * distance(0)


def test_the_same_step_gives_the_same_weights_and_is_done_once(model: Any, training: TrainingData) -> None:
    first, second = (next(iter(make_shrinks({"half": HALF}, {}, training).values())) for _ in range(2))
    one, other = first(*model), second(*model)
    assert first(*model)[0] is one[0]
    assert one[1] == other[1]
    assert all(torch.equal(weight, other[0].state_dict()[name]) for name, weight in one[0].state_dict().items())


def test_two_of_four_stay_zero_through_recovery(model: Any, training: TrainingData) -> None:
    params = Shrinking(method="two_four", recovery_epochs=2)
    sparse, spec = next(iter(make_shrinks({"sparse-2:4": params}, {}, training).values()))(*model)
    weight = sparse.tower.visual.transformer.resblocks[0].mlp.c_fc.weight
    fours = weight.unflatten(1, (-1, 4))
    assert ((fours != 0).sum(dim=-1) == 2).all()
    assert not torch.equal(
        weight[weight != 0], model[0].tower.visual.transformer.resblocks[0].mlp.c_fc.weight[weight != 0]
    )
    assert spec.encoder.surgery is None


def test_the_two_largest_of_four_inputs_stay() -> None:
    row = torch.tensor([[1.0, -4, 2, 3, 0, 0, 5, -6]])
    kernel = row.reshape(1, 8, 1, 1).repeat(2, 1, 3, 3)
    masks = mask_two_four({"row": row, "kernel": kernel, "odd": torch.ones(2, 3), "bias": torch.ones(4)})
    assert masks["row"].tolist() == [[0, 1, 0, 1, 0, 0, 1, 1]]
    assert torch.equal(masks["kernel"], masks["row"].reshape(1, 8, 1, 1).expand(2, 8, 3, 3))
    assert masks["odd"].all()
    assert masks["bias"].all()


def test_merging_is_part_of_the_spec_and_is_served(model: Any, training: TrainingData, tmp_path: Path) -> None:
    merged, spec = next(iter(make_shrinks({}, {"merged-4": TokenSchedule(num_merged=4)}, training).values()))(*model)
    assert spec.merging == MergeSchedule((4, 4))
    assert "merging" not in SPEC.to_json()  # a model without is written as ever
    assert HighlighterSpec.from_json(spec.to_json()) == spec
    save_highlighter(tmp_path / "merged", merged, spec)
    again, loaded = load_highlighter(tmp_path / "merged")
    assert isinstance(again.tower, MergingTower)
    expected = again.tower(pixels())
    assert not torch.allclose(expected, model[0].tower(pixels()), atol=1e-4)
    build_engine("eager", again.tower, tmp_path / "engine", SIDE, "float32")
    save_served(tmp_path / "served", tmp_path / "engine", again.head, loaded)
    frames = training.read_video("a").frames_THWC
    served = load_served(tmp_path / "served").embed(frames)
    direct = again.tower(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(served, direct.detach().numpy(), atol=1e-5)


def test_steps_follow_one_another_and_run_in_every_engine(model: Any, training: TrainingData, tmp_path: Path) -> None:
    """Structured, then tokens: also where a whole block is gone, which merges nothing."""
    prunings = {"blocks": Shrinking(amount=0.7, structures=("blocks",), recovery_epochs=0), "half": HALF}
    shrinks = make_shrinks(prunings, {"merged-3": TokenSchedule(num_merged=3)}, training)
    by_name = {part.name: part for part in shrinks}
    footage = Footage([row for row in training.rows if row.split != "train"], training.read_video)
    scores = {}
    for name in ("half+merged-3", "half+merged-3+torchscript", "half+merged-3+openvino", "blocks+merged-3"):
        built = build_rung(parse_rung(name, by_name), model, footage, 4, shrinks, tmp_path / name)
        assert isinstance(built, BuiltRung), built
        scores[name] = built.table["score"].to_numpy()
    for name in ("half+merged-3+torchscript", "half+merged-3+openvino"):  # OpenVINO's is by way of ONNX
        np.testing.assert_allclose(scores[name], scores["half+merged-3"], atol=1e-3)
    small, spec = shrinks[by_name["merged-3"]](*shrinks[by_name["blocks"]](*model))
    assert sorted(spec.merging.num_merged) == [0, 3]
    assert num_weights(small) < num_weights(model[0])


def test_a_resnet_has_no_tokens_to_merge_and_says_so(training: TrainingData, tmp_path: Path) -> None:
    nano = replace(
        SPEC.encoder, name="nano", image_size=64, model_config=model_config("nano"),
    )  # fmt: skip
    spec = replace(SPEC, encoder=nano)
    highlighter = Highlighter(spec).eval()
    shrinks = make_shrinks({}, {"merged-4": TokenSchedule(num_merged=4)}, training)
    part = next(iter(shrinks))
    with pytest.raises(EngineNotPossible, match="token merging: encoder nano is a Mod"):
        shrinks[part](highlighter, spec)
    footage = Footage([row for row in training.rows if row.split != "train"], training.read_video)
    rung = parse_rung("merged-4", {part.name: part})
    found = build_rung(rung, (highlighter, spec), footage, 4, shrinks, tmp_path)
    assert (found.status, RUNTIMES["float32"]) == ("not_possible", rung.runtime)  # type: ignore[union-attr]


def test_without_train_videos_nothing_is_cut(model: Any, training: TrainingData) -> None:
    empty = replace(training, rows=[row for row in training.rows if row.split != "train"])
    with pytest.raises(ParamsError, match="needs train videos"):
        next(iter(make_shrinks({"half": HALF}, {}, empty).values()))(*model)
