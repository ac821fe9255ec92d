"""Token merging: what is matched, what is averaged, and that nothing is lost where nothing differs."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
from open_clip.transformer import ResidualAttentionBlock

from models.errors import ModelError, ParamsError, ShapeError
from models.token_merging import (
    NO_MERGING,
    MergeSchedule,
    attend,
    match_tokens,
    merge_schedule,
    merge_tokens,
    merging_block,
    most_merged,
)

WIDTH, HEADS = 16, 2


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    block = ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=0.7).eval()
    with torch.no_grad():
        for name, weight in block.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.3)  # they start at 0, and one that is dropped would pass
    return block


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def matchings(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Keys [N, L, K] and a number of pairs that they have."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 20)), draw(st.integers(1, 6)))
    return noise(*shape, seed=draw(st.integers(0, 99))), draw(st.integers(0, most_merged(shape[1])))


@settings(max_examples=80, deadline=None)
@given(matchings())
def test_every_token_has_a_group_every_group_a_token_and_the_class_token_its_own(drawn: tuple[Tensor, int]) -> None:
    keys, num_merged = drawn
    groups = match_tokens(keys, num_merged)
    assert groups.shape == keys.shape[:2]
    num_groups = keys.shape[1] - num_merged
    for row in groups.tolist():
        assert sorted(set(row)) == list(range(num_groups))
        assert row[0] == 0
        assert 0 not in row[1:]


@settings(max_examples=80, deadline=None)
@given(matchings(), st.integers(0, 99), st.booleans())
def test_sizes_and_sums_are_kept(drawn: tuple[Tensor, int], seed: int, all_one: bool) -> None:
    keys, num_merged = drawn
    num_frames, num_tokens = keys.shape[:2]
    x = noise(num_frames, num_tokens, 5, seed=seed)
    sizes = None if all_one else torch.randint(1, 9, (num_frames, num_tokens), generator=torch.Generator()).float()
    merged, merged_sizes = merge_tokens(x, sizes, match_tokens(keys, num_merged), num_tokens - num_merged)
    assert merged.shape == (num_frames, num_tokens - num_merged, 5)
    sizes = torch.ones(num_frames, num_tokens) if sizes is None else sizes
    torch.testing.assert_close(merged_sizes.sum(1), sizes.sum(1), rtol=0, atol=0)
    torch.testing.assert_close(
        (merged * merged_sizes[..., None]).sum(1), (x * sizes[..., None]).sum(1), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(merged[:, 0], x[:, 0], rtol=0, atol=0)


def test_the_most_alike_pair_merges_whatever_its_length() -> None:
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.1], [30.0, 2.9], [0.5, -1.0]]])
    groups = match_tokens(keys, 1)[0]  # the sets are {2, 4} and {1, 3, 5}; 4 points where 1 does
    assert groups[4] == groups[1]
    assert len(set(groups.tolist())) == 5


def test_several_tokens_can_join_one() -> None:
    keys = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [1.0, 0.1], [0.0, -1.0], [1.0, -0.1]]])
    x = torch.tensor([[[7.0], [3.0], [6.0], [5.0], [9.0]]])
    merged, sizes = merge_tokens(x, torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0]]), match_tokens(keys, 2), 3)
    assert merged.flatten().tolist() == pytest.approx([7, (2 * 3 + 6 + 9) / 4, 5])
    assert sizes.tolist() == [[1, 4, 1]]


def test_the_matching_agrees_with_the_paper_step_by_step() -> None:
    """Section 3.1, written out with loops."""
    keys, num_merged = noise(3, 12, 4), 3
    for frame, groups in zip(keys, match_tokens(keys, num_merged).tolist(), strict=True):
        first, second = range(2, 12, 2), range(1, 12, 2)
        edges = []
        for token in first:
            likeness = [float(torch.cosine_similarity(frame[token], frame[other], dim=0)) for other in second]
            edges.append((max(likeness), token, second[likeness.index(max(likeness))]))
        expected = {frozenset(edge[1:]) for edge in sorted(edges, reverse=True)[:num_merged]}
        found = {frozenset((a, b)) for a in first for b in second if groups[a] == groups[b]}
        assert found == expected


def test_a_frame_is_matched_alone() -> None:
    keys = noise(4, 9, 4)
    together = match_tokens(keys, 3)
    for index in range(4):
        torch.testing.assert_close(match_tokens(keys[index : index + 1], 3)[0], together[index])


def test_attention_is_that_of_the_module(block: nn.Module) -> None:
    x = noise(3, 7, WIDTH)
    expected = block.attn(x, x, x, need_weights=False)[0]
    for sizes in (None, torch.ones(3, 7)):
        out, keys = attend(block.attn, x, sizes)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
        stacked = x @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        by_head = stacked[:, :, WIDTH : 2 * WIDTH].unflatten(2, (HEADS, WIDTH // HEADS))  # after queries, before values
        torch.testing.assert_close(keys, by_head.mean(2), rtol=1e-5, atol=1e-6)


def test_a_token_of_size_three_counts_as_three(block: nn.Module) -> None:
    x = noise(2, 4, WIDTH)
    repeated = x[:, [0, 1, 1, 1, 2, 3, 3]]
    out, keys = attend(block.attn, x, torch.tensor([[1.0, 3, 1, 2], [1.0, 3, 1, 2]]))
    expected, expected_keys = attend(block.attn, repeated, None)
    torch.testing.assert_close(out, expected[:, [0, 1, 4, 5]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(keys, expected_keys[:, [0, 1, 4, 5]], rtol=1e-5, atol=1e-6)


def test_a_block_that_merges_nothing_is_the_block(block: nn.Module) -> None:
    x = noise(2, 9, WIDTH)
    expected = block(x)
    untouched, sizes = merging_block(block, x, None, 0)
    assert sizes is None
    torch.testing.assert_close(untouched, expected, rtol=0, atol=0)
    written_out, _ = merging_block(block, x, torch.ones(2, 9), 0)
    torch.testing.assert_close(written_out, expected, rtol=1e-5, atol=1e-5)


def test_merging_exact_duplicates_loses_nothing(block: nn.Module) -> None:
    half = noise(2, 5, WIDTH)
    x = half[:, [0, 1, 1, 2, 2, 3, 3, 4, 4]]
    merged, sizes = merging_block(block, x, None, 4)
    assert sizes is not None
    assert sizes.tolist() == [[1, 2, 2, 2, 2]] * 2
    for num_merged in (0, 1):  # and of unlike tokens behind them
        after, _ = merging_block(block, merged, sizes, num_merged)
        if num_merged == 0:
            torch.testing.assert_close(after, block(block(x))[:, [0, 1, 3, 5, 7]], rtol=1e-5, atol=1e-5)
        assert after.shape == (2, 5 - num_merged, WIDTH)


def test_gradients_flow_through_merging(block: nn.Module) -> None:
    x = noise(2, 9, WIDTH).requires_grad_()
    merging_block(block, x, None, 3)[0].sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(-1) > 0).all())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(1, 24), st.integers(1, 300), st.sampled_from(["constant", "decreasing"]))
def test_every_schedule_fits_its_tower(num_merged: int, num_blocks: int, num_tokens: int, kind: str) -> None:
    schedule = merge_schedule(kind, num_merged, num_blocks, num_tokens)  # type: ignore[arg-type]
    left = schedule.tokens_left(num_tokens, num_blocks)
    assert left[-1] == num_tokens - sum(schedule.num_merged) >= 1
    assert list(left) == sorted(left, reverse=True)
    if num_tokens > 4 * num_merged * (num_blocks + 1):  # enough for all that was asked
        assert sum(schedule.num_merged) == num_merged * num_blocks
        assert list(schedule.num_merged) == sorted(schedule.num_merged, reverse=True)


def test_schedules_by_hand() -> None:
    assert merge_schedule("constant", 4, 3, 50).num_merged == (4, 4, 4)
    assert merge_schedule("decreasing", 4, 5, 50).num_merged == (8, 6, 4, 2, 0)
    assert merge_schedule("decreasing", 4, 4, 50).num_merged == (8, 5, 3, 0)
    assert merge_schedule("constant", 16, 4, 50).num_merged == (16, 16, 8, 4)
    assert merge_schedule("decreasing", 3, 1, 50).num_merged == (3,)


def test_schedule_is_stored_as_json_and_absent_means_none() -> None:
    schedule = merge_schedule("decreasing", 4, 5, 50)
    assert MergeSchedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    assert MergeSchedule.from_json(None) == NO_MERGING
    assert NO_MERGING.tokens_left(50, 3) == (50, 50, 50)


@pytest.mark.parametrize("value", [{}, {"num_merged": 3}, {"num_merged": [1.5]}, {"num_merged": [-1]}, {"r": [1]}])
def test_damaged_schedule_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="merge schedule"):
        MergeSchedule.from_json(value)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ParamsError, match="2 blocks for a tower of 3"):
        MergeSchedule((1, 1)).tokens_left(50, 3)
    with pytest.raises(ParamsError, match="block 1 cannot merge 3 of 6 tokens; at most 2"):
        MergeSchedule((3, 3)).tokens_left(9, 2)
    with pytest.raises(ParamsError, match="'quadratic'"):
        merge_schedule("quadratic", 1, 1, 9)  # type: ignore[arg-type]
    with pytest.raises(ParamsError, match="-1 tokens a block"):
        merge_schedule("constant", -1, 1, 9)
    with pytest.raises(ShapeError, match="5 pairs"):
        match_tokens(noise(1, 10, 4), 5)
    with pytest.raises(ShapeError, match="sizes and groups"):
        merge_tokens(noise(1, 4, 2), None, torch.zeros(1, 3, dtype=torch.long), 2)
