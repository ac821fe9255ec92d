"""The ladder's values and its policy: what is chosen, what never is, and what every rung is told."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bootstrap import PairedDifference
from models.errors import ModelError, ParamsError, ShapeError
from models.evaluation import Estimate
from models.ladder import (
    EAGER,
    REFERENCE,
    RUNTIMES,
    Figures,
    Part,
    Rung,
    RungResult,
    Speed,
    apply_decision,
    choose_rung,
    pareto_front,
    parse_rung,
)

HEADS, MERGE = Part("pruning", "heads"), Part("tokens", "merge")
OTHERS = {part.name: part for part in (HEADS, MERGE)}


def figures(speed: float, spread: float = 0.0, drop: float = 0.0, low: float | None = None) -> Figures:
    paired = PairedDifference(-drop, -drop if low is None else low, max(0.0, -drop), 0.95, 10)
    return Figures(
        Estimate(0.8, 0.7, 0.9), paired, 0.5, 0.01, 0.001, Speed(1, speed / 2, spread), Speed(32, speed, spread),
        2.0, 3.0, 10.0, 300.0, 1e-6, "estimated",
    )  # fmt: skip


def measured(name: str, speed: float, spread: float = 0.0, drop: float = 0.0, low: float | None = None) -> RungResult:
    return RungResult(parse_rung(name, OTHERS), "measured", None, figures(speed, spread, drop, low))


FLOAT32 = measured("float32", 100.0, 1.0)


@st.composite
def tables(draw: st.DrawFn) -> list[RungResult]:
    """Return a measured reference and other rungs of any status, in any order."""
    names = [*RUNTIMES, "heads", "merge", "heads+openvino", "merge+heads+onnx"]
    chosen = draw(st.lists(st.sampled_from([name for name in names if name != "float32"]), unique=True))
    rows = [FLOAT32]
    for name in chosen:
        status = draw(st.sampled_from(["measured", "measured", "measured", "built", "failed", "not_possible"]))
        speed, spread = draw(st.floats(1, 1000)), draw(st.floats(0, 50))
        row = measured(name, speed, spread, drop=draw(st.floats(-0.05, 0.05)))
        if draw(st.integers(0, 9)) == 0:
            row = measured(name, speed, spread, low=math.nan)
        rows.append(row if status == "measured" else RungResult(row.rung, status, "a reason"))
    return draw(st.permutations(rows))


def speed_of(rows: list[RungResult], name: str) -> Speed:
    found = next(row for row in rows if row.rung.name == name).figures
    assert found is not None
    return found.best


def without_spread(row: RungResult, found: Figures) -> RungResult:
    return replace(row, figures=replace(found, best=replace(found.best, spread=0.0)))


@settings(max_examples=150, deadline=None)
@given(tables(), st.floats(0, 0.05))
def test_the_chosen_rung_was_measured_loses_no_more_than_allowed_and_pays(rows: list[RungResult], drop: float) -> None:
    decision = choose_rung(rows, drop)
    chosen = next(row for row in rows if row.rung.name == decision.chosen)
    assert chosen.status == "measured"
    assert chosen.figures is not None
    if chosen.rung != REFERENCE:
        assert chosen.figures.f1_difference.low > -drop
        below = speed_of(rows, decision.kept[-2])
        assert chosen.figures.best.slowest > below.fastest
        assert chosen.figures.best.frames_per_s > speed_of(rows, "float32").frames_per_s
    for row in rows:  # nothing that is allowed beats the chosen one for sure
        if row.figures is not None and row.figures.f1_difference.low > -drop:
            assert row.figures.best.slowest <= chosen.figures.best.fastest


@settings(max_examples=150, deadline=None)
@given(tables(), st.floats(0, 0.05), st.randoms(use_true_random=False))
def test_the_decision_does_not_hang_on_the_order_and_tells_every_rung(rows, drop, random) -> None:  # type: ignore[no-untyped-def]
    decision = choose_rung(rows, drop)
    shuffled = random.sample(rows, len(rows))
    assert choose_rung(shuffled, drop) == choose_rung(rows, drop) == decision
    assert set(decision.reasons) == {row.rung.name for row in rows}
    assert all(reason and "\n" not in reason for reason in decision.reasons.values())


@settings(max_examples=200, deadline=None)
@given(tables(), st.floats(0, 0.05), st.floats(0, 0.05))
def test_a_larger_allowance_never_gives_a_slower_rung_but_for_its_spread(
    rows: list[RungResult], one: float, other: float
) -> None:
    strict, loose = sorted((one, other))
    before = speed_of(rows, choose_rung(rows, strict).chosen)
    after = speed_of(rows, choose_rung(rows, loose).chosen)
    assert after.fastest >= before.slowest
    sharp = [row if row.figures is None else without_spread(row, row.figures) for row in rows]
    speeds = [speed_of(sharp, choose_rung(sharp, drop).chosen).frames_per_s for drop in (strict, loose)]
    assert speeds == sorted(speeds)


@settings(max_examples=100, deadline=None)
@given(tables(), st.floats(0, 0.05))
def test_json_round_trip_and_deciding_again(rows: list[RungResult], drop: float) -> None:
    decision = choose_rung(rows, drop)
    marked = apply_decision(rows, decision)
    text = json.dumps([row.to_json() for row in marked], allow_nan=False)
    read = [RungResult.from_json(value) for value in json.loads(text)]
    assert [row.to_json() for row in read] == [row.to_json() for row in marked]
    assert choose_rung(read, drop).kept == decision.kept
    for row in marked:
        kept = row.rung.name in decision.kept
        assert (row.status == "measured") == kept
        assert row.status != "rejected" or row.reason == decision.reasons[row.rung.name]


def test_the_reference_stays_where_nothing_pays() -> None:
    rows = [
        FLOAT32,
        measured("onnx", 103.0, 4.0),
        measured("openvino", 300.0, 1.0, drop=0.02),
        RungResult(Rung((RUNTIMES["tensorrt"],)), "built", "built for sm80, which is not here"),
        measured("bfloat16", 900.0, low=math.nan),
    ]
    decision = choose_rung(rows)
    assert (decision.chosen, decision.kept) == ("float32", ("float32",))
    assert decision.reasons == {
        "float32": "chosen; the reference that the others are compared with; nothing else pays",
        "onnx": "does not pay: 103 ± 4 frames/s against 100 ± 1 of float32, the rung below (1.03 times)",
        "openvino": "could lose too much F1: -0.0200 against the reference, at worst -0.0200, and -0.0050 is allowed",
        "tensorrt": "built: built for sm80, which is not here",
        "bfloat16": "F1 difference to the reference is not known from 10 test videos",
    }


def test_complexity_must_pay_against_the_simpler_rung() -> None:
    rows = [FLOAT32, measured("openvino", 300.0, 5.0), measured("heads+openvino", 304.0, 8.0), measured("heads", 150.0)]
    assert choose_rung(rows).kept == ("float32", "heads", "openvino")
    rows[2] = measured("heads+openvino", 420.0, 8.0)
    assert choose_rung(rows).chosen == "heads+openvino"
    assert choose_rung([*rows, measured("merge+openvino", 500.0, drop=0.005)]).chosen == "heads+openvino"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.floats(0, 5))
def test_two_runs_that_differ_by_their_noise_choose_alike(noise: list[float], spread: float) -> None:
    """Three engines that are equally fast, in two runs, each speed off by at most the spread that the run tells."""
    names = ("float32", "onnx", "openvino", "heads+onnx")
    true_speed = {"float32": 100.0, "onnx": 300.0, "openvino": 300.0, "heads+onnx": 300.0}
    places = iter(noise)
    runs = [[measured(name, true_speed[name] + next(places) * spread, spread) for name in names] for _ in range(2)]
    assert [choose_rung(run).chosen for run in runs] == ["onnx", "onnx"]


def test_rungs_compose_and_are_named_by_their_parts() -> None:
    rung = parse_rung("openvino+merge+heads", OTHERS)
    assert rung.parts == (HEADS, MERGE, RUNTIMES["openvino"])
    assert (rung.name, rung.kind, rung.complexity) == ("heads+merge+openvino", "pruning+tokens+runtime", 3)
    plain = parse_rung("heads", OTHERS)
    assert (plain.parts, plain.name, plain.kind, plain.complexity) == ((HEADS, EAGER), "heads", "pruning", 1)
    assert (REFERENCE.name, REFERENCE.kind, REFERENCE.complexity) == ("float32", "runtime", 0)
    for name in ("warp", "onnx+openvino", "heads+heads", ""):
        with pytest.raises(ParamsError):
            parse_rung(name, OTHERS)
    for kind, name, engine in (("magic", "a", ""), ("tokens", "a+b", ""), ("runtime", "a", ""), ("tokens", "a", "x")):
        with pytest.raises(ParamsError):
            Part(kind, name, engine, engine)


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ModelError, match="float32, which all others are compared with, is not there"):
        choose_rung([measured("onnx", 10.0)])
    with pytest.raises(ModelError, match="failed: out of memory"):
        choose_rung([RungResult(REFERENCE, "failed", "out of memory")])
    with pytest.raises(ModelError, match="twice"):
        choose_rung([FLOAT32, FLOAT32])
    with pytest.raises(ParamsError, match=r"max_f1_drop = -0\.1"):
        choose_rung([FLOAT32], -0.1)
    for status, reason, value in (("measured", None, None), ("failed", None, None), ("lost", "x", None)):
        with pytest.raises(ShapeError):
            RungResult(REFERENCE, status, reason, value)
    with pytest.raises(ShapeError):
        Speed(1, 0.0, 0.0)
    with pytest.raises(ModelError, match="run the ladder again"):
        RungResult.from_json({"parts": []})


def test_pareto_front_by_hand() -> None:
    assert pareto_front([(1, 5), (2, 4), (2, 3), (3, 1), (0, 5), (math.nan, 9), (2, 4)]) == (0, 1, 3, 6)
    assert pareto_front([]) == ()
