"""The metrics of the field, one file a family, each with its paper; every name is to be had from here.

    frames    precision, recall, F1, accuracy, average precision, ROC AUC, calibration error
    keyshots  keyshot F1 of SumMe and TVSum: change points, knapsack, random and human rows
    moments   segment mAP and R1 at temporal IoU
    ranking   Kendall's tau-b and Spearman's rho per annotator
    saliency  highlight mAP and HIT@1 of QVHighlights, top-5 mAP of TVSum

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
from models.metrics.keyshots import (
    SUMMARY_SHARE,
    KeyshotF1,
    choose_items,
    human_keyshot_f1,
    kernel_change_points,
    keyshot_f1,
    keyshot_summary,
    random_keyshot_f1,
    segments_between,
)
from models.metrics.moments import (
    IOU_THRESHOLDS,
    Moments,
    RankedMoments,
    match_spans,
    mean_query_map,
    query_average_precision,
    recall_at_1,
    segment_map,
    temporal_iou,
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
from models.metrics.saliency import (
    RATING_LEVELS,
    RatedClips,
    highlight_map,
    hit_at_1,
    ranked_average_precision,
    top_k_average_precision,
    top_k_map,
)

__all__ = [
    "IOU_THRESHOLDS",
    "NEUTRAL_THRESHOLD",
    "NUM_CALIBRATION_BINS",
    "RATING_LEVELS",
    "SUMMARY_SHARE",
    "Counts",
    "KeyshotF1",
    "MeanCorrelation",
    "Moments",
    "PrecisionRecall",
    "RankCorrelation",
    "RankedMoments",
    "RatedClips",
    "annotator_against_each",
    "annotator_against_rest",
    "average_precision",
    "calibration_bins",
    "calibration_error",
    "choose_items",
    "choose_threshold",
    "count_frames",
    "highlight_map",
    "hit_at_1",
    "human_keyshot_f1",
    "kendall_tau",
    "kernel_change_points",
    "keyshot_f1",
    "keyshot_summary",
    "match_spans",
    "mean_over_videos",
    "mean_query_map",
    "per_annotator",
    "precision_recall_curve",
    "query_average_precision",
    "random_keyshot_f1",
    "ranked_average_precision",
    "recall_at_1",
    "roc_auc",
    "score_histogram",
    "segment_map",
    "segments_between",
    "spearman_rho",
    "temporal_iou",
    "top_k_average_precision",
    "top_k_map",
]
