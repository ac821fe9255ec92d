"""What was measured on the test split, as a value that stages, the flow and the report hand to each other.

Knows its own JSON; computing is `tasks.evaluate`'s. In JSON an undefined figure is null, and reading makes it NaN
again: missing, null and NaN are the same thing here, and none of them is a number.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from models.bootstrap import PairedDifference
from models.errors import ModelError
from models.metrics import Counts

# The ladder, from the model that needs no labels to the one that is served, and what anything must beat.
MODEL_NAMES = ("zero_shot", "fine_tuned", "pruned", "compiled")
TRIVIAL_NAMES = ("all_positive", "random", "uniform")
METRIC_NAMES = ("precision", "recall", "f1", "accuracy", "average_precision", "roc_auc", "ece", "segment_map")
SERVED = "compiled"
OPTIONAL = "zero_shot"  # an encoder without a text tower has no such row


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval.

    value:     on the test split, NaN where undefined
    low, high: interval, NaN where undefined
    """

    value: float
    low: float
    high: float

    @property
    def is_complete(self) -> bool:
        """Whether all three are finite numbers."""
        return all(math.isfinite(part) for part in astuple(self))


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Row:
    """One line of the ladder.

    name:       of MODEL_NAMES or TRIVIAL_NAMES
    threshold:  chosen on val; None for a trivial row, which has none
    counts:     frames of the test split; fractions where they are expectations
    metrics:    one Estimate for each of METRIC_NAMES
    segment_ap: average precision of whole highlights by temporal IoU, "0.5" to "0.95", whose mean is `segment_map`
    """

    name: str
    threshold: float | None
    counts: Counts
    metrics: Mapping[str, Estimate]
    segment_ap: Mapping[str, float] = field(default_factory=dict)

    @property
    def f1(self) -> Estimate:
        """F1 at the threshold."""
        return self.metrics.get("f1", UNDEFINED)


@dataclass(frozen=True)
class Difference:
    """Paired F1 difference of row `name` less row `against` over the test videos."""

    name: str
    against: str
    f1: PairedDifference


@dataclass(frozen=True)
class Evaluation:
    """Every row on the test split.

    rows:           models in the order of MODEL_NAMES, then the trivial rows
    differences:    each model against all_positive and against the rung before it
    video_counts:   counts by model and video_id, so that another model can be paired with this one
    num_videos:     test videos
    num_frames:     test frames
    prevalence:     share of highlight frames in test
    val_prevalence: share of highlight frames in val, which the random and uniform rows know
    confidence:     of every interval
    num_bootstrap:  replicates of every interval
    seed:           of the replicates
    notes:          what a reader must know about these figures, one sentence each
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    video_counts: Mapping[str, Mapping[str, Counts]]
    num_videos: int
    num_frames: int
    prevalence: float
    val_prevalence: float
    confidence: float
    num_bootstrap: int
    seed: int
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> Row | None:
        """Return the row called `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def to_metrics(self) -> dict[str, float]:
        """Return the figures flat, `compiled_f1`, `compiled_f1_low`, …; NaN where undefined.

        Every row has its figures and the interval of its F1; all intervals are given for the served row only, since
        a table of them all is too wide to read (`to_json` has them).
        """
        flat: dict[str, float] = {}
        for row in self.rows:
            if row.threshold is not None:
                flat[f"{row.name}_threshold"] = row.threshold
            for name, estimate in row.metrics.items():
                flat[f"{row.name}_{name}"] = estimate.value
                if row.name == SERVED or name == "f1":
                    flat[f"{row.name}_{name}_low"] = estimate.low
                    flat[f"{row.name}_{name}_high"] = estimate.high
        for difference in self.differences:
            if difference.name == SERVED:
                key = f"{difference.name}_less_{difference.against}_f1"
                flat |= {key: difference.f1.value, f"{key}_low": difference.f1.low, f"{key}_high": difference.f1.high}
        return flat | {
            "test_prevalence": self.prevalence,
            "val_prevalence": self.val_prevalence,
            "num_test_videos": self.num_videos,
            "num_test_frames": self.num_frames,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; undefined figures are null."""
        return {
            "num_videos": self.num_videos,
            "num_frames": self.num_frames,
            "prevalence": _number(self.prevalence),
            "val_prevalence": _number(self.val_prevalence),
            "confidence": self.confidence,
            "num_bootstrap": self.num_bootstrap,
            "seed": self.seed,
            "notes": list(self.notes),
            "rows": [
                {
                    "name": row.name,
                    "kind": "model" if row.name in MODEL_NAMES else "trivial",
                    "threshold": row.threshold,
                    "counts": dict(zip(("tp", "fp", "fn", "tn"), astuple(row.counts), strict=True)),
                    **{name: _estimate_json(estimate) for name, estimate in row.metrics.items()},
                    "segment_ap": {iou: _number(value) for iou, value in row.segment_ap.items()},
                }
                for row in self.rows
            ],
            "differences": [
                {
                    "name": difference.name,
                    "against": difference.against,
                    **_estimate_json(Estimate(difference.f1.value, difference.f1.low, difference.f1.high)),
                    "num_videos": difference.f1.num_videos,
                }
                for difference in self.differences
            ],
            "video_counts": {
                model: {video: list(astuple(counts)) for video, counts in by_video.items()}
                for model, by_video in self.video_counts.items()
            },
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Evaluation":
        """Return what `to_json` wrote; a figure that is missing or null becomes NaN. Raises ModelError if malformed."""
        try:
            return _evaluation_of(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"evaluation.json: not what the evaluate stage writes ({type(error).__name__}: {error}); "
                "run the stage again"
            ) from None


def read_video_counts(value: Mapping[str, Any], model: str = SERVED) -> dict[str, Counts]:
    """Return the counts by video of `model` from the JSON object of an evaluation. Raises ModelError without them."""
    by_video = value.get("video_counts", {}).get(model)
    if not by_video:
        raise ModelError(f"evaluation.json: no video counts of {model!r}; run the evaluate stage again")
    return {video: Counts(*counts) for video, counts in by_video.items()}


def _evaluation_of(value: Mapping[str, Any]) -> Evaluation:
    confidence = float(value["confidence"])
    return Evaluation(
        rows=tuple(
            Row(
                name=row["name"],
                threshold=row["threshold"],
                counts=Counts(**row["counts"]),
                metrics={name: _estimate_of(row.get(name)) for name in METRIC_NAMES},
                segment_ap={iou: _float(value) for iou, value in row.get("segment_ap", {}).items()},
            )
            for row in value["rows"]
        ),
        differences=tuple(
            Difference(
                name=row["name"],
                against=row["against"],
                f1=_paired_of(row, confidence),
            )
            for row in value["differences"]
        ),
        video_counts={model: read_video_counts(value, model) for model in value["video_counts"]},
        num_videos=value["num_videos"],
        num_frames=value["num_frames"],
        prevalence=_float(value["prevalence"]),
        val_prevalence=_float(value["val_prevalence"]),
        confidence=confidence,
        num_bootstrap=value["num_bootstrap"],
        seed=value["seed"],
        notes=tuple(value.get("notes", ())),
    )


def _paired_of(row: Mapping[str, Any], confidence: float) -> PairedDifference:
    estimate = _estimate_of(row)
    return PairedDifference(estimate.value, estimate.low, estimate.high, confidence, row["num_videos"])


def _estimate_json(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _estimate_of(value: Mapping[str, Any] | None) -> Estimate:
    value = value or {}
    return Estimate(*(_float(value.get(part)) for part in ("value", "low", "high")))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
