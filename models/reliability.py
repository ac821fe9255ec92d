"""Reliability: what share of the frames with a certain score are highlights, bin by bin.

Knows labels and scores, before and after calibration; knows nothing of files or pictures. DeGroot and Fienberg, "The
comparison and evaluation of forecasters", The Statistician 1983; bins of equal width as in Guo et al., ICML 2017.
Shape legend: N frames, B bins of equal width over [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.errors import ModelError
from models.metrics import NUM_CALIBRATION_BINS, calibration_bins, calibration_error


@dataclass(frozen=True)
class ReliabilityBin:
    """Frames whose scores lie in one bin.

    low, high:      of the bin, score
    num_frames:     frames in it
    num_highlights: of these, true highlights
    mean_score:     of its frames, None where there are none
    """

    low: float
    high: float
    num_frames: int
    num_highlights: int
    mean_score: float | None

    @property
    def share(self) -> float | None:
        """Share of highlights among the frames of the bin, None where there are none."""
        return self.num_highlights / self.num_frames if self.num_frames else None


@dataclass(frozen=True)
class Reliability:
    """How far scores are probabilities.

    bins: NUM_CALIBRATION_BINS of equal width over [0, 1], in order
    ece:  expected calibration error, 0 to 1 (`models.metrics.calibration_error`); NaN without frames
    """

    bins: tuple[ReliabilityBin, ...]
    ece: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"ece": None if np.isnan(self.ece) else self.ece, "bins": [vars(one) for one in self.bins]}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Reliability":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        try:
            ece = float("nan") if value["ece"] is None else float(value["ece"])
            return Reliability(tuple(ReliabilityBin(**one) for one in value["bins"]), ece)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"reliability.json: not what stage evaluate writes ({error}); run the stage again"
            ) from None


@dataclass(frozen=True)
class ReliabilityPair:
    """The same test frames after calibration and, where the frame table has those scores, before it."""

    after: Reliability
    before: Reliability | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"after": self.after.to_json(), "before": self.before and self.before.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ReliabilityPair":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        before = value.get("before")
        return ReliabilityPair(Reliability.from_json(value.get("after", {})), before and Reliability.from_json(before))


def measure_reliability(labels_N: npt.NDArray[np.integer], scores_N: npt.NDArray[np.floating]) -> Reliability:
    """Return the reliability of scores, 0 to 1, against labels, 0 or 1. Raises ShapeError as calibration_error does."""
    ece = calibration_error(labels_N, scores_N)
    edges = np.linspace(0, 1, NUM_CALIBRATION_BINS + 1)
    bins_N = calibration_bins(scores_N)
    frames_B, highlights_B, scores_B = (
        np.bincount(bins_N, weights, minlength=NUM_CALIBRATION_BINS)
        for weights in (None, labels_N, np.asarray(scores_N, np.float64))
    )
    return Reliability(
        tuple(
            ReliabilityBin(float(low), float(high), int(count), int(positive), float(total / count) if count else None)
            for low, high, count, positive, total in zip(
                edges[:-1], edges[1:], frames_B, highlights_B, scores_B, strict=True
            )
        ),
        ece,
    )


def reliability_of(predictions: pd.DataFrame) -> ReliabilityPair:
    """Return the reliability of a frame table (`models.predictions`) on its test rows."""
    test = predictions[predictions["split"] == "test"]
    labels = test["label"].to_numpy()
    before = measure_reliability(labels, test["raw_score"].to_numpy()) if "raw_score" in test.columns else None
    return ReliabilityPair(measure_reliability(labels, test["score"].to_numpy()), before)


def reliability_metrics(name: str, pair: ReliabilityPair) -> dict[str, float]:
    """Return the flat figures of a model: its calibration error before calibration; after it is the row's `ece`."""
    return {} if pair.before is None else {f"{name}_ece_uncalibrated": pair.before.ece}


def shares(bins: Sequence[ReliabilityBin]) -> npt.NDArray[np.float64]:
    """Return float64 [B]: the share of highlights in each bin, NaN where a bin is empty."""
    return np.array([np.nan if one.share is None else one.share for one in bins])
