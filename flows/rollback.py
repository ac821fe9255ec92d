"""Moving the champion back to the version that served before it. From a shell: `python -m flows.rollback`.

Knows the command; the aliases are `flows.registry`'s.
"""

import argparse
from collections.abc import Sequence

from rich.console import Console

from flows.registry import Registry
from flows.settings import Settings
from tasks.mlflow_store import connect
from tasks.shell import one_line_errors, quiet_environment


def rollback(settings: Settings) -> tuple[str, str]:
    """Make the previous champion the champion again; return the URIs of the versions moved from and to.

    Raises RegistryError when there is no champion or none before it, TrackingUnavailable when MLflow is away.
    """
    left, back = Registry(connect(settings.tracking_uri), settings).rollback()
    return left.uri, back.uri


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: roll back and say what serves now; exit status 1 with one line when there is nothing to go back to."""
    parser = argparse.ArgumentParser(prog="python -m flows.rollback", description="Bring back the previous champion.")
    parser.add_argument("--root", metavar="FOLDER", help="repository root, by default the working folder")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store, by default mlflow/mlflow.db")
    options = parser.parse_args(argv)
    quiet_environment()
    with one_line_errors("rollback"):
        left, back = rollback(Settings.of(options.root, options.tracking_uri))
        Console().print(f"champion is {back} again, no longer {left}", highlight=False)


if __name__ == "__main__":
    main()
