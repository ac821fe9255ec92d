"""What token merging saves: floating point operations by formula, and time by the clock.

Knows shapes of towers and calls to be timed; judges nothing. The formula is a bound that small towers do not reach:
matching costs time that is not in multiplications.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.errors import ShapeError
from models.merging_tower import mergeable
from models.token_merging import NO_MERGING, MergeSchedule, most_merged
from models.tower import Tower

_WARM_UP_CALLS = 2


@dataclass(frozen=True)
class TowerShape:
    """What the operations of a vision transformer follow from.

    num_tokens:    before the first block, the class token among them
    num_blocks:    of the transformer
    width:         of a token
    head_width:    of a head's query, key and value
    mlp_width:     of a block's hidden layer
    patch_numbers: numbers in a patch of pixels, 3 times its side squared
    embed_dim:     of the projected embedding; 0 where nothing is projected
    """

    num_tokens: int
    num_blocks: int
    width: int
    head_width: int
    mlp_width: int
    patch_numbers: int
    embed_dim: int


def tower_shape(tower: Tower) -> TowerShape:
    """Return the shape of a tower. Raises EngineNotPossible where its tokens cannot be merged."""
    visual = mergeable(tower.visual, type(tower.visual).__name__)
    block = visual.transformer.resblocks[0]
    return TowerShape(
        num_tokens=len(visual.positional_embedding),
        num_blocks=len(visual.transformer.resblocks),
        width=block.attn.embed_dim,
        head_width=block.attn.head_dim,
        mlp_width=block.mlp.c_fc.out_features,
        patch_numbers=visual.conv1.weight[0].numel(),
        embed_dim=0 if visual.proj is None else visual.proj.shape[1],
    )


def tower_flops(shape: TowerShape, schedule: MergeSchedule = NO_MERGING) -> int:
    """Return the floating point operations of one frame: two for each multiplication in a matrix product.

    A block on L tokens of width D that leaves M: projections 8 L D^2, attention 4 L^2 D, MLP 4 M D times its width;
    and, where it merges, the likeness of keys, 2 K for each of about (L / 2)^2 pairs, and the averages, 2 L M D.
    Norms, softmax and sorting are left out, as is usual.

    Raises ParamsError where the schedule does not fit.
    """
    width, num_tokens = shape.width, shape.num_tokens
    total = 2 * (num_tokens - 1) * shape.patch_numbers * width + 2 * width * shape.embed_dim
    for left in schedule.tokens_left(num_tokens, shape.num_blocks):
        total += 8 * num_tokens * width**2 + 4 * num_tokens**2 * width + 4 * left * width * shape.mlp_width
        if left < num_tokens:
            total += 2 * most_merged(num_tokens) * (num_tokens // 2) * shape.head_width + 2 * num_tokens * left * width
        num_tokens = left
    return total


def flops_saved(shape: TowerShape, schedule: MergeSchedule) -> float:
    """Return the share of the unmerged tower's operations that `schedule` saves, below 1.

    Below 0 where matching costs more than it saves.
    """
    return 1 - tower_flops(shape, schedule) / tower_flops(shape)


@dataclass(frozen=True)
class TimeRatio:
    """How two towers compare on one machine.

    reference_s, merging_s:    median seconds of a call
    ratio:                     median over rounds of reference / merging; above 1 where merging is faster
    ratio_low, ratio_high:     its quartiles, the spread
    num_rounds:                calls of each
    """

    reference_s: float
    merging_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    num_rounds: int


@torch.inference_mode()
def compare_times(
    reference: Callable[[Tensor], Tensor],
    merging: Callable[[Tensor], Tensor],
    pixels_NCHW: Tensor,
    num_rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> TimeRatio:
    """Return how long two towers take on the same pixels, called in turn so that both meet the same load.

    num_rounds: from 1; each is one call of either. Only for towers on the processor: a GPU's clock needs waiting.
    """
    if num_rounds < 1:
        raise ShapeError(f"compare_times: {num_rounds} rounds, must be at least 1")
    for _ in range(_WARM_UP_CALLS):
        reference(pixels_NCHW)
        merging(pixels_NCHW)
    times_s_R2 = np.empty((num_rounds, 2))
    for row in times_s_R2:
        for column, tower in enumerate((reference, merging)):
            start_s = clock()
            tower(pixels_NCHW)
            row[column] = clock() - start_s
    low, middle, high = np.percentile(times_s_R2[:, 0] / times_s_R2[:, 1], [25, 50, 75])
    reference_s, merging_s = np.median(times_s_R2, axis=0)
    return TimeRatio(float(reference_s), float(merging_s), float(middle), float(low), float(high), num_rounds)
