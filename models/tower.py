"""The image tower in two parts: a frozen front that runs once a frame, and a trainable tail.

Shapes: N frames, L tokens, D token width, C = 3, H = W = image size, E embedding length. Splits any open_clip vision
transformer between two of its blocks, and any CLIP ResNet between two of its stages (its feature map is the tokens);
any other tower, one of timm or an ONNX graph, is all front, and its embedding is its one token. Knows nothing of time
or highlights.
"""

import math

import torch
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer

from models.encoder import EncoderSpec, image_tower
from models.errors import ParamsError


class Tower(nn.Module):
    """Pixels to image embeddings, with the normalisation inside.

    spec:        of the encoder
    num_trained: blocks in the tail, 0 to all
    visual:      the network; fresh weights where it is left out
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec, num_trained: int, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.visual = visual if visual is not None else image_tower(spec)
        num_blocks = len(self.blocks())
        if not 0 <= num_trained <= num_blocks:
            raise ParamsError(
                f"encoder.unfreeze_blocks = {num_trained}: "
                f"{spec.name} has {num_blocks} blocks that can be trained alone"
            )
        self.num_front = num_blocks - num_trained
        self.embed_dim = spec.embed_dim
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255.0, persistent=False)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks between which the tower can be split: of a transformer, or the stages of a ResNet."""
        if isinstance(self.visual, VisionTransformer):
            return list(self.visual.transformer.resblocks)
        if isinstance(self.visual, ModifiedResNet):
            return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]
        return []

    def front(self, pixels_NCHW: Tensor) -> Tensor:
        """Return tokens [N, L, D] of float pixels [N, 3, H, W] in 0 to 255, RGB."""
        x: Tensor = (pixels_NCHW - self.mean) / self.std
        if isinstance(self.visual, VisionTransformer):
            x = self.visual._embeds(x)
        elif isinstance(self.visual, ModifiedResNet):
            x = self.visual.stem(x)
        else:
            embeddings_NE: Tensor = self.visual(x)
            return embeddings_NE[:, None, :]
        for block in self.blocks()[: self.num_front]:
            x = block(x)
        return x.flatten(2).transpose(1, 2) if isinstance(self.visual, ModifiedResNet) else x

    def tail(self, tokens_NLD: Tensor) -> Tensor:
        """Return embeddings [N, E] of the front's tokens [N, L, D]."""
        x = tokens_NLD
        if isinstance(self.visual, ModifiedResNet):
            side = math.isqrt(x.shape[1])
            x = torch.unflatten(x.transpose(1, 2), 2, (side, side))
        for block in self.blocks()[self.num_front :]:
            x = block(x)
        if isinstance(self.visual, ModifiedResNet):
            attended_NE: Tensor = self.visual.attnpool(x)
            return attended_NE
        if not isinstance(self.visual, VisionTransformer):
            return x[:, 0]
        pooled_ND: Tensor = self.visual._pool(x)[0]
        return pooled_ND if self.visual.proj is None else pooled_ND @ self.visual.proj

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return embeddings [N, E] of float pixels [N, 3, H, W] in 0 to 255, RGB."""
        return self.tail(self.front(pixels_NCHW))

    def train(self, mode: bool = True) -> "Tower":
        """Set the mode; batch normalisation keeps the statistics of pretraining, which windows of a video lack."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def trained_modules(self) -> list[nn.Module]:
        """Return the modules that are trained, none where no block is; a transformer's projection is apart."""
        if self.num_front == len(self.blocks()):
            return []
        last = self.visual.ln_post if isinstance(self.visual, VisionTransformer) else self.visual.attnpool
        return [*self.blocks()[self.num_front :], last]  # type: ignore[list-item]

    def trained_projection(self) -> nn.Parameter | None:
        """Return a transformer's image projection when it is trained; it is a parameter of no module but `visual`."""
        if isinstance(self.visual, VisionTransformer) and self.trained_modules():
            projection: nn.Parameter | None = self.visual.proj
            return projection
        return None

    def freeze_front(self) -> None:
        """Let gradients reach the tail only, and nothing of the tower where no block is trained."""
        self.visual.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)
        if (projection := self.trained_projection()) is not None:
            projection.requires_grad_(True)


def to_pixels(frames_NHWC: Tensor) -> Tensor:
    """Return uint8 frames [N, H, W, 3] as float32 pixels [N, 3, H, W] in 0 to 255."""
    return frames_NHWC.permute(0, 3, 1, 2).float().contiguous()
