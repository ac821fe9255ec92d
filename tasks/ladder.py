"""The compression ladder: every rung built, scored and timed on the footage that it serves, and one chosen.

Each rung is judged as it would be served: its threshold is chosen on val from its own scores, and its F1 is on test,
paired by video with that of the float32 model. Scores are compared on val and test. Speeds are taken in rounds, in
each of which every rung has its turn, so that a machine that slows down slows all of them. What cannot be built or
run is a row with its reason, and the others go on.

Knows how a rung is measured; which one is chosen is the business of `models.ladder`.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from models.bootstrap import count_replicates, draw_weights, paired_f1_difference, percentile_interval
from models.energy import Energy
from models.engines.compare import EngineLatency, compare_scores, measure_latency
from models.errors import EngineError, ModelError
from models.evaluation import Estimate
from models.files import write_json
from models.highlighter import load_highlighter
from models.ladder import (
    REFERENCE,
    Decision,
    Figures,
    Part,
    Rung,
    RungResult,
    Speed,
    apply_decision,
    choose_rung,
    parse_rung,
)
from models.manifest import read_manifest
from models.metrics import Counts, count_frames
from models.paired import compare_models
from models.params import Section
from models.shards import read_frames_shard
from tasks.energy import measure_energy
from tasks.ladder_picture import write_ladder_picture
from tasks.rungs import BuiltRung, Footage, Model, Shrink, build_rung, calibration_frames, without_figures
from tasks.shell import progress_bar, stage_shell

_CONFIDENCE = 0.95


class LadderParams(Section):
    """Which rungs there are, how they are measured, and how much F1 one may cost."""

    rungs: tuple[str, ...] = ("float32", "bfloat16", "torchscript", "onnx", "openvino", "openvino-bfloat16")
    """Names of rungs; parts joined by "+" make one rung. The reference, float32, is measured in any case."""
    max_f1_drop: float = Field(default=0.005, ge=0, le=1)
    """Loss of F1 that the lower bound of the paired difference must exclude."""
    batch_sizes: tuple[int, ...] = Field(default=(8, 32), min_length=1)
    """Frames of a batch that are tried beside one alone."""
    num_rounds: int = Field(default=5, ge=1, le=100)
    """Turns of every rung; the spread of a speed is over them."""
    num_latency_runs: int = Field(default=50, ge=1)
    """Most timed calls for each figure of a turn."""
    latency_budget_s: float = Field(default=0.2, gt=0)
    """Time for each figure of a turn, seconds."""
    energy_budget_s: float = Field(default=3.0, ge=0)
    """Time over which the energy of one rung is taken, seconds; 0 takes none."""
    num_calibration_frames: int = Field(default=256, ge=1)
    """Frames of the train split from which int8 takes its ranges."""
    num_bootstrap: int = Field(default=1000, ge=1)
    """Replicates of every interval."""
    seed: int = Field(default=0, ge=0)
    """Of the replicates and exchanges."""


@dataclass(frozen=True)
class LadderResult:
    """The table with the decision.

    rows:     one for each rung, the reference first; what was thrown out is "rejected"
    device:   what it was measured on, in words
    """

    rows: tuple[RungResult, ...]
    decision: Decision
    device: str

    def row(self, name: str) -> RungResult:
        """Return the row of rung `name`."""
        return next(row for row in self.rows if row.rung.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ladder.json."""
        decision = {"chosen": self.decision.chosen, "max_f1_drop": self.decision.max_f1_drop}
        told = {"kept": list(self.decision.kept), "reasons": dict(self.decision.reasons)}
        return {**decision, **told, "device": self.device, "rungs": [row.to_json() for row in self.rows]}

    def metrics(self) -> dict[str, float]:
        """Return the flat figures: what the chosen rung saves, and how many rungs ended how."""
        chosen, reference = self.row(self.decision.chosen).figures, self.row(REFERENCE.name).figures
        assert chosen is not None
        assert reference is not None
        statuses = [row.status for row in self.rows]
        energies = (chosen.kwh_per_1000, reference.kwh_per_1000)
        return {
            "speedup": chosen.best.frames_per_s / reference.best.frames_per_s,
            "disk_ratio": chosen.disk_mb / reference.disk_mb,
            "energy_ratio": energies[0] / energies[1] if energies[0] and energies[1] else float("nan"),
            "f1": chosen.f1.value,
            "f1_difference": chosen.f1_difference.value,
            "f1_difference_low": chosen.f1_difference.low,
            **{f"num_{status}": statuses.count(status) for status in sorted(set(statuses))},
        }


@dataclass
class _Clock:
    """What the rounds gave for one rung."""

    turns: dict[int, list[EngineLatency]] = field(default_factory=dict)
    energy: Energy | None = None
    num_frames: int = 0


def measure_ladder(
    model: Model,
    footage: Footage,
    params: LadderParams,
    shrinks: Mapping[Part, Shrink],
    scratch: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> LadderResult:
    """Return every rung of `params`, measured in turn, and the choice.

    shrinks:     how parts that are no runtime change a model
    scratch:     for engines; the caller's to remove
    on_progress: called with the number of rungs built
    Raises ModelError where the reference cannot be measured, ParamsError for a rung that there is none of.
    """
    rungs = rungs_of(params, shrinks)
    outcomes: dict[Rung, BuiltRung | RungResult] = {}
    for done, rung in enumerate(rungs, start=1):
        outcomes[rung] = build_rung(rung, model, footage, max(params.batch_sizes), shrinks, scratch / f"rung-{done}")
        on_progress(done)
    reference = outcomes[REFERENCE]
    if isinstance(reference, RungResult):
        raise ModelError(f"ladder: the reference {REFERENCE.name} {reference.status}: {reference.reason}")
    clocks, failures = time_rungs([x for x in outcomes.values() if isinstance(x, BuiltRung)], footage, params)
    rows = [
        outcome
        if isinstance(outcome, RungResult)
        else failures.get(rung) or _measured(outcome, clocks[rung], reference, params)
        for rung, outcome in outcomes.items()
    ]
    decision = choose_rung(rows, params.max_f1_drop)
    devices = [clock.energy.device for clock in clocks.values() if clock.energy is not None]
    return LadderResult(apply_decision(rows, decision), decision, devices[0] if devices else "cpu")


def measure_rung(
    rung: Rung,
    reference: BuiltRung,
    model: Model,
    footage: Footage,
    params: LadderParams,
    shrinks: Mapping[Part, Shrink],
    scratch: Path,
) -> RungResult:
    """Return one rung measured by itself against a built reference; what goes wrong is its status and its reason."""
    built = build_rung(rung, model, footage, max(params.batch_sizes), shrinks, scratch)
    if isinstance(built, RungResult):
        return built
    clocks, failures = time_rungs([built], footage, params)
    return failures.get(rung) or _measured(built, clocks[rung], reference, params)


def rungs_of(params: LadderParams, parts: Mapping[Part, Shrink]) -> list[Rung]:
    """Return the rungs that `params` name, each once, the reference first."""
    by_name = {part.name: part for part in parts}
    return list(dict.fromkeys([REFERENCE, *(parse_rung(name, by_name) for name in params.rungs)]))


def time_rungs(
    built: Sequence[BuiltRung], footage: Footage, params: LadderParams
) -> tuple[dict[Rung, _Clock], dict[Rung, RungResult]]:
    """Return speed and energy of each rung, taken in turn, and the rows of those that failed meanwhile."""
    frames_NHWC = footage.frames(max(params.batch_sizes))
    clocks = {rung.rung: _Clock({size: [] for size in params.batch_sizes}) for rung in built}
    failures: dict[Rung, RungResult] = {}

    def each(work: Callable[[BuiltRung, _Clock], None]) -> None:
        for rung in built:
            if rung.rung not in failures:
                try:
                    work(rung, clocks[rung.rung])
                except EngineError as error:
                    failures[rung.rung] = without_figures(rung.rung, error)

    def turn(rung: BuiltRung, clock: _Clock) -> None:
        for size, found in clock.turns.items():
            found.append(
                measure_latency(rung.engine, frames_NHWC, size, params.num_latency_runs, params.latency_budget_s)
            )

    def take_energy(rung: BuiltRung, clock: _Clock) -> None:
        batch_NHWC = frames_NHWC[: _best_of(clock).batch_size]
        with measure_energy() as meter:
            end_s = time.perf_counter() + params.energy_budget_s
            while not clock.num_frames or time.perf_counter() < end_s:
                rung.engine(batch_NHWC)
                clock.num_frames += len(batch_NHWC)
        clock.energy = meter.energy

    for _ in range(params.num_rounds):
        each(turn)
    if params.energy_budget_s > 0:
        each(take_energy)
    return clocks, failures


def _measured(built: BuiltRung, clock: _Clock, reference: BuiltRung, params: LadderParams) -> RungResult:
    counts, against = (_video_counts(rung.table, rung.threshold) for rung in (built, reference))
    num_bootstrap, seed = params.num_bootstrap, params.seed
    parity = compare_scores(
        reference.table["score"].to_numpy(),
        built.table["score"].to_numpy(),
        reference.table["label"].to_numpy(),
        (reference.table["split"] == "test").to_numpy(),
        reference.threshold,
    )
    turns = [turn for found in clock.turns.values() for turn in found]
    figures = Figures(
        f1=_f1_of(counts, num_bootstrap, seed),
        f1_difference=paired_f1_difference(
            counts, against, num_bootstrap=num_bootstrap, seed=seed, confidence=_CONFIDENCE
        ),
        p_worse=compare_models(against, counts, seed).p_value,
        max_score_diff=parity.max_score_diff,
        mean_score_diff=parity.mean_score_diff,
        single=_speed_of(1, [1e3 / turn.latency_ms_p50 for turn in turns]),
        best=_best_of(clock),
        latency_ms_p50=float(np.median([turn.latency_ms_p50 for turn in turns])),
        latency_ms_p99=float(np.median([turn.latency_ms_p99 for turn in turns])),
        disk_mb=built.disk_mb,
        resident_mb=built.resident_mb,
        kwh_per_1000=None if clock.energy is None else clock.energy.kwh * 1000 / clock.num_frames,
        energy_method=None if clock.energy is None else clock.energy.method,
    )
    return RungResult(built.rung, "measured", None, figures)


def _best_of(clock: _Clock) -> Speed:
    turns = [turn for found in clock.turns.values() for turn in found]
    speeds = [_speed_of(1, [1e3 / turn.latency_ms_p50 for turn in turns])]
    speeds += [_speed_of(size, [turn.frames_per_s for turn in found]) for size, found in clock.turns.items()]
    return max(speeds, key=lambda speed: speed.frames_per_s)


def _speed_of(batch_size: int, rounds: Sequence[float]) -> Speed:
    return Speed(batch_size, float(np.median(rounds)), (max(rounds) - min(rounds)) / 2)


def _video_counts(table: pd.DataFrame, threshold: float) -> dict[str, Counts]:
    return {
        str(video): count_frames(part["label"].to_numpy(), (part["score"] >= threshold).to_numpy())
        for video, part in table[table["split"] == "test"].groupby("video_id")
    }


def _f1_of(counts: Mapping[str, Counts], num_bootstrap: int, seed: int) -> Estimate:
    counts_V4 = np.array([astuple(counts[video]) for video in sorted(counts)], np.float64)
    value = Counts(*counts_V4.sum(axis=0)).f1
    replicates_R = count_replicates(counts_V4, draw_weights(len(counts_V4), num_bootstrap, seed))["f1"]
    interval = percentile_interval(value, replicates_R, _CONFIDENCE, len(counts_V4))
    return Estimate(value, interval.low, interval.high)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("ladder", ["manifest", "frames", "model"], argv) as shell:
        for noisy in ("onnxscript", "onnx_ir"):  # the exporter's steps, line by line
            logging.getLogger(noisy).setLevel(logging.ERROR)
        params = shell.section("ladder", LadderParams)
        rows, read_video = read_manifest(shell["manifest"]), partial(read_frames_shard, shell["frames"])
        train, judged = ([row for row in rows if (row.split == "train") == wanted] for wanted in (True, False))
        calibrate = partial(calibration_frames, train, read_video, params.num_calibration_frames)
        footage = Footage(judged, read_video, calibrate)
        model = load_highlighter(shell["model"])
        with (
            tempfile.TemporaryDirectory(prefix=".rungs.", dir=shell.out) as scratch,
            progress_bar("rungs", len(rungs_of(params, {}))) as on_progress,
        ):
            result = measure_ladder(model, footage, params, {}, Path(scratch), on_progress)
        write_json(shell.out / "ladder.json", result.to_json())
        write_ladder_picture(shell.out / "ladder.png", result.rows, result.decision)
        shell.write_metrics(result.metrics())


if __name__ == "__main__":
    main()
