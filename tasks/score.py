"""Scoring footage with the served model: one video, or many with the bad ones set aside.

For each video `STEM` the output folder gets

    STEM.spans.json       video, video_id, duration_s, model, threshold, spans [{start_s, end_s, score}]
    STEM.scores.parquet   time_s float64, score float32: the score of each sampled frame
    STEM.timeline.png     curve, threshold, spans and thumbnails

and, once all are done, `scored.json` and `rejected.json` list what became of the inputs of this run. `spans.json` is
written last: where it is there, the other two are. Knows nothing of how the model was found.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from models.errors import ParamsError, VideoError
from models.files import hash_file
from models.spans import ScoreTrack, spans_above
from models.video import GRID_TOLERANCE_S, Sampling, iterate_pictures, probe
from tasks.footage import Footage, printable
from tasks.scored_files import (
    ModelIdentity,
    RejectedRow,
    ScoredRow,
    ScoredVideo,
    ScoreReport,
    identify_model,
    kept_row,
    output_stem,
    owned_stems,
    write_index,
    write_video,
)
from tasks.thumbnails import MAX_HEIGHT_PX, MAX_KEPT, MAX_WIDTH_PX, ThumbnailReel, choose_times
from tasks.timeline import num_thumbnails

__all__ = [
    "Footage",
    "ModelIdentity",
    "RejectedRow",
    "ScoreProgress",
    "ScoreReport",
    "ScoredRow",
    "ScoredVideo",
    "Scorer",
    "ScoringSpec",
    "identify_model",
    "score_track_of_file",
    "score_video_file",
    "score_videos",
]
BATCH_SIZE = 32
Outcome = Literal["", "scored", "kept", "rejected"]
ItemT = TypeVar("ItemT")


class ScoringSpec(Protocol):
    """What scoring reads of a `models.highlighter.HighlighterSpec`."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def threshold(self) -> float: ...
    @property
    def min_duration_s(self) -> float: ...
    @property
    def merge_gap_s(self) -> float: ...


class Scorer(Protocol):
    """What scoring asks of a `models.served.ServedModel`."""

    @property
    def spec(self) -> ScoringSpec: ...

    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return features float32 [N, D] of frames uint8 [N, S, S, 3]."""

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        """Return the scores of all sampled frames of one video."""


@dataclass(frozen=True)
class ScoreProgress:
    """Where a run over many videos stands.

    index, num_videos: which video of how many, from 0
    video:             its name
    fraction:          how much of it is scored, 0 to 1
    outcome:           "" while it runs, then what became of it
    """

    index: int
    num_videos: int
    video: str
    fraction: float
    outcome: Outcome = ""


def score_video_file(
    model: Scorer,
    path: Path,
    *,
    threshold: float | None = None,
    batch_size: int = BATCH_SIZE,
    on_fraction: Callable[[float], None] | None = None,
) -> ScoredVideo:
    """Return the scores and highlights of the video at `path`; only `batch_size` of its frames are held at a time.

    threshold:   score from which a frame is a highlight, 0 to 1, by default the model's own
    on_fraction: called after every batch with the share of the video that is done
    Raises VideoError where the video cannot be read to its end.
    """
    spec = model.spec
    threshold = spec.threshold if threshold is None else threshold
    info = probe(path)
    reel = ThumbnailReel(stride=math.ceil(info.duration_s * spec.sampling.fps / MAX_KEPT))
    frames = _frames(path, spec.sampling, reel)
    track = _score_frames(model, path, info.duration_s, frames, batch_size=batch_size, on_fraction=on_fraction)
    spans = spans_above(track, threshold, min_duration_s=spec.min_duration_s, merge_gap_s=spec.merge_gap_s)
    shown = reel.at(choose_times(track, spans, num_thumbnails(info.width / info.height)))
    return ScoredVideo(track, tuple(spans), threshold, shown)


def score_track_of_file(
    model: Scorer,
    path: Path,
    *,
    duration_s: float,
    batch_size: int = BATCH_SIZE,
    on_fraction: Callable[[float], None] | None = None,
) -> ScoreTrack:
    """Return the scores of the video at `path` without making any picture; as `score_video_file` otherwise.

    duration_s: of the video, seconds, as `models.video.probe` has it
    """
    frames = ((time_s, pixels) for time_s, pixels, _ in iterate_pictures(path, model.spec.sampling))
    return _score_frames(model, path, duration_s, frames, batch_size=batch_size, on_fraction=on_fraction)


def _score_frames(
    model: Scorer,
    path: Path,
    duration_s: float,
    frames: Iterable[tuple[float, npt.NDArray[np.uint8]]],
    *,
    batch_size: int,
    on_fraction: Callable[[float], None] | None,
) -> ScoreTrack:
    """Return the scores of `frames`, their times (seconds) and pixels, of a video that announces `duration_s`."""
    times_s: list[float] = []
    features: list[npt.NDArray[np.float32]] = []
    for batch in _batched(frames, batch_size):
        times_s += [time_s for time_s, _ in batch]
        features.append(model.embed(np.stack([pixels for _, pixels in batch])))
        if on_fraction:
            on_fraction(min(1.0, times_s[-1] / duration_s))
    if not times_s:
        raise VideoError(f"{printable(path.name)}: no frame of it can be decoded")
    # A container may announce an end that its own frames pass.
    end_s = max(duration_s, times_s[-1] + GRID_TOLERANCE_S)
    return model.score_track(np.concatenate(features), np.array(times_s, dtype=np.float64), end_s)


def score_videos(
    model: Scorer,
    identity: ModelIdentity,
    footage: Sequence[Footage],
    out: Path,
    *,
    threshold: float | None = None,
    force: bool = False,
    on_progress: Callable[[ScoreProgress], None] = lambda _: None,
) -> ScoreReport:
    """Score every video of `footage` into `out` (see the module) and return what became of each.

    A video that cannot be read is a rejected row; everything else goes on. Outputs that are there for the same video,
    model and threshold are kept, unless `force`. Raises ParamsError for a threshold outside [0, 1].
    """
    threshold = model.spec.threshold if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise ParamsError(f"threshold {threshold}: must be 0 to 1")
    out.mkdir(parents=True, exist_ok=True)
    scored: list[ScoredRow] = []
    rejected: list[RejectedRow] = []
    owners = owned_stems(out)
    for index, item in enumerate(footage):
        report = functools.partial(_report, on_progress, ScoreProgress(index, len(footage), item.name, 0.0))
        report(0.0)
        try:
            video_id = _video_id(item)
            output = output_stem(item.path, video_id, owners)
            row = None if force else kept_row(item, video_id, output, out, identity, threshold)
            if row is None:
                video = score_video_file(model, item.path, threshold=threshold, on_fraction=report)
                row = write_video(item, video_id, output, out, video, identity)
            scored.append(row)
            report(1.0, "kept" if row.kept else "scored")
        except VideoError as error:
            reason = printable(str(error)).removeprefix(f"{printable(item.path.name)}: ")
            rejected.append(RejectedRow(item.name, reason))
            report(1.0, "rejected")
    result = ScoreReport(tuple(scored), tuple(rejected))
    write_index(out, result)
    return result


def _report(
    on_progress: Callable[[ScoreProgress], None], at: ScoreProgress, fraction: float, outcome: Outcome = ""
) -> None:
    on_progress(dataclasses.replace(at, fraction=fraction, outcome=outcome))


def _frames(path: Path, sampling: Sampling, reel: ThumbnailReel) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield time (seconds) and pixels of each sampled frame, after it was shown to `reel`."""
    for time_s, pixels, picture in iterate_pictures(path, sampling):
        reel.add(time_s, functools.partial(picture, MAX_WIDTH_PX, MAX_HEIGHT_PX))
        yield time_s, pixels


def _batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _video_id(item: Footage) -> str:
    try:
        return hash_file(item.path)[:16]
    except OSError as error:
        raise VideoError(f"{item.path.name}: {error.strerror or error}") from None
