"""Stage gate: may the compiled engine be served? A pure function from figures to a verdict with reasons.

Every line is a rule with two numbers. A number that is missing, null or NaN fails its line and never passes one. A
refusal is a result: the stage writes it and ends well; what follows from it is the flow's business. The champion in
the registry is not known here: the flow pairs the candidate with it through `compare_with_champion` and judges again.
A champion is replaced by shown improvement alone (`models.paired`), with the error rates of `benchmarks.gate_power`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from pydantic import Field

from models.evaluation import METRIC_NAMES, SERVED, UNDEFINED, Estimate, Evaluation
from models.files import read_json, write_json
from models.metrics import Counts
from models.paired import Improvement, compare_models, detectable_difference, f1_error, min_differing_videos
from models.params import Section
from models.verdict import Resolution, Verdict, VerdictLine
from tasks.shell import stage_shell

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
    "<=": lambda value, bound: value <= bound,
}
# Thresholds pass through JSON unchanged; one step of float32 below 1 is 6e-8.
_SAME_THRESHOLD = 1e-6
# Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988: the customary four cases of five.
POWER = 0.8


class GateParams(Section):
    """Section `gate` of params.yaml."""

    min_f1: float = Field(0.6154, ge=0, le=1)
    """Least F1 of the compiled engine on test frames. The default is the best figure of the original HL-CLIP elephant
    project (its pruned model), which that project measured on its own validation frames."""
    max_mean_score_diff: float = Field(0.01, ge=0, le=1)
    """Parity: largest allowed mean absolute difference of frame scores, engine against the model it came from."""
    max_f1_diff: float = Field(0.02, ge=0, le=1)
    """Parity: largest allowed absolute difference of F1, engine against the model it came from."""
    champion_level: float = Field(0.025, gt=0, le=0.5)
    """Largest p-value at which a candidate counts as better than the champion. At the default an equal model replaces
    the champion in at most 5% of decisions in whichever way it is equal (benchmarks/results/gate_power.json); a larger
    level lets more improvements pass, and more models that are none. The rate is per decision: who tries twenty equal
    candidates on one test set tries twenty times."""
    max_detectable_f1: float = Field(0.2, gt=0, le=1)
    """A test set that cannot show an improvement of F1 as small as this is called too small. Refuses nothing."""


def judge(
    evaluation: Evaluation,
    engines: Mapping[str, Any],
    params: GateParams,
    champion: Improvement | None,
    *,
    is_champion: bool = False,
) -> Verdict:
    """Return the verdict on the engine that `engines` names as chosen.

    evaluation:  of the ladder; its row `compiled` is what is judged
    engines:     content of build/compile/engines.json
    champion:    how the candidate's F1 stands to the present champion's, None without a champion
    is_champion: whether the candidate is the champion itself, to the byte; then there is nothing to replace
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
            champion_line(champion, params, is_champion=is_champion),
        ),
        resolve(evaluation, params, champion),
    )


def champion_line(champion: Improvement | None, params: GateParams, *, is_champion: bool = False) -> VerdictLine:
    """Return the line that holds the candidate against the champion; without a champion, or as one, it passes.

    It passes when as large a gain in F1 is rare among equal models: p-value at most `params.champion_level`.
    """
    if is_champion:
        return VerdictLine("champion", True, None, None, "<=", "the candidate is the champion itself, to the byte")
    if champion is None:
        return VerdictLine("champion", True, None, None, "<=", "no champion to compare with")
    needed = min_differing_videos(params.champion_level)
    videos = f"{champion.num_videos} video{'' if champion.num_videos == 1 else 's'}"
    about = f"F1 less the champion's is {_signed(champion.value)}, standard error {_shown(champion.standard_error)}, "
    if champion.num_differing == 0:
        about += f"and none of {videos} has other counts"
    elif champion.num_differing < needed:
        about += f"but only {champion.num_differing} of {videos} differ{'s' if champion.num_differing == 1 else ''}, "
        about += f"and fewer than {needed} cannot show an improvement"
    else:
        about += f"over {videos}"
    # An error that cannot be told leaves the rule without a reading: nothing undefined passes.
    complete = all(math.isfinite(part) for part in (champion.value, champion.standard_error, champion.p_value))
    what = f"p-value of the improvement over the champion ({about})"
    bound = params.champion_level
    return _line("champion", champion.p_value if complete else None, "<=", bound, what, "the level for a new champion")


def compare_with_champion(
    candidate_counts: Mapping[str, Counts], champion_counts: Mapping[str, Counts], seed: int
) -> Improvement:
    """Return how F1 of the candidate stands to F1 of the champion, paired by video.

    Both are counts by video_id (`models.evaluation.read_video_counts`). Raises ModelError when the videos differ, or
    a video's number of frames or highlights: then the champion has to be scored on the present test split first.
    """
    return compare_models(candidate_counts, champion_counts, seed)


def resolve(evaluation: Evaluation, params: GateParams, champion: Improvement | None) -> Resolution:
    """Return the smallest improvement that the test set of `evaluation` can show.

    champion: gives the standard error of a difference where candidate and champion differ; else two models that err
              independently are supposed, whose difference has the error of the candidate's F1 times the root of 2
    """
    is_paired = champion is not None and champion.standard_error > 0
    if champion is not None and is_paired:
        num_videos, error = champion.num_videos, champion.standard_error
    else:
        counts = evaluation.video_counts.get(SERVED, {})
        num_videos, error = len(counts), math.sqrt(2) * f1_error(counts)
    detectable = detectable_difference(error, num_videos, params.champion_level, POWER)
    return Resolution(
        num_videos=num_videos,
        detectable_f1=_finite(detectable),
        power=POWER,
        level=params.champion_level,
        limit_f1=params.max_detectable_f1,
        is_paired=is_paired,
        min_videos=min_differing_videos(params.champion_level),
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


def _signed(value: float) -> str:
    return _shown(value) if _finite(value) is None or value < 0 else f"+{_shown(value)}"


def to_metrics(verdict: Verdict) -> dict[str, float]:
    """Return the figures that DVC and MLflow keep; NaN where undefined."""
    detectable = verdict.resolution.detectable_f1 if verdict.resolution else None
    return {
        "promoted": int(verdict.promoted),
        "num_refusals": len(verdict.refusals),
        "detectable_f1": math.nan if detectable is None else detectable,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: judge the candidate without a champion, which only the registry knows."""
    with stage_shell("gate", ["evaluation", "engines"], argv) as shell:
        evaluation = Evaluation.from_json(read_json(shell["evaluation"]))
        verdict = judge(evaluation, read_json(shell["engines"]), shell.section("gate", GateParams), None)
        write_json(shell.out / "verdict.json", verdict.to_json())
        shell.write_metrics(to_metrics(verdict))


if __name__ == "__main__":
    main()
