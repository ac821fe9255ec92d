"""What the structures of a tower cost: weights on disk, or multiplications a picture, which are the time.

In a ResNet the two lie far apart: most weights are in its last stage and most multiplications in its first ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.modified_resnet import AttentionPool2d

from models.encoder.narrow import NarrowAttention
from models.structured import Group, holds

CostKind = Literal["weights", "multiplications"]


def costs_of(
    visual: nn.Module, groups: Sequence[Group], kind: CostKind = "weights", image_size: int = 0
) -> dict[str, float]:
    """Return what one structure of each group costs, by path of the group.

    kind:       "weights", how many it has, or "multiplications", with weights alone (not of tokens with tokens)
    image_size: side of the square input, px; read where multiplications are counted
    """
    weights = dict(visual.named_parameters())
    uses = dict.fromkeys(weights, 1.0) if kind == "weights" else _uses(visual, image_size)
    return {group.path: _cost(group, weights, uses) for group in groups}


def _cost(group: Group, weights: Mapping[str, Tensor], uses: Mapping[str, float]) -> float:
    if group.kind == "blocks":
        return sum(weight.numel() * uses.get(name, 0.0) for name, weight in weights.items() if holds(group, name))
    parts = [part for part in group.parts if part.weight in weights]
    return sum(
        part.width * (weights[part.weight].numel() / weights[part.weight].shape[part.dim]) * uses.get(part.weight, 0.0)
        for part in parts
    )


@torch.no_grad()
def _uses(visual: nn.Module, image_size: int) -> dict[str, float]:
    """Return how often each matrix or kernel is multiplied by for one picture: its positions, or tokens."""
    found: dict[str, float] = {}

    def count(path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            found[f"{path}.weight"] = float(output[0, 0].numel())
        elif isinstance(module, nn.Linear):
            found[f"{path}.weight"] = float(output.numel() // module.out_features)
        elif isinstance(module, AttentionPool2d):
            positions = float(len(module.positional_embedding))
            found.update({f"{path}.{part}_proj.weight": positions for part in "qkv"})
            found[f"{path}.c_proj.weight"] = positions
        else:
            found.update(
                dict.fromkeys((f"{path}.in_proj_weight", f"{path}.out_proj.weight"), float(inputs[0].shape[1]))
            )

    kinds = (nn.Conv2d, nn.Linear, AttentionPool2d, nn.MultiheadAttention, NarrowAttention)
    hooks = [
        module.register_forward_hook(lambda m, i, o, path=path: count(path, m, i, o))
        for path, module in visual.named_modules()
        if isinstance(module, kinds)
    ]
    was_training, device = visual.training, next(visual.parameters()).device
    try:
        visual.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        visual.train(was_training)
        for hook in hooks:
            hook.remove()
    return found
