"""Calibration: turning the logits of a model into probabilities that mean what they say.

Of the frames that score 0.7, seven in ten should be highlights. A network's logits are seldom so by themselves, so a
rising curve from logit to probability is fitted on val, stored with the model and applied wherever it scores. A
threshold is then a probability, and stays one from version to version. Every curve rises strictly, so it changes no
order of frames: average precision and ROC AUC stay what they are, but for frames that float32 cannot tell apart.

Knows logits and labels; knows nothing of files, models or videos, except how many videos the frames come from.
Shape legend: N frames, D distinct logits, K knots of an isotonic curve.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit

from models.errors import ModelError, ShapeError
from models.params import Section

Floats = npt.NDArray[np.float64]
CalibrationMethod = Literal["none", "temperature", "platt", "isotonic"]

# Past these a curve is a step or a line, which no val split of ordinary size can tell from a milder one.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_BIAS = 10.0
# Standard deviation of the prior on 1 / temperature about 1 and on the bias about 0, against a likelihood that counts
# videos. Of 0.1 to 2, 0.2 to 0.3 had the best log loss on the other half when fitted on halves of the sample's val.
PRIOR_SD = 0.25
# Share of the uncalibrated probability in an isotonic one, so that frames on one of its steps keep their order.
ORDER_SHARE = 1e-3


class CalibrationParams(Section):
    """Section `calibration` of params.yaml: how logits become probabilities, fitted on val."""

    method: CalibrationMethod = "temperature"
    """`temperature` (one figure), `platt` (temperature and bias), `isotonic` (a free rising curve) or `none`."""


@dataclass(frozen=True)
class Calibration:
    """A strictly rising curve from logit to probability.

    method:        none, temperature, platt or isotonic
    temperature:   what logits are divided by, MIN_TEMPERATURE to MAX_TEMPERATURE; 1 changes nothing
    bias:          what is added after that, at most MAX_BIAS either way; 0 but for platt
    logits:        [K] of the knots of an isotonic curve, rising strictly; empty where it has not been fitted
    probabilities: [K] at the knots, never falling, 0 to 1
    """

    method: CalibrationMethod = "none"
    temperature: float = 1.0
    bias: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in get_args(CalibrationMethod):
            raise ShapeError(f"calibration: method {self.method!r} must be one of {get_args(CalibrationMethod)}")
        if not (MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE and abs(self.bias) <= MAX_BIAS):
            raise ShapeError(
                f"calibration: temperature {self.temperature} must lie in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE}] "
                f"and bias {self.bias} in [-{MAX_BIAS}, {MAX_BIAS}]"
            )
        knots, heights = np.array(self.logits, np.float64), np.array(self.probabilities, np.float64)
        if knots.shape != heights.shape or not np.isfinite(knots).all() or np.any(np.diff(knots) <= 0):
            raise ShapeError(
                f"calibration: knots {knots.shape} must be finite, rise strictly and match {heights.shape}"
            )
        if not np.all((heights >= 0) & (heights <= 1)) or np.any(np.diff(heights) < 0):
            raise ShapeError("calibration: probabilities at the knots must lie in [0, 1] and never fall")

    def apply(self, logits_N: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return the probability float32 [N] of logits [N] of any shape.

        Temperature: sigmoid(logit / T), Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; with a bias
        as in Platt, "Probabilistic outputs for support vector machines", 1999. Isotonic: straight lines between the
        knots and level outside them, mixed with ORDER_SHARE of the plain sigmoid.
        """
        logits = np.asarray(logits_N, np.float64)
        if not self.logits:
            scores: Floats = expit(logits / self.temperature + self.bias)
        else:
            curve = np.interp(logits, np.array(self.logits), np.array(self.probabilities))
            scores = (1 - ORDER_SHARE) * curve + ORDER_SHARE * expit(logits)
        return scores.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "bias": self.bias,
            "logits": list(self.logits),
            "probabilities": list(self.probabilities),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any] | None) -> "Calibration":
        """Return the value that `to_json` wrote; None, as in models from before there was one, is no calibration.

        Raises ModelError for anything else.
        """
        if value is None:
            return NO_CALIBRATION
        try:
            knots = {name: tuple(map(float, value.get(name, ()))) for name in ("logits", "probabilities")}
            return Calibration(**{**value, **knots})
        except (TypeError, ValueError, ShapeError) as error:
            raise ModelError(f"model.json: calibration is not what herdlight writes ({error})") from None


NO_CALIBRATION = Calibration()


def fit_calibration(
    method: CalibrationMethod,
    logits_N: npt.NDArray[np.floating],
    labels_N: npt.NDArray[np.integer],
    videos_N: npt.NDArray[Any],
) -> Calibration:
    """Return the calibration of `method` fitted to the frames of val.

    logits_N: finite; labels_N: 0 or 1; videos_N: what video each frame is of, anything that can be compared

    Frames of one class, or none at all, say nothing of how sure a score is: the method's curve that changes nothing.
    Raises ShapeError on unlike shapes, labels other than 0 and 1, or logits that are not finite.
    """
    logits, labels = np.asarray(logits_N, np.float64), np.asarray(labels_N)
    if logits.ndim != 1 or not logits.shape == labels.shape == np.shape(videos_N):
        raise ShapeError(f"calibration: logits {logits.shape}, labels {labels.shape} and videos must all be [N]")
    if not np.isfinite(logits).all() or not np.isin(labels, (0, 1)).all():
        raise ShapeError("calibration: logits must be finite and labels 0 or 1")
    blank = Calibration(method)
    if method == "none" or len(np.unique(labels)) < 2:
        return blank
    if method == "isotonic":
        return _fit_isotonic(logits, labels.astype(np.float64))
    return _fit_temperature(blank, logits, labels.astype(np.float64), len(np.unique(videos_N)))


def _fit_temperature(blank: Calibration, logits_N: Floats, labels_N: Floats, num_videos: int) -> Calibration:
    """Return the temperature, and for platt the bias, of the greatest posterior.

    The likelihood counts each video once, since frames of one video say nearly the same (Field and Welsh, 2007), and
    the prior is a normal one about no change with PRIOR_SD. The sum is strictly convex in 1 / T and bias, so there is
    one answer, and scores that separate the classes perfectly do not drive it to infinity.
    """
    has_bias = blank.method == "platt"

    def loss(slope_and_bias: Floats) -> tuple[float, Floats]:
        slope, bias = float(slope_and_bias[0]), float(slope_and_bias[1])
        calibrated = slope * logits_N + bias
        likelihood = -np.mean(labels_N * log_expit(calibrated) + (1 - labels_N) * log_expit(-calibrated))
        prior = ((slope - 1) ** 2 + bias**2) / (2 * PRIOR_SD**2 * num_videos)
        rest = expit(calibrated) - labels_N
        slopes = np.array([np.mean(rest * logits_N) + (slope - 1) / (PRIOR_SD**2 * num_videos), 0.0])
        if has_bias:
            slopes[1] = np.mean(rest) + bias / (PRIOR_SD**2 * num_videos)
        return float(likelihood + prior), slopes

    limit = MAX_BIAS if has_bias else 0.0
    bounds = [(1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE), (-limit, limit)]
    best = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14})
    slope, bias = (float(value) for value in best.x)
    temperature = min(max(1 / slope, MIN_TEMPERATURE), MAX_TEMPERATURE)
    return replace(blank, temperature=temperature, bias=min(max(bias, -limit), limit))


def _fit_isotonic(logits_N: Floats, labels_N: Floats) -> Calibration:
    """Return the rising curve of least squared error.

    Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002, by
    pool adjacent violators (scipy). Equal logits are one point. A step keeps its first and last logit as knots.
    """
    distinct_D, inverse_N, frames_D = np.unique(logits_N, return_inverse=True, return_counts=True)
    share_D = np.bincount(inverse_N, labels_N) / frames_D
    fitted = isotonic_regression(share_D, weights=frames_D)
    heights = np.clip(fitted.x, 0.0, 1.0)
    starts, ends = fitted.blocks[:-1], fitted.blocks[1:] - 1
    knots = np.unique(np.concatenate([starts, ends]))
    rising = np.maximum.accumulate(heights[knots])
    return Calibration("isotonic", logits=tuple(distinct_D[knots].tolist()), probabilities=tuple(rising.tolist()))


def logit(scores_N: npt.NDArray[np.floating]) -> Floats:
    """Return float64 [N]: the logits of probabilities, those of 0 and 1 as far out as float32 can tell from them."""
    least = float(np.finfo(np.float32).tiny)
    scores = np.clip(np.asarray(scores_N, np.float64), least, 1 - 2.0**-25)
    return np.log(scores) - np.log1p(-scores)


def brier_score(labels_N: npt.NDArray[np.integer], scores_N: npt.NDArray[np.floating]) -> float:
    """Return the mean squared distance of probability and label, NaN without frames.

    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950.
    """
    if not len(scores_N):
        return math.nan
    return float(np.mean((np.asarray(scores_N, np.float64) - labels_N) ** 2))
