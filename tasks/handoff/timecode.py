"""Seconds, frames and SMPTE timecode.

Knows which rates an editing timeline can have and how seconds become frames on it; knows no files. A cut is
[start, end) in frames, both rounded by the same rule, so that what touches in seconds touches in frames.

Timecode and drop-frame counting: SMPTE ST 12-1; the arithmetic itself is OpenTimelineIO's.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import opentimelineio as otio

from models.video import VideoInfo
from tasks.handoff.values import Highlight

# The rates that editing programs and SMPTE timecode know, frames a second.
RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
# 29.97 and 30 differ by 0.1%: half of that tells them apart.
_SAME_RATE = 0.0005


@dataclass(frozen=True)
class Cut:
    """One highlight in frames of a timeline's rate: source frames [first, end), counted from the first frame.

    first: at least 0
    end:   above first
    """

    first: int
    end: int

    @property
    def num_frames(self) -> int:
        """Length in frames."""
        return self.end - self.first


def choose_rate(info: VideoInfo) -> tuple[Fraction, str]:
    """Return the timeline rate of a video, and "" or why it is not the video's own.

    The video's own rate is taken where timelines know it. Else the lowest known rate that is a whole multiple, so that
    every frame keeps a place of its own (10 goes to 30, 12.5 to 25), else the nearest one.
    """
    for fps in (info.mean_fps, info.nominal_fps):
        near = min(RATES, key=lambda rate: abs(float(rate) / fps - 1))
        if abs(float(near) / fps - 1) < _SAME_RATE and not info.is_vfr:
            return near, ""
    own = info.mean_fps
    if info.is_vfr:
        rate = min(RATES, key=lambda rate: (abs(math.log(float(rate) / own)), rate))
        return (
            rate,
            f"the video has a variable frame rate ({own:.3f} on average); this timeline counts {show_rate(rate)}",
        )
    multiples = [rate for rate in RATES if round(rate / own) and abs(rate / own / round(rate / own) - 1) < _SAME_RATE]
    rate = min(multiples) if multiples else min(RATES, key=lambda rate: (abs(math.log(float(rate) / own)), rate))
    return rate, f"the video has {own:.3f} frames a second; this timeline counts {show_rate(rate)}"


def show_rate(rate: Fraction) -> str:
    """Return a rate for people: 25, 29.97."""
    return f"{float(rate):.5g}" if rate.denominator > 1 else str(rate.numerator)


def is_drop_frame(rate: Fraction) -> bool:
    """Say whether timecode at `rate` drops frame numbers: 29.97 and 59.94 do, to keep up with the clock."""
    return rate in (Fraction(30000, 1001), Fraction(60000, 1001))


def to_frame(seconds: float | Fraction, rate: Fraction) -> int:
    """Return the frame of `rate` whose start is nearest to `seconds`, halves up."""
    return math.floor(Fraction(seconds) * rate + Fraction(1, 2))


def cut_of(highlight: Highlight, rate: Fraction, duration_s: float) -> Cut:
    """Return `highlight` in frames, within a video of `duration_s` seconds and at least one frame long."""
    last = max(1, to_frame(duration_s, rate))
    first = min(to_frame(highlight.start_s, rate), last - 1)
    return Cut(first, max(first + 1, min(to_frame(highlight.end_s, rate), last)))


def show_timecode(frame: int, rate: Fraction) -> str:
    """Return SMPTE timecode HH:MM:SS:FF of `frame`, with ; before the frames where it is drop-frame."""
    time = otio.opentime.RationalTime(frame, float(rate))
    return str(otio.opentime.to_timecode(time, float(rate), is_drop_frame(rate)))


def read_timecode(text: str, rate: Fraction) -> int:
    """Return the frame of SMPTE timecode `text`. Raises ValueError where it is none at `rate`."""
    try:
        return int(otio.opentime.from_timecode(text.strip().replace(".", ":"), float(rate)).value)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{text!r} is no timecode at {show_rate(rate)}: {error}") from None
