"""Pruning: the right weights go, nothing before the stored tokens changes, and what is gone stays gone in training."""

import numpy as np
import pytest
import torch
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip
import lightning
from torch.utils.data import DataLoader

from models.encoder import EncoderSpec
from models.errors import ModelError, ParamsError
from models.highlighter import Highlighter, HighlighterSpec
from models.pruning import METHODS, HoldMasks, apply_masks, prunable_weights, prune_l1, prune_weights
from models.temporal import TemporalKind
from models.video import Sampling

SIDE = 32


def highlighter(temporal: TemporalKind = "transformer", unfreeze_blocks: int = 1) -> Highlighter:
    encoder = EncoderSpec(
        name="tiny",
        pretrained=None,
        model_config={
            "embed_dim": 24,
            "vision_cfg": {"image_size": SIDE, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
        },
        image_size=SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    torch.manual_seed(0)
    return Highlighter(HighlighterSpec(encoder, Sampling(4.0, SIDE, "squash"), unfreeze_blocks, temporal, 16, window=4))


def pixels(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 255


def test_prunable_weights_are_the_matrices_behind_the_tokens() -> None:
    names = set(prunable_weights(highlighter()))
    block = "tower.visual.transformer.resblocks.2"
    assert {name for name in names if name.startswith("tower")} == {
        f"{block}.attn.in_proj_weight",
        f"{block}.attn.out_proj.weight",
        f"{block}.mlp.c_fc.weight",
        f"{block}.mlp.c_proj.weight",
        "tower.visual.proj",
    }
    head = {name for name in names if name.startswith("head")}
    assert {"head.mix.weight", "head.classifier.0.weight", "head.classifier.2.weight"} < head
    assert "head.encoder.layers.0.self_attn.in_proj_weight" in head
    assert not any("norm" in name or "bias" in name for name in names)


def test_with_a_frozen_tower_only_the_head_is_pruned() -> None:
    assert all(name.startswith("head") for name in prunable_weights(highlighter(unfreeze_blocks=0)))


def test_lstm_weights_are_pruned() -> None:
    names = prunable_weights(highlighter("lstm"))
    assert {"head.encoder.weight_ih_l0", "head.encoder.weight_hh_l1_reverse"} < set(names)
    assert len([name for name in names if "encoder" in name]) == 8


@pytest.mark.parametrize("amount", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_exactly_the_globally_smallest_go(amount: float) -> None:
    model = highlighter()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    report = prune_l1(model, amount)
    together = torch.cat([before[layer.name].flatten() for layer in report.layers])
    after = torch.cat([dict(model.named_parameters())[layer.name].detach().flatten() for layer in report.layers])
    gone = after == 0
    assert report.num_weights == len(together)
    assert report.num_pruned == gone.sum() == round(amount * len(together))
    assert report.sparsity == pytest.approx(amount, abs=1e-3)
    if 0 < amount < 1:
        assert together[gone].abs().max() <= together[~gone].abs().min()
    assert torch.equal(after[~gone], together[~gone])
    untouched = set(before) - {layer.name for layer in report.layers}
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters() if name in untouched)


def test_pruning_is_global_and_not_a_share_of_each_layer() -> None:
    model = highlighter()
    with torch.no_grad():
        model.head.classifier[0].weight.mul_(100)
        model.tower.visual.proj.mul_(1e-4)
    layers = {layer.name: layer for layer in prune_l1(model, 0.3).layers}
    assert layers["head.classifier.0.weight"].num_pruned == 0
    assert layers["tower.visual.proj"].num_pruned == layers["tower.visual.proj"].num_weights


def test_stored_tokens_stay_true_and_the_embedding_changes() -> None:
    model = highlighter().eval()
    with torch.no_grad():
        tokens, features = model.tower.front(pixels()), model.tower(pixels())
        prune_l1(model, 0.5)
        assert torch.equal(model.tower.front(pixels()), tokens)
        assert not torch.allclose(model.tower(pixels()), features)


class _Fit(lightning.LightningModule):
    """Fits noise, hard: every weight moves."""

    def __init__(self, model: Highlighter) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
        with torch.no_grad():
            tokens = self.model.tower.front(batch)
        count = len(batch)
        times = torch.arange(count, dtype=torch.float32)[None]
        logits = self.model(tokens[None], times, torch.ones(1, count, dtype=torch.bool))
        return nn.functional.binary_cross_entropy_with_logits(logits, (torch.arange(count) % 2).float()[None])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        return torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore:.*isinstance.treespec")
@pytest.mark.parametrize("hold", [True, False])
def test_masks_hold_through_training_and_only_through_the_callback(hold: bool) -> None:
    model = highlighter()
    model.tower.freeze_front()
    report = prune_l1(model, 0.4)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", callbacks=[HoldMasks(model, report.masks)] if hold else [], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(_Fit(model), DataLoader(pixels(12), batch_size=4))
    after = dict(model.named_parameters())
    for name, mask in report.masks.items():
        assert torch.all(after[name][mask == 0] == 0) == hold or not (mask == 0).any()
        assert not torch.equal(after[name][mask == 1], before[name][mask == 1])  # the rest goes on learning
    assert not any(name.endswith(("_orig", "_mask")) for name in model.state_dict())


def test_masks_of_another_model_are_refused() -> None:
    masks = prune_l1(highlighter("lstm"), 0.5).masks
    with pytest.raises(ModelError, match="fits no weight"):
        apply_masks(highlighter("none"), masks)


def test_methods_go_by_name_and_another_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match="there are l1_unstructured"):
        prune_weights(highlighter(), "magic", 0.5)
    with pytest.raises(ParamsError, match=r"1\.5"):
        prune_l1(highlighter(), 1.5)
    drop_all = {**METHODS, "all": lambda weights, amount: {n: torch.zeros_like(w) for n, w in weights.items()}}
    monkeypatch.setattr("models.pruning.METHODS", drop_all)
    assert prune_weights(highlighter(), "all", 0.1).sparsity == 1.0


def test_the_same_model_is_pruned_the_same_way() -> None:
    one, other = prune_l1(highlighter(), 0.3), prune_l1(highlighter(), 0.3)
    assert all(np.array_equal(mask.numpy(), other.masks[name].numpy()) for name, mask in one.masks.items())
