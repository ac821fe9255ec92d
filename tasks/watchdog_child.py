"""The process that `tasks.watchdog` watches: loads a model once, then scores one video after the other.

`python -m tasks.watchdog_child MODEL_FOLDER MEMORY_GIB alone|shared` is started by `tasks.library` and by nobody else.
Its standard output is the line to its parent; what libraries print goes to standard error. It ends with its parent, and
by itself after `IDLE_S` without a job. Knows one job at a time; limits on time and memory are its parent's, except for
a limit on address space that makes the kernel refuse memory and not give it to a runaway (setrlimit(2), RLIMIT_AS).
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import EngineError, HerdlightError, ParamsError, VideoError
from tasks.footage import Footage, printable
from tasks.watchdog import Outcome

if TYPE_CHECKING:
    from tasks.energy import EnergyCounter
    from tasks.score import Scorer

IDLE_S = 300.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
Say = Callable[[Mapping[str, Any]], None]
Work = Callable[[Mapping[str, Any], Say], Outcome]


def serve(load: Callable[[], Work], memory_gib: float) -> None:
    """Load, then answer jobs from standard input until it closes or nothing comes for IDLE_S.

    load:       returns what does a job; called once
    memory_gib: address space beyond what the loaded model has is limited to twice this
    A VideoError is a quarantined outcome; an EngineError, a ParamsError and a full disk are told and end the process,
    and so does anything else, with its traceback on standard error.
    """
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(dict(message)) + "\n")
        answers.flush()

    try:
        work = load()
    except HerdlightError as error:
        say({"error": {"kind": type(error).__name__, "text": str(error)}})
        return
    _limit_address_space(memory_gib)
    say({"ready": True})
    for job in _jobs():
        try:
            say({"outcome": asdict(work(job, say))})
        except VideoError as error:
            reason = printable(str(error)).removeprefix(f"{printable(Path(job.get('path', '')).name)}: ")
            say({"outcome": asdict(Outcome("quarantined", reason))})
        except (EngineError, ParamsError) as error:
            say({"error": {"kind": type(error).__name__, "text": str(error)}})
            return
        except OSError as error:
            if error.filename is None or not Path(os.fsdecode(error.filename)).is_relative_to(job["out"]):
                raise
            say({"error": {"kind": "OSError", "errno": error.errno, "text": os.fsdecode(error.filename)}})
            return


def main(argv: Sequence[str]) -> None:
    """Shell: serve the model in a folder."""
    folder, memory_gib, shared = Path(argv[0]), float(argv[1]), argv[2] == "shared"
    with contextlib.ExitStack() as stack:

        def load() -> Work:
            from models.ensemble import load_scorer
            from tasks.energy import energy_counter

            model = load_scorer(folder)
            counter = stack.enter_context(energy_counter(shared=shared))
            return lambda job, say: score_job(model, job, say, counter)

        serve(load, memory_gib)


def score_job(model: "Scorer", job: Mapping[str, Any], say: Say, counter: "EnergyCounter") -> Outcome:
    """Score one video into a folder, up to where it can be read.

    job: path, name, video_id, out (folder), options (of `tasks.score_settings.settings_of`) and model (ModelIdentity as
         an object)
    Raises VideoError where nothing can be read, ParamsError where options and model contradict.
    """
    from models.video import probe
    from tasks.score import ModelIdentity, score_video_file
    from tasks.score_settings import settings_of
    from tasks.scored_files import output_stem, write_video

    path, done = Path(job["path"]), 0.0
    settings = settings_of(job["options"], model.spec)
    say({"duration_s": probe(path).duration_s})

    def on_fraction(fraction: float) -> None:
        nonlocal done
        done = fraction
        say({"fraction": done})

    with counter.count() as meter:
        video = score_video_file(
            model,
            path,
            settings=settings,
            on_fraction=on_fraction,
            # A cascade says rarely how far it is: each batch is a sign that it has not hung.
            on_features=None if settings.mode == "exact" else lambda _times_s, _features: on_fraction(done),
            allow_partial=True,
        )
    item, output = Footage(path, job["name"]), output_stem(Path(job["name"]), job["video_id"], {})
    identity = ModelIdentity(**job["model"])
    row = write_video(item, job["video_id"], output, Path(job["out"]), video, identity, meter.energy)
    figures = (output, row.duration_s, row.num_spans, row.highlight_s)
    return Outcome("partial" if video.partial else "scored", video.partial, *figures)


def _jobs() -> Iterator[dict[str, Any]]:
    """Yield jobs from standard input until it closes, or nothing comes for IDLE_S."""
    unread = b""
    while select.select([0], [], [], IDLE_S)[0]:
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return
        unread += chunk
        while b"\n" in unread:
            line, _, unread = unread.partition(b"\n")
            yield json.loads(line)


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, even when a decoder hangs in it (Linux, prctl(2))."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # not Linux: it ends when it next reads its input
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _limit_address_space(memory_gib: float) -> None:
    status = Path("/proc/self/statm")
    if status.is_file():  # Linux alone says what is taken so far
        taken = int(status.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + int(2 * memory_gib * 2**30), resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(sys.argv[1:])
