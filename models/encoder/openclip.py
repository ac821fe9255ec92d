"""CLIP encoders by open_clip's names, and the embedded `nano`.

Knows open_clip's registry, its folder format (`open_clip_config.json` + `open_clip_model.safetensors`, which
`open_clip.create_model("local-dir:…")` reads) and how weights arrive. Does not know how `nano` is trained; that is
stage `pretrain`.
"""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
import open_clip
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from models.encoder.narrow import narrow
from models.encoder.spec import NANO, EncoderParams, EncoderSpec
from models.encoder.weights import hub_file, load_weights, local_file, save_weights
from models.errors import ParamsError, WeightsUnavailable
from models.files import read_json, write_json

_NANO_CONFIG = Path(__file__).parents[1] / "nano.json"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# Means and deviations of OpenAI's CLIP training images, RGB in [0, 1] (Radford et al. 2021, arXiv:2103.00020).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of `name`. Raises ParamsError that lists near names for an unknown one."""
    if name == NANO:
        config: dict[str, Any] = read_json(_NANO_CONFIG)
        return config
    known = cast("dict[str, Any] | None", open_clip.get_model_config(name))  # its annotation leaves out None
    if known is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        raise ParamsError(f"encoder.name = {name!r}: no such open_clip architecture; near: {', '.join([NANO, *near])}")
    return known


def image_size(name: str) -> int:
    """Return the side of an architecture's square input, px."""
    size = model_config(name)["vision_cfg"].get("image_size", 224)
    return int(size[0] if isinstance(size, list) else size)


def register_nano() -> None:
    """Make `nano` known to open_clip by name, as its own trainer and tokenizer need it."""
    if NANO not in open_clip.list_models():
        open_clip.add_model_config(_NANO_CONFIG)


def _build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a CLIP with fresh weights, without open_clip's warning that they are fresh."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        model: nn.Module = open_clip.create_model(
            name, load_weights=False, pretrained_text=False, force_quick_gelu=bool(config.get("quick_gelu", False))
        )
    finally:
        root.setLevel(level)
    return model


def untrained_encoder(params: EncoderParams, seed: int) -> tuple[nn.Module, EncoderSpec]:
    """Return a freshly initialised CLIP and its spec."""
    register_nano()
    torch.manual_seed(seed)
    config = model_config(params.name)
    model = _build(params.name, config)
    return model, EncoderSpec(params.name, params.pretrained, config, image_size(params.name), _MEAN, _STD)


def named_encoder(params: EncoderParams) -> tuple[nn.Module, EncoderSpec]:
    """Return a CLIP with the weights that `params` names, from a local file or the model hub.

    Raises ParamsError for an unknown name or tag and WeightsUnavailable where the weights cannot be had.
    """
    config = model_config(params.name)
    if params.pretrained is None:
        tags = ", ".join(list_pretrained_tags_by_model(params.name)) or "none; name a .safetensors file"
        raise ParamsError(f"encoder.pretrained: {params.name} needs weights; open_clip knows: {tags}")
    tag_config: dict[str, Any] = {}
    if params.pretrained.endswith(".safetensors"):
        weights = local_file(params)
    else:
        weights, tag_config = _weights_from_hub(params)
    # Weights trained with QuickGELU in a model with GELU load without an error and are wrong; open_clip only warns.
    quick_gelu = bool(tag_config.get("quick_gelu", config.get("quick_gelu", False)))
    config = {**config, "quick_gelu": quick_gelu}
    model = _build(params.name, config)
    try:
        open_clip.load_checkpoint(model, str(weights))
    except (RuntimeError, KeyError, AssertionError, SafetensorError) as error:  # open_clip asserts on widths
        first = str(error).splitlines()[0]
        raise WeightsUnavailable(f"{weights}: weights do not fit {params.name}: {first}") from None
    mean, std = tuple(tag_config.get("mean", _MEAN)), tuple(tag_config.get("std", _STD))
    return model, EncoderSpec(params.name, params.pretrained, config, image_size(params.name), mean, std)


def _weights_from_hub(params: EncoderParams) -> tuple[Path, dict[str, Any]]:
    tag_config = get_pretrained_cfg(params.name, params.pretrained)
    if not tag_config:
        tags = ", ".join(list_pretrained_tags_by_model(params.name)) or "none"
        raise ParamsError(
            f"encoder.pretrained = {params.pretrained!r}: no such weights for {params.name}; open_clip has: {tags}"
        )
    return hub_file(params, tag_config.get("hf_hub", "").strip("/"), WEIGHTS_FILE), tag_config


def save(folder: Path, model: nn.Module, spec: EncoderSpec) -> None:
    """Write a CLIP and its spec into `folder`."""
    preprocess = {"size": [spec.image_size] * 2, "mean": list(spec.mean), "std": list(spec.std)}
    write_json(
        folder / CONFIG_FILE,
        {"model_cfg": spec.model_config, "preprocess_cfg": preprocess, "herdlight": spec.to_json()},
    )
    save_weights(folder / WEIGHTS_FILE, model)


def load(folder: Path, spec: EncoderSpec) -> nn.Module:
    """Return the CLIP of `spec` with the weights in `folder`."""
    register_nano()
    model = _build(spec.name, spec.model_config)
    if spec.surgery is not None:
        narrow(model.visual, spec.surgery)  # type: ignore[arg-type]
    load_weights(folder / WEIGHTS_FILE, model)
    return model


def image_tower(spec: EncoderSpec) -> nn.Module:
    """Return the encoder's image tower with fresh weights: the part that is adapted and served."""
    vision = CLIPVisionCfg(**{**spec.model_config["vision_cfg"], "timm_model_pretrained": False})
    tower: nn.Module = _build_vision_tower(spec.embed_dim, vision, bool(spec.model_config.get("quick_gelu", False)))
    if spec.surgery is not None:
        narrow(tower, spec.surgery)
    return tower
