"""The head for few videos: means over spans of time, components that are settled once, a committee."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ShapeError
from models.highlighter import HighlighterSpec, build_head, score_logits
from models.multiscale import MultiScaleHead, mean_around
from tests.tiny_model import TINY

DIM = 24


def footage(seed: int, num_frames: int, dim: int = DIM) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    times_s = np.cumsum(draw.uniform(0.2, 0.6, num_frames)) - 0.2
    return torch.from_numpy(draw.normal(size=(num_frames, dim))).float(), torch.from_numpy(times_s)


def settled_head(num_members: int = 3) -> MultiScaleHead:
    torch.manual_seed(0)
    head = MultiScaleHead(DIM, 8, num_members)
    head.fit_basis([footage(seed, 30) for seed in range(4)])
    return head.eval()


def run(head: MultiScaleHead, x_TE: torch.Tensor, times_s: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(1, len(times_s), dtype=torch.bool)
    with torch.no_grad():
        return head(x_TE[None], times_s[None].float(), mask)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.05, 3.0), min_size=1, max_size=25), st.floats(0.1, 6.0), st.integers(0, 5), st.integers(0, 99)
)
def test_a_mean_is_of_the_real_frames_within_the_radius(
    gaps_s: list[float], radius_s: float, num_padding: int, seed: int
) -> None:
    times = torch.cumsum(torch.tensor(gaps_s), dim=0)
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(times), 3))).float()
    padded_t = torch.cat([times, times[-1:].expand(num_padding)])[None]
    padded_x = torch.cat([values, torch.full((num_padding, 3), 1e6)])[None]
    mask = torch.arange(padded_t.shape[1])[None] < len(times)
    found = mean_around(padded_x, padded_t, mask, radius_s)[0, : len(times)]
    edges = (times - radius_s, times + radius_s)
    for index in range(len(times)):
        near = (times >= edges[0][index]) & (times <= edges[1][index])
        torch.testing.assert_close(found[index], values[near].mean(dim=0), rtol=1e-4, atol=1e-4)


def test_components_are_the_principal_ones_and_the_same_in_two_runs() -> None:
    draw = np.random.default_rng(3)
    direction = draw.normal(size=DIM)
    videos = []
    for _ in range(4):
        strength = np.repeat(draw.normal(size=(6, 1)), 5, axis=0)
        x = strength * direction + 0.02 * draw.normal(size=(30, DIM)) + 1.0
        videos.append((torch.from_numpy(x).float(), torch.arange(30) * 0.5))
    heads = [MultiScaleHead(DIM, 8, 2) for _ in range(2)]
    for head in heads:
        head.fit_basis(videos)
    assert torch.equal(heads[0].picture_EK, heads[1].picture_EK)
    gram = heads[0].picture_EK.T @ heads[0].picture_EK
    torch.testing.assert_close(gram, torch.eye(8), atol=1e-5, rtol=0)
    mask = torch.ones(1, 30, dtype=torch.bool)
    seen = [heads[0]._seen(x[None], t[None].float(), mask)[0][0] for x, t in videos]
    rows = torch.cat(seen)
    spread = ((rows - rows.mean(dim=0)) @ heads[0].picture_EK).var(dim=0)
    assert torch.all(spread[:-1] >= spread[1:] - 1e-7)
    assert spread[0] > 10 * spread[1]


def test_padding_and_neighbours_in_the_batch_change_nothing() -> None:
    head = settled_head()
    (x, t), (other_x, other_t) = footage(7, 20), footage(8, 33)
    alone = run(head, x, t)
    batch_x, batch_t = torch.zeros(2, 33, DIM), torch.zeros(2, 33)
    batch_x[0, :20], batch_t[0, :20], batch_t[0, 20:] = x, t.float(), t[-1].float()
    batch_x[1], batch_t[1] = other_x, other_t.float()
    mask = torch.arange(33)[None] < torch.tensor([[20], [33]])
    with torch.no_grad():
        together = head(batch_x, batch_t, mask)
    torch.testing.assert_close(together[0, :20], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1], run(head, other_x, other_t), atol=1e-4, rtol=1e-4)


def test_length_of_an_embedding_is_no_feature_and_its_surroundings_are() -> None:
    head = settled_head()
    x, t = footage(11, 40)
    torch.testing.assert_close(run(head, 3 * x, t), run(head, x, t), atol=1e-4, rtol=1e-4)
    changed = x.clone()
    changed[30:] = torch.flip(x[30:], dims=(1,))
    assert (run(head, changed, t)[:5] - run(head, x, t)[:5]).abs().max() > 1e-3  # the whole film is seen from its start


def test_a_committee_is_the_mean_of_members_that_learn_alone() -> None:
    head = settled_head(num_members=3)
    x, t = footage(5, 12)
    mask = torch.ones(1, 12, dtype=torch.bool)
    single = []
    for member in range(3):
        one = MultiScaleHead(DIM, 8, 1)
        state = {key: value[member : member + 1] if "_M" in key else value for key, value in head.state_dict().items()}
        one.load_state_dict(state)
        single.append(run(one.eval(), x, t))
    torch.testing.assert_close(run(head, x, t), torch.stack(single).mean(dim=0), atol=1e-5, rtol=1e-5)
    head.train()
    votes = head(x[None], t[None].float(), mask)
    assert votes.shape == (3, 12)
    votes[1].sum().backward()
    assert head.inner_MFH.grad is not None
    assert head.inner_MFH.grad[1].abs().sum() > 0
    assert head.inner_MFH.grad[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("num_frames", [1, 2, 70])
def test_a_video_of_any_length_is_scored_in_windows(num_frames: int) -> None:
    head = settled_head()
    x, t = footage(2, num_frames)
    logits = score_logits(head, x.numpy(), t.numpy(), 32)
    assert logits.shape == (num_frames,)
    assert np.isfinite(logits).all()


def test_the_spec_names_the_head_and_its_committee() -> None:
    spec = HighlighterSpec(**{**TINY.__dict__, "temporal": "multiscale", "num_members": 5})
    assert HighlighterSpec.from_json(spec.to_json()) == spec
    head = build_head(spec)
    assert isinstance(head, MultiScaleHead)
    assert head.inner_MFH.shape[0] == 5
    old = {key: value for key, value in TINY.to_json().items() if key != "num_members"}
    assert HighlighterSpec.from_json(old).num_members == 1
    with pytest.raises(ShapeError, match="0 members"):
        HighlighterSpec(**{**TINY.__dict__, "num_members": 0})
