"""Structured pruning: the least important structures go, and the smaller tower says what the zeroed one says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.encoder import EncoderSpec, image_tower, load_encoder, register_nano, save_encoder
from models.encoder.openclip import _build, model_config
from models.encoder.surgery import Surgery
from models.errors import ModelError, ParamsError
from models.highlighter import Highlighter, load_highlighter, save_highlighter
from models.slimming import FrameBatch, Slimming, slim_whole_tower
from models.structured import Cut, choose_cut, cut_tower, find_groups, taylor_importance, zero_structures
from models.structured_cost import costs_of
from models.tower import Tower
from tests.tiny_model import TINY

NANO = EncoderSpec("nano", None, model_config("nano"), 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
VIT = replace(TINY.encoder, model_config={**TINY.encoder.model_config})
SPECS = {"vit": VIT, "nano": NANO}


def tower_of(kind: str) -> nn.Module:
    """A tower whose every weight matters: biases, norms and last normalisations start at 0 or 1."""
    torch.manual_seed(0)
    visual = image_tower(SPECS[kind]).eval()
    with torch.no_grad():
        for name, weight in [*visual.named_parameters(), *visual.named_buffers()]:
            if name.endswith("bias") or "running_mean" in name:
                weight.normal_(std=0.3)
            elif "bn" in name and weight.is_floating_point():
                weight.uniform_(0.5, 1.5)
    return visual


def pixels(kind: str, count: int = 3) -> torch.Tensor:
    side = SPECS[kind].image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def weigh(kind: str, visual: nn.Module, within: list[str] | None = None) -> tuple:
    groups = find_groups(visual, within)
    return groups, taylor_importance(visual, groups, [pixels(kind)], lambda x: visual(x).square().sum())


def num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("kind", ["vit", "nano"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_smaller_tower_says_what_the_zeroed_one_says(kind: str, share: float) -> None:
    visual = tower_of(kind)
    groups, importance = weigh(kind, visual)
    cut = choose_cut(groups, importance, costs_of(visual, groups), share)
    smaller = cut_tower(visual, cut)
    with torch.no_grad():
        expected, found = zero_structures(visual, cut)(pixels(kind)), smaller(pixels(kind))
        assert not torch.allclose(expected, visual(pixels(kind)), atol=1e-3)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert num_weights(smaller) < num_weights(visual)


def test_a_block_goes_whole_and_its_place_stays() -> None:
    visual = tower_of("vit")
    cut = Cut({"transformer.resblocks.1.attn": (1,)}, ("transformer.resblocks.0",))
    smaller = cut_tower(visual, cut)
    with torch.no_grad():
        expected = zero_structures(visual, cut)(pixels("vit"))
        assert (smaller(pixels("vit")) - expected).abs().max() <= 1e-5
    assert not any(name.startswith("transformer.resblocks.0.") for name in smaller.state_dict())
    assert smaller.transformer.resblocks[1].attn.out_proj.weight.shape == (32, 16)
    assert len(Tower(replace(VIT, surgery=cut.surgery()), 1, smaller).blocks()) == 2


def test_a_bottleneck_goes_and_its_shortcut_stays(tmp_path: Path) -> None:
    visual = tower_of("nano")
    cut = Cut({"layer2.0.conv1": (1, 5)}, ("layer3.0", "layer1.0"))
    smaller = cut_tower(visual, cut)
    with torch.no_grad():
        expected = zero_structures(visual, cut)(pixels("nano"))
        assert (smaller(pixels("nano")) - expected).abs().max() <= 1e-5 * float(expected.abs().max())
    kept = {name.split(".")[2] for name in smaller.state_dict() if name.startswith("layer3.0.")}
    assert kept == {"downsample"}
    spec = replace(TINY, encoder=replace(NANO, surgery=cut.surgery()), unfreeze_blocks=2)
    model = Highlighter(spec, smaller).eval()
    save_highlighter(tmp_path / "model", model, spec)
    again, _ = load_highlighter(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again.tower(pixels("nano")), model.tower(pixels("nano")))


def test_pooling_of_a_resnet_loses_heads() -> None:
    visual = tower_of("nano")
    cut = Cut({"attnpool": (0, 3, 6), "layer3.0.conv2": tuple(range(1, 64, 2))})
    smaller = cut_tower(visual, cut)
    with torch.no_grad():
        expected = zero_structures(visual, cut)(pixels("nano"))
        assert (smaller(pixels("nano")) - expected).abs().max() <= 1e-5 * float(expected.abs().max())
    assert smaller.attnpool.q_proj.weight.shape == (192, 512)
    assert smaller.layer3[0].conv3.weight.shape == (256, 32, 1, 1)


def test_importance_is_weight_times_gradient_over_batches() -> None:
    visual = tower_of("vit")
    groups = find_groups(visual)
    batches = [pixels("vit"), pixels("vit").flip(0) * 2]
    found = taylor_importance(visual, groups, batches, lambda x: visual(x).square().sum())
    total = torch.zeros(128)
    mlp = visual.transformer.resblocks[1].mlp
    for batch in batches:
        visual.zero_grad()
        visual(batch).square().sum().backward()
        total += (mlp.c_fc.weight * mlp.c_fc.weight.grad).abs().sum(1) + (mlp.c_fc.bias * mlp.c_fc.bias.grad).abs()
        total += (mlp.c_proj.weight * mlp.c_proj.weight.grad).abs().sum(0)
    expected = total / 2
    torch.testing.assert_close(found["transformer.resblocks.1.mlp"], expected, rtol=1e-4, atol=1e-7)
    assert [len(found[group.path]) for group in groups] == [1, 2, 128, 1, 2, 128]


def test_what_matters_not_at_all_goes_first_wherever_it_is() -> None:
    visual = tower_of("vit")
    dead = {"transformer.resblocks.0.mlp": range(40, 60), "transformer.resblocks.1.attn": [1]}
    whole = {group.path: set(range(group.size)) for group in find_groups(visual)}
    kept = {path: tuple(sorted(whole[path] - set(gone))) for path, gone in dead.items()}
    visual = zero_structures(visual, Cut(kept))
    groups, importance = weigh("vit", visual)
    share = (20 * 65 + 16 * (32 * 4 + 3)) / (2 * 128 * 65 + 4 * 16 * (32 * 4 + 3))
    assert choose_cut(groups, importance, costs_of(visual, groups), share, kinds=("heads", "channels")).kept == kept
    before, after = visual(pixels("vit")), cut_tower(visual, Cut(kept))(pixels("vit"))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "nano"])
def test_one_is_left_everywhere_and_channels_come_in_multiples(kind: str) -> None:
    visual = tower_of(kind)
    groups, importance = weigh(kind, visual)
    sizes = {group.path: group for group in groups}
    bare = choose_cut(groups, importance, costs_of(visual, groups), 0.999, kinds=("heads", "channels"))
    assert all(len(indices) >= 1 for indices in bare.kept.values())
    blocks = choose_cut(groups, importance, costs_of(visual, groups), 0.999, kinds=("blocks",))
    assert len(blocks.removed) == (1 if kind == "vit" else 3)
    assert not blocks.kept
    tiled = choose_cut(groups, importance, costs_of(visual, groups), 0.4, multiple_of=8)
    channels = [len(kept) for path, kept in tiled.kept.items() if sizes[path].kind == "channels"]
    assert channels
    assert all(count % 8 == 0 for count in channels)
    assert choose_cut(groups, importance, costs_of(visual, groups), 0.0) == Cut({})


def test_only_what_lies_within_is_cut() -> None:
    visual = tower_of("nano")
    assert [g.path for g in find_groups(visual, ["layer4"])] == ["layer4.0", "layer4.0.conv1", "layer4.0.conv2"]
    assert find_groups(visual, ["layer"]) == ()


def test_a_cut_tower_is_cut_again() -> None:
    visual = tower_of("vit")
    first = Cut({"transformer.resblocks.1.mlp": tuple(range(64)), "transformer.resblocks.1.attn": (0,)})
    once = cut_tower(visual, first)
    second = Cut({"transformer.resblocks.1.mlp": tuple(range(8, 16))}, ("transformer.resblocks.0",))
    twice = cut_tower(once, second)
    surgery = second.surgery().after(first.surgery())
    again = image_tower(replace(VIT, surgery=surgery)).eval()
    again.load_state_dict(twice.state_dict())
    with torch.no_grad():
        assert torch.equal(again(pixels("vit")), twice(pixels("vit")))
        assert (twice(pixels("vit")) - zero_structures(once, second)(pixels("vit"))).abs().max() <= 1e-5


def test_surgery_travels_as_json_and_a_whole_spec_stays_as_it_was() -> None:
    surgery = Surgery({"transformer.resblocks.1.mlp": 64}, ("transformer.resblocks.0",))
    spec = replace(VIT, surgery=surgery)
    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert list(VIT.to_json()) == ["name", "pretrained", "model_config", "image_size", "mean", "std"]
    assert EncoderSpec.from_json(VIT.to_json()) == VIT


@pytest.mark.parametrize("kind", ["vit", "nano"])
def test_highlighter_is_stored_and_rebuilt(kind: str, tmp_path: Path) -> None:
    visual = tower_of(kind)
    groups, importance = weigh(kind, visual)
    cut = choose_cut(groups, importance, costs_of(visual, groups), 0.5, multiple_of=8)
    spec = replace(TINY, encoder=replace(SPECS[kind], surgery=cut.surgery()))
    model = Highlighter(spec, cut_tower(visual, cut)).eval()
    save_highlighter(tmp_path / "model", model, spec)
    again, found = load_highlighter(tmp_path / "model")
    assert found == spec
    with torch.no_grad():
        assert torch.equal(again.tower(pixels(kind)), model.tower(pixels(kind)))


def test_encoder_folder_keeps_the_surgery(tmp_path: Path) -> None:
    register_nano()
    clip = _build("nano", NANO.model_config).eval()
    cut = Cut({"layer4.0.conv1": tuple(range(32)), "attnpool": (0, 1)})
    clip.visual = cut_tower(clip.visual, cut)
    save_encoder(tmp_path / "encoder", clip, replace(NANO, surgery=cut.surgery()))
    again, spec = load_encoder(tmp_path / "encoder")
    assert spec.surgery == cut.surgery()
    with torch.no_grad():
        assert torch.equal(again.visual(pixels("nano")), clip.visual(pixels("nano")))


def test_wrong_cuts_and_surgeries_are_refused() -> None:
    visual = tower_of("vit")
    groups, importance = weigh("vit", visual)
    with pytest.raises(ParamsError, match=r"prune\.amount = 1"):
        choose_cut(groups, importance, costs_of(visual, groups), 1.0)
    with pytest.raises(ParamsError, match="multiple_of = 0"):
        choose_cut(groups, importance, costs_of(visual, groups), 0.5, multiple_of=0)
    for wrong in (Cut({"layer4.0.conv1": (0,)}), Cut({"transformer.resblocks.0.attn": (2,)}), Cut({}, ("ln_pre",))):
        with pytest.raises(ModelError, match="this tower"):
            cut_tower(visual, wrong)
    for wrong_surgery in (
        Surgery({"transformer.resblocks.0.attn": 3}),
        Surgery({"transformer.resblocks.7.mlp": 3}),
        Surgery({"ln_pre": 3}),
        Surgery({}, ("ln_pre",)),
    ):
        with pytest.raises(ModelError, match="surgery: "):
            image_tower(replace(VIT, surgery=wrong_surgery))
    for value in ({"kept": {"a": 0}, "removed": []}, {"kept": {}}, {"kept": {}, "removed": ["a", "a"]}):
        with pytest.raises(ModelError, match="surgery"):
            Surgery.from_json(value)
    with pytest.raises(ModelError, match="only open_clip"):
        replace(VIT, name="timm:resnet18", surgery=Surgery())
    with pytest.raises(ParamsError, match="no structure"):
        taylor_importance(nn.Linear(1, 1), (), [1], lambda x: x)
    with pytest.raises(ParamsError, match="no train batch"):
        taylor_importance(visual, groups, [], lambda x: x)
    with pytest.raises(ModelError, match="frozen"):
        taylor_importance(visual.requires_grad_(False), groups, [1], lambda x: x)


def test_multiplications_count_how_often_a_weight_is_used() -> None:
    visual = tower_of("nano")
    groups = find_groups(visual)
    costs = costs_of(visual, groups, "multiplications", 64)
    assert costs["layer1.0.conv1"] == (16 + 9 * 16) * 16 * 16
    assert costs["layer4.0.conv2"] == 9 * 128 * 4 * 4 + 512 * 2 * 2  # the picture is halved before it is read
    assert costs["attnpool"] == 64 * (3 * 512 + 128) * 5
    narrowed = cut_tower(visual, Cut({"attnpool": (0, 1)}))
    assert costs_of(narrowed, find_groups(narrowed), "multiplications", 64)["attnpool"] == 64 * (11 * 512 + 128)
    visual = tower_of("vit")
    costs = costs_of(visual, find_groups(visual), "multiplications", 32)
    assert costs["transformer.resblocks.0.attn"] == 16 * 32 * 4 * 5
    assert costs["transformer.resblocks.0.mlp"] == 32 * 2 * 5
    assert costs["transformer.resblocks.0"] == 2 * costs["transformer.resblocks.0.attn"] + 128 * 32 * 2 * 5


def test_whole_tower_is_cut_by_frames() -> None:
    spec = replace(TINY, encoder=NANO, unfreeze_blocks=2)
    model = Highlighter(spec, tower_of("nano")).eval()
    frames = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    batch = FrameBatch(frames, torch.arange(3.0).repeat(2, 1), torch.eye(3)[:2], torch.ones(2, 3, dtype=torch.bool))
    slimming = Slimming(0.5, cost="multiplications")
    small, small_spec, report = slim_whole_tower(model, spec, [batch], "bce", slimming)
    assert small_spec.encoder.surgery == report.cut.surgery()
    assert any(path.startswith(("layer1", "layer2")) for path in report.cut.kept)
    zeroed = zero_structures(model.tower.visual, report.cut)
    with torch.no_grad():
        expected, found = zeroed(pixels("nano")), small.tower.visual(pixels("nano"))
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert report.num_pruned == num_weights(model) - num_weights(small)
