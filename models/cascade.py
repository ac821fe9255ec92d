"""Where to look closely: which stretches between keyframes are worth decoding, from what is known so far.

A keyframe is decoded by itself, for a fraction of what the frames between two of them cost. A first pass sees the
keyframes alone; then, in rounds, the stretches around what looks promising are decoded in full, the most promising
first and never more than a budget, and where the decoded edge of one is still a highlight, its neighbour follows.
Pure: knows times and scores, not files or models. Units of time are seconds, stretches are [start, end).

The idea of spending a costly look only where a cheap one cannot decide is that of detection cascades: Viola and Jones,
"Rapid object detection using a boosted cascade of simple features", CVPR 2001.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.errors import ShapeError
from models.params import Section
from models.spans import ScoreTrack, Span

Seconds = npt.NDArray[np.float64]
# A sample at most so many sampling intervals before a stretch speaks for the stretch too.
_NEAR = 1.5


class CascadeParams(Section):
    """How the cascade spends what it may."""

    promising: float = Field(default=0.5, ge=0, le=1)
    """Score of a keyframe from which the stretches on its two sides are decoded, share of the model's threshold."""
    budget: float = Field(default=0.25, ge=0, le=1)
    """Most that is decoded in full, share of the video's length."""
    rounds: int = Field(default=4, ge=1, le=100)
    """Times that more is decoded; from the second on, what borders on a highlight that reaches the decoded edge."""
    max_gap_s: float = Field(default=4.0, gt=0)
    """Mean distance of keyframes, seconds, above which a first pass says too little: then all is decoded."""


@dataclass(frozen=True, eq=False)
class Stretches:
    """The stretches between keyframes, and which of them are decoded.

    edges_s:   float64 [U + 1], strictly increasing from 0 to the end of the video
    is_decoded: bool [U]
    """

    edges_s: Seconds
    is_decoded: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.edges_s.shape != (len(self.is_decoded) + 1,) or np.any(np.diff(self.edges_s) <= 0):
            raise ShapeError(
                f"stretches: edges {self.edges_s.shape} must increase strictly and be one more than "
                f"{self.is_decoded.shape}"
            )

    @property
    def lengths_s(self) -> Seconds:
        """Length of each, seconds, float64 [U]."""
        return np.diff(self.edges_s)

    @property
    def decoded_s(self) -> float:
        """Seconds that are decoded in full."""
        return float(self.lengths_s[self.is_decoded].sum())

    def with_decoded(self, chosen: npt.NDArray[np.int64]) -> "Stretches":
        """Return these with the stretches `chosen` decoded as well."""
        marked = self.is_decoded.copy()
        marked[chosen] = True
        return Stretches(self.edges_s, marked)

    def holds(self, times_s: Seconds) -> npt.NDArray[np.bool_]:
        """Return which times lie in a decoded stretch, bool [T]."""
        place = np.searchsorted(self.edges_s, times_s, side="right") - 1
        held: npt.NDArray[np.bool_] = self.is_decoded[np.clip(place, 0, len(self.is_decoded) - 1)]
        return held


def split_at_keyframes(keyframes_s: Sequence[float] | Seconds, duration_s: float) -> Stretches:
    """Return the stretches of a video of `duration_s`, none decoded; keyframes outside it are left out."""
    inside = [time_s for time_s in keyframes_s if 0 < time_s < duration_s]
    edges_s = np.unique(np.array([0.0, *inside, duration_s], np.float64))
    return Stretches(edges_s, np.zeros(len(edges_s) - 1, np.bool_))


def promise_of(stretches: Stretches, track: ScoreTrack, near_s: float) -> npt.NDArray[np.float32]:
    """Return the highest score known in or at the border of each stretch, float32 [U], 0 where nothing is.

    near_s: a sample at most so long before a stretch is at its border, seconds; one at its end is always
    """
    first = np.searchsorted(track.times_s, stretches.edges_s[:-1] - near_s, side="left")
    last = np.searchsorted(track.times_s, stretches.edges_s[1:], side="right")
    return np.array([track.scores[a:b].max() if b > a else 0.0 for a, b in zip(first, last, strict=True)], np.float32)


def choose_stretches(
    stretches: Stretches, promise_U: npt.NDArray[np.float32], at_least: float, budget_s: float
) -> npt.NDArray[np.int64]:
    """Return which stretches to decode next, ascending: the most promising first while they fit in what is left.

    at_least: promise below which none is taken
    budget_s: of all that is decoded, what was before included, seconds
    """
    left_s = budget_s - stretches.decoded_s
    lengths_s, chosen = stretches.lengths_s, []
    for index in np.lexsort((np.arange(len(promise_U)), -promise_U)):
        if promise_U[index] < at_least:
            break
        if not stretches.is_decoded[index] and lengths_s[index] <= left_s:
            chosen.append(int(index))
            left_s -= float(lengths_s[index])
    return np.array(sorted(chosen), np.int64)


def next_stretches(
    stretches: Stretches, track: ScoreTrack, threshold: float, params: CascadeParams, fps: float
) -> npt.NDArray[np.int64]:
    """Return which stretches to decode after what `track` knows; none where the cascade is done.

    threshold: of the model; fps: samples a second of a decoded stretch
    """
    is_first = not stretches.is_decoded.any()
    at_least = threshold * params.promising if is_first else threshold
    promise_U = promise_of(stretches, track, 0.0 if is_first else _NEAR / fps)
    return choose_stretches(stretches, promise_U, at_least, params.budget * float(stretches.edges_s[-1]))


def stand_ins(stretches: Stretches, keyframes_s: Seconds, fps: float) -> tuple[Seconds, npt.NDArray[np.int64]]:
    """Return the instants k / fps in what is not decoded, float64 [I], and which keyframe is the nearest to each [I].

    A time-aware head sees a window of samples. Where keyframes alone stood between decoded stretches it would see
    another stretch of time than in the exact mode, and its scores would be others; nearest neighbours keep the rate.
    """
    duration_s = float(stretches.edges_s[-1])
    instants_s = np.arange(int(np.ceil(duration_s * fps))) / fps
    instants_s = instants_s[(instants_s < duration_s) & ~stretches.holds(instants_s)]
    after = np.clip(np.searchsorted(keyframes_s, instants_s), 1, max(len(keyframes_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(keyframes_s) - 1)
    is_after = np.abs(keyframes_s[after] - instants_s) < np.abs(instants_s - keyframes_s[before])
    return instants_s, np.where(is_after, after, before).astype(np.int64)


def joined(stretches: Stretches, chosen: npt.NDArray[np.int64]) -> list[Span]:
    """Return the stretches `chosen` as spans, neighbours as one: each is one seek."""
    if not len(chosen):
        return []
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    return [Span(float(stretches.edges_s[run[0]]), float(stretches.edges_s[run[-1] + 1])) for run in runs]


def covered(found: Sequence[Span], truth: Sequence[Span]) -> float:
    """Return the share of `truth`'s seconds that lie in `found`, NaN where there is no truth: recall in time.

    Both in order and disjoint each.
    """
    total = sum(span.duration_s for span in truth)
    shared = sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a in truth for b in found)
    return shared / total if total else float("nan")
