"""Small pictures of a video, kept while its frames stream by.

Knows how to keep at most a bounded number of frames, evenly over a video of unknown length, and which of them to show.
Knows nothing of files, models or of how a picture is laid out. Kept frames are JPEG in memory: a thousand of them
are some ten MiB, whatever the length of the video.
"""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


class ThumbnailReel:
    """Keeps one of the frames that it is shown in every `gap_s` seconds: the earliest.

    The gap doubles whenever more than `max_kept` are held. What is kept in the end hangs on the frames alone and not
    on the order in which they come; they may come from several threads.

    gap_s:    seconds to start with, above 0, see `gap_for`
    max_kept: most frames held at any moment, at least 2
    """

    def __init__(self, gap_s: float = 0.1, max_kept: int = MAX_KEPT) -> None:
        self._gap_s, self._max_kept = gap_s, max_kept
        self._kept: dict[int, tuple[float, bytes]] = {}  # by the number of the gap
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, time_s: float, picture: Callable[[], npt.NDArray[np.uint8]]) -> None:
        """Show the reel a frame, in any order: `time_s` in seconds; `picture` gives uint8 [h, w, 3] RGB if kept."""
        if not self._is_earliest(time_s):
            return
        jpeg = io.BytesIO()
        Image.fromarray(picture()).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
        with self._lock:
            if self._is_earliest(time_s):
                self._kept[int(time_s / self._gap_s)] = (time_s, jpeg.getvalue())
            while len(self._kept) > self._max_kept:
                self._gap_s *= 2
                earliest: dict[int, tuple[float, bytes]] = {}
                for kept_s, data in sorted(self._kept.values()):
                    earliest.setdefault(int(kept_s / self._gap_s), (kept_s, data))
                self._kept = earliest

    def _is_earliest(self, time_s: float) -> bool:
        kept = self._kept.get(int(time_s / self._gap_s))
        return kept is None or time_s < kept[0]

    def at(self, times_s: Sequence[float]) -> tuple[Thumbnail, ...]:
        """Return the kept frames nearest to `times_s`, in order of time, none twice."""
        if not self._kept:
            return ()
        kept = sorted(self._kept.values())
        kept_s = np.array([time_s for time_s, _ in kept])
        nearest = sorted({int(np.argmin(np.abs(kept_s - time_s))) for time_s in times_s}, key=kept_s.__getitem__)
        return tuple(Thumbnail(kept[i][0], _decode(kept[i][1])) for i in nearest)


def gap_for(duration_s: float) -> float:
    """Return the seconds to start a reel with: a second, less where that gives too few, more where too many."""
    return max(duration_s / MAX_KEPT, min(1.0, duration_s / FEW_KEPT))


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
