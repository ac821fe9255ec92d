"""A highlighter whose tower lost structures, and a teacher that the rest learns from.

Where tokens are stored, only what lies behind them is cut: blocks of the tail and a ResNet's pooling. The front made
the tokens; to cut it too (`slim_whole_tower`), every frame has to be embedded again. The head is left whole.

Shapes: B windows, W frames of a window, H = image size, C = 3.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from models.highlighter import Highlighter, HighlighterSpec
from models.losses import LossKind, loss_of
from models.structured import KINDS, Cut, Group, Kind, choose_cut, cut_tower, find_groups, holds, taylor_importance
from models.structured_cost import CostKind, costs_of
from models.tower import to_pixels
from models.windows import Batch

BatchT = TypeVar("BatchT")


class FrameBatch(NamedTuple):
    """Windows of frames, where no tokens are stored.

    frames_BWHHC: uint8, RGB; times_s_BW: float32, seconds since the window's first frame
    targets_BW:   float32, 0 to 1 or NaN; mask_BW: bool, True where a frame is real
    """

    frames_BWHHC: Tensor
    times_s_BW: Tensor
    targets_BW: Tensor
    mask_BW: Tensor


@dataclass(frozen=True)
class SlimReport:
    """What structured pruning did.

    cut:         structures that are left
    num_weights: numbers in the modules that structures could go from
    num_pruned:  numbers that are gone
    """

    cut: Cut
    num_weights: int
    num_pruned: int

    @property
    def sparsity(self) -> float:
        """num_pruned / num_weights."""
        return self.num_pruned / self.num_weights


@dataclass(frozen=True)
class Slimming:
    """How much of a tower goes.

    share:       of the cost of all structures that can go, 0 to below 1
    kinds:       of structures that may go
    multiple_of: channels that are left are a whole number of these
    cost:        what is counted
    """

    share: float
    kinds: tuple[Kind, ...] = KINDS
    multiple_of: int = 1
    cost: CostKind = "weights"


def slim_highlighter(
    model: Highlighter, spec: HighlighterSpec, batches: Iterable[Batch], loss: LossKind, slimming: Slimming
) -> tuple[Highlighter, HighlighterSpec, SlimReport]:
    """Return a highlighter with a smaller tail, its spec and what went; `model` keeps its weights.

    batches: of train windows, by which importance is judged
    loss:    what the model is trained by
    Raises ParamsError where nothing can be cut: no block is trained, or the tower is of another kind.
    """
    model.tower.freeze_front()

    def judge(batch: Batch) -> Tensor:
        logits_BW = model(batch.tokens_BWLD, batch.times_s_BW, batch.mask_BW)
        return loss_of(loss, logits_BW, batch.targets_BW, batch.mask_BW)

    return _slim(model, spec, find_groups(model.tower.visual, tail_paths(model)), batches, judge, slimming)


def slim_whole_tower(
    model: Highlighter,
    spec: HighlighterSpec,
    batches: Iterable[FrameBatch],
    loss: LossKind,
    slimming: Slimming,
    within: Sequence[str] | None = None,
) -> tuple[Highlighter, HighlighterSpec, SlimReport]:
    """Return a highlighter whose whole tower is smaller, as `slim_highlighter` does; stored tokens no longer fit it.

    within: paths of modules in the tower; only what lies in one of them is cut. Everything where it is left out.
    """
    model.tower.visual.requires_grad_(True)

    def judge(batch: FrameBatch) -> Tensor:
        pixels = to_pixels(batch.frames_BWHHC.flatten(0, 1))
        features_BWE = torch.unflatten(model.tower(pixels), 0, batch.mask_BW.shape)
        return loss_of(loss, model.head(features_BWE, batch.times_s_BW, batch.mask_BW), batch.targets_BW, batch.mask_BW)

    return _slim(model, spec, find_groups(model.tower.visual, within), batches, judge, slimming)


def _slim(
    model: Highlighter,
    spec: HighlighterSpec,
    groups: Sequence[Group],
    batches: Iterable[BatchT],
    judge: Callable[[BatchT], Tensor],
    slimming: Slimming,
) -> tuple[Highlighter, HighlighterSpec, SlimReport]:
    visual, was_training = model.tower.visual, model.training
    model.eval()
    importance = taylor_importance(visual, groups, batches, judge)
    model.train(was_training)
    costs = costs_of(visual, groups, slimming.cost, spec.encoder.image_size)
    cut = choose_cut(groups, importance, costs, slimming.share, kinds=slimming.kinds, multiple_of=slimming.multiple_of)
    small_spec = replace(spec, encoder=replace(spec.encoder, surgery=cut.surgery().after(spec.encoder.surgery)))
    small = Highlighter(small_spec, cut_tower(visual, cut))
    small.head.load_state_dict(model.head.state_dict())
    small.to(next(model.parameters()).device).train(was_training)
    inside = [name for name, _ in visual.named_parameters() if any(holds(group, name) for group in groups)]
    num_weights = sum(visual.get_parameter(name).numel() for name in inside)
    return small, small_spec, SlimReport(cut, num_weights, _num_weights(visual) - _num_weights(small.tower.visual))


def tail_paths(model: Highlighter) -> list[str]:
    """Return paths in the tower of the modules that are trained: the ones behind the stored tokens."""
    trained = {id(module) for module in model.tower.trained_modules()}
    return [path for path, module in model.tower.visual.named_modules() if id(module) in trained]


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def distil_from(teacher: Highlighter, weight: float) -> Callable[[Batch, Tensor], Tensor]:
    """Return the loss that draws logits to a teacher's: `weight` times the mean squared error over real frames.

    Matching logits: Ba & Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014, arXiv:1312.6184; the limit at
    high temperature of Hinton et al. 2015, arXiv:1503.02531. Frames without a label count too.
    """
    teacher.eval().requires_grad_(False)

    def loss(batch: Batch, logits_BW: Tensor) -> Tensor:
        with torch.no_grad():
            teacher.to(logits_BW.device)
            wanted_BW = teacher(batch.tokens_BWLD, batch.times_s_BW, batch.mask_BW)
        num_members = len(logits_BW) // len(wanted_BW)  # of a committee, which gives every member's logits
        wanted_BW, mask_BW = wanted_BW.repeat(num_members, 1), batch.mask_BW.repeat(num_members, 1)
        return weight * nn.functional.mse_loss(logits_BW[mask_BW].float(), wanted_BW[mask_BW].float())

    return loss
