"""A frozen image tower that gives features of frames, and the probabilities of texts where it has words too.

Shapes: N frames, D features, P texts, S side of the input. Knows how towers are named (OpenAI's `ViT-B/32` as well as
open_clip's `ViT-B-32`), where their weights come from and how their own project prepares a picture; knows nothing of
videos or files of features.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.encoder import (
    NANO,
    ONNX,
    EncoderParams,
    EncoderSpec,
    OnnxParams,
    load_encoder,
    named_encoder,
    register_nano,
)
from models.encoder.spec import HUB, TIMM_PREFIX
from models.errors import ModelError, ParamsError, WeightsUnavailable
from models.params import parse_section
from models.reference_resize import ReferenceResize
from models.tower import Tower, to_pixels

import open_clip  # isort: skip  (after models.torchvision_operators, which models.encoder imports)
import timm  # isort: skip
from open_clip.pretrained import get_pretrained_cfg  # isort: skip

Kind = Literal["clip", "timm", "onnx"]
# OpenAI's names and open_clip's for the same architectures; all of them were trained with QuickGELU.
OPENAI_NAMES = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
CUSTOM = "custom"
_NO_PICKLE = (
    "is a pickle or unknown, and herdlight loads neither; convert it once where you trust it: "
    "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
)


@dataclass(frozen=True)
class TowerChoice:
    """Which tower gives the features: plain values that travel to another process.

    kind:       of tower
    name:       OpenAI's or open_clip's name, timm's without a prefix; of an ONNX file not read; CUSTOM for whatever
                encoder a folder holds
    pretrained: open_clip's tag of the weights; for OpenAI's names `openai` where it is None
    weights:    a .safetensors file, the .onnx file, or a folder that herdlight's stage pretrain wrote, instead
    onnx:       how an ONNX file is used
    """

    kind: Kind
    name: str
    pretrained: str | None = None
    weights: Path | None = None
    onnx: OnnxParams | None = None


@dataclass(frozen=True, eq=False)
class FeatureTower:
    """A tower on its device.

    tower:  pixels to features
    spec:   of the encoder
    resize: how a picture becomes its input
    device: where it runs, as torch names it
    clip:   the model with the text tower, None where there is none
    """

    tower: Tower
    spec: EncoderSpec
    resize: ReferenceResize
    device: str
    clip: nn.Module | None

    @torch.inference_mode()
    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return features float32 [N, D] of uint8 RGB frames [N, S, S, 3], as the tower gives them: not normalised."""
        pixels = to_pixels(torch.from_numpy(frames_NHWC).to(self.device))
        features: npt.NDArray[np.float32] = self.tower(pixels).float().cpu().numpy()
        return features

    @torch.inference_mode()
    def embed_texts(self, texts: tuple[str, ...]) -> "TextLogits":
        """Return what gives the logits of `texts`. Raises ParamsError where the tower has no words."""
        if self.clip is None:
            raise ParamsError(f"show_pred: {self.spec.name} has no text tower; only a CLIP can tell texts apart")
        tokens = _tokenizer(self.spec)(list(texts)).to(self.device)
        clip: Any = self.clip
        embedded_PD: Tensor = clip.encode_text(tokens).double()
        unit_PD = nn.functional.normalize(embedded_PD, dim=-1).cpu().numpy()
        return TextLogits(texts, unit_PD, float(clip.logit_scale.detach().exp()))


@dataclass(frozen=True, eq=False)
class TextLogits:
    """Texts, ready to be compared with features (CLIP, Radford et al. 2021, arXiv:2103.00020, section 3.1).

    texts:   P of them
    unit_PD: float64 [P, D], of length 1
    scale:   factor from cosine to logit
    """

    texts: tuple[str, ...]
    unit_PD: npt.NDArray[np.float64]
    scale: float

    def __call__(self, features_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the logits float64 [N, P]."""
        features = features_ND.astype(np.float64)
        lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        logits: npt.NDArray[np.float64] = self.scale * (features / lengths) @ self.unit_PD.T
        return logits


def load_tower(choice: TowerChoice, device: str) -> FeatureTower:
    """Return the tower on `device`, in eval mode.

    Raises ParamsError for an unknown name, ModelError where weights are damaged, WeightsUnavailable where they are
    not to be had or do not fit.
    """
    model, spec = _encoder(choice)
    model = model.eval().requires_grad_(False).to(device)
    tower = Tower(spec, 0, model.visual).eval().to(device)  # type: ignore[arg-type]
    clip = model if spec.has_text_tower and hasattr(model, "encode_text") else None
    return FeatureTower(tower, spec, resize_of(spec), device, clip)


def _encoder(choice: TowerChoice) -> tuple[nn.Module, EncoderSpec]:
    weights = choice.weights
    if weights is not None and weights.is_dir():
        return _stored_encoder(weights, choice)
    if weights is not None and not weights.is_file():
        raise WeightsUnavailable(f"weights = {str(weights)!r}: no such file or folder")
    wanted = ".onnx" if choice.kind == "onnx" else ".safetensors"
    if weights is not None and weights.suffix.lower() != wanted:
        raise WeightsUnavailable(
            f"weights = {str(weights)!r}: must be a {wanted} file; {weights.suffix!r} {_NO_PICKLE}"
        )
    values: dict[str, Any] = {"name": _name(choice), "pretrained": str(weights) if weights else _pretrained(choice)}
    if choice.kind == "onnx":
        values["onnx"] = choice.onnx
    params = parse_section(values, "encoder", EncoderParams, "herdlight features")
    try:
        return named_encoder(params)
    except (ParamsError, WeightsUnavailable) as error:  # speaks of the params that training has
        raise type(error)(_in_own_words(str(error))) from None


def _stored_encoder(folder: Path, choice: TowerChoice) -> tuple[nn.Module, EncoderSpec]:
    """Return the encoder in a folder of herdlight's. Raises ParamsError where it is not the one that was named."""
    model, spec = load_encoder(folder)
    kinds = {"open_clip": "clip"}
    named = OPENAI_NAMES.get(choice.name, choice.name)
    same_name = spec.kind == "onnx" or spec.name.removeprefix(TIMM_PREFIX).removesuffix("-quickgelu") == named
    if kinds.get(spec.kind, spec.kind) != choice.kind or not (same_name or choice.name == CUSTOM):
        raise ParamsError(f"weights = {str(folder)!r}: holds {spec.name}, and model_name is {choice.name}")
    return model, spec


def _in_own_words(message: str) -> str:
    for theirs, ours in (
        ("offline choices: encoder.name = nano, or encoder.pretrained = a .safetensors file", "offline: weights=FILE"),
        ("name that file in encoder.pretrained", "name that file: weights=FILE"),
        ("encoder.pretrained", "pretrained"),
        ("encoder.name", "model_name"),
        ("encoder.onnx.", ""),
    ):
        message = message.replace(theirs, ours)
    return message


def _name(choice: TowerChoice) -> str:
    if choice.kind == "onnx":
        return ONNX
    if choice.kind == "timm":
        return TIMM_PREFIX + choice.name
    known = OPENAI_NAMES.get(choice.name)
    if known is None:
        return choice.name
    # A file of OpenAI's architecture does not say which activation it was trained with; a tag does.
    return f"{known}-quickgelu" if choice.weights is not None else known


def _pretrained(choice: TowerChoice) -> str | None:
    if choice.kind == "timm":
        return HUB
    if choice.pretrained is None and choice.name in OPENAI_NAMES:
        return "openai"
    return choice.pretrained


def resize_of(spec: EncoderSpec) -> ReferenceResize:
    """Return how the tower's own project prepares a picture for it; bicubic to S and the centre where it says nothing.

    Raises ParamsError where that project does it in a way that is not known here.
    """
    side = spec.image_size
    if spec.kind == "timm":
        settings: Any = timm.get_pretrained_cfg(spec.name.removeprefix(TIMM_PREFIX))
        modes: dict[str, Literal["shortest", "squash"]] = {"center": "shortest", "squash": "squash"}
        mode = modes.get(settings.crop_mode)
        if mode is None:
            raise ParamsError(f"{spec.name}: crops by {settings.crop_mode!r}; only center and squash are known here")
        return ReferenceResize(side, math.floor(side / settings.crop_pct), settings.interpolation, mode)
    tag: dict[str, Any] = {}
    if spec.kind == "open_clip" and spec.pretrained and not Path(spec.pretrained).suffix:
        tag = get_pretrained_cfg(spec.name, spec.pretrained) or {}
    return ReferenceResize(side, side, tag.get("interpolation", "bicubic"), tag.get("resize_mode", "shortest"))


def _tokenizer(spec: EncoderSpec) -> Any:
    """Return what turns texts into tokens [P, L]."""
    register_nano()
    if spec.name == NANO or spec.name in open_clip.list_models():
        return open_clip.get_tokenizer(spec.name)
    try:
        length = int(spec.model_config["text_cfg"]["context_length"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"show_pred: {spec.name} does not say how long its texts are ({error})") from None
    return open_clip.SimpleTokenizer(context_length=length)
