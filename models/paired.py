"""Is one model better than another on the same videos? A test whose false alarms are held to a level.

Every video adds to the difference of two pooled F1 scores; what it adds changes its sign when the two models change
places there. Were both equally good, either model could have had either count, so that all 2^V ways to exchange them
video by video are alike: the p-value is the share of the ways that gain at least as much. That is Fisher's
randomisation test ("The Design of Experiments", 1935) with a video as the unit, for the difference of two ratios in its
linear form. It is exact for a model and its retraining, at any number of videos, and holds its level for many videos
where two models are equal in F1 only (Janssen, "Studentized permutation tests for non-i.i.d. hypotheses", Statistics
and Probability Letters 1997). Why this test is in force and no other: `models.bootstrap`.

Knows counts by video; knows nothing of files, models or params.

Shape legend: T comparisons, V videos, R exchanges; a trailing 4 is tp, fp, fn, tn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from models.bootstrap import pair_videos
from models.errors import ShapeError
from models.metrics import Counts

Floats = npt.NDArray[np.float64]

# Up to 12 videos every exchange is gone through; beyond, as many are drawn.
NUM_EXCHANGES = 4096
# Gains that differ by less than this share of all that the videos add, up or down, are one but for rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Improvement:
    """How one model's F1 stands to another's over the same videos.

    value:          F1 of the first less F1 of the second; NaN where no frame is a highlight, since F1 says nothing then
    standard_error: of the value over videos; NaN where undefined, as with fewer than two videos
    p_value:        share of the exchanges that gain at least as much, above 0 and at most 1; NaN where undefined
    num_videos:     videos that both were measured on
    num_differing:  videos on which the counts differ; the p-value cannot lie below 2 to the power of minus this
    """

    value: float
    standard_error: float
    p_value: float
    num_videos: int
    num_differing: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_differing <= self.num_videos or self.p_value <= 0 or self.p_value > 1:
            raise ShapeError(
                f"improvement: {self.num_differing} of {self.num_videos} videos differ with a p-value of "
                f"{self.p_value}; it must lie above 0 and at most at 1"
            )


def compare_models(first: Mapping[str, Counts], second: Mapping[str, Counts], seed: int) -> Improvement:
    """Return how F1 of `first` stands to F1 of `second`, both given by video.

    seed: of the exchanges, where they are drawn

    Raises ModelError unless both cover the same videos with as many frames and highlights in each.
    """
    videos = pair_videos(first, second)
    first_TV4, second_TV4 = _stack(first, videos), _stack(second, videos)
    value_T, error_T = f1_differences(first_TV4, second_TV4)
    p_T = exchange_p_values(first_TV4, second_TV4, draw_exchanges(len(videos), seed))
    num_differing = int((first_TV4 != second_TV4).any(axis=2).sum())
    return Improvement(float(value_T[0]), float(error_T[0]), float(p_T[0]), len(videos), num_differing)


def draw_exchanges(num_videos: int, seed: int) -> Floats:
    """Return float64 [R, V] of 1 and -1, where -1 exchanges the two models on a video.

    All 2^V ways where they are at most NUM_EXCHANGES; else that many, one of them the exchange of nothing, which is
    the data as it is and always counts (Phipson and Smyth, "Permutation p-values should never be zero", 2010).
    """
    if num_videos < 1:
        raise ShapeError(f"exchanges: {num_videos} videos, needs at least 1")
    if 2**num_videos <= NUM_EXCHANGES:
        bits = np.arange(2**num_videos)[:, None] >> np.arange(num_videos) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (NUM_EXCHANGES, num_videos))
        bits[0] = 0
    exchanges: Floats = 1 - 2 * bits.astype(np.float64)
    return exchanges


def exchange_p_values(first_TV4: Floats, second_TV4: Floats, exchanges_RV: Floats) -> Floats:
    """Return float64 [T]: the share of exchanges after which the first model is ahead by at least as much.

    With tp true positives and b = 2 tp + fp + fn of each model, a video adds 2 (tp_1 - tp_2) - F (b_1 - b_2), where F
    is the F1 of both models' counts together, which no exchange changes; the sum has the sign of the difference of F1.
    NaN where no frame is a highlight.
    """
    tp_first, b_first = _halves(first_TV4)
    tp_second, b_second = _halves(second_TV4)
    both_T = 2 * (tp_first + tp_second).sum(axis=1) / np.maximum((b_first + b_second).sum(axis=1), 1)
    added_TV = 2 * (tp_first - tp_second) - both_T[:, None] * (b_first - b_second)
    needed_T = added_TV.sum(axis=1) - _ROUNDING * np.abs(added_TV).sum(axis=1)
    p_T = (added_TV @ exchanges_RV.T >= needed_T[:, None]).mean(axis=1)
    return np.where(_has_highlights(first_TV4), p_T, math.nan)


def f1_differences(first_TV4: Floats, second_TV4: Floats) -> tuple[Floats, Floats]:
    """Return float64 [T] twice: pooled F1 of the first less that of the second, and its standard error over videos.

    The error is that of the linear form of the two ratios (the delta method), with V - 1 degrees of freedom. NaN where
    no frame is a highlight; the error also with fewer than two videos.
    """
    f1_first, effect_first = _influence(first_TV4)
    f1_second, effect_second = _influence(second_TV4)
    return f1_first - f1_second, _standard_error(effect_first - effect_second)


def f1_error(counts: Mapping[str, Counts]) -> float:
    """Return the standard error over videos of one model's pooled F1; NaN as in `f1_differences`, or without videos."""
    if not counts:
        return math.nan
    _, effect_TV = _influence(_stack(counts, sorted(counts)))
    return float(_standard_error(effect_TV)[0])


def min_differing_videos(level: float) -> int:
    """Return the fewest videos on which two models must differ for a p-value of at most `level` to be possible."""
    if not 0 < level < 1:
        raise ShapeError(f"level must lie between 0 and 1, got {level}")
    return next(count for count in range(1, 1100) if 2.0**-count <= level)


def detectable_difference(standard_error: float, num_videos: int, level: float, power: float) -> float:
    """Return the true difference of F1 that the test at `level` finds with probability `power`.

    The usual sum of two quantiles of Student's t with V - 1 degrees of freedom, times the standard error. NaN where
    the error is, and where so few videos can never reach the level.
    """
    if num_videos < min_differing_videos(level) or not math.isfinite(standard_error):
        return math.nan
    quantiles = stdtrit(num_videos - 1, [1 - level, power])
    return standard_error * float(quantiles.sum())


def _stack(counts: Mapping[str, Counts], videos: Sequence[str]) -> Floats:
    """Return float64 [1, V, 4]."""
    return np.array([[astuple(counts[video]) for video in videos]], np.float64)


def _halves(counts_TV4: Floats) -> tuple[Floats, Floats]:
    """Return the true positives and 2 tp + fp + fn, [T, V] each: F1 is twice the first over the second."""
    tp, fp, fn = counts_TV4[..., 0], counts_TV4[..., 1], counts_TV4[..., 2]
    return tp, 2 * tp + fp + fn


def _influence(counts_TV4: Floats) -> tuple[Floats, Floats]:
    """Return F1 [T] and what each video adds to its departure from the truth [T, V]; NaN without a highlight."""
    tp_TV, b_TV = _halves(counts_TV4)
    total_T = np.maximum(b_TV.sum(axis=1), 1)
    f1_T = np.where(_has_highlights(counts_TV4), 2 * tp_TV.sum(axis=1) / total_T, math.nan)
    return f1_T, (2 * tp_TV - f1_T[:, None] * b_TV) / total_T[:, None]


def _standard_error(effect_TV: Floats) -> Floats:
    num_videos = effect_TV.shape[1]
    if num_videos < 2:
        return np.full(len(effect_TV), math.nan)
    error_T: Floats = np.sqrt((effect_TV**2).sum(axis=1) * num_videos / (num_videos - 1))
    return error_T


def _has_highlights(counts_TV4: Floats) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (counts_TV4[..., 0] + counts_TV4[..., 2]).sum(axis=1) > 0
    return result
