"""Pruning: which weights may go, which do, and how they stay gone while the rest is trained on.

Only what lies behind the stored tokens is pruned: the tail's blocks, the projection and the head. The front made the
tokens that are stored already, and a changed front would need every frame embedded again.

A mask is held by writing zeros after each step instead of by `torch.nn.utils.prune`'s parametrisation: that one
recomputes a weight in its module's `forward`, which `nn.MultiheadAttention` never calls for its output projection.
What is chosen comes from `torch.nn.utils.prune`, as in the original project.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune

import models.torchvision_operators  # noqa: F401  # isort: skip  (before lightning)
from lightning.pytorch import Callback

from models.encoder.narrow import NarrowAttention
from models.errors import ModelError, ParamsError
from models.highlighter import Highlighter

Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerSparsity:
    """One pruned weight: its name in the model, how many numbers it has and how many of them are now 0."""

    name: str
    num_weights: int
    num_pruned: int


@dataclass(frozen=True, eq=False)
class PruneReport:
    """What pruning did.

    method: name in METHODS
    amount: share that was asked for, 0 to 1
    layers: every weight that could be pruned, in the model's order
    masks:  float 0 or 1 of each of them, by its name in the model
    """

    method: str
    amount: float
    layers: tuple[LayerSparsity, ...]
    masks: Masks

    @property
    def num_weights(self) -> int:
        """Numbers in all weights that could be pruned."""
        return sum(layer.num_weights for layer in self.layers)

    @property
    def num_pruned(self) -> int:
        """Numbers that are now 0."""
        return sum(layer.num_pruned for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """num_pruned / num_weights."""
        return self.num_pruned / self.num_weights


def prunable_weights(model: Highlighter, *, whole_tower: bool = False) -> dict[str, nn.Parameter]:
    """Return the weights that may be pruned, by name: matrices and kernels, never biases, norms or positions.

    Those of every Linear, Conv2d, MultiheadAttention (its stacked input projection too) and LSTM of the tail and the
    head, and the image projection when the tail trains it. With `whole_tower` the front's too.
    """
    roots = [model.tower.visual] if whole_tower else model.tower.trained_modules()
    chosen = {id(weight) for module in (*roots, model.head) for weight in _weights_of(module)}
    projection = getattr(model.tower.visual, "proj", None) if whole_tower else model.tower.trained_projection()
    chosen.add(id(projection))
    return {name: weight for name, weight in model.named_parameters() if id(weight) in chosen}


def _weights_of(root: nn.Module) -> Iterator[Tensor]:
    for module in root.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention):
            stacked_or_apart = (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            yield from (weight for weight in stacked_or_apart if weight is not None)
        elif isinstance(module, NarrowAttention):
            yield module.in_proj_weight
        elif isinstance(module, nn.LSTM):
            yield from (weight for name, weight in module.named_parameters() if name.startswith("weight"))


def mask_l1_unstructured(weights: Mapping[str, Tensor], amount: float) -> dict[str, Tensor]:
    """Return masks that drop the share `amount` of all numbers together, the smallest by absolute value.

    Global magnitude pruning: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015.
    """
    everything = parameters_to_vector(weights.values()).detach()
    method = prune.L1Unstructured(amount)
    kept = method.compute_mask(everything, torch.ones_like(everything))  # type: ignore[no-untyped-call]
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def mask_two_four(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks that keep the two largest of every four neighbours by absolute value, along a weight's inputs.

    2:4 sparsity by magnitude: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, arXiv:2104.08378. The
    fours lie along axis 1, over which a product sums (of a kernel its input channels), which is how a sparse tensor
    core reads them; a weight whose inputs are no whole fours stays whole.
    """
    return {name: _two_of_four(weight.detach()) for name, weight in weights.items()}


def _two_of_four(weight: Tensor) -> Tensor:
    if weight.ndim < 2 or weight.shape[1] % 4:
        return torch.ones_like(weight)
    fours = torch.unflatten(weight.abs().movedim(1, -1), -1, (-1, 4))
    kept = torch.zeros_like(fours).scatter_(-1, fours.topk(2, dim=-1).indices, 1.0)
    return kept.flatten(-2).movedim(-1, 1).contiguous()


# A method takes weights by name and the share to drop, and gives a mask for each; another one is another line.
METHODS: Mapping[str, Callable[[Mapping[str, Tensor], float], dict[str, Tensor]]] = {
    "l1_unstructured": mask_l1_unstructured
}


def prune_weights(model: Highlighter, method: str, amount: float) -> PruneReport:
    """Set the share `amount` (0 to 1) of the prunable weights to 0, in place.

    Raises ParamsError for an unknown method or an amount outside [0, 1].
    """
    if method not in METHODS:
        raise ParamsError(f"prune.method = {method!r}: no such method; there are {', '.join(METHODS)}")
    if not 0 <= amount <= 1:
        raise ParamsError(f"prune.amount = {amount}: must lie in [0, 1]")
    weights = prunable_weights(model)
    masks = METHODS[method](weights, float(amount))
    apply_masks(model, masks)
    layers = tuple(LayerSparsity(name, mask.numel(), int((mask == 0).sum())) for name, mask in masks.items())
    return PruneReport(method, amount, layers, masks)


def prune_l1(model: Highlighter, amount: float) -> PruneReport:
    """Set the share `amount` (0 to 1) of the prunable weights to 0, the globally smallest, in place."""
    return prune_weights(model, "l1_unstructured", amount)


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set to 0 what `masks` drop. Raises ModelError where a mask has no weight of its shape in `model`."""
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            raise ModelError(f"mask {name} {tuple(mask.shape)} fits no weight of the model; prune this model again")
        weights[name].mul_(mask.to(weights[name]))


class HoldMasks(Callback):
    """Keeps pruned weights at 0 through training: a Lightning callback that applies the masks after every step.

    It runs before checkpoints are written, so every stored state is pruned.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self.model, self.masks = model, masks

    def on_train_batch_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Apply the masks."""
        apply_masks(self.model, self.masks)
