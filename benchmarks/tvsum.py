"""TVSum by five-fold cross-validation over whole videos, through the ordinary stages.

`python -m benchmarks.tvsum [--quick] [--losses] [--ensemble FOLDER]` builds a data set in herdlight's own convention
from ../shared/data/tvsum (33 videos at 3 frames a second, 20 people's scores for every 2-second shot), with the ONNX
tower in ../shared/data/models, and for each fold runs ingest, validate, frames, pretrain, embed and train with
`params/tvsum-graded.yaml`. What is reported is the order of the shots of videos that the fold's model never saw:
Kendall's tau-b and Spearman's rho per annotator, then per video (Otani et al., "Rethinking the evaluation of video
summaries", CVPR 2019), and the top-5 mAP, beside rows that need no model. Nothing is chosen on the held-out videos:
two videos of the train folds settle threshold and calibration, which change no order, and the epoch is the last.

--losses     trains with every loss of models.losses, the evidence for the profile's choice
--ensemble   also compiles each fold's model and leaves the five as an ensemble for `herdlight evaluate`
--quick      six short videos, two folds, two epochs: the same code in about a minute, figures that mean nothing

TVSum: Song et al., "TVSum: Summarizing web videos using titles", CVPR 2015.
"""

import contextlib
import importlib
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.results_file import RESULTS, ROOT, benchmark_parser, code_commit, print_figures, write_results
from flows.dag import load_dag
from models.errors import DataError, StageFailed
from models.files import write_json
from models.graded import FIGURE_NAMES, REFERENCE_NAMES, GradedEvaluation, evaluate_graded
from models.importance import Importance, pool_track
from models.losses import LossKind
from models.manifest import read_manifest
from models.members import write_members
from models.params import load_section
from models.predictions import read_predictions
from models.spans import ScoreTrack
from tasks.profiles import override_params
from tasks.shell import one_line_errors
from tasks.train import TrainParams

NAME = "tvsum"
PROFILE = "tvsum-graded"
NUM_FOLDS, NUM_VAL = 5, 2
SHOT_S = 2.0
LOSSES: tuple[LossKind, ...] = ("bce", "ranking", "both", "regression")
_SEED, _NUM_BOOTSTRAP, _CONFIDENCE = 0, 1000, 0.95
_QUICK_VIDEOS, _QUICK_FOLDS = 6, 2
_STAGES = ("ingest", "validate", "frames", "pretrain", "embed", "train")


@dataclass(frozen=True)
class Graded:
    """One video of the benchmark.

    name:       its id
    path:       the file
    duration_s: length, seconds
    importance: 20 people's scores of its shots
    """

    name: str
    path: Path
    duration_s: float
    importance: Importance


def read_videos(shared: Path, limit: int | None = None) -> list[Graded]:
    """Return the videos by id, or the `limit` shortest. Raises DataError where one is missing."""
    folder = shared / "data" / "tvsum"
    if not (folder / "tvsum_2s.h5").is_file():
        raise DataError(f"{NAME} skipped: {shared.name}/data/tvsum is missing; name the folder with --shared")
    found = []
    with h5py.File(folder / "tvsum_2s.h5", "r") as file:
        for name in sorted(file):
            path = folder / "video_3fps" / f"{name}.mp4"
            if not path.is_file():
                raise DataError(f"{path.name}: labelled, but not among the videos; bring it or remove its label")
            scores_AS = np.asarray(file[name]["user_scores"], np.float64).T
            duration_s = float(file[name].attrs["length_s"])
            found.append(Graded(name, path, duration_s, Importance(SHOT_S, np.ascontiguousarray(scores_AS))))
    short = sorted(found, key=lambda video: (video.duration_s, video.name))[:limit]
    return sorted(short, key=lambda video: video.name)


def split_folds(names: Sequence[str], num_folds: int) -> list[dict[str, str]]:
    """Return the split of every video in each fold: each is in test once, NUM_VAL of the others are in val."""
    order = [names[index] for index in np.random.default_rng(_SEED).permutation(len(names))]
    folds = []
    for fold in range(num_folds):
        test = order[fold::num_folds]
        val = [name for name in order[(fold + 1) % num_folds :: num_folds] if name not in test][:NUM_VAL]
        splits = {name: "test" if name in test else "val" if name in val else "train" for name in names}
        folds.append(splits)
    return folds


def lay_out(videos: Sequence[Graded], splits: Mapping[str, str], data: Path) -> None:
    """Write `data/` for one fold: links to the videos in the folders of their splits, and the annotations."""
    shutil.rmtree(data, ignore_errors=True)
    entries = {}
    for video in videos:
        path = Path(splits[video.name]) / f"{video.name}.mp4"
        link = data / "videos" / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(video.path.resolve())
        scores = video.importance.scores_AS.tolist()
        entries[path.as_posix()] = {"importance": {"shot_s": video.importance.shot_s, "scores": scores}}
    write_json(data / "annotations.json", {"videos": entries})


def run_stage(work: Path, name: str, replaced: Mapping[str, str] | None = None) -> None:
    """Run a stage in `work` with its command of dvc.yaml. Raises StageFailed with the last line that it said.

    In this process: a quick run would spend most of its time on starting others.
    """
    command = load_dag(ROOT / "dvc.yaml")[name].cmd
    for old, new in (replaced or {}).items():
        command = command.replace(old, new)
    _, _, module, *words = command.split()
    said = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with contextlib.chdir(work), contextlib.redirect_stderr(said):
            importlib.import_module(module).main(words)
    except SystemExit:
        lines = said.getvalue().strip().splitlines() or ["no word on standard error"]
        raise StageFailed(f"stage {name}: {lines[-1].removeprefix(f'stage {name}: ')}") from None
    finally:
        logging.disable(logging.NOTSET)


def read_scores(work: Path, videos: Sequence[Graded], splits: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scores of the shots of the fold's test videos, by name, from what stage train left."""
    table = read_predictions(work / "build" / "train" / "predictions.parquet")
    manifest = {row.path: row for row in read_manifest(work / "build" / "frames" / "manifest.parquet")}
    found = {}
    for video in videos:
        if splits[video.name] != "test":
            continue
        row = manifest[f"test/{video.name}.mp4"]
        frames = table[(table["split"] == "test") & (table["video_id"] == row.video_id)]
        track = ScoreTrack(frames["time_s"].to_numpy(), frames["score"].to_numpy(), row.duration_s)
        found[video.name] = pool_track(track, video.importance)
    return found


def cross_validate(
    work: Path, videos: Sequence[Graded], num_folds: int, losses: Sequence[LossKind], ensemble: Path | None
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return for each loss the held-out scores of every video; leave the folds' models in `ensemble`.

    The last of `losses` is the one whose models are compiled.
    """
    scores: dict[str, dict[str, np.ndarray[Any, Any]]] = {loss: {} for loss in losses}
    members = []
    for fold, splits in enumerate(split_folds([video.name for video in videos], num_folds)):
        lay_out(videos, splits, work / "data")
        for stage in _STAGES[:-1]:
            if stage != "pretrain" or fold == 0:
                run_stage(work, stage)
        for loss in losses:
            started = time.monotonic()
            override_params(work / "params.yaml", settings=[f"train.loss={loss}"])
            run_stage(work, "train")
            scores[loss] |= read_scores(work, videos, splits)
            print(f"fold {fold + 1} of {num_folds}: {loss} trained in {time.monotonic() - started:.0f} s", flush=True)
        if ensemble is not None:
            run_stage(work, "compile", {"build/prune/model": "build/train/model"})
            members.append(f"fold-{fold}")
            shutil.rmtree(ensemble / members[-1], ignore_errors=True)
            shutil.copytree(work / "build" / "compile" / "model", ensemble / members[-1])
    if ensemble is not None:
        write_members(ensemble, members)
    return scores


def figures_of(evaluation: GradedEvaluation, loss: str) -> dict[str, float | None]:
    """Return the flat figures: the model's with their intervals, and the rows that need no model."""
    row = evaluation.row(loss)
    assert row is not None
    figures: dict[str, float | None] = {}
    for name in FIGURE_NAMES:
        estimate = row.figures[name]
        figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    for reference in REFERENCE_NAMES:
        known = evaluation.row(reference)
        assert known is not None
        for name, short in zip(FIGURE_NAMES, ("tau", "rho", "top5_map"), strict=True):
            figures[f"{reference}_{short}"] = known.figures[name].value
    for other in LOSSES:
        trained = evaluation.row(other)
        if trained is not None:
            figures[f"loss_{other}_tau"] = trained.figures["kendall_tau"].value
            figures[f"loss_{other}_rho"] = trained.figures["spearman_rho"].value
    return figures | {"num_videos": evaluation.num_videos, "num_shots": evaluation.num_shots}


def measure(
    shared: Path, *, quick: bool, all_losses: bool = False, ensemble: Path | None = None, results: Path = RESULTS
) -> None:
    """Run the cross-validation, print the table and write the result file."""
    started, commit = time.monotonic(), code_commit()
    videos = read_videos(shared, _QUICK_VIDEOS if quick else None)
    with tempfile.TemporaryDirectory(prefix="herdlight-tvsum-") as scratch:
        work = Path(scratch)
        shutil.copyfile(ROOT / "params.yaml", work / "params.yaml")
        shutil.copytree(ROOT / "params", work / "params")
        shutil.copyfile(shared / "data" / "models" / "mobilenet_v2_int8.onnx", work / "tower.onnx")
        quickly = ["train.epochs=2", "frames.fps=1"] if quick else []
        settings = [f"validate.min_videos_per_split={1 if quick else NUM_VAL}", *quickly]
        changes = override_params(work / "params.yaml", PROFILE, settings)
        chosen = load_section(work / "params.yaml", "train", TrainParams).loss
        losses = [*(loss for loss in LOSSES if all_losses and loss != chosen), chosen]
        num_folds = _QUICK_FOLDS if quick else NUM_FOLDS
        scores = cross_validate(work, videos, num_folds, losses, ensemble)
    truth = {video.name: video.importance for video in videos}
    evaluation = evaluate_graded(truth, scores, num_bootstrap=_NUM_BOOTSTRAP, confidence=_CONFIDENCE, seed=_SEED)
    figures = figures_of(evaluation, chosen) | {"seconds": round(time.monotonic() - started, 1)}
    print_figures(figures)
    if not quick:
        asked = {"profile": PROFILE, "num_folds": num_folds, "seed": _SEED, "changes": changes}
        path = write_results(NAME, figures, asked, {"evaluation": evaluation.to_json()}, commit=commit, folder=results)
        print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where the videos are missing or a stage fails."""
    parser = benchmark_parser(NAME, "TVSum by cross-validation.", "about a minute; the figures mean nothing")
    parser.add_argument("--losses", action="store_true", help="train with every loss")
    parser.add_argument("--ensemble", type=Path, help="leave the folds' models here for herdlight evaluate")
    options = parser.parse_args(argv)
    with one_line_errors(NAME):
        measure(options.shared, quick=options.quick, all_losses=options.losses, ensemble=options.ensemble)


if __name__ == "__main__":
    main()
