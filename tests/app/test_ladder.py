"""`herdlight ladder`: the table, the reasons, and what is said where there is none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from models.bootstrap import PairedDifference
from models.evaluation import Estimate
from models.ladder import REFERENCE, RUNTIMES, Figures, Rung, RungResult, Speed

FIGURES = Figures(
    Estimate(0.771, 0.653, 0.856), PairedDifference(-0.001, -0.002, 0.0, 0.95, 28), 0.5, 0.0123, 0.0012,
    Speed(1, 146.0, 3.0), Speed(32, 1092.0, 12.0), 6.83, 9.59, 5.48, 485.8, 1.4e-5, "estimated",
)  # fmt: skip
ROWS = (
    RungResult(REFERENCE, "measured", None, FIGURES),
    RungResult(Rung((RUNTIMES["openvino"],)), "failed", "no such operator: warp"),
)


def run(path: Path) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "240"}).invoke(app, ["ladder", "--table", str(path)])
    return result.exit_code, result.output


def test_every_rung_is_a_line_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    reasons = {"float32": "chosen; nothing else pays", "openvino": "failed: no such operator: warp"}
    table = {"chosen": "float32", "reasons": reasons, "device": "a processor", "rungs": [row.to_json() for row in ROWS]}
    path.write_text(json.dumps(table))
    code, output = run(path)
    assert code == 0
    line = next(line for line in output.splitlines() if line.startswith("float32 "))
    for part in ("chosen", "0.771 [0.653, 0.856]", "-0.0010 [-0.0020, +0.0000]", "0.0012 / 0.0123", "146 ± 3",
                 "1092 ± 12 (32)", "6.83 / 9.59", "5.5 / 486", "0.014"):  # fmt: skip
        assert part in line
    assert "openvino: failed: no such operator: warp" in output
    assert "Measured on a processor; energy estimated" in output


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"rungs": [{}], "chosen": ""}'])
def test_without_a_table_it_says_what_to_run(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ladder.json"
    if content is not None:
        path.write_text(content)
    code, output = run(path)
    assert code == 1
    assert "ladder.json" in output
    assert "dvc repro " in output
