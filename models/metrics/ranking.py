"""Rank correlation: whether scores order the shots of a video as its annotators do.

Otani et al., "Rethinking the Evaluation of Video Summaries", CVPR 2019, compare predicted importance with that of each
annotator by Kendall's tau and Spearman's rho, because overlap figures reward the segmentation more than the scores.
The order of the means is fixed here: first over the annotators of one video, then over the videos where that is
defined (`mean_over_videos`, which says how many are not). Knows arrays of one video; knows nothing of files or models.

Both coefficients are undefined (NaN, never 0) when one side is constant or fewer than two shots have both values.

Shape legend: A annotators, S shots.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

# Means that differ by less than 1e-12 of the largest are one rank.
_TIE_DECIMALS = 12


@dataclass(frozen=True)
class RankCorrelation:
    """Rank correlation within one video, a mean over pairs of rankings.

    tau:       Kendall's tau-b, -1 to 1, NaN where no pair defines it
    rho:       Spearman's rho, -1 to 1, NaN where no pair defines it
    num_pairs: pairs of rankings that the means are over
    """

    tau: float
    rho: float
    num_pairs: int


@dataclass(frozen=True)
class MeanCorrelation:
    """Rank correlation over a set of videos, every video with equal weight.

    tau, rho:      mean over the videos where it is defined, NaN where it is in none
    num_videos:    videos that the means are over
    num_undefined: videos left out because their correlation is undefined
    """

    tau: float
    rho: float
    num_videos: int
    num_undefined: int


def kendall_tau(truth_S: Floats, scores_S: Floats) -> float:
    """Return Kendall's tau-b of S shots, -1 to 1; NaN where undefined.

    truth_S:  importance by one annotator, NaN where there is none (the shot is left out)
    scores_S: finite; of any scale, since only their order counts

    Kendall, "The treatment of ties in ranking problems", Biometrika 1945: concordant less discordant pairs, over the
    geometric mean of the pairs that are not tied on each side. Time is S log^2 S, so that frames may be shots.
    Raises ShapeError on unlike shapes or scores that are not finite.
    """
    pair = _dense_ranks(truth_S, _checked_scores(scores_S))
    return math.nan if pair is None else _tau(*pair)


def spearman_rho(truth_S: Floats, scores_S: Floats) -> float:
    """Return Spearman's rho of S shots, -1 to 1, with mean ranks for ties; NaN where undefined.

    Arguments and errors as in `kendall_tau`. Spearman, "The proof and measurement of association between two things",
    1904; with ties it is Pearson's correlation of the mean ranks.
    """
    pair = _dense_ranks(truth_S, _checked_scores(scores_S))
    return math.nan if pair is None else _rho(*pair)


def per_annotator(importance_AS: Floats, scores_S: Floats) -> RankCorrelation:
    """Return the mean over annotators of the correlation of `scores_S` with each one's importance.

    importance_AS: NaN where an annotator gave none
    scores_S:      finite

    An annotator whose importance is constant (or present for fewer than two shots) is left out of the mean.
    Raises ShapeError on unlike shapes or scores that are not finite.
    """
    importance_AS = _checked_importance(importance_AS)
    scores_S = _checked_scores(scores_S)
    return _mean_of_pairs((truth_S, scores_S) for truth_S in importance_AS)


def annotator_against_rest(importance_AS: Floats) -> RankCorrelation:
    """Return the mean over annotators of the correlation of each one with the mean of all others.

    The others' mean is over those who scored a shot; shots that nobody else scored are left out. NaN with fewer than
    two annotators. This is how well a person who knows what the others like on average would do, and so it lies above
    `annotator_against_each`.
    """
    importance_AS = _checked_importance(importance_AS)
    return _mean_of_pairs(
        (_mean_over_annotators(np.delete(importance_AS, index, axis=0)), own_S)
        for index, own_S in enumerate(importance_AS)
    )


def annotator_against_each(importance_AS: Floats) -> RankCorrelation:
    """Return the mean over all pairs of annotators of the correlation between the two.

    The human row of Otani et al., CVPR 2019 (TVSum: tau 0.177, rho 0.204): comparable with `per_annotator` of a model.
    NaN with fewer than two annotators.
    """
    importance_AS = _checked_importance(importance_AS)
    num_annotators = len(importance_AS)
    return _mean_of_pairs(
        (importance_AS[first], importance_AS[second])
        for first in range(num_annotators)
        for second in range(first + 1, num_annotators)
    )


def mean_over_videos(videos: Iterable[RankCorrelation]) -> MeanCorrelation:
    """Return the mean of tau and of rho over the videos where they are defined, with the number of the others."""
    everything = list(videos)
    defined = [video for video in everything if not (math.isnan(video.tau) or math.isnan(video.rho))]
    return MeanCorrelation(
        tau=_mean([video.tau for video in defined]),
        rho=_mean([video.rho for video in defined]),
        num_videos=len(defined),
        num_undefined=len(everything) - len(defined),
    )


def _mean_of_pairs(pairs: Iterable[tuple[Floats, Floats]]) -> RankCorrelation:
    ranks = [found for first_S, second_S in pairs if (found := _dense_ranks(first_S, second_S)) is not None]
    return RankCorrelation(_mean([_tau(*pair) for pair in ranks]), _mean([_rho(*pair) for pair in ranks]), len(ranks))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _checked_importance(importance_AS: Floats) -> Floats:
    importance_AS = np.asarray(importance_AS, np.float64)
    if importance_AS.ndim != 2:
        raise ShapeError(f"importance {importance_AS.shape} must be [A annotators, S shots]")
    return importance_AS


def _mean_over_annotators(importance_AS: Floats) -> Floats:
    """Return the mean [S] up to a positive factor, NaN where nobody scored; means that are equal are equal bits."""
    given_AS = ~np.isnan(importance_AS)
    total_S = np.where(given_AS, importance_AS, 0.0).sum(axis=0)
    num_S = given_AS.sum(axis=0)
    scale = float(np.abs(total_S).max(initial=0.0)) or 1.0
    mean_S = np.divide(total_S, num_S, out=np.full(len(num_S), math.nan), where=num_S > 0)
    # Sums in another order differ in the last bit: without rounding that would break ties and be a rank.
    rounded_S: Floats = np.round(mean_S / scale, _TIE_DECIMALS)
    return rounded_S


def _checked_scores(scores_S: Floats) -> Floats:
    scores_S = np.asarray(scores_S, np.float64)
    if not np.isfinite(scores_S).all():
        raise ShapeError(
            f"rank correlation: {int((~np.isfinite(scores_S)).sum())} of {scores_S.size} scores are not finite; "
            "every shot needs a score (score the video again, or cut shots without a frame from truth and scores)"
        )
    return scores_S


def _dense_ranks(first_S: Floats, second_S: Floats) -> tuple[Ranks, Ranks] | None:
    """Return both as ranks 0, 1, … (equal values share one) of the shots that have both, or None where undefined."""
    first_S, second_S = np.asarray(first_S, np.float64), np.asarray(second_S, np.float64)
    if first_S.ndim != 1 or first_S.shape != second_S.shape:
        raise ShapeError(f"rank correlation: {first_S.shape} and {second_S.shape} must both be [S], one value a shot")
    if np.isinf(first_S).any() or np.isinf(second_S).any():
        raise ShapeError("rank correlation: an importance is infinite; give a number, or NaN where there is none")
    given_S = ~(np.isnan(first_S) | np.isnan(second_S))
    if given_S.sum() < 2:
        return None
    first, second = (np.unique(values[given_S], return_inverse=True)[1] for values in (first_S, second_S))
    return None if first.max() == 0 or second.max() == 0 else (first, second)


def _tau(first_S: Ranks, second_S: Ranks) -> float:
    num_pairs = _pairs(np.array([len(first_S)]))
    tied_first, tied_second = (_pairs(np.bincount(ranks_S)) for ranks_S in (first_S, second_S))
    tied_both = _pairs(np.unique(first_S * len(first_S) + second_S, return_counts=True)[1])
    # In order of the first, and of the second where that is tied, a pair that falls in the second is discordant.
    discordant = _inversions(second_S[np.lexsort((second_S, first_S))])
    balance = num_pairs - tied_first - tied_second + tied_both - 2 * discordant  # concordant less discordant
    return float(np.clip(balance / math.sqrt((num_pairs - tied_first) * (num_pairs - tied_second)), -1, 1))


def _pairs(num_K: Ranks) -> int:
    """Return how many pairs there are within groups of these sizes."""
    return int(np.sum(num_K * (num_K - 1) // 2))


def _inversions(ranks_S: Ranks) -> int:
    """Return the pairs of which the earlier is greater: what merge sort moves (Knight, JASA 1966), level by level."""
    places_S = np.arange(len(ranks_S))
    found, width = 0, 1
    while width < len(ranks_S):
        block_S, right_S = places_S // (2 * width), places_S // width % 2
        # Sorted within blocks, the left half first among equals: what is left of it then and still follows is greater.
        order_S = np.argsort((block_S * len(ranks_S) + ranks_S) * 2 + right_S)
        ranks_S, right_S = ranks_S[order_S], right_S[order_S]
        left_until_end_S = np.cumsum(np.bincount(block_S, 1 - right_S))[block_S]
        found += int(np.sum((left_until_end_S - np.cumsum(1 - right_S)) * right_S))
        width *= 2
    return found


def _rho(first_S: Ranks, second_S: Ranks) -> float:
    first, second = (ranks - ranks.mean() for ranks in map(_mean_ranks, (first_S, second_S)))
    return float(np.clip(np.dot(first, second) / math.sqrt(np.dot(first, first) * np.dot(second, second)), -1, 1))


def _mean_ranks(ranks_S: Ranks) -> Floats:
    num_K = np.bincount(ranks_S)
    return (np.cumsum(num_K) - (num_K - 1) / 2)[ranks_S]
