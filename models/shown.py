"""What a video shows at every instant of a regular grid, or every frame of it, one frame in memory at a time.

Unlike `models.video.iterate_frames`, which gives a frame once, a grid has no holes here: row k is what is on screen at
k / fps, so that programs that find a row by its number stay right where a frame is long. Times are seconds from the
first frame shown.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from models.decoding import displayed_frames, displayed_pixels, displayed_size, opened, rotation_deg, square_pixels
from models.errors import VideoError
from models.reference_resize import ReferenceResize
from models.video import GRID_TOLERANCE_S, MAX_FRAMES

Pixels = npt.NDArray[np.uint8]
ItemT = TypeVar("ItemT")
_ROUNDING = 1e-6  # of a grid step: 2.0000000001 s is the instant 2 s


def iterate_shown(
    path: Path, fps: float | None, resize: ReferenceResize, *, exact: bool = True
) -> Iterator[tuple[npt.NDArray[np.float64], Pixels]]:
    """Yield `(times_s [R], pixels)` in order: the instants k / fps at which a frame is on screen, R from 1.

    fps:   instants a second; None gives every frame at its own time, R = 1
    exact: resize as the tower's own project does; False leaves it to the decoder's scaler, which is faster
    pixels are uint8 [S, S, 3] RGB, upright, in the proportions in which the video is displayed.
    Raises VideoError as `models.video.iterate_frames`, and where the grid has more than MAX_FRAMES instants.
    """
    with opened(path) as (_, stream):
        for times_s, frame in _timed(path, displayed_frames(path, stream), fps):
            if exact:
                yield times_s, resize(_picture(frame, stream, path))
            else:
                fit = "crop" if resize.mode == "shortest" else "squash"
                square = square_pixels(frame, stream, resize.scaled_side, fit)  # type: ignore[arg-type]
                first = (resize.scaled_side - resize.side) // 2
                yield times_s, square[first : first + resize.side, first : first + resize.side]


def _picture(frame: Any, stream: Any, path: Path) -> Pixels:
    """Return `frame` upright in full size, uint8 [H, W, 3] RGB, converted as OpenCV and PyAV do it unasked.

    FFmpeg's plain conversion is a level darker on average than its accurate one, which the stages use; towers that were
    trained on plain ones, and features to compare with, came through it.
    """
    width, height = displayed_size(frame, stream, path)
    turn = rotation_deg(frame)
    if (width, height) != ((frame.height, frame.width) if turn in (90, 270) else (frame.width, frame.height)):
        return displayed_pixels(frame, stream, path, width, height)
    pixels = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, k=-turn // 90))


def _timed(
    path: Path, frames: Iterable[tuple[float, float, Any]], fps: float | None
) -> Iterator[tuple[npt.NDArray[np.float64], Any]]:
    if fps is None:
        yield from ((np.array([time_s]), frame) for time_s, _, frame in frames)
        return
    for instants, frame in shown_on_grid(frames, fps):
        if instants.stop > MAX_FRAMES:
            raise VideoError(f"{path.name}: more than {MAX_FRAMES} instants at {fps:g} a second; lower extraction_fps")
        yield np.arange(instants.start, instants.stop) / fps, frame


def shown_on_grid(timed: Iterable[tuple[float, float, ItemT]], fps: float) -> Iterator[tuple[range, ItemT]]:
    """Yield `(k, item)`: the range of k for which the item is on screen at k / fps; items on at none are left out.

    timed: (time_s, end_s, item), times strictly increasing from 0. An item is shown from its time until that of the
           next, the last one until its own end_s. A time up to GRID_TOLERANCE_S after an instant counts as on it.
           Together the ranges are 0, 1, 2, … without a hole, at least 0.
    """
    done = 0
    pending: tuple[float, ItemT] | None = None
    for time_s, end_s, item in timed:
        if pending is not None:
            until = max(done, math.ceil((time_s - GRID_TOLERANCE_S) * fps - _ROUNDING))
            if until > done:
                yield range(done, until), pending[1]
            done = until
        pending = (max(end_s, time_s + GRID_TOLERANCE_S), item)
    if pending is not None:
        until = max(math.ceil(pending[0] * fps - _ROUNDING), 0 if done else 1)
        if until > done:
            yield range(done, until), pending[1]


def batched(
    shown: Iterable[tuple[npt.NDArray[np.float64], Pixels]],
    batch_size: int,
    embed: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]:
    """Yield `(times_s [R], features [D])` of what `iterate_shown` yields, embedded `batch_size` frames at a time."""
    waiting: list[tuple[npt.NDArray[np.float64], Pixels]] = []

    def flush() -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]:
        features = embed(np.stack([pixels for _, pixels in waiting]))
        yield from zip([times_s for times_s, _ in waiting], features, strict=True)
        waiting.clear()

    for entry in shown:
        waiting.append(entry)
        if len(waiting) == batch_size:
            yield from flush()
    if waiting:
        yield from flush()
