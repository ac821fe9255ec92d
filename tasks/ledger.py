"""A ledger of results on a plain file system: each content and recipe once, whatever is killed and however often.

    entries/3f0/KEY/entry.json   what became of one content under one recipe, beside the files of its results
    places/a1b/HASH.json         where a content was seen, by path, with size and time: footage is not read twice
    claims/KEY.0                 who is at it now; the highest number holds, the file's time is the heartbeat
    staging/KEY.NONCE/           results in the making

An entry's folder is filled in `staging` and renamed to its place: that one rename publishes results and entry at once.
Renaming onto a folder that is there fails (rename(2): ENOTEMPTY), so the first of two stays and the second goes.
Nothing else decides: claims only save work. There are no locks, since fcntl's do not hold on every network disk; a
claim is made with O_EXCL (atomic on NFS from version 3). A claim is stale when its process is gone, where it is one of
this machine, or when its heartbeat has not moved for `lease_s` as the one who waits measures it, so that clocks of
different machines are never compared. A stale claim is passed over by making the next number, never removed: of two
who do it one succeeds. Knows files and names; knows nothing of video, models or scheduling.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

_log = logging.getLogger(__name__)
Status = Literal["scored", "partial", "quarantined"]
ENTRY_FILE = "entry.json"
LEASE_S = 120.0
_HEARTBEATS_A_LEASE = 8
_SWEEP_S = 3600.0
_CONTENT_DIGITS, _RECIPE_DIGITS, _SHARD_DIGITS = 32, 12, 3


@dataclass(frozen=True)
class Recipe:
    """What turns a content into results, as far as their bytes go.

    model_sha256:    over the files of the served model
    threshold:       score from which a frame is a highlight, 0 to 1, None for the model's own
    scoring_version: of herdlight's own scoring; another one gives other results
    settings:        what else is asked for, as JSON; a plain run asks for nothing
    """

    model_sha256: str
    threshold: float | None
    scoring_version: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; settings only where there are some."""
        return {name: value for name, value in asdict(self).items() if name != "settings" or value}

    @property
    def asked(self) -> dict[str, Any]:
        """Threshold and settings where they are asked for."""
        return {**({} if self.threshold is None else {"threshold": self.threshold}), **self.settings}

    @property
    def digest(self) -> str:
        """First hexadecimal digits of a SHA-256 over all of it."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_RECIPE_DIGITS]


@dataclass(frozen=True)
class Entry:
    """What became of one content under one recipe.

    status:         scored; partial: what could be read of it is scored; quarantined: not tried again
    reason:         why it is not scored in full, "" where it is
    content_sha256: of the file, 64 hexadecimal digits
    num_bytes:      its size
    video:          its name where it was seen first
    model:          name and version that were asked for, in words
    recipe:         see Recipe
    output:         stem of the results in the entry's folder, "" where there are none
    duration_s:     seconds of video that the scores cover
    num_spans:      number of highlights
    highlight_s:    seconds inside highlights
    """

    status: Status
    reason: str
    content_sha256: str
    num_bytes: int
    video: str
    model: str
    recipe: Recipe
    output: str = ""
    duration_s: float = 0.0
    num_spans: int = 0
    highlight_s: float = 0.0

    @property
    def key(self) -> str:
        """Name of the entry: digits of the content, digits of the recipe."""
        return entry_key(self.content_sha256, self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "recipe": self.recipe.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Entry":
        """Return the value that `to_json` made. Raises KeyError, TypeError or ValueError when it is none."""
        entry = Entry(**{**value, "recipe": Recipe(**value["recipe"])})
        if entry.status not in ("scored", "partial", "quarantined"):
            raise ValueError(f"status {entry.status!r}")
        return entry


@dataclass(frozen=True)
class PlaceRecord:
    """A file as it was when its content was read.

    path:           absolute
    num_bytes:      its size
    mtime_ns:       when it was last written, nanoseconds
    content_sha256: of its content
    """

    path: str
    num_bytes: int
    mtime_ns: int
    content_sha256: str


@dataclass
class Claim:
    """The right to work on one key; `beat` it at least every few seconds.

    path:    its file
    every_s: seconds between two heartbeats that are written
    """

    path: Path
    every_s: float
    _last_s: float = field(default_factory=lambda: time.monotonic())

    def beat(self) -> None:
        """Show that the work goes on; writes only every few seconds."""
        now_s = time.monotonic()
        if now_s - self._last_s >= self.every_s:
            self._last_s = now_s
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)


def entry_key(content_sha256: str, recipe: Recipe) -> str:
    """Return the name of the entry of a content under a recipe."""
    return f"{content_sha256[:_CONTENT_DIGITS]}-{recipe.digest}"


class Ledger:
    """The ledger in one folder; any number of processes on any number of machines may use it at once."""

    def __init__(self, folder: Path, lease_s: float = LEASE_S) -> None:
        """Use `folder`. lease_s: seconds without a heartbeat after which a claim of another machine is passed over."""
        self.folder = folder
        self._lease_s = lease_s
        self._seen: dict[str, tuple[int, float]] = {}

    def entry_folder(self, key: str) -> Path:
        """Return where the results and the entry of `key` lie, or will."""
        return self.folder / "entries" / key[:_SHARD_DIGITS] / key

    def entry(self, key: str) -> Entry | None:
        """Return the entry of `key`, None where there is none; a damaged one is set aside, so that it is made again."""
        folder, reason = self.entry_folder(key), f"no {ENTRY_FILE}"
        # Folders are published whole: in one that came after the first look, the second one finds its entry.
        for _ in range(2):
            try:
                return Entry.from_json(_read(folder / ENTRY_FILE))
            except FileNotFoundError:
                if not folder.is_dir():
                    return None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
        _log.warning("%s: damaged (%s); set aside, it is scored again", folder, reason)
        self.withdraw(key)
        return None

    def entries_of(self, content_sha256: str) -> list[Entry]:
        """Return the entries of a content under any recipe, sorted by key."""
        digits = content_sha256[:_CONTENT_DIGITS]
        shard = self.folder / "entries" / digits[:_SHARD_DIGITS]
        keys = sorted(path.name for path in shard.glob(f"{digits}-*"))
        return [entry for entry in map(self.entry, keys) if entry is not None]

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, sorted by key."""
        for shard in sorted((self.folder / "entries").glob("*")):
            for folder in sorted(shard.glob("*-*")):
                if (entry := self.entry(folder.name)) is not None:
                    yield entry

    def withdraw(self, key: str) -> None:
        """Take an entry out, so that its content is worked on again."""
        aside = self._staging_of(key)
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another one was faster
            self.entry_folder(key).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def claim(self, key: str) -> Claim | None:
        """Return the right to work on `key`, or None while somebody else has it. What is left of the dead goes."""
        number = 0
        while (path := self._claim_path(key, number)).exists():
            if not self._is_stale(path):
                return None
            number += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as new:
                json.dump(_who(), new)
        except FileExistsError:
            return None
        for left in (self.folder / "staging").glob(f"{key}.*"):
            shutil.rmtree(left, ignore_errors=True)
        return Claim(path, self._lease_s / _HEARTBEATS_A_LEASE)

    def release(self, claim: Claim) -> None:
        """Give a claim back, with the stale ones below it; one that was passed over meanwhile stays as it is."""
        key, _, number = claim.path.name.rpartition(".")
        if not self._claim_path(key, int(number) + 1).exists():
            for below in range(int(number), -1, -1):
                self._claim_path(key, below).unlink(missing_ok=True)

    def stage(self, key: str) -> Path:
        """Return a new empty folder for the results of `key`."""
        folder = self._staging_of(key)
        folder.mkdir(parents=True)
        return folder

    def commit(self, entry: Entry, staged: Path) -> bool:
        """Publish `entry` with what lies in `staged`, in one rename; return False where there is one already.

        The entry that is there stays, and `staged` goes.
        """
        _write(staged / ENTRY_FILE, entry.to_json())
        for path in (*staged.iterdir(), staged):
            _sync(path)
        target = self.entry_folder(entry.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(staged, ignore_errors=True)
            return False
        _sync(target.parent)
        return True

    def place(self, path: Path) -> PlaceRecord | None:
        """Return what is known of the file at `path`, None where nothing readable is."""
        try:
            return PlaceRecord(**_read(self._place_path(path)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def put_place(self, record: PlaceRecord) -> None:
        """Write down where a content was seen."""
        with self.replacing(self._place_path(Path(record.path))) as temporary:
            _write(temporary, asdict(record))

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Yield a temporary path in `staging`, where `sweep` finds what the killed leave; then it replaces `path`."""
        temporary = self._staging_of(path.stem)
        for folder in (path.parent, temporary.parent):
            folder.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)

    def drop_place(self, path: Path) -> None:
        """Forget a place where no file is any more."""
        self._place_path(path).unlink(missing_ok=True)

    def places(self) -> Iterator[PlaceRecord]:
        """Yield every place, sorted by path."""
        found = []
        for path in (self.folder / "places").glob("*/*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                found.append(PlaceRecord(**_read(path)))
        yield from sorted(found, key=lambda record: record.path)

    def sweep(self) -> None:
        """Remove what the killed have left in `claims` and `staging`; what is held, or younger than an hour, stays."""
        staging = self.folder / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        clock = self._staging_of("clock")
        clock.touch()
        now_s = clock.stat().st_mtime  # by the clock that gives the others their times
        clock.unlink()
        held = set()
        for path in sorted((self.folder / "claims").glob("*.*")):
            if self._is_stale(path):
                path.unlink(missing_ok=True)
            else:
                held.add(path.name.rpartition(".")[0])
        for path in staging.glob("*.*"):
            with contextlib.suppress(FileNotFoundError):
                if path.name.rpartition(".")[0] not in held and now_s - path.stat().st_mtime > _SWEEP_S:
                    _remove(path)

    def _claim_path(self, key: str, number: int) -> Path:
        return self.folder / "claims" / f"{key}.{number}"

    def _staging_of(self, key: str) -> Path:
        return self.folder / "staging" / f"{key}.{uuid.uuid4().hex[:12]}"

    def _place_path(self, path: Path) -> Path:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:_CONTENT_DIGITS]
        return self.folder / "places" / digest[:_SHARD_DIGITS] / f"{digest}.json"

    def _is_stale(self, path: Path) -> bool:
        try:
            owner = _read(path)
        except FileNotFoundError:
            return True
        except ValueError:  # its maker was killed, or is just writing it: the heartbeat decides
            owner = {}
        if isinstance(owner, dict) and owner.get("host") == _who()["host"]:
            return _started(int(owner["pid"])) != owner.get("started")
        return self._not_moving(path)

    def _not_moving(self, path: Path) -> bool:
        """Return whether the time of `path` has been the same for a lease, by our own clock."""
        try:
            moved_ns = path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        now_s = time.monotonic()
        before_ns, since_s = self._seen.get(path.name, (moved_ns, now_s))
        if before_ns != moved_ns:
            since_s = now_s
        self._seen[path.name] = (moved_ns, since_s)
        return now_s - since_s >= self._lease_s


def _who() -> dict[str, Any]:
    """Return this process in words that another one can check."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):  # no Linux: the name alone
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        words.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 -- its target is no path
    return {"host": " ".join(words), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """Return when a process of this machine was started, in the kernel's own count; "" where there is none."""
    try:
        # Field 22 of proc(5) stat; the name in parentheses before it may hold anything. A zombie works on nothing.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    """Write JSON; what is not valid UTF-8 in a path stays as it is, escaped."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Have the disk keep a file or folder; some network disks know that for files alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
