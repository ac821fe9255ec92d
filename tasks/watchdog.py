"""Scoring in a process of its own, watched: a crash, a hang or a runaway costs one video and never the run.

The child (`tasks.watchdog_child`) loads the model once and is kept from video to video while it is healthy. The two
talk in JSON lines over pipes; nothing is pickled. Knows time, memory and how a process ends; knows nothing of video.

    child -> {"ready": true}                                      the model is loaded
    -> {"path", "name", "out", …}                                 a job
    child -> {"duration_s": 12.0}, {"fraction": 0.25}, …          on the way
    child -> {"outcome": {…}} or {"error": {"kind", "text"}}      the end of the job
"""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from models.errors import EngineError, ModelError, ParamsError
from tasks.footage import printable

_POLL_S = 0.2
_TAIL_BYTES = 4000
# A video of fewer bytes a second than this is none: what a header claims beyond it gets no time.
_MIN_BYTES_A_SECOND = 50.0
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Limits:
    """What one video may cost. The limit on time is base_s + per_video_s x duration + per_mb_s x size.

    start_s:     to load the model, s
    base_s:      for any video, s
    per_video_s: seconds for each second of video: 10 gives up on what is slower than a tenth of real time
    per_mb_s:    seconds for each 10^6 bytes
    stall_s:     without a sign of progress, s
    memory_gib:  resident memory of the child, GiB; address space beyond what the loaded model has, twice that
    """

    start_s: float = 300.0
    base_s: float = 60.0
    per_video_s: float = 10.0
    per_mb_s: float = 2.0
    stall_s: float = 300.0
    memory_gib: float = 4.0

    def time_limit_s(self, num_bytes: int, duration_s: float) -> float:
        """Return the seconds that a video of `num_bytes` that says it lasts `duration_s` may take."""
        believed_s = min(max(duration_s, 0.0), num_bytes / _MIN_BYTES_A_SECOND) if math.isfinite(duration_s) else 0.0
        return self.base_s + self.per_video_s * believed_s + self.per_mb_s * num_bytes / 1e6


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    status:      scored, partial, or quarantined
    reason:      why it is not scored in full, "" where it is
    output:      stem of its results, "" where there are none
    duration_s:  seconds of video that the scores cover
    num_spans:   number of highlights
    highlight_s: seconds inside highlights
    """

    status: Literal["scored", "partial", "quarantined"]
    reason: str = ""
    output: str = ""
    duration_s: float = 0.0
    num_spans: int = 0
    highlight_s: float = 0.0


class _EndedError(Exception):
    """The child ended, or has to be ended, in the middle of a job.

    again: what earlier videos have left in the child may be to blame, a fresh one is worth a try
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class WatchedChild:
    """One child process, started when there is something to do, replaced when it has died."""

    def __init__(self, command: Sequence[str], limits: Limits, environment: Mapping[str, str] | None = None) -> None:
        """Prepare a child.

        command:     of a process that calls `tasks.watchdog_child.serve`
        environment: beside the one of this process
        """
        self._command = tuple(command)
        self._limits = limits
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._unread = b""
        self._num_done = 0

    def score(
        self,
        job: Mapping[str, Any],
        num_bytes: int,
        on_fraction: Callable[[float, float], None] = lambda _fraction, _duration_s: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Have the child do `job` on a file of `num_bytes`; return what became of it.

        on_fraction: gets the share that is done, and the video's length in seconds
        on_tick:     called several times a second; what it raises ends the child and goes on to the caller
        A job over which a fresh child dies, or any child over its time, leaves a quarantined outcome with the reason.
        Raises ModelError or EngineError where the model cannot be loaded or run, ParamsError where the job asks for
        what that model cannot do, OSError where the disk is full.
        """
        while True:
            fresh = self._num_done == 0
            done = False
            try:
                self._start(on_tick)
                self._send(job)
                outcome = self._follow(num_bytes, on_fraction, on_tick)
                self._num_done += 1
                done = True
                return outcome
            except _EndedError as ended:
                if fresh or not ended.again:
                    return Outcome("quarantined", printable(str(ended)))
            finally:
                if not done:
                    self.close()

    def close(self) -> None:
        """End the child, whatever it does."""
        process, errors = self._process, self._errors
        self._process, self._errors, self._unread, self._num_done = None, None, b"", 0
        if process is None or errors is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        errors.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a dead disk, and goes when that answers
            process.wait(timeout=10)

    def _start(self, on_tick: Callable[[], None]) -> None:
        """Have a child that has loaded the model."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the child
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, **self._environment},
            start_new_session=True,
        )
        latest_s = time.monotonic() + self._limits.start_s

        def check() -> None:
            on_tick()
            if time.monotonic() > latest_s:
                raise ModelError(f"the model was not loaded after {self._limits.start_s:g} s; is the machine swapping?")

        try:
            message = self._receive(check)
        except _EndedError as ended:
            raise ModelError(f"the process that scores cannot start: {ended}") from None
        if "error" in message:
            raise _error_of(message["error"])

    def _send(self, job: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._errors is not None
        os.lseek(self._errors.fileno(), 0, os.SEEK_SET)  # the child writes through the same position
        os.ftruncate(self._errors.fileno(), 0)
        try:
            self._process.stdin.write(json.dumps(dict(job)).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _EndedError(self._how_it_ended(), again=True) from None

    def _follow(
        self, num_bytes: int, on_fraction: Callable[[float, float], None], on_tick: Callable[[], None]
    ) -> Outcome:
        """Return what the child says of its job; raise _EndedError once a limit is passed."""
        limits, start_s = self._limits, time.monotonic()
        latest_s, sign_s, duration_s = start_s + limits.time_limit_s(num_bytes, 0.0), start_s, 0.0

        def check() -> None:
            on_tick()
            now_s = time.monotonic()
            if now_s > latest_s:
                raise _EndedError(f"took more than its {latest_s - start_s:.0f} s", again=False)
            if now_s > sign_s + limits.stall_s:
                raise _EndedError(f"hung: no progress for {limits.stall_s:g} s", again=False)
            if (used_gib := self._resident_gib()) > limits.memory_gib:
                raise _EndedError(f"took {used_gib:.1f} GiB of memory, {limits.memory_gib:g} are allowed", again=True)

        while True:
            message = self._receive(check)
            sign_s = time.monotonic()
            if "outcome" in message:
                return Outcome(**message["outcome"])
            if "error" in message:
                raise _error_of(message["error"])
            if "duration_s" in message:
                duration_s = float(message["duration_s"])
                latest_s = start_s + limits.time_limit_s(num_bytes, duration_s)
            on_fraction(float(message.get("fraction", 0.0)), duration_s)

    def _receive(self, check: Callable[[], None]) -> dict[str, Any]:
        """Return the child's next message; `check` is called before and while it is waited for."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        check()
        while b"\n" not in self._unread:
            if select.select([descriptor], [], [], _POLL_S)[0]:
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    raise _EndedError(self._how_it_ended(), again=True)
                self._unread += chunk
            else:
                check()
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _resident_gib(self) -> float:
        assert self._process is not None
        try:
            return float(psutil.Process(self._process.pid).memory_info().rss) / 2**30
        except psutil.NoSuchProcess:  # its pipe tells how it ended
            return 0.0

    def _how_it_ended(self) -> str:
        """Return why the child has closed its pipe, in words."""
        assert self._process is not None
        assert self._errors is not None
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the process that scored it closed its pipe and hung"
        if status == -signal.SIGKILL:
            return "the process that scored it was killed from outside (SIGKILL), most likely for want of memory"
        if status < 0:
            return f"the process that scored it crashed ({signal.Signals(-status).name})"
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return f"the process that scored it ended with status {status}: {lines[-1] if lines else 'no word of why'}"


def _error_of(error: Mapping[str, Any]) -> Exception:
    """Return the error that ends the run and not one video."""
    if error["kind"] == "OSError":
        return OSError(error["errno"], os.strerror(error["errno"]), error["text"])
    kinds: dict[str, type[Exception]] = {"EngineError": EngineError, "ParamsError": ParamsError}
    return kinds.get(error["kind"], ModelError)(error["text"])
