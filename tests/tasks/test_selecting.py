"""From what a user asks for to highlights with categories, on real and on drawn footage."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.category import from_prompts, no_categories
from models.embedding_track import EmbeddingTrackBuilder
from models.errors import ParamsError, ShapeError
from models.seeking import iterate_between
from models.selection import SelectionParams, select
from models.shots import shots_of_file
from models.spans import ScoreTrack
from models.video import Sampling
from tasks.selecting import (
    OPTIONS,
    HighlightFinder,
    asked_of,
    rows_of,
    select_highlights,
    selection_of,
    shots_within,
    stretches_to_search,
)

CLIP = Path(__file__).resolve().parents[3] / "shared/data/wildlife/elephant_road_then_truck.mp4"
MODEL: Any = SimpleNamespace(threshold=0.5, min_duration_s=0.5, merge_gap_s=0.75)


def track(scores: list[float], step_s: float = 1.0) -> ScoreTrack:
    return ScoreTrack(np.arange(len(scores)) * step_s, np.array(scores, np.float32), len(scores) * step_s)


def test_what_is_not_asked_for_is_the_models_own() -> None:
    found = selection_of(dict.fromkeys(OPTIONS), MODEL)
    assert (found.threshold, found.min_duration_s, found.merge_gap_s) == (0.5, 0.5, 0.75)
    asked = selection_of({"threshold": 0.7, "hold": 0.3, "top": 3, "budget_s": 30.0, "snap": 1.0}, MODEL)
    assert (asked.threshold, asked.hold_threshold, asked.top_k, asked.budget_s, asked.snap_s) == (0.7, 0.3, 3, 30, 1)


def test_every_option_is_a_field_and_every_field_an_option() -> None:
    assert sorted(OPTIONS.values()) == sorted(SelectionParams.model_fields)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": -1}, "selection.top_k = -1"),
        ({"budget_s": float("nan")}, "budget_s"),
        ({"hold": 0.6}, "at most threshold, 0.5"),
        ({"max_length": 0.2}, "at least min_duration_s, 0.5 s"),
        ({"distinct": 1.5}, "duplicate_cosine = 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ParamsError, match=words) as raised:
        selection_of(options, MODEL)
    assert "\n" not in str(raised.value)


def test_what_is_written_is_as_before_where_nothing_new_is_asked_for() -> None:
    plain = select_highlights(track([0.9]), selection_of({}, MODEL))
    assert json.dumps(rows_of(plain)) == json.dumps([{"start_s": 0.0, "end_s": 1.0, "score": plain.spans[0].score}])
    own = selection_of({}, MODEL)
    assert asked_of(selection_of({"threshold": 0.2}, MODEL), own) is None
    asked = [asked_of(selection_of({"top": k}, MODEL), own) for k in (1, 1, 2)]
    assert json.loads(json.dumps(asked[0])) == asked[1] != asked[2]


def test_highlights_come_with_their_categories() -> None:
    scored = track([0.9, 0.9, 0.0, 0.0, 0.8, 0.8])
    builder = EmbeddingTrackBuilder(1.0)
    builder.add(scored.times_s, np.array([[1, 0]] * 3 + [[0, 1]] * 3, float))
    categoriser = from_prompts({"funny": np.array([[1.0, 0]]), "action": np.array([[0, 1.0]])}, 20.0)
    found = select_highlights(scored, selection_of({}, MODEL), builder.build(), categoriser)
    assert [category.name for category in found.categories if category] == ["funny", "action"]
    assert list(rows_of(found)[0]) == ["start_s", "end_s", "score", "category", "category_probability"]
    assert select_highlights(scored, selection_of({}, MODEL)).categories == (None, None)
    nothing = select_highlights(None, selection_of({"snap": 1.0}, MODEL), find_shots=lambda _: [])
    assert (nothing.spans, nothing.categories) == ((), ())
    assert "no frame was scored" in nothing.note
    with pytest.raises(ShapeError, match="snap_s needs shot boundaries"):
        select_highlights(scored, selection_of({"snap": 1.0}, MODEL))


@given(
    st.lists(st.sampled_from([0.1, 0.9]), min_size=1, max_size=60),
    st.lists(st.floats(0, 60), max_size=10),
    st.floats(0.1, 5),
)
def test_looking_near_the_edges_finds_all_that_could_move_them(
    scores: list[float], shots_s: list[float], snap_s: float
) -> None:
    scored, wanted = track(scores), selection_of({"snap": snap_s}, MODEL)
    stretches = stretches_to_search(scored, wanted)
    near = [cut for cut in shots_s if any(start <= cut < end for start, end in stretches)]
    assert all(0 <= start < end <= scored.duration_s for start, end in stretches)
    assert select(scored, wanted, shots_s=near) == select(scored, wanted, shots_s=shots_s)


def test_an_edge_moves_to_the_true_cut_of_real_footage_without_decoding_all_of_it() -> None:
    if not CLIP.is_file():
        pytest.skip("no ../shared/data")
    scored = track([0.9] * 5 + [0.1] * 3)  # the elephant is there for five seconds, by frames a second apart
    wanted = selection_of({"snap": 0.5}, MODEL)
    looked: list[tuple[float, float]] = []

    def frames_between(start_s: float, end_s: float) -> Any:
        looked.append((start_s, end_s))
        return iterate_between(CLIP, Sampling(30.0, 64, "squash"), start_s, end_s)

    found = select_highlights(scored, wanted, find_shots=lambda s: shots_within(s, frames_between))
    assert [(span.start_s, round(span.end_s, 3)) for span in found.spans] == [(0.0, 5.333)]
    assert found.spans[0].end_s in shots_of_file(CLIP)
    assert sum(end - start for start, end in looked) < 0.5 * 8.59
    assert HighlightFinder(wanted).finish(scored, CLIP) == found


def test_a_finder_gathers_while_a_video_streams_only_what_is_asked_for() -> None:
    scored = track([0.9, 0.0, 0.0, 0.8, 0.0, 0.0, 0.7])
    features = np.array([[1, 0.0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 0.05]])
    categoriser = from_prompts({"funny": features[:1], "action": features[1:2]}, 20.0)

    def finish(options: dict[str, Any], **more: Any) -> Any:
        finder = HighlightFinder(selection_of(options, MODEL), **more)
        for first in range(0, len(features), 3):
            finder.on_features(scored.times_s[first : first + 3], features[first : first + 3])
        return finder.finish(scored, Path("never opened"))

    assert len(finish({}).spans) == 3
    assert [span.start_s for span in finish({"distinct": 0.95}).spans] == [0, 3]
    named = finish({}, categoriser=categoriser).categories
    assert [category.name for category in named] == ["funny", "action", "funny"]
    assert finish({}, categoriser=no_categories("why")).categories == (None, None, None)
