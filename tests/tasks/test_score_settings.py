"""Options of a run: what a plain one asks for, when two are the same, and what is refused before a model is loaded."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from models.errors import ParamsError
from models.video import Sampling
from tasks.score_settings import asked_options, settings_of
from tasks.selecting import OPTIONS

MODEL: Any = SimpleNamespace(threshold=0.5, min_duration_s=0.5, merge_gap_s=0.75)
ALL = (*OPTIONS, "mode", "budget", "fps")


def test_a_plain_run_asks_for_nothing() -> None:
    plain = {"mode": "exact", "too_long": "cut", "over_budget": "drop"}
    assert asked_options({}) == asked_options(dict.fromkeys(ALL)) == asked_options(plain) == {}
    assert settings_of(dict.fromkeys(ALL), MODEL).to_json() == settings_of({}, MODEL).to_json() == {}


@pytest.mark.parametrize("options", [{"min_length": 3.0}, {"merge_gap": 0.1}, {"hold": 0.2}])
def test_every_rule_that_differs_from_the_models_own_is_told_since_a_rerun_compares_it(options: dict[str, Any]) -> None:
    told = settings_of(options, MODEL).to_json()
    assert told != settings_of({}, MODEL).to_json()
    assert settings_of({"min_length": 0.5, "merge_gap": 0.75}, MODEL).to_json() == {}  # said, and the model's own


def test_equal_requests_are_equal_to_the_byte() -> None:
    first = asked_options({"mode": "cascade", "budget": 0.25, "top": 3.0, "fps": 4, "threshold": 1, "snap": None})
    second = asked_options({"threshold": 1.0, "fps": 4.0, "mode": "cascade", "top": 3})
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


@pytest.mark.parametrize(
    "options",
    [{"mode": "cascade", "budget": 0.1, "fps": 8}, {"top": 2, "too_long": "best", "max_length": 9}, {"threshold": 0.2}],
)
def test_what_is_asked_for_makes_the_same_settings(options: dict[str, Any]) -> None:
    assert settings_of(asked_options(options), MODEL) == settings_of(options, MODEL)


def test_a_rate_is_part_of_the_settings_and_takes_the_place_of_the_models_own() -> None:
    own = Sampling(2.0, 32, "crop")
    asked = settings_of({"fps": 5}, MODEL)
    assert asked.to_json() == {"fps": 5.0}
    assert asked.sampled(own) == Sampling(5.0, 32, "crop")
    assert settings_of({}, MODEL).sampled(own) == own


@pytest.mark.parametrize("read", [asked_options, lambda options: settings_of(options, MODEL)])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tops": 3}, "'tops' is none; there are mode"),
        ({"tops": None}, "'tops'"),
        ({"mode": "fast"}, "mode 'fast'"),
        ({"mode": ["exact"]}, "mode"),
        ({"budget": 0.1}, "needs mode cascade"),
        ({"mode": "cascade", "budget": 2}, r"cascade.budget = 2"),
        ({"fps": 0}, r"sampling.fps = 0"),
        ({"fps": 120.5}, r"sampling.fps = 120.5"),
        ({"fps": float("nan")}, r"sampling.fps"),
        ({"fps": "often"}, r"sampling.fps = 'often'"),
        ({"fps": 2, "mode": "keyframes"}, "keyframes"),
        ({"top": -1}, "selection.top_k = -1"),
        ({"hold": 0.6, "threshold": 0.3}, "at most threshold, 0.3"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    read: Callable[[dict[str, Any]], Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParamsError, match=words) as raised:
        read(options)
    assert "\n" not in str(raised.value)
