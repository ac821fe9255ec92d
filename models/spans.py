"""Spans of time and tracks of scores: the two values that every room hands to the next.

Seconds are truth: presentation time from the first displayed frame of a video. A span is `[start_s, end_s)`, and
this is the one place where that rule is spelled out: a frame at `time_s` lies in a span when
`start_s <= time_s < end_s`, and the frame sampled at `times_s[i]` stands for `[times_s[i], times_s[i + 1])`, the
last one until `duration_s`. Knows nothing of pixels, files or models.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError


@dataclass(frozen=True, order=True)
class Span:
    """A half-open stretch of one video.

    start_s: first instant inside, seconds, at least 0
    end_s:   first instant after, seconds, above start_s
    score:   mean score of the frames inside, 0 to 1, or None where nothing was scored (a label)
    """

    start_s: float
    end_s: float
    score: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s) and 0 <= self.start_s < self.end_s):
            raise ShapeError(f"span [{self.start_s}, {self.end_s}) s: needs 0 <= start < end, both finite")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, eq=False)
class ScoreTrack:
    """Scores of the sampled frames of one video.

    times_s:    float64 [T], presentation times, strictly increasing, seconds
    scores:     float32 [T], probability of highlight, 0 to 1
    duration_s: end of the last frame, seconds, above times_s[-1]
    """

    times_s: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    duration_s: float

    def __post_init__(self) -> None:
        if self.times_s.ndim != 1 or self.times_s.shape != self.scores.shape or not len(self.times_s):
            raise ShapeError(
                f"score track: times {self.times_s.shape} and scores {self.scores.shape} must both be [T], T >= 1"
            )
        if np.any(np.diff(self.times_s) <= 0) or self.times_s[0] < 0:
            raise ShapeError("score track: times_s must increase strictly from 0 or later")
        if not np.all((self.scores >= 0) & (self.scores <= 1)):
            raise ShapeError("score track: scores must lie in [0, 1], NaN is not a score")
        if not self.duration_s > self.times_s[-1]:
            last_s = self.times_s[-1]
            raise ShapeError(f"score track: duration {self.duration_s} s must be after the last frame {last_s} s")

    def ends_s(self) -> npt.NDArray[np.float64]:
        """Return float64 [T]: where the stretch that each frame stands for ends, seconds."""
        return np.append(self.times_s[1:], self.duration_s)


def label_times(times_s: npt.NDArray[np.float64], spans: Iterable[Span]) -> npt.NDArray[np.int8]:
    """Return int8 [T]: 1 where a time lies inside any of `spans`, else 0."""
    labels = np.zeros(len(times_s), dtype=np.int8)
    for span in spans:
        labels[(times_s >= span.start_s) & (times_s < span.end_s)] = 1
    return labels


def merge_spans(spans: Iterable[Span], merge_gap_s: float = 0.0) -> list[Span]:
    """Return the union of `spans` in order; two that are at most `merge_gap_s` apart become one.

    The score of a merged span is the mean of its parts weighted by their lengths; a part without a score makes the
    whole one without.
    """
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start_s, s.end_s)):
        if not merged or span.start_s - merged[-1].end_s > merge_gap_s:
            merged.append(span)
            continue
        last = merged[-1]
        score = None
        if last.score is not None and span.score is not None:
            weight = last.duration_s + span.duration_s
            score = (last.score * last.duration_s + span.score * span.duration_s) / weight
        merged[-1] = Span(last.start_s, max(last.end_s, span.end_s), score)
    return merged


def spans_above(
    track: ScoreTrack, threshold: float, *, min_duration_s: float = 0.0, merge_gap_s: float = 0.0
) -> list[Span]:
    """Return the stretches of `track` whose score is at least `threshold`, in order.

    Neighbours at most `merge_gap_s` apart are joined first, then what is shorter than `min_duration_s` is dropped.
    The score of a span is the mean over the frames that reached the threshold, weighted by how long each stands.
    """
    ends_s = track.ends_s()
    frames = [
        Span(float(track.times_s[i]), float(ends_s[i]), float(track.scores[i]))
        for i in np.flatnonzero(track.scores >= threshold)
    ]
    return [span for span in merge_spans(frames, merge_gap_s) if span.duration_s >= min_duration_s]


def total_duration_s(spans: Sequence[Span]) -> float:
    """Return the seconds covered by `spans`, overlaps counted once."""
    return sum(span.duration_s for span in merge_spans(spans))
