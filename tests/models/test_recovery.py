"""Recovery from frames: what is drawn, what the loss asks, and what batch normalisation is left with."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.encoder.openclip import model_config
from models.errors import ParamsError
from models.highlighter import Highlighter
from models.recovery import (
    FrameVideo,
    RecoveryPlan,
    distil_loss,
    draw_batches,
    rate_at,
    recover,
    relative_error,
    settle_batch_norm,
)
from models.tower import to_pixels
from models.video import SampledVideo
from tests.tiny_model import SIDE, TINY

PLAN = RecoveryPlan(epochs=1, learning_rate=1e-3, batch_size=2)


def make_video(seed: int, num_frames: int, side: int = SIDE) -> FrameVideo:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, side, side, 3), dtype=np.uint8)
    video = SampledVideo(frames, np.arange(num_frames) / 4, num_frames / 4)
    return FrameVideo(lambda: video, (np.arange(num_frames) % 2).astype(np.float32))


VIDEOS = [make_video(0, 14), make_video(1, 5), make_video(2, 6)]


def test_an_epoch_has_every_window_and_is_drawn_from_its_seed() -> None:
    batches = list(draw_batches(VIDEOS, 6, PLAN, epoch=0))
    assert sum(len(batch.mask_BW) for batch in batches) == 3 + 1 + 1
    assert all(batch.frames_BWHHC.dtype == torch.uint8 for batch in batches)
    assert all(int(batch.mask_BW.sum(dim=1).max()) <= 6 for batch in batches)
    again, other = (list(draw_batches(VIDEOS, 6, PLAN, epoch)) for epoch in (0, 1))
    assert all(
        torch.equal(one, two) for pair in zip(batches, again, strict=True) for one, two in zip(*pair, strict=True)
    )
    assert any(
        one.frames_BWHHC.shape != two.frames_BWHHC.shape or not torch.equal(one.frames_BWHHC, two.frames_BWHHC)
        for one, two in zip(batches, other, strict=True)
    )


def test_times_of_a_faster_window_are_those_of_a_faster_video() -> None:
    fast = replace(PLAN, speeds=(2,))
    for batch in draw_batches([VIDEOS[0]], 6, fast, epoch=0):
        assert batch.times_s_BW[0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.25])
        assert len(set(batch.targets_BW[0].tolist())) == 1  # every second frame of labels that alternate


def test_a_student_that_is_its_teacher_has_the_labels_loss_alone() -> None:
    torch.manual_seed(0)
    model = Highlighter(TINY).eval()
    (batch,) = draw_batches(VIDEOS[1:2], 6, PLAN, epoch=0)
    alone = distil_loss(model, model, batch, replace(PLAN, distil=0.0))
    torch.testing.assert_close(distil_loss(model, model, batch, PLAN), alone)
    other = Highlighter(TINY).eval()
    assert distil_loss(other, model, batch, PLAN) > distil_loss(other, model, batch, replace(PLAN, distil=0.0))


def test_relative_error_is_one_for_the_mean() -> None:
    wanted = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    assert relative_error(wanted, wanted) == 0
    torch.testing.assert_close(relative_error(wanted.mean(dim=0).expand(50, 4), wanted), torch.tensor(1.0))


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 40) for step in range(41)]
    assert rates[0] == 0.25
    assert max(rates) == rates[3] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[40] == pytest.approx(0)


def test_batch_normalisation_takes_the_statistics_of_the_frames() -> None:
    nano = replace(TINY.encoder, name="nano", image_size=64, model_config=model_config("nano"))
    torch.manual_seed(0)
    model = Highlighter(replace(TINY, encoder=nano)).eval()
    videos = [make_video(seed, 4, side=64) for seed in range(3)]
    before = copy.deepcopy(model.state_dict())
    settle_batch_norm(model.tower, videos)
    frames = torch.cat([torch.from_numpy(video.read().frames_THWC) for video in videos])
    first = model.tower.visual.conv1((to_pixels(frames) - model.tower.mean) / model.tower.std)
    torch.testing.assert_close(model.tower.visual.bn1.running_mean, first.mean(dim=(0, 2, 3)).detach())
    assert not model.tower.visual.bn1.training
    assert model.tower.visual.bn1.momentum == 0.1
    weights = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in weights)


def test_a_tail_is_trained_alone() -> None:
    torch.manual_seed(0)
    student = Highlighter(TINY)
    before = copy.deepcopy(student.state_dict())
    recover(student, Highlighter(TINY), VIDEOS, 6, replace(PLAN, whole_tower=False))
    changed = {name for name, weight in student.state_dict().items() if not torch.equal(before[name], weight)}
    assert any("resblocks.1" in name for name in changed)
    assert not any("resblocks.0" in name or "conv1" in name for name in changed)
    assert not student.training


def test_nothing_is_learnt_from_nothing() -> None:
    with pytest.raises(ParamsError, match="no train video to learn from"):
        recover(Highlighter(TINY), Highlighter(TINY), [], 6, PLAN)
