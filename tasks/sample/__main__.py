"""`python -m tasks.sample --out data`: write the sample data set."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from tasks.sample.make import NUM_CLIPS, SEED, make_sample
from tasks.shell import one_line_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Write the sample data set as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tasks.sample", description="Draw and encode the sample data set.")
    parser.add_argument("--out", type=Path, required=True, help="data folder to write, for example data")
    parser.add_argument("--num-clips", type=int, default=NUM_CLIPS, help="annotated clips (default %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="fixes everything (default %(default)s)")
    arguments = parser.parse_args(argv)
    with one_line_errors("sample"), Progress(transient=True) as progress:
        task = progress.add_task("drawing clips")
        make_sample(arguments.out, arguments.num_clips, arguments.seed,
                    lambda done, total: progress.update(task, completed=done, total=total))  # fmt: skip


if __name__ == "__main__":
    main()
