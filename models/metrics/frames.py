"""Frame metrics: how well scores and a threshold agree with labels.

Knows labels, scores and counts; knows nothing of videos, files or models. A frame is predicted positive when
`score >= threshold`. A metric that is undefined for its input is NaN, never silently 0; each function says when.

Shape legend: N frames, K distinct scores, B bins.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError

Labels = npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]

NEUTRAL_THRESHOLD = 0.5
# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, uses M = 15 bins of equal width.
NUM_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Counts:
    """Frames by prediction and truth; counts of disjoint sets of frames add up with `+`.

    tp: predicted positive, is positive; frames, a fraction where the count is an expectation
    fp: predicted positive, is negative
    fn: predicted negative, is positive
    tn: predicted negative, is negative
    """

    tp: float
    fp: float
    fn: float
    tn: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in astuple(self)):
            raise ShapeError(f"counts must be finite and at least 0, got {astuple(self)}")

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def num_frames(self) -> float:
        """All frames counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float:
        """tp / (tp + fp); NaN when nothing was predicted positive."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """tp / (tp + fn); NaN when no frame is positive."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); NaN when no frame is positive and none was predicted positive."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float:
        """(tp + tn) / all; NaN without frames."""
        return _ratio(self.tp + self.tn, self.num_frames)

    @property
    def prevalence(self) -> float:
        """Share of positive frames; NaN without frames."""
        return _ratio(self.tp + self.fn, self.num_frames)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def count_frames(labels_N: Labels, predicted_N: npt.NDArray[np.bool_]) -> Counts:
    """Return the counts of N frames from labels (0 or 1) and predictions."""
    positive_N = np.asarray(labels_N).astype(bool)
    if positive_N.shape != predicted_N.shape or positive_N.ndim != 1:
        raise ShapeError(f"labels {positive_N.shape} and predictions {predicted_N.shape} must both be [N]")
    tp = int(np.sum(positive_N & predicted_N))
    fp = int(np.sum(~positive_N & predicted_N))
    fn = int(np.sum(positive_N & ~predicted_N))
    return Counts(tp, fp, fn, len(positive_N) - tp - fp - fn)


def choose_threshold(labels_N: Labels, scores_N: Scores) -> float:
    """Return the threshold with the best F1 over N frames; of several equally good ones the highest.

    labels_N: 0 or 1
    scores_N: finite, any scale; float32 scores give a threshold that is exact in float32

    The candidates are the scores themselves, since F1 changes nowhere else. With positives only, that is the lowest
    score (everything is predicted positive). Without a positive there is nothing to choose by: NEUTRAL_THRESHOLD.
    Raises ShapeError on unlike shapes, no frames, labels other than 0 and 1, or scores that are not finite.
    """
    positive_N, scores_N = _checked(labels_N, scores_N)
    if not len(scores_N):
        raise ShapeError("choose_threshold: no frames; it needs at least one labelled frame")
    if not positive_N.any():
        return NEUTRAL_THRESHOLD
    thresholds_K, tp_K, fp_K = _cumulative(positive_N, scores_N)
    num_positive = tp_K[-1]
    f1_K = 2 * tp_K / (tp_K + fp_K + num_positive)  # 2 tp + fp + fn, where fn = positives - tp
    return float(thresholds_K[int(np.argmax(f1_K))])  # thresholds fall, and argmax takes the first of equals


def average_precision(labels_N: Labels, scores_N: Scores) -> float:
    """Return the sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation; equal scores are one step.

    NaN when no frame is positive (recall has no meaning). 1 when all are. The definition of scikit-learn and of
    Su et al., "A relationship between the average precision and the area under the ROC curve", ICTIR 2015.
    """
    positive_N, scores_N = _checked(labels_N, scores_N)
    if not positive_N.any():
        return math.nan
    _, tp_K, fp_K = _cumulative(positive_N, scores_N)
    gained_K = np.diff(tp_K, prepend=0)
    return float(np.sum(gained_K * tp_K / (tp_K + fp_K)) / tp_K[-1])


def roc_auc(labels_N: Labels, scores_N: Scores) -> float:
    """Return the probability that a positive frame scores above a negative one, equal scores counting half.

    NaN unless both classes are present. Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982.
    """
    positive_N, scores_N = _checked(labels_N, scores_N)
    num_positive = int(positive_N.sum())
    num_negative = len(positive_N) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    _, tp_K, fp_K = _cumulative(positive_N, scores_N)
    gained_K = np.diff(tp_K, prepend=0)
    # A positive of step k beats the negatives of later steps, and half of those of its own step.
    below_K = num_negative - (fp_K + np.concatenate([[0], fp_K[:-1]])) / 2
    return float(np.sum(gained_K * below_K) / (num_positive * num_negative))


def calibration_bins(scores_N: Scores, num_bins: int = NUM_CALIBRATION_BINS) -> npt.NDArray[np.int64]:
    """Return int64 [N]: the bin of each score among `num_bins` of equal width over [0, 1], 1.0 in the last."""
    return np.clip((np.asarray(scores_N, np.float64) * num_bins).astype(np.int64), 0, num_bins - 1)


def calibration_error(labels_N: Labels, scores_N: Scores, num_bins: int = NUM_CALIBRATION_BINS) -> float:
    """Return the expected calibration error: mean over frames of |share of positives - mean score| of their bin.

    NaN without frames. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, in its binary
    form: the confidence is the probability of highlight, not that of the likelier class.
    """
    positive_N, scores_N = _checked(labels_N, scores_N)
    if not len(scores_N):
        return math.nan
    if scores_N.min() < 0 or scores_N.max() > 1:
        raise ShapeError(f"calibration needs scores in [0, 1], got [{scores_N.min()}, {scores_N.max()}]")
    gap_B = np.bincount(calibration_bins(scores_N, num_bins), positive_N - scores_N, minlength=num_bins)
    return float(np.abs(gap_B).sum() / len(scores_N))


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One point for each distinct score, from the highest down.

    thresholds: float64 [K], falling
    precision:  float64 [K], share of the predicted that is positive
    recall:     float64 [K], share of the positive that is predicted, rising to 1
    """

    thresholds: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]


def precision_recall_curve(labels_N: Labels, scores_N: Scores) -> PrecisionRecall:
    """Return precision and recall at each distinct score; recall is NaN when no frame is positive."""
    positive_N, scores_N = _checked(labels_N, scores_N)
    thresholds_K, tp_K, fp_K = _cumulative(positive_N, scores_N)
    num_positive = int(positive_N.sum())
    recall_K = tp_K / num_positive if num_positive else np.full(len(tp_K), math.nan)
    return PrecisionRecall(thresholds_K, tp_K / (tp_K + fp_K), recall_K)


def score_histogram(labels_N: Labels, scores_N: Scores, num_bins: int = 20) -> npt.NDArray[np.int64]:
    """Return int64 [2, B]: frames by label (row 0 and 1) and bin of equal width over [0, 1]."""
    positive_N, scores_N = _checked(labels_N, scores_N)
    bins_N = calibration_bins(scores_N, num_bins)
    return np.stack([np.bincount(bins_N[positive_N == value], minlength=num_bins) for value in (False, True)])


def _checked(labels_N: Labels, scores_N: Scores) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    labels, scores = np.asarray(labels_N), np.asarray(scores_N, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ShapeError(f"labels {labels.shape} and scores {scores.shape} must both be [N]")
    if not np.isin(labels, (0, 1)).all():
        raise ShapeError(f"labels must be 0 or 1, got {np.unique(labels)[:5].tolist()}")
    if not np.isfinite(scores).all():
        raise ShapeError(f"scores must be finite, {int((~np.isfinite(scores)).sum())} of {len(scores)} are not")
    return labels.astype(bool), scores


def _cumulative(
    positive_N: npt.NDArray[np.bool_], scores_N: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return falling distinct scores [K] and the positives and negatives [K] at or above each."""
    order_N = np.argsort(-scores_N, kind="stable")
    falling_N = scores_N[order_N]
    last_K = np.flatnonzero(np.append(falling_N[:-1] != falling_N[1:], [True] * bool(len(falling_N))))
    tp_K = np.cumsum(positive_N[order_N], dtype=np.int64)[last_K]
    return falling_N[last_K], tp_K, (last_K + 1 - tp_K).astype(np.int64)
