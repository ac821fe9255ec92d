"""Encoders by name: open_clip's CLIPs, timm's models, any ONNX file, and the embedded `nano`.

An encoder is a module whose `visual` gives embeddings [N, E] of normalised pixels [N, 3, H, W]; a CLIP has its text
tower beside it. A stored encoder is a folder that needs nothing else: open_clip's own format, or `encoder.json` with
`tower.safetensors` (timm) or `tower.onnx`.
"""

import json
from pathlib import Path

from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)

from models.encoder import openclip, timm
from models.encoder.onnx_tower import OnnxGraph, OnnxTower
from models.encoder.openclip import register_nano
from models.encoder.spec import NANO, ONNX, EncoderParams, EncoderSpec, OnnxParams, kind_of
from models.encoder.weights import load_weights, local_file, save_weights
from models.errors import ModelError, ParamsError
from models.files import hash_file, read_json, replacing_folder, write_bytes, write_json

__all__ = [
    "NANO",
    "ONNX",
    "EncoderParams",
    "EncoderSpec",
    "OnnxGraph",
    "OnnxParams",
    "OnnxTower",
    "encoder_image_size",
    "hash_encoder",
    "image_tower",
    "load_encoder",
    "load_weights",
    "named_encoder",
    "register_nano",
    "save_encoder",
    "save_weights",
    "untrained_encoder",
]

_CONFIG_FILE = "encoder.json"
_ONNX_FILE = "tower.onnx"


class ImageEncoder(nn.Module):
    """An image tower without a text tower, under the name that a CLIP has it by."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


def encoder_image_size(params: EncoderParams) -> int:
    """Return the side of the encoder's square input, px."""
    if params.name == ONNX:
        assert params.onnx is not None
        return params.onnx.image_size
    if kind_of(params.name) == "timm":
        return timm.image_size(params.name)
    return openclip.image_size(params.name)


def untrained_encoder(params: EncoderParams, seed: int) -> tuple[nn.Module, EncoderSpec]:
    """Return a freshly initialised encoder and its spec. Raises ParamsError for an ONNX file, which comes trained."""
    if params.name == ONNX:
        raise ParamsError("encoder.name = 'onnx': a graph comes with its weights and cannot start fresh")
    if kind_of(params.name) == "timm":
        tower, spec = timm.untrained(params, seed)
        return ImageEncoder(tower), spec
    return openclip.untrained_encoder(params, seed)


def named_encoder(params: EncoderParams) -> tuple[nn.Module, EncoderSpec]:
    """Return the encoder that `params` name with its weights, from a local file or the model hub.

    Raises ParamsError for an unknown name, tag or tensor, WeightsUnavailable where the weights cannot be had.
    """
    kind = kind_of(params.name)
    if kind == "open_clip":
        return openclip.named_encoder(params)
    if kind == "timm":
        tower, spec = timm.named(params)
        return ImageEncoder(tower), spec
    from models.encoder.onnx_graph import prepare_graph

    assert params.onnx is not None
    if params.pretrained is None:
        raise ParamsError("encoder.pretrained: name the .onnx file")
    content, facts = prepare_graph(local_file(params), params.onnx)
    section = params.onnx
    spec = EncoderSpec(ONNX, params.pretrained, facts.to_json(), section.image_size, section.mean, section.std)
    return ImageEncoder(OnnxTower(facts, content)), spec


def image_tower(spec: EncoderSpec) -> nn.Module:
    """Return the encoder's image tower with fresh weights (of an ONNX tower: without its graph)."""
    if spec.kind == "onnx":
        return OnnxTower(OnnxGraph.from_json(spec.model_config))
    return timm.build(spec.name) if spec.kind == "timm" else openclip.image_tower(spec)


def save_encoder(folder: Path, model: nn.Module, spec: EncoderSpec) -> None:
    """Write an encoder as a folder, atomically; the same weights give the same bytes."""
    with replacing_folder(folder) as temporary:
        if isinstance(model, ImageEncoder):
            write_json(temporary / _CONFIG_FILE, spec.to_json())
            if isinstance(model.visual, OnnxTower):
                write_bytes(temporary / _ONNX_FILE, model.visual.graph())
            else:
                timm.save(temporary, model.visual)
        else:
            openclip.save(temporary, model, spec)


def load_encoder(folder: Path) -> tuple[nn.Module, EncoderSpec]:
    """Return the encoder (in eval mode) and spec that `save_encoder` wrote. Raises ModelError where it is damaged."""
    spec = _load_spec(folder)
    if spec.kind == "open_clip":
        return openclip.load(folder, spec).eval(), spec
    if spec.kind == "timm":
        return ImageEncoder(timm.load(folder, spec)).eval(), spec
    try:
        content = (folder / _ONNX_FILE).read_bytes()
    except OSError as error:
        raise ModelError(f"{folder / _ONNX_FILE}: {error.strerror}; run stage pretrain again") from None
    tower = OnnxTower(OnnxGraph.from_json(spec.model_config), content)
    tower.graph()  # the digest holds
    return ImageEncoder(tower).eval(), spec


def hash_encoder(folder: Path) -> str:
    """Return the SHA-256 of the weights in an encoder's folder."""
    names = {"open_clip": openclip.WEIGHTS_FILE, "timm": timm.WEIGHTS_FILE, "onnx": _ONNX_FILE}
    return hash_file(folder / names[_load_spec(folder).kind])


def _load_spec(folder: Path) -> EncoderSpec:
    try:
        if (folder / _CONFIG_FILE).is_file():
            return EncoderSpec.from_json(read_json(folder / _CONFIG_FILE))
        return EncoderSpec.from_json(read_json(folder / openclip.CONFIG_FILE)["herdlight"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: not an encoder of herdlight ({error}); run stage pretrain again") from None
