"""Stage `train`: HL-CLIP fine-tuned on stored tokens; the epoch and the threshold are chosen on val.

What is trained: the last blocks of the image tower, the time-aware encoder and the head. A run that was stopped is
resumed from its checkpoint when params, data and encoder are the same, and ends with the same weights.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from models.calibration import Calibration, CalibrationParams, fit_calibration
from models.encoder import EncoderParams, EncoderSpec, hash_encoder, load_encoder
from models.errors import DataError
from models.files import read_json, write_json
from models.highlighter import Highlighter, HighlighterSpec, save_highlighter
from models.importance import Importance
from models.loop import ExtraLoss, LoopParams, fit, logits_of_video
from models.manifest import VideoRow, read_manifest
from models.metrics import average_precision, calibration_error, choose_threshold
from models.multiscale import MultiScaleHead
from models.params import Section
from models.predictions import calibrated_predictions, write_predictions
from models.shards import fingerprint, read_metadata, read_tensors
from models.spans import label_times
from models.temporal import TemporalKind
from models.windows import LabelledVideo, open_video, read_tokens
from tasks.frames import FramesParams, sampling_of
from tasks.shell import stage_shell

_log = logging.getLogger(__name__)
Target = Literal["labels", "importance"]


class SpansParams(Section):
    """How scores become highlights; stored in the model, so that serving needs no params."""

    min_duration_s: float = Field(default=0.5, ge=0)
    """Shortest highlight given, seconds."""
    merge_gap_s: float = Field(default=0.75, ge=0)
    """Highlights at most this far apart become one, seconds."""


class TrainParams(LoopParams):
    """The model's shape, beside how it is fitted."""

    temporal: TemporalKind = "transformer"
    """Temporal encoder of the head: `none` judges each frame alone, `multiscale` is for few videos."""
    num_members: int = Field(default=8, ge=1, le=64)
    """Committee of a `multiscale` head; the others have no committee."""
    target: Target = "labels"
    """What is learnt: highlight or not, or the mean importance that people gave, where a video has it."""
    hidden_dim: int = Field(default=128, ge=8, multiple_of=8)
    """Width of the temporal encoder and of the classifier."""
    window: int = Field(default=32, ge=1)
    """Frames that the head sees at once."""


@dataclass(frozen=True)
class TrainResult:
    """A fitted model.

    spec:        with the threshold chosen on val
    history:     a row for each epoch
    predictions: frame table of val and test
    metrics:     figures on val
    """

    spec: HighlighterSpec
    history: list[dict[str, Any]]
    predictions: pd.DataFrame
    metrics: dict[str, float]


def open_videos(rows: Sequence[VideoRow], tokens: Path, target: Target) -> dict[str, LabelledVideo]:
    """Return the stored videos of `rows` by id, with their labels and what training aims at.

    Importance is put on [0, 1] by the lowest and the highest score that anybody gave in the train split. A video
    without it is learnt by its labels.
    """
    targets_of = aims(rows, target)
    opened = {}
    for row in rows:
        times_s = read_tensors(tokens, row.video_id, ("times_s",))[0]["times_s"]
        labels = label_times(times_s, row.spans)
        opened[row.video_id] = open_video(tokens, row.video_id, labels, targets_of(row, times_s))
    return opened


def aims(
    rows: Sequence[VideoRow], target: Target
) -> Callable[[VideoRow, npt.NDArray[np.float64]], npt.NDArray[np.float32]]:
    """Return the function that gives what training aims at in a video, float32 [T] from 0 to 1, at times in seconds.

    rows: among them the train split, by which importance is put on [0, 1]
    """
    graded = [row.importance for row in rows if row.split == "train" and row.importance is not None]
    low, high = importance_range(graded) if target == "importance" and graded else (0.0, 1.0)

    def targets_of(row: VideoRow, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        if target == "importance" and row.importance is not None:
            return np.clip((row.importance.at(times_s) - low) / (high - low), 0, 1).astype(np.float32)
        return label_times(times_s, row.spans).astype(np.float32)

    return targets_of


def importance_range(graded: Sequence[Importance]) -> tuple[float, float]:
    """Return the lowest and the highest score that anybody gave. Raises DataError where all are equal."""
    low = min(float(np.nanmin(importance.scores_AS)) for importance in graded)
    high = max(float(np.nanmax(importance.scores_AS)) for importance in graded)
    if low == high:
        raise DataError(
            f"train.target = importance: every score in the train split is {low:g}; there is nothing to learn"
        )
    return low, high


def train(
    model: Highlighter,
    spec: HighlighterSpec,
    rows: Sequence[VideoRow],
    videos: dict[str, LabelledVideo],
    params: LoopParams,
    folder: Path,
    *,
    callbacks: Sequence[Any] = (),
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    extra_loss: ExtraLoss | None = None,
) -> TrainResult:
    """Fit `model` in place on the train rows and choose its threshold on the val rows."""
    by_split = {split: [videos[r.video_id] for r in rows if r.split == split] for split in ("train", "val")}
    checkpoints = folder / "lightning"
    history = fit(
        model, by_split["train"], by_split["val"], spec.window, params, checkpoints,
        callbacks=callbacks, on_epoch=on_epoch, extra_loss=extra_loss,
    )  # fmt: skip
    return judge_on_val(model, spec, rows, videos, history)


def judge_on_val(
    model: Highlighter,
    spec: HighlighterSpec,
    rows: Sequence[VideoRow],
    videos: dict[str, LabelledVideo],
    history: list[dict[str, Any]],
) -> TrainResult:
    """Return the result of a fitted model: scores of val and test, and from val alone calibration, threshold, figures.

    The calibration is of the method that the spec's own one names.
    """
    scored = [
        (row, videos[row.video_id].times_s, logits_of_video(model, videos[row.video_id], spec.window))
        for row in rows
        if row.split != "train"
    ]
    calibration = calibrate_on_val(spec.calibration, scored)
    predictions = calibrated_predictions(scored, calibration)
    val = predictions[predictions["split"] == "val"]
    labels, scores = val["label"].to_numpy(), val["score"].to_numpy()
    threshold = choose_threshold(labels, scores)
    metrics = {
        "epochs": len(history),
        "num_weights": sum(p.numel() for p in model.parameters()),
        "val_average_precision": average_precision(labels, scores),
        "val_threshold": threshold,
        "val_accuracy": float(np.mean((scores >= threshold) == (labels == 1))),
        "val_ece": calibration_error(labels, scores),
        "val_ece_uncalibrated": calibration_error(labels, val["raw_score"].to_numpy()),
        "temperature": calibration.temperature,
    }
    return TrainResult(replace(spec, threshold=threshold, calibration=calibration), history, predictions, metrics)


def calibrate_on_val(
    blank: Calibration, scored: Sequence[tuple[VideoRow, npt.NDArray[np.float64], npt.NDArray[np.float32]]]
) -> Calibration:
    """Return the calibration of `blank`'s method fitted to the val videos among `scored`.

    scored: a manifest row, times_s float64 [T] and logits float32 [T] for each video
    """
    val = [(row, label_times(times_s, row.spans), logits) for row, times_s, logits in scored if row.split == "val"]
    if not val:
        return blank
    rows, labels, logits = zip(*val, strict=True)
    videos_N = np.repeat(np.arange(len(rows)), [len(part) for part in logits])
    return fit_calibration(blank.method, np.concatenate(logits), np.concatenate(labels), videos_N)


def new_highlighter(
    visual: nn.Module, encoder: EncoderSpec, sections: tuple[EncoderParams, FramesParams, SpansParams, TrainParams]
) -> tuple[Highlighter, HighlighterSpec]:
    """Return an untrained HL-CLIP around a pretrained image tower."""
    encoder_params, frames, spans, params = sections
    spec = HighlighterSpec(
        encoder=encoder,
        sampling=sampling_of(frames, encoder_params),
        unfreeze_blocks=encoder_params.unfreeze_blocks,
        temporal=params.temporal,
        hidden_dim=params.hidden_dim,
        window=params.window,
        num_members=params.num_members if params.temporal == "multiscale" else 1,
        min_duration_s=spans.min_duration_s,
        merge_gap_s=spans.merge_gap_s,
    )
    torch.manual_seed(params.seed)
    return Highlighter(spec, visual), spec


@torch.inference_mode()
def settle_basis(model: Highlighter, train_videos: Sequence[LabelledVideo]) -> None:
    """Let a multiscale head settle its components by the train videos; other heads have none."""
    if isinstance(model.head, MultiScaleHead):
        model.head.fit_basis(
            [
                (model.tail(read_tokens(video, 0, 0, len(video.times_s))), torch.from_numpy(video.times_s))
                for video in train_videos
            ]
        )


def settle_checkpoints(folder: Path, mark: str) -> None:
    """Keep the checkpoints in `folder` when they were written for `mark`, else remove them."""
    note = folder / "fingerprint.json"
    if not (note.is_file() and read_json(note) == mark):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(note, mark)


def tokens_mark(rows: Sequence[VideoRow], tokens: Path, *parts: Any) -> str:
    """Return a fingerprint of the tokens and truth of `rows`, and of `parts`."""
    content = [
        (row.video_id, row.split, [(s.start_s, s.end_s) for s in row.spans], read_metadata(tokens, row.video_id))
        for row in rows
    ]
    return fingerprint(content, *parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("train", ["manifest", "tokens", "encoder"], argv) as shell:
        encoder_params, params = shell.section("encoder", EncoderParams), shell.section("train", TrainParams)
        frames, spans = shell.section("frames", FramesParams), shell.section("spans", SpansParams)
        rows = read_manifest(shell["manifest"])
        clip, encoder = load_encoder(shell["encoder"])
        sections = (encoder_params, frames, spans, params)
        model, spec = new_highlighter(clip.visual, encoder, sections)  # type: ignore[arg-type]
        spec = replace(spec, calibration=Calibration(shell.section("calibration", CalibrationParams).method))
        weights_hash = hash_encoder(shell["encoder"])
        checkpoints = shell.out / "checkpoints"
        mark = tokens_mark(rows, shell["tokens"], weights_hash, spec.to_json(), params.model_dump())
        settle_checkpoints(checkpoints, mark)
        videos = open_videos(rows, shell["tokens"], params.target)
        settle_basis(model, [videos[row.video_id] for row in rows if row.split == "train"])
        result = train(model, spec, rows, videos, params, checkpoints, on_epoch=shell.say_epoch)
        write_train_result(shell, model, result)
        shutil.rmtree(checkpoints)


def write_train_result(shell: Any, model: Highlighter, result: TrainResult) -> None:
    """Write what stages `train` and `prune` leave."""
    save_highlighter(shell.out / "model", model, result.spec)
    write_predictions(shell.out / "predictions.parquet", result.predictions)
    shell.write_history(result.history)
    shell.write_metrics(result.metrics)


if __name__ == "__main__":
    main()
