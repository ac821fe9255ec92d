"""The image tower of a CLIP in two parts: a frozen front that runs once a frame, and a trainable tail.

Shapes: N frames, L tokens, D token width, C = 3, H = W = image size, E embedding length. Splits any open_clip vision
transformer between two of its blocks; any other tower is all front, and its embedding is its one token. Knows
open_clip's VisionTransformer; knows nothing of time or highlights.
"""

import torch
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.transformer import VisionTransformer

from models.encoder import EncoderSpec, image_tower
from models.errors import ParamsError


class Tower(nn.Module):
    """Pixels to image embeddings, with the normalisation inside.

    visual:      open_clip's image tower
    num_trained: blocks in the tail, 0 to all
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec, num_trained: int, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.visual = visual if visual is not None else image_tower(spec)
        self.splits = isinstance(self.visual, VisionTransformer)
        num_blocks = len(self.visual.transformer.resblocks) if self.splits else 0
        if not 0 <= num_trained <= num_blocks:
            raise ParamsError(
                f"encoder.unfreeze_blocks = {num_trained}: {spec.name} has {num_blocks} blocks that can be trained alone"
            )
        self.num_front = num_blocks - num_trained
        self.embed_dim = spec.embed_dim
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255.0, persistent=False)

    def front(self, pixels_NCHW: Tensor) -> Tensor:
        """Return tokens [N, L, D] of float pixels [N, 3, H, W] in 0 to 255, RGB."""
        x = (pixels_NCHW - self.mean) / self.std
        if not self.splits:
            return self.visual(x)[:, None, :]  # type: ignore[no-any-return]
        x_NLD = self.visual._embeds(x)
        for block in self.visual.transformer.resblocks[: self.num_front]:
            x_NLD = block(x_NLD)
        return x_NLD  # type: ignore[no-any-return]

    def tail(self, tokens_NLD: Tensor) -> Tensor:
        """Return embeddings [N, E] of the front's tokens [N, L, D]."""
        if not self.splits:
            return tokens_NLD[:, 0]
        for block in self.visual.transformer.resblocks[self.num_front :]:
            tokens_NLD = block(tokens_NLD)
        pooled_ND, _ = self.visual._pool(tokens_NLD)
        return pooled_ND if self.visual.proj is None else pooled_ND @ self.visual.proj  # type: ignore[no-any-return]

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embeddings [N, E] of float pixels [N, 3, H, W] in 0 to 255, RGB."""
        return self.tail(self.front(pixels_NCHW))

    def tail_modules(self) -> list[nn.Module]:
        """Return the modules of the tail that hold weights; the projection is a parameter of `visual` itself."""
        if not self.splits:
            return []
        return [*self.visual.transformer.resblocks[self.num_front :], self.visual.ln_post]

    def freeze_front(self) -> None:
        """Let gradients reach the tail only."""
        self.visual.requires_grad_(False)
        for module in self.tail_modules():
            module.requires_grad_(True)
        if self.splits and self.num_front < len(self.visual.transformer.resblocks) and self.visual.proj is not None:
            self.visual.proj.requires_grad_(True)


def to_pixels(frames_NHWC: Tensor) -> Tensor:
    """Return uint8 frames [N, H, W, 3] as float32 pixels [N, 3, H, W] in 0 to 255."""
    return frames_NHWC.permute(0, 3, 1, 2).float().contiguous()
