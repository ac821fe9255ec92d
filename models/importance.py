"""Graded truth: how important several people found each shot of a video.

Knows shots of one length, their times and the pooling of frame scores into them; knows nothing of files, manifests or
metrics. Shot k is `[k * shot_s, (k + 1) * shot_s)`, the layout of TVSum (Song et al., "TVSum: Summarizing web videos
using titles", CVPR 2015), where 20 people scored every 2-second shot from 1 to 5.

Shape legend: A annotators, S shots, T frames.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError
from models.spans import ScoreTrack, Span, merge_spans

Floats = npt.NDArray[np.float64]
# Means of the same scores may differ by as much, depending on the order in which they were added.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Importance:
    """The scores that people gave the shots of one video; equal where both parts are, NaN in the same places.

    shot_s:    length of a shot, seconds, above 0
    scores_AS: float64 [A, S], any scale, higher is more important; NaN where an annotator gave none
    """

    shot_s: float
    scores_AS: Floats

    def __post_init__(self) -> None:
        if not (math.isfinite(self.shot_s) and self.shot_s > 0):
            raise ShapeError(f"importance: shot_s {self.shot_s} must be a finite number of seconds above 0")
        if self.scores_AS.ndim != 2 or not self.scores_AS.size or self.scores_AS.dtype != np.float64:
            raise ShapeError(
                f"importance: scores {self.scores_AS.dtype} {self.scores_AS.shape} must be float64 "
                "[annotators, shots] with at least one of each"
            )
        if np.isinf(self.scores_AS).any():
            raise ShapeError(f"importance: {int(np.isinf(self.scores_AS).sum())} scores are infinite; give numbers")
        if np.isnan(self.scores_AS).all():
            raise ShapeError("importance: nobody scored any shot; give one score at least, or no importance")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Importance)
            and self.shot_s == other.shot_s
            and np.array_equal(self.scores_AS, other.scores_AS, equal_nan=True)
        )

    def __hash__(self) -> int:
        return hash((self.shot_s, self.scores_AS.shape))

    @property
    def num_shots(self) -> int:
        """Shots that are labelled, scored or not."""
        return int(self.scores_AS.shape[1])

    @property
    def num_annotators(self) -> int:
        """People, also those who left shots out."""
        return int(self.scores_AS.shape[0])

    @property
    def mean_S(self) -> Floats:  # noqa: N802 - a shape suffix
        """Mean over the annotators who scored the shot, float64 [S]; NaN where nobody did."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a shot that nobody scored is NaN, as it should be
            return np.asarray(np.nanmean(self.scores_AS, axis=0), np.float64)

    def at(self, times_s_T: Floats) -> Floats:
        """Return float64 [T]: the mean importance of the shot that each time falls in, past the last shot the last's.

        times_s_T: seconds, at least 0
        """
        return self.mean_S[np.minimum(shots_of(times_s_T, self.shot_s, self.num_shots), self.num_shots - 1)]


def importance_of(shot_s: float, scores: Sequence[Sequence[float | None]]) -> Importance:
    """Return the importance of lists, one of shots for each annotator, None where none was given.

    Raises ShapeError naming the two lengths where annotators do not have equally many shots, and as Importance does.
    """
    lengths = [len(shots) for shots in scores]
    ragged = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if ragged is not None:
        raise ShapeError(
            f"importance: annotator {ragged + 1} scored {lengths[ragged]} shots, annotator 1 scored {lengths[0]}; "
            "give null where a score is missing"
        )
    filled = [[math.nan if score is None else score for score in shots] for shots in scores]
    return Importance(shot_s, np.array(filled, np.float64).reshape(len(lengths), lengths[0] if lengths else 0))


def list_scores(importance: Importance) -> list[list[float | None]]:
    """Return the scores as lists, one of shots for each annotator, None where none was given: what JSON holds."""
    return [[None if math.isnan(score) else score for score in shots] for shots in importance.scores_AS.tolist()]


def tell_misfit(importance: Importance, duration_s: float) -> str:
    """Return why `importance` cannot be that of a video of `duration_s` seconds, "" where it can.

    One shot more or less than the video has is let pass, since tools round the length of a video differently.
    """
    shot_s, num_shots = importance.shot_s, importance.num_shots
    least = max(1, math.floor(duration_s / shot_s) - 1)
    most = math.ceil(duration_s / shot_s) + 1
    if least <= num_shots <= most:
        return ""
    has = f"{least} to {most}" if most - least > 1 else f"at most {most}"
    what = "longer" if num_shots > most else "shorter"
    return (
        f"importance of {num_shots} shots of {shot_s:g} s covers {num_shots * shot_s:.2f} s, {what} than the video of "
        f"{duration_s:.2f} s ({has} such shots); is shot_s right?"
    )


def shots_of(times_s_T: Floats, shot_s: float, num_shots: int) -> npt.NDArray[np.int64]:
    """Return int64 [T]: the shot that each time falls in, 0 to num_shots - 1, and num_shots past the last.

    The edges are the floats `k * shot_s`, as in `models.spans`. Raises ShapeError for times below 0 or not finite.
    """
    times_s_T = np.asarray(times_s_T, np.float64)
    if not np.all(np.isfinite(times_s_T) & (times_s_T >= 0)):
        raise ShapeError("importance: times must be finite seconds from 0")
    starts_s = np.arange(num_shots + 1) * shot_s
    return np.searchsorted(starts_s, times_s_T, side="right").astype(np.int64) - 1


def pool_to_shots(times_s_T: Floats, scores_T: npt.NDArray[np.floating], shot_s: float, num_shots: int) -> Floats:
    """Return float64 [S]: the mean of the frame scores inside each shot, NaN where a shot has no frame.

    times_s_T: seconds of the frames, at least 0; those past the last shot count nowhere
    scores_T:  finite, any scale

    Raises ShapeError on unlike shapes and on values that are not finite.
    """
    scores = np.asarray(scores_T, np.float64)
    if scores.ndim != 1 or np.shape(times_s_T) != scores.shape:
        raise ShapeError(f"pooling: times {np.shape(times_s_T)} and scores {scores.shape} must both be [T]")
    if not np.isfinite(scores).all():
        raise ShapeError(f"pooling: {int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    shots_T = shots_of(times_s_T, shot_s, num_shots)
    inside = shots_T < num_shots
    num_S = np.bincount(shots_T[inside], minlength=num_shots)
    sum_S = np.bincount(shots_T[inside], scores[inside], minlength=num_shots)
    pooled = np.full(num_shots, math.nan)
    np.divide(sum_S, num_S, out=pooled, where=num_S > 0)
    return pooled


def pool_track(track: ScoreTrack, importance: Importance) -> Floats:
    """Return float64 [S]: the score of each labelled shot of a scored video.

    The mean of the frames inside; a shot between two frames gets the score of the frame that stands for it, the last
    before it. NaN for a shot before the first frame or after the end of the video, which nothing stands for.
    """
    shot_s, num_shots = importance.shot_s, importance.num_shots
    pooled = pool_to_shots(track.times_s, track.scores, shot_s, num_shots)
    starts_s = np.arange(num_shots) * shot_s
    before = np.searchsorted(track.times_s, starts_s, side="right") - 1
    stands = np.isnan(pooled) & (before >= 0) & (starts_s < track.duration_s)
    pooled[stands] = track.scores[before[stands]]
    return pooled


def top_spans(importance: Importance, fraction: float, duration_s: float) -> list[Span]:
    """Return the shots in the top `fraction` by mean importance as spans, neighbours merged, cut at `duration_s`.

    The shots that score at least as high as the round(fraction * S)-th do, one at least. Equal shots are taken
    together, so that where all are equal all are taken. Shots that nobody scored or that begin after the end are none.
    """
    mean_S = importance.mean_S
    starts_s = np.arange(importance.num_shots) * importance.shot_s
    mean_S[starts_s >= duration_s] = math.nan
    known = np.sort(mean_S[~np.isnan(mean_S)])[::-1]
    if not len(known):
        return []
    least = known[min(len(known), max(1, round(fraction * len(known)))) - 1]
    return merge_spans(
        Span(float(starts_s[k]), float(min((k + 1) * importance.shot_s, duration_s)))
        for k in np.flatnonzero(mean_S >= least - _ROUNDING)
    )
