"""Made videos with the counts of two models whose true F1 is known: what `benchmarks.gate_power` draws test sets from.

The truth of a shot is a first-order autoregression over the shots of a video, cut at the prevalence. The score of a
model is r times the truth plus sqrt(1 - r^2) times its error; r differs by video (its difficulty), the error has a part
common to the video and an autoregressive one, and all of these are correlated between the two models. A large pool of
such videos is the population, so that the true F1 of a model is its F1 on the pool and "equal" is exact.

Shape legend: V videos of the pool, N shots of all of them, K models (champion, candidate); a trailing 4 is tp, fp, fn,
tn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter
from scipy.special import ndtri

from benchmarks.gate_tvsum import VideoModel

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CHAMPION_F1 = 0.70
GAIN_F1 = 0.05
# An operating point above and one below the best threshold cost this much F1 of a model that could have more.
TRADE_OFF_F1 = 0.03
TWIN_SHARE = 0.2
PATCHY_BETWEEN = 0.5


@dataclass(frozen=True, eq=False)
class Population:
    """Videos with both models' counts.

    champion:  float64 [V, 4]
    candidate: float64 [V, 4], of the same videos
    """

    champion: Floats
    candidate: Floats

    def draw(self, num_videos: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Return candidate and champion counts, [num_videos, 4] each, of videos drawn with replacement."""
        chosen = generator.integers(0, len(self.champion), num_videos)
        return self.candidate[chosen], self.champion[chosen]

    @property
    def gain(self) -> float:
        """True F1 of the candidate less that of the champion."""
        return _f1(self.candidate) - _f1(self.champion)


@dataclass(frozen=True, eq=False)
class Footage:
    """The shots of a pool before any model is chosen.

    videos_N:  int64 [N], video of each shot
    truth_N:   float64 [N], variance 1
    labels_N:  bool [N]
    errors_KN: float64 [2, N], variance 1
    skills_KV: float64 [2, V], each video's departure from the mean skill, Fisher-transformed
    """

    videos_N: npt.NDArray[np.int64]
    truth_N: Floats
    labels_N: Flags
    errors_KN: Floats
    skills_KV: Floats

    def scores(self, model: int, skill: float) -> Floats:
        """Return float64 [N]: scores of a model whose mean Fisher-transformed correlation with the truth is `skill`."""
        r_N = np.tanh(skill + self.skills_KV[model])[self.videos_N]
        scores_N: Floats = r_N * self.truth_N + np.sqrt(1 - r_N**2) * self.errors_KN[model]
        return scores_N

    def counts(self, predicted_N: Flags) -> Floats:
        """Return float64 [V, 4]."""
        cells = (self.labels_N, ~self.labels_N, self.labels_N, ~self.labels_N)
        flags = (predicted_N, predicted_N, ~predicted_N, ~predicted_N)
        num_videos = self.skills_KV.shape[1]
        columns = [np.bincount(self.videos_N, cell & flag, num_videos) for cell, flag in zip(cells, flags, strict=True)]
        return np.stack(columns, axis=1)


def film(model: VideoModel, num_videos: int, seed: int) -> Footage:
    """Return footage of about `num_videos` videos, as many of each length."""
    generator = np.random.default_rng(seed)
    each = max(1, round(num_videos / len(model.num_shots)))
    total = each * len(model.num_shots)
    lengths = np.repeat(model.num_shots, each)
    videos_N = np.repeat(np.arange(total), lengths)
    level_V = generator.standard_normal(total)
    truth_N = _mixed(level_V[videos_N], _autoregression(model, each, model.label_lag1, generator), model.label_between)
    biases = _correlated(generator.standard_normal((2, total)), model.bias_correlation)
    inside = [_autoregression(model, each, model.error_lag1, generator) for _ in range(2)]
    inside_KN = _correlated(np.stack(inside), model.error_correlation)
    return Footage(
        videos_N=videos_N,
        truth_N=truth_N,
        labels_N=truth_N > ndtri(1 - model.prevalence),
        errors_KN=_mixed(biases[:, videos_N], inside_KN, model.error_between),
        skills_KV=model.skill_sd * _correlated(generator.standard_normal((2, total)), model.skill_correlation),
    )


def equal_models(model: VideoModel, num_videos: int, seed: int) -> dict[str, Population]:
    """Return populations in which champion and candidate have the same F1, by the way in which they are equal.

    retrained:   the same model trained again: errors alike in kind and amount, either may be either
    near_twin:   the same, but on four videos of five the two agree entirely (a model fine-tuned from the other)
    sparing:     the candidate flags less (higher precision, lower recall) than the champion
    generous:    the candidate flags more
    very_uneven: the candidate's skill varies over videos twice as much: far better on some, far worse on others
    patchy:      as retrained, where highlights crowd into some videos (TVSum's annotators spread theirs evenly)
    """
    footage = film(model, num_videos, seed)
    retrained = _both_ways(_equal_pair(footage, CHAMPION_F1))
    few, many = _operating_points(footage)
    uneven = replace(footage, skills_KV=footage.skills_KV * np.array([[1.0], [2.0]]))
    patchy = film(_filmed(model, "patchy"), num_videos, seed + 1)
    return {
        "retrained": retrained,
        "near_twin": _twin(retrained, seed + 2),
        "sparing": Population(champion=many[0], candidate=few[1]),
        "generous": Population(champion=few[0], candidate=many[1]),
        "very_uneven": _equal_pair(uneven, CHAMPION_F1),
        "patchy": _both_ways(_equal_pair(patchy, CHAMPION_F1)),
    }


def better_models(
    model: VideoModel,
    num_videos: int,
    seed: int,
    gain_f1: float = GAIN_F1,
    names: Sequence[str] = ("retrained", "patchy"),
) -> dict[str, Population]:
    """Return populations in which the candidate's F1 is `gain_f1` above the champion's CHAMPION_F1.

    retrained and patchy: as in `equal_models`, but for the candidate's higher mean skill
    """
    footages = {name: film(_filmed(model, name), num_videos, seed + (name == "patchy")) for name in names}
    targets = (CHAMPION_F1, CHAMPION_F1 + gain_f1)
    return {name: Population(*_pair(footage, targets)) for name, footage in footages.items()}


def _filmed(model: VideoModel, name: str) -> VideoModel:
    return replace(model, label_between=PATCHY_BETWEEN) if name == "patchy" else model


def _equal_pair(footage: Footage, f1: float) -> Population:
    return Population(*_pair(footage, (f1, f1)))


def _pair(footage: Footage, targets: tuple[float, float]) -> list[Floats]:
    """Return the counts of each model at its best threshold, its skill chosen so that its F1 there is the target."""
    counts = []
    for model, target in enumerate(targets):
        scores_N, threshold = _train(footage, model, target)
        counts.append(footage.counts(scores_N >= threshold))
    return counts


def _train(footage: Footage, model: int, f1: float) -> tuple[Floats, float]:
    """Return the scores of a model with best F1 `f1`, and the threshold where it has that."""

    def best_f1(skill: float) -> float:
        return _best(footage.labels_N, footage.scores(model, skill))[1]

    scores_N = footage.scores(model, _solve(best_f1, f1, 0.0, 3.0))
    return scores_N, _best(footage.labels_N, scores_N)[0]


def _operating_points(footage: Footage) -> tuple[list[Floats], list[Floats]]:
    """Return the counts of each model flagging less, and flagging more, than is best; F1 is CHAMPION_F1 in all four."""
    few, many = [], []
    for model in range(2):
        scores_N, best = _train(footage, model, CHAMPION_F1 + TRADE_OFF_F1)

        few.append(_flagged(footage, scores_N, best, 1.0))
        many.append(_flagged(footage, scores_N, best, -1.0))
    return few, many


def _flagged(footage: Footage, scores_N: Floats, best: float, direction: float) -> Floats:
    """Return the counts at the threshold above (1) or below (-1) the best one where F1 has come down to CHAMPION_F1."""

    def loss(distance: float) -> float:
        return -_f1(footage.counts(scores_N >= best + direction * distance))

    return footage.counts(scores_N >= best + direction * _solve(loss, -CHAMPION_F1, 0.0, 3.0))


def _both_ways(pair: Population) -> Population:
    """Return every pair also with the models exchanged, so that they are equal to the last digit."""
    return Population(np.concatenate([pair.champion, pair.candidate]), np.concatenate([pair.candidate, pair.champion]))


def _twin(pair: Population, seed: int) -> Population:
    """Return the pairs with one count for both where the two agree; halves stay mirrored, so F1 stays equal."""
    half = len(pair.champion) // 2
    differ = np.tile(np.random.default_rng(seed).random(half) < TWIN_SHARE, 2)
    return Population(pair.champion, np.where(differ[:, None], pair.candidate, pair.champion))


def _best(labels_N: Flags, scores_N: Floats) -> tuple[float, float]:
    """Return the threshold with the best pooled F1, and that F1."""
    order = np.argsort(-scores_N)
    tp_N = np.cumsum(labels_N[order])
    f1_N = 2 * tp_N / (np.arange(1, len(tp_N) + 1) + tp_N[-1])
    index = int(np.argmax(f1_N))
    return float(scores_N[order[index]]), float(f1_N[index])


def _solve(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return where a rising function meets its target, by bisection to 2^-20 of the range."""
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return (low + high) / 2


def _f1(counts_V4: Floats) -> float:
    tp, fp, fn, _ = counts_V4.sum(axis=0)
    return float(2 * tp / (2 * tp + fp + fn))


def _mixed(between: Floats, inside: Floats, share: float) -> Floats:
    mixed: Floats = np.sqrt(share) * between + np.sqrt(1 - share) * inside
    return mixed


def _correlated(rows_KN: Floats, correlation: float) -> Floats:
    """Return two independent rows made to correlate; each keeps its variance."""
    common = correlation * rows_KN[0] + np.sqrt(1 - correlation**2) * rows_KN[1]
    return np.stack([rows_KN[0], common])


def _autoregression(model: VideoModel, each: int, lag1: float, generator: np.random.Generator) -> Floats:
    """Return float64 [N]: a first-order autoregression of variance 1 inside each video."""
    parts = []
    for length in model.num_shots:
        noise = generator.standard_normal((each, length))
        noise[:, 1:] *= np.sqrt(1 - lag1**2)
        parts.append(lfilter([1.0], [1.0, -lag1], noise, axis=1).ravel())
    return np.concatenate(parts)


def describe(populations: Mapping[str, Population]) -> dict[str, dict[str, float]]:
    """Return what was drawn from: true F1 of both models, and how their counts correlate over videos."""
    return {
        name: {
            "champion_f1": _f1(population.champion),
            "candidate_f1": _f1(population.candidate),
            "tp_correlation": float(np.corrcoef(population.champion[:, 0], population.candidate[:, 0])[0, 1]),
            "fp_correlation": float(np.corrcoef(population.champion[:, 1], population.candidate[:, 1])[0, 1]),
        }
        for name, population in populations.items()
    }
