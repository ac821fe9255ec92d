"""Structured pruning of an image tower: which heads, channels and blocks matter least, and a tower without them.

Knows where the weights of a structure lie, what first-order Taylor says of them, and how a smaller tower gets what
is left. Does not know what the loss is or how the rest is trained on; shapes of what is left are `Surgery`.

Importance of a weight is |weight * gradient|, the first-order estimate of what the loss would change without it,
summed over a structure's weights and over batches of train data: Molchanov et al., "Importance Estimation for Neural
Network Pruning", CVPR 2019, arXiv:1906.10771.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.modified_resnet import AttentionPool2d, Bottleneck
from open_clip.transformer import ResidualAttentionBlock

from models.encoder.narrow import NarrowAttention, NarrowPool, heads_of, narrow
from models.encoder.surgery import Surgery
from models.errors import ModelError, ParamsError

Kind = Literal["heads", "channels", "blocks"]
KINDS: tuple[Kind, ...] = ("heads", "channels", "blocks")
BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Part:
    """Where one weight holds its share of a group of structures.

    weight: name in the tower's state
    dim:    axis along which the structures lie
    start:  index of the first one's first entry
    width:  entries of each
    """

    weight: str
    dim: int
    start: int
    width: int


@dataclass(frozen=True)
class Group:
    """Structures of one kind in one module; any of them can go while one is left. A block is a group of 1.

    path:    module in the tower
    kind:    what they are
    size:    how many there are
    parts:   where their weights lie; of a block none, since all that is under `path` goes, but a bottleneck's shortcut
    """

    path: str
    kind: Kind
    size: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Cut:
    """What is left of each group, for the tower that it was chosen for.

    kept:    indices that stay, ascending, by path of the group
    removed: paths of whole blocks that go
    """

    kept: Mapping[str, tuple[int, ...]]
    removed: tuple[str, ...] = ()

    def surgery(self) -> Surgery:
        """Return the sizes that are left."""
        return Surgery({path: len(indices) for path, indices in self.kept.items()}, self.removed)


def find_groups(visual: nn.Module, within: Sequence[str] | None = None) -> tuple[Group, ...]:
    """Return what can be cut out of a tower, in the tower's order.

    Heads, MLP channels and whole blocks of open_clip's plain transformer blocks; inner channels of a CLIP ResNet's
    bottlenecks, whole bottlenecks (their shortcuts stay) and heads of its pooling. A tower of any other kind has none.

    within: paths of modules; only what lies in one of them is given. Everything where it is left out.
    """
    found: list[Group] = []
    for path, module in visual.named_modules():
        if within is not None and not any(path == root or path.startswith(f"{root}.") for root in within):
            continue
        if type(module) is ResidualAttentionBlock:
            found += [Group(path, "blocks", 1), _attention(f"{path}.attn", module.attn), _mlp(f"{path}.mlp", module)]
        elif isinstance(module, Bottleneck):
            found += [Group(path, "blocks", 1), _bottleneck(path, module, 1), _bottleneck(path, module, 2)]
        elif isinstance(module, (AttentionPool2d, NarrowPool)):
            num_heads, width = heads_of(module)
            names = [f"{path}.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]
            parts = [*(Part(name, 0, 0, width) for name in names), Part(f"{path}.c_proj.weight", 1, 0, width)]
            found.append(Group(path, "heads", num_heads, tuple(parts)))
    return tuple(found)


def _attention(path: str, module: nn.MultiheadAttention | NarrowAttention) -> Group:
    num_heads, width = heads_of(module)
    stacked = [
        Part(f"{path}.in_proj_{kind}", 0, index * num_heads * width, width)
        for kind in ("weight", "bias")
        for index in range(3)
    ]
    return Group(path, "heads", num_heads, (*stacked, Part(f"{path}.out_proj.weight", 1, 0, width)))


def _mlp(path: str, block: ResidualAttentionBlock) -> Group:
    ends = [("c_fc.weight", 0), ("c_fc.bias", 0), ("c_proj.weight", 1)]
    parts = tuple(Part(f"{path}.{name}", dim, 0, 1) for name, dim in ends)
    return Group(path, "channels", block.mlp.c_fc.out_features, parts)


def _bottleneck(path: str, block: Bottleneck, index: int) -> Group:
    norm = [f"bn{index}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    ends = [(f"conv{index}.weight", 0), *((name, 0) for name in norm), (f"conv{index + 1}.weight", 1)]
    parts = tuple(Part(f"{path}.{name}", dim, 0, 1) for name, dim in ends)
    return Group(f"{path}.conv{index}", "channels", getattr(block, f"conv{index}").out_channels, parts)


def taylor_importance(
    visual: nn.Module, groups: Sequence[Group], batches: Iterable[BatchT], loss_of: Callable[[BatchT], Tensor]
) -> dict[str, Tensor]:
    """Return the importance of each structure, float32 [size], by path of its group: the mean over batches.

    loss_of: a scalar of a batch, by way of `visual`; no gradient is left behind
    Raises ParamsError where there is nothing to cut or no batch, ModelError where a weight has no gradient.
    """
    if not groups:
        raise ParamsError(
            "prune.method = structured: no structure can go, since the tower is of another kind or no block of it is "
            "trained; set encoder.unfreeze_blocks above 0, or prune.method to l1_unstructured"
        )
    weights = {name: w for name, w in visual.named_parameters() if any(holds(group, name) for group in groups)}
    if frozen := [name for name, weight in weights.items() if not weight.requires_grad]:
        raise ModelError(f"structured pruning: {frozen[0]} is frozen and has no gradient; cut what is trained only")
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    num_batches = 0
    for batch in batches:
        gradients = torch.autograd.grad(loss_of(batch), list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                totals[name] += (weight.detach() * gradient).abs()
        num_batches += 1
    if not num_batches:
        raise ParamsError("structured pruning: no train batch to judge importance by; add train videos")
    return {group.path: _sum_of(group, totals) / num_batches for group in groups}


def holds(group: Group, name: str) -> bool:
    """Return whether the weight `name` of a tower has a share in a group."""
    if group.kind == "blocks":
        return name.startswith(f"{group.path}.") and not name.startswith(f"{group.path}.downsample.")
    return any(part.weight == name for part in group.parts)


def _sum_of(group: Group, totals: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of `totals` over each structure's weights, float32 [size]; buffers are no weights."""
    if group.kind == "blocks":
        inside = [total.flatten() for name, total in totals.items() if holds(group, name)]
        return torch.cat(inside).float().sum()[None]
    rows = [_rows(part, totals[part.weight], group.size) for part in group.parts if part.weight in totals]
    return torch.cat(rows, dim=1).float().sum(dim=1)


def _rows(part: Part, weight: Tensor, size: int) -> Tensor:
    """Return the entries of `weight` as [size, entries of one structure]."""
    own = weight.movedim(part.dim, 0)[part.start : part.start + size * part.width]
    return own.reshape(size, -1)


def choose_cut(
    groups: Sequence[Group],
    importance: Mapping[str, Tensor],
    costs: Mapping[str, float],
    share: float,
    *,
    kinds: Sequence[Kind] = KINDS,
    multiple_of: int = 1,
) -> Cut:
    """Return the cut of the least important structures of all groups together.

    importance:  of each structure, [size], as `taylor_importance` gives it
    costs:       of one structure of each group, as `models.structured_cost` gives them: importance for its cost is
                 what they are ranked by
    share:       of the costs of all structures of `kinds`, 0 to below 1; never more goes. A weight on the border of
                 two structures counts in both
    multiple_of: channels that are left are a whole number of these where there were enough, since processors
                 multiply in tiles
    In every module one structure stays, and one block of those that can go. Raises ParamsError for another share.
    """
    if not 0 <= share < 1:
        raise ParamsError(f"prune.amount = {share}: structured pruning takes from 0 to below 1")
    if multiple_of < 1:
        raise ParamsError(f"prune.multiple_of = {multiple_of}: must be at least 1")
    pool = [group for group in groups if group.kind in kinds]
    inner = [group for group in pool if group.kind != "blocks"]
    blocks = [group for group in pool if group.kind == "blocks"]
    budget = share * sum(costs[g.path] * g.size for g in (inner or blocks))
    order = sorted(
        (float(score) / max(costs[group.path], 1e-12), place, index)
        for place, group in enumerate(pool)
        for index, score in enumerate(importance[group.path])
    )
    left = {group.path: set(range(group.size)) for group in inner}
    removed: list[str] = []
    for _, place, index in order:
        group = pool[place]
        if group.path.startswith(tuple(f"{path}." for path in removed)):
            continue
        if group.kind == "blocks":
            inside = [g for g in inner if g.path.startswith(f"{group.path}.")]
            cost = sum(len(left[g.path]) * costs[g.path] for g in inside) if inner else costs[group.path]
            if cost <= budget and len(removed) + 1 < len(blocks):
                removed.append(group.path)
                budget -= cost
        elif costs[group.path] <= budget and len(left[group.path]) > 1:
            left[group.path].discard(index)
            budget -= costs[group.path]
    gone = tuple(f"{path}." for path in removed)
    kept = {
        group.path: _round_up(left[group.path], importance[group.path], multiple_of if group.kind == "channels" else 1)
        for group in inner
        if not group.path.startswith(gone)
    }
    sizes = {group.path: group.size for group in inner}
    return Cut({path: indices for path, indices in kept.items() if len(indices) < sizes[path]}, tuple(removed))


def _round_up(left: set[int], importance: Tensor, multiple_of: int) -> tuple[int, ...]:
    """Return `left`, ascending, with the most important of the others until they are a whole multiple."""
    lacking = -len(left) % multiple_of
    others = sorted((-float(score), index) for index, score in enumerate(importance) if index not in left)
    return tuple(sorted({*left, *(index for _, index in others[:lacking])}))


def cut_tower(visual: nn.Module, cut: Cut) -> nn.Module:
    """Return a smaller copy of `visual` that gives what `visual` gives with the structures of `cut` zeroed.

    Raises ModelError where the cut was made for another tower.
    """
    smaller = copy.deepcopy(visual)
    state = visual.state_dict()
    for group in _groups_of(visual, cut):
        if group.kind == "blocks":
            state = {name: weight for name, weight in state.items() if not holds(group, name)}
            continue
        for name, dim in dict.fromkeys((part.weight, part.dim) for part in group.parts):
            places = [part for part in group.parts if (part.weight, part.dim) == (name, dim)]
            index = torch.cat([_entries(part, cut.kept[group.path]) for part in places])
            state[name] = state[name].index_select(dim, index.to(state[name].device))
    narrow(smaller, cut.surgery())
    smaller.load_state_dict(state)
    return smaller.to(next(visual.parameters())).train(visual.training)


@torch.no_grad()
def zero_structures(visual: nn.Module, cut: Cut) -> nn.Module:
    """Return a copy of `visual` in its old shape whose structures outside `cut` are 0: what `cut_tower` must equal."""
    zeroed = copy.deepcopy(visual)
    state = dict(zeroed.named_parameters())
    for group in _groups_of(visual, cut):
        if group.kind == "blocks":
            for name in ("attn.out_proj", "mlp.c_proj", "bn3"):  # the last ones before a sum
                for kind in ("weight", "bias"):
                    if f"{group.path}.{name}.{kind}" in state:
                        state[f"{group.path}.{name}.{kind}"].zero_()
            continue
        gone = sorted(set(range(group.size)) - set(cut.kept[group.path]))
        for part in group.parts:
            if part.weight in state and gone:
                state[part.weight].index_fill_(part.dim, _entries(part, gone), 0.0)
    return zeroed


def _entries(part: Part, indices: Sequence[int]) -> Tensor:
    """Return the entries along `part.dim` of the structures `indices`."""
    starts = part.start + torch.tensor(list(indices), dtype=torch.long)[:, None] * part.width
    return (starts + torch.arange(part.width)).flatten()


def _groups_of(visual: nn.Module, cut: Cut) -> list[Group]:
    """Return the groups that a cut names. Raises ModelError where the tower has one not, or not of that size."""
    found = {group.path: group for group in find_groups(visual)}
    for path, indices in cut.kept.items():
        if path not in found or not indices or not 0 <= min(indices) <= max(indices) < found[path].size:
            raise ModelError(f"structured pruning: the cut of {path} does not fit this tower; choose one for it")
    if missing := [path for path in cut.removed if path not in found or found[path].kind != "blocks"]:
        raise ModelError(f"structured pruning: {missing[0]} is no block of this tower; choose a cut for it")
    return [found[path] for path in (*cut.kept, *cut.removed)]
