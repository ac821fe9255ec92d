"""Quantising an engine in a process of its own, so that what NNCF loads, prints and keeps in memory goes with it.

`python -m tasks.quantise FOLDER FRAMES.npy` quantises the OpenVINO engine in FOLDER in place. OpenVINO's runtimes of
one process are not independent of each other (see `models.engines.openvino`), and NNCF makes its own.
"""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from models.engines.base import Frames
from models.errors import EngineError, MissingExtra
from models.quantise import REMEDY, quantise_openvino
from tasks.shell import one_line_errors, quiet_environment

_TIMEOUT_S = 3600


def quantise_apart(folder: Path, frames_NHWC: Frames, scratch: Path) -> None:
    """Do in another process what `quantise_openvino` does, and raise what it raises.

    Raises MemoryError where the system killed that process, which it does for want of memory.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtra(REMEDY)
    frames = scratch / "calibration.npy"
    np.save(frames, frames_NHWC, allow_pickle=False)
    command = [sys.executable, "-m", "tasks.quantise", str(folder), str(frames)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        if error.returncode == -signal.SIGKILL:
            raise MemoryError from None
        lines = error.stderr.strip().splitlines()
        raise EngineError(lines[-1] if lines else f"int8: ended with status {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"int8: not done after {_TIMEOUT_S} s; use fewer calibration frames") from None


def main(argv: list[str]) -> None:
    """Quantise."""
    quiet_environment()
    with one_line_errors("int8"):
        quantise_openvino(Path(argv[0]), np.load(argv[1], allow_pickle=False))


if __name__ == "__main__":
    main(sys.argv[1:])
