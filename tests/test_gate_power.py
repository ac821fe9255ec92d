"""The simulation behind the gate's rule: what it draws is what was asked for, its rules are the known ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import gate_power
from benchmarks.gate_power import SIZES, draw_p_values, rates, read_model
from benchmarks.gate_rules import Draws, p_values
from benchmarks.gate_simulation import (
    CHAMPION_F1,
    Population,
    better_models,
    equal_models,
    film,
)
from benchmarks.gate_tvsum import VideoModel, fit, variance_parts
from benchmarks.results_file import RESULTS
from models.bootstrap import paired_f1_difference
from models.errors import DataError, ModelError, ShapeError
from models.files import read_json
from models.metrics import Counts
from tasks.gate import GateParams

MODEL = VideoModel(
    num_shots=(60, 90, 150),
    prevalence=0.25,
    label_between=0.2,
    label_lag1=0.6,
    error_between=0.3,
    error_lag1=0.4,
    error_correlation=0.5,
    bias_correlation=0.3,
    skill_sd=0.3,
    skill_correlation=0.4,
)


def test_footage_has_the_parameters_it_was_made_with() -> None:
    footage = film(MODEL, 1500, 0)
    assert footage.labels_N.mean() == pytest.approx(0.25, abs=0.015)
    parts = np.flatnonzero(np.diff(footage.videos_N)) + 1
    for series, between, lag1 in ((footage.truth_N, 0.2, 0.6), (footage.errors_KN[1], 0.3, 0.4)):
        found = variance_parts(np.split(series, parts))
        assert found == (pytest.approx(between, abs=0.03), pytest.approx(lag1, abs=0.03))
        assert series.std() == pytest.approx(1, abs=0.03)
    assert np.corrcoef(footage.skills_KV)[0, 1] == pytest.approx(0.4, abs=0.07)
    assert footage.skills_KV.std() == pytest.approx(0.3, abs=0.02)
    assert {len(part) for part in np.split(footage.truth_N, parts)} == {60, 90, 150}
    # 0.7 of the variance is inside videos and 0.3 between them, each with a correlation of its own.
    assert np.corrcoef(footage.errors_KN)[0, 1] == pytest.approx(0.7 * 0.5 + 0.3 * 0.3, abs=0.03)


def test_models_are_as_good_as_the_scenario_says() -> None:
    equal, better = equal_models(MODEL, 300, 0), better_models(MODEL, 300, 0)
    for name, population in equal.items():
        assert population.gain == pytest.approx(0, abs=2e-4), name
    for name, population in better.items():
        assert population.gain == pytest.approx(0.05, abs=2e-4), name
    sparing, twin = equal["sparing"], equal["near_twin"]
    assert sparing.candidate[:, :2].sum() < sparing.champion[:, :2].sum()
    assert equal["generous"].candidate[:, :2].sum() > equal["generous"].champion[:, :2].sum()
    same = (twin.candidate == twin.champion).all(axis=1).mean()
    assert 0.7 < same < 0.95
    for population in equal.values():
        tp, fp, fn, _ = population.champion.sum(axis=0)
        assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(CHAMPION_F1, abs=2e-4)
        np.testing.assert_array_equal(population.candidate.sum(axis=1), population.champion.sum(axis=1))


def test_parameters_are_found_again_in_videos_made_with_them() -> None:
    """Truth and features of made videos: the fit sees what it was given, within what 60 videos can tell."""
    rng = np.random.default_rng(0)
    footage = film(replace(MODEL, num_shots=(120,) * 60, label_between=0.0), 60, 3)
    truths = np.split(footage.truth_N, 60)
    features = [np.stack([truth + rng.normal(0, 1, 120) for _ in range(40)], axis=1) for truth in truths]
    found = fit(features, truths, 0.25)
    assert found.num_shots == (120,) * 60
    assert found.label_between == pytest.approx(0, abs=0.05)
    assert found.label_lag1 == pytest.approx(0.6, abs=0.06)
    assert 0 < found.error_correlation < 1
    assert found.skill_sd >= 0
    assert VideoModel.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ModelError, match="no parameters of videos"):
        VideoModel.from_json({"num_shots": [1]})


def made_counts(seed: int, num_videos: int, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ease = rng.beta(4, 3, num_videos)
    sides = []
    for extra in (gain, 0.0):
        tp, fp = rng.binomial(30, np.clip(ease + extra, 0, 1)), rng.binomial(60, 0.2, num_videos)
        sides.append(np.stack([tp, fp, 30 - tp, 60 - fp], axis=1).astype(float))
    return sides[0], sides[1]


def test_rules_agree_on_many_videos_and_with_the_house_s_bootstrap() -> None:
    candidate, champion = made_counts(4, 300, -0.006)
    p = p_values(candidate, champion, Draws.of(300, 4000, 0))
    for rule in ("percentile", "bca", "studentised", "exchange"):
        assert p[rule] == pytest.approx(p["t_test"], abs=0.02), rule
    assert p["unpaired"] > p["t_test"] + 0.02
    sides = [{f"v{i:03}": Counts(*row) for i, row in enumerate(side)} for side in (candidate, champion)]
    # The percentile p-value is where the lower end of the interval meets 0.
    edge = paired_f1_difference(*sides, num_bootstrap=4000, seed=0, confidence=1 - 2 * p["percentile"])
    assert edge.low == pytest.approx(0, abs=5e-4)


@pytest.mark.parametrize("num_videos", [2, 10])
def test_rules_are_numbers_for_ties_and_for_sets_without_a_highlight_in_some_draws(num_videos: int) -> None:
    candidate, champion = made_counts(0, num_videos)
    quiet = np.array([0.0, 0, 0, 50])
    for first, second in ((champion, champion), (candidate, champion)):
        first, second = first.copy(), second.copy()
        first[1:], second[1:] = quiet, quiet
        for rule, p in p_values(first, second, Draws.of(num_videos, 200, 0)).items():
            assert 0 < p <= 1, rule
    for rule, p in p_values(champion, champion, Draws.of(num_videos, 200, 0)).items():
        assert p >= 0.5, rule


def test_equal_models_are_promoted_as_rarely_as_promised() -> None:
    """A loose bound, with its seed: 2.5% of 600 is 15, and more than 30 come with a probability below 1 in 5000."""
    population = equal_models(MODEL, 300, 0)["retrained"]
    p, detectable = draw_p_values(population, 12, 600, 1)
    assert int((p <= GateParams().champion_level).sum()) <= 30
    assert stats.binom.sf(30, 600, 0.025) < 2e-4
    assert p.min() < 0.1
    assert (detectable > 0).all()


def test_a_gate_that_decides_otherwise_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, champion = made_counts(0, 10)
    population = Population(champion, candidate)
    draw_p_values(population, 10, 10, 0)
    real = gate_power.exchange_p_values
    monkeypatch.setattr(gate_power, "exchange_p_values", lambda *arrays: real(*arrays) / 2)
    with pytest.raises(ShapeError, match="must be one function"):
        draw_p_values(population, 10, 10, 0)


def test_rates_have_exact_intervals() -> None:
    found = rates("x", 5, 100)
    assert found["x"] == 0.05
    assert (found["x_low"], found["x_high"]) == (pytest.approx(0.01643, abs=1e-5), pytest.approx(0.11283, abs=1e-5))


def test_without_shared_the_stored_parameters_do_and_without_both_there_is_one_line(tmp_path: Path) -> None:
    model, source = read_model(tmp_path, RESULTS)
    assert "gate_power.json" in source
    assert len(model.num_shots) == 33
    with pytest.raises(DataError, match=r"shared/data/tvsum is missing .* name the folder with --shared"):
        read_model(tmp_path, tmp_path)


def test_the_parameters_are_those_of_tvsum(shared: Path) -> None:
    model, _ = read_model(shared, RESULTS)
    stored = read_json(RESULTS / "gate_power.json")["videos"]
    for key, value in model.to_json().items():
        assert stored[key] == pytest.approx(value, abs=1e-6), key


def test_the_promise_holds_in_the_result_file() -> None:
    content = read_json(RESULTS / "gate_power.json")
    figures = content["figures"]
    assert content["params"]["level"] == GateParams().champion_level
    for size in SIZES:
        assert figures[f"false_promotion_{size}_high"] <= 0.05
        ways = [value for key, value in figures.items() if key.startswith(f"false_promotion_{size}/")]
        assert figures[f"false_promotion_{size}"] == max(ways)
        assert len(ways) == 6
        assert figures[f"power_{size}_low"] <= figures[f"power_{size}"] <= figures[f"power_{size}_high"]
        assert figures[f"power_at_detectable_{size}"] == pytest.approx(0.8, abs=0.06)
        assert figures[f"rule_before/false_promotion_{size}"] > 0.9
    powers = [figures[f"power_{size}"] for size in SIZES]
    assert powers == sorted(powers)
