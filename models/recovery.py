"""Training a changed model on from frames, with the model before the change as its teacher.

Stored tokens stand behind the front, so a model whose front has changed needs the frames again. Each step draws
windows of train videos, each window seen through a drawn view; the teacher sees the same pixels. The loss is that of
the labels and `distil` times the squared errors to the teacher's logits (Ba & Caruana 2014, arXiv:1312.6184) and
features (Romero et al., "FitNets", ICLR 2015, arXiv:1412.6550), each over the variance of the teacher's. That the
teacher has to judge the very picture that the student sees: Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", CVPR 2022, arXiv:2106.05237.

What is drawn depends on the seed alone. Knows nothing of how the model was changed.

Shapes: B windows, W frames of a window, E features, H = image size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.errors import ParamsError
from models.highlighter import Highlighter
from models.losses import LossKind, loss_of
from models.pruning import Masks, apply_masks
from models.slimming import FrameBatch
from models.tower import Tower, to_pixels
from models.video import SampledVideo
from models.views import apply_view, draw_view
from models.windows import collate

_WARMUP, _CLIP_NORM = 0.1, 1.0
_MIN_CROP, _COLOUR, _MAX_BLUR = 0.75, 0.3, 0.8  # views as stage `embed` draws them by default
_VIDEOS_AT_ONCE = 8
OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class FrameVideo:
    """A train video whose frames are read when they are needed.

    read:    gives its sampled frames
    targets: float32 [T], what training aims at, 0 to 1, NaN where nobody knows
    """

    read: Callable[[], SampledVideo]
    targets: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RecoveryPlan:
    """How a model is trained on.

    epochs:        passes over the train videos, 0 for none
    learning_rate: peak of the cosine schedule of AdamW, above 0; of tower and head alike
    distil:        weight of the teacher beside the labels, at least 0
    loss:          of the labels
    batch_size:    windows of a step
    weight_decay:  of AdamW, on matrices only
    speeds:        whole factors at which windows are played
    whole_tower:   whether the front is trained too
    seed:          of everything that is drawn
    """

    epochs: int
    learning_rate: float
    distil: float = 1.0
    loss: LossKind = "bce"
    batch_size: int = 4
    weight_decay: float = 0.05
    speeds: tuple[int, ...] = (1, 2)
    whole_tower: bool = True
    seed: int = 0


def recover(
    student: Highlighter,
    teacher: Highlighter,
    videos: Sequence[FrameVideo],
    window: int,
    plan: RecoveryPlan,
    masks: Masks | None = None,
    on_epoch: OnEpoch = lambda row: None,
) -> None:
    """Train `student` in place, which is left in eval mode; `teacher` stays as it is.

    masks: of weights that stay 0
    Raises ParamsError where there is no train video.
    """
    if not videos:
        raise ParamsError("recovery: no train video to learn from; add train videos")
    settle_batch_norm(student.tower, videos, whole_tower=plan.whole_tower)
    if plan.epochs:
        _train(student, teacher.eval(), videos, window, plan, masks or {}, on_epoch)
    student.eval().requires_grad_(False)


def _train(
    student: Highlighter,
    teacher: Highlighter,
    videos: Sequence[FrameVideo],
    window: int,
    plan: RecoveryPlan,
    masks: Mapping[str, Tensor],
    on_epoch: OnEpoch,
) -> None:
    student.requires_grad_(True)
    if not plan.whole_tower:
        student.tower.freeze_front()
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
        ],
        plan.learning_rate,
    )
    torch.manual_seed(plan.seed)  # of dropout
    total = plan.epochs * math.ceil(len(_owners(videos, window)) / plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, total))
    for epoch in range(plan.epochs):
        student.train()
        losses = []
        for batch in draw_batches(videos, window, plan, epoch):
            loss = distil_loss(student, teacher, batch, plan)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, _CLIP_NORM)
            optimizer.step()
            schedule.step()
            apply_masks(student, masks)
            losses.append(loss.item())
        on_epoch({"epoch": epoch + 1, "loss": float(np.mean(losses))})


def rate_at(step: int, num_steps: int) -> float:
    """Return the learning rate's share of its peak: a linear rise, then a cosine to 0."""
    rise = max(round(_WARMUP * num_steps), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min((step - rise) / max(num_steps - rise, 1), 1.0)))


def distil_loss(student: Highlighter, teacher: Highlighter, batch: FrameBatch, plan: RecoveryPlan) -> Tensor:
    """Return the loss of one batch, a scalar; frames without a label learn from the teacher alone."""
    logits_BW, features_NE = run_frames(student, batch)
    num_members = len(logits_BW) // len(batch.mask_BW)  # of a committee, which gives every member's logits in training
    mask_BW = batch.mask_BW.repeat(num_members, 1)
    loss = loss_of(plan.loss, logits_BW, batch.targets_BW.repeat(num_members, 1), mask_BW)
    if not plan.distil:
        return loss
    with torch.no_grad():
        wanted_BW, wanted_NE = run_frames(teacher, batch)
    wanted_BW = wanted_BW.repeat(num_members, 1)
    of_logits = relative_error(logits_BW[mask_BW][:, None], wanted_BW[mask_BW][:, None])
    return loss + plan.distil * (of_logits + relative_error(features_NE, wanted_NE))


def relative_error(values_NE: Tensor, wanted_NE: Tensor) -> Tensor:
    """Return the mean squared error over the mean variance of what is wanted: 1 where all give the mean, a scalar."""
    variance = wanted_NE.var(dim=0, unbiased=False).mean().clamp_min(1e-6)
    return nn.functional.mse_loss(values_NE, wanted_NE) / variance


def run_frames(model: Highlighter, batch: FrameBatch) -> tuple[Tensor, Tensor]:
    """Return logits [B, W] and the features [N, E] of the N real frames; features of padding are 0."""
    features_NE = model.tower(to_pixels(batch.frames_BWHHC[batch.mask_BW]))
    features_BWE = features_NE.new_zeros(*batch.mask_BW.shape, features_NE.shape[1])
    features_BWE[batch.mask_BW] = features_NE
    return model.head(features_BWE, batch.times_s_BW, batch.mask_BW), features_NE


def draw_batches(videos: Sequence[FrameVideo], window: int, plan: RecoveryPlan, epoch: int) -> Iterator[FrameBatch]:
    """Yield the windows of one epoch, ceil(T / window) of a video of T frames, in a drawn order."""
    rng = np.random.default_rng((plan.seed, epoch))
    order = rng.permutation(_owners(videos, window))
    for first in range(0, len(order), plan.batch_size):
        picked = order[first : first + plan.batch_size]
        yield FrameBatch(*collate([_draw_window(videos[place], window, plan, rng) for place in picked]))


def _owners(videos: Sequence[FrameVideo], window: int) -> list[int]:
    return [index for index, video in enumerate(videos) for _ in range(math.ceil(len(video.targets) / window))]


def _draw_window(
    video: FrameVideo, window: int, plan: RecoveryPlan, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames [w, H, H, C], seconds [w] and targets [w] of one window, w <= W, at a drawn speed and view."""
    whole = video.read()
    speed = int(rng.choice(plan.speeds))
    length = min(window * speed, len(whole.times_s))
    start = int(rng.integers(0, len(whole.times_s) - length + 1))
    picked = slice(start, start + length, speed)
    times_s = torch.from_numpy((whole.times_s[picked] - whole.times_s[start]) / speed).float()
    frames_wCHH = torch.from_numpy(whole.frames_THWC[picked]).permute(0, 3, 1, 2).contiguous()
    view = draw_view(int(rng.integers(1 << 62)), min_crop=_MIN_CROP, colour=_COLOUR, max_blur=_MAX_BLUR)
    frames = apply_view(frames_wCHH, view).permute(0, 2, 3, 1)
    return frames, times_s, torch.from_numpy(video.targets[picked])


@torch.no_grad()
def settle_batch_norm(tower: Tower, videos: Sequence[FrameVideo], *, whole_tower: bool = True) -> None:
    """Take the statistics of batch normalisation again over train frames; a tower without any is left alone.

    After a cut the old ones are of sums that are no more (Li et al., "EagleEye", ECCV 2020, arXiv:2007.02491).
    """
    roots = [tower.visual] if whole_tower else tower.trained_modules()
    norms = [m for root in roots for m in root.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the plain average over all batches
    num_batches = math.ceil(len(videos) / _VIDEOS_AT_ONCE)
    for first in range(num_batches):
        frames_NHHC = np.concatenate([video.read().frames_THWC for video in videos[first::num_batches]])
        tower(to_pixels(torch.from_numpy(frames_NHHC)))
    for norm, (training, momentum) in zip(norms, before, strict=True):
        norm.train(training)
        norm.momentum = momentum
