"""How a video is looked at and what is given of it: the settings of one run of scoring.

Knows modes and params, and options by their names; knows no file, model or command line.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field

from models.cascade import CascadeParams
from models.errors import ParamsError
from models.params import Section, parse_section
from models.selection import SelectionParams, SpanRules
from models.video import Sampling
from tasks.selecting import OPTIONS, asked_of, selection_of

Mode = Literal["exact", "keyframes", "cascade"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Options beside those of `tasks.selecting.OPTIONS`; `budget` is the cascade's share.
_LOOKING = ("mode", "budget", "fps")


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of one run.

    selection: what becomes a highlight, settled with the model (`tasks.selecting.selection_of`)
    own:       the same where nothing is asked for
    mode:      `exact` sees every sample, `keyframes` those alone, `cascade` keyframes and what they promise
    cascade:   read by `cascade`
    fps:       samples a second, None for the model's own; `keyframes` takes none
    """

    selection: SelectionParams
    own: SelectionParams
    mode: Mode = "exact"
    cascade: CascadeParams = field(default_factory=CascadeParams)
    fps: float | None = None

    @property
    def threshold(self) -> float:
        """Score from which a frame is a highlight, 0 to 1."""
        assert self.selection.threshold is not None
        return self.selection.threshold

    def sampled(self, own: Sampling) -> Sampling:
        """Return how frames are taken: the model's own way, at the rate that is asked for."""
        return own if self.fps is None else dataclasses.replace(own, fps=self.fps)

    def to_json(self) -> dict[str, Any]:
        """Return what is asked for beyond the model's own and a threshold; nothing for a plain run."""
        asked: dict[str, Any] = {} if self.mode == "exact" else {"mode": self.mode}
        if self.mode == "cascade":
            asked["cascade"] = self.cascade.model_dump()
        if self.fps is not None:
            asked["fps"] = self.fps
        selection = asked_of(self.selection, self.own)
        return asked | ({} if selection is None else {"selection": selection})


def settings_of(options: Mapping[str, Any], model: SpanRules) -> ScoreSettings:
    """Return settings from options: `mode`, `fps`, `budget` (the cascade's share), and those of `selecting.OPTIONS`.

    What is None or missing is the model's own, or not asked for. Raises ParamsError that names what is unknown, out of
    its range or contradicts.
    """
    selecting, looking = _parted(options)
    return ScoreSettings(selection_of(selecting, model), selection_of({}, model), *_how_to_look(looking))


def asked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `options` ask for, as JSON: None and defaults are left out, numbers are as their fields read them.

    So a plain run asks for nothing, and equal requests are equal. Raises ParamsError as `settings_of` does, as far as
    that can be told without a model.
    """
    selecting, looking = _parted(options)
    params = parse_section(
        {OPTIONS[name]: value for name, value in selecting.items()}, "selection", SelectionParams, "options"
    )
    default = SelectionParams()
    asked = {name: getattr(params, of) for name, of in OPTIONS.items() if getattr(params, of) != getattr(default, of)}
    mode, cascade, fps = _how_to_look(looking)
    looked = {"mode": (mode, "exact"), "budget": (cascade.budget, CascadeParams().budget), "fps": (fps, None)}
    return asked | {name: value for name, (value, plain) in looked.items() if value != plain}


class _Rate(Section):
    """How often a video is sampled."""

    fps: float | None = Field(default=None, gt=0, le=120)
    """Samples a second of presentation time, above 0 and at most 120; the model's own where it is left out."""


def _parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is asked for of selection, and of looking."""
    unknown = [name for name in options if name not in OPTIONS and name not in _LOOKING]
    if unknown:
        raise ParamsError(f"options: {unknown[0]!r} is none; there are {', '.join((*_LOOKING, *OPTIONS))}")
    asked = {name: value for name, value in options.items() if value is not None}
    looking = {name: asked.pop(name) for name in _LOOKING if name in asked}
    return asked, looking


def _how_to_look(options: Mapping[str, Any]) -> tuple[Mode, CascadeParams, float | None]:
    mode = options.get("mode", "exact")
    if mode not in MODES:
        raise ParamsError(f"mode {mode!r}: there are {', '.join(MODES)}")
    if "budget" in options and mode != "cascade":
        raise ParamsError("budget is the share of a video that a cascade may decode; it needs mode cascade")
    if "fps" in options and mode == "keyframes":
        raise ParamsError("fps is how often a video is sampled; mode keyframes takes the keyframes that there are")
    cascade = {"budget": options["budget"]} if "budget" in options else {}
    rate = parse_section({"fps": options.get("fps")}, "sampling", _Rate, "options")
    return mode, parse_section(cascade, "cascade", CascadeParams, "options"), rate.fps
