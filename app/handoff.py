"""The door to the hand-off: shows progress, and prints what was written, what was left out and what to know."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.rejected import print_rejected
from tasks.handoff.export import FORMATS, ExportReport, choose_formats, export_results
from tasks.handoff.options import ExportOptions, parse_place, parse_starts, require_separate


def export_highlights(
    results: Path, footage: Sequence[Path], out: Path, formats: Sequence[str], starts: Sequence[str], place: str | None
) -> ExportReport:
    """Write the highlights of `results` into `out`, and print a table of it."""
    options = ExportOptions(parse_starts(starts), None if place is None else parse_place(place))
    require_separate(results, out)
    steps = ["footage", *choose_formats(formats)]
    columns = (TextColumn("{task.fields[step]}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(steps), step="")

        def show(step: str, fraction: float) -> None:
            if step in steps:
                progress.update(task, completed=steps.index(step) + fraction, step=step)

        report = export_results(results, footage, out, formats, options, show)
    print_export(report, out, Console())
    return report


def print_export(report: ExportReport, out: Path, console: Console) -> None:
    """Print the files by format, what was rejected and why, and what to know."""
    table = Table(title="Written", title_justify="left")
    for name in ("format", "what", "files"):
        table.add_column(name, overflow="fold")
    for name, files in report.files.items():
        shown = files[0] if len(files) == 1 else f"{len(files)} files" + (f", first {files[0]}" if files else "")
        table.add_row(name, FORMATS[name].about, Text(shown))
    console.print(table)
    print_rejected(report.rejected, console)
    for note in report.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    what = f"{report.num_highlights} highlights of {report.num_videos} videos"
    console.print(Text(f"{what}, {len(report.rejected)} rejected; files in {out}"), soft_wrap=True)
