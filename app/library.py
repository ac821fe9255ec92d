"""The door to scoring a library: finds model and runner, shows how far it is, prints what became of it."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from app.scoring import find_model
from models.errors import DataError
from tasks.library import LibraryOptions, LibraryProgress, LibraryReport, Runner, format_hours, score_library
from tasks.library_listing import list_library
from tasks.library_work import run_local
from tasks.scored_files import ModelIdentity, identify_model

_MAX_ROWS = 30


def score_paths(
    paths: Sequence[str], out: Path, model_uri: str, options: LibraryOptions, address: str | None
) -> LibraryReport:
    """Score what `paths` mean into the ledger in `out` and print a summary.

    address: of a Dask scheduler, "local" or "slurm"; None for child processes of this machine
    """
    listing = list_library(paths, out)
    if not listing.places and not listing.unreadable:
        raise DataError(f"{', '.join(paths)}: no video files there")

    def find() -> tuple[Path, ModelIdentity]:
        folder, version = find_model(model_uri)
        return folder, identify_model(folder, model_uri, version)

    with _runner(options.workers, address) as run, library_progress() as on_progress:
        report = score_library(listing, out, find, run, options, on_progress)
    print_library(report, out, Console())
    return report


@contextmanager
def _runner(workers: int, address: str | None) -> Iterator[Runner]:
    if address is None:
        yield functools.partial(run_local, workers=workers)
        return
    from tasks.library_dask import dask_client, dask_scheduler, run_on

    with dask_scheduler(address, workers) as scheduler, dask_client(scheduler) as client:
        yield run_on(client)


@contextmanager
def library_progress() -> Iterator[Callable[[LibraryProgress], None]]:
    """Show one bar over all bytes on standard error: files, hours of video, speed, time left."""
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(event: LibraryProgress) -> None:
            total = event.bytes_done + event.bytes_left
            progress.update(bar, completed=event.bytes_done, total=total or None, description=str(event))

        yield show


def print_library(report: LibraryReport, out: Path, console: Console) -> None:
    """Print what could not be scored in full and why, and how many files became what."""
    bad = [(row.name, row.status, row.reason) for row in report.rows if row.status not in ("scored", "claimed")]
    bad += [(item.name, "unreadable", item.reason) for item in report.unreadable]
    if bad:
        table = Table(title="Not scored in full", title_justify="left")
        for name in ("file", "", "why"):
            table.add_column(name, overflow="fold")
        for name, status, reason in bad[:_MAX_ROWS]:
            table.add_row(Text(name), status, Text(reason))
        console.print(table)
        if len(bad) > _MAX_ROWS:
            console.print(f"and {len(bad) - _MAX_ROWS} more: {out / 'index.json'}")
    scored_s = sum(row.duration_s for row in report.rows if row.new)
    words = [f"{count} {name}" for name, count in report.counts().items() if count]
    statuses = Counter(row.status for row in report.rows)
    whole = f"{statuses['scored'] + statuses['partial']} of {len(report.rows)} files have results"
    line = f"{', '.join(words) or 'nothing to do'}; {format_hours(scored_s)} of video; {whole} in {out / 'index.json'}"
    console.print(Text(line), soft_wrap=True)
