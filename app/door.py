"""What every command of `herdlight` does around its work."""

import contextlib
from collections.abc import Iterator

from tasks.shell import one_line_errors, quiet_environment, terminate_as_interrupt


@contextlib.contextmanager
def door() -> Iterator[None]:
    """Run a command: expected errors in one line, SIGTERM like Ctrl-C, other people's telemetry off."""
    quiet_environment()
    with one_line_errors("herdlight"), terminate_as_interrupt():
        yield
