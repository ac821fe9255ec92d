"""Stage `prune`: what matters least is removed, and the rest trained on for a few epochs.

By a mask, single weights become 0 and the gaps are held open; by `structured`, heads, channels and blocks of the tower
go and the model gets smaller. Both touch only what lies behind the stored tokens. The epoch and the threshold are
chosen on val, as in stage `train`, whose loop this is.
"""

import copy
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field
from torch.utils.data import DataLoader

from models.files import hash_file
from models.highlighter import Highlighter, HighlighterSpec, load_highlighter
from models.manifest import VideoRow, read_manifest
from models.params import Section
from models.pruning import METHODS, HoldMasks, PruneReport, apply_masks, prune_weights
from models.slimming import Slimming, SlimReport, distil_from, slim_highlighter
from models.structured import KINDS, Kind
from models.structured_cost import CostKind
from models.windows import Batch, LabelledVideo, TokenWindows, collate
from tasks.shell import stage_shell
from tasks.train import (
    TrainParams,
    TrainResult,
    judge_on_val,
    open_videos,
    settle_checkpoints,
    tokens_mark,
    train,
    write_train_result,
)

STRUCTURED = "structured"


class PruneParams(Section):
    """How much goes, and how the rest recovers."""

    method: str = Field(default="l1_unstructured", pattern=f"^({'|'.join((*METHODS, STRUCTURED))})$")
    """How what goes is chosen; `l1_unstructured` is the globally smallest weights by absolute value, `structured` the
    heads, channels and blocks of least first-order Taylor importance on the train videos."""
    amount: float = Field(default=0.2, ge=0, le=1)
    """Share of the weights behind the stored tokens that is set to 0, or of the tower's structures there that go."""
    structures: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Kinds of structures that may go; read by `structured`."""
    structure_cost: CostKind = "weights"
    """What `amount` is a share of: `weights`, or `multiplications`, which are the time; read by `structured`."""
    multiple_of: int = Field(default=8, ge=1)
    """Channels that are left are a whole number of these; read by `structured`."""
    recovery_epochs: int = Field(default=3, ge=0)
    """Passes over the train videos after pruning."""
    recovery_rate: float = Field(default=0.2, gt=0, le=1)
    """Peak learning rate of recovery, share of `train.learning_rate`."""
    distil: float = Field(default=0.0, ge=0)
    """Weight in recovery of the mean squared error of logits to those of the model before pruning."""


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned and recovered model's figures.

    report:  what was removed
    trained: spec, history, predictions and metrics, as stage `train` gives them
    """

    report: PruneReport | SlimReport
    trained: TrainResult


def prune_highlighter(
    model: Highlighter,
    params: PruneParams,
    judge: Callable[[], TrainResult],
    recover: Callable[[HoldMasks], TrainResult],
) -> PruneResult:
    """Prune `model` in place and train it on; afterwards exactly the weights that were removed are 0.

    judge:   gives the model's figures as it stands
    recover: trains the model with the callback that it is given, and gives its figures
    """
    report = prune_weights(model, params.method, params.amount)
    before = judge()
    trained = recover(HoldMasks(model, report.masks)) if params.recovery_epochs else before
    apply_masks(model, report.masks)
    return _result(report, before, trained)


def _result(report: PruneReport | SlimReport, before: TrainResult, trained: TrainResult) -> PruneResult:
    metrics = {
        **trained.metrics,
        "val_average_precision_before_recovery": before.metrics["val_average_precision"],
        "num_prunable": report.num_weights,
        "num_pruned": report.num_pruned,
        "sparsity": report.sparsity,
    }
    return PruneResult(report, replace(trained, metrics=metrics))


def slim(
    model: Highlighter,
    spec: HighlighterSpec,
    batches: Iterable[Batch],
    params: PruneParams,
    fitting: TrainParams,
    judge: Callable[[Highlighter, HighlighterSpec], TrainResult],
    recover: Callable[[Highlighter, HighlighterSpec], TrainResult],
) -> tuple[Highlighter, PruneResult]:
    """Return a smaller model, trained on, with its figures; `model` keeps its weights.

    batches: of train windows; judge, recover: as in `prune_highlighter`, of the model and spec that they are given
    """
    small, small_spec, report = slim_highlighter(
        model,
        spec,
        batches,
        fitting.loss,
        Slimming(params.amount, params.structures, params.multiple_of, params.structure_cost),
    )
    before = judge(small, small_spec)
    trained = recover(small, small_spec) if params.recovery_epochs else before
    return small, _result(report, before, trained)


def train_batches(
    rows: Sequence[VideoRow], videos: dict[str, LabelledVideo], window: int, params: TrainParams
) -> Iterable[Batch]:
    """Return every train window of the first epoch once, in the order of the videos."""
    train_videos = [videos[row.video_id] for row in rows if row.split == "train"]
    windows = TokenWindows(train_videos, window, params.speeds, params.seed)
    return DataLoader(windows, params.batch_size, collate_fn=collate)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("prune", ["manifest", "tokens", "model"], argv) as shell:
        params, fitting = shell.section("prune", PruneParams), shell.section("train", TrainParams)
        rate = fitting.learning_rate * params.recovery_rate
        fitting = fitting.model_copy(update={"epochs": params.recovery_epochs, "learning_rate": rate})
        rows = read_manifest(shell["manifest"])
        model, spec = load_highlighter(shell["model"])
        videos, checkpoints = open_videos(rows, shell["tokens"], fitting.target), shell.out / "checkpoints"
        mark = tokens_mark(
            rows,
            shell["tokens"],
            hash_file(shell["model"] / "model.safetensors"),
            params.model_dump(),
            fitting.model_dump(),
        )
        settle_checkpoints(checkpoints, mark)
        extra_loss = distil_from(copy.deepcopy(model), params.distil) if params.distil else None

        def judge(model: Highlighter, spec: HighlighterSpec) -> TrainResult:
            return judge_on_val(model, spec, rows, videos, [])

        def recover(model: Highlighter, spec: HighlighterSpec, *callbacks: Any) -> TrainResult:
            return train(
                model, spec, rows, videos, fitting, checkpoints,
                callbacks=callbacks, on_epoch=shell.say_epoch, extra_loss=extra_loss,
            )  # fmt: skip

        if params.method == STRUCTURED:
            batches = train_batches(rows, videos, spec.window, fitting)
            model, result = slim(model, spec, batches, params, fitting, judge, recover)
        else:
            result = prune_highlighter(
                model, params, lambda: judge(model, spec), lambda hold: recover(model, spec, hold)
            )
        write_train_result(shell, model, result.trained)
        shutil.rmtree(checkpoints)


if __name__ == "__main__":
    main()
