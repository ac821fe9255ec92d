"""Stage `compile`: engines built for the device that serves, each compared with the model it came from, one kept.

What every engine says of the val and test frames is held against the float32 tower in memory: the scores' largest and
mean difference, and F1 on test at the model's own threshold. Then it is timed. The threshold that is served is
chosen again on val, from the scores of the engine that is served. An engine that was built and cannot run here is
"built", with no figures.

With `engine: ladder` the rung that stage `ladder` chose is served: its engine, and the highlighter that it was built
from, which is then what it is compared with. With a named engine or `auto` the pruned model is built anew.

Times differ from run to run, so they have a file of their own (`latency.json`); all else is the same every time,
except that `ladder` and `auto` let the times decide.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from models.category import CATEGORIES_FILE
from models.engines import (
    EngineRecord,
    TowerSource,
    build_engine_from,
    engine_bytes,
    load_engine,
    reference_engine,
    runs_here,
)
from models.engines.compare import EngineLatency, EngineReport, compare_scores, measure_latency
from models.errors import EngineError, EngineNotPossible, MissingExtra, ModelError
from models.files import replacing_folder, write_json
from models.highlighter import Highlighter, HighlighterSpec, build_tower, load_highlighter
from models.manifest import VideoRow, read_manifest
from models.metrics import choose_threshold
from models.params import Section
from models.predictions import calibrated_predictions, write_predictions
from models.served import ServedModel, save_served
from models.shards import read_frames_shard
from models.video import SampledVideo
from tasks.chosen_rung import LADDER_AGAIN, ChosenRung, load_chosen
from tasks.shell import progress_bar, stage_shell

_log = logging.getLogger(__name__)
EngineName = Literal["eager-bf16", "torchscript", "onnx", "openvino", "tensorrt"]
ReadVideo = Callable[[str], SampledVideo]


class CompileParams(Section):
    """Which engines are built, and which one is served."""

    engine: EngineName | Literal["ladder", "auto"] = "ladder"
    """Engine that is served. `ladder` takes the rung that stage ladder chose; `auto` takes the fastest of `candidates`
    whose scores agree, as measured here; a name gives the same bytes on every machine."""
    candidates: tuple[EngineName, ...] = ("eager-bf16", "torchscript", "onnx", "openvino")
    """Engines that are built and measured for the table, and among which `auto` chooses; with `ladder` none, since the
    ladder has measured its own."""
    also_build: tuple[EngineName, ...] = ("tensorrt",)
    """Engines that are built and kept for other devices, where their package is installed."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the engines that have a choice; eager-bf16 and tensorrt (float16) have none."""
    batch_size: int = Field(default=32, ge=1, le=1024)
    """Frames that an engine gets at once."""
    max_mean_score_diff: float = Field(default=0.01, ge=0, le=1)
    """Mean difference of scores from the float32 model's up to which `auto` takes an engine; the gate has its own."""
    num_latency_runs: int = Field(default=50, ge=1)
    """Most timed calls for each figure."""
    latency_budget_s: float = Field(default=0.5, gt=0)
    """Time for each of the two figures of one engine, seconds."""


@dataclass(frozen=True)
class CompileResult:
    """What compiling gave.

    chosen:      name of the engine that is served, or of its rung
    spec:        of the served model, with its threshold
    reports:     one for each engine, in the order of params
    latencies:   one for each measured engine
    predictions: frame table of val and test, scored by the chosen engine
    """

    chosen: str
    spec: HighlighterSpec
    reports: tuple[EngineReport, ...]
    latencies: tuple[EngineLatency, ...]
    predictions: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return the content of engines.json."""
        engines = [report.to_json() for report in self.reports]
        return {"chosen": self.chosen, "threshold": self.spec.threshold, "engines": engines}

    def metrics(self) -> dict[str, float]:
        """Return the flat figures: of the chosen engine, and how many engines ended how."""
        chosen = next(report for report in self.reports if report.name == self.chosen).to_json()
        kept = ("num_bytes", "max_score_diff", "mean_score_diff", "f1", "f1_diff")
        statuses = [report.status for report in self.reports]
        return {
            **{key: float("nan") if chosen[key] is None else chosen[key] for key in kept},
            "threshold": self.spec.threshold,
            **{
                f"num_{status}": statuses.count(status)
                for status in ("measured", "built", "missing", "not_possible", "failed")
            },
        }


@dataclass(frozen=True)
class _Trial:
    report: EngineReport
    latency: EngineLatency | None = None
    predictions: pd.DataFrame | None = None


def compile_model(
    highlighter: Highlighter,
    spec: HighlighterSpec,
    rows: Sequence[VideoRow],
    read_video: ReadVideo,
    params: CompileParams,
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
    rung: ChosenRung | None = None,
    categories: Path | None = None,
) -> CompileResult:
    """Build and compare the engines of `params`; leave `folder/model` (served) and `folder/also_built`.

    rows:        the manifest; val and test videos are scored
    read_video:  gives the sampled frames of a video by its id
    on_progress: called with the number of engines done; there are len(engines_of(params))
    rung:        for `engine: ladder`, made of this highlighter
    categories:  folder of stage categorise, whose file is served beside the model
    Raises EngineError where the engine that is to be served cannot be, ModelError without val or test videos.
    """
    rows = [row for row in rows if row.split in ("val", "test")]
    if {row.split for row in rows} != {"val", "test"}:
        raise ModelError("compile: needs videos in val and in test; add some or change ingest.val_fraction")
    if params.engine == "ladder" and rung is None:
        raise EngineError(f"compile.engine = 'ladder': no rung was given; {LADDER_AGAIN}")
    highlighter = highlighter.eval()
    image_size = spec.encoder.image_size
    reference = ServedModel(spec, reference_engine(highlighter.tower, image_size), highlighter.head, params.batch_size)
    expected = _score_rows(reference, rows, read_video)
    folder.mkdir(parents=True, exist_ok=True)
    trials: dict[str, _Trial] = {}
    with tempfile.TemporaryDirectory(prefix=".engines.", dir=folder) as scratch:
        source = TowerSource(highlighter.tower, image_size, Path(scratch) / ".graphs")
        for done, name in enumerate(engines_of(params, rung), start=1):
            made = Path(scratch) / name
            make: Callable[[Path], EngineRecord] = partial(build_engine_from, name, source, precision=params.precision)
            if rung is not None and name == rung.name:
                make = rung.copy_engine
            trials[name] = _try_engine(name, make, reference, rows, read_video, expected, params, made)
            on_progress(done)
        chosen = _choose(params, trials) if rung is None else _rung_of(rung, trials)
        predictions = trials[chosen].predictions
        assert predictions is not None
        served_spec = replace(spec, threshold=_threshold_on_val(predictions))
        save_served(folder / "model", Path(scratch) / chosen, highlighter.head, served_spec, categories)
        with replacing_folder(folder / "also_built") as kept:
            for name in params.also_build:
                if name in trials and trials[name].report.num_bytes is not None:
                    shutil.copytree(Path(scratch) / name, kept / name)
    latencies = tuple(trial.latency for trial in trials.values() if trial.latency is not None)
    return CompileResult(chosen, served_spec, tuple(trial.report for trial in trials.values()), latencies, predictions)


def engines_of(params: CompileParams, rung: ChosenRung | None = None) -> list[str]:
    """Return the engines that `params` name, each once; of the ladder's the name is the rung's."""
    if rung is not None:
        return list(dict.fromkeys([rung.name, *params.also_build]))
    chosen = [] if params.engine in ("auto", "ladder") else [params.engine]
    return list(dict.fromkeys([*params.candidates, *chosen, *params.also_build]))


def _score_rows(model: ServedModel, rows: Sequence[VideoRow], read_video: ReadVideo) -> pd.DataFrame:
    videos = ((row, read_video(row.video_id)) for row in rows)
    scored = (
        (row, video.times_s, model.score_logits(model.embed(video.frames_THWC), video.times_s)) for row, video in videos
    )
    return calibrated_predictions(scored, model.spec.calibration)


def _try_engine(
    name: str,
    make: Callable[[Path], EngineRecord],
    reference: ServedModel,
    rows: Sequence[VideoRow],
    read_video: ReadVideo,
    expected: pd.DataFrame,
    params: CompileParams,
    folder: Path,
) -> _Trial:
    """Make one engine in `folder`, compare and time it; what goes wrong is its status and its reason."""
    spec = reference.spec
    try:
        record = make(folder)
        if not runs_here(record):
            reason = f"built for {record.device}, which is not here"
            return _Trial(EngineReport(name, "built", reason, record.precision, engine_bytes(folder)))
        engine = load_engine(folder, make_tower=lambda: build_tower(spec))
        predictions = _score_rows(replace(reference, engine=engine), rows, read_video)
        parity = compare_scores(
            expected["score"].to_numpy(),
            predictions["score"].to_numpy(),
            expected["label"].to_numpy(),
            (expected["split"] == "test").to_numpy(),
            spec.threshold,
        )
        frames = read_video(rows[0].video_id).frames_THWC
        latency = measure_latency(engine, frames, params.batch_size, params.num_latency_runs, params.latency_budget_s)
    except MissingExtra as error:
        return _Trial(EngineReport(name, "missing", str(error)))
    except EngineNotPossible as error:
        return _Trial(EngineReport(name, "not_possible", str(error)))
    except EngineError as error:
        _log.warning("%s", error)
        return _Trial(EngineReport(name, "failed", str(error).replace(str(folder), name)))
    report = EngineReport(name, "measured", None, record.precision, engine_bytes(folder), parity)
    return _Trial(report, replace(latency, name=name), predictions)


def _rung_of(rung: ChosenRung, trials: dict[str, _Trial]) -> str:
    """Return the name of the ladder's rung. Raises EngineError where it cannot be served here."""
    report = trials[rung.name].report
    if report.status != "measured":
        raise EngineError(
            f"compile.engine = 'ladder': rung {rung.name} {report.status}: {report.reason}; {LADDER_AGAIN}"
        )
    return rung.name


def _choose(params: CompileParams, trials: dict[str, _Trial]) -> str:
    """Return the engine to serve. Raises EngineError where the one that is asked for, or every one, cannot be."""
    if params.engine != "auto":
        report = trials[params.engine].report
        if report.status != "measured":
            raise EngineError(
                f"compile.engine = {params.engine!r}: {report.status}: {report.reason}; choose another, or auto"
            )
        return params.engine
    fit = [
        trial.latency
        for name, trial in trials.items()
        if name in params.candidates
        and trial.latency is not None
        and trial.report.parity is not None
        and trial.report.parity.mean_score_diff <= params.max_mean_score_diff
    ]
    if not fit:
        found = "; ".join(
            f"{name} {trial.report.status} "
            + (trial.report.reason or f"mean_score_diff {trial.report.to_json()['mean_score_diff']:.3g}")
            for name, trial in trials.items()
        )
        raise EngineError(f"compile.engine = 'auto': none runs here within compile.max_mean_score_diff: {found}")
    return max(fit, key=lambda latency: latency.frames_per_s).name


def _threshold_on_val(predictions: pd.DataFrame) -> float:
    val = predictions[predictions["split"] == "val"]
    return choose_threshold(val["label"].to_numpy(), val["score"].to_numpy().astype(np.float64))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("compile", ["manifest", "frames", "model", "rung", "categories"], argv) as shell:
        params = shell.section("compile", CompileParams)
        rung = load_chosen(shell["rung"], shell["model"]) if params.engine == "ladder" else None
        highlighter, spec = rung.model if rung else load_highlighter(shell["model"])
        categories = shell["categories"] if (shell["categories"] / CATEGORIES_FILE).is_file() else None
        rows, read_video = read_manifest(shell["manifest"]), partial(read_frames_shard, shell["frames"])
        with progress_bar("engines", len(engines_of(params, rung))) as on_progress:
            result = compile_model(
                highlighter, spec, rows, read_video, params, shell.out, on_progress, rung, categories
            )
        write_predictions(shell.out / "predictions.parquet", result.predictions)
        write_json(shell.out / "engines.json", result.to_json())
        write_json(shell.out / "latency.json", {"engines": [latency.to_json() for latency in result.latencies]})
        shell.write_metrics(result.metrics())


if __name__ == "__main__":
    main()
