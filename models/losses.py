"""What training holds logits against: labels, or how important people found each moment.

Knows logits, targets in [0, 1] and a mask; knows nothing of where they come from.

Shapes: B windows, T frames. A target that is NaN is unknown and counts nowhere.
"""

from typing import Literal

import torch
from torch import Tensor, nn

LossKind = Literal["bce", "ranking", "both", "regression"]
# A target from 0 to 1 spans this many logits: a sigmoid goes from 0.02 to 0.98 in them.
_LOGITS_OF_TARGET = 8.0
_PARTNERS = 8


def loss_of(kind: LossKind, logits_BT: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the loss, a scalar; 0 where no target is known.

    bce:        binary cross entropy; a target between 0 and 1 is the chance of a highlight
    ranking:    pairs of frames of one window in the wrong order, RankNet (Burges et al., "Learning to rank using
                gradient descent", ICML 2005), weighted by how far apart their targets are
    both:       their sum
    regression: squared error about the mean of the window, which asks nothing of how one video compares with another
    """
    known_BT = mask_BT & torch.isfinite(targets_BT)
    targets_BT = torch.where(known_BT, targets_BT, torch.zeros_like(targets_BT))
    if not bool(known_BT.any()):
        return logits_BT.sum() * 0.0
    if kind == "regression":
        return _regression(logits_BT, targets_BT, known_BT)
    parts = []
    if kind in ("bce", "both"):
        parts.append(nn.functional.binary_cross_entropy_with_logits(logits_BT[known_BT], targets_BT[known_BT]))
    if kind in ("ranking", "both"):
        parts.append(_ranking(logits_BT, targets_BT, known_BT))
    return torch.stack(parts).sum()


def _regression(logits_BT: Tensor, targets_BT: Tensor, known_BT: Tensor) -> Tensor:
    count_B1 = known_BT.sum(dim=1, keepdim=True).clamp_min(1)
    wanted_BT = _LOGITS_OF_TARGET * targets_BT
    error_BT = torch.where(known_BT, logits_BT - wanted_BT, torch.zeros_like(logits_BT))
    centred_BT = torch.where(known_BT, error_BT - error_BT.sum(dim=1, keepdim=True) / count_B1, 0.0)
    return (centred_BT**2).sum() / known_BT.sum()


def _ranking(logits_BT: Tensor, targets_BT: Tensor, known_BT: Tensor) -> Tensor:
    """Compare every frame with _PARTNERS drawn frames of its window."""
    num_frames = logits_BT.shape[1]
    total, weight = logits_BT.new_zeros(()), logits_BT.new_zeros(())
    for _ in range(_PARTNERS):
        order_T = torch.randperm(num_frames, device=logits_BT.device)
        apart_BT = targets_BT - targets_BT[:, order_T]
        weight_BT = apart_BT.abs() * (known_BT & known_BT[:, order_T])
        gap_BT = (logits_BT - logits_BT[:, order_T]) * apart_BT.sign()
        total = total + (weight_BT * nn.functional.softplus(-gap_BT)).sum()
        weight = weight + weight_BT.sum()
    return total / weight.clamp_min(1e-6)
