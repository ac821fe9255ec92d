"""The options that every command that scores takes: how a video is looked at, and which highlights are given.

Knows names, ranges and help; what they mean is `tasks.score_settings`'. `takes_settings` gives them to a command.
"""

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

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


ModelOption = Annotated[
    str, typer.Option(help="A model of the registry (models:/NAME@ALIAS) or a folder with a served model.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Score from which a frame is a highlight, 0 to 1; the model's own by default."),
]
ModeOption = Annotated[
    Mode, typer.Option(help="See every sample, keyframes alone, or keyframes and what they promise.")
]
BudgetOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of a video that mode cascade may decode in full.")
]
FpsOption = Annotated[
    float | None, typer.Option(min=0, max=120, help="Samples a second of video; the model's own by default.")
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


def settings_asked(
    threshold: ThresholdOption = None,
    mode: ModeOption = Mode.exact,
    budget: BudgetOption = None,
    fps: FpsOption = None,
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
) -> dict[str, Any]:
    """Return the options as `tasks.score_settings.settings_of` takes them; what was not given is None."""
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in locals().items()}


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with the options of `settings_asked` behind its own; it gets them as its argument `settings`.

    Typer reads a command's options from its signature, so that is where they are added.
    """
    own = inspect.signature(command)
    shared = inspect.signature(settings_asked).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        settings = settings_asked(**{name: given.pop(name) for name in shared})
        command(**given, settings=settings)

    parameters = [
        *(parameter for parameter in own.parameters.values() if parameter.name != "settings"),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared.values()),
    ]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
