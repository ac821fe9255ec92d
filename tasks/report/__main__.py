"""Shell of the report stage: `python -m tasks.report --build build --out build/report`."""

from collections.abc import Sequence

from models.files import write_text
from tasks.report.gather import read_inputs
from tasks.report.render import render_model_card, render_report
from tasks.shell import stage_shell


def main(argv: Sequence[str] | None = None) -> None:
    """Read what the stages left, write report.html and model_card.md."""
    with stage_shell("report", ["build"], argv) as shell:
        inputs = read_inputs(shell["build"], shell.params)
        report = render_report(inputs)
        write_text(shell.out / "report.html", report)
        write_text(shell.out / "model_card.md", render_model_card(inputs))
        shell.write_metrics({"num_bytes": len(report.encode()), "num_test_videos": inputs.evaluation.num_videos})


if __name__ == "__main__":
    main()
