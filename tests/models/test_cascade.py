"""Where the cascade looks: within its budget, the promising first, and on past the edge of what it found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cascade import (
    CascadeParams,
    Stretches,
    choose_stretches,
    covered,
    joined,
    next_stretches,
    promise_of,
    split_at_keyframes,
)
from models.errors import ShapeError
from models.spans import ScoreTrack, Span

GAPS = st.lists(st.floats(0.1, 20), min_size=1, max_size=30)


def track(times_s: list[float], scores: list[float], duration_s: float) -> ScoreTrack:
    return ScoreTrack(np.array(times_s), np.array(scores, np.float32), duration_s)


@given(GAPS, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_no_more_than_the_budget_is_decoded_and_nothing_twice(
    gaps: list[float], budget: float, at_least: float, seed: int
) -> None:
    edges_s = np.cumsum([0.0, *gaps])
    draw = np.random.default_rng(seed)
    stretches = Stretches(edges_s, draw.random(len(gaps)) < 0.2)
    promise_U = draw.random(len(gaps)).astype(np.float32)
    budget_s = max(budget * edges_s[-1], stretches.decoded_s)
    chosen = choose_stretches(stretches, promise_U, at_least, budget_s)
    assert not stretches.is_decoded[chosen].any()
    assert (promise_U[chosen] >= at_least).all()
    assert stretches.with_decoded(chosen).decoded_s <= budget_s + 1e-6
    left_s = budget_s - stretches.with_decoded(chosen).decoded_s
    others = np.setdiff1d(np.flatnonzero(~stretches.is_decoded & (promise_U >= at_least)), chosen)
    assert (stretches.lengths_s[others] > left_s - 1e-6).all()  # what was left out did not fit


def test_the_most_promising_stretch_is_decoded_first() -> None:
    stretches = split_at_keyframes([0, 2, 4, 6], 8)
    promise_U = np.array([0.1, 0.9, 0.5, 0.8], np.float32)
    assert choose_stretches(stretches, promise_U, 0.2, 4.0).tolist() == [1, 3]
    assert choose_stretches(stretches, promise_U, 0.85, 8.0).tolist() == [1]
    assert not len(choose_stretches(stretches, promise_U, 0.2, 0.0))


def test_a_promising_keyframe_opens_the_stretch_before_it_and_the_one_behind_it() -> None:
    stretches = split_at_keyframes([0, 2, 4, 6, 8], 10)
    first = track([0, 2, 4, 6, 8], [0.0, 0.0, 0.9, 0.0, 0.0], 10)
    chosen = next_stretches(stretches, first, 0.5, CascadeParams(budget=1.0), fps=2.0)
    assert joined(stretches, chosen) == [Span(2.0, 6.0)]


def test_what_borders_on_a_highlight_at_the_decoded_edge_follows_and_what_does_not_does_not() -> None:
    stretches = split_at_keyframes([0, 2, 4, 6, 8], 10).with_decoded(np.array([2]))
    params = CascadeParams(budget=1.0, promising=0.2)
    hot_end = track([0, 2, 4, 4.5, 5, 5.5, 6, 8], [0.2, 0.2, 0.3, 0.4, 0.7, 0.8, 0.3, 0.2], 10)
    assert next_stretches(stretches, hot_end, 0.5, params, fps=2.0).tolist() == [3]
    cold_ends = track([0, 2, 4, 4.5, 5, 5.5, 6, 8], [0.2, 0.2, 0.3, 0.9, 0.9, 0.3, 0.3, 0.2], 10)
    assert not len(next_stretches(stretches, cold_ends, 0.5, params, fps=2.0))


@given(GAPS, st.floats(0, 2))
def test_promise_is_the_highest_score_in_a_stretch_and_at_its_borders(gaps: list[float], near_s: float) -> None:
    edges_s = np.cumsum([0.0, *gaps])
    stretches = Stretches(edges_s, np.zeros(len(gaps), np.bool_))
    draw = np.random.default_rng(len(gaps))
    times_s = np.unique(np.concatenate([edges_s[:-1], draw.random(20) * edges_s[-1]]))
    scores = draw.random(len(times_s)).astype(np.float32)
    known = ScoreTrack(times_s, scores, float(edges_s[-1]) + 1)
    for index, promise in enumerate(promise_of(stretches, known, near_s)):
        held = (times_s >= edges_s[index] - near_s) & (times_s <= edges_s[index + 1])
        assert promise == scores[held].max()


def test_keyframes_outside_the_video_or_given_twice_make_no_stretch() -> None:
    assert split_at_keyframes([-1, 0, 3, 3, 12], 10).edges_s.tolist() == [0, 3, 10]
    assert split_at_keyframes([], 10).edges_s.tolist() == [0, 10]
    with pytest.raises(ShapeError, match="must increase strictly"):
        Stretches(np.array([0.0, 2.0, 1.0]), np.zeros(2, np.bool_))


def test_neighbours_are_one_span_and_one_seek() -> None:
    stretches = split_at_keyframes([0, 2, 4, 6, 8], 10)
    assert joined(stretches, np.array([0, 1, 3])) == [Span(0, 4), Span(6, 8)]
    assert joined(stretches, np.array([], np.int64)) == []


def test_recall_in_time_is_the_share_of_the_truth_that_was_found_and_undefined_without_any() -> None:
    assert covered([Span(0, 1), Span(4, 6)], [Span(0.5, 2.5), Span(5, 7)]) == pytest.approx(1.5 / 4)
    assert covered([], [Span(0, 1)]) == 0
    assert math.isnan(covered([Span(0, 1)], []))
