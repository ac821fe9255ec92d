"""The ladder of models as tables and as a forest plot, from the content of evaluation.json.

Shows whatever figures stand in a row, so that a metric which a later stage adds needs no line here but a plainer
name. Knows JSON and a box to draw in; knows nothing of HTML.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.evaluation import SERVED, Estimate

# Plain names of figures, in the order of the columns; a figure that is not here follows under its own name.
FIGURE_NAMES: Mapping[str, str] = {
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "average_precision": "Average precision",
    "segment_map": "Segment mAP",
    "roc_auc": "ROC AUC",
    "accuracy": "Accuracy",
    "ece": "Calibration error",
    "kendall_tau": "Kendall \N{GREEK SMALL LETTER TAU}",
    "spearman_rho": "Spearman \N{GREEK SMALL LETTER RHO}",
    "top5_map": "Top-5 mAP",
}
_NOT_FIGURES = ("name", "kind", "threshold", "counts", "num_undefined", "videos")
_TITLES: Mapping[str, str] = {"importance": "Against the scores that several people gave"}


@dataclass(frozen=True)
class Table:
    """Rows of models and columns of figures.

    title:   "" for the ladder itself
    columns: keys of the figures, in order
    rows:    content of a row of evaluation.json each, and its figures in the order of the columns
    notes:   one sentence each
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Mapping[str, Any], tuple[Estimate, ...]], ...]
    notes: tuple[str, ...] = ()

    @property
    def headings(self) -> tuple[str, ...]:
        """Plain names of the columns."""
        return tuple(FIGURE_NAMES.get(key, key.replace("_", " ")) for key in self.columns)


@dataclass(frozen=True)
class ForestRow:
    """A line of the forest plot; positions in percent of its width.

    name:      of the row
    kind:      served, model or trivial
    estimate:  F1 with its interval
    dot:       of the value, None where undefined
    left, width: of the interval, None where undefined
    """

    name: str
    kind: str
    estimate: Estimate
    dot: float | None
    left: float | None
    width: float | None


def make_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Return the ladder and every other table of the content of evaluation.json: each value that has `rows`."""
    others = [
        _table(_TITLES.get(key, key.replace("_", " ").capitalize()), value)
        for key, value in evaluation.items()
        if isinstance(value, Mapping) and isinstance(value.get("rows"), Sequence)
    ]
    return [_table("", evaluation), *(table for table in others if table.columns)]


def _table(title: str, value: Mapping[str, Any]) -> Table:
    rows = [row for row in value["rows"] if isinstance(row, Mapping)]
    found = dict.fromkeys(key for row in rows for key, figure in row.items() if _is_figure(key, figure))
    columns = tuple(sorted(found, key=lambda key: list(FIGURE_NAMES).index(key) if key in FIGURE_NAMES else 999))
    return Table(
        title,
        columns,
        tuple((row, tuple(_estimate(row.get(key)) for key in columns)) for row in rows),
        tuple(value.get("notes") or ()) if title else (),
    )


def _is_figure(key: str, value: Any) -> bool:
    return key not in _NOT_FIGURES and (_is_number(value) or (isinstance(value, Mapping) and "value" in value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _estimate(value: Any) -> Estimate:
    parts = value if isinstance(value, Mapping) else {"value": value}
    numbers: list[Any] = [parts.get(key) for key in ("value", "low", "high")]
    return Estimate(*(float(number) if _is_number(number) else math.nan for number in numbers))


def make_forest(evaluation: Mapping[str, Any], figure: str = "f1") -> list[ForestRow]:
    """Return a line for each row of the content of evaluation.json, on a scale from 0 to 1 in percent."""
    lines = []
    for row in evaluation["rows"]:
        estimate = _estimate(row.get(figure))
        kind = "served" if row["name"] == SERVED else "trivial" if row.get("kind") == "trivial" else "model"
        dot = None if math.isnan(estimate.value) else estimate.value * 100
        left = estimate.low * 100 if estimate.is_complete else None
        width = None if left is None else estimate.high * 100 - left
        lines.append(ForestRow(row["name"], kind, estimate, dot, left, width))
    return lines
