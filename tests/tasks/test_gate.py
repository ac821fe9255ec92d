"""The gate: one rule a test, both numbers in every refusal, and nothing missing ever passes."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.errors import ModelError, ShapeError
from models.evaluation import METRIC_NAMES, Estimate, Evaluation, Row
from models.files import read_json, write_json
from models.metrics import Counts
from models.paired import Improvement
from models.verdict import Verdict, VerdictLine
from tasks.gate import GateParams, champion_line, compare_with_champion, judge, main

PARAMS = GateParams()
GOOD = {
    "precision": Estimate(0.75, 0.65, 0.85),
    "recall": Estimate(0.85, 0.75, 0.95),
    "f1": Estimate(0.80, 0.70, 0.88),
    "accuracy": Estimate(0.9, 0.85, 0.95),
    "average_precision": Estimate(0.85, 0.75, 0.95),
    "roc_auc": Estimate(0.92, 0.88, 0.97),
    "ece": Estimate(0.08, 0.04, 0.12),
    "segment_map": Estimate(0.35, 0.2, 0.5),
}
CHAMPION = Improvement(0.06, 0.02, 0.01, 12, 11)
WORSE = Improvement(-0.05, 0.02, 0.99, 12, 11)


def make_evaluation(f1: Estimate = GOOD["f1"], trivial_f1: float = 0.45, **changes: Any) -> Evaluation:
    """Return an evaluation whose compiled row passes, with what a test cares about replaced."""
    trivial = dict.fromkeys(METRIC_NAMES, Estimate(0.3, 0.2, 0.4)) | {"f1": Estimate(trivial_f1, 0.3, 0.6)}
    rows = (
        Row("compiled", 0.41, Counts(80, 25, 15, 280), {**GOOD, "f1": f1}),
        Row("all_positive", None, Counts(95, 305, 0, 0), trivial),
    )
    base = Evaluation(rows, (), {"compiled": {"v": Counts(1, 0, 0, 1)}}, 12, 400, 0.24, 0.25, 0.95, 1000, 0)
    return replace(base, **changes)


def make_engines(threshold: Any = 0.41, **changes: Any) -> dict[str, Any]:
    """Return engines whose chosen one passes, with fields of the chosen one replaced."""
    chosen = {
        "name": "openvino",
        "status": "measured",
        "reason": "",
        "mean_score_diff": 0.001,
        "f1_diff": 0.0,
        "f1": 0.8,
    }
    other = {"name": "tensorrt", "status": "built", "reason": "no GPU", "mean_score_diff": None, "f1_diff": None}
    return {"chosen": "openvino", "threshold": threshold, "engines": [other, chosen | changes]}


def refusals(evaluation: Evaluation, engines: dict[str, Any], champion: Improvement | None = None) -> list[VerdictLine]:
    """Return the lines that failed."""
    verdict = judge(evaluation, engines, PARAMS, champion)
    assert verdict.promoted == (not verdict.refusals)
    return list(verdict.refusals)


def only(lines: list[VerdictLine], name: str) -> VerdictLine:
    """Return the one line that failed."""
    assert [line.name for line in lines] == [name]
    return lines[0]


def test_a_good_candidate_is_promoted_with_and_without_a_champion() -> None:
    for champion in (None, CHAMPION):
        verdict = judge(make_evaluation(), make_engines(), PARAMS, champion)
        assert verdict.promoted
        assert verdict.text == "promoted: all 8 lines passed"
    names = [line.name for line in judge(make_evaluation(), make_engines(), PARAMS, None).lines]
    assert names == [
        *("metrics_present", "min_f1", "beats_all_positive", "engine_measured"),
        *("score_parity", "f1_parity", "served_threshold", "champion"),
    ]


def test_f1_below_the_required_one_is_refused() -> None:
    line = only(refusals(make_evaluation(Estimate(0.6, 0.5, 0.7)), make_engines()), "min_f1")
    assert (line.value, line.bound, line.comparison) == (0.6, 0.6154, ">=")
    assert "0.6000" in line.text
    assert "0.6154" in line.text


def test_f1_equal_to_the_required_one_passes() -> None:
    assert not refusals(make_evaluation(Estimate(0.6154, 0.5, 0.7)), make_engines())


def test_numbers_that_round_alike_are_told_apart() -> None:
    line = only(refusals(make_evaluation(Estimate(0.61538, 0.5, 0.7)), make_engines()), "min_f1")
    assert "is 0.61538, but it must be at least 0.6154," in line.text


def test_an_interval_that_reaches_down_to_flagging_everything_is_refused() -> None:
    line = only(refusals(make_evaluation(Estimate(0.8, 0.45, 0.9)), make_engines()), "beats_all_positive")
    assert (line.value, line.bound, line.comparison) == (0.45, 0.45, ">")
    assert line.text.count("0.4500") == 2
    assert not refusals(make_evaluation(Estimate(0.8, 0.4501, 0.9)), make_engines())


@pytest.mark.parametrize("status", ["built", "failed"])
def test_an_engine_that_was_not_measured_is_refused(status: str) -> None:
    line = only(refusals(make_evaluation(), make_engines(status=status, reason="no GPU here")), "engine_measured")
    assert (line.value, line.bound) == (0, 1)
    assert f"is 0, but it must be at least 1 (openvino is {status}, no GPU here)" in line.text


def test_a_chosen_engine_that_is_not_listed_is_refused() -> None:
    engines = make_engines() | {"chosen": "tensorrt-rtx"}
    failed = {line.name: line for line in refusals(make_evaluation(), engines)}
    assert set(failed) == {"engine_measured", "score_parity", "f1_parity"}
    assert "tensorrt-rtx is not in the list" in failed["engine_measured"].text


def test_scores_that_drifted_in_compiling_are_refused() -> None:
    line = only(refusals(make_evaluation(), make_engines(mean_score_diff=0.0101)), "score_parity")
    assert (line.value, line.bound) == (0.0101, 0.01)
    assert "0.0101" in line.text
    assert "0.0100" in line.text
    assert not refusals(make_evaluation(), make_engines(mean_score_diff=0.01))


@pytest.mark.parametrize("difference", [-0.03, 0.03])
def test_f1_that_drifted_in_compiling_is_refused_either_way(difference: float) -> None:
    line = only(refusals(make_evaluation(), make_engines(f1_diff=difference)), "f1_parity")
    assert (line.value, line.bound) == (0.03, 0.02)
    assert "0.0300" in line.text
    assert "0.0200" in line.text


def test_another_threshold_than_the_judged_one_is_refused() -> None:
    line = only(refusals(make_evaluation(), make_engines(threshold=0.5)), "served_threshold")
    assert line.value == pytest.approx(0.09)
    assert "0.5000" in line.text
    assert "0.4100" in line.text


def test_a_candidate_that_gains_too_little_over_the_champion_is_refused() -> None:
    gains = Improvement(0.03, 0.02, 0.0251, 12, 11)
    line = only(refusals(make_evaluation(), make_engines(), gains), "champion")
    assert (line.value, line.bound, line.comparison) == (0.0251, 0.025, "<=")
    for words in ("0.0251", "0.0250", "is +0.0300, standard error 0.0200, over 12 videos"):
        assert words in line.text
    assert not refusals(make_evaluation(), make_engines(), replace(gains, p_value=0.025))
    assert champion_line(gains, GateParams(champion_level=0.05)).passed


def test_a_candidate_that_is_worse_is_refused() -> None:
    line = only(refusals(make_evaluation(), make_engines(), WORSE), "champion")
    assert line.value == 0.99
    assert "F1 less the champion's is -0.0500" in line.text


def test_a_candidate_with_the_champions_counts_is_refused_in_words_that_say_so() -> None:
    line = only(refusals(make_evaluation(), make_engines(), Improvement(0.0, 0.0, 1.0, 12, 0)), "champion")
    assert line.value == 1
    assert "and none of 12 videos has other counts" in line.text


@pytest.mark.parametrize(
    ("num_differing", "words"), [(1, "only 1 of 12 videos differs"), (5, "only 5 of 12 videos differ,")]
)
def test_models_that_differ_on_too_few_videos_are_told_so(num_differing: int, words: str) -> None:
    line = champion_line(Improvement(0.02, 0.01, 2.0**-num_differing, 12, num_differing), PARAMS)
    assert not line.passed
    assert f"{words}" in line.text
    assert "fewer than 6 cannot show an improvement" in line.text


def test_no_champion_is_no_obstacle_and_the_champion_itself_is_none_either() -> None:
    line = champion_line(None, PARAMS)
    assert line.passed
    assert line.text == "no champion to compare with"
    verdict = judge(make_evaluation(), make_engines(), PARAMS, None, is_champion=True)
    assert verdict.promoted
    assert verdict.lines[-1].text == "the candidate is the champion itself, to the byte"


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("part", ["value", "low", "high"])
def test_each_missing_figure_is_named(metric: str, part: str) -> None:
    evaluation = make_evaluation()
    compiled = evaluation.rows[0]
    metrics = {**compiled.metrics, metric: replace(compiled.metrics[metric], **{part: math.nan})}
    broken = replace(evaluation, rows=(replace(compiled, metrics=metrics), evaluation.rows[1]))
    line = next(line for line in refusals(broken, make_engines()) if line.name == "metrics_present")
    assert (line.value, line.bound) == (23, 24)
    assert line.text.endswith(f"missing: {metric if part == 'value' else f'{metric}_{part}'}")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every number inside a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))
    elif isinstance(value, int | float):
        yield path


def _put(value: Any, path: tuple[Any, ...], number: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = number
    return changed


def test_no_number_that_goes_missing_turns_a_refusal_into_a_promotion() -> None:
    """Every number of every input, one at a time, as NaN and as null, on candidates that pass and that fail."""
    champions = [CHAMPION, WORSE]
    inputs = [
        (make_evaluation(), make_engines()),
        (make_evaluation(Estimate(0.6, 0.5, 0.7)), make_engines()),
        (make_evaluation(trivial_f1=0.9), make_engines()),
        (make_evaluation(), make_engines(mean_score_diff=0.5, f1_diff=0.5, status="built")),
    ]
    flips = set()
    for evaluation, engines in inputs:
        for champion in champions:
            before = judge(evaluation, engines, PARAMS, champion).promoted
            whole = {"evaluation": evaluation.to_json()["rows"], "engines": engines, "champion": vars(champion)}
            for path in _places(whole):
                if "counts" in path or path[-1] in ("num_videos", "num_differing"):
                    continue  # counts are whole by their type; the last two only word the text
                for missing in (math.nan, None):
                    if path[0] == "champion" and missing is None:
                        continue  # an Improvement holds floats
                    broken = _put(whole, path, missing)
                    value = evaluation.to_json() | {"rows": broken["evaluation"]}
                    pair = Improvement(**broken["champion"])
                    after = judge(Evaluation.from_json(value), broken["engines"], PARAMS, pair)
                    assert before or not after.promoted, path
                    json.dumps(after.to_json(), allow_nan=False)
                    if before and not after.promoted:
                        flips.add(path)
    # What the rules use is guarded: all 24 figures of the row, the trivial F1, parity, thresholds, the difference.
    assert len(flips) == 24 + 1 + 2 + 2 + 3


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_a_better_f1_never_turns_a_promotion_into_a_refusal(f1: float, low: float, trivial: float, gain: float) -> None:
    assume(low <= f1)
    before = judge(make_evaluation(Estimate(f1, low, 1.0), trivial), make_engines(), PARAMS, None)
    better = Estimate(min(f1 + gain, 1.0), min(low + gain, 1.0), 1.0)
    after = judge(make_evaluation(better, trivial), make_engines(), PARAMS, None)
    assert after.promoted or not before.promoted
    for one, other in zip(before.lines, after.lines, strict=True):
        assert other.passed or not one.passed


@pytest.mark.parametrize("engines", [{}, {"chosen": None, "threshold": None, "engines": None}])
def test_empty_engines_are_a_refusal_and_no_crash(engines: dict[str, Any]) -> None:
    failed = {line.name for line in refusals(make_evaluation(), engines)}
    assert failed == {"engine_measured", "score_parity", "f1_parity", "served_threshold"}


def test_missing_rows_are_a_refusal_and_no_crash() -> None:
    failed = {line.name for line in refusals(make_evaluation(rows=()), make_engines())}
    assert failed == {"metrics_present", "min_f1", "beats_all_positive", "served_threshold"}


def test_comparison_with_the_champion_is_paired_and_refuses_other_videos() -> None:
    champion = {f"v{n}": Counts(5 + n % 4, 2, 5 - n % 4, 8) for n in range(12)}
    candidate = {video: Counts(c.tp - 2, c.fp, c.fn + 2, c.tn) for video, c in champion.items()}
    worse = compare_with_champion(candidate, champion, seed=0)
    assert (worse.p_value, worse.num_differing) == (1, 12)
    assert worse == compare_with_champion(candidate, champion, seed=0)
    assert not judge(make_evaluation(), make_engines(), PARAMS, worse).promoted
    assert judge(make_evaluation(), make_engines(), PARAMS, compare_with_champion(champion, candidate, 0)).promoted
    assert not judge(make_evaluation(), make_engines(), PARAMS, compare_with_champion(champion, champion, 0)).promoted
    with pytest.raises(ModelError, match="only the second has v11"):
        compare_with_champion({v: c for v, c in candidate.items() if v != "v11"}, champion, seed=0)


@pytest.mark.parametrize("num_videos", [1, 3, 5])
def test_no_gain_however_large_is_shown_by_a_handful_of_videos(num_videos: int) -> None:
    best = {f"v{n}": Counts(20, 0, 0, 20 + n) for n in range(num_videos)}
    none = {video: Counts(0, 0, 20, c.tn) for video, c in best.items()}
    assert not champion_line(compare_with_champion(best, none, 0), PARAMS).passed


def test_a_test_split_without_a_highlight_cannot_show_an_improvement() -> None:
    quiet = {f"v{n}": Counts(0, 0, 0, 20) for n in range(9)}
    noisy = {video: Counts(0, 5, 0, 15) for video in quiet}
    line = champion_line(compare_with_champion(quiet, noisy, 0), PARAMS)
    assert (line.passed, line.value) == (False, None)
    assert "is missing, but it must be at most 0.0250" in line.text


def run_gate(folder: Path, evaluation: Evaluation, engines: dict[str, Any]) -> Path:
    """Run the shell and return its output folder."""
    write_json(folder / "evaluation.json", evaluation.to_json())
    write_json(folder / "engines.json", engines)
    (folder / "params.yaml").write_text("gate: {min_f1: 0.7}\n", encoding="utf-8")
    arguments = [
        "--evaluation",
        "evaluation.json",
        "--engines",
        "engines.json",
        "--params",
        "params.yaml",
        "--out",
        "out",
    ]
    main([word if word.startswith("--") else str(folder / word) for word in arguments])
    return folder / "out"


def test_shell_writes_a_refusal_and_ends_well(tmp_path: Path) -> None:
    out = run_gate(tmp_path, make_evaluation(Estimate(0.65, 0.5, 0.7)), make_engines())
    verdict = Verdict.from_json(read_json(out / "verdict.json"))
    assert not verdict.promoted
    assert verdict.text.startswith(
        "refused: min_f1: F1 of the compiled engine on test is 0.6500, but it must be at least 0.7000"
    )
    # One test video: no improvement can be shown, and null says so.
    assert read_json(out / "metrics.json") == {"promoted": 0, "num_refusals": 1, "detectable_f1": None}


def test_shell_writes_a_promotion(tmp_path: Path) -> None:
    out = run_gate(tmp_path, make_evaluation(), make_engines())
    assert Verdict.from_json(read_json(out / "verdict.json")) == judge(
        make_evaluation(), make_engines(), GateParams(min_f1=0.7), None
    )


def test_a_verdict_follows_from_its_lines() -> None:
    passed, failed = VerdictLine("a", True, 1, 0, ">=", "a"), VerdictLine("b", False, None, 0, ">=", "b")
    for promoted, lines in ((True, (passed, failed)), (False, (passed,)), (True, ())):
        with pytest.raises(ShapeError, match="does not follow"):
            Verdict(promoted, lines)
    with pytest.raises(ShapeError, match="nan"):
        VerdictLine("c", False, math.nan, 0, ">=", "c")
    with pytest.raises(ModelError, match="verdict"):
        Verdict.from_json({"promoted": True})
