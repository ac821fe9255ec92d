"""The command `herdlight score-library`; what it does is app/library.py's and, below that, tasks.library's."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.door import door
from app.score_options import DEFAULT_MODEL, ModelOption, takes_settings
from models.errors import DataError


class Runner(StrEnum):
    """Who scores a library."""

    local = "local"
    dask = "dask"


@takes_settings
def score_library(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Folders, lists (a text file with a path a line), globs, videos."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the ledger and the results; made where it is missing.")],
    settings: dict[str, Any],
    model: ModelOption = DEFAULT_MODEL,
    runner: Annotated[Runner, typer.Option(help="Child processes of this machine, or Dask workers.")] = Runner.local,
    workers: Annotated[int, typer.Option(min=1, help="How many videos at once.")] = 1,
    address: Annotated[
        str, typer.Option(help="With dask: tcp://HOST:PORT of a scheduler, local for this machine, slurm for jobs.")
    ] = "local",
    memory_gib: Annotated[float, typer.Option(min=0.1, help="Memory that one video may take, GiB.")] = 4.0,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try again what was set aside.")
    ] = False,
) -> None:
    """Score a library: each content once for each model and settings, whatever is killed and however often it is run.

    Each video is scored in a watched process: one that crashes a decoder, hangs or takes too much memory is set aside
    with its reason, and the others go on. The exit status is 0 when at least one file has results, else 1.
    """
    with door():
        from app.library import score_paths
        from tasks.library import options_of

        dask = address if runner is Runner.dask else None
        options = options_of(workers, dask, settings=settings, memory_gib=memory_gib, retry=retry_quarantined)
        report = score_paths(paths, out, model, options, dask)
        if not any(row.status in ("scored", "partial") for row in report.rows):
            raise DataError(f"none of the files could be scored; {out / 'index.json'} says why for each")
