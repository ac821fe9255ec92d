"""Labels for `herdlight evaluate`: one file for a folder of videos, in any of three formats, and whose they are.

    annotations.json   herdlight's own ({"videos": {path: entry}}), with importance, segments or both
    labels.json        TVSum's: {id: {"shot_s": 2.0, "mean_scores": [S], "highlights": [[start_s, end_s], …]}}, and
                       "user_scores": [A][S] where each annotator's are at hand
    *.h5, *.hdf5       a group for each id with user_scores [S, A]; attribute shot_s of the group or the file, seconds
                       (2 where there is none, as in TVSum)

A format is known by its content, not by its name. A label that cannot be read costs its video alone. Knows names and
times; knows nothing of scores or of pixels.
"""

import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import AnnotationError, DataError, ShapeError
from models.importance import Importance
from tasks.annotations import (
    HIGHLIGHT_FRACTION,
    Annotations,
    Entry,
    ImportanceEntry,
    Labels,
    Pair,
    normal_path,
    parse_annotations,
    resolve_labels,
    unique_keys,
)

# TVSum's shots: Song et al., "TVSum: Summarizing web videos using titles", CVPR 2015.
TVSUM_SHOT_S = 2.0
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5", ".hdf5")
Format = Literal["annotations", "tvsum", "hdf5"]


@dataclass(frozen=True)
class LabelFile:
    """What a file says of each video, by the name that it gives the video.

    format:      of the file
    annotations: entries, and what is wrong with some of them
    """

    format: Format
    annotations: Annotations

    @property
    def names(self) -> list[str]:
        """Every name in the file, sorted, also those with a problem."""
        return sorted({*self.annotations.entries, *self.annotations.problems})


@dataclass(frozen=True)
class Matching:
    """Which label belongs to which video.

    label_of:       the label's name of each video that has one
    unlabelled:     videos without a label, and why
    without_video:  names of labels that no video has
    """

    label_of: Mapping[str, str]
    unlabelled: Mapping[str, str]
    without_video: tuple[str, ...]


class _TvsumEntry(BaseModel):
    """One video of TVSum's labels.json; further keys are let pass, files of this kind hold titles and categories."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)
    shot_s: Annotated[float, Field(gt=0)] = TVSUM_SHOT_S
    mean_scores: list[float | None] | None = None
    user_scores: Annotated[list[list[float | None]], Field(min_length=1)] | None = None
    highlights: list[Pair] | None = None


def read_labels(path: Path) -> LabelFile:
    """Return the labels in `path`.

    Raises DataError where the file is missing, is in no known format or labels nothing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_HDF5_MAGIC))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; name the file with the labels") from None
    if head == _HDF5_MAGIC or path.suffix.lower() in _HDF5_SUFFIXES:
        labels = LabelFile("hdf5", _read_hdf5(path))
    else:
        labels = _read_json(path)
    if not labels.names:
        raise DataError(f"{path}: no video in it")
    return labels


def _read_json(path: Path) -> LabelFile:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        if isinstance(content, dict) and "videos" in content:
            return LabelFile("annotations", parse_annotations(content))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: neither JSON nor HDF5 ({error}); see `herdlight evaluate --help`") from None
    except AnnotationError as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise DataError(f"{path}: neither {{videos: {{path: entry}}}} nor TVSum's {{id: {{mean_scores: […]}}}}")
    entries, problems = {}, {}
    for name, value in content.items():
        try:
            entries[normal_path(name)] = _from_tvsum(_TvsumEntry.model_validate(value))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            problems[normal_path(name)] = f"labels: {place} = {first['input']!r}: {first['msg']}"
        except ShapeError as error:
            problems[normal_path(name)] = f"labels: {error}"
    return LabelFile("tvsum", Annotations(entries, problems))


def _from_tvsum(entry: _TvsumEntry) -> Entry:
    lists = entry.user_scores or (None if entry.mean_scores is None else [entry.mean_scores])
    if lists is None and entry.highlights is None:
        raise ShapeError("no mean_scores, no user_scores and no highlights")
    graded = None if lists is None else ImportanceEntry(shot_s=entry.shot_s, scores=lists)
    return Entry(segments=entry.highlights, importance=graded)


def _read_hdf5(path: Path) -> Annotations:
    entries, problems = {}, {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                try:
                    group = file[name]
                    if not isinstance(group, h5py.Group):
                        continue
                    shot_s = float(group.attrs.get("shot_s", file.attrs.get("shot_s", TVSUM_SHOT_S)))
                    entries[normal_path(name)] = _from_array(_user_scores(group), shot_s)
                except (ShapeError, TypeError, ValueError, KeyError) as error:  # KeyError: a link that leads nowhere
                    problems[normal_path(name)] = f"labels: {error}"
    except OSError as error:
        raise DataError(f"{path}: not HDF5 ({error})") from None
    return Annotations(entries, problems)


def _user_scores(group: Any) -> Any:
    """Return the scores [S, A] of a group. Raises ShapeError where there are none, or where they are no numbers."""
    if "user_scores" not in group:
        raise ShapeError(f"no user_scores [shots, annotators], only {', '.join(sorted(group)) or 'nothing'}")
    stored = group["user_scores"]
    if getattr(stored, "ndim", 0) != 2 or stored.dtype.kind not in "iuf":
        raise ShapeError(f"user_scores must be numbers [shots, annotators], got {getattr(stored, 'shape', stored)}")
    return stored[:]


def _from_array(scores_SA: Any, shot_s: float) -> Entry:
    importance = Importance(shot_s, np.asarray(scores_SA, np.float64).T)
    filled = [[None if math.isnan(score) else score for score in shots] for shots in importance.scores_AS.tolist()]
    return Entry(importance=ImportanceEntry(shot_s=shot_s, scores=filled))


def labels_of(
    labels: LabelFile, name: str, duration_s: float, highlight_fraction: float = HIGHLIGHT_FRACTION
) -> Labels:
    """Return the labels that the file has under `name` for a video of `duration_s` seconds.

    Highlights that TVSum's labels.json lets reach past the end are cut there, since its last shot does. The folder
    rule is not asked: a video is labelled by the file or not at all. Raises AnnotationError as `resolve_labels`.
    """
    if name in labels.annotations.problems:
        raise AnnotationError(labels.annotations.problems[name])
    entry = labels.annotations.entries[name]
    if entry.segments is None and entry.importance is None:
        raise AnnotationError(
            "annotations.json: neither importance nor segments, so there is nothing to hold it against"
        )
    if labels.format == "tvsum" and entry.segments is not None:
        inside = [[start, min(end, duration_s)] for start, end in entry.segments if start < duration_s]
        entry = entry.model_copy(update={"segments": inside})
    where = name if labels.format == "annotations" else ""
    return resolve_labels(where, entry, duration_s, highlight_fraction)


def match_labels(videos: Iterable[str], names: Sequence[str]) -> Matching:
    """Return which of `names` labels which of `videos` (paths relative to their folder, with forward slashes).

    A video's label is the one of its path; else of its path without suffix; else the one whose last part is the
    video's file name, or its stem. Unicode is compared composed (NFC). A nearer match goes first; what is left
    ambiguous, two videos for one label or two labels for one video, is not matched, and the reason says so.
    """
    open_videos = {video: PurePosixPath(_nfc(video)) for video in videos}
    open_names = {name: PurePosixPath(_nfc(name)) for name in names}
    label_of: dict[str, str] = {}
    unlabelled: dict[str, str] = {}
    rules = (
        (str, str),
        (lambda path: str(path.with_suffix("")), str),
        (lambda path: path.name, lambda label: label.name),
        (lambda path: path.stem, lambda label: label.name),
        (lambda path: path.stem, lambda label: label.stem),
    )
    for of_video, of_label in rules:
        claims: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for video, path in open_videos.items():
            claims[of_video(path)][0].append(video)
        for name, path in open_names.items():
            claims[of_label(path)][1].append(name)
        for claimed, claiming in claims.values():
            if len(claimed) == 1 and len(claiming) == 1:
                label_of[claimed[0]] = claiming[0]
                unlabelled.pop(claimed[0], None)
                del open_videos[claimed[0]], open_names[claiming[0]]
            elif claimed and claiming:
                reason = f"ambiguous: {_some(claimed)} could each have the label {_some(claiming)}; use paths as names"
                unlabelled |= dict.fromkeys(claimed, reason)
    unlabelled |= {video: "no label for it" for video in open_videos if video not in unlabelled}
    return Matching(label_of, dict(sorted(unlabelled.items())), tuple(sorted(open_names)))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
