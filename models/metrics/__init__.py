"""The metrics of the field, one file a family, each with its paper; every name is to be had from here.

    frames    precision, recall, F1, accuracy, average precision, ROC AUC, calibration error
    ranking   Kendall's tau-b and Spearman's rho per annotator

They know arrays and values, and nothing of files or models. What is undefined is NaN, never silently 0; counts add, so
that a figure over many videos comes from pooled counts, unless the protocol of a benchmark asks for a mean: then its
docstring says so.
"""

from models.metrics.frames import (
    NEUTRAL_THRESHOLD,
    NUM_CALIBRATION_BINS,
    Counts,
    PrecisionRecall,
    average_precision,
    calibration_bins,
    calibration_error,
    choose_threshold,
    count_frames,
    precision_recall_curve,
    roc_auc,
    score_histogram,
)
from models.metrics.ranking import (
    MeanCorrelation,
    RankCorrelation,
    annotator_against_each,
    annotator_against_rest,
    kendall_tau,
    mean_over_videos,
    per_annotator,
    spearman_rho,
)

__all__ = [
    "NEUTRAL_THRESHOLD",
    "NUM_CALIBRATION_BINS",
    "Counts",
    "MeanCorrelation",
    "PrecisionRecall",
    "RankCorrelation",
    "annotator_against_each",
    "annotator_against_rest",
    "average_precision",
    "calibration_bins",
    "calibration_error",
    "choose_threshold",
    "count_frames",
    "kendall_tau",
    "mean_over_videos",
    "per_annotator",
    "precision_recall_curve",
    "roc_auc",
    "score_histogram",
    "spearman_rho",
]
