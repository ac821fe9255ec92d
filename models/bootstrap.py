"""Intervals by bootstrap over videos: how far a figure could move with other footage of the same kind.

Frames of one video are alike, so a frame is not a sample and a video is: whole videos are drawn with replacement, as
in the cluster bootstrap of Field and Welsh, "Bootstrapping clustered data", JRSS B 2007. The interval is Efron's
percentile interval ("Bootstrap methods: another look at the jackknife", 1979). Knows counts, labels and scores with
the video of each frame; knows nothing of files or models.

An interval says how far a figure reaches; whether a champion is replaced is not decided by one. `benchmarks.gate_power`
held the rules that could decide it against each other, on test sets of 10, 30, 100 and 300 videos made after TVSum. At
a level of 5% an equal model, in the way of being equal that fools the rule most, replaced the champion in

- 10.8%, 8.3%, 6.8% and 6.3% of decisions by the paired percentile interval; 10.8%, 10.9%, 9.8% and 6.5% by BCa
- 7.8%, 10.0%, 8.7% and 6.3% by the studentised bootstrap
- 7.5%, 6.8%, 5.8% and 5.8% by exchanging the models video by video (`models.paired`)
- 95% and more by the rule of before, which let pass what was not surely worse (upper end of the interval at least 0)

Bootstraps fail where most videos tie, as between a model and its fine-tuning; all fail somewhat where the candidate is
far more uneven over videos. Bootstrapping the two models apart, not paired, about keeps the level (5.2%, 3.3%, 2.6%,
2.9%), but where highlights crowd into some videos it finds an improvement of 0.05 on 30 videos in 11% of decisions, and
the exchange in 45%. With each rule taken to the level at which it keeps to 5%, the exchange finds as many improvements
as any other to within chance (21%, 52%, 94%, 100%), and it is exact for a model trained again. So it is in force, at
2.5%: the largest level tried at which the upper confidence limit of its worst rate, too, lies below 5% (rates 4.2%,
3.8%, 3.4%, 3.2%; power 18%, 46%, 91%, 100%). The bootstrap stays what intervals are made by.

Shape legend: R replicates, V videos, N frames, K distinct scores, B calibration bins; a trailing 4 is tp, fp, fn, tn.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ModelError, ShapeError
from models.metrics import NUM_CALIBRATION_BINS, Counts, calibration_bins

Floats = npt.NDArray[np.float64]

# An interval of the replicates that happened to be defined would look surer than the footage allows.
MAX_UNDEFINED_FRACTION = 0.1
# Elements of one block of replicates times frames: 2 MB of float64, which stays in a processor's cache.
_BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with the asked confidence.

    low:  lower end, NaN where the interval is undefined
    high: upper end, at least low
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high or math.isnan(self.low) != math.isnan(self.high):
            raise ShapeError(f"interval [{self.low}, {self.high}]: low must not be above high, or both are NaN")


@dataclass(frozen=True)
class PairedDifference:
    """F1 of one model less F1 of another on the same videos.

    value:      difference on the videos as they are, NaN where either F1 is undefined
    low, high:  bootstrap interval of the difference, NaN where undefined
    confidence: of the interval, between 0 and 1
    num_videos: videos that both models were measured on
    """

    value: float
    low: float
    high: float
    confidence: float
    num_videos: int


def draw_weights(num_videos: int, num_replicates: int, seed: int) -> npt.NDArray[np.int64]:
    """Return int64 [R, V]: how often each replicate holds each video; every row sums to V."""
    if num_videos < 1 or num_replicates < 1:
        raise ShapeError(f"bootstrap: {num_videos} videos and {num_replicates} replicates, needs at least 1 of each")
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=num_replicates)


def percentile_interval(point: float, replicates_R: Floats, confidence: float, num_videos: int) -> Interval:
    """Return the percentile interval of `replicates_R`.

    Undefined (NaN, NaN) when the point is NaN, when there are fewer than two videos (one video says nothing of
    others), or when more than MAX_UNDEFINED_FRACTION of the replicates are NaN; fewer NaN replicates are left out.
    """
    if not 0 < confidence < 1:
        raise ShapeError(f"confidence must lie between 0 and 1, got {confidence}")
    undefined = np.isnan(replicates_R)
    if math.isnan(point) or num_videos < 2 or undefined.mean() > MAX_UNDEFINED_FRACTION:
        return Interval(math.nan, math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates_R[~undefined], [tail, 1 - tail])
    return Interval(float(low), float(high))


def count_replicates(counts_V4: Floats, weights_RV: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Return precision, recall, f1 and accuracy, each float64 [R], of the pooled counts of every replicate.

    NaN where `Counts` has NaN.
    """
    tp, fp, fn, tn = (weights_RV @ counts_V4).T
    return {
        "precision": _divide(tp, tp + fp),
        "recall": _divide(tp, tp + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "accuracy": _divide(tp + tn, tp + fp + fn + tn),
    }


def score_replicates(
    labels_N: npt.NDArray[np.integer],
    scores_N: Floats,
    videos_N: npt.NDArray[np.integer],
    weights_RV: npt.NDArray[np.int64],
) -> dict[str, Floats]:
    """Return average_precision, roc_auc and ece, each float64 [R], with every frame weighted as its video.

    videos_N: the video of each frame, 0 to V - 1
    NaN where the unweighted functions of `models.metrics` have NaN.
    """
    ranks = _Ranks.of(labels_N, scores_N, videos_N)
    num_rows = max(1, _BLOCK_ELEMENTS // max(1, len(scores_N)))
    blocks = [weights_RV[start : start + num_rows] for start in range(0, len(weights_RV), num_rows)]
    pairs = [ranks.weighted(block) for block in blocks]
    return {
        "average_precision": np.concatenate([pair[0] for pair in pairs]),
        "roc_auc": np.concatenate([pair[1] for pair in pairs]),
        "ece": _calibration_replicates(labels_N, scores_N, videos_N, weights_RV),
    }


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Frames in order of falling score, so that a replicate needs two running sums and no sorting.

    Frames of one video with the same score move together and are one cell, of C.

    positive: float64 [C], highlight frames
    total:    float64 [C], frames
    videos:   int64 [C]
    last:     int64 [K], the last cell of each run of equal scores
    """

    positive: Floats
    total: Floats
    videos: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    @staticmethod
    def of(labels_N: npt.NDArray[np.integer], scores_N: Floats, videos_N: npt.NDArray[np.integer]) -> "_Ranks":
        num_videos = int(videos_N.max()) + 1
        _, steps_N = np.unique(-scores_N, return_inverse=True)
        cells_C, cell_N = np.unique(steps_N * num_videos + videos_N, return_inverse=True)
        steps_C = cells_C // num_videos
        return _Ranks(
            positive=np.bincount(cell_N, labels_N).astype(np.float64),
            total=np.bincount(cell_N).astype(np.float64),
            videos=cells_C % num_videos,
            last=np.flatnonzero(np.append(steps_C[:-1] != steps_C[1:], True)),
        )

    def weighted(self, weights_RV: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return average precision [R] and ROC AUC [R]."""
        weights_RC = weights_RV[:, self.videos]
        tp_RK = np.cumsum(weights_RC * self.positive, axis=1)[:, self.last]
        all_RK = np.cumsum(weights_RC * self.total, axis=1)[:, self.last]
        fp_RK = all_RK - tp_RK
        positives_R, negatives_R = tp_RK[:, -1], fp_RK[:, -1]
        gained_RK = np.diff(tp_RK, axis=1, prepend=0)
        # Before the first drawn frame 0 of 0 is predicted, and nothing is gained there either.
        precision_RK = tp_RK / np.maximum(all_RK, 1)
        above_RK = fp_RK - np.diff(fp_RK, axis=1, prepend=0) / 2
        beaten_R = (gained_RK * (negatives_R[:, None] - above_RK)).sum(axis=1)
        average_R = _divide((gained_RK * precision_RK).sum(axis=1), positives_R)
        return average_R, _divide(beaten_R, positives_R * negatives_R)


def _calibration_replicates(
    labels_N: npt.NDArray[np.integer],
    scores_N: Floats,
    videos_N: npt.NDArray[np.integer],
    weights_RV: npt.NDArray[np.int64],
) -> Floats:
    num_videos = weights_RV.shape[1]
    cells_N = videos_N * NUM_CALIBRATION_BINS + calibration_bins(scores_N)
    size = num_videos * NUM_CALIBRATION_BINS
    gap_VB = np.bincount(cells_N, labels_N - scores_N, minlength=size).reshape(num_videos, NUM_CALIBRATION_BINS)
    frames_V = np.bincount(videos_N, minlength=num_videos)
    return _divide(np.abs(weights_RV @ gap_VB).sum(axis=1), (weights_RV @ frames_V).astype(np.float64))


def paired_f1_difference(
    first: Mapping[str, Counts],
    second: Mapping[str, Counts],
    *,
    num_bootstrap: int,
    seed: int,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return F1 of `first` less F1 of `second`, both given by video, with every replicate drawn once for both.

    Raises ModelError unless both cover the same videos with as many frames and highlights in each.
    """
    videos = pair_videos(first, second)
    weights_RV = draw_weights(len(videos), num_bootstrap, seed)
    points, replicates = [], []
    for counts in (first, second):
        counts_V4 = np.array([astuple(counts[video]) for video in videos], np.float64)
        points.append(Counts(*counts_V4.sum(axis=0)).f1)
        replicates.append(count_replicates(counts_V4, weights_RV)["f1"])
    value = points[0] - points[1]
    interval = percentile_interval(value, replicates[0] - replicates[1], confidence, len(videos))
    return PairedDifference(value, interval.low, interval.high, confidence, len(videos))


def pair_videos(first: Mapping[str, Counts], second: Mapping[str, Counts]) -> list[str]:
    """Return the videos of both, sorted. Raises ModelError unless both have all, with the same frames and labels."""
    only_first, only_second = sorted(set(first) - set(second)), sorted(set(second) - set(first))
    if only_first or only_second or not first:
        raise ModelError(
            f"paired comparison needs the same test videos for both models: only the first has {_some(only_first)}, "
            f"only the second has {_some(only_second)}, {len(set(first) & set(second))} in common; "
            "score both on the present test split"
        )
    for video in sorted(first):
        ours, theirs = first[video], second[video]
        shapes = [(round(c.num_frames, 6), round(c.tp + c.fn, 6)) for c in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"paired comparison: video {video} has {shapes[0][1]:g} highlights in {shapes[0][0]:g} frames for the "
                f"first model but {shapes[1][1]:g} in {shapes[1][0]:g} for the second; score both on the present labels"
            )
    return sorted(first)


def _some(videos: list[str]) -> str:
    shown = ", ".join(videos[:3]) or "none"
    return shown if len(videos) <= 3 else f"{shown} and {len(videos) - 3} more"


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    result = np.full(len(numerator), math.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
