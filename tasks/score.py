"""Scoring footage with the served model: one video, or many with the bad ones set aside.

For each video `STEM` the output folder gets

    STEM.spans.json       video, video_id, duration_s, model, threshold, spans [{start_s, end_s, score}]
    STEM.scores.parquet   time_s float64, score float32: the score of each sampled frame
    STEM.timeline.png     curve, threshold, spans and thumbnails

and, once all are done, `scored.json` and `rejected.json` list what became of the inputs of this run. `spans.json` is
written last: where it is there, the other two are. Knows nothing of how the model was found.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import ParamsError, VideoError
from models.files import hash_file, read_json, replacing, write_json
from models.spans import ScoreTrack, Span, spans_above, total_duration_s
from models.video import Sampling, iterate_pictures, probe
from tasks.footage import Footage, printable
from tasks.thumbnails import MAX_HEIGHT_PX, MAX_KEPT, MAX_WIDTH_PX, Thumbnail, ThumbnailReel, choose_times
from tasks.timeline import draw_timeline, num_thumbnails

BATCH_SIZE = 32
_MAX_STEM_BYTES = 150
_SPANS_SUFFIX = ".spans.json"
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
class ModelIdentity:
    """Which model scored.

    name:    as it was asked for, e.g. models:/herdlight@champion
    version: registry version, or "" where it came from a folder
    sha256:  over the files of the served model's folder
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, eq=False)
class ScoredVideo:
    """One video with its scores.

    track:      score of each sampled frame
    spans:      the highlights, in order
    threshold:  the score from which a frame counts, 0 to 1
    thumbnails: a few frames in order of time
    """

    track: ScoreTrack
    spans: tuple[Span, ...]
    threshold: float
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class ScoredRow:
    """One line of `scored.json`.

    video:       name as it is shown: relative to the folder that was given, or the file's name
    video_id:    first 16 hexadecimal digits of the SHA-256 of the content
    output:      stem of the three files in the output folder
    duration_s:  length of the video, seconds
    num_spans:   number of highlights
    highlight_s: seconds inside highlights
    kept:        the outputs of an earlier run were there for the same video, model and threshold
    """

    video: str
    video_id: str
    output: str
    duration_s: float
    num_spans: int
    highlight_s: float
    kept: bool


@dataclass(frozen=True)
class RejectedRow:
    """One line of `rejected.json`: a video that could not be read, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class ScoreReport:
    """What became of every input, each list in the order of the inputs."""

    scored: tuple[ScoredRow, ...]
    rejected: tuple[RejectedRow, ...]


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
    outcome: Literal["", "scored", "kept", "rejected"] = ""


def identify_model(folder: Path, name: str, version: str = "") -> ModelIdentity:
    """Return the identity of the served model in `folder`: a hash over the names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hash_file(path)}\n".encode())
    return ModelIdentity(name, version, digest.hexdigest())


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
    times_s: list[float] = []
    features: list[npt.NDArray[np.float32]] = []
    for batch in _batched(_frames(path, spec.sampling, reel), batch_size):
        times_s += [time_s for time_s, _ in batch]
        features.append(model.embed(np.stack([pixels for _, pixels in batch])))
        if on_fraction:
            on_fraction(min(1.0, times_s[-1] / info.duration_s))
    if not times_s:
        raise VideoError(f"{printable(path.name)}: no frame of it can be decoded")
    # A container may announce an end that its own frames pass.
    duration_s = info.duration_s if info.duration_s > times_s[-1] else times_s[-1] + 1 / info.mean_fps
    track = model.score_track(np.concatenate(features), np.array(times_s, dtype=np.float64), duration_s)
    spans = spans_above(track, threshold, min_duration_s=spec.min_duration_s, merge_gap_s=spec.merge_gap_s)
    shown = reel.at(choose_times(track, spans, num_thumbnails(info.width / info.height)))
    return ScoredVideo(track, tuple(spans), threshold, shown)


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
    owners = _owners(out)
    for index, item in enumerate(footage):

        def report(fraction: float, outcome: Any = "", index: int = index, item: Footage = item) -> None:
            on_progress(ScoreProgress(index, len(footage), item.name, fraction, outcome))

        report(0.0)
        try:
            video_id = _video_id(item)
            output = _output_stem(item.path, video_id, owners)
            row = None if force else _kept_row(item, video_id, output, out, identity, threshold)
            if row is None:
                video = score_video_file(model, item.path, threshold=threshold, on_fraction=report)
                row = _write_video(item, video_id, output, out, video, identity)
            scored.append(row)
            report(1.0, "kept" if row.kept else "scored")
        except VideoError as error:
            rejected.append(
                RejectedRow(item.name, printable(str(error)).removeprefix(f"{printable(item.path.name)}: "))
            )
            report(1.0, "rejected")
    result = ScoreReport(tuple(scored), tuple(rejected))
    _write_index(out, result)
    return result


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


def _owners(out: Path) -> dict[str, str]:
    """Return which video (video_id) has which stem (in lower case, for file systems that take no notice) in `out`."""
    owners = {}
    for path in sorted(out.glob(f"*{_SPANS_SUFFIX}")):
        owners[path.name.removesuffix(_SPANS_SUFFIX).lower()] = str(_read_spans(path).get("video_id", ""))
    return owners


def _output_stem(path: Path, video_id: str, owners: dict[str, str]) -> str:
    """Return the stem of the outputs: the video's own, or with its identity behind it where another video has that.

    A name once given stays with its video; it is entered in `owners`.
    """
    stem = printable(path.stem)
    if len(stem.encode()) > _MAX_STEM_BYTES:
        stem = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore")
    distinct = f"{stem}-{video_id[:8]}"
    if owners.get(distinct.lower()) == video_id or owners.get(stem.lower(), video_id) not in (video_id, ""):
        stem = distinct
    owners[stem.lower()] = video_id
    return stem


def _read_spans(path: Path) -> dict[str, Any]:
    """Return what an earlier run wrote to `path`, or an empty object where there is none or it is damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _kept_row(
    item: Footage, video_id: str, output: str, out: Path, identity: ModelIdentity, threshold: float
) -> ScoredRow | None:
    """Return the row of outputs that an earlier run left for the same video, model and threshold, or None."""
    content = _read_spans(out / f"{output}{_SPANS_SUFFIX}")
    model = content.get("model")
    same = (
        content.get("video_id") == video_id
        and isinstance(model, dict)
        and model.get("sha256") == identity.sha256
        and content.get("threshold") == threshold
        and (out / f"{output}.scores.parquet").is_file()
        and (out / f"{output}.timeline.png").is_file()
    )
    if not same:
        return None
    try:
        spans = [Span(span["start_s"], span["end_s"], span["score"]) for span in content["spans"]]
        return _row(item, video_id, output, float(content["duration_s"]), spans, kept=True)
    except (KeyError, TypeError, ValueError):
        return None


def _row(
    item: Footage, video_id: str, output: str, duration_s: float, spans: Sequence[Span], *, kept: bool
) -> ScoredRow:
    return ScoredRow(item.name, video_id, output, duration_s, len(spans), float(total_duration_s(spans)), kept)


def _write_video(
    item: Footage, video_id: str, output: str, out: Path, video: ScoredVideo, identity: ModelIdentity
) -> ScoredRow:
    """Write the three files of one video, `spans.json` last, and return its row."""
    spans_path = out / f"{output}{_SPANS_SUFFIX}"
    spans_path.unlink(missing_ok=True)
    table = pa.table({"time_s": video.track.times_s, "score": video.track.scores})
    with replacing(out / f"{output}.scores.parquet") as temporary:
        pq.write_table(table, temporary)
    with replacing(out / f"{output}.timeline.png") as temporary:
        draw_timeline(temporary, item.name, video.track, video.spans, video.threshold, video.thumbnails)
    content = {
        "video": item.name,
        "video_id": video_id,
        "duration_s": video.track.duration_s,
        "model": {"name": identity.name, "version": identity.version, "sha256": identity.sha256},
        "threshold": video.threshold,
        "spans": [{"start_s": span.start_s, "end_s": span.end_s, "score": span.score} for span in video.spans],
    }
    write_json(spans_path, content)
    return _row(item, video_id, output, video.track.duration_s, video.spans, kept=False)


def _write_index(out: Path, report: ScoreReport) -> None:
    """Write the two lists; whether a row was kept is left out, so that a rerun writes the same bytes."""
    scored = [
        {
            "video": row.video,
            "video_id": row.video_id,
            "output": row.output,
            "duration_s": row.duration_s,
            "num_spans": row.num_spans,
            "highlight_s": row.highlight_s,
        }
        for row in report.scored
    ]
    write_json(out / "scored.json", scored)
    write_json(out / "rejected.json", [{"video": row.video, "reason": row.reason} for row in report.rejected])
