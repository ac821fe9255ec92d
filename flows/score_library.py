"""The flow `score-library`: score folders, lists and globs with the champion, each content once.

Its defaults are the scheduled inbox: what is new in `inbox/` goes to `highlights/`, whatever model is champion by then.
The engine is `tasks.library`'s; this file knows Prefect, and what Dask workers need of it. Entry point for deployments:
flows.score_library.score_library. From a shell: `python -m flows.score_library`.

A run has few tasks (one for the local runner, eight batches a worker for Dask), since Prefect's own sqlite can lock.
"""

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.annotations import quote

from flows.settings import Settings
from flows.states import failing_in_one_line
from models.errors import ParamsError
from tasks.library import LibraryProgress, Runner, options_of
from tasks.library import score_library as run_library
from tasks.library_dask import LOCAL, SlurmJob, dask_scheduler, extra, tell
from tasks.library_listing import Listing, list_library
from tasks.library_work import Batch, LibraryJob, LibraryRow, OnEvent, run_local, work_on
from tasks.mlflow_store import CHAMPION_URI
from tasks.model_uri import resolve
from tasks.profiles import read_value
from tasks.scored_files import ModelIdentity
from tasks.shell import one_line_errors, quiet_environment, terminate_as_interrupt

INBOX = "inbox"
DEFAULT_MIN_AGE_S = 30.0
_SAY_EVERY_S = 30.0


@flow(name="score-library", persist_result=False)
@failing_in_one_line
def score_library(
    paths: list[str] | None = None,
    out: str = "highlights",
    model: str = CHAMPION_URI,
    min_age_s: float = DEFAULT_MIN_AGE_S,
    any_model: bool | None = None,
    retry_quarantined: bool = False,
    settings: dict[str, Any] | None = None,
    runner: Literal["local", "dask"] = "local",
    workers: int = 1,
    address: str = LOCAL,
    slurm: dict[str, Any] | None = None,
    root: str | None = None,
    tracking_uri: str | None = None,
) -> dict[str, int]:
    """Score every video that `paths` mean and that the ledger in `out` does not know; return how many became what.

    paths:        folders, lists (a text file with a path a line), globs, files, relative to the repository root; by
                  default the folder inbox/, which is made where it is missing
    out:          folder of the ledger and the results, relative to the repository root
    model:        models:/NAME@ALIAS, models:/NAME/VERSION or the folder of a served model
    min_age_s:    a file that was written to less than this many seconds ago waits for the next run
    any_model:    what another model, or other settings, have scored is done; by default for the inbox only
    retry_quarantined: try again what was set aside
    settings:     how a video is looked at and what is given of it: options of `tasks.score_settings.settings_of`
    runner, workers, address, slurm: child processes of this machine, or Dask workers: see `tasks.library_dask`
    root:         repository root, by default $HERDLIGHT_ROOT or the working folder
    tracking_uri: of MLflow, by default $MLFLOW_TRACKING_URI or mlflow/mlflow.db

    A video that cannot be read, crashes a decoder or hangs is recorded once as quarantined and fails nothing. No model
    is looked for where there is nothing to score.
    """
    quiet_environment()
    dask = address if runner == "dask" else None
    again = paths is None if any_model is None else any_model
    options = options_of(workers, dask, settings=settings, any_model=again, retry=retry_quarantined)
    place = Settings.of(root, tracking_uri)
    log = get_run_logger()
    listing = _list(place, paths, out, min_age_s)
    for name in listing.waiting:
        log.info("%s: written to less than %g s ago, waits for the next run", name, min_age_s)
    for item in listing.unreadable:
        log.warning("%s: unreadable: %s", item.name, item.reason)
    with _make_runner(runner, workers, address, slurm) as run:
        find_model = functools.partial(_find_model, place, model)
        report = run_library(listing, place.root / out, find_model, run, options, _Sayer(log))
    log.info("%s", ", ".join(f"{count} {status}" for status, count in report.counts().items()))
    return report.counts()


def _list(place: Settings, paths: Sequence[str] | None, out: str, min_age_s: float) -> Listing:
    if paths is None:
        (place.root / INBOX).mkdir(parents=True, exist_ok=True)
    given = [place.root / path for path in ([INBOX] if paths is None else paths)]
    return list_library(given, place.root / out, min_age_s=min_age_s)


def _find_model(place: Settings, model: str) -> tuple[Path, ModelIdentity]:
    path = model if model.startswith(("models:", "runs:")) else str(place.root / model)
    found = resolve(path, place.tracking_uri)
    return found.folder, ModelIdentity(found.uri, found.version, found.sha256)


@contextlib.contextmanager
def _make_runner(runner: str, workers: int, address: str, slurm: Mapping[str, Any] | None) -> Iterator[Runner]:
    if runner == "local":
        yield functools.partial(_run_here, workers)
        return
    try:
        job = SlurmJob(**(slurm or {}))
    except TypeError as error:
        raise ParamsError(f"slurm: {error}; its keys are cores, memory, walltime, queue, account") from None
    DaskTaskRunner = extra("prefect_dask").DaskTaskRunner
    # Without a server of their own choice, workers take the one that this run has; else each would start its own.
    api = PREFECT_API_URL.value() or str(get_client(sync_client=True).api_url)
    with (
        temporary_settings({PREFECT_API_URL: api}),
        dask_scheduler(address, workers, job) as scheduler,
        DaskTaskRunner(address=scheduler) as task_runner,
    ):
        yield functools.partial(_run_on_dask, task_runner)


def _run_here(workers: int, job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
    score_here(quote(job), quote(batches), quote(on_event), workers, return_state=True).result()


def _run_on_dask(task_runner: Any, job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
    futures = [task_runner.submit(score_batch, parameters={"job": job.to_json(), "batch": batch}) for batch in batches]
    for future, batch in zip(futures, batches, strict=True):
        tell(batch, future.result(), on_event)


@task(name="score", task_run_name="score", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def score_here(job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent, workers: int) -> None:
    """Score in child processes of this machine; a run that was cut off keeps what it has scored."""
    run_local(job, batches, on_event, workers=workers)


@task(name="score", task_run_name="score", cache_policy=NO_CACHE, persist_result=False)
@failing_in_one_line
def score_batch(job: dict[str, Any], batch: Batch) -> list[LibraryRow]:
    """Score one batch on a Dask worker."""
    return work_on(job, batch)


class _Sayer:
    """Writes what became of each file to the flow's log, and every half minute where the run stands."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._next_s = time.monotonic() + _SAY_EVERY_S

    def __call__(self, progress: LibraryProgress) -> None:
        row = progress.latest
        if row is not None and row.new:
            level = self._log.info if row.status == "scored" else self._log.warning
            level("%d of %d: %s: %s", progress.num_done, progress.num_files, row.name, _words(row))
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _SAY_EVERY_S
            self._log.info("%s", progress)


def _words(row: LibraryRow) -> str:
    return f"{row.status}: {row.reason}" if row.reason else row.status


def _setting_of(text: str) -> tuple[str, Any]:
    """Return "top" and 3 of "top=3". Raises ParamsError where it is not of that form."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ParamsError(f"--set {text!r}: must be KEY=VALUE, for example top=3")
    return name.strip(), read_value(text, value)


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: score once; exit status 1 with one line when that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m flows.score_library", description="Score a library of footage.")
    parser.add_argument("paths", nargs="*", default=None, metavar="PATH", help="folders, lists, globs; default: inbox/")
    parser.add_argument("--out", default="highlights", metavar="FOLDER")
    parser.add_argument("--model", default=CHAMPION_URI, metavar="URI")
    parser.add_argument("--min-age-s", type=float, default=DEFAULT_MIN_AGE_S, metavar="SECONDS")
    parser.add_argument("--retry-quarantined", action="store_true", help="try again what was set aside")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        help="how to look and what to give, as mode=cascade or top=3; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--runner", choices=("local", "dask"), default="local")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument(
        "--address", default=LOCAL, help="of a Dask scheduler, or local, or slurm; default: %(default)s"
    )
    parser.add_argument("--root", metavar="FOLDER", help="repository root, by default the working folder")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store, by default mlflow/mlflow.db")
    options = vars(parser.parse_args(argv))
    quiet_environment()
    with one_line_errors("score-library"), terminate_as_interrupt():
        settings = dict(map(_setting_of, options["settings"]))
        score_library(**options | {"paths": options["paths"] or None, "settings": settings})


if __name__ == "__main__":
    main()
