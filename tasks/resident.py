"""Memory of a process that serves a model: run in a process of its own, since memory once taken is seldom given back.

`python -m tasks.resident FOLDER BATCH_SIZE` loads the served model in FOLDER, gives its engine one batch and prints
the most memory that the process has had resident, in MB of 10^6 bytes. Linux alone says it per program (VmHWM, see
proc(5)); getrusage's figure may be that of the process which started this one.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from models.served import load_served

_STATUS = Path("/proc/self/status")
_TIMEOUT_S = 300


def measure_resident_mb(folder: Path, batch_size: int) -> float | None:
    """Return the memory of a fresh process that serves the model in `folder`, MB; None where it cannot be had."""
    command = [sys.executable, "-m", "tasks.resident", str(folder), str(batch_size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
        return float(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None


def peak_mb() -> float | None:
    """Return the most memory that this process has had resident, MB; None where the system does not say it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.is_file() else None
    return int(found[1]) * 1024 / 1e6 if found else None


def main(argv: list[str]) -> None:
    """Load, run one batch, print."""
    folder, batch_size = Path(argv[0]), int(argv[1])
    model = load_served(folder, batch_size)
    side = model.spec.encoder.image_size
    model.embed(np.zeros((batch_size, side, side, 3), np.uint8))
    sys.stdout.write(f"{peak_mb() or ''}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
