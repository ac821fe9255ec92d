"""Small pictures of a video, kept while its frames stream by.

Knows how to keep at most a bounded number of frames, evenly over a video of unknown length, and which of them to show.
Knows nothing of files, models or of how a picture is laid out. Kept frames are JPEG in memory: a thousand of them
are some ten MiB, whatever the length of the video.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.errors import ShapeError
from models.spans import ScoreTrack, Span

MAX_KEPT, FEW_KEPT = 1024, 64
MAX_WIDTH_PX, MAX_HEIGHT_PX = 480, 180
_JPEG_QUALITY = 92
_NEARLY_EQUAL = 0.01  # scores this close are the same to an eye


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One frame to show on a timeline.

    time_s: presentation time of the frame, seconds
    pixels: uint8 [h, w, 3] RGB, in the proportions in which the video is displayed
    """

    time_s: float
    pixels: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ShapeError(f"thumbnail: pixels {self.pixels.dtype} {self.pixels.shape} must be uint8 [h, w, 3]")


@dataclass
class ThumbnailReel:
    """Keeps every `stride`-th frame that it is shown; the stride doubles whenever more than `max_kept` are held.

    stride:   1 or more, see `stride_for`
    max_kept: most frames held at any moment, at least 2
    """

    stride: int = 1
    max_kept: int = MAX_KEPT
    _num_seen: int = field(default=0, init=False)
    _kept: list[tuple[float, bytes]] = field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, time_s: float, picture: Callable[[], npt.NDArray[np.uint8]]) -> None:
        """Show the reel a frame, in any order: `time_s` in seconds; `picture` gives uint8 [h, w, 3] RGB if kept."""
        if self._num_seen % self.stride == 0:
            jpeg = io.BytesIO()
            Image.fromarray(picture()).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
            self._kept.append((time_s, jpeg.getvalue()))
            if len(self._kept) > self.max_kept:
                self._kept = self._kept[::2]
                self.stride *= 2
        self._num_seen += 1

    def at(self, times_s: Sequence[float]) -> tuple[Thumbnail, ...]:
        """Return the kept frames nearest to `times_s`, in order of time, none twice."""
        if not self._kept:
            return ()
        kept_s = np.array([time_s for time_s, _ in self._kept])
        nearest = sorted({int(np.argmin(np.abs(kept_s - time_s))) for time_s in times_s}, key=kept_s.__getitem__)
        return tuple(Thumbnail(self._kept[i][0], _decode(self._kept[i][1])) for i in nearest)


def stride_for(num_frames: int, fps: float) -> int:
    """Return the stride to start a reel with: all of few frames, then one a second, then what MAX_KEPT allows.

    num_frames: expected, `fps` of them a second of video
    """
    return max(1, math.ceil(num_frames / MAX_KEPT), min(round(fps), num_frames // FEW_KEPT))


def _decode(jpeg: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)), dtype=np.uint8)


def peak_time_s(track: ScoreTrack, span: Span) -> float:
    """Return the time of the highest score inside `span`, of near equals the one closest to its middle, seconds."""
    inside = np.flatnonzero((track.times_s >= span.start_s) & (track.times_s < span.end_s))
    if not len(inside):
        return span.start_s
    times_s, scores = track.times_s[inside], track.scores[inside]
    top_s = times_s[scores >= scores.max() - _NEARLY_EQUAL]
    return float(top_s[np.argmin(np.abs(top_s - (span.start_s + span.end_s) / 2))])


def choose_times(track: ScoreTrack, spans: Sequence[Span], num: int) -> list[float]:
    """Return `num` times to show, one in each of `num` equal parts of the video, seconds, in order.

    A part that holds the peak of a span shows the best such peak, any other its middle.
    """
    part_s = track.duration_s / num
    times_s = [(i + 0.5) * part_s for i in range(num)]
    for span in sorted(spans, key=lambda span: span.score or 0.0):
        time_s = peak_time_s(track, span)
        times_s[min(int(time_s / part_s), num - 1)] = time_s
    return times_s
