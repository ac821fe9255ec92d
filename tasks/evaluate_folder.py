"""Any model on any labelled folder: `herdlight evaluate` without the door.

Every labelled video is decoded once; its track of frame scores is pooled into the labelled shots (mean of the frames
in each) and held against the annotators, and against the highlights frame by frame at the model's own threshold.
Nothing is chosen here, so that every figure is of videos that nobody tuned on. Knows videos and labels as files and
writes the results; knows nothing of how the model was found.
"""

import csv
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import AnnotationError, DataError, VideoError
from models.evaluation import METRIC_NAMES, Estimate, Row
from models.files import write_json, write_text
from models.graded import FIGURE_NAMES, REFERENCE_NAMES, GradedEvaluation, evaluate_graded
from models.importance import pool_track
from models.metrics import Counts, average_precision
from models.spans import ScoreTrack, label_times
from models.video import probe
from tasks.annotations import Labels
from tasks.evaluate import EvaluateParams, measure_rows
from tasks.evaluate_segments import SegmentTruth
from tasks.footage import Footage, printable
from tasks.graded_labels import LabelFile, Matching, labels_of
from tasks.score import ModelIdentity, Outcome, RejectedRow, ScoreProgress, Scorer, ScoringSpec, score_track_of_file

MODEL_ROW = "model"
_SHORT = {"kendall_tau": "tau", "spearman_rho": "rho", "top5_map": "top5_map"}


@dataclass(frozen=True, eq=False)
class EvaluatedVideo:
    """One video that was scored.

    video:  its path below the folder
    label:  name of its label in the file
    labels: what people say of it
    track:  what the model says of it
    """

    video: str
    label: str
    labels: Labels
    track: ScoreTrack


@dataclass(frozen=True, eq=False)
class FolderEvaluation:
    """What a model is worth on a folder.

    graded:    rank figures; None where no evaluated video carries importance
    frames:    frame figures at the model's threshold, "model" and the trivial rows
    videos:    what was evaluated, in order of path
    rejected:  labelled videos that could not be read or whose labels do not fit
    matching:  which labels belong to which videos, and what was left over
    threshold: score from which a frame is a highlight, 0 to 1
    """

    graded: GradedEvaluation | None
    frames: tuple[Row, ...]
    videos: tuple[EvaluatedVideo, ...]
    rejected: tuple[RejectedRow, ...]
    matching: Matching
    threshold: float

    def figures(self) -> dict[str, float]:
        """Return the flat table: `kendall_tau`, `random_rho`, …, frame figures, and counts; NaN where undefined."""
        flat: dict[str, float] = {}
        for row in self.graded.rows if self.graded else ():
            for name, estimate in row.figures.items():
                flat |= _named(_column(row.name, name), estimate, with_interval=row.name == MODEL_ROW)
        for frame_row in self.frames:
            for name in METRIC_NAMES:
                is_model = frame_row.name == MODEL_ROW
                key = name if is_model else f"{frame_row.name}_{name}"
                flat |= _named(key, frame_row.metrics[name], with_interval=is_model)
        return flat | {
            "threshold": self.threshold,
            "num_videos": len(self.videos),
            "num_graded_videos": self.graded.num_videos if self.graded else 0,
            "num_frames": sum(len(video.track.times_s) for video in self.videos),
            "num_rejected": len(self.rejected),
            "num_unlabelled": len(self.matching.unlabelled),
            "num_labels_without_video": len(self.matching.without_video),
        }


def _named(key: str, estimate: Estimate, *, with_interval: bool) -> dict[str, float]:
    interval = {f"{key}_low": estimate.low, f"{key}_high": estimate.high} if with_interval else {}
    return {key: estimate.value} | interval


def score_labelled(
    model: Scorer,
    footage: Mapping[str, Footage],
    labels: LabelFile,
    label_of: Mapping[str, str],
    on_progress: Callable[[ScoreProgress], None] = lambda _: None,
) -> tuple[list[EvaluatedVideo], list[RejectedRow]]:
    """Return the scores of the labelled videos, and the videos that could not be read or that their labels do not fit.

    footage:  files by the name that `label_of` knows them by
    label_of: name of the label of each video to score
    """
    evaluated: list[EvaluatedVideo] = []
    rejected: list[RejectedRow] = []
    for index, video in enumerate(sorted(label_of)):
        path, report = footage[video].path, ScoreProgress(index, len(label_of), video, 0.0)
        on_progress(report)
        outcome: Outcome = "scored"
        try:
            duration_s = probe(path).duration_s
            truth = labels_of(labels, label_of[video], duration_s)
            track = score_track_of_file(
                model, path, duration_s=duration_s, on_fraction=functools.partial(_tell, on_progress, report)
            )
            evaluated.append(EvaluatedVideo(video, label_of[video], truth, track))
        except (AnnotationError, VideoError) as error:
            outcome = "rejected"
            rejected.append(RejectedRow(video, printable(str(error)).removeprefix(f"{printable(path.name)}: ")))
        on_progress(replace(report, fraction=1.0, outcome=outcome))
    return evaluated, rejected


def _tell(on_progress: Callable[[ScoreProgress], None], at: ScoreProgress, fraction: float) -> None:
    on_progress(replace(at, fraction=fraction))


def measure_folder(
    evaluated: Sequence[EvaluatedVideo],
    rejected: Sequence[RejectedRow],
    matching: Matching,
    spec: ScoringSpec,
    params: EvaluateParams,
    on_progress: Callable[[int], None] = lambda done: None,
) -> FolderEvaluation:
    """Return the figures of what was scored.

    spec:        of the model: its threshold, and how scores become highlights
    on_progress: gets the number of graded videos that are measured

    Raises DataError where nothing was scored.
    """
    if not evaluated:
        raise DataError(
            f"nothing was evaluated: {len(rejected)} labelled videos rejected, {len(matching.unlabelled)} videos "
            f"without a label, {len(matching.without_video)} labels without a video; names of labels must be paths or "
            "stems of the videos"
        )
    truth = {video.video: video.labels.importance for video in evaluated if video.labels.importance is not None}
    scores = {video.video: pool_track(video.track, truth[video.video]) for video in evaluated if video.video in truth}
    graded = None
    if truth:
        graded = evaluate_graded(
            truth,
            {MODEL_ROW: scores},
            num_bootstrap=params.num_bootstrap,
            confidence=params.confidence,
            seed=params.seed,
            on_progress=on_progress,
        )
    return FolderEvaluation(
        graded=graded,
        frames=_frame_rows(evaluated, spec, params),
        videos=tuple(evaluated),
        rejected=tuple(rejected),
        matching=matching,
        threshold=spec.threshold,
    )


def _frame_rows(evaluated: Sequence[EvaluatedVideo], spec: ScoringSpec, params: EvaluateParams) -> tuple[Row, ...]:
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "video_id": one.video,
                    "time_s": one.track.times_s,
                    "label": _frame_labels(one),
                    MODEL_ROW: one.track.scores.astype(np.float64),
                }
            )
            for one in evaluated
        ],
        ignore_index=True,
    )
    truth = SegmentTruth(
        spans={one.video: one.labels.segments for one in evaluated},
        durations_s={one.video: one.track.duration_s for one in evaluated},
        min_duration_s=spec.min_duration_s,
        merge_gap_s=spec.merge_gap_s,
    )
    return measure_rows(table, truth, {MODEL_ROW: spec.threshold}, float(table["label"].mean()), params)


def _frame_labels(one: EvaluatedVideo) -> Any:
    return label_times(one.track.times_s, one.labels.segments).astype(np.int64)


def to_json(evaluation: FolderEvaluation, identities: Sequence[ModelIdentity], labels: str) -> dict[str, Any]:
    """Return the content of `evaluation.json`; undefined figures are null.

    identities: of the model, several where their scores were averaged
    labels:     the file with the labels, as it was named
    """
    return {
        "models": [asdict(identity) for identity in identities],
        "labels": labels,
        "figures": {name: _number(value) for name, value in evaluation.figures().items()},
        "importance": None if evaluation.graded is None else evaluation.graded.to_json(),
        "frames": [
            {"name": row.name, **{name: _number(row.metrics[name].value) for name in METRIC_NAMES}}
            for row in evaluation.frames
        ],
        "videos": {one.video: one.label for one in evaluation.videos},
        "rejected": [asdict(row) for row in evaluation.rejected],
        "unlabelled": dict(evaluation.matching.unlabelled),
        "labels_without_video": list(evaluation.matching.without_video),
    }


def to_csv(evaluation: FolderEvaluation) -> str:
    """Return one line for each video of the folder: figures where it was evaluated, else the reason why not."""
    graded = evaluation.graded
    rows: list[dict[str, Any]] = []
    for one in evaluation.videos:
        row: dict[str, Any] = {
            "video": one.video,
            "status": "evaluated",
            "label": one.label,
            "duration_s": round(one.track.duration_s, 3),
            "num_frames": len(one.track.times_s),
        }
        if one.labels.importance is not None:
            row |= {
                "num_shots": one.labels.importance.num_shots,
                "num_annotators": one.labels.importance.num_annotators,
            }
        for rank_row in graded.rows if graded else ():
            if one.video in rank_row.by_video:
                ranking = rank_row.by_video[one.video]
                row |= {_column(rank_row.name, name): getattr(ranking, name) for name in FIGURE_NAMES}
        rows.append(row | _frame_figures(one, evaluation.threshold))
    rows += [{"video": bad.video, "status": "rejected", "reason": bad.reason} for bad in evaluation.rejected]
    unlabelled = evaluation.matching.unlabelled.items()
    rows += [{"video": video, "status": "unlabelled", "reason": reason} for video, reason in unlabelled]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _column(row: str, figure: str) -> str:
    """Return what a figure of a row is called: the model's stand bare, others after their row's name."""
    return figure if row == MODEL_ROW else f"{row}_{_SHORT[figure]}"


def _columns() -> list[str]:
    ranks = [_column(row, figure) for row in (MODEL_ROW, *REFERENCE_NAMES) for figure in FIGURE_NAMES]
    head = ["video", "status", "label", "duration_s", "num_frames", "num_shots", "num_annotators"]
    return [*head, *ranks, "tp", "fp", "fn", "tn", "f1", "average_precision", "reason"]


def _frame_figures(one: EvaluatedVideo, threshold: float) -> dict[str, float]:
    labels_T, scores_T = _frame_labels(one), one.track.scores
    flagged_T = scores_T >= threshold
    counts = Counts(
        int(np.sum(flagged_T & (labels_T == 1))),
        int(np.sum(flagged_T & (labels_T == 0))),
        int(np.sum(~flagged_T & (labels_T == 1))),
        int(np.sum(~flagged_T & (labels_T == 0))),
    )
    return {**asdict(counts), "f1": counts.f1, "average_precision": average_precision(labels_T, scores_T)}


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_results(
    out: Path, evaluation: FolderEvaluation, identities: Sequence[ModelIdentity], labels: str
) -> tuple[Path, Path]:
    """Write `evaluation.json` and `videos.csv` into `out`, atomically, and return where they are."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", to_json(evaluation, identities, labels))
    write_text(out / "videos.csv", to_csv(evaluation))
    return out / "evaluation.json", out / "videos.csv"
