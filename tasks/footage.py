"""Which files the paths on a command line mean.

Knows folders, hidden files and sidecars; opens nothing. Whether a file is a video is found out when it is read, since
cameras give their files every name there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError

# What lies beside footage and is none: captions, notes, tables, checksums, and what `tasks.score`
# and `tasks.handoff` write.
SIDECAR_SUFFIXES = frozenset(
    {".ass", ".csv", ".db", ".dvc", ".gpx", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".md5", ".nfo", ".npz"}
    | {".edl", ".fcpxml", ".llc", ".otio"}
    | {".parquet", ".part", ".pdf", ".png", ".sha256", ".srt", ".sub", ".thm", ".tmp", ".toml", ".tsv", ".txt", ".vtt"}
    | {".xml", ".xmp", ".yaml", ".yml"}
)


@dataclass(frozen=True)
class Footage:
    """One input: where it is, and its name for people (valid UTF-8, whatever the file system holds)."""

    path: Path
    name: str


def list_footage(paths: Sequence[Path], out: Path | None = None) -> list[Footage]:
    """Return the files that `paths` name: a file itself, of a folder every regular file below, sorted by path.

    Hidden files and folders, sidecars (SIDECAR_SUFFIXES) and what lies in `out` are passed over in folders. Nothing is
    listed twice. Raises DataError for a path that does not exist and for a folder with nothing in it.
    """
    found: dict[Path, Footage] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{printable(str(path))}: no such file or folder")
        if not path.is_dir():
            found.setdefault(path.resolve(), Footage(path, printable(path.name)))
            continue
        below = [file for file in _files_below(path) if out is None or not file.is_relative_to(out)]
        if not below:
            raise DataError(f"{printable(str(path))}: no video files in this folder")
        for file in below:
            found.setdefault(file.resolve(), Footage(file, printable(file.relative_to(path).as_posix())))
    return list(found.values())


def printable(name: str) -> str:
    """Return `name` with what is not valid UTF-8 shown as U+FFFD, so that it can be written and printed."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix.lower() not in SIDECAR_SUFFIXES
    )
