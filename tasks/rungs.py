"""Building one rung: the model changed, its engine built and loaded, and the footage scored with it.

What cannot be built is the rung's row, with its status and its reason. Knows nothing of speed or of the choice.
"""

import copy
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.engines import (
    Engine,
    TowerSource,
    build_engine_from,
    engine_bytes,
    load_engine,
    runs_here,
)
from models.engines.base import Frames, engine_errors
from models.errors import EngineError, EngineNotPossible, HerdlightError, MissingExtra, ModelError
from models.highlighter import Highlighter, HighlighterSpec
from models.ladder import Part, Rung, RungResult
from models.manifest import VideoRow
from models.metrics import choose_threshold
from models.predictions import calibrated_predictions
from models.quantise import MIN_FRAMES, choose_frames
from models.served import ServedModel, save_served
from models.spans import label_times
from models.video import SampledVideo
from tasks.quantise import quantise_apart
from tasks.resident import measure_resident_mb

_log = logging.getLogger(__name__)
_MB = 1e6
_PROCESSES = 2  # that measure their memory at once: most of their time is imports
# As torch, numpy, C++ and CUDA say it.
_OUT_OF_MEMORY = re.compile(r"allocate|bad_alloc|out of memory", re.IGNORECASE)
_LARGER = "use a larger machine, smaller ladder.batch_sizes or fewer rungs at once"
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

    model:       what its parts made of the model, before the engine
    folder:      of the engine's files
    engine:      ready to call
    table:       frame table of val and test with its scores
    threshold:   chosen on val
    disk_mb:     its files, MB
    """

    rung: Rung
    model: Model
    folder: Path
    engine: Engine
    table: pd.DataFrame
    threshold: float
    disk_mb: float

    @property
    def served_spec(self) -> HighlighterSpec:
        """Spec of the model with the rung's own threshold."""
        return replace(self.model[1], threshold=self.threshold)


def calibration_frames(rows: Sequence[VideoRow], read_video: Callable[[str], SampledVideo], num_frames: int) -> Frames:
    """Return at most `num_frames` frames of the train videos `rows`, as evenly from all of them as can be.

    Of more videos than frames, evenly spaced ones give one each. One video is held at a time.
    Raises EngineError where there is no video, or where what was taken is of one class.
    """
    if not rows:
        raise EngineError("int8: no train frames to calibrate with; add train videos")
    rows = [rows[place] for place in _evenly(len(rows), num_frames)]
    frames: list[Frames] = []
    labels: list[npt.NDArray[np.int8]] = []
    wanted = num_frames
    for left, row in zip(range(len(rows), 0, -1), rows, strict=True):
        video = read_video(row.video_id)
        places = _evenly(len(video.times_s), -(-wanted // left))
        frames.append(video.frames_THWC[places])
        labels.append(label_times(video.times_s, row.spans)[places])
        wanted -= len(places)
    return choose_frames(np.concatenate(frames), np.concatenate(labels), num_frames)


def _evenly(num_there: int, num_wanted: int) -> npt.NDArray[np.int64]:
    """Return the places of `num_wanted` of `num_there` things, each in the middle of an equal share of them."""
    num = min(num_there, num_wanted)
    return ((np.arange(num) + 0.5) * num_there / max(num, 1)).astype(np.int64)


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
    except MemoryError as error:
        return without_figures(rung, error)


def _build(
    rung: Rung, model: Model, footage: Footage, batch_size: int, shrinks: Mapping[Part, Shrink], scratch: Path
) -> BuiltRung | RungResult:
    for part in rung.parts[:-1]:
        with engine_errors(f"{part.kind} {part.name} cannot be done"):
            model = shrinks[part](*model)
    highlighter, spec = model[0].eval(), model[1]
    asked = rung.runtime
    calibration = _calibrate(footage) if (asked.engine, asked.precision) == ("openvino", "int8") else None
    source = TowerSource(highlighter.tower, spec.encoder.image_size, scratch / "graphs", footage.calibrate)
    built = scratch / "engine"
    # A tower that is an ONNX graph has no weights for torch to write: ONNX Runtime runs it in memory and in a file.
    name = "onnx" if asked.engine == "eager" and source.graph_tower is not None else asked.engine
    record = build_engine_from(name, source, built, asked.precision if calibration is None else "float32")
    if calibration is not None:
        quantise_apart(built, calibration, scratch)
    disk_mb = engine_bytes(built) / _MB
    if not runs_here(record):
        return RungResult(rung, "built", f"built for {record.device}, which is not here ({disk_mb:.1f} MB)")
    engine = load_engine(built, make_tower=lambda: copy.deepcopy(highlighter.tower))
    table = _score(ServedModel(spec, engine, highlighter.head, batch_size), footage)
    val = table[table["split"] == "val"]
    threshold = choose_threshold(val["label"].to_numpy(), val["score"].to_numpy().astype(np.float64))
    return BuiltRung(rung, (highlighter, spec), built, engine, table, threshold, disk_mb)


def _calibrate(footage: Footage) -> Frames:
    if footage.calibrate is None:
        raise EngineError("int8: no train frames to calibrate with; add train videos")
    frames = footage.calibrate()
    if len(frames) < MIN_FRAMES:
        raise EngineError(f"int8: {len(frames)} train frames to calibrate with, needs {MIN_FRAMES}; add train videos")
    return frames


def measure_memory(built: Sequence[BuiltRung], batch_size: int) -> dict[Rung, float | None]:
    """Return the memory of a process that serves each rung, MB; None where the system does not say it."""

    def measure(rung: BuiltRung) -> float | None:
        folder = rung.folder.parent / "served"
        save_served(folder, rung.folder, rung.model[0].head, rung.served_spec)
        return measure_resident_mb(folder, batch_size)

    with ThreadPoolExecutor(_PROCESSES) as pool:
        return dict(zip((rung.rung for rung in built), pool.map(measure, built), strict=True))


def _score(model: ServedModel, footage: Footage) -> pd.DataFrame:
    videos = ((row, footage.read_video(row.video_id)) for row in footage.rows)
    scored = (
        (row, video.times_s, model.score_logits(model.embed(video.frames_THWC), video.times_s)) for row, video in videos
    )
    return calibrated_predictions(scored, model.spec.calibration)


def without_figures(rung: Rung, error: HerdlightError | MemoryError, scratch: Path | None = None) -> RungResult:
    """Return the row of a rung that `error` ended; paths below `scratch` are told without it."""
    reason = str(error).replace(f"{scratch}/", "") if scratch else str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(reason):
        reason = f"not enough memory{f': {reason}' if reason else ''}; {_LARGER}"
    status = "not_possible" if isinstance(error, (EngineNotPossible, MissingExtra)) else "failed"
    _log.warning("rung %s %s: %s", rung.name, status.replace("_", " "), reason)
    return RungResult(rung, status, reason)
