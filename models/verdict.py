"""The gate's answer as a value: promoted or not, and every line that was judged with both of its numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import ModelError, ShapeError


@dataclass(frozen=True)
class VerdictLine:
    """One rule held against one number.

    name:       of the rule, e.g. min_f1
    passed:     whether `value comparison bound` holds
    value:      what was measured; None where it is missing or not a number
    bound:      what it is held against; None where that is missing or there is nothing to hold it against
    comparison: ">=", ">" or "<=", how value must stand to bound
    text:       one sentence for a person, with both numbers
    """

    name: str
    passed: bool
    value: float | None
    bound: float | None
    comparison: str
    text: str

    def __post_init__(self) -> None:
        if any(number is not None and not math.isfinite(number) for number in (self.value, self.bound)):
            raise ShapeError(f"verdict line {self.name}: {self.value} and {self.bound} must be finite or None")


@dataclass(frozen=True)
class Verdict:
    """Every line, and promoted only if all of them passed.

    promoted: whether the candidate may be served
    lines:    in the order they were judged, at least one
    """

    promoted: bool
    lines: tuple[VerdictLine, ...]

    def __post_init__(self) -> None:
        if not self.lines or self.promoted != all(line.passed for line in self.lines):
            raise ShapeError(f"verdict: promoted={self.promoted} does not follow from its {len(self.lines)} lines")

    @staticmethod
    def of(lines: tuple[VerdictLine, ...]) -> "Verdict":
        """Return the verdict that follows from `lines`."""
        return Verdict(bool(lines) and all(line.passed for line in lines), lines)

    @property
    def refusals(self) -> tuple[VerdictLine, ...]:
        """The lines that did not pass."""
        return tuple(line for line in self.lines if not line.passed)

    @property
    def text(self) -> str:
        """One line for a terminal: the verdict, and on refusal every line that failed."""
        if self.promoted:
            return f"promoted: all {len(self.lines)} lines passed"
        return "refused: " + "; ".join(f"{line.name}: {line.text}" for line in self.refusals)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"promoted": self.promoted, "lines": [asdict(line) for line in self.lines]}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Verdict":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        try:
            return Verdict(value["promoted"], tuple(VerdictLine(**line) for line in value["lines"]))
        except (KeyError, TypeError, ShapeError) as error:
            raise ModelError(f"verdict.json: not what the gate writes ({error}); run the gate stage again") from None
