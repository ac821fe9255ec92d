"""Losses: what each asks for, and that a target which nobody knows asks for nothing."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

from models.losses import LossKind, loss_of

KINDS = get_args(LossKind)
TARGETS = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.8, 0.2, 0.2, 0.6]])
ALL = torch.ones(2, 4, dtype=torch.bool)


def descend(kind: LossKind, steps: int = 400) -> torch.Tensor:
    torch.manual_seed(0)
    logits = torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(kind, logits, TARGETS, ALL).backward()
        optimizer.step()
    return logits.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_puts_the_frames_of_a_window_in_order(kind: LossKind) -> None:
    for found, wanted in zip(descend(kind), TARGETS, strict=True):
        for i in range(4):
            for j in range(4):
                if wanted[i] > wanted[j]:
                    assert found[i] > found[j]


def test_bce_is_that_of_torch() -> None:
    logits = torch.randn(2, 4)
    assert loss_of("bce", logits, TARGETS, ALL) == nn.functional.binary_cross_entropy_with_logits(logits, TARGETS)
    torch.testing.assert_close(torch.sigmoid(descend("bce", 3000)), TARGETS, atol=0.02, rtol=0)


def test_ranking_and_regression_ask_nothing_of_the_level_of_a_window() -> None:
    logits = torch.randn(2, 4)
    shifted = logits + torch.tensor([[3.0], [-5.0]])
    for kind in ("ranking", "regression"):
        torch.manual_seed(1)
        first = loss_of(kind, logits, TARGETS, ALL)
        torch.manual_seed(1)
        torch.testing.assert_close(loss_of(kind, shifted, TARGETS, ALL), first, rtol=1e-4, atol=1e-5)
    assert loss_of("bce", shifted, TARGETS, ALL) != loss_of("bce", logits, TARGETS, ALL)


def test_both_is_the_sum() -> None:
    logits = torch.randn(2, 4)
    torch.manual_seed(2)
    both = loss_of("both", logits, TARGETS, ALL)
    torch.manual_seed(2)
    parts = loss_of("bce", logits, TARGETS, ALL) + loss_of("ranking", logits, TARGETS, ALL)
    torch.testing.assert_close(both, parts)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_and_padded_frames_have_no_gradient_and_no_say(kind: LossKind) -> None:
    targets = TARGETS.clone()
    targets[0, 1] = math.nan
    mask = ALL.clone()
    mask[1, 3] = False
    grads = []
    for filler in (0.0, 50.0):
        logits = torch.tensor([[0.3, filler, -0.2, 0.5], [0.1, -0.4, 0.2, filler]], requires_grad=True)
        torch.manual_seed(3)
        loss_of(kind, logits, targets, mask).backward()
        assert logits.grad is not None
        assert logits.grad[0, 1] == 0
        assert logits.grad[1, 3] == 0
        grads.append(logits.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_known_is_a_loss_of_zero(kind: LossKind) -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    loss = loss_of(kind, logits, torch.full((2, 4), math.nan), ALL)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()
