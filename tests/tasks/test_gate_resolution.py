"""What a test set can tell at all: the smallest improvement it shows, in the verdict, in words and in JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ModelError
from models.evaluation import METRIC_NAMES, Estimate, Evaluation, Row
from models.metrics import Counts
from models.paired import Improvement
from models.verdict import Resolution, Verdict
from tasks.gate import GateParams, judge, resolve

PARAMS = GateParams()
CHAMPION = Improvement(0.06, 0.02, 0.01, 12, 11)
ENGINE = {"name": "eager", "status": "measured", "mean_score_diff": 0.0, "f1_diff": 0.0}
ENGINES: dict[str, Any] = {"chosen": "eager", "threshold": 0.5, "engines": [ENGINE]}


def make_evaluation(video_counts: dict[str, dict[str, Counts]]) -> Evaluation:
    """Return an evaluation that passes every other line of the gate."""
    good, poor = (dict.fromkeys(METRIC_NAMES, Estimate(f1, f1 - 0.05, f1 + 0.05)) for f1 in (0.8, 0.4))
    counts = Counts(80, 20, 20, 280)
    rows = (Row("compiled", 0.5, counts, good), Row("all_positive", None, counts, poor))
    return Evaluation(rows, (), video_counts, 12, 400, 0.24, 0.25, 0.95, 1000, 0)


def many_counts(num_videos: int) -> dict[str, dict[str, Counts]]:
    """Return the counts of a served model whose videos differ."""
    return {"compiled": {f"v{i:03}": Counts(12 + i % 7, 3, 8 - i % 7, 20) for i in range(num_videos)}}


def test_the_resolution_is_the_pair_s_where_there_is_one() -> None:
    evaluation = make_evaluation(many_counts(40))
    alone, paired = resolve(evaluation, PARAMS, None), resolve(evaluation, PARAMS, CHAMPION)
    assert (alone.is_paired, paired.is_paired) == (False, True)
    assert (alone.num_videos, paired.num_videos) == (40, 12)
    assert paired.detectable_f1 == pytest.approx(0.02 * (2.20099 + 0.87553), abs=1e-6)
    # Equal counts have no error: what they tell of the test set is nothing, and not that it tells everything.
    assert resolve(evaluation, PARAMS, Improvement(0.0, 0.0, 1.0, 40, 0)) == alone
    assert resolve(evaluation, PARAMS, Improvement(0.0, math.nan, math.nan, 40, 0)) == alone
    assert alone.detectable_f1 is not None
    strict = resolve(evaluation, GateParams(champion_level=0.001), None)
    assert strict.detectable_f1 is not None
    assert strict.detectable_f1 > alone.detectable_f1
    larger = resolve(make_evaluation(many_counts(160)), PARAMS, None)
    assert larger.detectable_f1 == pytest.approx(alone.detectable_f1 / 2, rel=0.06)
    assert f"the smallest improvement that 40 test videos can show is {alone.detectable_f1:.4f}" in alone.text
    assert "better by that than this one, for a later candidate" in alone.text
    assert "better by that than the champion passes in 80% of cases" in paired.text
    assert "too small" not in alone.text


@pytest.mark.parametrize("num_videos", [1, 2, 5])
def test_a_test_set_too_small_to_decide_anything_says_so(num_videos: int) -> None:
    resolution = resolve(make_evaluation(many_counts(num_videos)), PARAMS, None)
    assert resolution.detectable_f1 is None
    assert resolution.is_too_small
    assert "too small to decide anything" in resolution.text
    assert "it takes at least 6" in resolution.text


def test_a_test_set_that_shows_only_large_improvements_says_so_and_refuses_nothing() -> None:
    evaluation = make_evaluation(many_counts(12))
    verdict = judge(evaluation, ENGINES, GateParams(max_detectable_f1=0.05), None)
    assert verdict.promoted
    assert verdict.resolution is not None
    assert verdict.resolution.is_too_small
    assert "That is more than 0.05: the test set is too small" in verdict.resolution.text


def test_a_test_split_without_a_highlight_has_no_resolution() -> None:
    nothing = {"compiled": {f"v{i}": Counts(0, i, 0, 20) for i in range(9)}}
    resolution = resolve(make_evaluation(nothing), PARAMS, None)
    assert resolution.is_too_small
    assert "undefined" in resolution.text
    assert resolve(make_evaluation({}), PARAMS, None).num_videos == 0


def test_a_verdict_survives_json_and_a_missing_field_is_named() -> None:
    for champion, counts in ((None, many_counts(40)), (CHAMPION, many_counts(40)), (None, many_counts(3))):
        verdict = judge(make_evaluation(counts), ENGINES, PARAMS, champion)
        assert Verdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False))) == verdict
    value = verdict.to_json()
    assert value["resolution"]["is_too_small"] is True
    for broken, name in (
        ({key: part for key, part in value.items() if key != "resolution"}, "resolution"),
        (value | {"resolution": {"num_videos": 3}}, "detectable_f1"),
        ({"promoted": True, "resolution": None}, "lines"),
    ):
        with pytest.raises(ModelError, match=f"'{name}' is missing"):
            Verdict.from_json(broken)
    with pytest.raises(ModelError, match="not what the gate writes"):
        Verdict.from_json(value | {"resolution": value["resolution"] | {"detectable_f1": -1.0}})


@given(st.integers(0, 60), st.none() | st.floats(0, 2), st.floats(0.001, 0.5), st.floats(0.01, 1), st.booleans())
def test_every_resolution_has_a_sentence_and_comes_back_from_json(
    num: int, detectable: float | None, level: float, limit: float, paired: bool
) -> None:
    resolution = Resolution(num, detectable, 0.8, level, limit, paired, 6)
    assert Resolution.from_json(json.loads(json.dumps(resolution.to_json()))) == resolution
    assert resolution.is_too_small == (detectable is None or detectable > limit)
    assert "nan" not in resolution.text
    assert not resolution.text.endswith(".")
