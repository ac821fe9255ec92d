"""The error rates of the gate: how often an equal model replaces the champion, and how often a better one does.

Draws test sets of 10, 30, 100 and 300 videos from populations whose true F1 is known (`benchmarks.gate_simulation`,
made after TVSum), and asks the function that the flow asks, `models.paired.exchange_p_values`, at the level in force.
Beside it stand the rules that were not chosen. Without ../shared the parameters of the videos are those of the result
file.

`python -m benchmarks.gate_power [--quick]`
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from benchmarks.gate_rules import LEVEL_OF_BEFORE, RULE_OF_BEFORE, Draws, p_values
from benchmarks.gate_simulation import (
    CHAMPION_F1,
    GAIN_F1,
    Population,
    better_models,
    describe,
    equal_models,
)
from benchmarks.gate_tvsum import VideoModel, estimate
from benchmarks.results_file import RESULTS, benchmark_parser, code_commit, print_figures, write_results
from models.errors import DataError, ModelError, ShapeError
from models.files import read_json
from models.metrics import Counts
from models.paired import Floats, detectable_difference, draw_exchanges, exchange_p_values, f1_differences
from models.params import parse_section
from tasks.gate import POWER, GateParams, champion_line, compare_with_champion
from tasks.shell import one_line_errors

NAME = "gate_power"
SIZES = (10, 30, 100, 300)
# Levels that were looked at before one was put in force.
LEVELS = (0.05, 0.04, 0.03, 0.025, 0.02)
# Test sets between two draws of exchanges and replicates: a gate draws once, so no one draw may decide the figures.
BATCH = 250
NUM_REPLICATES = 1000
COMPARED = ("retrained", "near_twin", "very_uneven", "patchy")
# Whole decisions through the gate's own door, beside the arrays, at each size and population.
NUM_CHECKED = 5


def gate_params() -> GateParams:
    """Return the gate's defaults: the figures are of the rule as it comes."""
    return parse_section(None, "gate", GateParams)


def draw_p_values(population: Population, size: int, num_trials: int, seed: int) -> tuple[Floats, Floats]:
    """Return float64 [num_trials] twice: the gate's p-value, and the improvement it can detect by that test set."""
    generator = np.random.default_rng(seed)
    level = gate_params().champion_level
    p, detectable = [], []
    for start in range(0, num_trials, BATCH):
        sets = [population.draw(size, generator) for _ in range(min(BATCH, num_trials - start))]
        candidate_TV4, champion_TV4 = (np.stack(part) for part in zip(*sets, strict=True))
        p.append(exchange_p_values(candidate_TV4, champion_TV4, draw_exchanges(size, seed + start)))
        _, error_T = f1_differences(candidate_TV4, champion_TV4)
        detectable.append(np.array([detectable_difference(error, size, level, POWER) for error in error_T]))
        if start == 0:
            check_with_gate(candidate_TV4[:NUM_CHECKED], champion_TV4[:NUM_CHECKED], p[0], seed)
    return np.concatenate(p), np.concatenate(detectable)


def check_with_gate(candidate_TV4: Floats, champion_TV4: Floats, p_T: Floats, seed: int) -> None:
    """Raise ShapeError unless the gate's line, from counts by video to passed or not, decides as its arrays do."""
    params = gate_params()
    for candidate_V4, champion_V4, p in zip(candidate_TV4, champion_TV4, p_T, strict=False):
        sides = [{f"v{i:03}": Counts(*row) for i, row in enumerate(side)} for side in (candidate_V4, champion_V4)]
        improvement = compare_with_champion(sides[0], sides[1], seed)
        if improvement.p_value != p or champion_line(improvement, params).passed != (p <= params.champion_level):
            raise ShapeError(f"gate decides {improvement} where its arrays gave p = {p}; they must be one function")


def rates(prefix: str, num_hits: int, num_trials: int) -> dict[str, float]:
    """Return a rate with its 95% interval by Clopper and Pearson ("The use of confidence or fiducial limits", 1934)."""
    interval = binomtest(num_hits, num_trials).proportion_ci(0.95, method="exact")
    return {prefix: num_hits / num_trials, f"{prefix}_low": float(interval.low), f"{prefix}_high": float(interval.high)}


def measure_size(
    size: int, equal: Mapping[str, Population], better: Mapping[str, Population], num_trials: int, seed: int
) -> dict[str, float]:
    """Return the figures of one size; that of an equal model is of the way of being equal that fools the gate most."""
    level = gate_params().champion_level
    p_equal = {name: draw_p_values(population, size, num_trials, seed)[0] for name, population in equal.items()}
    drawn = {name: draw_p_values(population, size, num_trials, seed + 1) for name, population in better.items()}
    p_better = {name: p for name, (p, _) in drawn.items()}
    hits = {name: int((p <= level).sum()) for name, p in p_equal.items()}
    figures = rates(f"false_promotion_{size}", max(hits.values()), num_trials)
    figures |= rates(f"power_{size}", int((p_better["retrained"] <= level).sum()), num_trials)
    figures[f"detectable_f1_{size}"] = float(np.median(drawn["retrained"][1]))
    figures |= {f"false_promotion_{size}/{name}": count / num_trials for name, count in hits.items()}
    figures |= {f"power_{size}/{name}": float((p <= level).mean()) for name, p in p_better.items()}
    for other in LEVELS:
        worst = max(float((p <= other).mean()) for p in p_equal.values())
        figures[f"level_{other}/false_promotion_{size}"] = worst
        figures[f"level_{other}/power_{size}"] = float((p_better["retrained"] <= other).mean())
    return figures


def compare_rules(
    size: int, equal: Mapping[str, Population], better: Mapping[str, Population], num_trials: int, seed: int
) -> dict[str, float]:
    """Return of every rule, all asked at 5%, the worst false promotion and the power; and of the rule of before.

    held_level is the largest level, in thousandths, at which the worst false promotion is at most 5%; held_power is
    the power there, which is what rules can be compared by.
    """
    equal_p = [_all_p_values(equal[name], size, num_trials, seed) for name in COMPARED]
    better_p = _all_p_values(better["retrained"], size, num_trials, seed)
    patchy_p = _all_p_values(better["patchy"], size, num_trials, seed)
    figures = {}
    for rule, p_better in better_p.items():
        figures[f"rule_{rule}/false_promotion_{size}"] = _worst([p[rule] for p in equal_p], 0.05)
        figures[f"rule_{rule}/power_{size}"] = float((p_better <= 0.05).mean())
        figures[f"rule_{rule}/power_{size}/patchy"] = float((patchy_p[rule] <= 0.05).mean())
        levels = [step / 1000 for step in range(101) if _worst([p[rule] for p in equal_p], step / 1000) <= 0.05]
        figures[f"rule_{rule}/held_level_{size}"] = levels[-1]
        figures[f"rule_{rule}/held_power_{size}"] = float((p_better <= levels[-1]).mean())
    before = [p[RULE_OF_BEFORE] for p in equal_p]
    figures[f"rule_before/false_promotion_{size}"] = _worst(before, LEVEL_OF_BEFORE)
    figures[f"rule_before/power_{size}"] = float((better_p[RULE_OF_BEFORE] <= LEVEL_OF_BEFORE).mean())
    return figures


def _all_p_values(population: Population, size: int, num_trials: int, seed: int) -> dict[str, Floats]:
    """Return float64 [num_trials] for each rule."""
    generator = np.random.default_rng(seed)
    rows = []
    for trial in range(num_trials):
        if trial % BATCH == 0:
            draws = Draws.of(size, NUM_REPLICATES, seed + trial)
        rows.append(p_values(*population.draw(size, generator), draws))
    return {rule: np.array([row[rule] for row in rows]) for rule in rows[0]}


def _worst(p_values_of: Sequence[Floats], level: float) -> float:
    return max(float((p <= level).mean()) for p in p_values_of)


def check_detectable(model: VideoModel, figures: Mapping[str, float], pool: int, num_trials: int) -> dict[str, float]:
    """Return, by size, how often a model passes whose true gain is what the gate calls detectable: about POWER."""
    level = gate_params().champion_level
    found = {}
    for size in SIZES:
        gain = figures[f"detectable_f1_{size}"]
        # A gain that would pass F1 = 1 has no model.
        if CHAMPION_F1 + gain < 0.97:
            population = better_models(model, pool, 7, gain, names=("retrained",))["retrained"]
            p, _ = draw_p_values(population, size, num_trials, 8)
            found[f"power_at_detectable_{size}"] = float((p <= level).mean())
    return found


def read_model(shared: Path, results: Path) -> tuple[VideoModel, str]:
    """Return the parameters of the videos and where they are from. Raises DataError where there are none."""
    folder = shared / "data" / "tvsum"
    if (folder / "tvsum_2s.h5").is_file():
        return estimate(folder), "estimated from shared/data/tvsum"
    try:
        return VideoModel.from_json(read_json(results / f"{NAME}.json")["videos"]), f"those of {NAME}.json"
    except (OSError, KeyError, ModelError):
        raise DataError(
            f"{NAME} skipped: shared/data/tvsum is missing and benchmarks/results/{NAME}.json has no parameters of "
            "videos; name the folder with --shared"
        ) from None


def measure(shared: Path, *, quick: bool, results: Path = RESULTS) -> dict[str, float]:
    """Measure, print and write the result file; return the figures."""
    commit, started = code_commit(), time.monotonic()
    model, source = read_model(shared, RESULTS)
    pool, num_trials, num_compared = (1650, 1000, 100) if quick else (6600, 10_000, 1200)
    equal, better = equal_models(model, pool, 0), better_models(model, pool, 0)
    figures: dict[str, float] = {}
    for size in SIZES:
        figures |= measure_size(size, equal, better, num_trials, seed=size)
    figures |= check_detectable(model, figures, pool, num_trials // 2)
    for size in SIZES:
        figures |= compare_rules(size, equal, better, num_compared, seed=size)
    print(f"parameters of the videos: {source}")
    print_figures(figures)
    params = {
        "quick": quick,
        "num_trials": num_trials,
        "num_trials_of_rules": num_compared,
        "num_videos_of_population": len(better["retrained"].champion),
        "champion_f1": CHAMPION_F1,
        "gain_f1": GAIN_F1,
        "level": gate_params().champion_level,
        "level_of_rules": 0.05,
        "seconds": round(time.monotonic() - started, 1),
    }
    details = {
        "videos": model.to_json(),
        "videos_source": source,
        "equal_models": describe(equal),
        "better_models": describe(better),
    }
    path = write_results(f"{NAME}_quick" if quick else NAME, figures, params, details, commit=commit, folder=results)
    print(f"written: {path.name}")
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where there is nothing to make videos after."""
    options = benchmark_parser(NAME, "The error rates of the gate.", "fewer test sets; wider intervals").parse_args(
        argv
    )
    with one_line_errors(NAME):
        measure(options.shared, quick=options.quick)


if __name__ == "__main__":
    main()
