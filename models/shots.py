"""Where one shot of a video ends and the next begins, found while the video streams.

An own small detector after PySceneDetect's AdaptiveDetector (B. Castellano, scenedetect.com): a cut is where the
picture changes by much more than it does around it, so that a panning or shaking camera is none. Two things differ.
The change is measured on a thumbnail of colours, the mean absolute difference of its YCbCr values, so that the square
samples that the model gets will do and nothing is decoded twice; and the mean of the surroundings leaves out the
largest of them, so that a cut beside another is found. The package itself brings its own OpenCV, and reads files.

Keyframes (models/seeking.py) will do for boundaries too and cost next to no decoding: encoders put one at many cuts,
and at fixed distances besides. Memory is constant: a thumbnail and a few numbers. Knows pictures and seconds; where
given features in place of pictures, their cosine distance is the change.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.errors import ShapeError
from models.params import Section
from models.video import Sampling, iterate_frames

SIDE = 16
# Luma and chroma of RGB (ITU-R BT.601), rows Y, Cb, Cr.
_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_TINY = 1e-9


class ShotsParams(Section):
    """What counts as a cut."""

    fps: float = Field(default=30.0, gt=0, le=240)
    """Frames that are compared, a second, where a file is read for its shots alone; the more, the surer."""
    ratio: float = Field(default=5.0, gt=1)
    """How many times the change around it a change has to be."""
    min_change: float = Field(default=4.0, ge=0, le=255)
    """Least change of a cut: mean difference of a picture's YCbCr values, 0 to 255."""
    min_feature_change: float = Field(default=0.15, ge=0, le=2)
    """Least change of a cut where features are compared: 1 minus their cosine, 0 to 2."""
    reach: int = Field(default=2, ge=1, le=64)
    """Changes on each side of one that are what is around it."""
    min_shot_s: float = Field(default=0.5, ge=0)
    """Shortest shot, seconds; of two cuts closer than this the greater one stays."""


class CutFinder:
    """Finds the cuts in a sequence of changes: the core, which knows no pictures.

    min_change: least change of a cut, in the unit of the changes that it is given
    """

    def __init__(self, params: ShotsParams, min_change: float) -> None:
        self._params, self._min_change = params, min_change
        self._near: deque[tuple[float, float]] = deque(maxlen=2 * params.reach + 1)
        self._num_ahead = 0  # changes of `_near` that were not judged yet
        self._pending: tuple[float, float] | None = None  # a cut that a greater one may still take the place of

    def add(self, time_s: float, change: float) -> Iterator[float]:
        """Take the change between two pictures, time_s being when the later is shown; yield cuts that are certain."""
        self._near.append((time_s, change))
        self._num_ahead += 1
        if self._num_ahead > self._params.reach:
            yield from self._judge(len(self._near) - self._num_ahead)

    def finish(self) -> Iterator[float]:
        """Yield the cuts that are left at the end of the video."""
        while self._num_ahead:
            yield from self._judge(len(self._near) - self._num_ahead)
        if self._pending is not None:
            yield self._pending[0]
            self._pending = None

    def _judge(self, at: int) -> Iterator[float]:
        time_s, change = self._near[at]
        self._num_ahead -= 1
        if self._pending is not None and time_s - self._pending[0] >= self._params.min_shot_s:
            yield self._pending[0]
            self._pending = None
        around = [
            near for place, (_, near) in enumerate(self._near) if abs(place - at) in range(1, self._params.reach + 1)
        ]
        if change < self._min_change or change < self._params.ratio * _usual(around):
            return
        if self._pending is None or change > self._pending[1]:
            self._pending = (time_s, change)


def _usual(around: list[float]) -> float:
    """Return the mean of `around` without the largest of several."""
    around = sorted(around)[: max(len(around) - 1, 1)]
    return sum(around) / len(around) if around else 0.0


class ShotDetector:
    """Finds the cuts of a video from its frames, in order of time, square samples or any others."""

    def __init__(self, params: ShotsParams | None = None) -> None:
        params = params or ShotsParams()
        self._cuts = CutFinder(params, params.min_change)
        self._last: npt.NDArray[np.float32] | None = None
        self._last_s = -np.inf

    def add(self, time_s: float, pixels_HWC: npt.NDArray[np.uint8]) -> list[float]:
        """Take a frame, uint8 [H, W, 3] RGB; return cuts that are certain by now, seconds. Raises ShapeError."""
        _after(time_s, self._last_s)
        thumbnail, before = colours(pixels_HWC), self._last
        self._last, self._last_s = thumbnail, time_s
        return [] if before is None else list(self._cuts.add(time_s, float(np.abs(thumbnail - before).mean())))

    def finish(self) -> list[float]:
        """Return the cuts that are left at the end of the video, seconds."""
        return list(self._cuts.finish())


class FeatureShotDetector:
    """Finds the cuts of a video from the features of its frames, in order of time, as the encoder gives them."""

    def __init__(self, params: ShotsParams | None = None) -> None:
        params = params or ShotsParams()
        self._cuts = CutFinder(params, params.min_feature_change)
        self._last: npt.NDArray[np.float64] | None = None
        self._last_s = -np.inf

    def add(self, time_s: float, feature_D: npt.NDArray[np.floating]) -> list[float]:
        """Take the feature [D] of a frame; return cuts that are certain by now, seconds. Raises ShapeError."""
        _after(time_s, self._last_s)
        if feature_D.ndim != 1 or not np.isfinite(feature_D).all():
            raise ShapeError(f"shots: a feature {feature_D.shape} must be [D] and finite")
        feature = feature_D.astype(np.float64) / max(float(np.linalg.norm(feature_D)), _TINY)
        before, self._last, self._last_s = self._last, feature, time_s
        return [] if before is None else list(self._cuts.add(time_s, 1 - float(before @ feature)))

    def finish(self) -> list[float]:
        """Return the cuts that are left at the end of the video, seconds."""
        return list(self._cuts.finish())


def colours(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the thumbnail of a frame: float32 [SIDE, SIDE, 3], means of YCbCr, 0 to 255. Raises ShapeError."""
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3 or min(pixels_HWC.shape) < 1 or pixels_HWC.dtype != np.uint8:
        raise ShapeError(f"shots: frame {pixels_HWC.dtype} {pixels_HWC.shape} must be uint8 [H, W, 3]")
    thumbnail: npt.NDArray[np.float32] = _means(_means(pixels_HWC.astype(np.float32), 0), 1) @ _YCBCR.T
    return thumbnail


def _means(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Return the means over SIDE equal parts of an axis; a shorter axis repeats its values."""
    length = values.shape[axis]
    first = np.arange(SIDE) * length // SIDE
    counts = np.maximum(np.diff(np.append(first, length)), 1).astype(np.float32)
    sums = np.add.reduceat(values, first, axis=axis)
    means = sums / counts.reshape([SIDE if place == axis else 1 for place in range(3)])
    return means.astype(np.float32)


def shot_boundaries(
    frames: Iterable[tuple[float, npt.NDArray[np.uint8]]], params: ShotsParams | None = None
) -> Iterator[float]:
    """Yield the cuts of a stream of `(time_s, pixels)`: when the first frame of each new shot is shown, seconds."""
    detector = ShotDetector(params)
    for time_s, pixels in frames:
        yield from detector.add(time_s, pixels)
    yield from detector.finish()


def shots_of_file(path: Path, params: ShotsParams | None = None) -> list[float]:
    """Return the cuts of the video at `path`, seconds. Raises VideoError where it cannot be read to its end."""
    params = params or ShotsParams()
    return list(shot_boundaries(iterate_frames(path, Sampling(params.fps, 4 * SIDE, "squash")), params))


def _after(time_s: float, last_s: float) -> None:
    if not time_s > last_s:
        raise ShapeError(f"shots: a frame at {time_s} s after one at {last_s} s; give them in order of time")
