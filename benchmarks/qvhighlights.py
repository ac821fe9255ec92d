"""Parity with the official evaluator of QVHighlights: the same predictions, the same figures to two decimals.

`python -m benchmarks.qvhighlights [--quick]` evaluates the reference predictions on the 1,550 queries of the validation
split (Lei et al., "QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries", NeurIPS
2021) with `models.metrics`, and holds every value against the official file beside them. Figures have the names of
that file, joined by `/`, in percent. `max_abs_difference` is of figures rounded to two decimals as the official ones
are, so 0 means that all agree. `--quick` evaluates the first 200 queries, for which there are no official values.
"""

import gzip
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import RESULTS, benchmark_parser, code_commit, print_figures, write_results
from models.errors import DataError
from models.files import read_json
from models.metrics import (
    IOU_THRESHOLDS,
    RATING_LEVELS,
    Moments,
    RatedClips,
    highlight_map,
    hit_at_1,
    mean_query_map,
    recall_at_1,
)
from tasks.shell import one_line_errors

NAME = "qvhighlights"
FOLDER = "data/qvhighlights"
TRUTH, PREDICTIONS = "highlight_val_release.jsonl", "sample_val_preds.jsonl.gz"
OFFICIAL = "sample_val_preds_metrics_raw.json"
CLIP_S = 2.0
# Lengths of true windows, seconds, above the first and up to the second; the annotation has none above 150 s.
LENGTH_RANGES = {"full": (0.0, 150.0), "short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}


@dataclass(frozen=True)
class Query:
    """One query with its truth and what was predicted for it.

    moments: windows
    clips:   ratings of all clips by three annotators, and predicted saliency
    """

    moments: Moments
    clips: RatedClips


def read_queries(folder: Path) -> list[Query]:
    """Return the queries in the order of the ground truth.

    Raises DataError unless predictions and truth are of the same queries.
    """
    truth = {row["qid"]: row for row in _rows(folder / TRUTH)}
    predicted = {row["qid"]: row for row in _rows(folder / PREDICTIONS)}
    odd = sorted(set(truth) ^ set(predicted))
    if odd or not truth:
        raise DataError(f"{folder}: truth and predictions differ in {len(odd)} of {len(truth)} queries, e.g. {odd[:3]}")
    return [query_of(truth[qid], predicted[qid]) for qid in truth]


def query_of(truth: Mapping[str, Any], predicted: Mapping[str, Any]) -> Query:
    """Return the query of one line of truth and one of predictions."""
    ratings_AS = np.zeros((3, int(truth["duration"] / CLIP_S)))
    ratings_AS[:, truth["relevant_clip_ids"]] = np.transpose(truth["saliency_scores"])
    return Query(
        moments=Moments.of(predicted["pred_relevant_windows"], truth["relevant_windows"]),
        clips=RatedClips(ratings_AS, np.array(predicted["pred_saliency_scores"], np.float64)),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return (json.loads(line) for line in content.decode("utf-8").splitlines() if line.strip())


def evaluate(queries: Sequence[Query]) -> dict[str, float]:
    """Return all figures of the official evaluator, percent, not rounded, by their names joined by `/`."""
    figures: dict[str, float] = {}
    for name, min_rating in RATING_LEVELS.items():
        clips = [query.clips for query in queries]
        values = {"mAP": highlight_map(clips, min_rating), "Hit1": hit_at_1(clips, min_rating)}
        for figure, value in values.items():
            figures[f"brief/HL-min-{name}-{figure}"] = figures[f"HL-min-{name}/HL-{figure}"] = 100 * value
    for name in LENGTH_RANGES:
        moments = [found for query in queries if (found := of_length(query.moments, name)) is not None]
        average = 100 * mean_query_map(moments)
        recall = 100 * recall_at_1(moments)
        figures |= {f"{name}/MR-mAP/{iou:g}": float(value) for iou, value in zip(IOU_THRESHOLDS, average, strict=True)}
        figures[f"{name}/MR-mAP/average"] = figures[f"brief/MR-{name}-mAP"] = float(average.mean())
        figures |= {f"{name}/MR-R1/{iou:g}": float(value) for iou, value in zip(IOU_THRESHOLDS, recall, strict=True)}
    for iou in ("0.5", "0.75"):
        figures[f"brief/MR-full-mAP@{iou}"] = figures[f"full/MR-mAP/{iou}"]
    for iou in ("0.5", "0.7"):
        figures[f"brief/MR-full-R1@{iou}"] = figures[f"full/MR-R1/{iou}"]
    return figures


def of_length(moments: Moments, name: str) -> Moments | None:
    """Return the moments with the true windows of one of LENGTH_RANGES only, or None where there is none."""
    low_s, high_s = LENGTH_RANGES[name]
    if name == "full":
        return moments
    lengths_G = moments.truth[:, 1] - moments.truth[:, 0]
    kept_G2 = moments.truth[(lengths_G > low_s) & (lengths_G <= high_s)]
    return Moments(moments.predicted, moments.scores, kept_G2) if len(kept_G2) else None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the leaves of a JSON object by their names joined by `/`."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": float(value)}
    return flat


def compare(figures: Mapping[str, float], official: Mapping[str, float]) -> dict[str, float]:
    """Return by name the figure rounded to two decimals less the official one. Raises DataError on unlike names."""
    odd = sorted(set(figures) ^ set(official))
    if odd:
        raise DataError(f"{OFFICIAL}: {len(odd)} figures are on one side only, e.g. {odd[:3]}")
    return {name: round(round(value, 2) - official[name], 2) for name, value in figures.items()}


def measure(shared: Path, *, quick: bool, results: Path = RESULTS) -> dict[str, float | None]:
    """Evaluate, print, write `qvhighlights.json` into `results`, and return the figures."""
    folder = shared / FOLDER
    for name in (TRUTH, PREDICTIONS, OFFICIAL):
        if not (folder / name).is_file():
            raise DataError(f"parity skipped: shared/{FOLDER}/{name} is missing; name the folder with --shared")
    commit = code_commit()
    queries = read_queries(folder)
    start = time.perf_counter()
    found = evaluate(queries)
    wall_s = time.perf_counter() - start
    official = flatten(read_json(folder / OFFICIAL))
    differences = compare(found, official)
    figures: dict[str, float | None] = {name: round(found[name], 2) for name in official}
    figures |= {
        "max_abs_difference": max(map(abs, differences.values())),
        "num_official_values": len(official),
        "num_equal_values": sum(value == 0 for value in differences.values()),
        "num_queries": len(queries),
        "evaluation_s": round(wall_s, 2),
    }
    print_figures(figures)
    details = {"official": official, "differences": differences}
    write_results(NAME, figures, {"quick": quick, "clip_s": CLIP_S}, details, commit=commit, folder=results)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where the annotation is missing."""
    options = benchmark_parser(NAME, "The official QVHighlights figures.", "the same: it takes seconds").parse_args(
        argv
    )
    with one_line_errors(NAME):
        measure(options.shared, quick=options.quick)


if __name__ == "__main__":
    main()
