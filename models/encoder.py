"""CLIP encoders by name: any open_clip architecture with its weights, and the embedded `nano`.

Knows open_clip's registry, its folder format (`open_clip_config.json` + `open_clip_model.safetensors`, which
`open_clip.create_model("local-dir:…")` reads) and how weights arrive. Weights are safetensors only. Does not know
how `nano` is trained; that is stage `pretrain`.
"""

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
import open_clip
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from models.errors import ModelError, ParamsError, WeightsUnavailable
from models.files import read_json, replacing, replacing_folder, write_json
from models.params import Section

NANO = "nano"
_NANO_CONFIG = Path(__file__).with_name("nano.json")
_CONFIG_FILE = "open_clip_config.json"
_WEIGHTS_FILE = "open_clip_model.safetensors"
# Means and deviations of OpenAI's CLIP training images, RGB in [0, 1] (Radford et al. 2021, arXiv:2103.00020).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class EncoderParams(Section):
    """Which CLIP is adapted."""

    name: str = NANO
    """open_clip architecture (`ViT-B-32`, `ViT-L-14`, …), or `nano`, which is trained here on the captioned frames."""
    pretrained: str | None = None
    """Weights of a named architecture: an open_clip tag (`openai`, `laion2b_s34b_b79k`) or a .safetensors file."""
    unfreeze_blocks: int = Field(default=2, ge=0)
    """Last blocks of the image tower that are trained; all before them run once per frame (0 trains the head only)."""
    hub_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for the model hub's first answer, seconds."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that is needed to build a CLIP again without the network.

    name:         architecture
    pretrained:   open_clip tag or file that the weights came from; None for nano
    model_config: open_clip's own configuration of the architecture
    image_size:   side of the square input, px
    mean, std:    of the input in [0, 1], RGB
    """

    name: str
    pretrained: str | None
    model_config: Mapping[str, Any]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def embed_dim(self) -> int:
        """Length of an image embedding."""
        return int(self.model_config["embed_dim"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "EncoderSpec":
        """Return the value that `to_json` wrote."""
        return EncoderSpec(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})


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


def encoder_image_size(params: EncoderParams) -> int:
    """Return the side of the encoder's square input, px."""
    size = model_config(params.name)["vision_cfg"].get("image_size", 224)
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
    return model, EncoderSpec(params.name, params.pretrained, config, encoder_image_size(params), _MEAN, _STD)


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
        weights = Path(params.pretrained)
        if not weights.is_file():
            raise WeightsUnavailable(f"encoder.pretrained = {params.pretrained!r}: no such file")
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
    return model, EncoderSpec(params.name, params.pretrained, config, encoder_image_size(params), mean, std)


def _weights_from_hub(params: EncoderParams) -> tuple[Path, dict[str, Any]]:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    tag_config = get_pretrained_cfg(params.name, params.pretrained)
    if not tag_config:
        tags = ", ".join(list_pretrained_tags_by_model(params.name)) or "none"
        raise ParamsError(
            f"encoder.pretrained = {params.pretrained!r}: no such weights for {params.name}; open_clip has: {tags}"
        )
    repository = tag_config.get("hf_hub", "").strip("/")
    cached = try_to_load_from_cache(repository, _WEIGHTS_FILE) if repository else None
    if isinstance(cached, str):
        return Path(cached), tag_config
    _require_hub(params)
    try:
        return Path(hf_hub_download(repository, _WEIGHTS_FILE)), tag_config
    except (EntryNotFoundError, ValueError):
        raise WeightsUnavailable(
            f"{params.name} {params.pretrained!r} is published as a pickle, which herdlight does not load; "
            "convert it to safetensors elsewhere and name that file in encoder.pretrained"
        ) from None


def _require_hub(params: EncoderParams) -> None:
    """Ask the model hub once, since its own client would retry for a minute before it says that nobody is there."""
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=params.hub_timeout_s)
    except httpx.HTTPError as error:
        raise WeightsUnavailable(
            f"weights {params.pretrained!r} of {params.name} are not on this machine and the model hub does not "
            f"answer ({type(error).__name__}); "
            "offline choices: encoder.name = nano, or encoder.pretrained = a .safetensors file"
        ) from None


def save_encoder(folder: Path, model: nn.Module, spec: EncoderSpec) -> None:
    """Write an encoder as an open_clip folder, atomically; the same weights give the same bytes."""
    with replacing_folder(folder) as temporary:
        preprocess = {"size": [spec.image_size] * 2, "mean": list(spec.mean), "std": list(spec.std)}
        write_json(
            temporary / _CONFIG_FILE,
            {"model_cfg": spec.model_config, "preprocess_cfg": preprocess, "herdlight": spec.to_json()},
        )
        save_weights(temporary / _WEIGHTS_FILE, model)


def load_encoder(folder: Path) -> tuple[nn.Module, EncoderSpec]:
    """Return the CLIP (in eval mode) and spec that `save_encoder` wrote. Raises ModelError where it is damaged."""
    try:
        spec = EncoderSpec.from_json(read_json(folder / _CONFIG_FILE)["herdlight"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: not an encoder of herdlight ({error}); run stage pretrain again") from None
    register_nano()
    model = _build(spec.name, spec.model_config)
    load_weights(folder / _WEIGHTS_FILE, model)
    return model.eval(), spec


def image_tower(spec: EncoderSpec) -> nn.Module:
    """Return the encoder's image tower with fresh weights: the part that is adapted and served."""
    vision = CLIPVisionCfg(**{**spec.model_config["vision_cfg"], "timm_model_pretrained": False})
    tower: nn.Module = _build_vision_tower(spec.embed_dim, vision, bool(spec.model_config.get("quick_gelu", False)))
    return tower


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a module's state as safetensors, atomically."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`, every key and shape equal. Raises ModelError where they are not."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: weights are missing, damaged or do not fit: {str(error).splitlines()[0]}") from None
