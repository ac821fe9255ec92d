"""One worker's part of a library: from a file to its entry in the ledger.

Knows the order of steps for one file (read, look up, claim, score, publish) and the local runner; who else works, where
and in which order is `tasks.library`'s. Everything that a worker needs is in a `LibraryJob`, which travels as JSON.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.ledger import LEASE_S, Claim, Entry, Ledger, PlaceRecord, Recipe, entry_key
from tasks.library_listing import Place, open_regular
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Limits, Outcome, WatchedChild

# Of the bytes that scoring writes: a new one has everything scored again, as a new model does.
SCORING_VERSION = "1"
_CHUNK_BYTES = 1 << 20
RowStatus = Literal["scored", "partial", "quarantined", "unreadable", "waiting", "claimed"]
Batch = tuple[tuple[Place, ...], ...]


@dataclass(frozen=True)
class LibraryJob:
    """What a worker has to know of a run.

    out:               folder of the ledger
    model_folder:      of the served model, on every machine
    identity:          which model it is
    threshold:         score from which a frame is a highlight, 0 to 1, None for the model's own
    limits:            what one video may cost
    settings:          what else is asked for, as `tasks.score_settings.asked_options` gives it
    any_model:         what another model, threshold or settings have scored before is done
    retry_quarantined: what was set aside is tried again
    num_threads:       of one child
    alone:             the child has its machine to itself, so that the machine's energy is its own, and not a share of
                       it (`models.energy.Energy.share`)
    lease_s:           seconds without a heartbeat after which a claim of another machine counts for nothing
    """

    out: str
    model_folder: str
    identity: ModelIdentity
    threshold: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()  # noqa: RUF009 -- frozen
    any_model: bool = False
    retry_quarantined: bool = False
    num_threads: int = 1
    alone: bool = False
    lease_s: float = LEASE_S

    @property
    def recipe(self) -> Recipe:
        """What the results depend on beside the content."""
        return Recipe(self.identity.sha256, self.threshold, SCORING_VERSION, self.settings)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "LibraryJob":
        """Return the value that `to_json` made."""
        parts = {"identity": ModelIdentity(**value["identity"]), "limits": Limits(**value["limits"])}
        return LibraryJob(**{**value, **parts})


@dataclass(frozen=True)
class LibraryRow:
    """What became of one file in this run.

    path, name, num_bytes: see Place
    status:     that of its content's entry; unreadable: no content; waiting: it was written to meanwhile;
                claimed: another run is at it
    reason:     why it is not scored in full
    key:        of its entry, "" where there is none
    new:        this run has made the entry
    duration_s: seconds of video that the scores cover
    """

    path: str
    name: str
    num_bytes: int
    status: RowStatus
    reason: str = ""
    key: str = ""
    new: bool = False
    duration_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """A step of a run: a file on its way (row None), or done.

    place:      the file
    fraction:   the share of it that is done
    duration_s: its length, seconds, 0 while it is not known
    """

    place: Place
    fraction: float
    duration_s: float
    row: LibraryRow | None = None


# (place, content's SHA-256, folder for the results, on_fraction, on_tick) -> what became of it
ScoreFile = Callable[[Place, str, Path, Callable[[float, float], None], Callable[[], None]], Outcome]
OnEvent = Callable[[Event], None]


def row_of(place: Place, entry: Entry, *, new: bool) -> LibraryRow:
    """Return the row of a file whose content has an entry."""
    return LibraryRow(
        str(place.path), place.name, place.num_bytes, entry.status, entry.reason, entry.key, new, entry.duration_s
    )


def known_content(ledger: Ledger, place: Place) -> str | None:
    """Return the SHA-256 of a file that the ledger knows by path, size and time, None where it has to be read.

    Raises OSError where it is not there.
    """
    record, status = ledger.place(place.path), place.path.stat()
    if record is None or (record.num_bytes, record.mtime_ns) != (status.st_size, status.st_mtime_ns):
        return None
    return record.content_sha256


def known_entry(ledger: Ledger, content: str, recipe: Recipe | None) -> Entry | None:
    """Return the entry of a content under `recipe`, under any where that is None."""
    if recipe is not None:
        return ledger.entry(entry_key(content, recipe))
    return next(iter(ledger.entries_of(content)), None)


def score_group(
    job: LibraryJob, ledger: Ledger, group: Sequence[Place], score_file: ScoreFile, on_event: OnEvent
) -> list[LibraryRow]:
    """Bring every file of `group` to its entry, in order; return what became of each."""
    rows: list[LibraryRow] = []
    for place in group:
        made = {row.key for row in rows if row.new}
        row = _settle(job, ledger, place, score_file, on_event, made)
        on_event(Event(place, 1.0, row.duration_s, row))
        rows.append(row)
    return rows


def _settle(
    job: LibraryJob, ledger: Ledger, place: Place, score_file: ScoreFile, on_event: OnEvent, made: set[str]
) -> LibraryRow:
    blank = LibraryRow(str(place.path), place.name, place.num_bytes, "unreadable")
    try:
        content = known_content(ledger, place)
        if content is None:
            record = read_place(place)
            ledger.put_place(record)
            content = record.content_sha256
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) != place.path:
            raise  # the ledger's own disk
        return dataclasses.replace(blank, reason=error.strerror or str(error))
    key = entry_key(content, job.recipe)
    retry = job.retry_quarantined and key not in made
    entry = known_entry(ledger, content, None if job.any_model else job.recipe)
    if entry is not None and not (retry and entry.status == "quarantined"):
        return row_of(place, entry, new=False)
    claim = ledger.claim(key)
    if claim is None:
        return dataclasses.replace(blank, status="claimed", reason="another run is at it", key=key)
    try:
        entry = ledger.entry(key)  # whoever had the claim before may just have finished
        if entry is not None and not (retry and entry.status == "quarantined"):
            return row_of(place, entry, new=False)
        return _score(job, ledger, place, content, claim, score_file, on_event, blank)
    finally:
        ledger.release(claim)


def _score(
    job: LibraryJob,
    ledger: Ledger,
    place: Place,
    content: str,
    claim: Claim,
    score_file: ScoreFile,
    on_event: OnEvent,
    blank: LibraryRow,
) -> LibraryRow:
    """Score a file whose key is claimed, and publish what became of it."""

    def on_fraction(fraction: float, duration_s: float) -> None:
        on_event(Event(place, fraction, duration_s))

    key = entry_key(content, job.recipe)
    staged = ledger.stage(key)
    outcome = score_file(place, content, staged, on_fraction, claim.beat)
    try:
        unchanged = known_content(ledger, place) == content
    except OSError:
        unchanged = False
    if not unchanged:
        return dataclasses.replace(blank, status="waiting", reason="it was written to while it was scored")
    model = f"{job.identity.name} (version {job.identity.version})" if job.identity.version else job.identity.name
    entry = Entry(
        content_sha256=content,
        num_bytes=place.num_bytes,
        video=place.name,
        model=model,
        recipe=job.recipe,
        **asdict(outcome),
    )
    if outcome.status == "quarantined":  # what a child left behind before it fell is no result
        staged = ledger.stage(key)
    if job.retry_quarantined and ledger.entry(key) is not None:
        ledger.withdraw(key)
    new = ledger.commit(entry, staged)
    kept = entry if new else ledger.entry(key)
    return row_of(place, kept or entry, new=new)


def read_place(place: Place) -> PlaceRecord:
    """Read a file and return its size, time and content. Raises OSError, also where it is no regular file."""
    digest = hashlib.sha256()
    with os.fdopen(open_regular(place.path), "rb") as source:
        status = os.fstat(source.fileno())
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
    return PlaceRecord(str(place.path), status.st_size, status.st_mtime_ns, digest.hexdigest())


def child_of(job: LibraryJob) -> WatchedChild:
    """Return a child that scores for `job`; it starts with its first video."""
    command = [sys.executable, "-m", "tasks.watchdog_child", job.model_folder, str(job.limits.memory_gib)]
    command.append("alone" if job.alone else "shared")
    return WatchedChild(command, job.limits, {"OMP_NUM_THREADS": str(job.num_threads)})


def score_in_child(job: LibraryJob, child: WatchedChild, stopped: Callable[[], None] = lambda: None) -> ScoreFile:
    """Return the function that has `child` score a file. stopped: raises where the run is to end."""

    def score(
        place: Place, content: str, out: Path, on_fraction: Callable[[float, float], None], on_tick: Callable[[], None]
    ) -> Outcome:
        def tick() -> None:
            stopped()
            on_tick()

        names = {"path": str(place.path), "name": place.name, "video_id": content[:16], "out": str(out)}
        options = {"threshold": job.threshold, **job.settings}
        request = {**names, "options": options, "model": asdict(job.identity)}
        return child.score(request, place.num_bytes, on_fraction, tick)

    return score


_kept = threading.local()


def work_on(job: Mapping[str, Any], batch: Batch) -> list[LibraryRow]:
    """Do one batch on any machine and return what became of each file; the child stays for the thread's next batch.

    job: as `LibraryJob.to_json` gives it
    """
    made = LibraryJob.from_json(job)
    kind = (made.model_folder, made.identity.sha256, made.limits, made.num_threads, made.alone)
    if getattr(_kept, "kind", None) != kind:
        forget_child()
        _kept.kind, _kept.child = kind, child_of(made)
    ledger = Ledger(Path(made.out), made.lease_s)
    score_file = score_in_child(made, _kept.child)
    return [row for group in batch for row in score_group(made, ledger, group, score_file, lambda _: None)]


def forget_child() -> None:
    """End the child that this thread keeps, where there is one."""
    if getattr(_kept, "kind", None) is not None:
        _kept.child.close()
        _kept.kind = None


class _StoppedError(Exception):
    """Another worker of this run has failed, or the run was interrupted."""


def run_local(
    job: LibraryJob,
    batches: Sequence[Batch],
    on_event: OnEvent,
    *,
    workers: int = 1,
    make_child: Callable[[LibraryJob], WatchedChild] = child_of,
) -> None:
    """Work on `batches` in `workers` child processes of this machine; each file ends as an event with its row.

    Raises what a worker raises, and KeyboardInterrupt, after every child was ended.
    """
    ledger = Ledger(Path(job.out), job.lease_s)
    todo = collections.deque(batches)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    def drain() -> None:
        child = make_child(job)
        score_file = score_in_child(job, child, check)
        try:
            while not stop.is_set():
                try:
                    batch = todo.popleft()
                except IndexError:
                    return
                for group in batch:
                    score_group(job, ledger, group, score_file, on_event)
        finally:
            child.close()

    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(drain) for _ in range(min(workers, len(batches)))]
        try:
            concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        finally:
            stop.set()
    failures = [future.exception() for future in futures]
    for failure in failures:
        if failure is not None and not isinstance(failure, _StoppedError):
            raise failure
