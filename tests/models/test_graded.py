"""Rank figures over graded videos: the order of the means, what is undefined, and the rows that need no model."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.errors import ModelError, ShapeError
from models.graded import FIGURE_NAMES, REFERENCE_NAMES, GradedEvaluation, evaluate_graded, rank_video
from models.importance import Importance, importance_of

NAN = math.nan
Truth = dict[str, Importance]


def people(seed: int, num_videos: int = 6, num_annotators: int = 5, num_shots: int = 40) -> Truth:
    """Return videos whose annotators share half of what they give."""
    rng = np.random.default_rng(seed)
    truth = {}
    for index in range(num_videos):
        common = rng.normal(size=num_shots)
        own = common + rng.normal(scale=1.0, size=(num_annotators, num_shots))
        truth[f"v{index}"] = Importance(2.0, np.clip(np.round(own + 3), 1, 5).astype(np.float64))
    return truth


def evaluate(truth: Truth, **scores: dict[str, np.ndarray]) -> GradedEvaluation:
    return evaluate_graded(truth, scores, num_bootstrap=200, confidence=0.95, seed=0)


def value(evaluation: GradedEvaluation, row: str, figure: str) -> float:
    found = evaluation.row(row)
    assert found is not None
    return found.figures[figure].value


def test_the_mean_is_over_annotators_then_over_videos() -> None:
    truth = people(1, num_videos=2) | {"few": people(2, num_videos=1, num_annotators=2)["v0"]}
    rng = np.random.default_rng(3)
    scores = {video: rng.normal(size=40) for video in truth}
    by_video = [
        np.mean([stats.kendalltau(own, scores[video]).statistic for own in importance.scores_AS])
        for video, importance in truth.items()
    ]
    rhos = [
        np.mean([stats.spearmanr(own, scores[video]).statistic for own in importance.scores_AS])
        for video, importance in truth.items()
    ]
    evaluation = evaluate(truth, mine=scores)
    assert value(evaluation, "mine", "kendall_tau") == pytest.approx(np.mean(by_video), abs=1e-9)
    assert value(evaluation, "mine", "spearman_rho") == pytest.approx(np.mean(rhos), abs=1e-9)
    row = evaluation.row("mine")
    assert row is not None
    assert row.by_video["v0"].kendall_tau == pytest.approx(by_video[0], abs=1e-9)
    estimate = row.figures["kendall_tau"]
    assert min(by_video) - 1e-9 <= estimate.low <= estimate.value <= estimate.high <= max(by_video) + 1e-9


def test_reference_rows_stand_in_their_order() -> None:
    truth = people(0, num_videos=12)
    evaluation = evaluate(truth, best={video: importance.mean_S for video, importance in truth.items()})
    assert [row.name for row in evaluation.rows] == ["best", *REFERENCE_NAMES]
    for figure in ("kendall_tau", "spearman_rho"):
        random, uniform, human, each, ceiling = (value(evaluation, name, figure) for name in REFERENCE_NAMES)
        assert abs(random) < 0.05
        assert abs(uniform) < 0.1
        assert 0.3 < each < human < 0.8
        assert ceiling == value(evaluation, "best", figure)
        assert ceiling > each
    assert value(evaluation, "random", "top5_map") < value(evaluation, "human_each", "top5_map")


def test_what_is_undefined_is_counted_and_in_no_mean() -> None:
    truth = people(4, num_videos=3)
    mean = {video: importance.mean_S for video, importance in truth.items()}
    constant = mean | {"v1": np.full(40, 0.5)}
    evaluation = evaluate(truth, mine=constant)
    row = evaluation.row("mine")
    assert row is not None
    assert math.isnan(row.by_video["v1"].kendall_tau)
    assert row.num_undefined["kendall_tau"] == row.num_undefined["spearman_rho"] == 1
    kept = [row.by_video[video].kendall_tau for video in ("v0", "v2")]
    assert row.figures["kendall_tau"].value == pytest.approx(np.mean(kept))
    assert any("undefined in 1 of 3 videos" in note for note in evaluation.notes)


def test_ties_everywhere_leave_every_figure_undefined() -> None:
    truth = {"a": importance_of(2.0, [[3] * 8, [3] * 8]), "b": importance_of(2.0, [[1] * 8])}
    evaluation = evaluate(truth, mine={video: np.arange(8.0) for video in truth})
    for row in evaluation.rows:
        for figure in ("kendall_tau", "spearman_rho"):
            assert math.isnan(row.figures[figure].value), row.name
            assert math.isnan(row.figures[figure].low)
            assert row.num_undefined[figure] == 2
    assert any("1 of 2 graded videos have one list of scores" in note for note in evaluation.notes)
    assert evaluation.to_json()["rows"][0]["kendall_tau"] == {"value": None, "low": None, "high": None}


def test_a_single_video_has_figures_and_no_interval() -> None:
    truth = people(5, num_videos=1)
    estimate = evaluate(truth, mine={"v0": truth["v0"].mean_S}).rows[0].figures["kendall_tau"]
    assert estimate.value > 0.3
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_annotators_and_scores_may_miss_shots() -> None:
    importance = importance_of(2.0, [[1, 2, None, 4, 5], [None, 1, 2, 3, None], [None] * 4 + [2]])
    scores = np.array([0.1, 0.2, 0.3, NAN, 0.5])
    found = rank_video(importance, scores)
    assert found.kendall_tau == found.spearman_rho == 1.0
    reverse = rank_video(importance, -scores)
    assert reverse.kendall_tau == reverse.spearman_rho == -1.0
    nothing = rank_video(importance, np.full(5, NAN))
    assert all(math.isnan(getattr(nothing, figure)) for figure in FIGURE_NAMES)


@pytest.mark.parametrize("scores", [np.zeros(4), np.zeros((1, 5)), np.array([0, 0, 0, 0, np.inf])])
def test_scores_of_other_shots_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"must be \[5\], finite or NaN"):
        rank_video(importance_of(2.0, [[1, 2, 3, 4, 5]]), scores)


def test_a_model_without_a_video_is_refused() -> None:
    truth = people(0, num_videos=2)
    with pytest.raises(ModelError, match="mine: no scores of graded video v1"):
        evaluate(truth, mine={"v0": truth["v0"].mean_S})
    with pytest.raises(ShapeError, match="no graded video"):
        evaluate({})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers(1, 3)), min_size=4, max_size=4), min_size=1, max_size=3).filter(
        lambda lists: any(score is not None for shots in lists for score in shots)
    ),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_json_holds_all_of_it_and_figures_stay_in_range(lists: list[list[int | None]], scores: list[int]) -> None:
    truth = {"a": importance_of(1.0, lists)}
    evaluation = evaluate(truth, mine={"a": np.array(scores, np.float64)})
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert repr(GradedEvaluation.from_json(json.loads(text))) == repr(evaluation)
    for row in evaluation.rows:
        for figure, low in (("kendall_tau", -1), ("spearman_rho", -1), ("top5_map", 0)):
            found = row.figures[figure].value
            assert math.isnan(found) or low <= found <= 1
    metrics = evaluation.to_metrics()
    assert metrics["num_graded_videos"] == 1
    assert {"mine_kendall_tau", "mine_spearman_rho_low", "human_each_top5_map"} <= set(metrics)


def test_what_is_no_graded_evaluation_is_told() -> None:
    with pytest.raises(ModelError, match="run the stage again"):
        GradedEvaluation.from_json({"rows": []})


def test_the_same_seed_gives_the_same_random_row() -> None:
    truth = people(7, num_videos=2)
    first, second = evaluate(truth), evaluate(truth)
    assert repr(first) == repr(second)
