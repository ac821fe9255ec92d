"""What is handed on: highlights of videos, with where each video lies and how its time is counted.

Knows the results that `tasks.scored_files` writes and how to find the footage they speak of. Knows no format. Times
are seconds from the first displayed frame (models/spans.py); a source is taken only when its content is that which
was scored, since the right name on the wrong file would cut the wrong seconds.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataError, ShapeError, VideoError
from models.files import hash_file, read_json
from models.spans import ScoreTrack, Span
from models.video import VideoInfo
from tasks.footage import printable
from tasks.scored_files import ModelIdentity

_SPANS_SUFFIX = ".spans.json"
_NO_MODEL = ModelIdentity("unknown", "", "")
# A span may pass the stated end by what containers round.
_END_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Highlight:
    """A stretch of one video worth sharing.

    start_s:              first instant inside, seconds, at least 0
    end_s:                first instant after, seconds, above start_s
    score:                mean score of the frames inside, 0 to 1, None where the results hold none
    category:             what kind of moment it is, None where nothing was said
    category_probability: of the category, 0 to 1, None where nothing was said
    """

    start_s: float
    end_s: float
    score: float | None = None
    category: str | None = None
    category_probability: float | None = None

    def __post_init__(self) -> None:
        Span(self.start_s, self.end_s)  # its rule is ours
        for name, value in (("score", self.score), ("category_probability", self.category_probability)):
            if value is not None and not 0 <= value <= 1:
                raise ShapeError(f"highlight [{self.start_s}, {self.end_s}) s: {name} {value} must be 0 to 1")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    @property
    def label(self) -> str:
        """Score and category for people, in one line."""
        parts = [] if self.score is None else [f"score {self.score:.2f}"]
        if self.category is not None:
            sure = "" if self.category_probability is None else f" {self.category_probability:.0%}"
            parts.append(f"{self.category}{sure}")
        return ", ".join(parts) or "no score"


@dataclass(frozen=True, eq=False)
class Scored:
    """What a results folder says of one video.

    video:      its name as it was scored: relative to the folder that was given, or the file's name
    video_id:   first 16 hexadecimal digits of the SHA-256 of its content
    stem:       of its files in the results folder
    duration_s: length, seconds
    threshold:  score from which a frame counts, 0 to 1
    highlights: in order of time
    track:      score of each sampled frame
    model:      which model scored
    partial:    why the video was read up to some point alone, "" where it was read to its end
    note:       what the selection left out, and where there is no highlight, why
    """

    video: str
    video_id: str
    stem: str
    duration_s: float
    threshold: float
    highlights: tuple[Highlight, ...]
    track: ScoreTrack
    model: ModelIdentity
    partial: str = ""
    note: str = ""


@dataclass(frozen=True)
class Media:
    """The footage behind one result.

    path:        where it is
    info:        what it is
    rate:        frames a second that its timeline is counted in, one of `timecode.RATES`
    rate_note:   "" where that is the video's own rate, else why another was chosen
    start_frame: the source timecode of its first frame, in frames of `rate`; 0 where it carries none
    created:     when recording started by the container, with its zone; None where it does not say
    place:       latitude and longitude by the container, degrees; None where it does not say
    """

    path: Path
    info: VideoInfo
    rate: Fraction
    rate_note: str
    start_frame: int
    created: datetime | None
    place: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Handoff:
    """One scored video with its footage."""

    scored: Scored
    media: Media


@dataclass(frozen=True)
class Rejected:
    """A result or a video that could not be handed on, and why."""

    video: str
    reason: str


def show_model(model: ModelIdentity) -> str:
    """Return which model it was, for those whom files are handed to: without the paths of this machine."""
    name = model.name if model.name.startswith(("models:", "runs:")) else Path(model.name).name
    version = f"version {model.version}" if model.version else ""
    return " ".join(filter(None, (name, version, model.sha256[:12])))


def read_results(folder: Path) -> tuple[list[Scored], list[Rejected]]:
    """Return what `folder` holds, in order of the videos' names, and the results that are damaged.

    Raises DataError where the folder is missing or holds no results at all.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))}: no such folder; give the --out of `herdlight score`")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_SPANS_SUFFIX))
    if not paths and not (folder / "scored.json").is_file():
        raise DataError(f"{printable(str(folder))}: no results there; give the --out of `herdlight score`")
    scored, rejected = [], []
    for path in paths:
        try:
            scored.append(read_scored(path))
        except DataError as error:
            rejected.append(Rejected(printable(path.name), str(error)))
    return sorted(scored, key=lambda item: (item.video, item.video_id)), rejected


def read_scored(path: Path) -> Scored:
    """Return what `STEM.spans.json` at `path` and the scores beside it say. Raises DataError where they are damaged."""
    stem = path.name.removesuffix(_SPANS_SUFFIX)
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError("not a JSON object; score the video again with --force")
        duration_s = _number(content, "duration_s")
        highlights = tuple(sorted(_highlights(content, duration_s), key=lambda item: (item.start_s, item.end_s)))
        table = pq.read_table(path.with_name(f"{stem}.scores.parquet"), columns=["time_s", "score"])
        times_s = np.asarray(table["time_s"], dtype=np.float64)
        track = ScoreTrack(times_s, np.asarray(table["score"], dtype=np.float32), duration_s)
        return Scored(
            video=_text(content, "video"),
            video_id=_text(content, "video_id"),
            stem=printable(stem),
            duration_s=duration_s,
            threshold=_number(content, "threshold"),
            highlights=highlights,
            track=track,
            model=_model(content.get("model")),
            partial=printable(str(content.get("partial", ""))),
            note=printable(str(content.get("note", ""))),
        )
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"damaged results: {said}; score the video again with --force") from None


def _highlights(content: Mapping[str, Any], duration_s: float) -> Iterator[Highlight]:
    spans = content["spans"]
    if not isinstance(spans, list) or not all(isinstance(span, dict) for span in spans):
        raise ShapeError("spans is not a list of objects")
    for span in spans:
        category = span.get("category")
        end_s = _number(span, "end_s")
        if end_s > duration_s + _END_TOLERANCE_S:
            raise ShapeError(f"a span ends at {end_s} s, the video at {duration_s} s")
        yield Highlight(
            start_s=_number(span, "start_s"),
            end_s=end_s,
            score=_optional_number(span, "score"),
            category=None if category is None else printable(str(category)),
            category_probability=_optional_number(span, "category_probability"),
        )


def _number(content: Mapping[str, Any], key: str) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ShapeError(f"{key} {value!r} is not a finite number")
    return float(value)


def _optional_number(content: Mapping[str, Any], key: str) -> float | None:
    return None if content.get(key) is None else _number(content, key)


def _text(content: Mapping[str, Any], key: str) -> str:
    if not isinstance(content[key], str) or not content[key]:
        raise ShapeError(f"{key} {content[key]!r} is not a text")
    return printable(content[key])


def _model(content: Any) -> ModelIdentity:
    if not isinstance(content, dict):
        return _NO_MODEL
    return ModelIdentity(*(printable(str(content.get(key, ""))) for key in ("name", "version", "sha256")))


class FootageIndex:
    """Where footage lies below some folders, by name.

    A file is known by its relative path and by its bare name, both as `tasks.footage.printable` shows them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Look through `paths`, files and folders. Raises DataError for one that does not exist."""
        self._by_name: dict[str, list[Path]] = {}
        for path in paths:
            if not path.exists():
                raise DataError(f"{printable(str(path))}: no such file or folder; give the footage with --footage")
            if not path.is_dir():
                self._add(path, path.name)
                continue
            for root, folders, names in os.walk(path):
                folders.sort()
                for name in sorted(names):
                    file = Path(root) / name
                    self._add(file, file.relative_to(path).as_posix())
                    self._add(file, name)

    def _add(self, file: Path, name: str) -> None:
        known = self._by_name.setdefault(printable(name), [])
        if file not in known:
            known.append(file)

    def find(self, scored: Scored) -> Path:
        """Return the file that was scored. Raises VideoError where it is missing or has another content."""
        candidates = list(self._by_name.get(scored.video, ()))
        candidates += [path for path in self._by_name.get(Path(scored.video).name, ()) if path not in candidates]
        reason = "no such file in the footage; name its folder with --footage"
        for path in candidates:
            try:
                if hash_file(path)[:16] == scored.video_id:
                    return path
                reason = "another video lies under its name: its content is not what was scored; score it again"
            except OSError as error:
                reason = f"{error.strerror or error}"
        raise VideoError(reason)
