"""The params of a request to the served model: their names and types, and what they ask for once settled.

Knows what MLflow calls the types, and nothing else of MLflow; what each name means is `tasks.score_settings`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import ParamsError
from models.selection import SpanRules
from tasks.score_settings import ScoreSettings, settings_of

# Name of a param -> its type, as `mlflow.types.DataType` calls it, in the order in which people read them.
TYPES = {
    "scores": "boolean",
    "threshold": "double",
    "mode": "string",
    "budget": "double",
    "fps": "double",
    "top": "long",
    "budget_s": "double",
    "over_budget": "string",
    "min_length": "double",
    "max_length": "double",
    "too_long": "string",
    "merge_gap": "double",
    "hold": "double",
    "distinct": "double",
    "snap": "double",
}


@dataclass(frozen=True)
class Request:
    """What a request asks for, the same for all its rows.

    settings:    how its videos are looked at, and what is given of them
    with_scores: answer the scores of all frames too
    """

    settings: ScoreSettings
    with_scores: bool = False


def default_of(name: str) -> Any:
    """Return what stands for a param that a request does not name; None is "as the model has it, or not asked for"."""
    return False if TYPES[name] == "boolean" else None


def request_of(params: Mapping[str, Any] | None, model: SpanRules) -> Request:
    """Return what `params` ask for, settled with the model. Raises ParamsError for what is unknown or out of range."""
    asked = dict(params or {})
    if unknown := sorted(set(asked) - set(TYPES)):
        raise ParamsError(f"params {', '.join(map(repr, unknown))}: not known; there are {', '.join(TYPES)}")
    with_scores = bool(asked.pop("scores", False))
    return Request(settings_of(asked, model), with_scores)
