"""The rules that could decide whether a candidate replaces the champion, side by side on the same draws of videos.

Each rule is a p-value of "the candidate's F1 is no higher", so that all can be asked at any level; the rule of before,
which only kept out what was surely worse, has one too. The rule in force is not copied: it is `models.paired`'s.

Shape legend: V videos, R replicates; a trailing 4 is tp, fp, fn, tn.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr

from models.bootstrap import count_replicates, draw_weights
from models.paired import Floats, draw_exchanges, exchange_p_values, f1_differences

RULE_IN_FORCE = "exchange"
# The rule of before refused when the upper end of the 95% interval lay below 0: passing at p at most 0.975.
RULE_OF_BEFORE, LEVEL_OF_BEFORE = "percentile", 0.975


@dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn once for many test sets of one size.

    weights:   int64 [R, V], how often a replicate holds each video
    others:    int64 [R, V], the same for the model that is not paired
    exchanges: float64 [E, V], 1 and -1
    """

    weights: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    exchanges: Floats

    @staticmethod
    def of(num_videos: int, num_replicates: int, seed: int) -> "Draws":
        """Return the draws for test sets of `num_videos`."""
        return Draws(
            draw_weights(num_videos, num_replicates, 2 * seed),
            draw_weights(num_videos, num_replicates, 2 * seed + 1),
            draw_exchanges(num_videos, seed),
        )


def p_values(candidate_V4: Floats, champion_V4: Floats, draws: Draws) -> dict[str, float]:
    """Return the p-value of each rule for one test set.

    unpaired:    percentile bootstrap that resamples the videos of the two models apart
    percentile:  paired percentile bootstrap (Efron, "Bootstrap methods: another look at the jackknife", 1979)
    bca:         paired, corrected for bias and acceleration (Efron, "Better bootstrap confidence intervals", 1987)
    studentised: paired bootstrap of the difference over its standard error (Hall, "Theoretical comparison of bootstrap
                 confidence intervals", 1988)
    t_test:      difference over its standard error against Student's t with V - 1 degrees of freedom
    exchange:    the two models exchanged video by video (`models.paired`)
    """
    first, second = candidate_V4[None], champion_V4[None]
    value, error = (float(part[0]) for part in f1_differences(first, second))
    replicates_R = _f1(candidate_V4, draws.weights) - _f1(champion_V4, draws.weights)
    apart_R = _f1(candidate_V4, draws.weights) - _f1(champion_V4, draws.others)
    t = _ratio(np.array([value]), np.array([error]))[0]
    return {
        "unpaired": _share(apart_R <= 0),
        "percentile": _share(replicates_R <= 0),
        "bca": _bca(value, replicates_R, _jackknife(candidate_V4, champion_V4)),
        "studentised": _share(_studentised(candidate_V4, champion_V4, draws.weights, value) >= t),
        "t_test": 1 - float(stdtr(len(candidate_V4) - 1, t)),
        RULE_IN_FORCE: float(exchange_p_values(first, second, draws.exchanges)[0]),
    }


def _f1(counts_V4: Floats, weights_RV: npt.NDArray[np.int64]) -> Floats:
    return np.nan_to_num(count_replicates(counts_V4, weights_RV)["f1"])


def _share(hits_R: npt.NDArray[np.bool_]) -> float:
    """Return the share of hits, the data themselves counted as one."""
    return float((1 + hits_R.sum()) / (1 + len(hits_R)))


def _ratio(values: Floats, errors: Floats) -> Floats:
    """Return values over errors; a value without any error is as far out as can be, and none at all is 0."""
    floor = 1e-12
    return np.where(errors > floor, values / np.maximum(errors, floor), np.sign(np.round(values, 12)) * 1e9)


def _studentised(candidate_V4: Floats, champion_V4: Floats, weights_RV: npt.NDArray[np.int64], value: float) -> Floats:
    """Return float64 [R]: each replicate's difference less `value`, over its own standard error.

    The squares of the videos' effects are sums of products of counts, so that weights times products gives them all.
    """
    num_videos = len(candidate_V4)
    columns = []
    for counts in (candidate_V4, champion_V4):
        columns += [2 * counts[:, 0], 2 * counts[:, 0] + counts[:, 1] + counts[:, 2]]
    x = np.stack(columns, axis=1)  # a1 b1 a2 b2, where F1 is a / b
    pairs = [(i, j) for i in range(4) for j in range(i, 4)]
    sums = weights_RV @ x
    products = weights_RV @ np.stack([x[:, i] * x[:, j] for i, j in pairs], axis=1)
    of_first, of_second = np.maximum(sums[:, 1], 1), np.maximum(sums[:, 3], 1)
    f_first, f_second = sums[:, 0] / of_first, sums[:, 2] / of_second
    factors = np.stack([1 / of_first, -f_first / of_first, -1 / of_second, f_second / of_second], axis=1)
    squares = np.zeros(len(sums))
    for column, (i, j) in enumerate(pairs):
        squares += (1 if i == j else 2) * factors[:, i] * factors[:, j] * products[:, column]
    # What is left of the cancelling when the models agree everywhere is rounding.
    errors = np.sqrt(np.where(squares > 1e-14, squares, 0) * num_videos / (num_videos - 1))
    return _ratio(f_first - f_second - value, errors)


def _jackknife(candidate_V4: Floats, champion_V4: Floats) -> Floats:
    """Return float64 [V]: the difference of F1 without each video in turn."""
    without = 1 - np.eye(len(candidate_V4), dtype=np.int64)
    return _f1(candidate_V4, without) - _f1(champion_V4, without)


def _bca(value: float, replicates_R: Floats, jackknife_V: Floats) -> float:
    """Return the p-value that turns the corrected interval's lower end to 0: its formula solved for the level."""
    below = (np.mean(replicates_R < value - 1e-12) + np.mean(replicates_R <= value + 1e-12)) / 2
    edge = 1 / (1 + len(replicates_R))
    bias = ndtri(np.clip(below, edge, 1 - edge))
    away_V = jackknife_V.mean() - jackknife_V
    spread = float((away_V**2).sum()) ** 1.5
    acceleration = float((away_V**3).sum()) / (6 * spread) if spread > 0 else 0.0
    at_zero = ndtri(np.clip(_share(replicates_R <= 0), edge, 1 - edge)) - bias
    return float(ndtr(at_zero / (1 + acceleration * at_zero) - bias))
