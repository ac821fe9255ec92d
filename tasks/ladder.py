"""The compression ladder: every rung built, scored and timed on the footage that it serves, and one chosen.

Each rung is judged as it would be served: its threshold is chosen on val from its own scores, and its F1 is on test,
paired by video with that of the float32 model. Scores are compared on val and test. What cannot be built or run is a
row with its reason, and the others go on. The chosen rung is left for stage `compile` to serve.

Knows how a rung is measured; which one is chosen is the business of `models.ladder`.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from models.bootstrap import count_replicates, draw_weights, paired_f1_difference, percentile_interval
from models.engines.compare import compare_scores
from models.errors import ModelError
from models.evaluation import Estimate
from models.files import write_json
from models.highlighter import load_highlighter
from models.ladder import (
    JOIN,
    REFERENCE,
    STATUSES,
    Decision,
    Figures,
    Part,
    Rung,
    RungResult,
    apply_decision,
    choose_rung,
    parse_rung,
)
from models.manifest import VideoRow, read_manifest
from models.metrics import Counts, count_frames
from models.paired import compare_models
from models.shards import read_frames_shard
from models.video import SampledVideo
from tasks.chosen_rung import save_chosen
from tasks.ladder_picture import write_ladder_picture
from tasks.rung_timing import RungClock, TimingParams, time_rungs
from tasks.rungs import BuiltRung, Footage, Model, Shrink, build_rung, calibration_frames, measure_memory
from tasks.shell import progress_bar, stage_shell
from tasks.shrinks import Shrinking, TokenSchedule, TrainingData, make_shrinks
from tasks.train import TrainParams

_CONFIDENCE = 0.95


class LadderParams(TimingParams):
    """Which rungs there are, how they are measured, and how much F1 one may cost."""

    rungs: tuple[str, ...] = ("float32", "bfloat16", "torchscript", "onnx", "openvino", "openvino-bfloat16")
    """Names of rungs; parts joined by "+" make one rung, such as small+openvino with a step of `prunings` called small.
    The reference, float32, is measured in any case."""
    prunings: Mapping[str, Shrinking] = Field(default_factory=dict)
    """Steps that make the network smaller, by the names that rungs call them."""
    tokens: Mapping[str, TokenSchedule] = Field(default_factory=dict)
    """Steps that merge patch tokens, by name."""
    max_f1_drop: float = Field(default=0.005, ge=0, le=1)
    """Loss of F1 that the lower bound of the paired difference must exclude."""
    resident: bool = True
    """Whether the memory of a process that serves each rung is measured; a process each, some seconds."""
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
    chosen:   the chosen rung; its files lie where they were built
    """

    rows: tuple[RungResult, ...]
    decision: Decision
    device: str
    chosen: BuiltRung

    def row(self, name: str) -> RungResult:
        """Return the row of rung `name`."""
        return next(row for row in self.rows if row.rung.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ladder.json."""
        decision = {"chosen": self.decision.chosen, "max_f1_drop": self.decision.max_f1_drop}
        told = {"kept": list(self.decision.kept), "reasons": dict(self.decision.reasons)}
        return {**decision, **told, "device": self.device, "rungs": [row.to_json() for row in self.rows]}

    def metrics(self) -> dict[str, float]:
        """Return the flat figures: what the chosen rung saves, how many rungs ended how, and the main ones of each."""
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
            **{f"num_{status}": statuses.count(status) for status in STATUSES},
            **{key: value for row in self.rows for key, value in _flat(row).items()},
        }


def _flat(row: RungResult) -> dict[str, float]:
    """Return the main figures of one rung by names that MLflow takes ("+" is none of its letters)."""
    found, name = row.figures, row.rung.name.replace(JOIN, ".")
    if found is None:
        return {}
    figures = {
        "f1": found.f1.value,
        "f1_difference": found.f1_difference.value,
        "mean_score_diff": found.mean_score_diff,
        "frames_per_s": found.best.frames_per_s,
        "frames_per_s_single": found.single.frames_per_s,
        "latency_ms_p50": found.latency_ms_p50,
        "disk_mb": found.disk_mb,
        "resident_mb": math.nan if found.resident_mb is None else found.resident_mb,
        "kwh_per_1000": math.nan if found.kwh_per_1000 is None else found.kwh_per_1000,
    }
    return {f"ladder_{name}_{key}": value for key, value in figures.items()}


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
    built = [outcome for outcome in outcomes.values() if isinstance(outcome, BuiltRung)]
    results, device = _measure(built, reference, footage, params)
    rows = [outcome if isinstance(outcome, RungResult) else results[rung] for rung, outcome in outcomes.items()]
    decision = choose_rung(rows, params.max_f1_drop)
    chosen = next(rung for rung in built if rung.rung.name == decision.chosen)
    return LadderResult(apply_decision(rows, decision), decision, device, chosen)


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
    rows, _ = _measure([built], reference, footage, params)
    return rows[rung]


def rungs_of(params: LadderParams, parts: Mapping[Part, Shrink]) -> list[Rung]:
    """Return the rungs that `params` name, each once, the reference first."""
    by_name = {part.name: part for part in parts}
    return list(dict.fromkeys([REFERENCE, *(parse_rung(name, by_name) for name in params.rungs)]))


def _measure(
    built: Sequence[BuiltRung], reference: BuiltRung, footage: Footage, params: LadderParams
) -> tuple[dict[Rung, RungResult], str]:
    """Return the row of each rung, measured or failed meanwhile, and the device."""
    clocks, failures = time_rungs(built, footage, params)
    whole = [rung for rung in built if rung.rung not in failures]
    memory = measure_memory(whole, max(params.batch_sizes)) if params.resident else {}
    rows = {rung.rung: _row(rung, clocks[rung.rung], memory.get(rung.rung), reference, params) for rung in whole}
    devices = [clock.energy.device for clock in clocks.values() if clock.energy is not None]
    return {**failures, **rows}, devices[0] if devices else "cpu"


def _row(
    built: BuiltRung, clock: RungClock, resident_mb: float | None, reference: BuiltRung, params: LadderParams
) -> RungResult:
    counts, against = (_video_counts(rung.table, rung.threshold) for rung in (built, reference))
    num_bootstrap, seed = params.num_bootstrap, params.seed
    parity = compare_scores(
        reference.table["score"].to_numpy(),
        built.table["score"].to_numpy(),
        reference.table["label"].to_numpy(),
        (reference.table["split"] == "test").to_numpy(),
        reference.threshold,
    )
    latency_ms_p50, latency_ms_p99 = clock.latency_ms
    figures = Figures(
        f1=_f1_of(counts, num_bootstrap, seed),
        f1_difference=paired_f1_difference(
            counts, against, num_bootstrap=num_bootstrap, seed=seed, confidence=_CONFIDENCE
        ),
        p_worse=compare_models(against, counts, seed).p_value,
        max_score_diff=parity.max_score_diff,
        mean_score_diff=parity.mean_score_diff,
        single=clock.single,
        best=clock.best,
        latency_ms_p50=latency_ms_p50,
        latency_ms_p99=latency_ms_p99,
        disk_mb=built.disk_mb,
        resident_mb=resident_mb,
        kwh_per_1000=clock.kwh_per_1000,
        energy_method=None if clock.energy is None else clock.energy.method,
    )
    return RungResult(built.rung, "measured", None, figures)


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


def split_footage(
    rows: Sequence[VideoRow], read_video: Callable[[str], SampledVideo], params: LadderParams, fitting: TrainParams
) -> tuple[Footage, Mapping[Part, Shrink]]:
    """Return what rungs are measured on, and the steps of `params`, which learn from train and settle on val.

    rows: the manifest; test videos are for the measuring alone
    """
    train, judged = ([row for row in rows if (row.split == "train") == wanted] for wanted in (True, False))
    calibrate = partial(calibration_frames, train, read_video, params.num_calibration_frames)
    training = TrainingData([row for row in rows if row.split != "test"], read_video, fitting)
    return Footage(judged, read_video, calibrate), make_shrinks(params.prunings, params.tokens, training)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("ladder", ["manifest", "frames", "model"], argv) as shell:
        params, fitting = shell.section("ladder", LadderParams), shell.section("train", TrainParams)
        rows, read_video = read_manifest(shell["manifest"]), partial(read_frames_shard, shell["frames"])
        footage, shrinks = split_footage(rows, read_video, params, fitting)
        model = load_highlighter(shell["model"])
        with (
            tempfile.TemporaryDirectory(prefix=".rungs.", dir=shell.out) as scratch,
            progress_bar("rungs", len(rungs_of(params, shrinks))) as on_progress,
        ):
            result = measure_ladder(model, footage, params, shrinks, Path(scratch), on_progress)
            save_chosen(shell.out / "chosen", result.chosen, shell["model"])
        write_json(shell.out / "ladder.json", result.to_json())
        write_ladder_picture(shell.out / "ladder.png", result.rows, result.decision)
        shell.write_metrics(result.metrics())


if __name__ == "__main__":
    main()
