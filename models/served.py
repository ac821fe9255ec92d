"""The model as it is served: an engine for the image tower, the head beside it, and the spec; no training code.

A served folder holds `model.json` (HighlighterSpec), `head.safetensors`, `engine.json` and its files, and where
there are categories `categories.safetensors`. Knows how the two halves work together; knows nothing of files of video
or of how the engine was chosen.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from models.category import Categoriser, copy_categories, load_categories
from models.encoder import load_weights, save_weights
from models.engines import Engine, load_engine, read_record
from models.engines.base import RECORD_FILE
from models.errors import EngineError, ShapeError
from models.files import replacing_folder, write_json
from models.highlighter import SPEC_FILE, HighlighterSpec, build_head, build_tower, load_spec, score_logits
from models.spans import ScoreTrack
from models.streaming import HeadTrack, TrackStream
from models.video import SampledVideo

_HEAD_FILE = "head.safetensors"
DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class ServedModel:
    """Frames in, scores in [0, 1] out.

    spec:       everything but the weights
    engine:     image tower, for this device
    head:       scores features in their time
    batch_size: most frames that the engine gets at once
    categoriser: says what kind of moment a highlight is, None where the model came without
    """

    spec: HighlighterSpec
    engine: Engine
    head: nn.Module
    batch_size: int = DEFAULT_BATCH_SIZE
    categoriser: Categoriser | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ShapeError(f"served model: batch_size {self.batch_size} must be at least 1 frame")

    @property
    def engine_name(self) -> str:
        """Name of the engine."""
        return self.engine.name

    def with_threshold(self, threshold: float) -> "ServedModel":
        """Return this model with another threshold, 0 to 1."""
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, threshold=threshold))

    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return features float32 [N, D] of uint8 [N, H, W, 3] RGB frames, N from 0, in batches; the last is shorter.

        Raises ShapeError for frames of another size or type, EngineError where the engine fails.
        """
        parts = [
            self.engine(frames_NHWC[first : first + self.batch_size])
            for first in range(0, len(frames_NHWC), self.batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.spec.encoder.embed_dim), np.float32)

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        """Return the calibrated scores of T frames of one video from their features; times and duration in seconds."""
        scores = self.spec.calibration.apply(self.score_logits(features_TD, times_s))
        return ScoreTrack(times_s, scores, duration_s)

    def start_track(self) -> TrackStream:
        """Return a track that takes features as they come, and says what `score_track` says of all at once."""
        return HeadTrack(self.head, self.spec.window, self.spec.calibration)

    def score_logits(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """Return the logits float32 [T] of T frames of one video, before calibration; times in seconds."""
        return score_logits(self.head, features_TD, times_s, self.spec.window)

    def score_video(self, video: SampledVideo) -> ScoreTrack:
        """Return the scores of the frames of one video."""
        return self.score_track(self.embed(video.frames_THWC), video.times_s, video.duration_s)


def save_served(
    folder: Path, engine_folder: Path, head: nn.Module, spec: HighlighterSpec, categories: Path | None = None
) -> None:
    """Write a served folder, atomically, from the engine in `engine_folder` (copied and checked), head and spec.

    categories: folder that `models.category.save_categories` wrote
    """
    record = read_record(engine_folder)
    if (record.image_size, record.feature_dim) != (spec.encoder.image_size, spec.encoder.embed_dim):
        raise EngineError(
            f"{engine_folder}: engine for {record.image_size} px and {record.feature_dim} features, "
            f"the model has {spec.encoder.image_size} px and {spec.encoder.embed_dim}"
        )
    with replacing_folder(folder) as temporary:
        for name in (RECORD_FILE, *record.files):
            shutil.copyfile(engine_folder / name, temporary / name)
        write_json(temporary / SPEC_FILE, spec.to_json())
        save_weights(temporary / _HEAD_FILE, head)
        if categories is not None:
            copy_categories(categories, temporary, spec.encoder.embed_dim)


def load_served(folder: Path, batch_size: int = DEFAULT_BATCH_SIZE) -> ServedModel:
    """Return the model in `folder`, ready to score.

    Raises ModelError where a file is missing or damaged, EngineError where the engine is for another device.
    """
    spec = load_spec(folder)
    head = build_head(spec)
    load_weights(folder / _HEAD_FILE, head)
    engine = load_engine(folder, make_tower=lambda: build_tower(spec))
    return ServedModel(spec, engine, head.eval().requires_grad_(False), batch_size, load_categories(folder))
