"""The compression ladder on the report page and the model card: table, verdict, failures, and a page without one."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.bootstrap import PairedDifference
from models.evaluation import Estimate
from models.files import read_json, write_json
from models.ladder import REFERENCE, RUNTIMES, Figures, Part, Rung, RungResult, Speed, apply_decision, choose_rung
from models.manifest import VideoRow
from tasks.ladder_picture import write_ladder_picture
from tasks.report.rungs import describe_rung, read_ladder
from tests.tasks.test_report import Page, run_report, write_build

FIGURES = Figures(
    Estimate(0.771, 0.653, 0.856), PairedDifference(0.0, 0.0, 0.0, 0.95, 28), 0.5, 0.0123, 0.0012,
    Speed(1, 146.0, 3.0), Speed(32, 1000.0, 12.0), 6.83, 9.59, 5.48, 485.8, 1.4e-5, "estimated",
)  # fmt: skip


def faster(times: float, low: float = 0.0) -> Figures:
    best = Speed(32, 1000.0 * times, 12.0)
    difference = PairedDifference(low / 2, low, 0.0, 0.95, 28)
    return replace(FIGURES, best=best, f1_difference=difference, disk_mb=2.74, kwh_per_1000=7e-6)


ROWS = (
    RungResult(REFERENCE, "measured", None, FIGURES),
    RungResult(Rung((RUNTIMES["bfloat16"],)), "measured", None, faster(1.5, low=-0.014)),
    RungResult(Rung((RUNTIMES["openvino-bfloat16"],)), "measured", None, faster(2.5)),
    RungResult(Rung((RUNTIMES["openvino-int8"],)), "failed", "no kernel for <warp> | `x`"),
    RungResult(Rung((RUNTIMES["tensorrt"],)), "built", "built for sm80, which is not here"),
    RungResult(Rung((RUNTIMES["torchscript"],)), "not_possible", "runs towers of torch, and this is an ONNX graph"),
)


def write_ladder(build: Path, rows: tuple[RungResult, ...]) -> None:
    """Leave what stage ladder leaves."""
    decision = choose_rung(rows)
    marked = apply_decision(rows, decision)
    told = {"chosen": decision.chosen, "max_f1_drop": 0.005, "kept": [], "reasons": dict(decision.reasons)}
    rungs = [row.to_json() for row in marked]
    write_json(build / "ladder" / "ladder.json", {**told, "device": "CPU x2", "rungs": rungs})
    write_ladder_picture(build / "ladder" / "ladder.png", marked, decision)


@pytest.fixture(scope="module")
def build(make_row: Callable[..., VideoRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("ladder") / "build", make_row)


def test_the_table_tells_every_rung_and_why(build: Path) -> None:
    write_ladder(build, ROWS)
    engines = read_json(build / "compile" / "engines.json")
    write_json(build / "compile" / "engines.json", {**engines, "chosen": "openvino-bfloat16"})
    html, card = run_report(build)
    text = Page(html).text
    told = text[text.index("How fast can it get") : text.index("How it runs")]
    for words in (
        "✓ chosen openvino-bfloat16 (run by OpenVINO, numbers of half the length): 2.5 times the frames a second",
        "50% of the bytes, 50% of the energy, and an F1 that differs by 0.000.",
        "float32 the model as it was trained worth it",
        "bfloat16 run by PyTorch, numbers of half the length not taken could lose too much F1",
        "2,500 ± 12, 32 at once 2.5 times",
        "failed no kernel for <warp> | `x`",
        "built, cannot run here built for sm80, which is not here",
        "not possible runs towers of torch",
        "Energy is estimated.",
    ):
        assert words in told
    assert "not served" not in told
    assert "<warp>" not in html
    assert base64.b64encode((build / "ladder" / "ladder.png").read_bytes()).decode() in html
    (line,) = [line for line in card.splitlines() if line.startswith("| Rung of the compression ladder | ")]
    for words in ("openvino-bfloat16", "2.5 times the frames a second of float32", "50% of its energy (estimated)"):
        assert words in line
    assert line.count("|") == 3


def test_a_named_engine_is_served_and_the_choice_only_shown(build: Path) -> None:
    write_ladder(build, ROWS)
    engines = read_json(build / "compile" / "engines.json")
    write_json(build / "compile" / "engines.json", {**engines, "chosen": "onnx"})
    html, card = run_report(build)
    assert "The settings name the engine onnx , so this choice is shown and not served." in Page(html).text
    assert "not served, since the settings name an engine" in card


def test_where_nothing_pays_it_says_so(build: Path) -> None:
    write_ladder(build, (ROWS[0], replace(ROWS[1], figures=replace(FIGURES, kwh_per_1000=None, resident_mb=None))))
    html, card = run_report(build)
    assert "float32 (the model as it was trained): nothing else is surely as good and surely faster." in Page(html).text
    assert "nothing else was as good and faster; 2 tried on CPU x2" in card
    assert "nan" not in Page(html).text.lower().split()


def test_without_a_ladder_the_page_says_so(build: Path) -> None:
    for path in (build / "ladder").glob("*.*"):
        path.unlink()
    html, card = run_report(build)
    assert "The ladder was not measured." in Page(html).text
    assert "compression ladder" not in card


def test_rungs_in_plain_words() -> None:
    both = Rung((Part("pruning", "heads"), Part("tokens", "merge"), RUNTIMES["onnx"]))
    told = "a smaller network, fewer patches of each picture, run by ONNX Runtime, full numbers"
    assert describe_rung(both) == told
    assert describe_rung(Rung((Part("pruning", "heads"), RUNTIMES["float32"]))) == "a smaller network"
    assert all(describe_rung(Rung((part,))) for part in RUNTIMES.values())


def test_savings_that_are_not_known() -> None:
    rows = (ROWS[0], replace(ROWS[2], figures=replace(faster(2.0), kwh_per_1000=None, energy_method=None)))
    decision = choose_rung(rows)
    rungs = [row.to_json() for row in apply_decision(rows, decision)]
    table = read_ladder(
        {"chosen": decision.chosen, "max_f1_drop": 0.005, "reasons": decision.reasons, "device": "x", "rungs": rungs}
    )
    assert table.savings == {"speed": 2.0, "disk": 0.5, "energy": None}
    assert table.methods == "estimated"
