"""What has arrived in an inbox folder and what became of it, kept in `index.json` of the output folder.

A video is known by the hash of its content: a renamed or copied file is not new, a replaced one is. A video that was
rejected is recorded and not tried again. Knows the index and when a file has arrived; knows nothing of scoring.

    index.json  videos: video_id -> {video, status: scored | rejected, reason, model}
                files:  name -> {num_bytes, mtime_ns, video_id}, so that footage is not read again to be recognised
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.errors import DataError
from models.files import hash_file, read_json, write_json
from tasks.footage import Footage, list_footage

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class KnownFile:
    """A file as it was when its content was read.

    num_bytes: its size
    mtime_ns:  when it was last written, nanoseconds
    video_id:  first 16 hexadecimal digits of the SHA-256 of its content
    """

    num_bytes: int
    mtime_ns: int
    video_id: str


@dataclass(frozen=True)
class KnownVideo:
    """What became of a video.

    video:  its name in the inbox
    status: "scored" or "rejected"
    reason: why it was rejected, "" otherwise
    model:  URI and version of the model that was asked
    """

    video: str
    status: str
    reason: str
    model: str


@dataclass(frozen=True)
class InboxIndex:
    """Everything that is known so far, by video_id and by name."""

    videos: Mapping[str, KnownVideo]
    files: Mapping[str, KnownFile]


@dataclass(frozen=True)
class Arrivals:
    """What a look into the inbox found.

    new:     footage to score, by video_id, each content once
    waiting: names of files that may still be written to
    index:   with the files that are there now
    """

    new: Mapping[str, Footage]
    waiting: tuple[str, ...]
    index: InboxIndex


def read_index(out: Path) -> InboxIndex:
    """Return the index in the output folder, an empty one where there is none. Raises DataError when it is damaged."""
    path = out / INDEX_FILE
    if not path.is_file():
        return InboxIndex({}, {})
    try:
        content = read_json(path)
        return InboxIndex(
            {video_id: KnownVideo(**entry) for video_id, entry in content["videos"].items()},
            {name: KnownFile(**entry) for name, entry in content["files"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: damaged ({error}); remove it, and what was scored is recognised by its outputs"
        ) from None


def write_index(out: Path, index: InboxIndex) -> None:
    """Write the index atomically, sorted."""
    content: dict[str, Any] = {
        "videos": {video_id: asdict(index.videos[video_id]) for video_id in sorted(index.videos)},
        "files": {name: asdict(index.files[name]) for name in sorted(index.files)},
    }
    write_json(out / INDEX_FILE, content)


def look(inbox: Path, out: Path, index: InboxIndex, min_age_s: float) -> Arrivals:
    """Return what is new in `inbox`; only files that are not known by name, size and time are read.

    min_age_s: a file that was written to less than this many seconds ago may still be copied, and waits
    """
    now_ns = time.time_ns()
    files: dict[str, KnownFile] = {}
    waiting: list[str] = []
    new: dict[str, Footage] = {}
    for item in _footage(inbox, out):
        try:
            status = item.path.stat()
            if now_ns - status.st_mtime_ns < min_age_s * 1e9:
                waiting.append(item.name)
                continue
            known = index.files.get(item.name)
            if known is None or (known.num_bytes, known.mtime_ns) != (status.st_size, status.st_mtime_ns):
                known = KnownFile(status.st_size, status.st_mtime_ns, hash_file(item.path)[:16])
        except FileNotFoundError:  # taken away meanwhile
            continue
        files[item.name] = known
        if known.video_id not in index.videos:
            new.setdefault(known.video_id, item)
    return Arrivals(new, tuple(waiting), replace(index, files=files))


def record(index: InboxIndex, entries: Iterable[tuple[str, KnownVideo]]) -> InboxIndex:
    """Return the index with `entries`, video_id and what became of it, added."""
    return replace(index, videos={**index.videos, **dict(entries)})


def _footage(inbox: Path, out: Path) -> list[Footage]:
    """Return the files in the inbox; it is made where it is missing, since an empty one is nothing wrong."""
    inbox.mkdir(parents=True, exist_ok=True)
    try:
        return list_footage([inbox], out)
    except DataError:  # nothing in it
        return []
