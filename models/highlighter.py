"""HL-CLIP: an image tower whose last blocks are trained, and a head that scores frames in their time.

Knows how the two are built, stored (`model.json` + `model.safetensors`) and run over a whole video in overlapping
windows. Does not know how they are trained, compressed or served.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.calibration import NO_CALIBRATION, Calibration
from models.encoder import EncoderSpec, load_weights, save_weights
from models.errors import ModelError, ShapeError
from models.files import read_json, replacing_folder, write_json
from models.merging_tower import MergingTower
from models.multiscale import MultiScaleHead
from models.temporal import HighlightHead, TemporalKind
from models.token_merging import NO_MERGING, MergeSchedule
from models.tower import Tower
from models.video import Sampling

FORMAT_VERSION = 1
SPEC_FILE = "model.json"
_WEIGHTS_FILE = "model.safetensors"
_WINDOWS_AT_ONCE = 64


@dataclass(frozen=True)
class HighlighterSpec:
    """Everything but the weights.

    encoder:         the CLIP that was adapted
    sampling:        how frames are taken from a video
    unfreeze_blocks: blocks of the tower that were trained
    temporal:        kind of the head's temporal encoder
    hidden_dim:      width of the head
    window:          frames that the head sees at once, at least 1
    threshold:       score from which a frame is a highlight, a calibrated probability chosen on val, 0 to 1
    min_duration_s:  shortest highlight given, seconds
    merge_gap_s:     highlights at most this far apart become one, seconds
    calibration:     curve from logit to score, fitted on val; none in models from before there was one
    num_members:     committee of a multiscale head, at least 1
    merging:         tokens that each block of the tower merges; none in models from before there was any
    """

    encoder: EncoderSpec
    sampling: Sampling
    unfreeze_blocks: int
    temporal: TemporalKind
    hidden_dim: int
    window: int
    threshold: float = 0.5
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0
    calibration: Calibration = NO_CALIBRATION
    num_members: int = 1
    merging: MergeSchedule = NO_MERGING

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ShapeError(f"highlighter: threshold {self.threshold} must lie in [0, 1]")
        if self.window < 1:
            raise ShapeError(f"highlighter: window {self.window} must be at least 1 frame")
        if self.num_members < 1:
            raise ShapeError(f"highlighter: {self.num_members} members, must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        parts = {"encoder": self.encoder.to_json(), "calibration": self.calibration.to_json()}
        fields = {"format_version": FORMAT_VERSION, **asdict(self), **parts}
        fields.pop("merging")  # a model that merges nothing is written as before there was merging
        return fields if self.merging == NO_MERGING else {**fields, "merging": self.merging.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "HighlighterSpec":
        """Return the value that `to_json` wrote. Raises ModelError for a format that this version does not know."""
        fields = dict(value)
        if (version := fields.pop("format_version", None)) != FORMAT_VERSION:
            raise ModelError(f"model format {version!r} is not {FORMAT_VERSION}; use the herdlight that wrote it")
        fields["encoder"] = EncoderSpec.from_json(fields["encoder"])
        fields["sampling"] = Sampling(**fields["sampling"])
        fields["calibration"] = Calibration.from_json(fields.get("calibration"))
        fields["merging"] = MergeSchedule.from_json(fields.get("merging"))
        return HighlighterSpec(**fields)


class Highlighter(nn.Module):
    """The model of a spec: `tower` makes an embedding of each frame, `head` a logit of each embedding in its time."""

    def __init__(self, spec: HighlighterSpec, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.tower = build_tower(spec, visual)
        self.head = build_head(spec)

    def tail(self, tokens_NLD: Tensor) -> Tensor:
        """Return embeddings [N, E] of stored tokens [N, L, D]."""
        return self.tower.tail(tokens_NLD)

    def forward(self, tokens_BTLD: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return logits [B, T] of stored tokens [B, T, L, D]."""
        features_BTE = torch.unflatten(self.tail(tokens_BTLD.flatten(0, 1)), 0, tokens_BTLD.shape[:2])
        logits_BT: Tensor = self.head(features_BTE, times_s_BT, mask_BT)
        return logits_BT


def build_tower(spec: HighlighterSpec, visual: nn.Module | None = None) -> Tower:
    """Return the tower of a spec, around `visual` or with fresh weights: what engines are built from and run.

    Raises EngineNotPossible where the spec merges tokens and the network has none to merge.
    """
    if spec.merging == NO_MERGING:
        return Tower(spec.encoder, spec.unfreeze_blocks, visual)
    return MergingTower(spec.encoder, spec.unfreeze_blocks, spec.merging, visual)


def build_head(spec: HighlighterSpec) -> HighlightHead | MultiScaleHead:
    """Return the head of a spec with fresh weights: what serving needs beside an engine."""
    if spec.temporal == "multiscale":
        return MultiScaleHead(spec.encoder.embed_dim, spec.hidden_dim, spec.num_members)
    return HighlightHead(spec.encoder.embed_dim, spec.hidden_dim, spec.temporal)


def save_highlighter(folder: Path, model: Highlighter, spec: HighlighterSpec) -> None:
    """Write model and spec to `folder`, atomically; the same weights give the same bytes."""
    with replacing_folder(folder) as temporary:
        write_json(temporary / SPEC_FILE, spec.to_json())
        save_weights(temporary / _WEIGHTS_FILE, model)


def load_spec(folder: Path) -> HighlighterSpec:
    """Return the spec in `folder`. Raises ModelError where there is none that this version reads."""
    try:
        return HighlighterSpec.from_json(read_json(folder / SPEC_FILE))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / SPEC_FILE}: not a model of herdlight ({error})") from None


def load_highlighter(folder: Path) -> tuple[Highlighter, HighlighterSpec]:
    """Return model (in eval mode) and spec. Raises ModelError where they are missing, damaged or do not fit."""
    spec = load_spec(folder)
    model = Highlighter(spec)
    load_weights(folder / _WEIGHTS_FILE, model)
    return model.eval(), spec


def window_starts(num_frames: int, window: int) -> list[int]:
    """Return first frames of windows that cover `num_frames`, half overlapping, the last one flush with the end."""
    if num_frames <= window:
        return [0]
    step = max(window // 2, 1)
    return [*range(0, num_frames - window, step), num_frames - window]


def score_features(
    head: nn.Module,
    features_TE: npt.NDArray[np.float32],
    times_s: npt.NDArray[np.float64],
    window: int,
    calibration: Calibration = NO_CALIBRATION,
) -> npt.NDArray[np.float32]:
    """Return the probability of highlight of each frame, float32 [T]: the calibrated logit (`score_logits`)."""
    return calibration.apply(score_logits(head, features_TE, times_s, window))


@torch.inference_mode()
def score_logits(
    head: nn.Module, features_TE: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], window: int
) -> npt.NDArray[np.float32]:
    """Return the logit of each frame, float32 [T]; logits of overlapping windows are averaged.

    features_TE: float32 [T, E]; times_s: float64 [T], seconds. Raises ShapeError where they do not fit.
    """
    num_frames = len(features_TE)
    if features_TE.ndim != 2 or times_s.shape != (num_frames,) or num_frames == 0:
        raise ShapeError(f"score_features: features {features_TE.shape} must be [T, E] and times {times_s.shape} [T]")
    length = min(window, num_frames)
    starts = window_starts(num_frames, window)
    index_BT = torch.tensor(starts)[:, None] + torch.arange(length)
    features, times = torch.from_numpy(np.ascontiguousarray(features_TE)), torch.from_numpy(times_s)
    total, count = torch.zeros(num_frames), torch.zeros(num_frames)
    for part_BT in torch.split(index_BT, _WINDOWS_AT_ONCE):
        relative_BT = (times[part_BT] - times[part_BT[:, :1]]).float()
        logits_BT = head(features[part_BT], relative_BT, torch.ones_like(part_BT, dtype=torch.bool))
        total.index_add_(0, part_BT.flatten(), logits_BT.float().flatten())
        count.index_add_(0, part_BT.flatten(), torch.ones(part_BT.numel()))
    logits: npt.NDArray[np.float32] = (total / count).numpy()
    return logits
