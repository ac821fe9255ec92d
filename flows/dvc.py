"""One stage, run by DVC as a process of its own.

DVC decides whether there is anything to do; its cache and dvc.lock stay the truth. Knows DVC's command line and the
lines it prints (DVC 3.67); knows nothing of Prefect or MLflow.
"""

import contextlib
import enum
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from models.errors import StageFailed

# What DVC 3.67 prints when it does not run a stage: nothing changed, or the run cache had the result.
_CACHED = re.compile(r"^Stage '.+' (didn't change, skipping|is cached - skipping run, checking out outputs)$")
# What DVC adds below the output of a stage that failed; the stage's own words stand above it.
_STAGE_COMMAND_FAILED = re.compile(r"^ERROR: failed to reproduce '.+': failed to run: ")
_DVC_ERROR = re.compile(r"^ERROR: (failed to reproduce '.+?': )?(?P<reason>.+)$")
_TAIL_LINES = 50
_GRACE_S = 10.0
_POLL_S = 0.05


class Outcome(enum.Enum):
    """What DVC did with a stage."""

    RAN = "ran"
    CACHED = "cached"


def run_stage(root: Path, stage: str, on_line: Callable[[str], None]) -> Outcome:
    """Run `dvc repro --single-item STAGE` in the repository `root` and return what DVC did.

    on_line: called with each line that DVC or the stage prints, without its end

    Waits for the lock of the repository when another DVC process holds it. When this call is left by an exception
    (Ctrl-C, a cancelled flow), the whole process group of DVC is ended first, so that no stage goes on unseen.
    Raises StageFailed with the stage's own last line.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    outcome = Outcome.RAN
    with _process_group(command, root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            if not text:
                continue
            if _CACHED.match(text):
                outcome = Outcome.CACHED
            tail.append(text)
            on_line(text)
        status = process.wait()
    if status != 0:
        raise StageFailed(f"stage {stage}: {_reason(list(tail), stage, status)}")
    return outcome


def stage_environment() -> dict[str, str]:
    """Return the environment for DVC: `python` in a stage's command is the one that runs this process."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",  # lines appear in the log when they are printed
        "COLUMNS": "160",  # rich breaks lines at 80 where it sees no terminal
        "SHELL": "/bin/sh",  # the one that DVC uses otherwise depends on who is logged in
    }


@contextlib.contextmanager
def _process_group(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=stage_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end_group(process)
        if process.stdout is not None:
            process.stdout.close()


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ask the group to end, then make it: a stage gets `_GRACE_S` seconds to remove its temporary files."""
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            process.poll()  # reaps DVC; what it leaves is reaped by the system
            if not _group_is_alive(process.pid):
                return
            time.sleep(_POLL_S)


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _reason(lines: list[str], stage: str, status: int) -> str:
    """Return the one line that says why: the stage's last one if its command ran, else DVC's."""
    if not lines:
        return f"dvc ended with status {status} and printed nothing; run `dvc repro -s {stage} -v`"
    if _STAGE_COMMAND_FAILED.match(lines[-1]):
        own = [line for line in lines[:-1] if not line.startswith(("> ", f"Running stage '{stage}'"))]
        if own:
            return own[-1].removeprefix(f"stage {stage}: ")
    match = _DVC_ERROR.match(lines[-1])
    return match["reason"] if match else f"dvc ended with status {status}: {lines[-1]}"
