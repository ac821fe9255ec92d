"""What the footage itself says that a hand-off needs: its rate, its timecode, when and where it was recorded.

Knows the tags that cameras write; knows no output format. A tag that is absent, empty or absurd is None, never a
guess: a zero clock (1904, 1970) is a camera whose clock was not set.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from models.decoding import opened
from models.video import survey
from tasks.handoff.timecode import choose_rate, read_timecode
from tasks.handoff.values import FootageIndex, Handoff, Media, Scored

_FIRST_YEAR = 1980  # before it there was no digital camera; clocks that were never set say 1904 or 1970
# ISO 6709 as phones write it: +02.4310+037.8920/ or +27.5916+086.5640+8850/
_PLACE = re.compile(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)")
_CREATED = ("creation_time", "com.apple.quicktime.creationdate", "date_time_original", "icrd")
_PLACES = ("location", "location-eng", "com.apple.quicktime.location.iso6709")


def load_handoff(scored: Scored, footage: FootageIndex) -> Handoff:
    """Return `scored` with its footage. Raises VideoError where that is missing, another one or unreadable."""
    return Handoff(scored, read_media(footage.find(scored)))


def read_media(path: Path) -> Media:
    """Return what the footage at `path` says of itself; one whose end is missing is what is there of it.

    Raises VideoError where nothing of it can be read.
    """
    info, _ = survey(path)
    rate, note = choose_rate(info)
    with opened(path) as (container, stream):
        tags = [container.metadata, stream.metadata, *(other.metadata for other in container.streams)]
        tags = [{key.lower(): value for key, value in some.items()} for some in tags]
    return Media(path, info, rate, note, _start_frame(tags, rate), _created(tags), _place(tags))


def parse_time(text: str) -> datetime | None:
    """Return the time that `text` names (ISO 8601), in UTC where it names no zone; None where it names none."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _values(tags: Iterable[dict[str, Any]], names: Iterable[str]) -> Iterable[str]:
    tags = list(tags)
    return (str(some[name]) for name in names for some in tags if some.get(name))


def _start_frame(tags: list[dict[str, Any]], rate: Fraction) -> int:
    for text in _values(tags, ("timecode",)):
        try:
            return read_timecode(text, rate)
        except ValueError:
            continue
    return 0


def _created(tags: list[dict[str, Any]]) -> datetime | None:
    for text in _values(tags, _CREATED):
        time = parse_time(text) if len(text) > len("2026-01-01") else None  # a day is no start of a recording
        if time is not None and time.year >= _FIRST_YEAR:
            return time
    return None


def _place(tags: list[dict[str, Any]]) -> tuple[float, float] | None:
    for text in _values(tags, _PLACES):
        found = _PLACE.match(text)
        if found is None:
            continue
        latitude, longitude = float(found[1]), float(found[2])
        if abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0.0, 0.0):
            return latitude, longitude
    return None
