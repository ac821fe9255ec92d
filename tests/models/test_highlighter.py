"""HL-CLIP: the split tower, the head in its time, storing, and scoring over windows."""

from dataclasses import replace
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


@pytest.fixture(scope="module")
def encoder() -> tuple[torch.nn.Module, EncoderSpec]:
    return untrained_encoder(EncoderParams(), seed=0)


@pytest.fixture(scope="module")
def spec(encoder: tuple[torch.nn.Module, EncoderSpec]) -> HighlighterSpec:
    return HighlighterSpec(encoder[1], Sampling(4.0, 64), 2, "transformer", 32, 8, 0.4, 0.5, 0.75)


@pytest.mark.parametrize("num_trained", [0, 2, 6])
def test_front_and_tail_together_are_open_clips_tower(
    encoder: tuple[torch.nn.Module, EncoderSpec], num_trained: int
) -> None:
    clip, spec = encoder
    tower = Tower(spec, num_trained, clip.visual).eval()  # type: ignore[arg-type]
    pixels = torch.rand(3, 3, 64, 64) * 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    with torch.inference_mode():
        assert torch.allclose(tower(pixels), clip.visual((pixels / 255 - mean) / std), atol=1e-5)  # type: ignore[operator]


def test_only_the_tail_is_trained(spec: HighlighterSpec) -> None:
    model = Highlighter(spec)
    model.tower.freeze_front()
    trained = {name.split("resblocks.")[-1].split(".")[0] for name, p in model.tower.named_parameters() if p.requires_grad}
    assert trained == {"4", "5", "visual"}  # the last two blocks, and ln_post and proj of the tower itself
    frozen = {n for n, p in model.tower.named_parameters() if not p.requires_grad}
    assert "visual.conv1.weight" in frozen
    assert "visual.proj" not in frozen


def test_more_blocks_than_there_are_is_refused_by_name(spec: HighlighterSpec) -> None:
    with pytest.raises(ParamsError, match=r"unfreeze_blocks = 7.*nano has 6"):
        Tower(spec.encoder, 7)


def test_a_tower_without_blocks_gives_one_token_and_trains_the_head_only(spec: HighlighterSpec) -> None:
    resnet = replace(
        spec.encoder,
        name="tiny-resnet",
        image_size=64,
        model_config={"embed_dim": 64, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}},
    )
    tower = Tower(resnet, 0).eval()
    pixels = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        assert tower.front(pixels).shape == (2, 1, 64)
        assert torch.equal(tower(pixels), tower.front(pixels)[:, 0])
    with pytest.raises(ParamsError, match="has 0 blocks"):
        Tower(resnet, 1)
    assert image_tower(resnet) is not None


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
    assert all(0 < b - a <= length for a, b in zip(starts, starts[1:], strict=False))


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
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True))
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
