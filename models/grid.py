"""The grid of instants k / fps, k = 0, 1, …, on which a video is sampled: which frames are on screen at one of them.

Knows times in seconds from the first displayed frame; knows nothing of files or pixels.
"""

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

# A frame whose timestamp is at most this far after a grid point counts as on it: containers round to 1 ms.
GRID_TOLERANCE_S = 0.001
# More than the rounding of any of the sums below, seconds: a time exactly at the tolerance is within it.
_ROUNDING_S = 1e-9

ItemT = TypeVar("ItemT")


def pick_on_grid(
    timed: Iterable[tuple[float, float, ItemT]], fps: float, *, from_start: bool = True
) -> Iterator[tuple[float, ItemT]]:
    """Yield `(time_s, item)` of those of `timed` that are shown at an instant k / fps, k = 0, 1, …, each once.

    timed: (time_s, end_s, item), times strictly increasing from 0. An item is shown from its time until that of the
           next, the last one until its own end_s. A time up to GRID_TOLERANCE_S after an instant counts as on it.
           The first is always given, unless `from_start` is False: then `timed` begin later in the video.
    """
    pending: tuple[float, float, ItemT] | None = None  # on screen, not given yet
    k = 0 if from_start else 1  # the first grid point that nothing before `pending` serves
    for time_s, end_s, item in timed:
        if k == 0:  # instant 0 is the first item's, whatever the tolerance says
            yield time_s, item
            k = 1
            continue
        earliest_s = time_s - GRID_TOLERANCE_S - _ROUNDING_S  # the first instant that this item may serve
        if pending is not None and k / fps < earliest_s:
            yield pending[0], pending[2]
        k = max(k, math.ceil(earliest_s * fps))
        pending = (time_s, end_s, item)
    if pending is not None and k / fps < max(pending[1], pending[0] + GRID_TOLERANCE_S):
        yield pending[0], pending[2]


def may_be_sampled(time_s: float, next_s: float, fps: float) -> bool:
    """Return False only where `pick_on_grid` certainly passes over what is shown from `time_s` until `next_s`."""
    instant_s = math.ceil((time_s - GRID_TOLERANCE_S - 2 * _ROUNDING_S) * fps) / fps
    return instant_s + GRID_TOLERANCE_S < next_s + 2 * _ROUNDING_S
