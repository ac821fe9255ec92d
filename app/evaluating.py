"""The door to evaluation: finds models, videos and labels, shows progress, prints the table and where the rest is."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.rejected import print_rejected
from app.scoring import find_model, scoring_progress
from models.errors import DataError
from models.evaluation import Estimate
from tasks.evaluate import EvaluateParams
from tasks.evaluate_folder import FolderEvaluation, measure_folder, score_labelled, write_results
from tasks.footage import Footage, list_footage
from tasks.graded_labels import Matching, match_labels, read_labels
from tasks.score import identify_model
from tasks.shell import progress_bar

_ROW_NAMES = {
    "human": "person against the rest",
    "human_each": "person against person",
    "ceiling": "all against each (ceiling)",
    "all_positive": "all positive",
}
_MOST_TOLD = 10


def evaluate_folder(models: Sequence[str], videos: Path, labels: Path, out: Path, params: EvaluateParams) -> None:
    """Score the labelled videos below `videos` with `models`, several averaged, print the table and write it to `out`.

    Raises DataError where nothing can be evaluated; what was rejected is printed before.
    """
    console = Console()
    label_file = read_labels(labels)
    if not videos.is_dir():
        raise DataError(f"{videos}: no such folder; name the folder with the videos")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: not a folder; choose another --out")
    footage = _footage(videos, labels, out)
    matching = match_labels(footage, label_file.names)
    _print_left_over(matching, console)
    folders = [find_model(uri) for uri in models]
    from models.ensemble import load_ensemble, load_scorer  # torch takes seconds to import; see app/scoring.py

    model = load_scorer(folders[0][0]) if len(folders) == 1 else load_ensemble([folder for folder, _ in folders])
    identities = [identify_model(folder, uri, version) for (folder, version), uri in zip(folders, models, strict=True)]
    with scoring_progress(len(matching.label_of)) as on_progress:
        evaluated, rejected = score_labelled(model, footage, label_file, matching.label_of, on_progress)
    print_rejected(rejected, console)
    num_graded = sum(video.labels.importance is not None for video in evaluated)
    with progress_bar("ranking", num_graded) as on_measured:
        evaluation = measure_folder(evaluated, rejected, matching, model.spec, params, on_measured)
    written = write_results(out, evaluation, identities, str(labels))
    print_evaluation(evaluation, console)
    console.print(Text(f"written: {', '.join(map(str, written))}"), soft_wrap=True)


def _footage(videos: Path, labels: Path, out: Path) -> dict[str, Footage]:
    """Return what lies below `videos` by its path there; the label file and `out` may lie there too and are none."""
    found: dict[str, Footage] = {}
    for item in list_footage([videos], out):
        if item.path.resolve() != labels.resolve():
            # Two names that are no UTF-8 may look the same when printed.
            name = item.name if item.name not in found else f"{item.name} ({len(found)})"
            found[name] = item
    return found


def print_evaluation(evaluation: FolderEvaluation, console: Console) -> None:
    """Print the rank table where there is one, the frame table, the notes and the counts."""
    graded = evaluation.graded
    if graded is not None:
        table = _table(f"Order of shots, {_count(graded.num_videos, 'video')}", ("tau-b", "rho", "top-5 mAP"))
        for row in graded.rows:
            cells = [_figure(row.figures[name], row.name == "model") for name in row.figures]
            table.add_row(_ROW_NAMES.get(row.name, row.name), *cells)
        console.print(table)
    prevalence = evaluation.frames[0].counts.prevalence
    title = f"Frames, {_count(len(evaluation.videos), 'video')}, {prevalence:.1%} highlight"
    table = _table(title, ("F1", "prec.", "recall", "AP", "AUC", "ECE", "seg. mAP"))
    for frame_row in evaluation.frames:
        names = ("f1", "precision", "recall", "average_precision", "roc_auc", "ece", "segment_map")
        cells = [_figure(frame_row.metrics[name], frame_row.name == "model" and name == "f1") for name in names]
        table.add_row(_ROW_NAMES.get(frame_row.name, frame_row.name), *cells)
    console.print(table)
    for note in graded.notes if graded else ("No video carries importance, so there are no rank figures.",):
        console.print(Text(note), soft_wrap=True)
    left = len(evaluation.matching.unlabelled), len(evaluation.matching.without_video)
    counts = f"{len(evaluation.videos)} evaluated, {len(evaluation.rejected)} rejected, {left[0]} without a label"
    console.print(Text(f"{counts}, {_count(left[1], 'label')} without a video"), soft_wrap=True)


def _print_left_over(matching: Matching, console: Console) -> None:
    for video, reason in list(matching.unlabelled.items())[:_MOST_TOLD]:
        console.print(Text(f"not evaluated: {video}: {reason}"), soft_wrap=True)
    for name in matching.without_video[:_MOST_TOLD]:
        console.print(Text(f"no video for label {name}"), soft_wrap=True)
    more = sum(max(0, len(left) - _MOST_TOLD) for left in (matching.unlabelled, matching.without_video))
    if more:
        console.print(f"and {more} more; evaluation.json lists them all")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("row", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _figure(estimate: Estimate, with_interval: bool) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    text = f"{estimate.value:.3f}"
    return f"{text}\n{estimate.low:.3f} to {estimate.high:.3f}" if with_interval and estimate.is_complete else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
