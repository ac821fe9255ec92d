"""HL-CLIP: the split tower, the head in its time, storing, and scoring over windows."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.encoder import EncoderParams, EncoderSpec, image_tower, untrained_encoder
from models.errors import ModelError, ParamsError, ShapeError
from models.files import read_json, write_json
from models.highlighter import (
    Highlighter,
    HighlighterSpec,
    load_highlighter,
    save_highlighter,
    score_features,
    window_starts,
)
from models.temporal import HighlightHead
from models.tower import Tower
from models.video import Sampling

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
TRANSFORMER = EncoderSpec(
    name="tiny-vit",
    pretrained=None,
    model_config={
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    },
    image_size=32,
    mean=MEAN,
    std=STD,
)
# A network of timm's, which has no blocks that open_clip knows.
UNSPLIT = EncoderSpec(
    name="tiny-timm",
    pretrained=None,
    model_config={
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
    },
    image_size=32,
    mean=MEAN,
    std=STD,
)


@pytest.fixture(scope="module")
def nano() -> EncoderSpec:
    return untrained_encoder(EncoderParams(), seed=0)[1]


@pytest.fixture(scope="module")
def spec(nano: EncoderSpec) -> HighlighterSpec:
    return HighlighterSpec(nano, Sampling(4.0, 64), 2, "transformer", 32, 8, 0.4, 0.5, 0.75)


@pytest.fixture(params=["nano", "transformer"])
def encoder(request: pytest.FixtureRequest, nano: EncoderSpec) -> EncoderSpec:
    """Return an encoder of each kind that can be split: a ResNet between stages, a transformer between blocks."""
    return nano if request.param == "nano" else TRANSFORMER


def trained_parameters(tower: Tower) -> set[str]:
    tower.freeze_front()
    return {name for name, parameter in tower.visual.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("num_trained", [0, 2, 4])
def test_front_and_tail_together_are_open_clips_tower(encoder: EncoderSpec, num_trained: int) -> None:
    torch.manual_seed(0)
    visual = image_tower(encoder)
    tower = Tower(encoder, num_trained, visual).eval()
    pixels = torch.rand(3, 3, encoder.image_size, encoder.image_size) * 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    with torch.inference_mode():
        assert torch.allclose(tower(pixels), visual((pixels / 255 - mean) / std), atol=1e-5)


def test_nanos_tokens_are_the_feature_map_between_its_stages(nano: EncoderSpec) -> None:
    pixels = torch.rand(3, 3, 64, 64) * 255
    with torch.inference_mode():
        shapes = [tuple(Tower(nano, num_trained).eval().front(pixels).shape) for num_trained in range(5)]
    assert shapes == [(3, 4, 512), (3, 16, 256), (3, 64, 128), (3, 256, 64), (3, 256, 16)]


def test_a_transformers_tokens_are_its_patches_and_the_class_token() -> None:
    pixels = torch.rand(3, 3, 32, 32) * 255
    with torch.inference_mode():
        for num_trained in range(5):
            assert Tower(TRANSFORMER, num_trained).eval().front(pixels).shape == (3, 17, 32)


def test_only_nanos_last_stages_and_its_pooling_are_trained(nano: EncoderSpec) -> None:
    tower = Tower(nano, 2)
    visual = tower.visual
    assert tower.trained_modules() == [visual.layer3, visual.layer4, visual.attnpool]
    assert tower.trained_projection() is None
    trained = trained_parameters(tower)
    assert {name.split(".")[0] for name in trained} == {"layer3", "layer4", "attnpool"}
    assert trained == {n for n, _ in visual.named_parameters() if n.startswith(("layer3.", "layer4.", "attnpool."))}


def test_only_a_transformers_last_blocks_norm_and_projection_are_trained() -> None:
    tower = Tower(TRANSFORMER, 2)
    assert tower.trained_projection() is tower.visual.proj
    last = ("transformer.resblocks.2.", "transformer.resblocks.3.", "ln_post.")
    trained = trained_parameters(tower)
    assert trained == {n for n, _ in tower.visual.named_parameters() if n == "proj" or n.startswith(last)}
    assert {"proj", "ln_post.weight", "transformer.resblocks.2.attn.in_proj_weight"} <= trained


def test_with_no_block_unfrozen_nothing_of_the_tower_is_trained(encoder: EncoderSpec) -> None:
    assert trained_parameters(Tower(encoder, 0)) == set()


def test_more_blocks_than_there_are_is_refused_by_name(encoder: EncoderSpec) -> None:
    with pytest.raises(ParamsError, match=rf"unfreeze_blocks = 7.*{encoder.name} has 4 blocks"):
        Tower(encoder, 7)


def test_a_tower_without_blocks_gives_one_token_and_trains_the_head_only() -> None:
    tower = Tower(UNSPLIT, 0).eval()
    pixels = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        assert tower.front(pixels).shape == (2, 1, 16)
        assert torch.equal(tower(pixels), tower.front(pixels)[:, 0])
    assert trained_parameters(tower) == set()
    with pytest.raises(ParamsError, match="has 0 blocks"):
        Tower(UNSPLIT, 1)


def test_batch_normalisation_keeps_the_statistics_of_pretraining(nano: EncoderSpec) -> None:
    tower = Tower(nano, 2).train()
    before = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    tower(torch.rand(4, 3, 64, 64) * 255)
    assert all(torch.equal(buffer, before[name]) for name, buffer in tower.named_buffers())
    assert tower.visual.layer4.training


@pytest.mark.parametrize("kind", ["transformer", "lstm", "none"])
def test_padding_changes_no_logit_of_a_real_frame(kind: str) -> None:
    torch.manual_seed(0)
    head = HighlightHead(16, 32, kind).eval()  # type: ignore[arg-type]
    features, times = torch.randn(1, 5, 16), torch.arange(5.0)[None]
    alone = head(features, times, torch.ones(1, 5, dtype=torch.bool))
    padded = head(
        torch.cat([features, torch.full((1, 3, 16), 9.0)], 1),
        torch.cat([times, torch.full((1, 3), 4.0)], 1),
        torch.tensor([[True] * 5 + [False] * 3]),
    )
    assert torch.allclose(alone, padded[:, :5], atol=1e-5)


@pytest.mark.parametrize(("kind", "sees_order"), [("transformer", True), ("lstm", True), ("none", False)])
def test_a_time_aware_head_tells_one_order_of_frames_from_another(kind: str, sees_order: bool) -> None:
    torch.manual_seed(0)
    head = HighlightHead(16, 32, kind).eval()  # type: ignore[arg-type]
    features, times, mask = torch.randn(1, 6, 16), torch.arange(6.0)[None], torch.ones(1, 6, dtype=torch.bool)
    forth, back = head(features, times, mask), head(features.flip(1), times, mask).flip(1)
    assert torch.allclose(forth, back, atol=1e-5) is not sees_order


def test_seconds_matter_not_frame_numbers() -> None:
    torch.manual_seed(0)
    head = HighlightHead(16, 32, "transformer").eval()
    features, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    slow, fast = (head(features, torch.arange(6.0)[None] * step, mask) for step in (1.0, 0.25))
    assert not torch.allclose(slow, fast, atol=1e-4)


@given(st.integers(1, 500), st.integers(1, 64))
def test_windows_cover_every_frame_and_stay_inside(num_frames: int, window: int) -> None:
    starts = window_starts(num_frames, window)
    length = min(window, num_frames)
    assert starts[0] == 0
    assert starts[-1] + length == num_frames
    assert all(0 < b - a <= length for a, b in pairwise(starts))


def test_scores_are_the_sigmoid_of_mean_logits_over_windows() -> None:
    class Constant(torch.nn.Module):
        def forward(self, features: torch.Tensor, times: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return features[..., 0] + times * 0

    values = np.linspace(-3, 3, 50, dtype=np.float32)
    scores = score_features(Constant(), values[:, None].copy(), np.arange(50) / 4, window=8)
    assert np.allclose(scores, 1 / (1 + np.exp(-values)), atol=1e-6)


def test_features_that_do_not_fit_their_times_are_refused() -> None:
    with pytest.raises(ShapeError, match="score_features"):
        score_features(HighlightHead(4, 8, "none"), np.zeros((3, 4), np.float32), np.zeros(2), 8)


def test_a_stored_model_comes_back_whole_and_the_same_weights_are_the_same_bytes(
    spec: HighlighterSpec, tmp_path: Path
) -> None:
    model = Highlighter(spec)
    for name in ("a", "b"):
        save_highlighter(tmp_path / name, model, spec)
    loaded, found = load_highlighter(tmp_path / "a")
    assert found == spec
    states = zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert all((tmp_path / "a" / f.name).read_bytes() == f.read_bytes() for f in (tmp_path / "b").iterdir())


@pytest.mark.parametrize("harm", ["truncate", "missing", "other version", "not json"])
def test_a_damaged_model_says_so_in_one_line(spec: HighlighterSpec, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    save_highlighter(folder, Highlighter(spec), spec)
    weights, config = folder / "model.safetensors", folder / "model.json"
    if harm == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "missing":
        weights.unlink()
    elif harm == "other version":
        write_json(config, {**read_json(config), "format_version": 99})
    else:
        config.write_text("{")
    with pytest.raises(ModelError) as error:
        load_highlighter(folder)
    assert "\n" not in str(error.value)
