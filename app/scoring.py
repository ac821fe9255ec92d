"""The door to scoring: finds the model, shows progress, and prints what became of each video."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from app.rejected import print_rejected
from models.errors import DataError, ModelError, RegistryError
from models.members import is_scorer_folder
from tasks.energy import energy_counter
from tasks.footage import list_footage
from tasks.score import ModelIdentity, ScoreProgress, Scorer, ScoreReport, identify_model, score_videos
from tasks.score_settings import asked_options, settings_of
from tasks.timeline import format_time


def score_footage(
    paths: list[Path], out: Path, model_uri: str, options: Mapping[str, Any], *, force: bool
) -> ScoreReport:
    """Score every video that `paths` mean into `out` with the model that `model_uri` names, and print a table.

    options: see `tasks.score_settings.settings_of`; those that no model could take are told before one is loaded
    """
    asked_options(options)
    footage = list_footage(paths, out)
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: not a folder; choose another --out")
    model, identity = _load_model(model_uri)
    settings = settings_of(options, model.spec)
    with scoring_progress(len(footage)) as on_progress, energy_counter() as counter:
        report = score_videos(
            model, identity, footage, out, settings=settings, force=force, on_progress=on_progress, counter=counter
        )
    print_report(report, out, Console())
    return report


def _load_model(model_uri: str) -> tuple[Scorer, ModelIdentity]:
    """Return the model that `model_uri` names. Raises RegistryError that says how to get one where there is none."""
    folder, version = find_model(model_uri)
    from models.ensemble import load_scorer  # torch takes seconds to import; mistyped paths are told before

    return load_scorer(folder), identify_model(folder, model_uri, version)


def find_model(model_uri: str) -> tuple[Path, str]:
    """Return the folder of the model that `model_uri` names, and its registry version, "" for a folder.

    Raises ModelError for a folder that holds none, RegistryError as in `tasks.model_uri`.
    """
    if not model_uri.startswith(("models:", "runs:")):
        folder = Path(model_uri)
        if not is_scorer_folder(folder):
            raise ModelError(f"{folder}: no served model there; build/compile/model is one after `make run`")
        return folder, ""
    return _from_registry(model_uri)


def _from_registry(model_uri: str) -> tuple[Path, str]:
    from tasks.mlflow_store import default_tracking_uri, sqlite_path
    from tasks.model_uri import resolve

    tracking_uri = default_tracking_uri(Path.cwd())
    store = sqlite_path(tracking_uri)
    if store is not None and not store.is_file():
        raise RegistryError(
            f"{model_uri}: no model registry at {store}; `make run` in the repository makes one, or name a server in "
            "MLFLOW_TRACKING_URI, or a folder with --model"
        )
    try:
        resolved = resolve(model_uri, tracking_uri)
    except RegistryError as error:
        raise RegistryError(f"{error} (`make run` does all of it once)") from None
    return resolved.folder, resolved.version


@contextmanager
def scoring_progress(num_videos: int) -> Iterator[Callable[[ScoreProgress], None]]:
    """Show one bar over all videos on standard error, with the name of the one in hand."""
    columns = (
        TextColumn("{task.fields[place]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[video]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=num_videos, place="", video="")

        def show(event: ScoreProgress) -> None:
            place = f"{event.index + 1} of {event.num_videos}"
            progress.update(task, completed=event.index + event.fraction, place=place, video=event.video)

        yield show


def print_report(report: ScoreReport, out: Path, console: Console) -> None:
    """Print a table of what was scored, one of what was rejected and why, and where the results are."""
    if report.scored:
        table = Table(title="Scored", title_justify="left")
        for name, justify in (("video", "left"), ("length", "right"), ("highlights", "right"), ("inside", "right")):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        table.add_column("results", overflow="fold")
        for row in report.scored:
            output = f"{row.output}.*" + (" (kept)" if row.kept else "")
            output += f" (partial: {row.partial})" if row.partial else ""
            figures = (format_time(row.duration_s), str(row.num_spans), f"{row.highlight_s:.1f} s")
            table.add_row(Text(row.video), *figures, Text(output))
        console.print(table)
    print_rejected(report.rejected, console)
    for row in report.scored:
        if row.note:
            console.print(Text(f"{row.video}: {row.note}", "dim"), soft_wrap=True)
    kept = sum(row.kept for row in report.scored)
    counts = f"{len(report.scored)} scored" + (f" ({kept} kept from before)" if kept else "")
    console.print(Text(f"{counts}, {len(report.rejected)} rejected; results in {out}"), soft_wrap=True)
