"""What the videos of `benchmarks.gate_power` are made after: highlights and two models' errors on TVSum.

The truth is the annotators' mean score of a 2 s shot, the models are two ridge regressions on the stored features, each
trained on other videos. Fits, by the method of moments, the random-effects model that `benchmarks.gate_simulation`
draws from. TVSum: Song et al., "TVSum: Summarizing web videos using titles", CVPR 2015.

Shape legend: V videos, S shots of one video, N shots of all videos, D feature dimensions, K models (2).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

from models.errors import DataError, ModelError

Floats = npt.NDArray[np.float64]

NUM_COMPONENTS = 32
NUM_FOLDS = 5
# Of the folds tried with other seeds, the figures are means: 33 videos split in one way say little.
NUM_SPLITS = 10
RIDGE = 100.0


@dataclass(frozen=True)
class VideoModel:
    """Parameters of made videos; variances are shares of a latent variable with variance 1.

    num_shots:         shots of each video of 2 s, the list that lengths are drawn from
    prevalence:        share of highlight shots
    label_between:     share of the variance of the truth that lies between videos, 0 to 1
    label_lag1:        autocorrelation of the truth at one shot inside a video
    error_between:     share of the variance of a model's errors that is common to all shots of a video, 0 to 1
    error_lag1:        autocorrelation of the rest at one shot
    error_correlation: between the errors of two models on a shot, the part common to the video left out
    bias_correlation:  between the parts common to the video of two models
    skill_sd:          standard deviation over videos of a model's skill, which is the Fisher-transformed correlation of
                       its scores with the truth inside a video
    skill_correlation: between the skills of two models on a video
    """

    num_shots: tuple[int, ...]
    prevalence: float
    label_between: float
    label_lag1: float
    error_between: float
    error_lag1: float
    error_correlation: float
    bias_correlation: float
    skill_sd: float
    skill_correlation: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self) | {"num_shots": list(self.num_shots)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "VideoModel":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        try:
            return VideoModel(**{**value, "num_shots": tuple(value["num_shots"])})
        except (KeyError, TypeError) as error:
            raise ModelError(
                f"gate_power.json: no parameters of videos ({error}); run benchmarks.gate_power with ../shared"
            ) from None


def estimate(folder: Path) -> VideoModel:
    """Return the parameters of the videos in `folder` (tvsum_2s.h5, labels.json). Raises DataError without them."""
    import h5py  # not a dependency of herdlight: only this benchmark reads HDF5

    try:
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        with h5py.File(folder / "tvsum_2s.h5") as file:
            names = sorted(file)
            features = [np.asarray(file[name]["features"], np.float64) for name in names]
            truths = [np.asarray(file[name]["gt_score"], np.float64) for name in names]
    except (OSError, KeyError) as error:
        raise DataError(f"{folder}: not the TVSum folder that the benchmark reads ({error})") from None
    highlight_s = sum(end - start for name in names for start, end in labels[name]["highlights"])
    duration_s = sum(labels[name]["duration_s"] for name in names)
    return fit(features, truths, highlight_s / duration_s)


def fit(features: Sequence[Floats], truths: Sequence[Floats], prevalence: float, seed: int = 0) -> VideoModel:
    """Return the parameters of videos with `features` [S, D] and `truths` [S] each."""
    flat = np.concatenate(truths)
    latent = ndtri((rankdata(flat) - 0.5) / len(flat))  # normal scores: the model's truth is normal
    videos_N = np.repeat(np.arange(len(truths)), [len(truth) for truth in truths])
    parts = np.cumsum([len(truth) for truth in truths])[:-1]
    label_between, label_lag1 = variance_parts(np.split(latent, parts))
    components_ND = principal_components(np.concatenate(features), NUM_COMPONENTS)
    fits = []
    for split in range(NUM_SPLITS):
        scores_KN = two_models(components_ND, latent, videos_N, seed + split)
        fits.append(_error_parts(scores_KN, latent, parts))
    means = {key: float(np.mean([found[key] for found in fits])) for key in fits[0]}
    return VideoModel(tuple(len(truth) for truth in truths), prevalence, label_between, label_lag1, **means)


def principal_components(features_ND: Floats, num: int) -> Floats:
    """Return float64 [N, num], each component with variance 1."""
    centred = features_ND - features_ND.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scaled: Floats = (left * values)[:, :num] / (values[:num] / np.sqrt(len(centred)))
    return scaled


def two_models(x_ND: Floats, y_N: Floats, videos_N: npt.NDArray[np.int64], seed: int) -> Floats:
    """Return float64 [2, N]: scores of held-out shots by two ridge regressions that share no training video."""
    generator = np.random.default_rng(seed)
    num_videos = int(videos_N.max()) + 1
    order = generator.permutation(num_videos)
    scores_KN = np.zeros((2, len(y_N)))
    for fold in range(NUM_FOLDS):
        held = order[fold::NUM_FOLDS]
        rest = np.setdiff1d(order, held)
        half = generator.permutation(rest)
        test_N = np.isin(videos_N, held)
        for model, chosen in enumerate((half[::2], half[1::2])):
            train_N = np.isin(videos_N, chosen)
            x, y = x_ND[train_N], y_N[train_N]
            weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
            scores_KN[model, test_N] = x_ND[test_N] @ weights
    return scores_KN


def variance_parts(series: Sequence[Floats]) -> tuple[float, float]:
    """Return the share of variance between series, and the lag-1 autocorrelation inside them.

    A mean of S shots keeps within / S times (1 + r) / (1 - r) of the variance inside (the variance of the mean of a
    first-order autoregression), which is taken off the variance of the means.
    """
    inside = [values - values.mean() for values in series]
    within = sum(float(part @ part) for part in inside) / sum(len(part) - 1 for part in inside)
    products = sum(float(part[1:] @ part[:-1]) for part in inside)
    lag1 = products / sum(float(part @ part) for part in inside)
    lengths = np.array([len(part) for part in series])
    noise = float(np.mean(within / lengths * (1 + lag1) / (1 - lag1)))
    between = max(0.0, float(np.var([values.mean() for values in series], ddof=1)) - noise)
    return between / (between + within), lag1


def _error_parts(scores_KN: Floats, latent_N: Floats, parts: npt.NDArray[np.int64]) -> dict[str, float]:
    truths = [truth - truth.mean() for truth in np.split(latent_N, parts)]
    skills, errors, noises = [], [], []
    for scores_N in scores_KN:
        scores = np.split(scores_N, parts)
        slopes = [float(truth @ score / (truth @ truth)) for score, truth in zip(scores, truths, strict=True)]
        residuals = [score - slope * truth for score, slope, truth in zip(scores, slopes, truths, strict=True)]
        pairs = zip(scores, truths, strict=True)
        skills.append(np.arctanh([_correlation(score, truth) for score, truth in pairs]))
        noises.append(float(np.mean([_skill_noise(*pair) for pair in zip(residuals, truths, strict=True)])))
        errors.append(residuals)
    between_lag1 = np.array([variance_parts(residuals) for residuals in errors])
    inside = [np.concatenate([part - part.mean() for part in residuals]) for residuals in errors]
    means = [np.array([part.mean() for part in residuals]) for residuals in errors]
    excess = [float(skill.var(ddof=1)) - noise for skill, noise in zip(skills, noises, strict=True)]
    return {
        "error_between": float(between_lag1[:, 0].mean()),
        "error_lag1": float(between_lag1[:, 1].mean()),
        "error_correlation": _correlation(*inside),
        "bias_correlation": _correlation(*means),
        "skill_sd": float(np.sqrt(max(0.0, float(np.mean(excess))))),
        "skill_correlation": _correlation(*skills),
    }


def _skill_noise(residual_S: Floats, truth_S: Floats) -> float:
    """Return the sampling variance of a Fisher-transformed correlation of two autocorrelated series (Bartlett 1935)."""
    lag = _lag1(residual_S) * _lag1(truth_S)
    return 1 / max(1.0, len(truth_S) * (1 - lag) / (1 + lag) - 3)


def _correlation(first_N: Floats, second_N: Floats) -> float:
    return float(np.corrcoef(first_N, second_N)[0, 1])


def _lag1(values: Floats) -> float:
    centred = values - values.mean()
    return float(centred[1:] @ centred[:-1] / (centred @ centred))
