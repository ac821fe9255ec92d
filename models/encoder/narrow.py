"""Towers with something cut out: modules with fewer heads than their width, and how a tower gets its smaller shapes.

Shapes: N pictures, L tokens, D model width, H heads, e width of a head, I = H * e inner width, E embedding length.

`nn.MultiheadAttention` and open_clip's `AttentionPool2d` tie the inner width to D. The modules here have the same
mathematics (scaled dot products, Vaswani et al. 2017, arXiv:1706.03762) and the same names of their weights with an
inner width of their own. Knows shapes; which weights are left is the business of `models.structured`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.modified_resnet import AttentionPool2d, Bottleneck
from open_clip.transformer import ResidualAttentionBlock

from models.encoder.surgery import Surgery
from models.errors import ModelError


class Skip(nn.Module):
    """The place of a removed block of a transformer: tokens go through as they are."""

    def forward(
        self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Return the tokens."""
        return q_x


class Shortcut(nn.Module):
    """The place of a removed bottleneck of a ResNet: its shortcut alone, which may change width and size."""

    def __init__(self, downsample: nn.Module | None) -> None:
        super().__init__()
        self.downsample, self.act3 = downsample, nn.ReLU(inplace=False)

    def forward(self, x_NDhw: Tensor) -> Tensor:
        """Return feature maps [N, D', h', w']."""
        shortcut: Tensor = self.act3(x_NDhw if self.downsample is None else self.downsample(x_NDhw))
        return shortcut


class NarrowAttention(nn.Module):
    """Self-attention with `num_heads` heads of `head_dim` in a model of width `embed_dim`.

    Called as open_clip calls `nn.MultiheadAttention`: batch first, weights of attention not asked for.
    """

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * num_heads * head_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * num_heads * head_dim))
        self.out_proj = nn.Linear(num_heads * head_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Return tokens [N, L, D] of tokens [N, L, D]; key and value are the query's tokens."""
        stacked = linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (torch.unflatten(part, 2, (-1, self.head_dim)).transpose(1, 2) for part in stacked.chunk(3, dim=-1))
        mixed_NHLe = scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed_NHLe.transpose(1, 2).flatten(2)), None


class NarrowPool(nn.Module):
    """Attention pooling of a CLIP ResNet with fewer heads; only the mean's query is computed, the one that is used."""

    def __init__(self, positions: int, embed_dim: int, num_heads: int, head_dim: int, output_dim: int) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        inner = num_heads * head_dim
        self.positional_embedding = nn.Parameter(torch.randn(positions, embed_dim) / embed_dim**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(embed_dim, inner) for _ in range(3))
        self.c_proj = nn.Linear(inner, output_dim)

    def forward(self, x_NDhw: Tensor) -> Tensor:
        """Return embeddings [N, E] of feature maps [N, D, h, w]."""
        x_NLD = x_NDhw.flatten(2).transpose(1, 2)
        x_NLD = torch.cat([x_NLD.mean(dim=1, keepdim=True), x_NLD], dim=1)
        x_NLD = x_NLD + self.positional_embedding.to(x_NLD.dtype)
        parts = self.q_proj(x_NLD[:, :1]), self.k_proj(x_NLD), self.v_proj(x_NLD)
        q, k, v = (torch.unflatten(part, 2, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        pooled_NH1e = scaled_dot_product_attention(q, k, v)
        embeddings_NE: Tensor = self.c_proj(pooled_NH1e.transpose(1, 2).flatten(1))
        return embeddings_NE


def heads_of(module: nn.Module) -> tuple[int, int]:
    """Return how many heads an attention or attention pooling has, and the width of one."""
    if isinstance(module, (NarrowAttention, NarrowPool)):
        return module.num_heads, module.head_dim
    if isinstance(module, nn.MultiheadAttention):
        return module.num_heads, module.head_dim
    assert isinstance(module, AttentionPool2d)
    return module.num_heads, module.q_proj.out_features // module.num_heads


def narrow(visual: nn.Module, surgery: Surgery) -> None:
    """Give `visual` the shapes that `surgery` leaves, in place; weights of changed modules are fresh.

    Raises ModelError where a path is not in the tower or would grow.
    """
    for path, size in surgery.kept.items():
        module, shrink = _shrinking(visual, path)
        if (there := _size_of(module, path)) < size:
            raise ModelError(f"surgery: {path} has {there} and cannot keep {size}; prune this model again")
        shrink(size)
    for path in surgery.removed:
        block = _module(visual, path)
        if isinstance(block, (Bottleneck, Shortcut)):
            visual.set_submodule(path, Shortcut(block.downsample))
        elif isinstance(block, (ResidualAttentionBlock, Skip)):
            visual.set_submodule(path, Skip())
        else:
            raise ModelError(f"surgery: {path} is not a block that can go; prune this model again")


def _module(visual: nn.Module, path: str) -> nn.Module:
    try:
        return visual.get_submodule(path)
    except AttributeError:
        raise ModelError(f"surgery: the tower has no {path}; prune this model again") from None


def _size_of(module: nn.Module, path: str) -> int:
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.Sequential):
        return int(module.c_fc.out_features)  # type: ignore[union-attr, arg-type]
    return heads_of(module)[0]


def _shrinking(visual: nn.Module, path: str) -> tuple[nn.Module, Callable[[int], None]]:
    """Return the module at `path` and the function that gives it, and what reads it, a smaller size."""
    module, parent = _module(visual, path), _module(visual, path.rpartition(".")[0])
    if isinstance(module, (nn.MultiheadAttention, NarrowAttention)):
        width, head_dim = module.embed_dim, module.head_dim
        return module, lambda size: visual.set_submodule(path, NarrowAttention(width, size, head_dim))
    if isinstance(module, (AttentionPool2d, NarrowPool)):
        positions, width = module.positional_embedding.shape
        head_dim, out = heads_of(module)[1], module.c_proj.out_features
        return module, lambda size: visual.set_submodule(path, NarrowPool(positions, width, size, head_dim, out))
    if isinstance(module, nn.Sequential) and isinstance(parent, ResidualAttentionBlock):
        return module, lambda size: _narrow_mlp(module, size)
    if isinstance(parent, Bottleneck) and path.endswith((".conv1", ".conv2")):
        return module, lambda size: _narrow_bottleneck(parent, int(path[-1]), size)
    raise ModelError(f"surgery: {path} is no attention, MLP or bottleneck convolution; prune this model again")


def _narrow_mlp(mlp: nn.Sequential, size: int) -> None:
    width: int = mlp.c_fc.in_features  # type: ignore[union-attr, assignment]
    mlp.c_fc, mlp.c_proj = nn.Linear(width, size), nn.Linear(size, width)


def _narrow_bottleneck(block: Bottleneck, index: int, size: int) -> None:
    """Make the outputs of convolution `index` (1 or 2) `size`, with its normalisation and the one that reads it."""
    written, read = getattr(block, f"conv{index}"), getattr(block, f"conv{index + 1}")
    setattr(block, f"conv{index}", _convolution(written, written.in_channels, size))
    setattr(block, f"bn{index}", nn.BatchNorm2d(size, eps=getattr(block, f"bn{index}").eps))
    setattr(block, f"conv{index + 1}", _convolution(read, size, read.out_channels))


def _convolution(like: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, like.kernel_size, like.stride, like.padding, bias=False)  # type: ignore[arg-type]
