"""One film of all highlights of all videos, in order, with sound.

Knows how footage of many sizes and rates becomes one: scaled to fit and padded, on one grid of frames, colours in
BT.709 (HDR is not tone-mapped: it looks pale), sound as 48 kHz stereo, silence where a video has none. One picture is
held at a time, so an hour of highlights costs what a minute does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from models.errors import VideoError
from models.files import replacing
from models.video import probe
from tasks.handoff.mp4 import Mp4Writer
from tasks.handoff.reading import Sound, Upright, even, shown_frames
from tasks.handoff.timecode import to_frame
from tasks.handoff.values import Handoff, Highlight, Rejected

_MAX_LONG_PX, _MAX_SHORT_PX = 1920, 1080
_SOUND_RATE, _LAYOUT = 48_000, "stereo"


@dataclass(frozen=True)
class ReelPart:
    """Where one highlight is in the reel: [start_s, end_s), seconds; and which it is."""

    start_s: float
    end_s: float
    video: str
    highlight: Highlight


@dataclass(frozen=True)
class Reel:
    """A reel that was written and read back.

    parts:    the highlights in it, in order
    rejected: the highlights that could not be read, or only in part
    size:     width and height, px
    rate:     frames a second
    """

    parts: tuple[ReelPart, ...]
    rejected: tuple[Rejected, ...]
    size: tuple[int, int]
    rate: Fraction


def choose_size(handoffs: Sequence[Handoff]) -> tuple[int, int]:
    """Return the displayed size of most of the highlighted time, at most 1920 x 1080 px (or 1080 x 1920), even."""
    seconds: dict[tuple[int, int], float] = {}
    for item in handoffs:
        size = (item.media.info.width, item.media.info.height)
        seconds[size] = seconds.get(size, 0.0) + sum(highlight.duration_s for highlight in item.scored.highlights)
    width, height = max(seconds, key=lambda size: (seconds[size], size))
    scale = min(1.0, _MAX_LONG_PX / max(width, height), _MAX_SHORT_PX / min(width, height))
    return even(round(width * scale)), even(round(height * scale))


def write_reel(path: Path, handoffs: Sequence[Handoff], rate: Fraction) -> Reel:
    """Write all highlights to `path` as MP4 at `rate` frames a second.

    A highlight that cannot be read is left out and told. Raises VideoError where none is left.
    """
    size = choose_size(handoffs)
    has_sound = any(item.media.info.has_audio and item.scored.highlights for item in handoffs)
    parts: list[ReelPart] = []
    rejected: list[Rejected] = []
    with replacing(path) as temporary:
        sound = (_SOUND_RATE, _LAYOUT) if has_sound else None
        with Mp4Writer(temporary, size, rate, sound, is_bt709=True) as writer:
            for item in handoffs:
                upright = Upright(item.media, size, is_bt709=True)
                for highlight in item.scored.highlights:
                    first = writer.num_frames
                    try:
                        _add(writer, item, highlight, upright, rate)
                    except VideoError as error:
                        rejected.append(Rejected(item.scored.video, f"reel, at {highlight.start_s:.2f} s: {error}"))
                    if writer.num_frames > first:
                        start_s, end_s = float(first / rate), float(writer.num_frames / rate)
                        parts.append(ReelPart(start_s, end_s, item.scored.video, highlight))
            if not parts:
                raise VideoError("none of the highlights can be read")
        info = probe(temporary)
        if info.num_frames != writer.num_frames:
            raise VideoError(f"the reel shows {info.num_frames} frames instead of {writer.num_frames}")
    return Reel(tuple(parts), tuple(rejected), size, rate)


def _add(writer: Mp4Writer, item: Handoff, highlight: Highlight, upright: Upright, rate: Fraction) -> None:
    """Add one highlight: a picture for each instant of the grid, and the sound up to its end."""
    media = item.media
    end_s = min(highlight.end_s, media.info.duration_s)
    num_frames = max(1, to_frame(Fraction(end_s) - Fraction(highlight.start_s), rate))
    with Sound(media, highlight.start_s, rate=_SOUND_RATE, layout=_LAYOUT) as sound:
        for frame in on_grid(shown_frames(media, highlight.start_s, end_s), rate, num_frames):
            writer.add_picture(upright(frame), writer.num_frames / rate, 1 / rate)
            due = round(writer.num_frames / rate * _SOUND_RATE)
            writer.add_sound(sound.take(due - writer.num_samples))


def on_grid(timed: Iterator[tuple[float, Any]], rate: Fraction, num: int) -> Iterator[Any]:
    """Yield what is on screen at the instants k / rate, k = 0 … num - 1; `timed` are (time_s, item) from time 0 on."""
    pending: Any = None
    k = 0
    for time_s, item in timed:
        while pending is not None and k < num and Fraction(time_s) > (k + Fraction(1, 20)) / rate:
            yield pending
            k += 1
        pending = item
    while pending is not None and k < num:
        yield pending
        k += 1
