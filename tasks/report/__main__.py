"""Shell of the report stage: `python -m tasks.report --build build --out build/report`."""

from collections.abc import Sequence

from tasks.report.gather import read_inputs
from tasks.report.render import write_pages
from tasks.shell import stage_shell


def main(argv: Sequence[str] | None = None) -> None:
    """Read what the stages left, write report.html and model_card.md."""
    with stage_shell("report", ["build"], argv) as shell:
        inputs = read_inputs(shell["build"], shell.params)
        num_bytes = write_pages(shell.out, inputs)
        shell.write_metrics({"num_bytes": num_bytes, "num_test_videos": inputs.evaluation.num_videos})


if __name__ == "__main__":
    main()
