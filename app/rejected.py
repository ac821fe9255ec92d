"""The table of what could not be read, as every command prints it."""

from collections.abc import Iterable
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Rejected(Protocol):
    """A video that was set aside, and why."""

    @property
    def video(self) -> str: ...
    @property
    def reason(self) -> str: ...


def print_rejected(rejected: Iterable[Rejected], console: Console) -> None:
    """Print a line for each; nothing where there is none."""
    table = Table(title="Rejected", title_justify="left")
    table.add_column("video", overflow="fold")
    table.add_column("why", overflow="fold")
    for row in rejected:
        table.add_row(Text(row.video), Text(row.reason))
    if table.row_count:
        console.print(table)
