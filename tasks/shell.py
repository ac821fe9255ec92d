"""What every stage's shell shares: paths from the command line, one line for an error, energy, atomic results.

A stage's shell is `python -m tasks.NAME --params params.yaml --INPUT PATH … --out FOLDER`. Beside its values it
leaves in `--out`: `metrics.json` (flat, name to number), `history.jsonl` (one object a step, where there are steps)
and `energy.json`. Exit status: 0 done, 1 a HerdlightError (one line on standard error), 130 interrupted.
"""

import argparse
import contextlib
import errno
import logging
import math
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError

from models.errors import HerdlightError, ShapeError
from models.files import write_json, write_jsonl
from models.params import SectionT, load_section
from tasks.energy import measure_energy

_log = logging.getLogger(__name__)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_REMEDY = "free some space or rights and run it again"
# Other people's greetings and usage pings; each is that project's documented switch.
_QUIET = {
    "CODECARBON_LOG_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NNCF_CI": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def quiet_environment() -> None:
    """Switch off telemetry and unsafe loading of the libraries that are used; what the caller has set stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Shell:
    """What a stage's shell was given.

    paths:  every `--NAME PATH` but params and out, by name
    params: the params file
    out:    the stage's output folder
    """

    paths: Mapping[str, Path]
    params: Path
    out: Path

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]

    def section(self, name: str, kind: type[SectionT]) -> SectionT:
        """Return the stage's section of the params file."""
        return load_section(self.params, name, kind)

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write `metrics.json`; a figure that is not finite is written as null and never as a number."""
        write_json(self.out / "metrics.json", {key: _figure(key, value) for key, value in metrics.items()})

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `history.jsonl`, one object a step."""
        write_jsonl(self.out / "history.jsonl", rows)

    @staticmethod
    def say_epoch(row: Mapping[str, Any]) -> None:
        """Log one row of a training history in one line."""
        _log.info(", ".join(f"{key} {value:.4g}" for key, value in row.items() if value is not None))


def _figure(key: str, value: float) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ShapeError(f"metric {key}: must be a number, got {value!r}")
    return value if math.isfinite(value) else None


@contextlib.contextmanager
def stage_shell(name: str, inputs: Sequence[str], argv: Sequence[str] | None = None) -> Iterator[Shell]:
    """Run the body of stage `name` with its paths, its energy measured and its errors told in one line.

    inputs: the names of the `--NAME PATH` arguments that the stage needs
    argv:   command line without the program, by default the process's own
    """
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{name}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for argument in (*inputs, "out"):
        parser.add_argument(f"--{argument}", type=Path, required=True)
    paths = vars(parser.parse_args(argv))
    quiet_environment()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    for noisy in (
        "codecarbon",
        "openvino",
        "lightning.pytorch",
        "great_expectations",
        "matplotlib",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for steps in ("onnx_ir", "onnxscript"):  # warn of every step that they leave out
        logging.getLogger(steps).setLevel(logging.ERROR)
    with one_line_errors(f"stage {name}"), terminate_as_interrupt():
        params, out = paths.pop("params"), paths.pop("out")
        out.mkdir(parents=True, exist_ok=True)
        with measure_energy() as meter:
            yield Shell({key.replace("_", "-"): value for key, value in paths.items()}, params, out)
        assert meter.energy is not None
        write_json(out / "energy.json", meter.energy.to_json())


@contextlib.contextmanager
def progress_bar(unit: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error for the block; call what is yielded with the number done so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def one_line_errors(place: str) -> Iterator[None]:
    """Turn an expected error into one line on standard error and an exit status; anything else keeps its traceback."""
    try:
        yield
    except HerdlightError as error:
        print(f"{place}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{place}: interrupted; what was finished is kept, run it again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"{place}: {error.strerror}{where}; {_REMEDY}", file=sys.stderr)
        sys.exit(1)
    except SafetensorError as error:  # has the system's message, not its number
        told = [os.strerror(number) for number in _DISK_ERRORS if os.strerror(number) in str(error)]
        if not told:
            raise
        print(f"{place}: {told[0]}; {_REMEDY}", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that temporary files go."""

    def interrupt(_signal: int, _frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
