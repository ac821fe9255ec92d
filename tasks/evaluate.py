"""Stage evaluate: every model on the test split, once, beside what needs no model at all.

The threshold of a model is chosen on its val rows and nothing else is; every figure is of test rows. Intervals are
by bootstrap over videos. The trivial rows know only the share of highlights in val: flagging everything, flagging at
random at that rate (expected counts, so no luck is in them), flagging every k-th frame at that rate. Knows frame
tables; drawing is `tasks.pictures`', highlights are `tasks.evaluate_segments`'.

Shape legend: N test frames, V test videos; a trailing 4 is tp, fp, fn, tn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from models.bootstrap import (
    count_replicates,
    draw_weights,
    paired_f1_difference,
    percentile_interval,
    score_replicates,
)
from models.errors import ModelError
from models.evaluation import METRIC_NAMES, MODEL_NAMES, OPTIONAL, SERVED, Difference, Estimate, Evaluation, Row
from models.files import write_json
from models.metrics import (
    IOU_THRESHOLDS,
    NEUTRAL_THRESHOLD,
    Counts,
    average_precision,
    calibration_error,
    choose_threshold,
    roc_auc,
)
from models.params import Section
from tasks.evaluate_segments import SegmentFrames, SegmentTruth, random_draws
from tasks.shell import stage_shell

Floats = npt.NDArray[np.float64]

_KEY = ["video_id", "time_s", "label"]


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml."""

    num_bootstrap: int = Field(1000, ge=100, le=100_000)
    """Replicates of every interval, draws of whole test videos."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence of every interval, a share."""
    seed: int = Field(0, ge=0)
    """Seed of the replicates; every model is measured on the same ones."""


def evaluate(tables: Mapping[str, pd.DataFrame], truth: SegmentTruth, params: EvaluateParams) -> Evaluation:
    """Return every row of the ladder on the test frames.

    tables: for each of MODEL_NAMES the frame table with columns video_id, split (val or test), time_s seconds,
            label 0 or 1, score 0 to 1; zero_shot may be left out, and has no row then
    truth:  highlights of every test video, and how scores become highlights

    Raises ModelError when a table is missing, has no val or test rows, or covers other test frames than the first, or
    when a test video has no truth.
    A test split of one class leaves its figures NaN and a note.
    """
    names = [name for name in MODEL_NAMES if name in tables]
    tests, thresholds = _tests_and_thresholds(tables)
    first = tests[names[0]]
    frames = _Frames.of(first, truth)
    val_labels = _split(tables[names[0]], "val", names[0])["label"].to_numpy()
    val_prevalence = float(val_labels.mean())
    candidates = [
        _Candidate.thresholded(name, thresholds[name], tests[name]["score"].to_numpy(np.float64), frames.labels)
        for name in names
    ] + _trivial_candidates(frames, val_prevalence)
    weights_RV = draw_weights(len(frames.video_ids), params.num_bootstrap, params.seed)
    rows = tuple(_row(candidate, frames, weights_RV, params) for candidate in candidates)
    by_video = {candidate.name: candidate.by_video(frames) for candidate in candidates}
    return Evaluation(
        rows=rows,
        differences=_differences(names, by_video, params),
        video_counts={name: by_video[name] for name in names},
        num_videos=len(frames.video_ids),
        num_frames=len(first),
        prevalence=float(frames.labels.mean()),
        val_prevalence=val_prevalence,
        confidence=params.confidence,
        num_bootstrap=params.num_bootstrap,
        seed=params.seed,
        notes=_notes(rows, frames, val_labels),
    )


def measure_rows(
    table: pd.DataFrame, truth: SegmentTruth, thresholds: Mapping[str, float], rate: float, params: EvaluateParams
) -> tuple[Row, ...]:
    """Return a row for each model of `thresholds` and the trivial rows, on frames that need no split.

    table:      columns video_id, time_s seconds, label 0 or 1, and for each model its score 0 to 1 under its name
    truth:      highlights of every video, and how scores become highlights
    thresholds: score from which each model's frame is a highlight, chosen elsewhere
    rate:       share of frames that the random and the uniform row flag

    Raises ModelError for scores that are not numbers from 0 to 1, and for a video without truth.
    """
    table = table.sort_values(["video_id", "time_s"], kind="stable", ignore_index=True)
    frames = _Frames.of(table, truth)
    candidates = [
        _Candidate.thresholded(name, threshold, table[name].to_numpy(np.float64), frames.labels)
        for name, threshold in thresholds.items()
    ] + _trivial_candidates(frames, rate)
    weights_RV = draw_weights(len(frames.video_ids), params.num_bootstrap, params.seed)
    return tuple(_row(candidate, frames, weights_RV, params) for candidate in candidates)


@dataclass(frozen=True, eq=False)
class _Frames:
    """The test frames that every candidate is measured on.

    labels:    int64 [N], 0 or 1
    videos:    int64 [N], index of each frame's video
    video_ids: [V], sorted
    segments:  the same frames in seconds
    """

    labels: npt.NDArray[np.int64]
    videos: npt.NDArray[np.int64]
    video_ids: tuple[str, ...]
    segments: SegmentFrames

    @staticmethod
    def of(test: pd.DataFrame, truth: SegmentTruth) -> "_Frames":
        codes, ids = pd.factorize(test["video_id"], sort=True)
        videos_N, video_ids = codes.astype(np.int64), tuple(str(video) for video in ids)
        truth.check(video_ids)
        segments = SegmentFrames(truth, video_ids, videos_N, test["time_s"].to_numpy(np.float64))
        return _Frames(test["label"].to_numpy(np.int64), videos_N, video_ids, segments)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A row before it is measured.

    scores:  float64 [N], 0 to 1
    flagged: float64 [N], chance that each frame is predicted positive, 0 or 1 where there is a threshold
    """

    name: str
    threshold: float | None
    scores: Floats
    flagged: Floats

    @staticmethod
    def thresholded(name: str, threshold: float, scores_N: Floats, labels_N: npt.NDArray[np.int64]) -> "_Candidate":
        if len(scores_N) != len(labels_N) or not np.all((scores_N >= 0) & (scores_N <= 1)):
            raise ModelError(f"{name}: test scores must be numbers from 0 to 1; run the stage that wrote them again")
        return _Candidate(name, threshold, scores_N, (scores_N >= threshold).astype(np.float64))

    def video_counts(self, frames: _Frames) -> Floats:
        """Return float64 [V, 4]; whole numbers unless flagging is by chance."""
        positive_N, flagged_N = frames.labels.astype(np.float64), self.flagged
        cells = (
            positive_N * flagged_N,
            (1 - positive_N) * flagged_N,
            positive_N * (1 - flagged_N),
            (1 - positive_N) * (1 - flagged_N),
        )
        num_videos = len(frames.video_ids)
        return np.stack([np.bincount(frames.videos, cell, minlength=num_videos) for cell in cells], axis=1)

    def highlights(self, seed: int) -> tuple[list[Floats], float]:
        """Return what highlights are made of: scores [N], several where flagging is by chance, and a threshold."""
        if self.threshold is not None:
            return [self.scores], self.threshold
        return random_draws(self.flagged, seed), NEUTRAL_THRESHOLD

    def by_video(self, frames: _Frames) -> dict[str, Counts]:
        """Return the counts of each video."""
        return {video: _counts(row_4) for video, row_4 in zip(frames.video_ids, self.video_counts(frames), strict=True)}


def _counts(row_4: Floats) -> Counts:
    whole = np.round(row_4)
    return Counts(*((int(value) for value in whole) if np.array_equal(whole, row_4) else map(float, row_4)))


def _trivial_candidates(frames: _Frames, rate: float) -> list[_Candidate]:
    """Return all_positive, random and uniform; `rate` is the share of frames that the latter two flag."""
    num_frames = len(frames.labels)
    everything = np.ones(num_frames)
    every_kth = np.zeros(num_frames)
    for video in range(len(frames.video_ids)):
        inside = np.flatnonzero(frames.videos == video)
        # Frame i is flagged when the running total of `rate` passes the middle of a step: spread evenly, first
        # flag half a step in, and the share is right to within one frame a video whatever the rate is.
        totals = np.floor(np.arange(len(inside) + 1) * rate + 0.5)
        every_kth[inside] = np.diff(totals)
    return [
        _Candidate("all_positive", None, everything, everything),
        _Candidate("random", None, np.full(num_frames, rate), np.full(num_frames, rate)),
        _Candidate("uniform", None, every_kth, every_kth),
    ]


def _row(candidate: _Candidate, frames: _Frames, weights_RV: npt.NDArray[np.int64], params: EvaluateParams) -> Row:
    counts_V4 = candidate.video_counts(frames)
    counts = _counts(counts_V4.sum(axis=0))
    labels_N, scores_N = frames.labels, candidate.scores
    points = {name: getattr(counts, name) for name in ("precision", "recall", "f1", "accuracy")} | {
        "average_precision": average_precision(labels_N, scores_N),
        "roc_auc": roc_auc(labels_N, scores_N),
        "ece": calibration_error(labels_N, scores_N),
    }
    replicates = count_replicates(counts_V4, weights_RV) | score_replicates(
        labels_N, scores_N, frames.videos, weights_RV
    )
    segment_T, replicates["segment_map"] = frames.segments.segment_average_precision(
        *candidate.highlights(params.seed), weights_RV
    )
    points["segment_map"] = float(segment_T.mean())
    metrics = {}
    for name in METRIC_NAMES:
        interval = percentile_interval(points[name], replicates[name], params.confidence, len(frames.video_ids))
        metrics[name] = Estimate(points[name], interval.low, interval.high)
    by_iou = {f"{iou:g}": float(value) for iou, value in zip(IOU_THRESHOLDS, segment_T, strict=True)}
    return Row(candidate.name, candidate.threshold, counts, metrics, by_iou)


def _differences(
    names: Sequence[str], by_video: Mapping[str, Mapping[str, Counts]], params: EvaluateParams
) -> tuple[Difference, ...]:
    pairs = [(name, "all_positive") for name in names]
    pairs += [(name, before) for before, name in pairwise(names)]
    return tuple(
        Difference(
            name,
            against,
            paired_f1_difference(
                by_video[name],
                by_video[against],
                num_bootstrap=params.num_bootstrap,
                seed=params.seed,
                confidence=params.confidence,
            ),
        )
        for name, against in pairs
    )


def _tests_and_thresholds(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    missing = [name for name in MODEL_NAMES if name not in tables and name != OPTIONAL]
    if missing:
        raise ModelError(f"evaluate: no predictions of {', '.join(missing)}; run the stages before this one")
    tests: dict[str, pd.DataFrame] = {}
    thresholds: dict[str, float] = {}
    for name in filter(tables.__contains__, MODEL_NAMES):
        val = _split(tables[name], "val", name)
        tests[name] = _split(tables[name], "test", name)
        thresholds[name] = choose_threshold(val["label"].to_numpy(), val["score"].to_numpy())
        first = next(iter(tests))
        _check_same_frames(tests[first], tests[name], first, name)
    return tests, thresholds


def _split(table: pd.DataFrame, split: str, name: str) -> pd.DataFrame:
    rows = table[table["split"] == split].sort_values(["video_id", "time_s"], kind="stable").reset_index(drop=True)
    if rows.empty:
        raise ModelError(
            f"{name}: no {split} frames among {len(table)} rows; the data needs videos in split {split!r} "
            "(see build/ingest/manifest.parquet)"
        )
    return rows


def _check_same_frames(first: pd.DataFrame, other: pd.DataFrame, first_name: str, name: str) -> None:
    if first[_KEY].equals(other[_KEY].astype(first[_KEY].dtypes.to_dict())):
        return
    both = first[_KEY].merge(other[_KEY], how="outer", indicator=True)
    odd = both[both["_merge"] != "both"]
    example = odd.iloc[0] if len(odd) else other.iloc[0]
    raise ModelError(
        f"{name}: its test frames are not those of {first_name} ({len(first)} against {len(other)} rows, {len(odd)} "
        f"differ, e.g. video {example['video_id']} at {example['time_s']} s with label {example['label']}); "
        "run the stages again from embed on"
    )


def _notes(rows: Sequence[Row], frames: _Frames, val_labels: npt.NDArray[np.integer]) -> tuple[str, ...]:
    notes = []
    if not any(row.name == OPTIONAL for row in rows):
        notes.append("There is no zero-shot row, since the encoder has no text tower.")
    for split, labels in (("test", frames.labels), ("val", val_labels)):
        if len(np.unique(labels)) == 1:
            what = "highlights" if labels[0] else "frames that are no highlight"
            notes.append(
                f"The {split} split has {what} only, so figures that need both classes are undefined."
                if split == "test"
                else f"The val split has {what} only, so no threshold could really be chosen on it."
            )
    if len(frames.video_ids) < 2:
        notes.append("The test split has one video, so no interval over videos can be given.")
    elif len(frames.video_ids) < 10:
        notes.append(f"The test split has only {len(frames.video_ids)} videos, so the intervals are rough and wide.")
    undefined = [
        f"{name} of {row.name}" for row in rows for name in METRIC_NAMES if math.isnan(row.metrics[name].value)
    ]
    if undefined:
        notes.append(f"Undefined on this test split: {', '.join(undefined)}.")
    return tuple(notes)


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: read the manifest and four prediction tables, write evaluation.json, figures, DVC plots and pictures."""
    from models.manifest import read_manifest
    from models.predictions import read_predictions
    from models.reliability import reliability_metrics, reliability_of
    from tasks.evaluate_importance import evaluate_importance
    from tasks.pictures import write_pictures, write_plots
    from tasks.reliability import write_reliability
    from tasks.train import SpansParams

    inputs = {name: name.replace("_", "-") for name in MODEL_NAMES}
    with stage_shell("evaluate", ["manifest", *inputs.values()], argv) as shell:
        params, spans = shell.section("evaluate", EvaluateParams), shell.section("spans", SpansParams)
        rows = read_manifest(shell["manifest"])
        tables = {name: read_predictions(shell[path]) for name, path in inputs.items()}
        if tables[OPTIONAL].empty:
            del tables[OPTIONAL]
        evaluation = evaluate(tables, SegmentTruth.of(rows, **spans.model_dump()), params)
        graded = evaluate_importance(tables, rows, **params.model_dump())
        importance = {"importance": graded.to_json()} if graded else {}
        write_json(shell.out / "evaluation.json", evaluation.to_json() | importance)
        write_plots(shell.out / "plots", evaluation, tables)
        write_pictures(shell.out / "pictures", evaluation, tables)
        reliability = reliability_of(tables[SERVED])
        write_json(shell.out / "reliability.json", reliability.to_json())
        write_reliability(shell.out / "plots", shell.out / "pictures", reliability)
        ranks = graded.to_metrics() if graded else {}
        shell.write_metrics(evaluation.to_metrics() | ranks | reliability_metrics(SERVED, reliability))


if __name__ == "__main__":
    main()
