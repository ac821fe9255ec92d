"""How many cores this process may use: a container or a batch system often allows fewer than the machine has."""

import os


def usable_cores() -> int:
    """Return the cores that this process may run on, at least 1; where the system does not say, those that it has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
