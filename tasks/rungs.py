"""Building one rung: the model changed, its engine built and loaded, and the footage scored with it.

What cannot be built is the rung's row, with its status and its reason. Knows nothing of speed or of the choice.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from models.engines import (
    Engine,
    TowerSource,
    build_engine_from,
    engine_bytes,
    load_engine,
    reference_engine,
    runs_here,
)
from models.engines.base import Frames, engine_errors
from models.errors import EngineError, EngineNotPossible, HerdlightError, MissingExtra, ModelError
from models.highlighter import Highlighter, HighlighterSpec
from models.ladder import Part, Rung, RungResult
from models.manifest import VideoRow
from models.metrics import choose_threshold
from models.predictions import calibrated_predictions
from models.quantise import choose_frames
from models.served import ServedModel, save_served
from models.spans import label_times
from models.video import SampledVideo
from tasks.quantise import quantise_apart
from tasks.resident import measure_resident_mb

_log = logging.getLogger(__name__)
_MB = 1e6
Model = tuple[Highlighter, HighlighterSpec]
# Makes a smaller model of one; the given one stays as it is.
Shrink = Callable[[Highlighter, HighlighterSpec], Model]


@dataclass(frozen=True, eq=False)
class Footage:
    """What rungs are measured on.

    rows:       manifest rows of the val and test videos
    read_video: gives the sampled frames of a video by its id
    calibrate:  gives frames of the train split for int8, uint8 [N, H, W, 3]; None where there are none
    """

    rows: Sequence[VideoRow]
    read_video: Callable[[str], SampledVideo]
    calibrate: Callable[[], Frames] | None = None

    def __post_init__(self) -> None:
        if {row.split for row in self.rows} != {"val", "test"}:
            raise ModelError("ladder: needs videos in val and in test; add some or change ingest.val_fraction")

    def frames(self, num_frames: int) -> Frames:
        """Return frames of the first video, repeated up to `num_frames`: uint8 [N, H, W, 3]."""
        frames = self.read_video(self.rows[0].video_id).frames_THWC
        return np.resize(frames, (num_frames, *frames.shape[1:]))


@dataclass(frozen=True, eq=False)
class BuiltRung:
    """A rung that runs here.

    engine:      ready to call
    table:       frame table of val and test with its scores
    threshold:   chosen on val
    disk_mb:     its files, MB
    resident_mb: memory of a process that serves it, MB; None where not known
    """

    rung: Rung
    engine: Engine
    table: pd.DataFrame
    threshold: float
    disk_mb: float
    resident_mb: float | None


def calibration_frames(rows: Sequence[VideoRow], read_video: Callable[[str], SampledVideo], num_frames: int) -> Frames:
    """Return at most `num_frames` frames of the train videos `rows`, evenly spaced over all of them.

    Raises EngineError where they are of one class.
    """
    videos = [(row, read_video(row.video_id)) for row in rows]
    if not videos:
        raise EngineError("int8: no train frames to calibrate with; add train videos")
    labels_N = np.concatenate([label_times(video.times_s, row.spans) for row, video in videos])
    return choose_frames(np.concatenate([video.frames_THWC for _, video in videos]), labels_N, num_frames)


def build_rung(
    rung: Rung,
    model: Model,
    footage: Footage,
    batch_size: int,
    shrinks: Mapping[Part, Shrink],
    scratch: Path,
) -> BuiltRung | RungResult:
    """Make, load and score one rung; return its row where that cannot be done."""
    try:
        return _build(rung, model, footage, batch_size, shrinks, scratch)
    except HerdlightError as error:
        return without_figures(rung, error, scratch)
    except MemoryError:
        return without_figures(rung, EngineError("not enough memory to build or load it; use a larger machine"))


def _build(
    rung: Rung, model: Model, footage: Footage, batch_size: int, shrinks: Mapping[Part, Shrink], scratch: Path
) -> BuiltRung | RungResult:
    for part in rung.parts[:-1]:
        with engine_errors(f"{part.kind} {part.name} cannot be done"):
            model = shrinks[part](*model)
    highlighter, spec = model[0].eval(), model[1]
    source = TowerSource(highlighter.tower, spec.encoder.image_size, scratch / "graphs", footage.calibrate)
    built = scratch / "engine"
    if rung.runtime.engine == "eager" and source.graph_tower is not None:
        engine = reference_engine(highlighter.tower, source.image_size)  # such a tower has no weights to write
        num_bytes = source.onnx("float32").stat().st_size
    else:
        is_int8 = (rung.runtime.engine, rung.runtime.precision) == ("openvino", "int8")
        record = build_engine_from(rung.runtime.engine, source, built, "float32" if is_int8 else rung.runtime.precision)
        if is_int8:
            if footage.calibrate is None:
                raise EngineError("int8: no train frames to calibrate with; add train videos")
            quantise_apart(built, footage.calibrate(), scratch)
        num_bytes = engine_bytes(built)
        if not runs_here(record):
            reason = f"built for {record.device}, which is not here ({num_bytes / _MB:.1f} MB)"
            return RungResult(rung, "built", reason)
        engine = load_engine(built, make_tower=lambda: copy.deepcopy(highlighter.tower))
    table = _score(ServedModel(spec, engine, highlighter.head, batch_size), footage)
    val = table[table["split"] == "val"]
    threshold = choose_threshold(val["label"].to_numpy(), val["score"].to_numpy().astype(np.float64))
    resident_mb = None
    if built.is_dir():
        save_served(scratch / "served", built, highlighter.head, replace(spec, threshold=threshold))
        resident_mb = measure_resident_mb(scratch / "served", batch_size)
    return BuiltRung(rung, engine, table, threshold, num_bytes / _MB, resident_mb)


def _score(model: ServedModel, footage: Footage) -> pd.DataFrame:
    videos = ((row, footage.read_video(row.video_id)) for row in footage.rows)
    scored = (
        (row, video.times_s, model.score_logits(model.embed(video.frames_THWC), video.times_s)) for row, video in videos
    )
    return calibrated_predictions(scored, model.spec.calibration)


def without_figures(rung: Rung, error: HerdlightError, scratch: Path | None = None) -> RungResult:
    """Return the row of a rung that `error` ended; paths below `scratch` are told without it."""
    reason = str(error).replace(f"{scratch}/", "") if scratch else str(error)
    status = "not_possible" if isinstance(error, (EngineNotPossible, MissingExtra)) else "failed"
    _log.warning("rung %s %s: %s", rung.name, status.replace("_", " "), reason)
    return RungResult(rung, status, reason)
