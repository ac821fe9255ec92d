"""How a video is looked at and what is given of it: the settings of one run of scoring.

Knows modes and params; knows no file, model or option of a command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from models.cascade import CascadeParams
from models.errors import ParamsError
from models.params import parse_section
from models.selection import SelectionParams, SpanRules
from tasks.selecting import asked_of, selection_of

Mode = Literal["exact", "keyframes", "cascade"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of one run.

    selection: what becomes a highlight, settled with the model (`tasks.selecting.selection_of`)
    mode:      `exact` sees every sample, `keyframes` those alone, `cascade` keyframes and what they promise
    cascade:   read by `cascade`
    """

    selection: SelectionParams
    mode: Mode = "exact"
    cascade: CascadeParams = field(default_factory=CascadeParams)

    @property
    def threshold(self) -> float:
        """Score from which a frame is a highlight, 0 to 1."""
        assert self.selection.threshold is not None
        return self.selection.threshold

    def to_json(self) -> dict[str, Any]:
        """Return what is asked for beyond threshold, shortest length and gap of the model; nothing for a plain run."""
        asked: dict[str, Any] = {} if self.mode == "exact" else {"mode": self.mode}
        if self.mode == "cascade":
            asked["cascade"] = self.cascade.model_dump()
        selection = asked_of(self.selection)
        return asked | ({} if selection is None else {"selection": selection})


def settings_of(options: Mapping[str, Any], model: SpanRules) -> ScoreSettings:
    """Return settings from options: those of `tasks.selecting.OPTIONS`, `mode`, and `budget`, the cascade's share.

    What is None or missing is the model's own, or not asked for. Raises ParamsError that names what is out of range.
    """
    mode = options.get("mode") or "exact"
    if mode not in MODES:
        raise ParamsError(f"mode {mode!r}: there are {', '.join(MODES)}")
    share = options.get("budget")
    if share is not None and mode != "cascade":
        raise ParamsError("budget is the share of a video that a cascade may decode; it needs mode cascade")
    cascade = parse_section({} if share is None else {"budget": share}, "cascade", CascadeParams, "options")
    selection = selection_of({key: options[key] for key in options if key not in ("mode", "budget")}, model)
    return ScoreSettings(selection, mode, cascade)
