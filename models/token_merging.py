"""Token merging: alike tokens of a frame become one between attention and MLP, so that later layers have fewer.

From Bolya, Fu, Dai, Zhang, Feichtenhofer and Hoffman, "Token Merging: Your ViT But Faster", ICLR 2023: bipartite soft
matching on the attention's keys, averages weighted by size, proportional attention. It needs no training, though a
tail can be trained through it. The class token, always the first, is never merged.

Shapes: N frames, L tokens (the class token among them), M tokens after merging, D width, A heads, K width of a head.
Sizes [N, L] float32 are how many patches of the frame a token stands for; they sum to the first L. Sizes of None are
all 1. Knows tensors and schedules; knows nothing of towers (`models.merging_tower`) or of time (`models.merging_cost`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoder.narrow import NarrowAttention, Skip
from models.errors import ModelError, ParamsError, ShapeError

ScheduleKind = Literal["constant", "decreasing"]


def most_merged(num_tokens: int) -> int:
    """Return how many of `num_tokens` tokens one matching can remove: half of all but the class token."""
    return max(num_tokens - 1, 0) // 2


@dataclass(frozen=True)
class MergeSchedule:
    """How many tokens each block removes.

    num_merged: tokens removed by each block, from the first; empty for a tower that merges nothing
    """

    num_merged: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(type(number) is not int or number < 0 for number in self.num_merged):
            raise ParamsError(f"token merging: schedule {self.num_merged} must be whole numbers from 0, one a block")

    def tokens_left(self, num_tokens: int, num_blocks: int) -> tuple[int, ...]:
        """Return the tokens after each block of a tower of `num_blocks` blocks that starts with `num_tokens`.

        Raises ParamsError where the schedule is for another number of blocks, or a block cannot merge so many.
        """
        per_block = self.num_merged or (0,) * num_blocks
        if len(per_block) != num_blocks:
            raise ParamsError(
                f"token merging: a schedule of {len(per_block)} blocks for a tower of {num_blocks}; give one each"
            )
        left = []
        for block, number in enumerate(per_block):
            if number > most_merged(num_tokens):
                raise ParamsError(
                    f"token merging: block {block} cannot merge {number} of {num_tokens} tokens; "
                    f"at most {most_merged(num_tokens)}"
                )
            num_tokens -= number
            left.append(num_tokens)
        return tuple(left)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"num_merged": list(self.num_merged)}

    @staticmethod
    def from_json(value: Mapping[str, Any] | None) -> "MergeSchedule":
        """Return the value that `to_json` wrote; None, as in models from before there was one, merges nothing.

        Raises ModelError for anything else.
        """
        if value is None:
            return NO_MERGING
        try:
            return MergeSchedule(**{**value, "num_merged": tuple(value["num_merged"])})
        except (KeyError, TypeError, ParamsError) as error:
            raise ModelError(f"model.json: merge schedule is not what herdlight writes ({error})") from None


NO_MERGING = MergeSchedule()


def merge_schedule(kind: ScheduleKind, num_merged: int, num_blocks: int, num_tokens: int) -> MergeSchedule:
    """Return the schedule that removes `num_merged` tokens a block on average, as far as there are enough.

    "constant":   the same in every block
    "decreasing": from twice as many in the first block in a straight line to none in the last; it sums to the same and
                  saves more, since early blocks have the most tokens (section 4.1 of the paper)
    num_tokens:   before the first block. Raises ParamsError for an unknown kind or numbers out of range.
    """
    if kind not in get_args(ScheduleKind):
        raise ParamsError(f"token merging: schedule {kind!r} must be one of {', '.join(get_args(ScheduleKind))}")
    if num_merged < 0 or num_blocks < 1 or num_tokens < 1:
        raise ParamsError(
            f"token merging: {num_merged} tokens a block must be at least 0, "
            f"{num_blocks} blocks and {num_tokens} tokens at least 1"
        )
    wanted = [num_merged] * num_blocks
    if kind == "decreasing":
        for block in range(num_blocks // 2):  # what rounding gives to one half it takes from the other
            last = num_blocks - 1
            wanted[block] = (4 * num_merged * (last - block) + last) // (2 * last)
            wanted[last - block] = 2 * num_merged - wanted[block]
    per_block = []
    for number in wanted:
        per_block.append(min(number, most_merged(num_tokens)))
        num_tokens -= per_block[-1]
    return MergeSchedule(tuple(per_block))


def match_tokens(keys_NLK: Tensor, num_merged: int) -> Tensor:
    """Return groups int64 [N, L]: the place of each token's group among M = L - num_merged groups.

    Bipartite soft matching (section 3.1 of the paper): tokens are dealt in turn to two sets, each token of the first
    draws an edge to the one of the second with the most alike key (cosine), and the `num_merged` most alike edges make
    one group of their ends. The class token stays alone in group 0. Which frames share a batch makes no difference.

    Raises ShapeError where keys are not [N, L, K] or there are not so many pairs.
    """
    if not _is_tracing():  # a tracer makes tensors of shapes, which nothing should be decided by
        _check_pairs(keys_NLK, num_merged)
    num_frames, num_tokens, device = keys_NLK.shape[0], keys_NLK.shape[1], keys_NLK.device
    if num_merged == 0:
        return torch.arange(num_tokens, device=device).expand(num_frames, -1)
    unit_NLK = functional.normalize(keys_NLK.float(), dim=-1)
    first_NIK, second_NJK = unit_NLK[:, 2::2], unit_NLK[:, 1::2]
    num_first, num_second = (num_tokens - 1) // 2, num_tokens // 2
    likeness_NI, partner_NI = (first_NIK @ second_NJK.transpose(1, 2)).max(dim=-1)
    chosen_NR = likeness_NI.topk(num_merged, dim=-1).indices
    is_merged_NI = (chosen_NR[:, :, None] == torch.arange(num_first, device=device)).any(dim=1)
    # Groups in order: the class token, the first set's tokens that stay, the second set.
    second_start = 1 + num_first - num_merged
    first_NI = torch.where(is_merged_NI, second_start + partner_NI, torch.cumsum((~is_merged_NI).long(), dim=-1))
    second_NJ = torch.arange(second_start, second_start + num_second, device=device).expand(num_frames, -1)
    class_N1 = torch.zeros_like(second_NJ[:, :1])
    dealt_NL = torch.stack([second_NJ[:, :num_first], first_NI], dim=-1).flatten(1)
    return torch.cat([class_N1, dealt_NL, second_NJ[:, num_first:]], dim=1)


def merge_tokens(x_NLD: Tensor, sizes_NL: Tensor | None, groups_NL: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Return the average of each group's tokens, weighted by their sizes, [N, M, D], and the groups' sizes [N, M].

    Section 3.1 of the paper. A product with the matrix of shares: unlike a scatter it adds in the same order every
    time on every device, and a token that is alone in its group stays as it is to the last bit.

    groups_NL: as of `match_tokens`, 0 to M - 1. Raises ShapeError where shapes do not fit.
    """
    if not _is_tracing():
        _check_groups(x_NLD, sizes_NL, groups_NL)
    places_M1 = torch.arange(num_groups, device=x_NLD.device)[:, None]
    weights_NML = (groups_NL[:, None, :] == places_M1).float()
    if sizes_NL is not None:
        weights_NML = weights_NML * sizes_NL[:, None, :].float()
    sizes_NM = weights_NML.sum(dim=-1)
    shares_NML = weights_NML / sizes_NM[:, :, None]
    return shares_NML.to(x_NLD.dtype) @ x_NLD, sizes_NM


def attend(
    attention: nn.MultiheadAttention | NarrowAttention, x_NLD: Tensor, sizes_NL: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what self-attention adds to each token [N, L, D], and the keys [N, L, K], averaged over heads.

    Proportional attention: softmax(Q K^T / sqrt(K) + log size), so that a token counts as often as the patches that it
    stands for (equation 1 of the paper). Without dropout, as open_clip has it.
    """
    num_frames, num_tokens = x_NLD.shape[:2]
    projected = functional.linear(x_NLD, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.view(num_frames, num_tokens, 3, attention.num_heads, attention.head_dim)
    query_NALK, key_NALK, value_NALK = heads.permute(2, 0, 3, 1, 4).unbind(0)
    bias_N11L = None if sizes_NL is None else sizes_NL.log().to(x_NLD.dtype)[:, None, None, :]
    mixed_NALK = functional.scaled_dot_product_attention(query_NALK, key_NALK, value_NALK, attn_mask=bias_N11L)
    out_NLD: Tensor = attention.out_proj(mixed_NALK.transpose(1, 2).flatten(2))
    return out_NLD, key_NALK.mean(dim=1)


def merging_block(
    block: nn.Module, x_NLD: Tensor, sizes_NL: Tensor | None, num_merged: int
) -> tuple[Tensor, Tensor | None]:
    """Return tokens [N, M, D] and sizes [N, M] after one pre-norm residual block that removes `num_merged` tokens.

    Tokens are merged between attention and MLP, by this block's own keys.

    block: with ln_1, attn, ls_1, ln_2, mlp and ls_2, as open_clip's ResidualAttentionBlock, no attention mask; or the
           place of a removed one, which merges nothing
    """
    if isinstance(block, Skip):
        return x_NLD, sizes_NL
    if num_merged == 0 and sizes_NL is None:
        unmerged_NLD: Tensor = block(x_NLD)
        return unmerged_NLD, None
    parts: Any = block
    attended_NLD, keys_NLK = attend(parts.attn, parts.ln_1(x_NLD), sizes_NL)
    x_NLD = x_NLD + parts.ls_1(attended_NLD)
    if num_merged:
        groups_NL = match_tokens(keys_NLK, num_merged)
        x_NLD, sizes_NL = merge_tokens(x_NLD, sizes_NL, groups_NL, x_NLD.shape[1] - num_merged)
    return x_NLD + parts.ls_2(parts.mlp(parts.ln_2(x_NLD))), sizes_NL


def _check_pairs(keys_NLK: Tensor, num_merged: int) -> None:
    if keys_NLK.ndim != 3 or not 0 <= num_merged <= most_merged(keys_NLK.shape[1]):
        raise ShapeError(
            f"token merging: {num_merged} pairs of keys {tuple(keys_NLK.shape)}; keys must be [N, L, K] and pairs at "
            "most half of L - 1"
        )


def _check_groups(x_NLD: Tensor, sizes_NL: Tensor | None, groups_NL: Tensor) -> None:
    if x_NLD.shape[:2] != groups_NL.shape or (sizes_NL is not None and sizes_NL.shape != groups_NL.shape):
        raise ShapeError(
            f"token merging: tokens {tuple(x_NLD.shape)} must be [N, L, D], sizes and groups "
            f"{tuple(groups_NL.shape)} both [N, L]"
        )


def _is_tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
