"""Scoring footage with the served model: one video, or many with the bad ones set aside.

For each video `STEM` the output folder gets

    STEM.spans.json       video, video_id, duration_s, model, threshold, spans [{start_s, end_s, score}], and where the
                          model has categories `category` and `category_probability` of each span; `note` says what was
                          left out; `settings` and `looked` what was asked for beyond a plain run, and its cost
    STEM.scores.parquet   time_s float64, score float32: the score of each sampled frame
    STEM.timeline.png     curve, threshold, spans and thumbnails
    STEM.energy.json      watt-hours for an hour of video, and how that is known; only where a run measures it

A video that can be read up to some point alone is scored up to there; `partial` in `spans.json` then says why.
And, once all are done, `scored.json` and `rejected.json` list what became of the inputs of this run. `spans.json` is
written last: where it is there, the other two are. Knows nothing of how the model was found.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from models.decoding import DEFAULT_OPTIONS, DecodeOptions
from models.errors import ParamsError, VideoBreaks, VideoError
from models.files import hash_file
from models.selection import SpanRules
from models.spans import ScoreTrack
from models.video import Sampling, frames_of, iterate_pictures, survey
from tasks.energy import EnergyCounter, EnergyMeter
from tasks.footage import Footage, printable
from tasks.score_cascade import CascadeResult, Looker, cascade_track, keyframe_track
from tasks.score_settings import ScoreSettings, settings_of
from tasks.score_stream import BATCH_SIZE, Embedder, OnFeatures, stream_track
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
from tasks.selecting import HighlightFinder
from tasks.thumbnails import MAX_HEIGHT_PX, MAX_WIDTH_PX, ThumbnailReel, choose_times, gap_for
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
Outcome = Literal["", "scored", "kept", "rejected"]
ItemT = TypeVar("ItemT")
# A break this near to the end of what a truncated file holds is its truncation, seconds.
_LAST_S = 1.0


class ScoringSpec(SpanRules, Protocol):
    """What scoring reads of a `models.highlighter.HighlighterSpec`."""

    @property
    def sampling(self) -> Sampling: ...


class Scorer(Embedder, Protocol):
    """What scoring asks of a `models.served.ServedModel`; with `start_track` as there it streams."""

    @property
    def spec(self) -> ScoringSpec: ...


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
    settings: ScoreSettings | None = None,
    batch_size: int = BATCH_SIZE,
    on_fraction: Callable[[float], None] | None = None,
    on_features: OnFeatures | None = None,
    allow_partial: bool = False,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> ScoredVideo:
    """Return the scores and highlights of the video at `path`; memory does not depend on its length in mode exact.

    threshold:     score from which a frame is a highlight, 0 to 1, by default the model's own
    settings:      what else is asked for; then `threshold` is not read
    on_fraction:   called after every batch with the share of the video that is done
    on_features:   called after every batch with times float64 [N], seconds, and features float32 [N, D]
    allow_partial: a video that can be read up to some point alone is scored up to there, and says so; one in which a
                   closer look fails is read in order, from its start
    Raises VideoError where the video cannot be read to its end, or with `allow_partial` not at all.
    """
    settings = settings or _plain(threshold, model.spec)
    info, missing = survey(path)
    if missing and not allow_partial:
        raise VideoError(f"{path.name}: {missing}")
    sampling = settings.sampled(model.spec.sampling)
    looker = Looker(model, path, sampling, info.duration_s, options, batch_size)
    begin = functools.partial(_Seen, model, settings, gap_for(info.duration_s), on_features)
    closer, fell_back, seen = None, "", begin()
    if settings.mode != "exact" and not missing:
        try:
            closer = _look_closely(looker, seen, settings, on_fraction)
        except VideoError as error:  # a damaged one may say more when it is read in order
            if not allow_partial:
                raise
            fell_back, seen = _reason(error, path), begin()
    if closer is not None:
        track, partial = closer.track, missing
    else:
        track, broken = _look_in_order(looker, seen, on_fraction, allow_partial=allow_partial)
        # Whether a decoder stumbles over the end of a truncated file depends on its threads; that it is truncated, not.
        at_its_end = track.duration_s > info.duration_s - _LAST_S
        partial = (missing or broken) if at_its_end else (broken or missing)
        closer = CascadeResult(track, 0, track.duration_s, len(track.times_s), fell_back) if fell_back else None
    tell = None if on_fraction is None else functools.partial(on_fraction, 1.0)
    found = seen.finder.finish(track, path, on_stretch=tell, allow_breaks=allow_partial)
    shown = seen.reel.at(choose_times(track, found.spans, num_thumbnails(info.width / info.height)))
    told = (printable(partial), found.categories, found.note)
    return ScoredVideo(track, found.spans, settings.threshold, shown, *told, settings, closer)


class _Seen:
    """What is kept of one video while it is looked at.

    finder:      what its highlights need
    reel:        what its pictures need
    on_features: takes times float64 [N], seconds, and features float32 [N, D], for the finder and whoever else asks
    """

    def __init__(
        self, model: Scorer, settings: ScoreSettings, gap_s: float, on_features: OnFeatures | None = None
    ) -> None:
        self.finder = HighlightFinder(settings.selection, getattr(model, "categoriser", None))
        self.reel = ThumbnailReel(gap_s)
        self.on_features = (
            self.finder.on_features if on_features is None else _both(self.finder.on_features, on_features)
        )

    def show(self, time_s: float, picture: Callable[[int, int], npt.NDArray[np.uint8]]) -> None:
        """Take the frame at `time_s`, seconds; picture: gives its pixels within a width and a height."""
        self.reel.add(time_s, functools.partial(picture, MAX_WIDTH_PX, MAX_HEIGHT_PX))


def _look_closely(
    looker: Looker, seen: _Seen, settings: ScoreSettings, on_fraction: Callable[[float], None] | None
) -> CascadeResult:
    looker = dataclasses.replace(looker, on_features=seen.on_features, on_picture=seen.show)
    if settings.mode == "keyframes":
        return keyframe_track(looker)
    return cascade_track(looker, settings.threshold, settings.cascade, on_fraction)


def _look_in_order(
    looker: Looker, seen: _Seen, on_fraction: Callable[[float], None] | None, *, allow_partial: bool
) -> tuple[ScoreTrack, str]:
    """Return the scores of all samples, and why there are none from some point on, "" where there are."""
    breaks: list[VideoBreaks] = []
    frames = _frames(looker.path, looker.sampling, looker.options, seen)
    track = stream_track(
        looker.model,
        _until_break(frames, breaks if allow_partial else None),
        name=printable(looker.path.name),
        duration_s=lambda: breaks[0].reached_s if breaks else looker.duration_s,
        batch_size=looker.batch_size,
        on_times=_as_fraction(on_fraction, looker.duration_s),
        on_features=seen.on_features,
    )
    return track, _reason(breaks[0], looker.path) if breaks else ""


def _reason(error: VideoError, path: Path) -> str:
    """Return what `error` says beside the name of the video."""
    return printable(str(error).removeprefix(f"{path.name}: "))


def _both(first: OnFeatures, second: OnFeatures) -> OnFeatures:
    def call(times_s: npt.NDArray[np.float64], features_ND: npt.NDArray[np.float32]) -> None:
        first(times_s, features_ND)
        second(times_s, features_ND)

    return call


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
    return stream_track(
        model,
        frames_of(path, model.spec.sampling),
        name=printable(path.name),
        duration_s=lambda: duration_s,
        batch_size=batch_size,
        on_times=_as_fraction(on_fraction, duration_s),
    )


def score_videos(
    model: Scorer,
    identity: ModelIdentity,
    footage: Sequence[Footage],
    out: Path,
    *,
    threshold: float | None = None,
    settings: ScoreSettings | None = None,
    force: bool = False,
    on_progress: Callable[[ScoreProgress], None] = lambda _: None,
    counter: EnergyCounter | None = None,
) -> ScoreReport:
    """Score every video of `footage` into `out` (see the module) and return what became of each.

    A video that cannot be read is a rejected row; everything else goes on. Outputs that are there for the same video,
    model and settings are kept, unless `force`. A video that can be read up to some point alone is scored up to there.
    counter: measures each video's energy, for a file of its own beside the others
    Raises ParamsError for a threshold outside [0, 1].
    """
    settings = settings or _plain(threshold, model.spec)
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
            row = None if force else kept_row(item, video_id, output, out, identity, settings)
            if row is None:
                with counter.count() if counter else contextlib.nullcontext(EnergyMeter()) as meter:
                    video = score_video_file(
                        model, item.path, settings=settings, on_fraction=report, allow_partial=True
                    )
                row = write_video(item, video_id, output, out, video, identity, meter.energy)
            scored.append(row)
            report(1.0, "kept" if row.kept else "scored")
        except VideoError as error:
            reason = printable(str(error)).removeprefix(f"{printable(item.path.name)}: ")
            rejected.append(RejectedRow(item.name, reason))
            report(1.0, "rejected")
    result = ScoreReport(tuple(scored), tuple(rejected))
    write_index(out, result)
    return result


def _plain(threshold: float | None, spec: ScoringSpec) -> ScoreSettings:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ParamsError(f"threshold {threshold}: must be 0 to 1")
    return settings_of({"threshold": threshold}, spec)


def _report(
    on_progress: Callable[[ScoreProgress], None], at: ScoreProgress, fraction: float, outcome: Outcome = ""
) -> None:
    on_progress(dataclasses.replace(at, fraction=fraction, outcome=outcome))


def _frames(
    path: Path, sampling: Sampling, options: DecodeOptions, seen: _Seen
) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Yield time (seconds) and pixels of each sampled frame, after it was shown to `seen`."""
    for time_s, pixels, picture in iterate_pictures(path, sampling, options):
        seen.show(time_s, picture)
        yield time_s, pixels


def _until_break(frames: Iterator[ItemT], breaks: list[VideoBreaks] | None) -> Iterator[ItemT]:
    """Yield `frames`; where reading breaks off, end and leave why in `breaks`, or raise it where that is None."""
    try:
        yield from frames
    except VideoBreaks as error:
        if breaks is None:
            raise
        breaks.append(error)


def _as_fraction(on_fraction: Callable[[float], None] | None, duration_s: float) -> Callable[[float], None] | None:
    return (lambda time_s: on_fraction(min(1.0, time_s / duration_s))) if on_fraction else None


def _video_id(item: Footage) -> str:
    try:
        return hash_file(item.path)[:16]
    except OSError as error:
        raise VideoError(f"{item.path.name}: {error.strerror or error}") from None
