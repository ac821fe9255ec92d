"""Keyshot F1: how well a summary of 15% of a video overlaps with the summaries that people made of it.

The protocol of SumMe (Gygli et al., "Creating Summaries from User Videos", ECCV 2014) and TVSum (Song et al., "TVSum:
Summarizing web videos using titles", CVPR 2015), as Zhang et al., "Video Summarization with Long Short-term Memory",
ECCV 2016, made it common: cut the video into shots, give each the mean of its frame scores, choose shots worth most in
all that fit into 15% of it, and compare frames. Otani et al., "Rethinking the Evaluation of Video Summaries", CVPR
2019, show that random scores come close to people by this figure, so the random and human rows belong beside it.

A unit is whatever is scored at even steps: a frame, a sampled frame, a 2 s shot. Knows arrays of units of one video.

Shape legend: N units, D features, K segments, A annotators, M change points.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeError
from models.metrics.frames import count_frames

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

SUMMARY_SHARE = 0.15
# The matrix of all segments has the square of this many values: 200 MB.
MAX_SEGMENTED = 5000
# The price of one more segment falls to nothing as segments come down to single units, and so on restless footage every
# unit would become one; Potapov et al. bound the number of segments by the length of the video for the same reason.
MIN_MEAN_LENGTH = 4


@dataclass(frozen=True)
class KeyshotF1:
    """F1 of one summary, or of a mean over summaries, with those of the annotators of one video.

    maximum:        with the annotator it agrees with best, as SumMe reports; 0 to 1, NaN where undefined
    mean:           over all annotators, as TVSum reports
    num_annotators: annotators with whom F1 is defined
    """

    maximum: float
    mean: float
    num_annotators: int


UNDEFINED_KEYSHOTS = KeyshotF1(math.nan, math.nan, 0)


def kernel_change_points(features_ND: Floats, *, max_changes: int | None = None, penalty: float = 1.0) -> Indices:
    """Return int64 [M], rising: the first unit of every segment but the first, M chosen automatically.

    features_ND: finite; the penalty is made for rows of unit length, for which kernel values are at most 1
    max_changes: most change points to consider; None for N / MIN_MEAN_LENGTH. Time grows with it times N squared
    penalty:     weight C of the number of segments, at least 0; more means fewer

    Kernel temporal segmentation (KTS): Potapov et al., "Category-specific video summarization", ECCV 2014. With the
    linear kernel the cost of a segment is the scatter of its units around their mean; a dynamic programme finds the
    least total L_m for every m, and the m is taken that minimises L_m / N + C m (log(N / m) + 1) / (2 N), the half
    being the authors' choice of constant. Raises ShapeError on anything but [N, D] of finite numbers, 1 <= N <= 5000.
    """
    features_ND = np.asarray(features_ND, np.float64)
    if features_ND.ndim != 2 or not 1 <= len(features_ND) <= MAX_SEGMENTED:
        raise ShapeError(f"KTS: features {features_ND.shape} must be [N, D], 1 <= N <= {MAX_SEGMENTED}; sample fewer")
    if not np.isfinite(features_ND).all():
        raise ShapeError(f"KTS: {int((~np.isfinite(features_ND)).any(axis=1).sum())} units have features not finite")
    num_units = len(features_ND)
    limit = min(num_units // MIN_MEAN_LENGTH if max_changes is None else max_changes, num_units - 1)
    if limit < 0 or penalty < 0:
        raise ShapeError(f"KTS: max_changes {max_changes} and penalty {penalty} must not be negative")
    totals_M, previous_MN = _best_segmentations(_segment_costs(features_ND), limit)
    changes_M = np.arange(limit + 1)
    logs_M = np.log(num_units / np.maximum(changes_M, 1)) + 1
    best = int(np.argmin(totals_M / num_units + penalty * changes_M * logs_M / (2 * num_units)))
    found = []
    end = num_units
    for changes in range(best, 0, -1):
        end = int(previous_MN[changes, end])
        found.append(end)
    return np.array(found[::-1], np.int64)


def _segment_costs(features_ND: Floats) -> Floats:
    """Return [N + 1, N + 1]: scatter of the units from row to column (not included), inf where that is none."""
    num_units = len(features_ND)
    kernel_NN = features_ND @ features_ND.T
    sums = np.zeros((num_units + 1, num_units + 1))
    sums[1:, 1:] = kernel_NN.cumsum(axis=0).cumsum(axis=1)
    diagonal = np.append(0.0, np.diagonal(kernel_NN).cumsum())
    corner = np.diagonal(sums)
    lengths = np.arange(num_units + 1)[None, :] - np.arange(num_units + 1)[:, None]
    inside = corner[None, :] - sums - sums.T + corner[:, None]
    costs = diagonal[None, :] - diagonal[:, None] - inside / np.maximum(lengths, 1)
    return np.where(lengths > 0, np.maximum(costs, 0.0), math.inf)


def _best_segmentations(costs: Floats, limit: int) -> tuple[Floats, Indices]:
    """Return the least cost [limit + 1] by number of changes, and where the last segment before each end starts."""
    num_ends = len(costs)
    totals = costs[0].copy()
    totals_M = [float(totals[-1])]
    previous_MN = np.zeros((limit + 1, num_ends), np.int64)
    ends = np.arange(num_ends)
    for changes in range(1, limit + 1):
        both = totals[:, None] + costs
        previous_MN[changes] = np.argmin(both, axis=0)
        totals = both[previous_MN[changes], ends]
        totals_M.append(float(totals[-1]))
    return np.array(totals_M), previous_MN


def segments_between(change_points_M: Indices, num_units: int) -> Indices:
    """Return int64 [K, 2]: first unit and the one after the last, of the segments between change points.

    Raises ShapeError unless the change points rise strictly inside 1 to `num_units` - 1.
    """
    edges = np.concatenate([[0], np.asarray(change_points_M, np.int64), [num_units]])
    if np.any(np.diff(edges) <= 0):
        raise ShapeError(f"change points must rise strictly from 1 to {num_units - 1}, got {edges[1:-1][:8].tolist()}")
    return np.stack([edges[:-1], edges[1:]], axis=1)


def choose_items(values_K: Floats, lengths_K: Indices, capacity: int) -> Flags:
    """Return bool [K]: the items of greatest total value whose lengths add up to at most `capacity`.

    values_K: finite; items worth 0 or less are never taken
    lengths_K: whole numbers, at least 1

    The 0/1 knapsack problem, exact by dynamic programming (Bellman, 1957) in K times `capacity` steps. An item is
    taken only where that gains something, so of equal choices the one with the earlier items is returned.
    """
    values_K, lengths_K = np.asarray(values_K, np.float64), np.asarray(lengths_K)
    if values_K.ndim != 1 or values_K.shape != lengths_K.shape or not np.isfinite(values_K).all():
        raise ShapeError(f"knapsack: values {values_K.shape} and lengths {lengths_K.shape} must be [K], values finite")
    if capacity < 0 or not np.issubdtype(lengths_K.dtype, np.integer) or np.any(lengths_K < 1):
        raise ShapeError(f"knapsack: capacity {capacity} must be 0 or more, lengths whole numbers from 1")
    best = np.zeros(capacity + 1)
    taken_KC = np.zeros((len(values_K), capacity + 1), bool)
    for index, (value, length) in enumerate(zip(values_K, lengths_K, strict=True)):
        if value > 0 and length <= capacity:
            with_it = best[: capacity + 1 - length] + value
            taken_KC[index, length:] = with_it > best[length:]
            best[length:] = np.maximum(best[length:], with_it)
    chosen_K = np.zeros(len(values_K), bool)
    left = capacity
    for index in range(len(values_K) - 1, -1, -1):
        if taken_KC[index, left]:
            chosen_K[index] = True
            left -= int(lengths_K[index])
    return chosen_K


def keyshot_summary(scores_N: Floats, segments_K2: Indices, share: float = SUMMARY_SHARE) -> Flags:
    """Return bool [N]: the units of the segments worth most in all that fit into `share` of the video.

    scores_N:    finite; a segment is worth the mean of its scores, as in the code that the literature shares
    segments_K2: first unit and the one after the last; they tile the video in order

    Nothing is chosen when no segment fits or none is worth more than 0.
    """
    scores_N, segments_K2 = np.asarray(scores_N, np.float64), np.asarray(segments_K2)
    _check_tiling(segments_K2, len(scores_N))
    if not np.isfinite(scores_N).all():
        raise ShapeError(f"keyshots: {int((~np.isfinite(scores_N)).sum())} of {len(scores_N)} scores are not finite")
    if not 0 < share <= 1:
        raise ShapeError(f"keyshots: share {share} of the video must lie above 0 and at most at 1")
    lengths_K = segments_K2[:, 1] - segments_K2[:, 0]
    means_K = np.add.reduceat(scores_N, segments_K2[:, 0]) / lengths_K
    return np.repeat(choose_items(means_K, lengths_K, math.floor(share * len(scores_N) + 1e-9)), lengths_K)


def keyshot_f1(summary_N: Flags, annotated_AN: Flags) -> KeyshotF1:
    """Return F1 over units of one summary with those of the annotators.

    An annotator who chose nothing is left out, since no summary could agree with theirs; NaN when all are. A summary
    that is empty where annotators chose something has F1 0: it found nothing.
    """
    summary_N, annotated_AN = np.asarray(summary_N, bool), np.asarray(annotated_AN, bool)
    if summary_N.ndim != 1 or annotated_AN.ndim != 2 or annotated_AN.shape[1:] != summary_N.shape:
        raise ShapeError(f"keyshots: summary {summary_N.shape} must be [N] and annotators' {annotated_AN.shape} [A, N]")
    found = [count_frames(chosen_N, summary_N).f1 for chosen_N in annotated_AN if chosen_N.any()]
    return KeyshotF1(max(found), math.fsum(found) / len(found), len(found)) if found else UNDEFINED_KEYSHOTS


def human_keyshot_f1(annotated_AN: Flags) -> KeyshotF1:
    """Return the human row: the mean over annotators of each one's F1 with all others (leave one out).

    NaN with fewer than two annotators.
    """
    annotated_AN = np.asarray(annotated_AN, bool)
    return _mean(
        [
            keyshot_f1(own_N, np.delete(annotated_AN, index, axis=0))
            for index, own_N in enumerate(annotated_AN)
            if own_N.any()
        ]
    )


def random_keyshot_f1(
    segments_K2: Indices, annotated_AN: Flags, *, num_draws: int = 100, seed: int = 0, share: float = SUMMARY_SHARE
) -> KeyshotF1:
    """Return the random row: the mean over `num_draws` of the F1 of a summary whose units score at random.

    Scores are uniform on 0 to 1 and then go the way of all scores, through segments and knapsack (Otani et al.).
    """
    generator = np.random.default_rng(seed)
    num_units = np.asarray(annotated_AN).shape[1]
    scores_RN = generator.random((num_draws, num_units))
    return _mean([keyshot_f1(keyshot_summary(scores_N, segments_K2, share), annotated_AN) for scores_N in scores_RN])


def _mean(found: list[KeyshotF1]) -> KeyshotF1:
    defined = [value for value in found if value.num_annotators]
    if not defined:
        return UNDEFINED_KEYSHOTS
    maximum, mean = (
        math.fsum(values) / len(defined) for values in zip(*((v.maximum, v.mean) for v in defined), strict=True)
    )
    return KeyshotF1(maximum, mean, max(value.num_annotators for value in defined))


def _check_tiling(segments_K2: Indices, num_units: int) -> None:
    whole = segments_K2.ndim == 2 and segments_K2.shape[1:] == (2,) and len(segments_K2)
    if (
        not whole
        or np.any(segments_K2[:, 1] <= segments_K2[:, 0])
        or np.any(segments_K2[1:, 0] != segments_K2[:-1, 1])
        or segments_K2[0, 0] != 0
        or segments_K2[-1, 1] != num_units
    ):
        raise ShapeError(f"keyshots: segments {segments_K2[:5].tolist()}, … must tile units 0 to {num_units} in order")
