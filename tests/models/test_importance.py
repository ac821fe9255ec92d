"""Importance of shots: what is refused, which shot a time falls in, pooling, and the highlights that it means."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ShapeError
from models.importance import (
    Importance,
    importance_of,
    list_scores,
    pool_to_shots,
    pool_track,
    shots_of,
    tell_misfit,
    top_spans,
)
from models.spans import ScoreTrack, Span, label_times

NAN = math.nan
scores_lists = st.integers(1, 12).flatmap(
    lambda num_shots: st.lists(
        st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=num_shots, max_size=num_shots), min_size=1, max_size=4
    ).filter(lambda lists: any(score is not None for shots in lists for score in shots))
)
lengths = st.sampled_from([0.04, 0.1, 1 / 3, 1.0, 2.0, 5.5])


def of(*lists: list[float | None], shot_s: float = 2.0) -> Importance:
    return importance_of(shot_s, lists)


@given(scores_lists, lengths)
def test_lists_come_back_as_they_were(lists: list[list[float | None]], shot_s: float) -> None:
    importance = importance_of(shot_s, lists)
    assert list_scores(importance) == lists
    assert importance == importance_of(shot_s, list_scores(importance))
    assert hash(importance) == hash(importance_of(shot_s, lists))
    assert (importance.num_annotators, importance.num_shots) == (len(lists), len(lists[0]))


def test_equal_means_equal_in_every_part() -> None:
    assert of([1, None]) != of([1, 2])
    assert of([1, None]) != of([1, None], shot_s=1.0)
    assert of([1, 2]) != of([1], [2])
    assert of([1, 2]) != "importance"


@pytest.mark.parametrize(
    ("lists", "shot_s", "reason"),
    [
        ([[1.0], [1.0, 2.0]], 2.0, "annotator 2 scored 2 shots, annotator 1 scored 1"),
        ([[None, None]], 2.0, "nobody scored any shot"),
        ([[]], 2.0, r"float64 \(1, 0\)"),
        ([], 2.0, "at least one of each"),
        ([[1.0]], 0.0, "shot_s 0.0"),
        ([[1.0]], NAN, "shot_s nan"),
        ([[1.0]], math.inf, "shot_s inf"),
        ([[1.0, math.inf]], 2.0, "1 scores are infinite"),
    ],
)
def test_what_is_no_importance_is_refused(lists: list[list[float | None]], shot_s: float, reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        importance_of(shot_s, lists)
    with pytest.raises(ShapeError, match="float64"):
        Importance(2.0, np.zeros((1, 2), np.float32))  # type: ignore[arg-type]


def test_the_mean_leaves_out_who_did_not_score() -> None:
    importance = of([1, None, None], [4, 3, None])
    np.testing.assert_array_equal(importance.mean_S, [2.5, 3.0, NAN])
    np.testing.assert_array_equal(importance.at(np.array([0.0, 1.99, 2.0, 3.5, 4.0, 99.0])), [2.5, 2.5, 3, 3, NAN, NAN])


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), lengths, st.integers(1, 20))
def test_a_time_lies_in_the_shot_whose_span_holds_it(times: list[float], shot_s: float, num_shots: int) -> None:
    times_s = np.array(times)
    found = shots_of(times_s, shot_s, num_shots)
    for shot in range(num_shots):
        inside = label_times(times_s, [Span(shot * shot_s, (shot + 1) * shot_s)]) == 1
        np.testing.assert_array_equal(found == shot, inside)
    assert np.all((found < num_shots) | (times_s >= num_shots * shot_s))


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1)), max_size=40), lengths, st.integers(1, 30))
def test_pooling_is_the_mean_of_what_lies_inside(frames: list[tuple[float, float]], shot_s: float, num: int) -> None:
    times_s, scores = np.array([time for time, _ in frames]), np.array([score for _, score in frames])
    pooled = pool_to_shots(times_s, scores, shot_s, num)
    for shot in range(num):
        inside = [score for time, score in frames if shot * shot_s <= time < (shot + 1) * shot_s]
        assert pooled[shot] == pytest.approx(np.mean(inside)) if inside else math.isnan(pooled[shot])


def test_pooling_refuses_what_is_no_score() -> None:
    with pytest.raises(ShapeError, match="1 of 2 scores are not finite"):
        pool_to_shots(np.array([0.0, 1.0]), np.array([0.5, NAN]), 2.0, 1)
    with pytest.raises(ShapeError, match=r"\(1,\) and scores \(2,\)"):
        pool_to_shots(np.array([0.0]), np.array([0.5, 0.5]), 2.0, 1)
    with pytest.raises(ShapeError, match="seconds from 0"):
        pool_to_shots(np.array([-1.0]), np.array([0.5]), 2.0, 1)


def test_a_frame_stands_for_the_shots_until_the_next() -> None:
    track = ScoreTrack(np.array([2.5, 9.0]), np.array([0.25, 0.75], np.float32), 11.0)
    pooled = pool_track(track, of([1.0] * 7))
    # Nothing stands for [0, 2); the frame at 2.5 s does for [4, 8); [12, 14) is after the end.
    np.testing.assert_array_equal(pooled, [NAN, 0.25, 0.25, 0.25, 0.75, 0.75, NAN])


@pytest.mark.parametrize(
    ("num_shots", "duration_s", "fits"),
    [
        (5, 10.0, True), (6, 10.0, True), (4, 10.0, True), (7, 10.0, False), (3, 10.0, False),
        (7, 11.9, True), (8, 11.9, False), (1, 0.5, True), (2, 0.5, True), (3, 0.5, False), (1, 3.9, True),
    ],
)  # fmt: skip
def test_labels_fit_their_video_to_a_shot(num_shots: int, duration_s: float, fits: bool) -> None:
    misfit = tell_misfit(of([1.0] * num_shots), duration_s)
    assert (not misfit) == fits
    if misfit:
        assert f"{num_shots} shots of 2 s covers {2 * num_shots:.2f} s" in misfit
        assert f"video of {duration_s:.2f} s" in misfit
        assert "\n" not in misfit


def test_a_wrong_shot_length_does_not_fit() -> None:
    assert "longer than" in tell_misfit(of([1.0] * 30, shot_s=2.0), 30.0)
    assert "shorter than" in tell_misfit(of([1.0] * 30, shot_s=0.5), 60.0)


def test_the_best_fifth_is_merged_and_cut_at_the_end() -> None:
    importance = of([0, 9, 8, 0, 0, 0, 0, 0, 0, 7], [0, 9, 8, 0, 0, 0, 0, 0, 0, 7])
    assert top_spans(importance, 0.2, 20.0) == [Span(2.0, 6.0)]
    assert top_spans(importance, 0.3, 19.5) == [Span(2.0, 6.0), Span(18.0, 19.5)]
    # Nine shots begin before 18 s, and the third best of them is a zero: all that tie with it are taken.
    assert top_spans(importance, 0.3, 18.0) == [Span(0.0, 18.0)]
    assert top_spans(of([1, 2, 3]), 0.01, 6.0) == [Span(4.0, 6.0)]


def test_ties_are_taken_together_and_unscored_shots_never() -> None:
    assert top_spans(of([2, 2, 2, None]), 0.2, 8.0) == [Span(0.0, 6.0)]
    assert top_spans(of([3, 1, 3, 1, 1]), 0.2, 10.0) == [Span(0.0, 2.0), Span(4.0, 6.0)]
    # Means that differ in the last bit only are the same importance.
    assert top_spans(of([0.1 + 0.2, 0, 0.3, 0, 0], shot_s=1.0), 0.2, 5.0) == [Span(0.0, 1.0), Span(2.0, 3.0)]


def test_the_rule_gives_the_highlights_of_tvsum(shared: Path) -> None:
    labels = json.loads((shared / "data" / "tvsum" / "labels.json").read_text())
    same = 0
    for label in labels.values():
        duration_s = label["duration_s"]
        found = top_spans(importance_of(label["shot_s"], [label["mean_scores"]]), 0.2, duration_s)
        wanted = [Span(start, min(end, duration_s)) for start, end in label["highlights"] if start < duration_s]
        same += found == wanted
    assert same >= len(labels) - 3  # its means are rounded, which adds a tie here and there
