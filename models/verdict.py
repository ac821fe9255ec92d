"""The gate's answer as a value: promoted or not, every line that was judged with both of its numbers, and how small an
improvement the test set could have shown."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
class Resolution:
    """The smallest true improvement of F1 over a champion that a test set lets pass in most cases.

    It refuses nothing; it says what a refusal is worth.

    num_videos:    test videos
    detectable_f1: F1, at least 0; None where it is undefined or no improvement could ever pass
    power:         probability that a model better by `detectable_f1` passes, between 0 and 1
    level:         p-value that a champion's successor may have at most, between 0 and 1
    limit_f1:      above it the test set counts as too small, F1
    is_paired:     whether measured on the candidate and its champion; otherwise it is what a later candidate would need
                   whose errors have nothing to do with this one's, which is the most that any will need
    min_videos:    test videos without which no improvement can pass
    """

    num_videos: int
    detectable_f1: float | None
    power: float
    level: float
    limit_f1: float
    is_paired: bool
    min_videos: int

    def __post_init__(self) -> None:
        numbers = (self.power, self.level, self.limit_f1, 0.0 if self.detectable_f1 is None else self.detectable_f1)
        if not all(math.isfinite(number) for number in numbers) or numbers[-1] < 0:
            raise ShapeError(f"resolution: {numbers} must be finite, and the detectable difference at least 0 or None")

    @property
    def is_too_small(self) -> bool:
        """Whether the test set is too small to tell a better model from an equal one."""
        return self.detectable_f1 is None or self.detectable_f1 > self.limit_f1

    @property
    def text(self) -> str:
        """One or two sentences for a person."""
        videos = f"{self.num_videos} test video{'' if self.num_videos == 1 else 's'}"
        if self.num_videos < self.min_videos:
            return (
                f"the test set is too small to decide anything: with {videos} no improvement over a champion can be "
                f"shown, however large; it takes at least {self.min_videos}, and far more for a small one"
            )
        if self.detectable_f1 is None:
            return f"what improvement {videos} can show is undefined, since the F1 of the served engine is"
        whom = (
            "than the champion"
            if self.is_paired
            else "than this one, for a later candidate that errs in other places (less for one that errs alike)"
        )
        found = (
            f"the smallest improvement that {videos} can show is {self.detectable_f1:.4f}: a model whose F1 is better "
            f"by that {whom} passes in {self.power:.0%} of cases"
        )
        if not self.is_too_small:
            return found
        return (
            f"{found}. That is more than {self.limit_f1:g}: the test set is too small to tell a better model from an "
            "equal one; label more test videos"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, and for its readers what follows from them."""
        return asdict(self) | {"is_too_small": self.is_too_small, "text": self.text}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Resolution":
        """Return the value that `to_json` wrote. Raises KeyError with the name of a field that is missing."""
        return Resolution(**{field.name: value[field.name] for field in fields(Resolution)})


@dataclass(frozen=True)
class Verdict:
    """Every line, and promoted only if all of them passed.

    promoted:   whether the candidate may be served
    lines:      in the order they were judged, at least one
    resolution: what the test set can tell; None where nobody asked
    """

    promoted: bool
    lines: tuple[VerdictLine, ...]
    resolution: Resolution | None = None

    def __post_init__(self) -> None:
        if not self.lines or self.promoted != all(line.passed for line in self.lines):
            raise ShapeError(f"verdict: promoted={self.promoted} does not follow from its {len(self.lines)} lines")

    @staticmethod
    def of(lines: tuple[VerdictLine, ...], resolution: Resolution | None = None) -> "Verdict":
        """Return the verdict that follows from `lines`."""
        return Verdict(bool(lines) and all(line.passed for line in lines), lines, resolution)

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
        return {
            "promoted": self.promoted,
            "lines": [asdict(line) for line in self.lines],
            "resolution": self.resolution.to_json() if self.resolution else None,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Verdict":
        """Return the value that `to_json` wrote. Raises ModelError, naming what is missing, when it is not one."""
        try:
            lines = tuple(VerdictLine(**line) for line in value["lines"])
            resolution = value["resolution"]
            return Verdict(value["promoted"], lines, None if resolution is None else Resolution.from_json(resolution))
        except KeyError as error:
            raise ModelError(f"verdict.json: {error} is missing; run the gate stage again") from None
        except (TypeError, ShapeError) as error:
            raise ModelError(f"verdict.json: not what the gate writes ({error}); run the gate stage again") from None
