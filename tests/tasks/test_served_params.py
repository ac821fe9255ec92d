"""Params of a request: every option of scoring has its name, and what nobody can mean is refused in one line."""

import inspect
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from app.score_command import score
from models.errors import ParamsError
from models.selection import SelectionParams
from tasks.score_settings import settings_of
from tasks.selecting import OPTIONS
from tasks.served_params import TYPES, default_of, request_of

SPEC = SimpleNamespace(threshold=0.4, min_duration_s=1.0, merge_gap_s=0.5)
_MLFLOWS = {float: "double", int: "long"}


def test_every_option_of_scoring_is_a_param() -> None:
    assert {"mode", "budget", *OPTIONS} <= set(TYPES)


def test_every_option_of_the_command_that_no_place_belongs_to_is_a_param() -> None:
    assert {*inspect.signature(score).parameters} - {"paths", "out", "model", "force"} == {*TYPES} - {"scores"}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_param_has_the_type_of_its_option(option: str) -> None:
    kinds = get_args(SelectionParams.model_fields[OPTIONS[option]].annotation)
    expected = {_MLFLOWS.get(kind, "string") for kind in kinds if kind is not type(None)}
    assert {TYPES[option]} == expected


def test_a_request_with_every_default_is_a_plain_one() -> None:
    plain = request_of({name: default_of(name) for name in TYPES}, SPEC)
    assert plain == request_of(None, SPEC) == request_of({}, SPEC)
    assert plain.settings == settings_of({}, SPEC)
    assert not plain.with_scores


def test_what_is_asked_is_what_the_command_line_asks() -> None:
    asked = {"mode": "cascade", "budget": 0.1, "top": 2, "too_long": "best", "max_length": 4}
    request = request_of({**asked, "scores": True, "snap": None}, SPEC)
    assert request.settings == settings_of(asked, SPEC)
    assert request.with_scores


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"treshold": 0.5, "tops": 1}, "params 'tops', 'treshold': not known; there are scores, threshold, mode"),
        ({"mode": "fast"}, "mode 'fast': there are exact, keyframes, cascade"),
        ({"threshold": 1.5}, "threshold"),
        ({"budget": 0.5}, "needs mode cascade"),
        ({"mode": "cascade", "budget": 2}, "budget = 2"),
        ({"top": -1}, "top_k = -1"),
        ({"budget_s": float("nan")}, "budget_s = nan"),
        ({"too_long": "squash"}, "'cut' or 'best'"),
        ({"min_length": 5, "max_length": 2}, "at least min_duration_s"),
        ({"hold": 0.5}, "at most threshold, 0.4"),
    ],
)
def test_what_nobody_can_mean_is_refused_in_one_line(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ParamsError) as refused:
        request_of(params, SPEC)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
