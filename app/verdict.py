"""Printing the gate's verdict for people."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from models.errors import DataError
from models.files import read_json
from models.verdict import Verdict


def print_verdict(path: Path, console: Console) -> bool:
    """Print each line of the verdict at `path` and return whether it lets the candidate pass."""
    try:
        verdict = Verdict.from_json(read_json(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no verdict there; run `make run` or `dvc repro gate` first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); run `dvc repro gate` again") from None
    for line in verdict.lines:
        mark = Text("passed ", "green") if line.passed else Text("refused", "bold red")
        console.print(mark, Text(f" {line.name}: {line.text}"), sep="", soft_wrap=True)
    if verdict.resolution is not None:
        style = "yellow" if verdict.resolution.is_too_small else "dim"
        console.print(Text("note   ", style), Text(f" {verdict.resolution.text}"), sep="", soft_wrap=True)
    console.print(Text("promoted" if verdict.promoted else "refused", "bold green" if verdict.promoted else "bold red"))
    return verdict.promoted
