"""The compression ladder as values: a rung, what was measured of it, and the policy that chooses one.

A rung is a way to make the model smaller or faster: its parts change the network (pruning, tokens) or what runs it
(runtime). Knows figures and how to decide between them; knows nothing of how a rung is built or measured.

A figure that does not exist is null in JSON and NaN or None here, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.bootstrap import PairedDifference
from models.errors import ModelError, ParamsError, ShapeError
from models.evaluation import Estimate

# In the order in which they are applied to a model.
KINDS = ("pruning", "tokens", "runtime")
STATUSES = ("measured", "built", "rejected", "failed", "not_possible")
WITH_FIGURES = ("measured", "rejected")
JOIN = "+"


@dataclass(frozen=True)
class Part:
    """One step of a rung.

    kind:      of KINDS; `runtime` is the arithmetic and the engine together
    name:      as in params.yaml, without "+"
    engine:    engine of `models.engines` that runs it; "" unless kind is runtime
    precision: arithmetic that the engine is built for; "" unless kind is runtime
    """

    kind: str
    name: str
    engine: str = ""
    precision: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not self.name or JOIN in self.name:
            raise ParamsError(f"rung part {self.name!r} of kind {self.kind!r}: kinds are {', '.join(KINDS)}")
        if (self.kind == "runtime") != bool(self.engine and self.precision):
            raise ParamsError(f"rung part {self.name!r}: a runtime has an engine and a precision, and nothing else has")


EAGER = Part("runtime", "float32", "eager", "float32")
# What asks less of the machine that serves first: of two that are equally fast the earlier is served.
RUNTIMES: Mapping[str, Part] = {
    part.name: part
    for part in (
        EAGER,
        Part("runtime", "bfloat16", "eager-bf16", "bfloat16"),
        Part("runtime", "torchscript", "torchscript", "float32"),
        Part("runtime", "torchscript-bfloat16", "torchscript", "bfloat16"),
        Part("runtime", "onnx", "onnx", "float32"),
        Part("runtime", "openvino", "openvino", "float32"),
        Part("runtime", "openvino-bfloat16", "openvino", "bfloat16"),
        Part("runtime", "openvino-int8", "openvino", "int8"),
        Part("runtime", "compiled", "torch-compile", "float32"),
        Part("runtime", "compiled-bfloat16", "torch-compile", "bfloat16"),
        Part("runtime", "aot", "aot", "float32"),
        Part("runtime", "aot-bfloat16", "aot", "bfloat16"),
        Part("runtime", "tensorrt", "tensorrt", "float16"),
        Part("runtime", "tensorrt-int8", "tensorrt-int8", "int8"),
        Part("runtime", "tensorrt-fp8", "tensorrt-fp8", "fp8"),
    )
}


@dataclass(frozen=True)
class Rung:
    """A way to make the model smaller or faster.

    parts: at most one of each kind, in the order of KINDS, the last a runtime
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        kinds = [part.kind for part in self.parts]
        if kinds != [kind for kind in KINDS if kind in kinds] or "runtime" not in kinds:
            raise ParamsError(f"rung of {kinds}: needs one runtime, and at most one of each kind in the order {KINDS}")

    @property
    def name(self) -> str:
        """Names of its parts joined by "+"; the plain runtime is left out beside another part."""
        shown = [part.name for part in self.parts if part != EAGER] or [EAGER.name]
        return JOIN.join(shown)

    @property
    def kind(self) -> str:
        """Kinds of its parts joined by "+", the plain runtime left out as in `name`."""
        return JOIN.join(part.kind for part in self.parts if part != EAGER) or EAGER.kind

    @property
    def runtime(self) -> Part:
        """The engine and its arithmetic."""
        return self.parts[-1]

    @property
    def complexity(self) -> int:
        """Number of steps away from the float32 model."""
        return sum(part != EAGER for part in self.parts)


REFERENCE = Rung((EAGER,))


def parse_rung(name: str, others: Mapping[str, Part]) -> Rung:
    """Return the rung called `name`: names of parts joined by "+", in any order; without a runtime it runs in eager.

    others: parts that are no runtime, by name
    Raises ParamsError for an unknown part and for two of one kind.
    """
    known = {**RUNTIMES, **others}
    unknown = [part for part in name.split(JOIN) if part not in known]
    if unknown:
        raise ParamsError(f"ladder.rungs: {name!r}: no part {unknown[0]!r}; there are {', '.join(known)}")
    parts = [known[part] for part in name.split(JOIN)]
    if all(part.kind != "runtime" for part in parts):
        parts.append(EAGER)
    return Rung(tuple(sorted(parts, key=lambda part: KINDS.index(part.kind))))


@dataclass(frozen=True)
class Speed:
    """Frames a second in batches of one size.

    batch_size:   frames of a batch
    frames_per_s: median over the rounds, each all its frames over all its time; above 0
    spread:       half the distance from slow rounds to fast ones, frames/s, at least 0
    """

    batch_size: int
    frames_per_s: float
    spread: float

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not (0 < self.frames_per_s < math.inf) or not (0 <= self.spread < math.inf):
            raise ShapeError(f"speed: must be positive with a spread of at least 0, got {self}")

    @property
    def slowest(self) -> float:
        """Lower end, frames/s; may lie below 0."""
        return self.frames_per_s - self.spread

    @property
    def fastest(self) -> float:
        """Upper end, frames/s."""
        return self.frames_per_s + self.spread

    @property
    def text(self) -> str:
        """Speed and spread for people."""
        spread = f"{self.spread:.0f}" if self.spread >= 10 else f"{self.spread:.2g}"
        return f"{self.frames_per_s:.4g} ± {spread}"


@dataclass(frozen=True)
class Figures:
    """What was measured of one rung; F1 is on the test split at the rung's own threshold, which is chosen on val.

    f1:              with its bootstrap interval over videos
    f1_difference:   F1 less that of the reference, paired by video
    p_worse:         p-value of the exchange test that the reference is better; NaN where undefined
    max_score_diff, mean_score_diff: absolute difference of scores from the reference's, val and test frames
    single, best:    speed at batch 1, and at the batch size at which it is highest
    latency_ms_p50, latency_ms_p99: time of one frame alone, ms
    disk_mb:         its files together, MB of 10^6 bytes
    resident_mb:     memory of a process that serves it, MB; None where that cannot be read
    kwh_per_1000:    energy of 1,000 frames at the best batch size, kWh; None where it was not taken
    energy_method:   how that was obtained: measured, estimated or mixed; None with it
    """

    f1: Estimate
    f1_difference: PairedDifference
    p_worse: float
    max_score_diff: float
    mean_score_diff: float
    single: Speed
    best: Speed
    latency_ms_p50: float
    latency_ms_p99: float
    disk_mb: float
    resident_mb: float | None = None
    kwh_per_1000: float | None = None
    energy_method: str | None = None


@dataclass(frozen=True)
class RungResult:
    """One row of the table.

    status:  measured; built, not runnable here; rejected by the policy; failed; not_possible for this model
    reason:  why it was not measured or why it was rejected, one sentence; None where it was measured and kept
    figures: None unless it was measured or rejected after measuring
    """

    rung: Rung
    status: str
    reason: str | None = None
    figures: Figures | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES or (self.figures is not None) != (self.status in WITH_FIGURES):
            raise ShapeError(f"rung {self.rung.name}: status {self.status!r} with figures {self.figures}")
        if self.status != "measured" and not self.reason:
            raise ShapeError(f"rung {self.rung.name}: {self.status} needs a reason")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; what is undefined is null."""
        rung = {"name": self.rung.name, "kind": self.rung.kind, "parts": [asdict(part) for part in self.rung.parts]}
        figures = None if self.figures is None else _nulls(asdict(self.figures))
        return {**rung, "status": self.status, "reason": self.reason, "figures": figures}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "RungResult":
        """Return the value that `to_json` wrote. Raises ModelError for anything else."""
        try:
            rung = Rung(tuple(Part(**part) for part in value["parts"]))
            figures = None if value["figures"] is None else _figures_of(value["figures"])
            return RungResult(rung, value["status"], value["reason"], figures)
        except (KeyError, TypeError, ShapeError, ParamsError) as error:
            raise ModelError(f"ladder.json: not a rung's row ({error!r}); run the ladder again") from None


@dataclass(frozen=True)
class Decision:
    """What the policy made of a table.

    chosen:      name of the rung to serve
    max_f1_drop: largest loss of F1 that was allowed
    kept:        names of the rungs that were each worth it at their turn, the reference first, the chosen last
    reasons:     one sentence for every rung, by name
    """

    chosen: str
    max_f1_drop: float
    kept: tuple[str, ...]
    reasons: Mapping[str, str]


def choose_rung(results: Sequence[RungResult], max_f1_drop: float = 0.005) -> Decision:
    """Return the fastest rung that loses no F1 and pays, with a sentence of reason for every rung.

    A rung is allowed when it was measured and the lower bound of its paired F1 difference lies above -max_f1_drop.
    The allowed ones are gone through from the simplest to the most complex, and among equals in the order of RUNTIMES
    and not of speed, so that of two that are alike each run takes the same. One is kept when its speed at its best
    batch is above that of the rung below, the last that was kept, by more than the spreads of both together. So a gain
    within the noise never buys complexity, and where nothing pays the reference stays.

    With a larger max_f1_drop the chosen rung is never slower than before by more than those two spreads.

    Raises ModelError unless the float32 reference is among `results`, measured, and every name is there once.
    """
    if not 0 <= max_f1_drop <= 1:
        raise ParamsError(f"ladder.max_f1_drop = {max_f1_drop}: must lie between 0 and 1")
    names = [result.rung.name for result in results]
    if len(set(names)) != len(names):
        raise ModelError(f"ladder: a rung occurs twice: {', '.join(sorted(names))}")
    reference = next((result for result in results if result.rung == REFERENCE), None)
    if reference is None or reference.figures is None:
        told = "is not there" if reference is None else f"{reference.status}: {reference.reason}"
        raise ModelError(f"ladder: rung {REFERENCE.name}, which all others are compared with, {told}")
    below, speed = reference, reference.figures.best
    kept, reasons = [REFERENCE.name], {REFERENCE.name: "the reference that the others are compared with"}
    for result in sorted(results, key=_ladder_order):
        figures = result.figures
        if result is reference:
            continue
        if figures is None:
            reasons[result.rung.name] = f"{result.status.replace('_', ' ')}: {result.reason}"
        elif not figures.f1_difference.low > -max_f1_drop:
            reasons[result.rung.name] = _loss(figures.f1_difference, max_f1_drop)
        elif not figures.best.slowest > speed.fastest:
            reasons[result.rung.name] = f"does not pay: {_gain(figures.best, speed, below.rung.name)}"
        else:
            reasons[result.rung.name] = f"pays: {_gain(figures.best, speed, below.rung.name)}"
            below, speed = result, figures.best
            kept.append(result.rung.name)
    chosen = kept[-1]
    nothing = "; nothing else pays" if chosen == REFERENCE.name else ""
    reasons[chosen] = f"chosen; {reasons[chosen]}{nothing}"
    return Decision(chosen, max_f1_drop, tuple(kept), {name: reasons[name] for name in names})


def apply_decision(results: Sequence[RungResult], decision: Decision) -> tuple[RungResult, ...]:
    """Return the table with what was measured and not kept marked as rejected, with its reason."""
    return tuple(
        result
        if result.figures is None
        else replace(result, status="measured", reason=None)
        if result.rung.name in decision.kept
        else replace(result, status="rejected", reason=decision.reasons[result.rung.name])
        for result in results
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return the places of the points that no other beats in one figure and equals or beats in the other.

    points: two figures each, both the larger the better; one with a NaN is never in front
    """
    found = [place for place, point in enumerate(points) if not any(math.isnan(value) for value in point)]
    return tuple(
        place
        for place in found
        if not any(_dominates(points[other], points[place]) for other in found if other != place)
    )


def _dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first != second and first[0] >= second[0] and first[1] >= second[1]


def _ladder_order(result: RungResult) -> tuple[int, int, str]:
    return result.rung.complexity, list(RUNTIMES).index(result.rung.runtime.name), result.rung.name


def _loss(difference: PairedDifference, max_f1_drop: float) -> str:
    if math.isnan(difference.low):
        return f"F1 difference to the reference is not known from {difference.num_videos} test videos"
    return (
        f"could lose too much F1: {difference.value:+.4f} against the reference, at worst {difference.low:+.4f}, "
        f"and {-max_f1_drop:+.4f} is allowed"
    )


def _gain(speed: Speed, below: Speed, name: str) -> str:
    return (
        f"{speed.text} frames/s against {below.text} of {name}, the "
        f"rung below ({speed.frames_per_s / below.frames_per_s:.2f} times)"
    )


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures_of(value: Mapping[str, Any]) -> Figures:
    def number(found: float | None) -> float:
        return math.nan if found is None else float(found)

    estimate = Estimate(**{key: number(found) for key, found in value["f1"].items()})
    paired = dict(value["f1_difference"])
    paired.update({key: number(paired[key]) for key in ("value", "low", "high")})
    return Figures(
        **{
            **value,
            "f1": estimate,
            "f1_difference": PairedDifference(**paired),
            "p_worse": number(value["p_worse"]),
            "single": Speed(**value["single"]),
            "best": Speed(**value["best"]),
        }
    )
