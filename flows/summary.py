"""What a person reads at the end of a training run: the ladder, the verdict, the energy, and where to look next.

Knows the words and tables; every figure comes from the values that it is given. `python -m flows.summary` shows the
latest run of this repository again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.dvc import Outcome
from flows.settings import Settings
from models.energy import Energy
from models.errors import DataError, HerdlightError, ModelError
from models.evaluation import Estimate, Evaluation
from models.files import read_json
from models.verdict import Verdict
from tasks.shell import one_line_errors, quiet_environment

_TITLES: Mapping[str, str] = {
    "zero_shot": "zero-shot",
    "fine_tuned": "fine-tuned",
    "pruned": "pruned",
    "compiled": "compiled (served)",
    "all_positive": "all positive",
    "random": "random",
    "uniform": "uniform",
}


@dataclass(frozen=True)
class RunSummary:
    """What became of one training run.

    run_id:       parent run in MLflow
    tracking_uri: of the store
    outcomes:     by stage, in the order they were run
    embodied:     energy of all stages at the time each ran; None where none was measured
    spent:        energy of the stages that ran in this run; None when all were cached
    verdict:      final, the champion included; None for a DAG without a candidate
    version:      URI of the registered version, None likewise
    """

    run_id: str
    tracking_uri: str
    outcomes: Mapping[str, Outcome]
    embodied: Energy | None
    spent: Energy | None
    verdict: Verdict | None
    version: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "outcomes": {name: outcome.value for name, outcome in self.outcomes.items()},
            "embodied": self.embodied.to_json() if self.embodied else None,
            "spent": self.spent.to_json() if self.spent else None,
            "verdict": self.verdict.to_json() if self.verdict else None,
            "version": self.version,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "RunSummary":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        try:
            return RunSummary(
                run_id=value["run_id"],
                tracking_uri=value["tracking_uri"],
                outcomes={name: Outcome(outcome) for name, outcome in value["outcomes"].items()},
                embodied=Energy.from_json(value["embodied"]) if value["embodied"] else None,
                spent=Energy.from_json(value["spent"]) if value["spent"] else None,
                verdict=Verdict.from_json(value["verdict"]) if value["verdict"] else None,
                version=value["version"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"summary: not what flows.train writes ({error}); run it again") from None


def summary_path(settings: Settings) -> Path:
    """Return where the summary of the latest finished run lies."""
    return settings.build / "last_run.json"


def render(summary: RunSummary, evaluation: Evaluation | None, settings: Settings) -> Group:
    """Return the whole summary for a terminal."""
    parts: list[RenderableType] = [Text()]
    if evaluation is not None:
        parts.append(ladder_table(evaluation))
    if summary.verdict is not None:
        parts.append(verdict_table(summary.verdict))
        parts.append(_verdict_line(summary))
    parts.append(energy_table(summary))
    parts.append(next_steps(summary, settings))
    return Group(*parts)


def ladder_table(evaluation: Evaluation) -> Table:
    """Return each model and trivial row with its F1 and interval on test."""
    table = Table(
        title=f"F1 on test: {evaluation.num_videos} videos, {evaluation.num_frames} frames, "
        f"{evaluation.prevalence:.0%} highlight",
        title_justify="left",
    )
    table.add_column("model")
    table.add_column("F1", justify="right")
    table.add_column(f"{evaluation.confidence:.0%} interval", justify="right")
    table.add_column("precision", justify="right")
    table.add_column("recall", justify="right")
    table.add_column("average precision", justify="right")
    table.add_column("segment mAP", justify="right")
    for row in evaluation.rows:
        table.add_row(
            _TITLES.get(row.name, row.name),
            _figure(row.f1.value),
            _interval(row.f1),
            *(_figure(row.metrics[name].value) for name in ("precision", "recall", "average_precision", "segment_map")),
            style="bold" if row.name == "compiled" else ("dim" if row.threshold is None else ""),
        )
    return table


def verdict_table(verdict: Verdict) -> Table:
    """Return every line of the verdict with its reason, and what the test set can tell at all."""
    table = Table(title="Gate", title_justify="left")
    table.add_column("line")
    table.add_column("")
    table.add_column("reason", overflow="fold")
    for line in verdict.lines:
        table.add_row(line.name, Text("passed", "green") if line.passed else Text("refused", "bold red"), line.text)
    if verdict.resolution is not None:
        table.add_row("test set", Text("note", "yellow"), verdict.resolution.text)
    return table


def energy_table(summary: RunSummary) -> Table:
    """Return what this run spent and what is embodied in the model."""
    cached = sum(outcome is Outcome.CACHED for outcome in summary.outcomes.values())
    table = Table(title=f"Energy: {len(summary.outcomes)} stages, {cached} of them cached", title_justify="left")
    for name in ("", "time", "energy", "CO2e", "obtained"):
        table.add_column(name, justify="left" if name in ("", "obtained") else "right")
    for title, energy in (("spent in this run", summary.spent), ("embodied in the model", summary.embodied)):
        if energy is None:
            table.add_row(title, "0 s", "0 Wh", "0 g", "")
        else:
            how = f"{energy.method}, {energy.device}, grid of {energy.country}"
            table.add_row(
                title, f"{energy.seconds:.0f} s", f"{energy.kwh * 1000:.2f} Wh", f"{energy.co2e_kg * 1000:.2f} g", how
            )
    return table


def next_steps(summary: RunSummary, settings: Settings) -> Table:
    """Return commands and files to look at next; a file that is not there is not named."""
    table = Table.grid(padding=(0, 2))
    table.add_row("runs", f"mlflow ui --backend-store-uri {_short_uri(summary.tracking_uri, settings.root)}")
    for title, name in (("report", "build/report/report.html"), ("model card", "build/report/model_card.md")):
        if (settings.root / name).is_file():
            table.add_row(title, name)
    timelines = sorted((settings.root / "highlights").glob("*.timeline.png"))
    if timelines:
        table.add_row("timeline", timelines[0].relative_to(settings.root).as_posix())
    if summary.verdict is not None and summary.verdict.promoted:
        table.add_row("score", "herdlight score VIDEO --out highlights")
    return table


def _verdict_line(summary: RunSummary) -> Text:
    assert summary.verdict is not None
    if summary.verdict.promoted:
        return Text(f"promoted: {summary.version} is champion\n", "bold green")
    names = ", ".join(line.name for line in summary.verdict.refusals)
    return Text(f"refused: {summary.version} did not pass {names}; the champion stays as it was\n", "bold red")


def _short_uri(uri: str, root: Path) -> str:
    """Return the URI as it works from `root`, which is where a person stands."""
    return uri.replace(f"sqlite:///{root}/", "sqlite:///")


def _figure(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _interval(estimate: Estimate) -> str:
    return f"{_figure(estimate.low)} to {_figure(estimate.high)}"


def read_evaluation(settings: Settings) -> Evaluation:
    """Return what stage evaluate wrote last."""
    return Evaluation.from_json(read_json(settings.build / "evaluate" / "evaluation.json"))


def show(settings: Settings) -> None:
    """Print the summary of the latest run. Raises DataError where there was none."""
    path = summary_path(settings)
    if not path.is_file():
        raise DataError(f"{path}: no run has ended here yet; start one with `herdlight train`")
    summary = RunSummary.from_json(read_json(path))
    try:
        evaluation = read_evaluation(settings) if summary.verdict is not None else None
    except (HerdlightError, OSError):
        evaluation = None
    Console().print(render(summary, evaluation, settings))


def main() -> None:
    """Shell: print the summary of the latest run in this repository."""
    quiet_environment()
    with one_line_errors("summary"):
        show(Settings.of())


if __name__ == "__main__":
    main()
