"""From scores to highlights: as before to the byte, the rules of each step, and what holds whatever is asked."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embedding_track import EmbeddingTrack, EmbeddingTrackBuilder
from models.errors import ParamsError, ShapeError
from models.selection import SelectionParams, rank, select, with_model, within_budget
from models.spans import ScoreTrack, Span, spans_above

TOLERANCE_S = 1e-5


@dataclass(frozen=True)
class Model:
    threshold: float = 0.5
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0


def params(**values: Any) -> SelectionParams:
    return with_model(SelectionParams(**values), Model())


def track(scores: list[float], step_s: float = 1.0) -> ScoreTrack:
    return ScoreTrack(np.arange(len(scores)) * step_s, np.array(scores, np.float32), len(scores) * step_s)


def bounds(spans: Any) -> list[tuple[float, float]]:
    return [(span.start_s, span.end_s) for span in spans]


@st.composite
def tracks(draw: st.DrawFn, dyadic: bool = False) -> ScoreTrack:
    """Uneven times; with `dyadic` times and scores are eighths, so that sums are exact."""
    if dyadic:
        gaps = np.array(draw(st.lists(st.integers(1, 24), min_size=1, max_size=60))) / 8
        scores = np.array(draw(st.lists(st.integers(0, 8), min_size=len(gaps), max_size=len(gaps)))) / 8
        first = 0.0
    else:
        gaps = np.array(draw(st.lists(st.floats(0.01, 5), min_size=1, max_size=60)))
        scores = np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=len(gaps), max_size=len(gaps))))
        first = draw(st.floats(0, 3))
    times_s = first + np.concatenate([[0.0], np.cumsum(gaps)])
    return ScoreTrack(times_s[:-1], scores.astype(np.float32), float(times_s[-1]))


@st.composite
def requests(draw: st.DrawFn) -> SelectionParams:
    threshold = draw(st.floats(0, 1))
    least_s = draw(st.sampled_from([0.0, 0.3, 1.0, 2.5]))
    optional = {
        "hold_threshold": st.floats(0, threshold),
        "max_duration_s": st.floats(max(least_s, 0.1), 12),
        "duplicate_cosine": st.floats(0.1, 1),
        "top_k": st.integers(0, 5),
        "budget_s": st.floats(0, 20),
        "snap_s": st.floats(0.1, 4),
    }
    return SelectionParams(
        threshold=threshold,
        min_duration_s=least_s,
        merge_gap_s=draw(st.sampled_from([0.0, 0.5, 2.0])),
        too_long=draw(st.sampled_from(["cut", "best"])),
        over_budget=draw(st.sampled_from(["drop", "trim"])),
        **{name: draw(values) for name, values in optional.items() if draw(st.booleans())},
    )


def looks_of(scored: ScoreTrack, seed: int = 0) -> EmbeddingTrack:
    builder = EmbeddingTrackBuilder(1.0)
    features = np.random.default_rng(seed).normal(size=(len(scored.times_s), 4)) + 0.7
    builder.add(scored.times_s, features)
    return builder.build()


shots = st.lists(st.floats(-5, 150, allow_nan=False), max_size=12)


@given(tracks(), st.floats(0, 1), st.floats(0, 4), st.floats(0, 4))
def test_the_defaults_are_the_models_own_spans_to_the_byte(
    scored: ScoreTrack, threshold: float, least_s: float, gap_s: float
) -> None:
    expected = spans_above(scored, threshold, min_duration_s=least_s, merge_gap_s=gap_s)
    found = select(scored, with_model(SelectionParams(), Model(threshold, least_s, gap_s))).spans
    as_bytes = [json.dumps([[s.start_s, s.end_s, s.score] for s in spans]) for spans in (expected, found)]
    assert as_bytes[0] == as_bytes[1]


def test_a_threshold_between_two_floats_selects_what_it_selected_before() -> None:
    scored = track([0.7])  # float32 0.7 lies below 0.7, and counted
    assert bounds(select(scored, params(threshold=0.7)).spans) == bounds(spans_above(scored, 0.7)) == [(0.0, 1.0)]


@settings(max_examples=250, deadline=None)
@given(tracks(), requests(), shots)
def test_whatever_is_asked_for_holds(scored: ScoreTrack, wanted: SelectionParams, shots_s: list[float]) -> None:
    found = select(scored, wanted, embeddings=looks_of(scored), shots_s=shots_s)
    spans = found.spans
    assert all(a.end_s <= b.start_s for a, b in pairwise(spans))  # in order, disjoint
    assert all(0 <= span.start_s < span.end_s <= scored.duration_s for span in spans)
    assert all(span.score is not None and 0 <= span.score <= 1 for span in spans)
    assert all(span.duration_s >= wanted.min_duration_s - TOLERANCE_S for span in spans)
    if wanted.max_duration_s is not None:
        assert all(span.duration_s <= wanted.max_duration_s + TOLERANCE_S for span in spans)
    if wanted.top_k is not None:
        assert len(spans) <= wanted.top_k
    if wanted.budget_s is not None:
        assert sum(span.duration_s for span in spans) <= wanted.budget_s + TOLERANCE_S
    if not spans:
        assert found.note.startswith("no highlight: ")
    assert select(scored, wanted, embeddings=looks_of(scored), shots_s=shots_s[::-1]) == found


@settings(deadline=None)
@given(tracks(), requests(), st.integers(0, 6))
def test_a_larger_k_only_adds(scored: ScoreTrack, wanted: SelectionParams, k: int) -> None:
    plain = wanted.model_copy(update={"snap_s": None, "budget_s": None})
    few, more = (
        select(scored, plain.model_copy(update={"top_k": n}), embeddings=looks_of(scored)).spans for n in (k, k + 1)
    )
    assert set(bounds(few)) <= set(bounds(more))
    assert len(more) - len(few) in (0, 1)
    rest = set(more) - set(few)
    assert all(extra.score <= kept.score for extra in rest for kept in few)  # type: ignore[operator]


@settings(deadline=None)
@given(tracks(), requests(), st.floats(0, 20), st.floats(0, 20))
def test_a_larger_budget_only_adds_where_what_does_not_fit_is_dropped(
    scored: ScoreTrack, wanted: SelectionParams, one_s: float, other_s: float
) -> None:
    plain = wanted.model_copy(update={"snap_s": None, "over_budget": "drop"})
    few, more = (
        set(select(scored, plain.model_copy(update={"budget_s": s}), embeddings=looks_of(scored)).spans)
        for s in sorted((one_s, other_s))
    )
    assert few <= more


@settings(deadline=None)
@given(tracks(dyadic=True), st.integers(0, 800), st.integers(0, 8), st.integers(0, 8), st.integers(0, 16))
def test_shifting_the_video_shifts_the_highlights(
    scored: ScoreTrack, by: int, threshold: int, hold: int, gap: int
) -> None:
    wanted = params(
        threshold=threshold / 8, hold_threshold=min(hold, threshold) / 8, merge_gap_s=gap / 8, max_duration_s=4.0,
        top_k=3,
    )  # fmt: skip
    shift = by / 8
    later = ScoreTrack(scored.times_s + shift, scored.scores, scored.duration_s + shift)
    moved = [(start + shift, end + shift) for start, end in bounds(select(scored, wanted).spans)]
    assert bounds(select(later, wanted).spans) == moved


@settings(deadline=None)
@given(tracks(dyadic=True), st.integers(0, 8), st.integers(0, 8), st.integers(0, 16), st.integers(0, 8))
def test_a_video_backwards_has_its_highlights_backwards(
    scored: ScoreTrack, threshold: int, hold: int, gap: int, least: int
) -> None:
    wanted = params(
        threshold=threshold / 8,
        hold_threshold=min(hold, threshold) / 8,
        merge_gap_s=gap / 8,
        min_duration_s=least / 8,
    )
    end_s = scored.duration_s
    backwards = ScoreTrack(end_s - scored.ends_s()[::-1], scored.scores[::-1].copy(), end_s)
    mirrored = [(end_s - end, end_s - start) for start, end in bounds(select(scored, wanted).spans)][::-1]
    assert bounds(select(backwards, wanted).spans) == mirrored


@settings(deadline=None)
@given(tracks(), requests())
def test_selecting_again_from_what_was_selected_changes_nothing(scored: ScoreTrack, wanted: SelectionParams) -> None:
    # Not where edges are cut inside a frame's stretch or parts touch: a track of frames cannot say that.
    plain = wanted.model_copy(
        update={"snap_s": None, "max_duration_s": None, "duplicate_cosine": None, "over_budget": "drop"}
    )
    spans = select(scored, plain).spans
    inside = np.array([any(span.start_s <= time_s < span.end_s for span in spans) for time_s in scored.times_s])
    scores = np.zeros(len(inside), np.float32)
    for span in spans:
        scores[(scored.times_s >= span.start_s) & (scored.times_s < span.end_s)] = span.score
    again = ScoreTrack(
        scored.times_s, np.where(inside, np.maximum(scores, np.float32(plain.threshold)), 0), scored.duration_s
    )
    if plain.threshold > 0:
        assert bounds(select(again, plain.model_copy(update={"hold_threshold": None})).spans) == bounds(spans)


def test_a_highlight_holds_both_ways_while_the_score_stays_at_the_lower_threshold() -> None:
    scored = track([0.1, 0.4, 0.9, 0.4, 0.1, 0.4, 0.4, 0.1])
    assert bounds(select(scored, params(threshold=0.8)).spans) == [(2, 3)]
    assert bounds(select(scored, params(threshold=0.8, hold_threshold=0.3)).spans) == [(1, 4)]


def test_what_is_too_long_is_cut_at_its_valleys_and_no_part_is_a_scrap() -> None:
    scored = track([0.9, 0.9, 0.8, 0.9, 0.9, 0.9, 0.6, 0.7, 0.9, 0.9])
    found = select(scored, params(max_duration_s=5)).spans
    assert bounds(found) == [(0, 3), (3, 7), (7, 10)]  # at 7 s first: 6 s is a lower valley only for one of its sides
    assert all(span.duration_s >= 2.5 for span in found)


def test_of_what_is_too_long_the_best_part_is_kept() -> None:
    scored = track([0.6, 0.6, 0.9, 0.8, 0.6, 0.7])
    found = select(scored, params(max_duration_s=2, too_long="best"))
    assert bounds(found.spans) == [(2, 4)]
    assert found.spans[0].score == pytest.approx(0.85)


def test_what_cannot_be_two_whole_highlights_is_one() -> None:
    found = select(track([0.9, 0.9, 0.6, 0.9, 0.9]), params(max_duration_s=4, min_duration_s=3)).spans
    assert bounds(found) == [(0, 4)]


def test_a_cut_falls_on_a_shot_boundary_where_there_is_one() -> None:
    scored = track([0.9] * 4 + [0.6] + [0.9] * 5)
    assert bounds(select(scored, params(max_duration_s=9)).spans) == [(0, 5), (5, 10)]
    found = select(scored, params(max_duration_s=9, snap_s=0.1), shots_s=[5.25]).spans
    assert bounds(found) == [(0, 5.25), (5.25, 10)]


def test_of_two_that_look_alike_the_better_stays() -> None:
    scored = track([0.9, 0.0, 0.8, 0.0, 0.7])
    builder = EmbeddingTrackBuilder(1.0)
    builder.add(scored.times_s, np.array([[1, 0], [0, 1], [1, 0.1], [0, 1], [0, 1]], float))
    found = select(scored, params(duplicate_cosine=0.9), embeddings=builder.build())
    assert bounds(found.spans) == [(0, 1), (4, 5)]
    assert found.note == "left out: 1 like a better one"


def test_the_last_one_in_the_budget_is_dropped_or_trimmed_to_its_best_part() -> None:
    scored = track([0.9, 0.9, 0.0, 0.6, 0.8, 0.7, 0.0, 0.55])
    dropped = select(scored, params(budget_s=4))
    assert bounds(dropped.spans) == [(0, 2)]
    assert dropped.note == "left out: 2 beyond the budget of 4 s"
    assert bounds(select(scored, params(budget_s=4, over_budget="trim")).spans) == [(0, 2), (4, 6)]
    too_little = params(budget_s=3, over_budget="trim", min_duration_s=1.5)
    assert bounds(select(scored, too_little).spans) == [(0, 2)]


def test_a_budget_is_met_exactly_whatever_floats_say() -> None:
    tenths = [Span(i, i + 0.1, 0.9) for i in range(10)]
    assert len(within_budget(rank(tenths), 1.0)) == 10
    assert within_budget([Span(0, 1, 0.9), Span(2, 3.005, 0.8)], 2.0) == [Span(0, 1, 0.9)]


def test_edges_move_to_shot_boundaries_and_spans_stay_apart() -> None:
    scored = track([0.0, 0.9, 0.9, 0.0, 0.9, 0.0, 0.0])
    found = select(scored, params(snap_s=1.0), shots_s=[0.5, 3.5, 40.0, -3.0]).spans
    assert bounds(found) == [(0.5, 3.5), (3.5, 5.0)]
    assert found[0].score == pytest.approx(0.9)  # of the frames that made it


def test_a_highlight_that_would_vanish_between_boundaries_stays_where_it_was() -> None:
    found = select(track([0.0, 0.9, 0.0, 0.0]), params(snap_s=2.0), shots_s=[1.4]).spans
    assert bounds(found) == [(1, 2)]


@pytest.mark.parametrize(
    ("scored", "wanted", "why"),
    [
        (None, {}, "no frame was scored"),
        (track([0.2, 0.3]), {}, "highest score 0.3 is below the threshold 0.5"),
        (track([0.9]), {"budget_s": 0}, "the budget is 0 s"),
        (track([0.9]), {"top_k": 0}, "best 0"),
        (track([0.9]), {"min_duration_s": 2}, "1 shorter than 2 s"),
        (track([0.9]), {"budget_s": 0.5}, "1 beyond the budget of 0.5 s"),
    ],
)
def test_an_empty_result_says_why(scored: ScoreTrack | None, wanted: dict[str, Any], why: str) -> None:
    found = select(scored, params(**wanted))
    assert found.spans == ()
    assert found.note.startswith("no highlight: ")
    assert why in found.note


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hold_threshold": 0.6}, "at most threshold, 0.5"),
        ({"threshold": 0.3, "hold_threshold": 0.4}, "at most threshold, 0.3"),
        ({"min_duration_s": 3, "max_duration_s": 2}, "at least min_duration_s, 3 s"),
    ],
)
def test_contradictions_are_refused_in_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises((ParamsError, ValueError), match=words):
        params(**values)


def test_what_is_needed_and_missing_is_named() -> None:
    with pytest.raises(ShapeError, match="duplicate_cosine needs an embedding track"):
        select(track([0.9]), params(duplicate_cosine=0.9))
    with pytest.raises(ShapeError, match="snap_s needs shot boundaries"):
        select(track([0.9]), params(snap_s=1))
    with pytest.raises(ShapeError, match="threshold is not settled"):
        select(track([0.9]), SelectionParams())


def test_ten_hours_are_selected_in_seconds() -> None:
    rng = np.random.default_rng(0)
    scores = np.clip(np.repeat(rng.random(3600), 20) + 0.1 * rng.normal(size=72_000), 0, 1)
    long = ScoreTrack(np.arange(72_000) / 2, scores.astype(np.float32), 36_000.0)
    wanted = params(
        threshold=0.7, hold_threshold=0.5, merge_gap_s=1, min_duration_s=1, max_duration_s=8, top_k=100, budget_s=300,
        over_budget="trim", snap_s=1,
    )  # fmt: skip
    found = select(long, wanted, shots_s=np.arange(0, 36_000, 7.5).tolist()).spans
    assert 290 <= sum(span.duration_s for span in found) <= 300.001
