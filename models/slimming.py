"""A highlighter whose tower lost structures, and a teacher that the rest learns from.

Only what lies behind the stored tokens is cut: blocks of the tail and a ResNet's pooling. The front made the tokens
that are stored already; to cut it, every frame would have to be embedded again. The head is left whole.

Shapes: B windows, W frames.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.highlighter import Highlighter, HighlighterSpec
from models.losses import LossKind, loss_of
from models.structured import KINDS, Cut, Kind, choose_cut, cut_tower, find_groups, taylor_importance
from models.windows import Batch


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


def slim_highlighter(
    model: Highlighter,
    spec: HighlighterSpec,
    batches: Iterable[Batch],
    loss: LossKind,
    share: float,
    *,
    kinds: Sequence[Kind] = KINDS,
    multiple_of: int = 1,
) -> tuple[Highlighter, HighlighterSpec, SlimReport]:
    """Return a smaller highlighter, its spec and what went; `model` keeps its weights.

    batches: of train windows, by which importance is judged
    loss:    what the model is trained by
    share, kinds, multiple_of: as in `choose_cut`
    Raises ParamsError where nothing can be cut: no block is trained, or the tower is of another kind.
    """
    visual = model.tower.visual
    model.tower.freeze_front()
    groups = find_groups(visual, tail_paths(model))

    def judge(batch: Batch) -> Tensor:
        logits_BW = model(batch.tokens_BWLD, batch.times_s_BW, batch.mask_BW)
        return loss_of(loss, logits_BW, batch.targets_BW, batch.mask_BW)

    was_training = model.training
    model.eval()
    importance = taylor_importance(visual, groups, batches, judge)
    model.train(was_training)
    cut = choose_cut(visual, groups, importance, share, kinds=kinds, multiple_of=multiple_of)
    surgery = cut.surgery().after(spec.encoder.surgery)
    small_spec = replace(spec, encoder=replace(spec.encoder, surgery=surgery))
    small = Highlighter(small_spec, cut_tower(visual, cut))
    small.head.load_state_dict(model.head.state_dict())
    small.to(next(model.parameters()).device).train(was_training)
    inside = {part.weight for group in groups for part in group.parts}
    num_weights = sum(weight.numel() for name, weight in visual.named_parameters() if name in inside)
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
