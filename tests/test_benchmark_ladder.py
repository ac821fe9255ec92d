"""The ladder's benchmark: which rung it names, and what it says where the sample is not there."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from benchmarks import ladder
from benchmarks.ladder_runtimes import best_rung
from benchmarks.ladder_sample import figures_of, named, speedup
from benchmarks.ladder_shrinks import PRUNINGS, RUNTIME, TOKENS, best_schedule
from models.bootstrap import PairedDifference
from models.errors import DataError
from models.evaluation import Estimate
from models.files import read_json
from models.ladder import REFERENCE, Figures, Rung, RungResult, Speed, choose_rung, parse_rung
from tasks.ladder import LadderResult
from tasks.rungs import BuiltRung
from tasks.shrinks import parts_of

FIGURES = Figures(
    f1=Estimate(0.8, 0.7, 0.9), f1_difference=PairedDifference(0.0, -0.01, 0.01, 0.95, 28), p_worse=1.0,
    max_score_diff=0.0, mean_score_diff=0.0, single=Speed(1, 30.0, 1.0), best=Speed(8, 100.0, 4.0),
    latency_ms_p50=33.0, latency_ms_p99=40.0, disk_mb=5.0,
)  # fmt: skip
PARTS = parts_of(PRUNINGS, TOKENS)


def row(name: str, frames_per_s: float, *, f1: float = 0.0, diff: float = 0.0) -> RungResult:
    change = PairedDifference(f1, f1 - 0.01, f1 + 0.01, 0.95, 28)
    figures = replace(FIGURES, best=Speed(8, frames_per_s, 4.0), f1_difference=change, mean_score_diff=diff)
    return RungResult(parse_rung(name, PARTS), "measured", None, figures)


def result_of(*rows: RungResult) -> LadderResult:
    found = (RungResult(REFERENCE, "measured", None, FIGURES), *rows)
    return LadderResult(found, choose_rung(found), "a processor", cast(BuiltRung, None))


def test_the_best_rung_is_the_fastest_whose_scores_stay() -> None:
    failed = RungResult(Rung(parse_rung("onnx", PARTS).parts), "failed", "no such operator")
    exact = row("openvino-bfloat16", 700, diff=0.004)
    result = result_of(row("bfloat16", 500, diff=0.002), exact, row("openvino-int8", 900, diff=0.02), failed)
    assert best_rung(result) is exact
    assert best_rung(result_of(row("bfloat16", 500, diff=0.1))).rung == REFERENCE
    with pytest.raises(DataError, match="rung onnx failed: no such operator"):
        figures_of(result, "onnx")


def test_the_best_schedule_is_the_fastest_that_loses_little_or_the_one_that_loses_least() -> None:
    mild, wild = row("merged-4", 110, f1=-0.004), row("merged-8", 150, f1=-0.02)
    assert best_schedule(result_of(mild, wild)) is mild
    assert best_schedule(result_of(replace(wild), row("merged-4", 110, f1=-0.01))).rung.name == "merged-4"


def test_a_speedup_has_what_the_spreads_allow() -> None:
    gain = speedup(row("bfloat16", 500).figures, FIGURES)  # type: ignore[arg-type]
    assert gain == {"": 5.0, "_low": pytest.approx(496 / 104), "_high": pytest.approx(504 / 96)}
    assert named("x", {"_low": float("nan"), "": 2.0}) == {"x_low": None, "x": 2.0}


def test_every_rung_of_the_benchmark_is_one() -> None:
    from benchmarks.ladder_runtimes import RUNGS
    from benchmarks.ladder_shrinks import PRUNED_RUNGS

    names = [parse_rung(name, PARTS).name for name in (*RUNGS, *PRUNED_RUNGS, *TOKENS)]
    assert RUNTIME in names
    assert ladder.ladder_params(quick=True).num_rounds < ladder.ladder_params(quick=False).num_rounds


def test_without_the_sample_it_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ladder.main(["--build", str(tmp_path), "--quick"])
    assert caught.value.code == 1
    assert "dvc repro train" in capsys.readouterr().err


def test_parts_are_one_file_with_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "read_sample", lambda *_arguments: None)
    monkeypatch.setattr(ladder, "read_parent", lambda _build: None)
    monkeypatch.setattr(ladder.torch, "set_num_threads", lambda _count: None)
    for part in ladder.PARTS:
        told = ({f"{part}_speedup": 1.5}, {part: {"rungs": []}})
        monkeypatch.setattr(ladder, f"measure_{part}", lambda *_a, told=told, **_k: told)
    figures = ladder.measure(tmp_path, tmp_path, quick=True, results=tmp_path)
    written = read_json(tmp_path / "ladder_quick.json")
    assert written["figures"] == figures == {f"{part}_speedup": 1.5 for part in ladder.PARTS}
    assert set(written["params"]["seconds"]) == {*ladder.PARTS, "all"}
    assert set(ladder.PARTS) <= set(written)
    ladder.measure(tmp_path, tmp_path, quick=False, parts=("tokens",), results=tmp_path)
    assert list(read_json(tmp_path / "ladder.json")["figures"]) == ["tokens_speedup"]
