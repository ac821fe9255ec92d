"""What a person can tell of footage that it does not say of itself, and where an export may be written.

Knows how those options are spelt; knows no format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from models.errors import DataError, ParamsError


@dataclass(frozen=True)
class ExportOptions:
    """What a person can tell of the footage.

    starts: name of a video to when its first frame was recorded, with its zone
    place:  latitude and longitude of all videos, degrees; None to take what each says itself
    """

    starts: Mapping[str, datetime] = field(default_factory=dict)
    place: tuple[float, float] | None = None


def parse_starts(texts: Sequence[str]) -> dict[str, datetime]:
    """Return what `VIDEO=TIME` say, TIME being ISO 8601 with its zone. Raises ParamsError for anything else."""
    starts = {}
    for text in texts:
        video, equals, time = text.rpartition("=")
        try:
            start = datetime.fromisoformat(time.strip())
        except ValueError:
            start = None
        if not equals or not video or start is None or start.tzinfo is None:
            raise ParamsError(f"start {text!r}: must be VIDEO=TIME with a zone, as cam1.mp4=2026-01-31T06:00:00+03:00")
        starts[video] = start
    return starts


def parse_place(text: str) -> tuple[float, float]:
    """Return what `LATITUDE,LONGITUDE` says, degrees. Raises ParamsError where it is no place on Earth."""
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        latitude = longitude = float("nan")
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ParamsError(f"place {text!r}: must be LATITUDE,LONGITUDE in degrees, as -2.431,37.892")
    return latitude, longitude


def require_separate(results: Path, out: Path) -> None:
    """Raise DataError where `out` is a file or the folder of the results itself."""
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: not a folder; choose another --out")
    if out.resolve() == results.resolve():
        raise DataError(f"{out}: the results lie there; choose another --out")
