"""What people say about videos: `data/annotations.json` and the folder that a video lies in.

Knows the format of an entry and how it becomes labels of a video of known length; knows nothing of files of footage.
The whole file is refused only where it is no mapping of videos (AnnotationError); a bad entry costs its video alone.

    {"videos": {"<path relative to data/videos>": {
        "segments": [[start_s, end_s], …],                          absent: the folder rule
        "caption": "…",                                             of the whole clip
        "captions": [{"start_s": 0, "end_s": 2.5, "text": "…"}],    of stretches
        "group": "…",                                               the recording, default: the video itself
        "content": "walking",                                       category
        "importance": {"shot_s": 2.0,                               graded truth: shot k is [k, k + 1) * shot_s
                       "scores": [[3, 1, null, …], …]}}}}           one list of shots for each annotator, null: none

Folder rule: a video with a folder `bad` above it has no highlight; any other without segments is one throughout.
Graded rule: a video outside `bad` with importance and without segments has its best shots as highlights: those in the
top `ingest.highlight_fraction` by mean importance, neighbours merged, as TVSum's highlights are made (Song et al.,
CVPR 2015). Importance of frames is importance of shots as long as a frame.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from models.errors import AnnotationError, ShapeError
from models.importance import Importance, importance_of, tell_misfit, top_spans
from models.manifest import Caption
from models.spans import Span, merge_spans

# How far past the end of its video a label may reach and is clipped: people and tools round to half seconds.
END_TOLERANCE_S = 0.5
# Share of a video's shots that are its highlights where it has graded truth only.
HIGHLIGHT_FRACTION = 0.2

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


def is_utf8(text: str) -> bool:
    """Return whether `text` can be written as UTF-8, which lone surrogates (bytes of no encoding) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _writable(text: str) -> str:
    if not is_utf8(text):
        raise ValueError("not UTF-8 text")
    return text


Text = Annotated[str, AfterValidator(_writable)]
Named = Annotated[Text, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class CaptionEntry(_Strict):
    """A caption of a stretch as it stands in the file, seconds."""

    start_s: float
    end_s: float
    text: Named


class ImportanceEntry(_Strict):
    """How important each annotator found each shot, as it stands in the file; None where one gave no score."""

    shot_s: Annotated[float, Field(gt=0)]
    scores: Annotated[list[list[float | None]], Field(min_length=1)]


class Entry(_Strict):
    """One video's entry as it stands in the file; its times are not yet held against the video."""

    segments: list[Pair] | None = None
    caption: Text = ""
    captions: list[CaptionEntry] = []
    group: Named | None = None
    content: Text = ""
    importance: ImportanceEntry | None = None


@dataclass(frozen=True)
class Annotations:
    """The parsed file.

    entries:  path of a video to its entry
    problems: path of a video to what is wrong with its entry
    """

    entries: Mapping[str, Entry]
    problems: Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """What is true of one video.

    segments:   highlights, seconds, in order, disjoint, inside the video
    captions:   of stretches, in order, inside the video
    importance: of its shots, None where nobody graded it
    """

    segments: tuple[Span, ...]
    captions: tuple[Caption, ...]
    importance: Importance | None = None


def normal_path(path: str) -> str:
    """Return `path` with composed Unicode (NFC), since file systems and editors differ in how they write an accent."""
    return unicodedata.normalize("NFC", path)


def read_annotations(path: Path) -> Annotations:
    """Read `annotations.json`; a missing file is an empty one. Raises AnnotationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Annotations({}, {})
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        return parse_annotations(json.loads(text, object_pairs_hook=unique_keys))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise AnnotationError(f"{path}: nested too deeply for an annotations file") from None
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from None


def parse_annotations(content: Any) -> Annotations:
    """Return the entries of a parsed file and what is wrong with some of them. Raises AnnotationError."""
    if not isinstance(content, dict) or not isinstance(content.get("videos"), dict):
        raise AnnotationError('must be a mapping {"videos": {path: entry}}; see the section on your own footage')
    unknown = sorted(set(content) - {"videos"})
    if unknown:
        raise AnnotationError(f"unknown key {', '.join(unknown)} beside videos")
    entries: dict[str, Entry] = {}
    problems: dict[str, str] = {}
    for name, value in content["videos"].items():
        path = normal_path(name)
        if not is_utf8(path):
            raise AnnotationError(f"{path!r} is no UTF-8 text; rename the video")
        if path in entries or path in problems:
            raise AnnotationError(f"{path} has two entries")
        try:
            entries[path] = Entry.model_validate(value)
        except ValidationError as error:
            problems[path] = "annotations.json: " + "; ".join(_tell(problem) for problem in error.errors()[:3])
    return Annotations(entries, problems)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys stand once: a hook for `json.loads`. Raises AnnotationError."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise AnnotationError(f"{key} stands twice in one mapping; the second would hide the first")
        found[key] = value
    return found


def _tell(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "entry"
    return f"{place} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def folder_of(path: str) -> str:
    """Return the label that the folders above `path` give: bad, good or other; bad wins."""
    folders = PurePosixPath(path).parts[:-1]
    return next((label for label in ("bad", "good") if label in folders), "other")


def resolve_labels(
    path: str, entry: Entry | None, duration_s: float, highlight_fraction: float = HIGHLIGHT_FRACTION
) -> Labels:
    """Return the labels of the video `path` of `duration_s` seconds by its entry, the graded and the folder rule.

    highlight_fraction: share of shots that are highlights where there is importance only, 0 to 1

    Raises AnnotationError where a time is negative, runs backwards or lies past the end, where importance does not
    fit the video, or where a video under `bad` is given highlights.
    """
    captions = [] if entry is None else entry.captions
    importance = _importance(entry, duration_s)
    highlights = _highlights(path, entry, importance, duration_s, highlight_fraction)
    texts = []
    for i, caption in enumerate(captions):
        span = _clipped(f"captions.{i}", caption.start_s, caption.end_s, duration_s)
        texts.append(Caption(span.start_s, span.end_s, caption.text))
    ordered = sorted(texts, key=lambda text: (text.start_s, text.end_s))
    return Labels(tuple(merge_spans(highlights)), tuple(ordered), importance)


def _highlights(
    path: str, entry: Entry | None, importance: Importance | None, duration_s: float, fraction: float
) -> list[Span]:
    segments = None if entry is None else entry.segments
    is_bad = folder_of(path) == "bad"
    if is_bad and segments:
        raise AnnotationError("lies under bad/, yet annotations.json gives it segments; move it or remove them")
    if segments is not None:
        return [_clipped(f"segments.{i}", start, end, duration_s) for i, (start, end) in enumerate(segments)]
    if is_bad:
        return []
    return [Span(0.0, duration_s)] if importance is None else top_spans(importance, fraction, duration_s)


def _importance(entry: Entry | None, duration_s: float) -> Importance | None:
    if entry is None or entry.importance is None:
        return None
    try:
        importance = importance_of(entry.importance.shot_s, entry.importance.scores)
    except ShapeError as error:
        raise AnnotationError(f"annotations.json: {error}") from None
    if misfit := tell_misfit(importance, duration_s):
        raise AnnotationError(f"annotations.json: {misfit}")
    return importance


def _clipped(place: str, start_s: float, end_s: float, duration_s: float) -> Span:
    said = f"annotations.json: {place} = [{start_s:g}, {end_s:g}] s"
    if start_s < 0:
        raise AnnotationError(f"{said}: starts before 0")
    if end_s <= start_s:
        raise AnnotationError(f"{said}: ends before it starts")
    if end_s > duration_s + END_TOLERANCE_S or start_s >= duration_s:
        raise AnnotationError(f"{said}: past the end of the video at {duration_s:.2f} s")
    return Span(start_s, min(end_s, duration_s))
