"""Segment metrics: how well predicted spans of time agree with true ones, by temporal intersection over union (IoU).

Average precision of detection with greedy matching, Everingham et al., "The PASCAL Visual Object Classes (VOC)
Challenge", IJCV 2010, in its interpolated form of VOC 2011, on time instead of boxes as in ActivityNet (Caba Heilbron
et al., CVPR 2015), over the IoU thresholds 0.5:0.05:0.95 of COCO (Lin et al., ECCV 2014). Knows arrays of spans;
knows nothing of frames, files or models.

Two ways to the figure of many videos, both needed: `segment_map` pools all predictions into one ranking, as ActivityNet
does for a class, and is what herdlight reports; `mean_query_map` is the mean over queries of QVHighlights (Lei et al.,
"QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries", NeurIPS 2021).

Shape legend: P predictions, G true spans, T IoU thresholds, V videos, R replicates, K distinct confidences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError

Floats = npt.NDArray[np.float64]

IOU_THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
# Elements of one block of replicates times predictions: 2 MB of float64, which stays in a processor's cache.
_BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Moments:
    """Predicted and true spans of one video (or of one query on it).

    predicted: float64 [P, 2], start and end, seconds, end not before start
    scores:    float64 [P], confidence of each, finite, of any scale; comparable between videos
    truth:     float64 [G, 2], start and end, seconds, end after start
    """

    predicted: Floats
    scores: Floats
    truth: Floats

    def __post_init__(self) -> None:
        for name, spans in (("predicted", self.predicted), ("truth", self.truth)):
            if spans.ndim != 2 or spans.shape[1] != 2:
                raise ShapeError(f"{name} spans {spans.shape} must be [number, 2]: start and end in seconds")
            if not np.isfinite(spans).all() or np.any(spans[:, 1] < spans[:, 0]):
                raise ShapeError(f"{name} spans must be finite with start <= end, got {spans[:5].tolist()}")
        if self.scores.shape != (len(self.predicted),):
            raise ShapeError(f"{len(self.predicted)} predicted spans need as many scores, got {self.scores.shape}")
        if not np.isfinite(self.scores).all():
            num_bad = int((~np.isfinite(self.scores)).sum())
            raise ShapeError(f"scores of spans must be finite, {num_bad} of {len(self.scores)} are not")

    @staticmethod
    def of(predicted: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> "Moments":
        """Return moments from rows (start, end, score) and (start, end), seconds; either may be empty."""
        predicted_P3 = np.asarray(predicted, np.float64).reshape(len(predicted), 3 if not predicted else -1)
        if predicted_P3.shape[1] != 3:
            raise ShapeError(f"predicted spans {predicted_P3.shape} must be rows of start, end and score")
        truth_G2 = np.asarray(truth, np.float64).reshape(len(truth), 2 if not truth else -1)
        return Moments(predicted_P3[:, :2], predicted_P3[:, 2], truth_G2)


def temporal_iou(first_P2: Floats, second_G2: Floats) -> Floats:
    """Return float64 [P, G]: seconds in both spans over seconds in either; 0 where both are empty."""
    both_PG = np.minimum(first_P2[:, None, 1], second_G2[None, :, 1]) - np.maximum(
        first_P2[:, None, 0], second_G2[None, :, 0]
    )
    both_PG = np.clip(both_PG, 0, None)
    lengths_P, lengths_G = (spans[:, 1] - spans[:, 0] for spans in (first_P2, second_G2))
    either_PG = lengths_P[:, None] + lengths_G[None, :] - both_PG
    iou_PG: Floats = np.divide(both_PG, either_PG, out=np.zeros_like(both_PG), where=either_PG > 0)
    return iou_PG


def match_spans(iou_PG: Floats, thresholds_T: Sequence[float] = IOU_THRESHOLDS) -> npt.NDArray[np.bool_]:
    """Return bool [T, P]: whether each prediction is a true positive, at each IoU threshold.

    iou_PG: predictions in order of falling confidence

    Each prediction in turn takes the free true span that it overlaps most, if their IoU is at least the threshold; of
    equals the last. A true span is taken once, and so a second prediction of it is a false positive.
    """
    num_predicted, num_true = iou_PG.shape
    matched_TP = np.zeros((len(thresholds_T), num_predicted), bool)
    if not num_true:
        return matched_TP
    thresholds = np.asarray(thresholds_T, np.float64)
    free_TG = np.ones((len(thresholds), num_true), bool)
    rows_T = np.arange(len(thresholds))
    for index, iou_G in enumerate(iou_PG):
        open_TG = np.where(free_TG, iou_G, -1.0)[:, ::-1]
        best_T = num_true - 1 - np.argmax(open_TG, axis=1)
        found_T = free_TG[rows_T, best_T] & (iou_G[best_T] >= thresholds)
        matched_TP[:, index] = found_T
        free_TG[rows_T[found_T], best_T[found_T]] = False
    return matched_TP


@dataclass(frozen=True, eq=False)
class RankedMoments:
    """All predictions of a set of videos in one ranking, matched: what pooled average precision is made of.

    Predictions of one video with equal confidence move together and are one cell, of C, in order of falling confidence.

    matched:   float64 [T, C], true positives
    predicted: float64 [C], predictions
    videos:    int64 [C], index of each cell's video
    last:      int64 [K], the last cell of each run of equal confidence
    truths:    float64 [V], true spans of each video
    """

    matched: Floats
    predicted: Floats
    videos: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    truths: Floats

    @staticmethod
    def of(videos: Sequence[Moments], thresholds_T: Sequence[float] = IOU_THRESHOLDS) -> "RankedMoments":
        """Match the spans of each video with its own truth and rank all predictions together."""
        matched, scores = [np.zeros((len(thresholds_T), 0), bool)], [np.zeros(0)]
        for video in videos:
            order_P = np.argsort(-video.scores, kind="stable")
            matched.append(match_spans(temporal_iou(video.predicted[order_P], video.truth), thresholds_T))
            scores.append(video.scores[order_P])
        videos_P = np.repeat(np.arange(len(videos)), [len(video.scores) for video in videos])
        _, steps_P = np.unique(-np.concatenate(scores), return_inverse=True)
        cells_C, cell_P = np.unique(steps_P * max(1, len(videos)) + videos_P, return_inverse=True)
        steps_C = cells_C // max(1, len(videos))
        return RankedMoments(
            matched=np.stack(
                [np.bincount(cell_P, row_P, minlength=len(cells_C)) for row_P in np.concatenate(matched, axis=1)]
            ),
            predicted=np.bincount(cell_P, minlength=len(cells_C)).astype(np.float64),
            videos=(cells_C % max(1, len(videos))).astype(np.int64),
            last=np.flatnonzero(np.append(steps_C[:-1] != steps_C[1:], [True] * bool(len(steps_C)))),
            truths=np.array([len(video.truth) for video in videos], np.float64),
        )

    def average_precision(self) -> Floats:
        """Return float64 [T]; NaN without a true span, 0 with true spans and no prediction."""
        average_T: Floats = self.replicates(np.ones((1, len(self.truths)), np.int64))[0]
        return average_T

    def replicates(self, weights_RV: npt.NDArray[np.int64]) -> Floats:
        """Return float64 [R, T]: average precision with every video's spans counted as often as its weight."""
        num_rows = max(1, _BLOCK_ELEMENTS // max(1, len(self.videos)))
        blocks = [weights_RV[start : start + num_rows] for start in range(0, len(weights_RV), num_rows)]
        return np.concatenate([self._block(block) for block in blocks])

    def _block(self, weights_RV: npt.NDArray[np.int64]) -> Floats:
        truths_R = weights_RV @ self.truths
        weights_RC = weights_RV[:, self.videos].astype(np.float64)
        predicted_RK = np.cumsum(weights_RC * self.predicted, axis=1)[:, self.last]
        found = []
        for matched_C in self.matched:
            tp_RK = np.cumsum(weights_RC * matched_C, axis=1)[:, self.last]
            found.append(_interpolated(tp_RK, predicted_RK, truths_R))
        return np.stack(found, axis=1)


def _interpolated(tp_RK: Floats, predicted_RK: Floats, truths_R: Floats) -> Floats:
    """Return [R]: area under the precision envelope, whose value is the best precision at any later step."""
    # Before the first drawn prediction 0 of 0 is right, and nothing is gained there either.
    precision_RK = tp_RK / np.maximum(predicted_RK, 1)
    envelope_RK = np.maximum.accumulate(precision_RK[:, ::-1], axis=1)[:, ::-1]
    gained_R = (np.diff(tp_RK, axis=1, prepend=0) * envelope_RK).sum(axis=1)
    average_R: Floats = np.divide(gained_R, truths_R, out=np.full(len(truths_R), math.nan), where=truths_R > 0)
    return average_R


def segment_map(videos: Sequence[Moments], thresholds_T: Sequence[float] = IOU_THRESHOLDS) -> float:
    """Return the mean over IoU thresholds of the average precision of all predictions in one ranking, 0 to 1.

    Pooled as in ActivityNet: a video without a true span adds its false positives, one with many counts for more.
    Predictions of equal confidence are one step, so that their order means nothing. NaN when no video has a true
    span; 0 when some have and nothing is predicted, since then none of them is found.
    """
    return float(RankedMoments.of(videos, thresholds_T).average_precision().mean())


def query_average_precision(
    query: Moments, thresholds_T: Sequence[float] = IOU_THRESHOLDS, max_predicted: int | None = 10
) -> Floats:
    """Return float64 [T]: average precision of one query as QVHighlights counts it.

    max_predicted: how many of the predictions count, the first as given; None for all

    Predictions of equal confidence stay in the order given, which is the benchmark's rule. NaN without a true span,
    0 without a prediction.
    """
    predicted_P2, scores_P = query.predicted[:max_predicted], query.scores[:max_predicted]
    order_P = np.argsort(-scores_P, kind="stable")
    matched_TP = match_spans(temporal_iou(predicted_P2[order_P], query.truth), thresholds_T)
    tp_TP = np.cumsum(matched_TP, axis=1, dtype=np.float64)
    ranks_TP = np.broadcast_to(np.arange(1.0, len(scores_P) + 1), tp_TP.shape)
    return _interpolated(tp_TP, ranks_TP, np.full(len(tp_TP), float(len(query.truth))))


def mean_query_map(
    queries: Sequence[Moments], thresholds_T: Sequence[float] = IOU_THRESHOLDS, max_predicted: int | None = 10
) -> Floats:
    """Return float64 [T]: mean over queries of their average precision, the MR-mAP of QVHighlights.

    A mean over queries and not a pooled figure, because that is the benchmark's protocol: every query weighs the same.
    Queries without a true span are left out; NaN when none has one. A query without a prediction counts as 0.
    """
    answerable = [query for query in queries if len(query.truth)]
    if not answerable:
        return np.full(len(thresholds_T), math.nan)
    average_QT = np.stack([query_average_precision(query, thresholds_T, max_predicted) for query in answerable])
    mean_T: Floats = average_QT.mean(axis=0)
    return mean_T


def recall_at_1(queries: Sequence[Moments], thresholds_T: Sequence[float] = IOU_THRESHOLDS) -> Floats:
    """Return float64 [T]: share of queries whose first prediction overlaps a true span at least so much (R1 at IoU).

    The first prediction as given, as in QVHighlights, and not the one of highest confidence. The IoU there divides by
    the hull of both spans, which is their union wherever they overlap. Queries without a true span are left out; NaN
    when none has one. A query without a prediction is a miss.
    """
    best = [
        float(temporal_iou(query.predicted[:1], query.truth).max()) if len(query.predicted) else -1.0
        for query in queries
        if len(query.truth)
    ]
    if not best:
        return np.full(len(thresholds_T), math.nan)
    recall_T: Floats = (np.array(best)[:, None] >= np.asarray(thresholds_T)).mean(axis=0)
    return recall_T
