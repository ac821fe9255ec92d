"""Stage `ingest`: every video under data/videos becomes one row of the manifest, or a rejected row with its reason.

Knows which files are tried, how a video gets its identity, split and labels, and when too many are rejected; knows
nothing of decoding (models/video.py) or of the format of annotations (tasks/annotations.py).
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import Field, model_validator

from models.errors import AnnotationError, DataError, VideoError
from models.files import hash_file
from models.manifest import SPLITS, Rejection, VideoRow, refuse_too_many, write_manifest, write_rejections
from models.params import Section
from models.spans import total_duration_s
from models.video import VideoInfo, probe
from tasks.annotations import (
    HIGHLIGHT_FRACTION,
    Annotations,
    folder_of,
    is_utf8,
    normal_path,
    read_annotations,
    resolve_labels,
)
from tasks.shell import progress_bar, stage_shell

# The first folder below data/videos names the split; videos of any other folder are dealt out by their group.
SPLIT_OF_FOLDER = {
    "train": "train",
    "train_augmented": "train",
    "val": "val",
    "valid": "val",
    "test": "test",
}
# What lies beside footage and is none; everything else is tried, whatever its extension.
_DOCUMENTS = {".csv", ".db", ".gpx", ".htm", ".html", ".ini", ".json", ".kml", ".log", ".md", ".nfo", ".pdf", ".tsv"}
_SUBTITLES = {".ass", ".srt", ".sub", ".txt", ".vtt", ".xlsx", ".xml", ".yaml", ".yml"}
_PICTURES = {".jpeg", ".jpg", ".png", ".thm"}
SIDECARS = frozenset(_DOCUMENTS | _SUBTITLES | _PICTURES)
_PROBES_AT_ONCE = 2
_ID_DIGITS = 16


class IngestParams(Section):
    """Section `ingest` of params.yaml."""

    max_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of rejected rows above which the run stops, 0 to 1."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of groups outside the split folders that goes to val, 0 to below 1."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of groups outside the split folders that goes to test, 0 to below 1."""
    highlight_fraction: Annotated[float, Field(gt=0, le=1)] = HIGHLIGHT_FRACTION
    """Share of the shots that are highlights in a video with graded importance and no segments, above 0 to 1."""

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1, train gets the rest")
        return self


@dataclass(frozen=True)
class Probed:
    """A readable video before anything is said about it.

    path:   relative to data/videos, with forward slashes
    sha256: of its content, 64 hexadecimal digits
    info:   what it is
    """

    path: str
    sha256: str
    info: VideoInfo


@dataclass(frozen=True)
class IngestResult:
    """rows: the manifest, sorted by path; rejected: the rest, sorted by path."""

    rows: tuple[VideoRow, ...]
    rejected: tuple[Rejection, ...]


def find_videos(videos: Path) -> list[str]:
    """Return the paths, relative to `videos`, of all files to try, sorted; linked folders count, each once.

    Raises DataError where there is none.
    """
    remedy = "run `dvc pull` for the sample, or put footage there (see README)"
    if not videos.is_dir():
        raise DataError(f"{videos}: no such folder; {remedy}")
    found: list[str] = []
    entered: set[Path] = set()
    for folder, folders, names in os.walk(videos, followlinks=True):
        folders.sort()
        if (real := Path(folder).resolve()) in entered:  # a link to a folder above it would go round for ever
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(folder) / name).relative_to(videos).as_posix()
            for name in names
            if not name.startswith(".") and PurePosixPath(name).suffix.lower() not in SIDECARS
        ]
    if not found:
        raise DataError(f"{videos}: no videos in it; {remedy}")
    return sorted(found)


def probe_videos(
    videos: Path, paths: Sequence[str], on_progress: Callable[[int], None] = lambda done: None
) -> tuple[list[Probed], list[Rejection]]:
    """Probe and hash `paths` below `videos`, a few at once; on_progress gets how many are done. Order is kept."""
    probed: list[Probed] = []
    rejected: list[Rejection] = []
    pool = ThreadPoolExecutor(_PROBES_AT_ONCE)  # FFmpeg works outside Python's lock
    try:
        for done, outcome in enumerate(pool.map(lambda path: _probe_one(videos, path), paths), start=1):
            if isinstance(outcome, Probed):
                probed.append(outcome)
            else:
                rejected.append(outcome)
            on_progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return probed, rejected


def _probe_one(videos: Path, path: str) -> Probed | Rejection:
    if not is_utf8(path):
        return Rejection(path.encode("utf-8", "backslashreplace").decode(), "its name is not UTF-8; rename it")
    try:
        info = probe(videos / path)
        return Probed(path, hash_file(videos / path), info)
    except VideoError as error:
        return Rejection(path, str(error).removeprefix(f"{PurePosixPath(path).name}: "))
    except OSError as error:  # the disk, after FFmpeg could read it
        return Rejection(path, error.strerror or str(error))


def build_rows(
    probed: Iterable[Probed], unreadable: Iterable[Rejection], annotations: Annotations, params: IngestParams
) -> IngestResult:
    """Return the manifest of `probed`: identity, group, split and labels. A pure function; order does not matter.

    Rejected are the `unreadable`, the copies of a video (the first path is kept), videos with a bad entry, and entries
    without a video.
    """
    rejected = list(unreadable)
    present = {normal_path(one.path) for one in rejected}
    kept: dict[str, Probed] = {}
    groups: dict[str, str] = {}
    for video in sorted(probed, key=lambda video: video.path):
        path = normal_path(video.path)
        present.add(path)
        entry = annotations.entries.get(path)
        if video.sha256 in kept:
            rejected.append(Rejection(video.path, f"same content as {kept[video.sha256].path}"))
            continue
        kept[video.sha256] = video
        if path in annotations.problems:
            rejected.append(Rejection(video.path, annotations.problems[path]))
        else:
            groups[video.path] = (entry and entry.group) or video.sha256[:_ID_DIGITS]
    splits = assign_splits(groups, params)
    rows = []
    for video in kept.values():
        if video.path in groups:
            try:
                rows.append(_row(video, groups[video.path], splits[video.path], annotations, params))
            except AnnotationError as error:
                rejected.append(Rejection(video.path, str(error)))
    for path in {*annotations.entries, *annotations.problems} - present:
        rejected.append(Rejection(path, "annotations.json names a video that is not there"))
    return IngestResult(
        tuple(sorted(rows, key=lambda row: row.path)), tuple(sorted(rejected, key=lambda one: one.path))
    )


def _row(video: Probed, group: str, split: str, annotations: Annotations, params: IngestParams) -> VideoRow:
    entry = annotations.entries.get(normal_path(video.path))
    labels = resolve_labels(video.path, entry, video.info.duration_s, params.highlight_fraction)
    return VideoRow(
        video_id=video.sha256[:_ID_DIGITS],
        path=video.path,
        split=split,
        folder=folder_of(video.path),
        group=group,
        content=entry.content if entry else "",
        caption=entry.caption if entry else "",
        captions=labels.captions,
        segments=labels.segments,
        importance=labels.importance,
        **asdict(video.info),
    )


def assign_splits(groups: Mapping[str, str], params: IngestParams) -> dict[str, str]:
    """Return the split of each path in `groups` (path to group).

    A split folder decides. Any other video follows its group's videos in a split folder, and else the hash of its
    group, which no other video changes: what is added later moves nothing that was there.
    """
    splits = {path: SPLIT_OF_FOLDER.get(_top_folder(path)) for path in groups}
    fixed: dict[str, set[str]] = defaultdict(set)
    for path, split in splits.items():
        if split is not None:
            fixed[groups[path]].add(split)
    return {
        path: split or (min(fixed[groups[path]]) if groups[path] in fixed else split_of_group(groups[path], params))
        for path, split in splits.items()
    }


def _top_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else ""


def split_of_group(group: str, params: IngestParams) -> str:
    """Return the split that the SHA-256 of `group` draws: test, val or train by their fractions."""
    draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    if draw < params.test_fraction:
        return "test"
    return "val" if draw < params.test_fraction + params.val_fraction else "train"


def check_rejected(result: IngestResult, params: IngestParams) -> None:
    """Raise TooManyRejected above the limit of the params, DataError where no video is left."""
    num_all = len(result.rejected) + len(result.rows)
    refuse_too_many(result.rejected, num_all, params.max_rejected_fraction, "ingest.max_rejected_fraction")
    if not result.rows:
        raise DataError(f"none of {num_all} videos can be used; the reasons are in rejected.json")


def count_rows(result: IngestResult) -> dict[str, float]:
    """Return the stage's metrics; the highlight fraction of a split without footage is NaN."""
    metrics: dict[str, float] = {
        "num_videos": len(result.rows),
        "num_rejected": len(result.rejected),
        "hours": sum(row.duration_s for row in result.rows) / 3600,
    }
    for split in SPLITS:
        rows = [row for row in result.rows if row.split == split]
        seconds = sum(row.duration_s for row in rows)
        metrics[f"num_videos_{split}"] = len(rows)
        metrics[f"num_graded_{split}"] = sum(row.importance is not None for row in rows)
        highlight_s = sum(total_duration_s(row.spans) for row in rows)
        metrics[f"highlight_fraction_{split}"] = highlight_s / seconds if seconds else float("nan")
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage: `python -m tasks.ingest --data DATA --out FOLDER [--params params.yaml]`."""
    with stage_shell("ingest", ["data"], argv) as shell:
        params = shell.section("ingest", IngestParams)
        annotations = read_annotations(shell["data"] / "annotations.json")
        videos = shell["data"] / "videos"
        paths = find_videos(videos)
        with progress_bar("videos", len(paths)) as on_progress:
            probed, unreadable = probe_videos(videos, paths, on_progress)
        result = build_rows(probed, unreadable, annotations, params)
        write_rejections(shell.out / "rejected.json", result.rejected)
        check_rejected(result, params)
        write_manifest(shell.out / "manifest.parquet", result.rows)
        shell.write_metrics(count_rows(result))


if __name__ == "__main__":
    main()
