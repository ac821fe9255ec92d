"""The command `herdlight score` and its options; what they do is app/scoring.py's and, below that, tasks.score's."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.door import door
from models.errors import DataError

DEFAULT_MODEL = "models:/herdlight@champion"
_SELECTION = "Which highlights"


class Mode(StrEnum):
    """How a video is looked at."""

    exact = "exact"
    keyframes = "keyframes"
    cascade = "cascade"


class TooLong(StrEnum):
    """What becomes of a highlight that is too long."""

    cut = "cut"
    best = "best"


class OverBudget(StrEnum):
    """What becomes of the first highlight that does not fit."""

    drop = "drop"
    trim = "trim"


Paths = Annotated[
    list[Path], typer.Argument(metavar="VIDEO_OR_FOLDER...", help="Videos, and folders with videos at any depth.")
]
OutOption = Annotated[Path, typer.Option(help="Folder for the results; made where it is missing.")]
ModelOption = Annotated[
    str, typer.Option(help="A model of the registry (models:/NAME@ALIAS) or a folder with a served model.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Score from which a frame is a highlight, 0 to 1; the model's own by default."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Score again what an earlier run has scored.")]
ModeOption = Annotated[
    Mode, typer.Option(help="See every sample, keyframes alone, or keyframes and what they promise.")
]
BudgetOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of a video that mode cascade may decode in full.")
]
TopOption = Annotated[int | None, typer.Option(min=0, help="Most highlights of a video.", rich_help_panel=_SELECTION)]
BudgetSOption = Annotated[
    float | None, typer.Option(min=0, help="Most seconds of highlights of a video.", rich_help_panel=_SELECTION)
]
OverBudgetOption = Annotated[
    OverBudget | None,
    typer.Option(help="Drop or trim the first that does not fit.", rich_help_panel=_SELECTION),
]
MinLengthOption = Annotated[
    float | None, typer.Option(min=0, help="Shortest highlight, seconds.", rich_help_panel=_SELECTION)
]
MaxLengthOption = Annotated[
    float | None, typer.Option(min=0.1, help="Longest highlight, seconds.", rich_help_panel=_SELECTION)
]
TooLongOption = Annotated[
    TooLong | None,
    typer.Option(help="Cut a longer one, or keep its best part.", rich_help_panel=_SELECTION),
]
HoldOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Score at which a highlight goes on.", rich_help_panel=_SELECTION),
]
MergeGapOption = Annotated[
    float | None,
    typer.Option(min=0, help="Highlights this close become one, seconds.", rich_help_panel=_SELECTION),
]
DistinctOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Cosine from which two look the same.", rich_help_panel=_SELECTION),
]
SnapOption = Annotated[
    float | None,
    typer.Option(min=0, help="Farthest that an edge moves to a cut, seconds.", rich_help_panel=_SELECTION),
]


def score(
    paths: Paths,
    out: OutOption,
    model: ModelOption = DEFAULT_MODEL,
    threshold: ThresholdOption = None,
    force: ForceOption = False,
    mode: ModeOption = Mode.exact,
    budget: BudgetOption = None,
    top: TopOption = None,
    budget_s: BudgetSOption = None,
    over_budget: OverBudgetOption = None,
    min_length: MinLengthOption = None,
    max_length: MaxLengthOption = None,
    too_long: TooLongOption = None,
    hold: HoldOption = None,
    merge_gap: MergeGapOption = None,
    distinct: DistinctOption = None,
    snap: SnapOption = None,
) -> None:
    """Find the highlights in videos: spans (JSON), scores (Parquet) and a timeline picture (PNG) for each.

    A video that cannot be read is rejected with its reason, and the others go on. Results that are there for the same
    video, model and threshold are kept. The exit status is 0 when at least one video has results, else 1.
    """
    options = {
        "threshold": threshold, "mode": mode.value, "budget": budget, "top": top, "budget_s": budget_s,
        "over_budget": over_budget and over_budget.value, "min_length": min_length, "max_length": max_length,
        "too_long": too_long and too_long.value, "hold": hold, "merge_gap": merge_gap, "distinct": distinct,
        "snap": snap,
    }  # fmt: skip
    with door():
        from app.scoring import score_footage

        if not score_footage(paths, out, model, options, force=force).scored:
            raise DataError(f"none of the videos could be scored; {out / 'rejected.json'} says why for each")
