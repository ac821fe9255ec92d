"""Scoring a library of footage: what is there, what is still to do, who does it, and what became of it.

`score_library` is the engine behind the flow `flows.score_library` and the command `herdlight score-library`. In its
output folder lie the ledger (`tasks.ledger`) and the table over it (`tasks.library_index`); results are in
`entries/…/KEY/`, named as `tasks.score` names them. A file that changes, a bad file and another run on the same folder
are ordinary here. Knows runs; where workers run is the business of the `Runner` that it is given.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.cores import usable_cores
from models.errors import DataError, ParamsError
from tasks.ledger import LEASE_S, Ledger, Recipe
from tasks.library_index import forget_gone, write_index
from tasks.library_listing import Listing, Place, UnreadablePlace, group_alike
from tasks.library_work import (
    Batch,
    Event,
    LibraryJob,
    LibraryRow,
    OnEvent,
    known_content,
    known_entry,
    row_of,
)
from tasks.score_settings import asked_options
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Limits

_log = logging.getLogger(__name__)
_POLL_S = 1.0
# Few enough for Prefect's sqlite, enough that no worker waits long for the last one.
BATCHES_A_WORKER = 8


class Runner(Protocol):
    """Has batches worked on somewhere, and tells of every file."""

    def __call__(self, job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
        """Return when each file of `batches` was an event with its row; raise what ends the run."""


@dataclass(frozen=True)
class LibraryOptions:
    """How a library is scored; see also `tasks.library_work.LibraryJob`.

    settings:    options of `tasks.score_settings.asked_options` beside the threshold
    workers:     child processes at once, all machines together
    num_batches: about how many pieces the work is handed out in, None for one for each file
    num_threads: of each child, None for the cores of this machine shared out
    """

    threshold: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()  # noqa: RUF009 -- frozen
    any_model: bool = False
    retry_quarantined: bool = False
    workers: int = 1
    num_batches: int | None = None
    num_threads: int | None = None
    lease_s: float = LEASE_S

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ParamsError(f"threshold {self.threshold}: must be 0 to 1")
        asked_options(self.asked)
        if self.workers < 1:
            raise ParamsError(f"workers {self.workers}: must be at least 1")

    @property
    def asked(self) -> dict[str, Any]:
        """Threshold and settings, as options."""
        return {"threshold": self.threshold, **self.settings}


def options_of(
    workers: int,
    address: str | None,
    *,
    settings: Mapping[str, Any] | None = None,
    memory_gib: float = Limits.memory_gib,
    any_model: bool = False,
    retry: bool = False,
) -> LibraryOptions:
    """Return the options for a runner.

    address:  of a Dask scheduler, "local" or "slurm"; None for child processes of this machine
    settings: options of `tasks.score_settings.settings_of`, threshold too
    Raises ParamsError that names what is unknown, out of its range or contradicts.
    """
    asked = asked_options(settings or {})
    return LibraryOptions(
        threshold=asked.pop("threshold", None),
        settings=asked,
        limits=Limits(memory_gib=memory_gib),
        any_model=any_model,
        retry_quarantined=retry,
        workers=workers,
        num_batches=None if address is None else workers * BATCHES_A_WORKER,
        num_threads=None if address in (None, "local") else 1,
    )


@dataclass(frozen=True)
class LibraryProgress:
    """Where a run stands.

    num_done, num_files:    files with a row, of all
    bytes_done, bytes_left: of those that had to be read, and of those that still have to be
    video_s:                seconds of video scored in this run
    elapsed_s:              since the first was begun
    latest:                 the row that was added last, None where only a share of a file is done
    """

    num_done: int
    num_files: int
    bytes_done: float
    bytes_left: float
    video_s: float
    elapsed_s: float
    latest: LibraryRow | None

    @property
    def speed(self) -> float:
        """Seconds of video for each second."""
        return self.video_s / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at the pace so far, by bytes; None before anything is done."""
        return self.bytes_left * self.elapsed_s / self.bytes_done if self.bytes_done > 0 else None

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {format_hours(self.left_s)} left"
        video = f"{self.video_s / 3600:.2f} h of video done, {self.speed:.1f} times real time"
        return f"{self.num_done} of {self.num_files} files, {video}{left}"


@dataclass(frozen=True)
class LibraryReport:
    """What became of every file, in the order of the listing.

    rows:       files
    unreadable: what is no file
    waiting:    names of files that may still be written to
    """

    rows: tuple[LibraryRow, ...]
    unreadable: tuple[UnreadablePlace, ...]
    waiting: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Return numbers of files: contents new in this run by status, files kept from before, and the rest."""
        new = [row.status for row in self.rows if row.new]
        return {
            "scored": new.count("scored"),
            "partial": new.count("partial"),
            "quarantined": new.count("quarantined"),
            "kept": sum(bool(row.key) and not row.new and row.status != "waiting" for row in self.rows),
            "waiting": len(self.waiting) + sum(row.status == "waiting" for row in self.rows),
            "unreadable": len(self.unreadable) + sum(row.status == "unreadable" for row in self.rows),
        }


def format_hours(seconds: float) -> str:
    """Return a length of time for people: 42 s, 7 min, 3.2 h, 12.5 d."""
    for unit, size in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def score_library(
    listing: Listing,
    out: Path,
    find_model: Callable[[], tuple[Path, ModelIdentity]],
    run: Runner,
    options: LibraryOptions | None = None,
    on_progress: Callable[[LibraryProgress], None] = lambda _: None,
) -> LibraryReport:
    """Bring every file of `listing` to an entry in the ledger in `out`, and make the index anew.

    find_model: returns folder and identity of the served model; not called where there is nothing to do for it
    Killed anywhere and run again, it ends with the same entries and results. Where another run is at a content, this
    one waits for it to finish or to die. Raises what `find_model` and `run` raise, DataError for an `out` that is no
    folder; what was finished is kept.
    """
    options = options or LibraryOptions()
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: not a folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out.resolve(), options.lease_s)
    rows: dict[Path, LibraryRow] = {}
    todo: list[Place] = list(listing.places)
    if todo and options.any_model:
        todo = _open_places(ledger, todo, None, options, rows)
    if todo:
        model_folder, identity = find_model()
        job = make_job(ledger.folder, model_folder, identity, options)
        if not options.any_model:
            todo = _open_places(ledger, todo, job.recipe, options, rows)
        meter = _Meter(len(listing.places), todo, rows, on_progress)
        _run_all(job, ledger, todo, run, meter, options.num_batches)
    ledger.sweep()
    forget_gone(ledger, listing)
    unreadable = tuple(
        UnreadablePlace(place.path, place.name, rows[place.path].reason)
        for place in listing.places
        if rows[place.path].status == "unreadable"
    )
    write_index(ledger, (*listing.unreadable, *unreadable))
    return LibraryReport(tuple(rows[place.path] for place in listing.places), listing.unreadable, listing.waiting)


def make_job(out: Path, model_folder: Path, identity: ModelIdentity, options: LibraryOptions) -> LibraryJob:
    """Return what workers are told; the cores are shared out among them."""
    cores = usable_cores()
    asked = asked_options(options.asked)
    return LibraryJob(
        out=str(out),
        model_folder=str(model_folder.resolve()),
        identity=identity,
        threshold=asked.pop("threshold", None),
        settings=asked,
        limits=options.limits,
        any_model=options.any_model,
        retry_quarantined=options.retry_quarantined,
        num_threads=options.num_threads or max(1, cores // options.workers),
        alone=options.workers == 1 and options.num_batches is None,
        lease_s=options.lease_s,
    )


def make_batches(places: Sequence[Place], num_batches: int | None = None) -> list[Batch]:
    """Return `places` in groups of possibly one content (see `group_alike`), largest first, so that none is last.

    num_batches: about how many batches of like size to make of the groups; None: one for each group
    """
    groups = sorted(group_alike(places), key=lambda group: (-sum(place.num_bytes for place in group), group[0].path))
    if num_batches is None or len(groups) <= num_batches:
        return [(group,) for group in groups]
    batches: list[list[tuple[Place, ...]]] = [[] for _ in range(num_batches)]
    sizes = [0] * num_batches
    for group in groups:
        smallest = sizes.index(min(sizes))
        batches[smallest].append(group)
        sizes[smallest] += sum(place.num_bytes + 1 for place in group)
    return [tuple(batch) for batch in batches]


def _open_places(
    ledger: Ledger,
    places: Sequence[Place],
    recipe: Recipe | None,
    options: LibraryOptions,
    rows: dict[Path, LibraryRow],
) -> list[Place]:
    """Return the places that need a worker; rows of those that the ledger knows are put into `rows`."""
    still = []
    for place in places:
        try:
            content = known_content(ledger, place)
        except OSError:  # whoever is to read it says so
            content = None
        entry = None if content is None else known_entry(ledger, content, recipe)
        if entry is None or (options.retry_quarantined and entry.status == "quarantined"):
            still.append(place)
        else:
            rows[place.path] = row_of(place, entry, new=False)
    return still


def _run_all(
    job: LibraryJob, ledger: Ledger, todo: Sequence[Place], run: Runner, meter: "_Meter", num_batches: int | None
) -> None:
    """Run until every place has a row; those that another run has claimed are asked for again when they are free."""
    told = False
    while todo:
        run(job, make_batches(todo, num_batches), meter)
        claimed = [place for place in todo if meter.rows[place.path].status == "claimed"]
        todo = []
        while claimed and not todo:
            if not told:
                told = True
                _log.info("another run has %d files in hand; waiting for it", len(claimed))
            time.sleep(min(_POLL_S, job.lease_s))
            todo = [place for place in claimed if _is_free(ledger, meter.rows[place.path].key)]
        # What is still claimed now comes back as claimed: all of it is asked for again.
        todo = claimed if todo else []
        job = dataclasses.replace(job, retry_quarantined=False)


def _is_free(ledger: Ledger, key: str) -> bool:
    """Return whether nobody is at `key` any more; the claim of the dead is passed over and goes."""
    claim = ledger.claim(key)
    if claim is not None:
        ledger.release(claim)
    return claim is not None


class _Meter:
    """Gathers the events of all workers into rows and a progress; may be called from several threads."""

    def __init__(
        self,
        num_files: int,
        todo: Sequence[Place],
        rows: dict[Path, LibraryRow],
        on_progress: Callable[[LibraryProgress], None],
    ) -> None:
        self.rows = rows
        self._num_files = num_files
        self._left = {place.path: float(place.num_bytes) for place in todo}
        self._num_done = len(rows)
        self._total = self._left_bytes = sum(self._left.values())
        self._in_hand: dict[Path, float] = {}
        self._in_hand_s = self._video_s = 0.0
        self._start_s = time.monotonic()
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            path, row = event.place.path, event.row
            left = event.place.num_bytes * (1 - event.fraction)
            in_hand_s = event.fraction * event.duration_s
            if row is not None:
                left, in_hand_s = (event.place.num_bytes if row.status == "claimed" else 0), 0.0
                self._video_s += row.duration_s if row.new else 0.0
                self._num_done += row.status != "claimed"
                self.rows[path] = row
            self._left_bytes += left - self._left[path]
            self._in_hand_s += in_hand_s - self._in_hand.get(path, 0.0)
            self._left[path], self._in_hand[path] = left, in_hand_s
            self._on_progress(self._progress(row))

    def _progress(self, row: LibraryRow | None) -> LibraryProgress:
        return LibraryProgress(
            self._num_done,
            self._num_files,
            self._total - self._left_bytes,
            self._left_bytes,
            self._video_s + self._in_hand_s,
            time.monotonic() - self._start_s,
            row,
        )
