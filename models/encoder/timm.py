"""Any timm model as a frozen image tower: globally pooled features, weights from a file or the model hub.

A timm model has no text tower, and its stages have no common way to be split, so none of it is trained. Weights are
safetensors only; timm's own loader, which takes pickles too, is never called.
"""

import contextlib
import difflib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before timm)
import timm

from models.encoder.spec import HUB, TIMM_PREFIX, EncoderParams, EncoderSpec
from models.encoder.weights import hub_file, load_weights, local_file, save_weights
from models.errors import ParamsError, WeightsUnavailable

WEIGHTS_FILE = "tower.safetensors"


def _settings(name: str) -> Any:
    """Return timm's settings of `timm:NAME`. Raises ParamsError that lists near names for an unknown one."""
    model_name = name.removeprefix(TIMM_PREFIX)
    settings = None
    if timm.is_model(model_name):
        with contextlib.suppress(RuntimeError):  # the architecture is known, the tag behind its dot is not
            settings = timm.get_pretrained_cfg(model_name)
    if settings is None:
        near = timm.list_pretrained(f"{model_name.split('.')[0]}.*")[:5]
        near = near or difflib.get_close_matches(model_name, timm.list_models(), n=3, cutoff=0.4)
        told = ", ".join(TIMM_PREFIX + known for known in near) or "none; see timm.list_models()"
        raise ParamsError(f"encoder.name = {name!r}: no such timm model; near: {told}")
    return settings


def image_size(name: str) -> int:
    """Return the side of the square input that a model was trained with, px."""
    height, width = _settings(name).input_size[1:]
    if height != width:
        raise ParamsError(f"encoder.name = {name!r}: takes {width} x {height} px; herdlight's frames are square")
    return int(height)


def build(name: str) -> nn.Module:
    """Return a model with fresh weights that gives pooled features [N, D]."""
    tower: nn.Module = timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=False, num_classes=0)
    return tower


def untrained(params: EncoderParams, seed: int) -> tuple[nn.Module, EncoderSpec]:
    """Return a freshly initialised tower, in eval mode, and its spec."""
    side, settings = image_size(params.name), _settings(params.name)
    torch.manual_seed(seed)
    tower = build(params.name).eval()
    with torch.inference_mode():
        features = tower(torch.zeros(1, 3, side, side))
    if features.ndim != 2:
        raise ParamsError(f"encoder.name = {params.name!r}: gives {list(features.shape)} for a frame and no [1, D]")
    config = {"embed_dim": features.shape[1]}
    return tower, EncoderSpec(params.name, params.pretrained, config, side, settings.mean, settings.std)


def named(params: EncoderParams) -> tuple[nn.Module, EncoderSpec]:
    """Return a tower with the weights that `params` names.

    Raises ParamsError where none are named, WeightsUnavailable where they cannot be had or do not fit.
    """
    settings = _settings(params.name)
    if params.pretrained is None:
        raise ParamsError(f"encoder.pretrained: {params.name} needs weights: hub, or a .safetensors file")
    if params.pretrained == HUB:
        if not settings.hf_hub_id:
            tagged = [TIMM_PREFIX + name for name in timm.list_pretrained(f"{settings.architecture}*")][:5]
            raise ParamsError(f"encoder.name = {params.name!r}: timm publishes no weights; it has {tagged}")
        path = hub_file(params, settings.hf_hub_id, "model.safetensors")
    elif params.pretrained.endswith(".safetensors"):
        path = local_file(params)
    else:
        raise ParamsError(f"encoder.pretrained = {params.pretrained!r}: for timm it is hub or a .safetensors file")
    tower, spec = untrained(params, seed=0)
    _fill(tower, path, spec.name, settings.classifier)
    return tower, spec


def _fill(tower: nn.Module, path: Path, name: str, classifier: str | tuple[str, ...] | None) -> None:
    """Load `path` into `tower`; the file may have more of the classifier's module, which features do not need."""
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    try:
        state = load_file(path)
        left_out = tuple(f"{head.split('.')[0]}." for head in heads)
        own = tower.state_dict()
        state = {key: value for key, value in state.items() if key in own or not key.startswith(left_out)}
        tower.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise WeightsUnavailable(f"{path}: weights do not fit {name}: {' '.join(lines)[:300]}") from None


def save(folder: Path, tower: nn.Module) -> None:
    """Write the tower's weights into `folder`."""
    save_weights(folder / WEIGHTS_FILE, tower)


def load(folder: Path, spec: EncoderSpec) -> nn.Module:
    """Return the tower of `spec` with the weights in `folder`."""
    tower = build(spec.name)
    load_weights(folder / WEIGHTS_FILE, tower)
    return tower
