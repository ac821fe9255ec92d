"""Stage `prune`: the smallest weights removed, the others trained on for a few epochs with the gaps held open.

The epoch and the threshold are chosen on val, as in stage `train`, whose loop this is.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from models.files import hash_file
from models.highlighter import Highlighter, load_highlighter
from models.manifest import read_manifest
from models.params import Section
from models.pruning import METHODS, HoldMasks, PruneReport, apply_masks, prune_weights
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


class PruneParams(Section):
    """How much goes, and how the rest recovers."""

    method: str = Field(default="l1_unstructured", pattern=f"^({'|'.join(METHODS)})$")
    """How the weights that go are chosen; `l1_unstructured` is the globally smallest by absolute value."""
    amount: float = Field(default=0.2, ge=0, le=1)
    """Share of the weights behind the stored tokens that is set to 0."""
    recovery_epochs: int = Field(default=3, ge=0)
    """Passes over the train videos after pruning."""
    recovery_rate: float = Field(default=0.2, gt=0, le=1)
    """Peak learning rate of recovery, share of `train.learning_rate`."""


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned and recovered model's figures.

    report:  what was removed
    trained: spec, history, predictions and metrics, as stage `train` gives them
    """

    report: PruneReport
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
    metrics = {
        **trained.metrics,
        "val_average_precision_before_recovery": before.metrics["val_average_precision"],
        "num_prunable": report.num_weights,
        "num_pruned": report.num_pruned,
        "sparsity": report.sparsity,
    }
    return PruneResult(report, replace(trained, metrics=metrics))


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
        result = prune_highlighter(
            model,
            params,
            judge=lambda: judge_on_val(model, spec, rows, videos, []),
            recover=lambda hold: train(
                model, spec, rows, videos, fitting, checkpoints, callbacks=[hold], on_epoch=shell.say_epoch
            ),
        )
        write_train_result(shell, model, result.trained)
        shutil.rmtree(checkpoints)


if __name__ == "__main__":
    main()
