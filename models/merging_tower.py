"""The image tower with token merging: the same weights and the same calls as `models.tower.Tower`, fewer tokens.

Shapes: N frames, L tokens, M tokens behind the front, D token width, C = 3, H = W = image size, E embedding length.
Of open_clip's vision transformers that pool by class token or by average, the average weighted by size. It exports
as the tower does: the number of tokens of each block is fixed by the schedule, the batch is free.
"""

from typing import Any

import torch
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

from models.encoder import EncoderSpec
from models.encoder.narrow import Skip
from models.errors import EngineNotPossible, ParamsError, ShapeError
from models.token_merging import MergeSchedule, merging_block
from models.tower import Tower


class MergingTower(Tower):
    """Pixels to image embeddings by way of fewer and fewer tokens.

    spec:        of the encoder
    num_trained: blocks in the tail, 0 to all
    schedule:    tokens that each block removes
    visual:      the network, shared with whoever else has it; fresh weights where it is left out

    Raises EngineNotPossible for a network that has no tokens to merge, ParamsError for a schedule that does not fit.
    """

    def __init__(
        self, spec: EncoderSpec, num_trained: int, schedule: MergeSchedule, visual: nn.Module | None = None
    ) -> None:
        super().__init__(spec, num_trained, visual)
        num_blocks = len(self.blocks())
        num_tokens, self.width = mergeable(self.visual, spec.name).positional_embedding.shape
        schedule.tokens_left(num_tokens, num_blocks)
        self.num_merged = schedule.num_merged or (0,) * num_blocks
        for place, (block, number) in enumerate(zip(self.blocks(), self.num_merged, strict=True)):
            if number and isinstance(block, Skip):
                raise ParamsError(
                    f"token merging: block {place} was removed and cannot merge {number} tokens; give it 0"
                )

    def front(self, pixels_NCHW: Tensor) -> Tensor:
        """Return tokens [N, M, D] of float pixels [N, 3, H, W] in 0 to 255, RGB.

        Where the front merges they are [N, M, D + 1], the last channel their sizes.
        """
        x, sizes = self._run(self._patches(pixels_NCHW), None, 0, self.num_front)
        return x if sizes is None else torch.cat([x, sizes[:, :, None].to(x.dtype)], dim=2)

    def tail(self, tokens_NMD: Tensor) -> Tensor:
        """Return embeddings [N, E] of tokens [N, M, D], each one patch, or [N, M, D + 1] with their sizes."""
        x, sizes = tokens_NMD, None
        if x.shape[2] == self.width + 1:
            x, sizes = x[:, :, :-1], x[:, :, -1].float()
        elif x.shape[2] != self.width:
            raise ShapeError(f"tokens {tuple(x.shape)} must be {self.width} wide, or {self.width + 1} with sizes")
        return self._embed(*self._run(x, sizes, self.num_front, len(self.num_merged)))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embeddings [N, E] of float pixels [N, 3, H, W] in 0 to 255, RGB."""
        return self._embed(*self._run(self._patches(pixels_NCHW), None, 0, len(self.num_merged)))

    def _patches(self, pixels_NCHW: Tensor) -> Tensor:
        visual: Any = self.visual
        x: Tensor = visual._embeds((pixels_NCHW - self.mean) / self.std)
        return x

    def _run(self, x: Tensor, sizes: Tensor | None, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        for block, num_merged in zip(self.blocks()[first:last], self.num_merged[first:last], strict=True):
            x, sizes = merging_block(block, x, sizes, num_merged)
        return x, sizes

    def _embed(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """Return embeddings [N, E] of the last block's tokens; an average counts a token as often as its patches."""
        visual: Any = self.visual
        if sizes is None or visual.pool_type == "tok":
            pooled_ND: Tensor = visual._pool(x)[0]
        else:
            x = x if visual.final_ln_after_pool else visual.ln_post(x)
            shares = sizes[:, 1:] / sizes[:, 1:].sum(dim=1, keepdim=True)
            pooled_ND = (shares[:, None, :].to(x.dtype) @ x[:, 1:])[:, 0]
            pooled_ND = visual.ln_post(pooled_ND) if visual.final_ln_after_pool else pooled_ND
        embeddings_NE: Tensor = pooled_ND if visual.proj is None else pooled_ND @ visual.proj
        return embeddings_NE


def with_merging(tower: Tower, spec: EncoderSpec, schedule: MergeSchedule) -> MergingTower:
    """Return a tower that merges tokens and shares the weights of `tower`, which stays as it is."""
    num_trained = len(tower.blocks()) - tower.num_front
    merging = MergingTower(spec, num_trained, schedule, tower.visual)
    merging.training = tower.training  # of this module alone: what is shared keeps its own
    return merging


def mergeable(visual: nn.Module, name: str) -> Any:
    """Return `visual`, the network of encoder `name`. Raises EngineNotPossible where its tokens cannot be merged."""
    if not isinstance(visual, VisionTransformer):
        why = f"is a {type(visual).__name__} and not a vision transformer of open_clip"
    elif visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        why = "pools by attention or not at all"
    elif not all(type(block) in (ResidualAttentionBlock, Skip) for block in visual.transformer.resblocks):
        why = "has blocks of its own kind"
    elif not visual.transformer.batch_first:
        why = "keeps its batch second"
    else:
        return visual
    raise EngineNotPossible(f"token merging: encoder {name} {why}; leave the rung out")
