"""What the paths of a library mean: folders, text files with a path a line, globs, and files.

Knows names and kinds of files, and reads a few bytes of files of one size; opens nothing that could block (a pipe, a
socket, a device). Whether a file is a video is found out when it is read. What cannot be looked at is told with a
reason, and the rest goes on.
"""

import errno
import glob
import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from tasks.footage import SIDECAR_SUFFIXES, printable

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
_PEEK_BYTES = 1 << 16


@dataclass(frozen=True)
class Place:
    """A file that may be a video.

    path:      absolute
    name:      for people: relative to the folder that was given, or the file's name; valid UTF-8
    num_bytes: its size when it was listed
    """

    path: Path
    name: str
    num_bytes: int


@dataclass(frozen=True)
class UnreadablePlace:
    """Something that is no file one could read, and why."""

    path: Path
    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What was found.

    places:     files, sorted by path
    unreadable: entries that are none, or cannot be reached
    waiting:    names of files that may still be written to
    roots:      the folders that were given, absolute: what is no longer below them is gone
    """

    places: tuple[Place, ...]
    unreadable: tuple[UnreadablePlace, ...]
    waiting: tuple[str, ...]
    roots: tuple[Path, ...]


def list_library(paths: Sequence[str | Path], out: Path, *, min_age_s: float = 0.0) -> Listing:
    """Return what `paths` mean; hidden files, sidecars and what lies in `out` are passed over in folders.

    paths:     folders (at any depth), lists (LIST_SUFFIXES, one path a line, # starts a comment, relative to the list),
               globs (where no file has that name), files
    min_age_s: a file that was written to less than this many seconds ago waits for the next run
    Raises DataError for a path that does not exist and for a list that is no text.
    """
    found: dict[Path, Place | UnreadablePlace] = {}
    roots: list[Path] = []
    waiting: list[str] = []
    out = _absolute(out)
    for path in paths:
        for start in _starts(path):
            if start.is_dir():
                roots.append(start)
            for file, name in _below(start, out):
                found.setdefault(file, _look(file, name))
    places = []
    now_s = time.time()
    for file in sorted(found):
        item = found[file]
        if isinstance(item, Place):
            if min_age_s and now_s - _mtime_s(file) < min_age_s:
                waiting.append(item.name)
            else:
                places.append(item)
    unreadable = [item for _, item in sorted(found.items()) if isinstance(item, UnreadablePlace)]
    return Listing(tuple(places), tuple(unreadable), tuple(waiting), tuple(roots))


def group_alike(places: Sequence[Place]) -> list[tuple[Place, ...]]:
    """Return `places` in groups that may be one content (same size, same first and last 64 KiB), in order of path.

    The members of a group go to one worker, one after the other: the name of a result is then always that of the
    first, and no content is scored twice because two workers met it at once.
    """
    by_size: dict[int, list[Place]] = defaultdict(list)
    for place in places:
        by_size[place.num_bytes].append(place)
    groups: dict[tuple[int, str], list[Place]] = defaultdict(list)
    for place in places:
        alone = len(by_size[place.num_bytes]) == 1
        groups[place.num_bytes, "" if alone else _peek(place.path)].append(place)
    return [tuple(group) for group in groups.values()]


def open_regular(path: Path) -> int:
    """Return a descriptor of the regular file at `path`, without ever waiting for a pipe. Raises OSError otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _starts(path: str | Path) -> Iterator[Path]:
    """Yield what one path of the command line means: itself, the lines of a list, the matches of a glob."""
    text = str(path)
    here = _absolute(Path(path))
    if os.path.lexists(here):
        if here.suffix.lower() in LIST_SUFFIXES and here.is_file():
            yield from _lines(here)
        else:
            yield here
        return
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []  # noqa: PTH207 -- absolute ones too
    if not matches:
        raise DataError(f"{printable(text)}: no such file, folder or list, and nothing that it matches as a glob")
    yield from (_absolute(Path(match)) for match in matches)


def _lines(path: Path) -> Iterator[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{printable(str(path))}: cannot be read as a list of paths ({error}); one path a line"
        ) from None
    for line in filter(None, (line.strip() for line in lines)):
        if not line.startswith("#"):
            yield _absolute(path.parent / line)


def _below(start: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """Yield file and name of what lies below `start`, or itself where it is no folder."""
    if not start.is_dir():
        yield start, printable(start.name)
        return
    unreachable: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        unreachable.append((Path(error.filename), printable(os.path.relpath(error.filename, start))))

    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(start, onerror=note, followlinks=True):
        if _is_seen(Path(folder), seen):  # a link to a folder above it, or to one that was listed
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(folder, name) != out)
        for name in sorted(files):
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix.lower() not in SIDECAR_SUFFIXES:
                yield file, printable(file.relative_to(start).as_posix())
    yield from unreachable


def _is_seen(folder: Path, seen: set[tuple[int, int]]) -> bool:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return True
    seen.add(identity)
    return False


def _look(path: Path, name: str) -> Place | UnreadablePlace:
    try:
        status = path.stat()
    except OSError as error:
        return UnreadablePlace(path, name, error.strerror or str(error))
    if stat.S_ISREG(status.st_mode):
        return Place(path, name, status.st_size)
    return UnreadablePlace(path, name, f"{_kind(status.st_mode)}, not a file")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder that cannot be listed"))
    return next((text for is_kind, text in kinds if is_kind(mode)), "a device")


def _peek(path: Path) -> str:
    """Return a digest of the first and last bytes of a file, or of its path where it cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb") as source:
            head = source.read(_PEEK_BYTES)
            source.seek(-min(_PEEK_BYTES, os.fstat(source.fileno()).st_size), os.SEEK_END)
            return hashlib.sha256(head + source.read(_PEEK_BYTES)).hexdigest()
    except OSError:
        return os.fsdecode(path)


def _mtime_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # taken away meanwhile; whoever reads it says so
        return 0.0


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would follow links: both places count
