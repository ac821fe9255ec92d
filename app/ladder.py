"""Printing the compression ladder for people: one line a rung, and why each was kept or thrown out."""

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import DataError, ModelError
from models.files import read_json
from models.ladder import Figures, RungResult

_STYLES = {"measured": "green", "built": "cyan", "rejected": "yellow", "failed": "bold red", "not_possible": "dim"}
_COLUMNS = (
    "F1", "F1 difference", "score difference\nmean / max", "frames/s\nbatch 1", "frames/s\nbest batch",
    "one frame, ms\np50 / p99", "MB on disk\n/ resident", "Wh per\n1,000 frames",
)  # fmt: skip


def print_ladder(path: Path, console: Console) -> None:
    """Print the table at `path`, the reference first. Raises DataError where there is none that can be read."""
    try:
        value: dict[str, Any] = read_json(path)
        rows = [RungResult.from_json(row) for row in value["rungs"]]
        chosen, reasons, device = value["chosen"], dict(value["reasons"]), value["device"]
    except FileNotFoundError:
        raise DataError(f"{path}: no ladder there; run `dvc repro ladder` first") from None
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise DataError(f"{path}: not readable as a ladder ({error}); run `dvc repro -f -s ladder` again") from None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Rung")
    table.add_column("Status")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        is_chosen = row.rung.name == chosen
        status = "chosen" if is_chosen else row.status.replace("_", " ")
        style = "bold green" if is_chosen else _STYLES[row.status]
        cells = ["-"] * len(_COLUMNS) if row.figures is None else _cells(row.figures)
        table.add_row(Text(row.rung.name, "bold" if is_chosen else ""), Text(status, style), *cells)
    console.print(table)
    console.print()
    for row in rows:
        console.print(Text(f"{row.rung.name}: {reasons.get(row.rung.name, row.reason or '')}"), soft_wrap=True)
    methods = {row.figures.energy_method for row in rows if row.figures is not None} - {None}
    energy = f"; energy {', '.join(sorted(map(str, methods)))}" if methods else ""
    console.print(Text(f"Measured on {device}{energy}", "dim"), soft_wrap=True)


def _cells(found: Figures) -> list[str]:
    difference = found.f1_difference
    return [
        _with_interval(found.f1.value, found.f1.low, found.f1.high, "{:.3f}"),
        _with_interval(difference.value, difference.low, difference.high, "{:+.4f}"),
        f"{found.mean_score_diff:.4f} / {found.max_score_diff:.4f}",
        found.single.text,
        f"{found.best.text} ({found.best.batch_size})",
        f"{found.latency_ms_p50:.3g} / {found.latency_ms_p99:.3g}",
        f"{found.disk_mb:.1f} / {'-' if found.resident_mb is None else f'{found.resident_mb:.0f}'}",
        "-" if found.kwh_per_1000 is None else f"{found.kwh_per_1000 * 1e3:.3g}",
    ]


def _with_interval(value: float, low: float, high: float, form: str) -> str:
    if math.isnan(value):
        return "undefined"
    shown = form.format(value)
    return shown if math.isnan(low) else f"{shown} [{form.format(low)}, {form.format(high)}]".replace("[", "\\[")
