"""The training loop of HL-CLIP on stored tokens; Lightning turns it.

Knows loss, schedule, validation and resuming; what to train, on what and where to write is the caller's. Two runs
with the same arguments on one machine give the same weights, and so does one that was stopped and resumed.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader

import models.torchvision_operators  # noqa: F401  # isort: skip  (before lightning)
import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from models.calibration import NO_CALIBRATION
from models.checkpoints import SafeCheckpointIO
from models.highlighter import Highlighter, score_logits
from models.losses import LossKind, loss_of
from models.metrics import average_precision
from models.multiscale import MultiScaleHead
from models.params import Section
from models.windows import Batch, DescribedVideos, EpochSampler, LabelledVideo, TokenWindows, collate, read_tokens

_FRAMES_AT_ONCE = 512
OnEpoch = Callable[[dict[str, Any]], None]
ExtraLoss = Callable[[Batch, Tensor], Tensor]


class LoopParams(Section):
    """How weights are fitted; shared by fine-tuning and by recovery after pruning."""

    epochs: int = Field(default=12, ge=0)
    """Passes over the train videos."""
    batch_size: int = Field(default=8, ge=1)
    """Windows a step."""
    accumulate: int = Field(default=1, ge=1)
    """Steps whose gradients are added up before the weights move."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak rate of the head, AdamW."""
    tower_rate: float = Field(default=0.2, ge=0, le=1)
    """Rate of the tower's trained blocks, share of `learning_rate`."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of AdamW, on matrices only."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises; then it falls as a cosine."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's name of the arithmetic; the mixed ones are for processors and GPUs that have it."""
    loss: LossKind = "bce"
    """What the logits are held against the targets by; see models.losses."""
    keep: Literal["best", "last"] = "best"
    """Weights that are kept: of the epoch that was best on val, or of the last one where val is too small to choose."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better average precision on val before it stops; with keep = last it never stops early."""
    speeds: tuple[int, ...] = Field(default=(1, 2), min_length=1)
    """Speeds at which train windows are played, whole factors."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, order, windows and dropout."""


def score_video(model: Highlighter, video: LabelledVideo, window: int) -> npt.NDArray[np.float32]:
    """Return the probability of highlight of every stored frame, float32 [T], as serving computes it uncalibrated."""
    return NO_CALIBRATION.apply(logits_of_video(model, video, window))


@torch.inference_mode()
def logits_of_video(model: Highlighter, video: LabelledVideo, window: int) -> npt.NDArray[np.float32]:
    """Return the logit of every stored frame, float32 [T], as serving computes it."""
    num_frames = len(video.times_s)
    features = [
        model.tail(read_tokens(video, 0, start, min(start + _FRAMES_AT_ONCE, num_frames)))
        for start in range(0, num_frames, _FRAMES_AT_ONCE)
    ]
    return score_logits(model.head, torch.cat(features).float().numpy(), video.times_s, window)


class _Loop(lightning.LightningModule):
    """One model in training; what the names below mean is Lightning's contract."""

    def __init__(
        self,
        model: Highlighter,
        val: Sequence[LabelledVideo],
        window: int,
        params: LoopParams,
        on_epoch: OnEpoch,
        extra_loss: ExtraLoss | None,
        is_described: bool,
    ) -> None:
        super().__init__()
        self.is_described = is_described
        self.extra_loss = extra_loss
        self.model, self.val, self.window, self.params, self.on_epoch = model, list(val), window, params, on_epoch
        self.loss_sum, self.num_frames = 0.0, 0

    def on_train_epoch_start(self) -> None:
        self.loss_sum, self.num_frames = 0.0, 0
        torch.manual_seed(self.params.seed * 1_000_003 + self.current_epoch)  # dropout, the same when resumed

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        if self.is_described:
            assert isinstance(self.model.head, MultiScaleHead)
            logits_BW: Tensor = self.model.head.judge(batch.tokens_BWLD.squeeze(2))
        else:
            logits_BW = self.model(batch.tokens_BWLD, batch.times_s_BW, batch.mask_BW)
        num_members = len(logits_BW) // len(batch.mask_BW)  # of a committee, which gives every member's logits
        targets_BW, mask_BW = batch.targets_BW.repeat(num_members, 1), batch.mask_BW.repeat(num_members, 1)
        loss = loss_of(self.params.loss, logits_BW, targets_BW, mask_BW)
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(batch, logits_BW)
        count = int(batch.mask_BW.sum())
        self.loss_sum += loss.item() * count
        self.num_frames += count
        return loss

    def on_train_epoch_end(self) -> None:
        self.model.eval()
        scores = np.concatenate([score_video(self.model, video, self.window) for video in self.val])
        labels = np.concatenate([video.labels for video in self.val])
        self.model.train()
        val_ap = average_precision(labels, scores)
        self.log("val_average_precision", 0.0 if math.isnan(val_ap) else val_ap)
        figures = {
            "step": self.global_step,
            "epoch": self.current_epoch + 1,
            "loss": self.loss_sum / max(self.num_frames, 1),
            "val_average_precision": None if math.isnan(val_ap) else val_ap,
            "learning_rate": self.trainer.optimizers[0].param_groups[-1]["lr"],
        }
        self.on_epoch(figures)

    def configure_optimizers(self) -> Any:
        head, params = set(self.model.head.parameters()), self.params
        groups = [
            {
                "params": [
                    p
                    for p in self.parameters()
                    if p.requires_grad and (p in head) == is_head and (p.ndim > 1) == decays
                ],
                "lr": params.learning_rate * (1.0 if is_head else params.tower_rate),
                "weight_decay": params.weight_decay if decays else 0.0,
            }
            for is_head in (False, True)
            for decays in (False, True)
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        rise = max(round(params.warmup * total), 1)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            return 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(total - rise, 1), 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _History(Callback):
    """Keeps the rows of the epochs inside the checkpoints, so that a resumed run has all of them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def _described(
    model: Highlighter, train: Sequence[LabelledVideo], window: int, params: LoopParams
) -> DescribedVideos | None:
    """Return the train videos as the head describes them, None where that changes from epoch to epoch."""
    head = model.head
    if not isinstance(head, MultiScaleHead) or any(weight.requires_grad for weight in model.tower.parameters()):
        return None
    is_whole = all(video.num_views == 1 and len(video.times_s) <= window for video in train)
    if not (train and is_whole and tuple(params.speeds) == (1,)):
        return None

    @torch.no_grad()
    def describe(tokens_TLD: Tensor, times_s_T: Tensor) -> Tensor:
        real = torch.ones(1, len(times_s_T), dtype=torch.bool)
        return head.describe(model.tail(tokens_TLD)[None], times_s_T[None], real)[0]

    return DescribedVideos(train, params.seed, describe)


def fit(
    model: Highlighter,
    train: Sequence[LabelledVideo],
    val: Sequence[LabelledVideo],
    window: int,
    params: LoopParams,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch = lambda row: None,
    extra_loss: ExtraLoss | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place, leave it with the weights that `params.keep` names, and return a row for each epoch.

    folder:     where checkpoints and TensorBoard files go; a checkpoint found there is resumed
    extra_loss: of a batch and its logits [B, W], added to the loss; a committee's B is every member's batch in turn
    """
    history = _History()

    def keep(row: dict[str, Any]) -> None:
        history.rows.append(row)
        on_epoch(row)

    model.tower.freeze_front()
    model.train()
    described = None if extra_loss else _described(model, train, window, params)
    windows = described or TokenWindows(train, window, params.speeds, params.seed)
    loop = _Loop(model, val, window, params, keep, extra_loss, described is not None)
    best = ModelCheckpoint(
        folder, filename="best", monitor="val_average_precision" if params.keep == "best" else None, mode="max",
        save_last=True,
        enable_version_counter=False, save_on_train_epoch_end=True,
    )  # fmt: skip
    best.FILE_EXTENSION = ""
    stop = EarlyStopping("val_average_precision", mode="max", patience=params.patience, check_on_train_epoch_end=True)
    ends = [stop] if params.keep == "best" else []
    trainer = lightning.Trainer(
        max_epochs=params.epochs, accumulate_grad_batches=params.accumulate, gradient_clip_val=params.clip_norm,
        precision=params.precision, accelerator="auto", devices=1, plugins=[SafeCheckpointIO()],
        callbacks=[history, best, *ends, *callbacks], deterministic=True,
        logger=lightning.loggers.TensorBoardLogger(folder, name="tensorboard", version=""),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    loader = DataLoader(windows, params.batch_size, sampler=EpochSampler(windows), collate_fn=collate)
    last = folder / "last"
    trainer.fit(loop, loader, ckpt_path=str(last) if last.is_dir() else None)
    if best.best_model_path and params.keep == "best":
        loop.load_state_dict(SafeCheckpointIO().load_checkpoint(best.best_model_path)["state_dict"])
    model.eval()
    return history.rows
