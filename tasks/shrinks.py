"""Shrinks by name: steps of a rung that change the network, each from a highlighter to a smaller or faster one.

A step leaves the model that it is given as it is, changes a copy, trains that on train frames with the given model as
its teacher (`models.recovery`), and fits its calibration and threshold on val again. Steps follow one another: what
the first made is the teacher of the second. Knows params and data; what is cut or merged is the business of `models`.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from models.encoder.narrow import Skip
from models.errors import ParamsError
from models.highlighter import Highlighter, HighlighterSpec, score_logits
from models.ladder import RUNTIMES, Part
from models.manifest import VideoRow
from models.merging_tower import mergeable
from models.metrics import choose_threshold
from models.params import Section
from models.predictions import calibrated_predictions
from models.pruning import Masks, apply_masks, mask_l1_unstructured, mask_two_four, prunable_weights
from models.recovery import FrameVideo, RecoveryPlan, draw_batches, recover
from models.slimming import Slimming, slim_whole_tower, tail_paths
from models.structured import KINDS, Kind
from models.structured_cost import CostKind
from models.token_merging import MergeSchedule, ScheduleKind, merge_schedule
from models.tower import to_pixels
from models.video import SampledVideo
from tasks.rungs import Model, Shrink
from tasks.train import TrainParams, aims, calibrate_on_val

_log = logging.getLogger(__name__)
_FRAMES_AT_ONCE = 128


class Recovery(Section):
    """How a changed model is trained on, from frames."""

    recovery_epochs: int = Field(default=10, ge=0)
    """Passes over the train videos; 0 leaves the weights as they are."""
    recovery_rate: float = Field(default=1.0, gt=0, le=10)
    """Peak learning rate of recovery, share of `train.learning_rate`; the whole network's, tower and head."""
    batch_size: int = Field(default=4, ge=1)
    """Windows a step of recovery."""
    distil: float = Field(default=1.0, ge=0)
    """Weight of the squared errors of features and logits to those of the model before, each over the variance of
    those, beside the labels' loss."""


class Shrinking(Recovery):
    """One step of kind pruning: how what goes is chosen, how much goes, and how the rest recovers."""

    method: Literal["l1_unstructured", "structured", "two_four"] = "structured"
    """`structured` removes heads, channels and blocks of least first-order Taylor importance, and the model gets
    smaller; `l1_unstructured` sets the globally smallest weights to 0; `two_four` two of every four neighbours,
    which only sparse tensor cores of a GPU make use of."""
    amount: float = Field(default=0.5, ge=0, lt=1)
    """Share of the structures' cost, or of the weights, that goes; `two_four` takes half whatever this is."""
    structures: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Kinds of structures that may go; read by `structured`."""
    cost: CostKind = "multiplications"
    """What `amount` is a share of: `weights`, or `multiplications`, which are the time; read by `structured`."""
    multiple_of: int = Field(default=8, ge=1)
    """Channels that are left are a whole number of these; read by `structured`."""
    whole_tower: bool = True
    """Whether the front is cut too, or only what training may touch; every frame is embedded again in either case."""


class TokenSchedule(Recovery):
    """One step of kind tokens: how many patch tokens each block merges."""

    num_merged: int = Field(default=8, ge=1)
    """Tokens that each block removes, on average; never more than half of what is there."""
    schedule: ScheduleKind = "constant"
    """`constant`, or `decreasing`: more in early blocks, none in the last."""
    recovery_epochs: int = Field(default=0, ge=0)
    """Passes over the train videos through the merging; 0 leaves the weights as they are."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What steps are chosen, trained and judged by.

    rows:       manifest rows of the train and the val videos; others are left alone
    read_video: gives the sampled frames of a video by its id
    fitting:    section `train`: loss, target, rate, batch, speeds and seed are read
    """

    rows: Sequence[VideoRow]
    read_video: Callable[[str], SampledVideo]
    fitting: TrainParams


def parts_of(prunings: Mapping[str, Shrinking], tokens: Mapping[str, TokenSchedule]) -> Mapping[str, Part]:
    """Return the parts that params name, by name.

    Raises ParamsError for a "+" in a name, and for one that is there twice or is a runtime's.
    """
    for name in tokens:
        if name in prunings:
            raise ParamsError(f"ladder.tokens: {name!r} is in ladder.prunings too; give one of them another name")
    if taken := [name for name in (*prunings, *tokens) if name in RUNTIMES]:
        raise ParamsError(f"ladder: {taken[0]!r} is the name of a runtime; give the step another one")
    kinds = [*((name, "pruning") for name in prunings), *((name, "tokens") for name in tokens)]
    return {name: Part(kind, name) for name, kind in kinds}


def make_shrinks(
    prunings: Mapping[str, Shrinking], tokens: Mapping[str, TokenSchedule], training: TrainingData
) -> Mapping[Part, Shrink]:
    """Return the steps that params name, by their parts.

    A step that was done is remembered while the mapping lives: the same model through the same step is trained once.
    """
    parts = parts_of(prunings, tokens)
    shrinks = {parts[name]: _remembered(partial(prune_model, params, training)) for name, params in prunings.items()}
    merges = {parts[name]: _remembered(partial(merge_tokens_of, params, training)) for name, params in tokens.items()}
    return {**shrinks, **merges}


def _remembered(shrink: Callable[[Highlighter, HighlighterSpec], Model]) -> Shrink:
    done: list[tuple[Model, Model]] = []

    def once(highlighter: Highlighter, spec: HighlighterSpec) -> Model:
        for given, result in done:
            if given[0] is highlighter and given[1] == spec:
                return result
        done.append(((highlighter, spec), shrink(highlighter, spec)))
        return done[-1][1]

    return once


def prune_model(params: Shrinking, training: TrainingData, highlighter: Highlighter, spec: HighlighterSpec) -> Model:
    """Return a pruned and recovered model and its spec; the given one stays as it is.

    Raises ParamsError where nothing can be cut or there is no train video.
    """
    student, videos = copy.deepcopy(highlighter), train_videos(training)
    masks: Masks | None = None
    if params.method == "structured":
        slimming = Slimming(params.amount, params.structures, params.multiple_of, params.cost)
        plan = _plan(params, training, whole_tower=True)
        batches = list(draw_batches(videos, spec.window, plan, epoch=0))
        within = None if params.whole_tower else tail_paths(student)
        student, spec, _ = slim_whole_tower(student, spec, batches, training.fitting.loss, slimming, within)
    else:
        weights = prunable_weights(student, whole_tower=params.whole_tower)
        masks = mask_two_four(weights) if params.method == "two_four" else mask_l1_unstructured(weights, params.amount)
        apply_masks(student, masks)
    plan = _plan(params, training, whole_tower=params.whole_tower)
    recover(student, highlighter, videos, spec.window, plan, masks, _say)
    return settle(student, spec, training)


def merge_tokens_of(
    params: TokenSchedule, training: TrainingData, highlighter: Highlighter, spec: HighlighterSpec
) -> Model:
    """Return a model that merges tokens, and its spec; the given one stays as it is.

    Raises EngineNotPossible for a tower without patch tokens.
    """
    visual = mergeable(highlighter.tower.visual, spec.encoder.name)
    is_left = [not isinstance(block, Skip) for block in highlighter.tower.blocks()]
    wanted = merge_schedule(params.schedule, params.num_merged, sum(is_left), len(visual.positional_embedding))
    numbers = iter(wanted.num_merged)
    spec = replace(spec, merging=MergeSchedule(tuple(next(numbers) if left else 0 for left in is_left)))
    student = Highlighter(spec, copy.deepcopy(highlighter.tower.visual))
    student.head.load_state_dict(highlighter.head.state_dict())
    student.eval()
    if params.recovery_epochs:
        plan = _plan(params, training, whole_tower=True)
        recover(student, highlighter, train_videos(training), spec.window, plan, on_epoch=_say)
    return settle(student, spec, training)


def train_videos(training: TrainingData) -> list[FrameVideo]:
    """Return the train videos with what training aims at. Raises ParamsError where there are none."""
    targets_of = aims(training.rows, training.fitting.target)
    rows = [row for row in training.rows if row.split == "train"]
    if not rows:
        raise ParamsError("a step that shrinks the model needs train videos to learn from; add some")
    return [
        FrameVideo(
            partial(training.read_video, row.video_id), targets_of(row, training.read_video(row.video_id).times_s)
        )
        for row in rows
    ]


@torch.inference_mode()
def settle(student: Highlighter, spec: HighlighterSpec, training: TrainingData) -> Model:
    """Return the model with a spec whose calibration and threshold are of its own scores on the val videos."""
    scored = []
    for row in training.rows:
        if row.split == "val":
            video = training.read_video(row.video_id)
            parts = torch.split(torch.from_numpy(video.frames_THWC), _FRAMES_AT_ONCE)
            features_TE = torch.cat([student.tower(to_pixels(part)) for part in parts]).numpy()
            scored.append((row, video.times_s, score_logits(student.head, features_TE, video.times_s, spec.window)))
    if not scored:
        return student, spec
    calibration = calibrate_on_val(spec.calibration, scored)
    table = calibrated_predictions(scored, calibration)
    threshold = choose_threshold(table["label"].to_numpy(), table["score"].to_numpy().astype(np.float64))
    return student, replace(spec, calibration=calibration, threshold=threshold)


def _plan(params: Recovery, training: TrainingData, *, whole_tower: bool) -> RecoveryPlan:
    fitting = training.fitting
    return RecoveryPlan(
        epochs=params.recovery_epochs,
        learning_rate=fitting.learning_rate * params.recovery_rate,
        distil=params.distil,
        loss=fitting.loss,
        batch_size=params.batch_size,
        weight_decay=fitting.weight_decay,
        speeds=fitting.speeds,
        whole_tower=whole_tower,
        seed=fitting.seed,
    )


def _say(row: Mapping[str, float]) -> None:
    _log.info("recovery epoch %d: loss %.4f", row["epoch"], row["loss"])
