"""Highlight metrics of the benchmarks: how well scores of clips agree with graded ratings by several people.

HL-mAP and HIT@1 of QVHighlights (Lei et al., "QVHighlights: Detecting Moments and Highlights in Videos via Natural
Language Queries", NeurIPS 2021), and the average precision of TVSum and YouTube Highlights in the form that the field
has used since UMT (Liu et al., "UMT: Unified Multi-modal Transformers for Joint Video Moment Retrieval and Highlight
Detection", CVPR 2022). Each is reproduced as its benchmark counts it, means over queries and zeros by convention
included, since it exists to be compared with published figures. Knows arrays; knows nothing of files or models.

Shape legend: Q queries, A annotators, S clips or shots (of the longest query, where there are several).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError

Floats = npt.NDArray[np.float64]

# Least rating of a positive clip, of 0 (very bad) to 4 (very good), by the benchmark's name for it.
RATING_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}


@dataclass(frozen=True, eq=False)
class RatedClips:
    """Ratings and scores of the clips of one query.

    ratings: float64 [A, S], by each annotator; 0 where a clip does not fit the query
    scores:  float64 [any number], predicted for the clips in order, finite, of any scale
    """

    ratings: Floats
    scores: Floats

    def __post_init__(self) -> None:
        if self.ratings.ndim != 2 or not self.ratings.size or self.scores.ndim != 1 or not len(self.scores):
            raise ShapeError(
                f"ratings {self.ratings.shape} must be [A annotators, S clips] and scores {self.scores.shape} "
                "one value a clip, with at least one of each"
            )
        for name, values in (("ratings", self.ratings), ("scores", self.scores)):
            if not np.isfinite(values).all():
                raise ShapeError(f"{name}: {int((~np.isfinite(values)).sum())} of {values.size} are not finite")

    def fitted_scores(self) -> Floats:
        """Return float64 [S]: the scores cut to the clips that are rated; clips without a score get 0.

        Both by the benchmark's rule, for predictors whose clips are not exactly those of the annotation.
        """
        num_clips = self.ratings.shape[1]
        fitted_S = np.zeros(num_clips)
        fitted_S[: len(self.scores)] = self.scores[:num_clips]
        return fitted_S


def highlight_map(queries: Sequence[RatedClips], min_rating: float) -> float:
    """Return the mean over queries and annotators of the average precision of the clip ranking, 0 to 1: HL-mAP.

    min_rating: least rating of a positive clip, see RATING_LEVELS

    The average precision is the mean, over the steps of the ranking that find a positive clip, of the best precision
    at that step or later; equal scores are one step. This is the interpolated form of Video2GIF (Gygli et al., CVPR
    2016): a step that finds two positives weighs no more than one that finds one. Where an annotator rates no clip so
    high the benchmark counts 0, for every predictor alike, and 1 where all are. NaN without queries.
    Raises ShapeError when queries have different numbers of annotators.
    """
    if not queries:
        return math.nan
    positive_QAS, scores_QS, valid_QS = _padded(queries, min_rating)
    order_QS = np.argsort(-scores_QS, axis=1, kind="stable")
    scores_QS, valid_QS = (
        np.take_along_axis(scores_QS, order_QS, axis=1),
        np.take_along_axis(valid_QS, order_QS, axis=1),
    )
    positive_QAS = np.take_along_axis(positive_QAS, order_QS[:, None, :], axis=2)
    # Padding comes last: its score is -inf. A step ends where the next score is another one.
    ends_QS = valid_QS & np.append(scores_QS[:, :-1] != scores_QS[:, 1:], np.ones((len(queries), 1), bool), axis=1)
    tp_QAS = np.cumsum(positive_QAS, axis=2, dtype=np.int64)
    precision_QAS = np.where(ends_QS[:, None, :], tp_QAS / np.arange(1, scores_QS.shape[1] + 1), 0.0)
    envelope_QAS = np.maximum.accumulate(precision_QAS[:, :, ::-1], axis=2)[:, :, ::-1]
    steps_QAS = ends_QS[:, None, :] & (tp_QAS > _before_step(tp_QAS, ends_QS))
    num_QA = steps_QAS.sum(axis=2)
    total_QA = np.where(steps_QAS, envelope_QAS, 0.0).sum(axis=2)
    average_QA = np.divide(total_QA, num_QA, out=np.zeros_like(total_QA), where=num_QA > 0)
    num_clips_Q = valid_QS.sum(axis=1)
    average_QA[tp_QAS[:, :, -1] == num_clips_Q[:, None]] = 1.0
    return float(average_QA.mean())


def hit_at_1(queries: Sequence[RatedClips], min_rating: float) -> float:
    """Return the share of queries whose clip of highest score any annotator rates at least `min_rating`: HIT@1.

    Of equal scores the first clip counts; one past the rated clips is a miss. NaN without queries.
    """
    hits = []
    for query in queries:
        best = int(np.argmax(query.scores))
        inside = best < query.ratings.shape[1]
        hits.append(bool(inside and (query.ratings[:, best] >= min_rating).any()))
    return float(np.mean(hits)) if hits else math.nan


def _padded(
    queries: Sequence[RatedClips], min_rating: float
) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.bool_]]:
    """Return positive [Q, A, S], scores [Q, S] with -inf for padding, and valid [Q, S]."""
    annotators = {len(query.ratings) for query in queries}
    if len(annotators) != 1:
        raise ShapeError(f"highlight mAP: queries have {sorted(annotators)} annotators, needs one number for all")
    num_clips = max(query.ratings.shape[1] for query in queries)
    positive_QAS = np.zeros((len(queries), annotators.pop(), num_clips), bool)
    scores_QS = np.full((len(queries), num_clips), -math.inf)
    for index, query in enumerate(queries):
        inside = slice(0, query.ratings.shape[1])
        positive_QAS[index, :, inside] = query.ratings >= min_rating
        scores_QS[index, inside] = query.fitted_scores()
    return positive_QAS, scores_QS, np.isfinite(scores_QS)


def _before_step(tp_QAS: npt.NDArray[np.int64], ends_QS: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return [Q, A, S]: positives found up to the end of the step before the one that each clip is in."""
    at_ends_QAS = np.where(ends_QS[:, None, :], tp_QAS, 0)
    reached_QAS = np.maximum.accumulate(at_ends_QAS, axis=2)
    return np.concatenate([np.zeros_like(reached_QAS[:, :, :1]), reached_QAS[:, :, :-1]], axis=2)


def ranked_average_precision(
    positive_S: npt.NDArray[np.bool_], scores_S: Floats, max_clips: int | None = None
) -> float:
    """Return the area under precision over recall of the clip ranking by the trapezoid rule, 0 to 1.

    positive_S: whether a clip is a highlight
    scores_S:   finite, of any scale; of equal scores the earlier clip comes first
    max_clips:  how many clips of the ranking count, recall being over the positives among them; None for all

    As in UMT's evaluation of YouTube Highlights (all clips) and of TVSum (the first five). 0 when no clip that counts
    is positive, by that protocol. NaN when all scores are equal and there is more than one clip: that is no ranking.
    """
    positive_S, scores_S = np.asarray(positive_S, bool), np.asarray(scores_S, np.float64)
    if positive_S.ndim != 1 or positive_S.shape != scores_S.shape or not len(scores_S):
        raise ShapeError(f"labels {positive_S.shape} and scores {scores_S.shape} must both be [S], one value a clip")
    if not np.isfinite(scores_S).all():
        raise ShapeError(f"scores must be finite, {int((~np.isfinite(scores_S)).sum())} of {len(scores_S)} are not")
    if len(scores_S) > 1 and scores_S.min() == scores_S.max():
        return math.nan
    hits_K = positive_S[np.argsort(-scores_S, kind="stable")][:max_clips]
    if not hits_K.any():
        return 0.0
    tp_K = np.cumsum(hits_K)
    precision_K = tp_K / np.arange(1, len(hits_K) + 1)
    before_K = np.append(1.0, precision_K[:-1])
    return float(np.sum(hits_K * (before_K + precision_K) / 2) / tp_K[-1])


def top_k_average_precision(importance_AS: Floats, scores_S: Floats, k: int = 5) -> float:
    """Return the mean over annotators of the average precision of the `k` best shots of one video, as on TVSum.

    importance_AS: by each annotator, NaN where one gave none (the shot is then left out for that annotator)
    scores_S:      finite, of any scale

    A shot is a highlight for an annotator who rates it above their own median rating (the lower of the middle two),
    the "top 50%" labels of TVSum (Song et al., CVPR 2015). An annotator with no such shot among the `k` counts as 0,
    by the protocol of UMT. NaN when no annotator rated anything or all scores are equal. Raises ShapeError on unlike
    shapes and on scores that are not finite.
    """
    importance_AS, scores_S = np.asarray(importance_AS, np.float64), np.asarray(scores_S, np.float64)
    if importance_AS.ndim != 2 or importance_AS.shape[1:] != scores_S.shape:
        raise ShapeError(
            f"importance {importance_AS.shape} must be [A annotators, S shots] and scores {scores_S.shape} [S]"
        )
    if k < 1 or not np.isfinite(scores_S).all():
        raise ShapeError(f"top-{k}: k must be at least 1 and the scores finite, got {scores_S[:5].tolist()}")
    found = []
    for own_S in importance_AS:
        given_S = ~np.isnan(own_S)
        if given_S.any():
            own = own_S[given_S]
            median = np.sort(own)[(len(own) - 1) // 2]
            found.append(ranked_average_precision(own > median, scores_S[given_S], k))
    defined = [value for value in found if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def top_k_map(videos: Sequence[tuple[Floats, Floats]], k: int = 5) -> float:
    """Return the mean over videos of `top_k_average_precision`: the top-5 mAP of TVSum.

    videos: importance [A, S] and scores [S] of each

    A mean of means over annotators, then videos, because that is the benchmark's protocol. Videos where it is
    undefined are left out; NaN when it is in all.
    """
    values = [top_k_average_precision(importance_AS, scores_S, k) for importance_AS, scores_S in videos]
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
