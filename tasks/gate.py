"""Stage gate: may the compiled engine be served? A pure function from figures to a verdict with reasons.

Every line is a rule with two numbers. A number that is missing, null or NaN fails its line and never passes one. A
refusal is a result: the stage writes it and ends well; what follows from it is the flow's business. The champion in
the registry is not known here: the flow pairs the candidate with it through `compare_with_champion` and judges again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from pydantic import Field

from models.bootstrap import PairedDifference, paired_f1_difference
from models.evaluation import METRIC_NAMES, SERVED, UNDEFINED, Estimate, Evaluation
from models.files import read_json, write_json
from models.metrics import Counts
from models.params import Section
from models.verdict import Verdict, VerdictLine
from tasks.shell import stage_shell

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
}
# Thresholds pass through JSON unchanged; one step of float32 below 1 is 6e-8.
_SAME_THRESHOLD = 1e-6


class GateParams(Section):
    """Section `gate` of params.yaml."""

    min_f1: float = Field(0.6154, ge=0, le=1)
    """Least F1 of the compiled engine on test frames. The default is the best figure of the original HL-CLIP elephant
    project (its pruned model), which that project measured on its own validation frames."""
    max_mean_score_diff: float = Field(0.01, ge=0, le=1)
    """Parity: largest allowed mean absolute difference of frame scores, engine against the model it came from."""
    max_f1_diff: float = Field(0.02, ge=0, le=1)
    """Parity: largest allowed absolute difference of F1, engine against the model it came from."""


def judge(
    evaluation: Evaluation, engines: Mapping[str, Any], params: GateParams, champion: PairedDifference | None
) -> Verdict:
    """Return the verdict on the engine that `engines` names as chosen.

    evaluation: of the ladder; its row `compiled` is what is judged
    engines:    content of build/compile/engines.json
    champion:   F1 of the candidate less F1 of the present champion on the same videos, None without a champion
    """
    row, trivial = evaluation.row(SERVED), evaluation.row("all_positive")
    metrics = row.metrics if row else {}
    f1 = metrics.get("f1", UNDEFINED)
    name = str(engines.get("chosen"))
    entries: Sequence[Mapping[str, Any]] = engines.get("engines") or ()
    engine: Mapping[str, Any] = next((entry for entry in entries if entry.get("name") == name), {})
    return Verdict.of(
        (
            _metrics_line(metrics),
            _line("min_f1", f1.value, ">=", params.min_f1, "F1 of the compiled engine on test", "the required F1"),
            _line(
                "beats_all_positive",
                f1.low,
                ">",
                trivial.f1.value if trivial else None,
                f"lower end of the {evaluation.confidence:.0%} interval of that F1",
                "the F1 of flagging every frame",
            ),
            _measured_line(name, engine),
            _line(
                "score_parity",
                _absolute(engine.get("mean_score_diff")),
                "<=",
                params.max_mean_score_diff,
                f"mean score difference of {name} to the model it came from",
                "the allowed difference",
            ),
            _line(
                "f1_parity",
                _absolute(engine.get("f1_diff")),
                "<=",
                params.max_f1_diff,
                f"F1 difference of {name} to the model it came from",
                "the allowed difference",
            ),
            _threshold_line(row.threshold if row else None, engines.get("threshold")),
            champion_line(champion),
        )
    )


def champion_line(champion: PairedDifference | None) -> VerdictLine:
    """Return the line that holds the candidate against the champion; without a champion it passes.

    It fails when the whole interval of the difference lies below 0: the candidate is worse, and not by chance.
    """
    if champion is None:
        return VerdictLine("champion", True, None, None, ">=", "no champion to compare with")
    what = (
        f"upper end of the {champion.confidence:.0%} interval of F1 less the champion's "
        f"(difference {_shown(champion.value)} over {champion.num_videos} videos)"
    )
    complete = all(math.isfinite(number) for number in (champion.value, champion.low, champion.high))
    return _line("champion", champion.high if complete else None, ">=", 0.0, what, "no difference")


def compare_with_champion(
    candidate_counts: Mapping[str, Counts],
    champion_counts: Mapping[str, Counts],
    seed: int,
    num_bootstrap: int,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return F1 of the candidate less F1 of the champion, paired by video.

    Both are counts by video_id (`models.evaluation.read_video_counts`). Raises ModelError when the videos differ, or
    a video's number of frames or highlights: then the champion has to be scored on the present test split first.
    """
    return paired_f1_difference(
        candidate_counts, champion_counts, num_bootstrap=num_bootstrap, seed=seed, confidence=confidence
    )


def _line(name: str, value: Any, comparison: str, bound: Any, what: str, against: str) -> VerdictLine:
    """Return the line `value comparison bound`; it fails when either is not a finite number."""
    number, limit = _finite(value), _finite(bound)
    passed = number is not None and limit is not None and _COMPARISONS[comparison](number, limit)
    verb = {">=": "at least", ">": "above", "<=": "at most"}[comparison]
    first, second = _shown(number), _shown(limit)
    if first == second and number != limit:
        first, second = f"{number:.9g}", f"{limit:.9g}"
    text = f"{what} is {first}{';' if passed else ', but'} it must be {verb} {second}, {against}"
    return VerdictLine(name, passed, number, limit, comparison, text)


def _metrics_line(metrics: Mapping[str, Estimate]) -> VerdictLine:
    figures = {
        f"{name}{part}": number
        for name in METRIC_NAMES
        for part, number in zip(("", "_low", "_high"), astuple(metrics.get(name, UNDEFINED)), strict=True)
    }
    absent = [name for name, number in figures.items() if not math.isfinite(number)]
    present = len(figures) - len(absent)
    text = f"{present} of {len(figures)} figures of the compiled engine are there and finite"
    if absent:
        text += f", but all {len(figures)} must be; missing: {', '.join(absent)}"
    return VerdictLine("metrics_present", not absent, present, len(figures), ">=", text)


def _measured_line(name: str, engine: Mapping[str, Any]) -> VerdictLine:
    status = engine.get("status", "not in the list of engines")
    measured = status == "measured"
    state = f"{name} is {status}" + (f", {engine['reason']}" if engine.get("reason") else "")
    text = f"number of chosen engines that were measured is {int(measured)}{';' if measured else ', but'} "
    text += f"it must be at least 1 ({state})"
    return VerdictLine("engine_measured", measured, int(measured), 1, ">=", text)


def _threshold_line(judged: Any, served: Any) -> VerdictLine:
    first, second = _finite(judged), _finite(served)
    distance = None if first is None or second is None else abs(first - second)
    what = f"distance of the served threshold {_shown(second)} from the judged one {_shown(first)}"
    return _line("served_threshold", distance, "<=", _SAME_THRESHOLD, what, "the rounding of a stored number")


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _absolute(value: Any) -> float | None:
    number = _finite(value)
    return None if number is None else abs(number)


def _shown(value: Any) -> str:
    number = _finite(value)
    if number is None:
        return "missing"
    return f"{number:.4f}" if number == 0 or abs(number) >= 1e-3 else f"{number:.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: judge the candidate without a champion, which only the registry knows."""
    with stage_shell("gate", ["evaluation", "engines"], argv) as shell:
        evaluation = Evaluation.from_json(read_json(shell["evaluation"]))
        verdict = judge(evaluation, read_json(shell["engines"]), shell.section("gate", GateParams), None)
        write_json(shell.out / "verdict.json", verdict.to_json())
        shell.write_metrics({"promoted": int(verdict.promoted), "num_refusals": len(verdict.refusals)})


if __name__ == "__main__":
    main()
