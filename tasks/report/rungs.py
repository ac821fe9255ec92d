"""The compression ladder for the page and the model card, from the content of ladder.json.

Says in plain words what each rung is and why it was taken or not. Knows rows of the table; knows nothing of HTML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.ladder import EAGER, REFERENCE, Figures, Part, Rung, RungResult

_RUNNERS: Mapping[str, str] = {
    "eager": "PyTorch",
    "eager-bf16": "PyTorch",
    "torchscript": "TorchScript",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch-compile": "PyTorch's compiler",
    "aot": "PyTorch's compiler ahead of time",
    "tensorrt": "TensorRT",
    "tensorrt-int8": "TensorRT",
    "tensorrt-fp8": "TensorRT",
}
_NUMBERS: Mapping[str, str] = {
    "float32": "full numbers",
    "bfloat16": "numbers of half the length",
    "float16": "numbers of half the length",
    "int8": "numbers of a quarter of the length",
    "fp8": "numbers of a quarter of the length",
}
_CHANGES: Mapping[str, str] = {"pruning": "a smaller network", "tokens": "fewer patches of each picture"}
_STATES: Mapping[str, str] = {
    "measured": "worth it",
    "rejected": "not taken",
    "built": "built, cannot run here",
    "failed": "failed",
    "not_possible": "not possible",
}


@dataclass(frozen=True)
class Line:
    """One rung as the page shows it.

    name:      as in params
    meaning:   in plain words
    state:     in plain words; kind: good, bad or "" for its colour
    reason:    one sentence
    is_chosen: whether it is the one that the ladder took
    figures:   None where it was not measured
    speedup:   frames a second at its best batch, times those of the reference; None likewise
    """

    name: str
    meaning: str
    state: str
    kind: str
    reason: str
    is_chosen: bool
    figures: Figures | None
    speedup: float | None


@dataclass(frozen=True)
class LadderTable:
    """The table with its verdict.

    lines:       in the order of the table, the reference first
    max_f1_drop: loss of F1 that had to be ruled out
    device:      what it was measured on
    methods:     how energy was obtained, in words; "" where it was not taken
    """

    lines: tuple[Line, ...]
    max_f1_drop: float
    device: str
    methods: str

    @property
    def chosen(self) -> Line:
        """The line of the chosen rung."""
        return next(line for line in self.lines if line.is_chosen)

    @property
    def reference(self) -> Line:
        """The line of the model as it was trained."""
        return next(line for line in self.lines if line.name == REFERENCE.name)

    @property
    def savings(self) -> dict[str, float | None]:
        """Speed, bytes and energy of the chosen rung, times those of the reference; None where not known."""
        chosen, reference = self.chosen.figures, self.reference.figures
        assert chosen is not None
        assert reference is not None
        energies = chosen.kwh_per_1000, reference.kwh_per_1000
        return {
            "speed": self.chosen.speedup,
            "disk": chosen.disk_mb / reference.disk_mb if reference.disk_mb else None,
            "energy": energies[0] / energies[1] if energies[0] and energies[1] else None,
        }


def read_ladder(value: Mapping[str, Any]) -> LadderTable:
    """Return the table of the content of ladder.json. Raises ModelError for a row that is none."""
    rows = [RungResult.from_json(row) for row in value["rungs"]]
    reference = next(row.figures for row in rows if row.rung == REFERENCE)
    assert reference is not None
    methods = {row.figures.energy_method for row in rows if row.figures is not None} - {None}
    lines = tuple(_line(row, value, reference) for row in rows)
    return LadderTable(lines, value["max_f1_drop"], value["device"], ", ".join(sorted(map(str, methods))))


def _line(row: RungResult, value: Mapping[str, Any], reference: Figures) -> Line:
    name, is_chosen = row.rung.name, row.rung.name == value["chosen"]
    told = str(value["reasons"].get(name) or row.reason or "")
    reason = told.removeprefix("chosen; ").removeprefix(f"{row.status.replace('_', ' ')}: ")
    return Line(
        name=name,
        meaning=describe_rung(row.rung),
        state="chosen" if is_chosen else _STATES[row.status],
        kind="good" if row.status == "measured" else "bad" if row.status == "failed" else "",
        reason=reason,
        is_chosen=is_chosen,
        figures=row.figures,
        speedup=None if row.figures is None else row.figures.best.frames_per_s / reference.best.frames_per_s,
    )


def describe_rung(rung: Rung) -> str:
    """Return in plain words what a rung is."""
    if rung == REFERENCE:
        return "the model as it was trained"
    return ", ".join(_describe(part) for part in rung.parts if part != EAGER)


def _describe(part: Part) -> str:
    if part.kind != "runtime":
        return _CHANGES[part.kind]
    runner, numbers = _RUNNERS.get(part.engine, part.engine), _NUMBERS.get(part.precision, part.precision)
    return f"run by {runner}, {numbers}"
