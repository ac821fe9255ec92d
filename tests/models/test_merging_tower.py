"""The merging tower: the tower's own outputs where it merges nothing, and the same in ONNX."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoder import EncoderSpec
from models.engines import build_engine, load_engine
from models.errors import EngineNotPossible, ParamsError, ShapeError
from models.merging_tower import MergingTower, with_merging
from models.token_merging import NO_MERGING, MergeSchedule
from models.tower import Tower

SIDE, NUM_BLOCKS, NUM_TOKENS = 32, 4, 17
CONFIG: dict[str, Any] = {"image_size": SIDE, "layers": NUM_BLOCKS, "width": 32, "head_width": 16, "patch_size": 8}
SPEC = EncoderSpec(
    name="tiny",
    pretrained=None,
    model_config={"embed_dim": 24, "vision_cfg": CONFIG},
    image_size=SIDE,
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
)
AVERAGES = [{"pool_type": "avg", "final_ln_after_pool": last} for last in (False, True)]
SCHEDULE = MergeSchedule((3, 2, 0, 1))


def spec_with(**vision: Any) -> EncoderSpec:
    return replace(SPEC, model_config={"embed_dim": 24, "vision_cfg": {**CONFIG, **vision}})


def make_tower(spec: EncoderSpec = SPEC, num_trained: int = 2) -> Tower:
    torch.manual_seed(3)
    tower = Tower(spec, num_trained).eval()
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.3)
    return tower


def make_pixels(num_frames: int = 5) -> Tensor:
    return torch.rand(num_frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("schedule", [NO_MERGING, MergeSchedule((0,) * NUM_BLOCKS)])
@torch.inference_mode()
def test_a_schedule_of_nothing_is_the_tower(schedule: MergeSchedule) -> None:
    tower = make_tower()
    torch.testing.assert_close(
        with_merging(tower, SPEC, schedule)(make_pixels()), tower(make_pixels()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("vision", [{}, *AVERAGES])
@torch.inference_mode()
def test_patches_that_are_alike_in_pairs_merge_without_loss(vision: dict[str, Any]) -> None:
    """Of 16 patches each pair is one picture twice, at one position twice."""
    spec = spec_with(**vision)
    tower = make_tower(spec)
    positions = tower.visual.positional_embedding
    positions[2::2] = positions[1::2]
    patches = torch.rand(3, 3, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 255
    pixels = patches.repeat_interleave(2, dim=3).permute(0, 1, 2, 4, 3, 5).reshape(3, 3, SIDE, SIDE)
    expected = tower(pixels)
    assert expected.std(0).min() > 1e-3  # frames are told apart
    merging = with_merging(tower, spec, MergeSchedule((8, 0, 0, 0)))
    torch.testing.assert_close(merging(pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vision", [{}, *AVERAGES])
@pytest.mark.parametrize("num_trained", range(NUM_BLOCKS + 1))
@torch.inference_mode()
def test_front_and_tail_together_are_the_tower(vision: dict[str, Any], num_trained: int) -> None:
    spec = spec_with(**vision)
    tower = make_tower(spec, num_trained)
    merging = with_merging(tower, spec, SCHEDULE)
    tokens = merging.front(make_pixels())
    left = [NUM_TOKENS, *SCHEDULE.tokens_left(NUM_TOKENS, NUM_BLOCKS)][NUM_BLOCKS - num_trained]
    assert tokens.shape == (5, left, 32 + (left < NUM_TOKENS))
    embeddings = merging.tail(tokens)
    assert embeddings.shape == (5, 24)
    torch.testing.assert_close(embeddings, merging(make_pixels()), rtol=1e-5, atol=1e-5)
    assert (embeddings - tower(make_pixels())).abs().max() > 1e-4  # merging unlike tokens changes something


@torch.inference_mode()
def test_stored_tokens_of_the_tower_can_be_merged_in_the_tail() -> None:
    tower = make_tower()
    merging = with_merging(tower, SPEC, MergeSchedule((0, 0, 4, 4)))
    stored = tower.front(make_pixels())
    torch.testing.assert_close(merging.tail(stored), merging(make_pixels()), rtol=1e-5, atol=1e-5)


def test_weights_are_shared_and_have_the_towers_names() -> None:
    tower = make_tower()
    merging = with_merging(tower, SPEC, SCHEDULE)
    assert merging.state_dict().keys() == tower.state_dict().keys()
    assert all(
        a is b
        for a, b in zip((tower.visual.conv1, *tower.blocks()), (merging.visual.conv1, *merging.blocks()), strict=True)
    )
    assert not merging.training
    assert [id(module) for module in merging.trained_modules()] == [id(module) for module in tower.trained_modules()]


def test_the_tail_can_be_trained() -> None:
    merging = MergingTower(SPEC, 2, SCHEDULE)
    merging.freeze_front()
    merging(make_pixels(2)).square().sum().backward()
    has_gradient = {name for name, weight in merging.named_parameters() if weight.grad is not None}
    assert "visual.transformer.resblocks.3.attn.in_proj_weight" in has_gradient
    assert "visual.transformer.resblocks.1.attn.in_proj_weight" not in has_gradient


@torch.inference_mode()
def test_black_and_flat_frames_have_finite_embeddings() -> None:
    tower = make_tower()
    tower.visual.positional_embedding.zero_()  # every patch alike, every pair a tie
    pixels = torch.tensor([0.0, 128, 255]).view(3, 1, 1, 1).expand(3, 3, SIDE, SIDE)
    merging = with_merging(tower, SPEC, MergeSchedule((8, 4, 2, 1)))
    torch.testing.assert_close(merging(pixels), tower(pixels), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_half_precision_is_close() -> None:
    merging = with_merging(make_tower(), SPEC, SCHEDULE)
    expected = merging(make_pixels())
    found = merging.bfloat16()(make_pixels().bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_engines_say_the_same_at_any_batch_size(name: str, tmp_path: Path) -> None:
    spec = spec_with(layers=2, **AVERAGES[0])
    merging = with_merging(make_tower(spec), spec, MergeSchedule((3, 2)))  # the second by sizes of the first
    build_engine(name, merging, tmp_path / "engine", SIDE, "float32")
    engine = load_engine(tmp_path / "engine", None)
    frames = np.random.default_rng(0).integers(0, 256, (7, SIDE, SIDE, 3), np.uint8)
    with torch.inference_mode():
        expected = merging(torch.from_numpy(frames).permute(0, 3, 1, 2).float()).numpy()
    for size in (1, 2, 7):
        np.testing.assert_allclose(engine(frames[:size]), expected[:size], atol=1e-4, rtol=0)


def test_what_cannot_be_merged_is_refused() -> None:
    resnet = spec_with(layers=[1, 1, 1, 1], width=16, head_width=8)
    pooled = spec_with(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2)
    own_kind = spec_with(qk_norm=True)
    for spec, why in ((resnet, "ModifiedResNet"), (pooled, "pools by attention"), (own_kind, "own kind")):
        with pytest.raises(EngineNotPossible, match=why):
            MergingTower(spec, 0, NO_MERGING)
    with pytest.raises(ParamsError, match="3 blocks for a tower of 4"):
        MergingTower(SPEC, 0, MergeSchedule((1, 1, 1)))
    with pytest.raises(ParamsError, match="cannot merge 9 of 17"):
        MergingTower(SPEC, 0, MergeSchedule((9, 0, 0, 0)))
    with pytest.raises(ShapeError, match="33 with sizes"):
        MergingTower(SPEC, 0, SCHEDULE).tail(torch.zeros(1, 9, 31))
