"""Learning curves from the history files, laid out in a box of 300 by 100.

A history row has `step` or `epoch` and any figures beside them; which figures are shown is fixed here. Knows nothing
of HTML.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 300.0, 100.0
_SHOWN: Mapping[str, str] = {
    "loss": "Loss on train",
    "val_loss": "Loss on val",
    "val_average_precision": "Average precision on val",
}
_TITLES: Mapping[str, str] = {"pretrain": "Pretraining", "train": "Fine-tuning", "prune": "Recovery after pruning"}


@dataclass(frozen=True)
class Curve:
    """One figure of one stage over its steps.

    title:       of the stage and the figure
    points:      "x,y x,y …" in the box
    first, last: values at both ends
    axis:        what runs along x, "step" or "epoch", with its last value
    """

    title: str
    points: str
    first: float
    last: float
    axis: str


def make_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """Return a curve for each shown figure that has at least two points."""
    curves = (
        _curve(rows, key, f"{_TITLES.get(stage, stage)}: {words.lower()}")
        for stage, rows in histories.items()
        for key, words in _SHOWN.items()
    )
    return [curve for curve in curves if curve is not None]


def _curve(rows: Sequence[Mapping[str, Any]], key: str, title: str) -> Curve | None:
    axis = "step" if any("step" in row for row in rows) else "epoch"
    values = [
        (float(row[axis]), float(row[key])) for row in rows if _is_number(row.get(axis)) and _is_number(row.get(key))
    ]
    if len(values) < 2:
        return None
    xs, ys = zip(*values, strict=True)
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    points = " ".join(
        f"{(x - left) / ((right - left) or 1) * WIDTH:.1f},{HEIGHT - (y - low) / ((high - low) or 1) * HEIGHT:.1f}"
        for x, y in values
    )
    return Curve(title, points, ys[0], ys[-1], f"{axis} {right:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
