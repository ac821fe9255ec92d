"""Highlights that look alike, and edges that move to shot boundaries."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.duplicates import without_duplicates
from models.embedding_track import EmbeddingTrack, EmbeddingTrackBuilder, unit
from models.errors import ShapeError
from models.snapping import snap_spans
from models.spans import Span
from models.video import Sampling, iterate_frames

REAL = Path(__file__).resolve().parents[3] / "shared/data"
rows = st.lists(
    st.tuples(st.integers(0, 4), st.tuples(*[st.integers(-3, 3)] * 3)), max_size=12
)  # score in quarters, vector


def split(found: list[tuple[int, tuple[int, ...]]]) -> tuple[list[float], np.ndarray]:
    return [score / 4 for score, _ in found], np.array([v for _, v in found], float).reshape(len(found), 3)


@given(rows, st.floats(0.05, 1))
def test_no_two_that_stay_are_alike_and_each_that_goes_is_like_a_better_one(
    found: list[tuple[int, tuple[int, ...]]], limit: float
) -> None:
    scores, looks = split(found)
    kept = without_duplicates(scores, looks, limit)
    units = unit(looks)
    cosines = units @ units.T
    assert kept == sorted(set(kept))
    assert all(cosines[a, b] < limit for a in kept for b in kept if a != b)
    for gone in set(range(len(scores))) - set(kept):
        assert any(cosines[gone, k] >= limit - 1e-5 and (scores[k], -k) > (scores[gone], -gone) for k in kept), (
            "it left for nothing"
        )
    again = without_duplicates([scores[k] for k in kept], looks[kept], limit)
    assert again == list(range(len(kept)))


@given(rows)
def test_length_means_nothing_and_a_highlight_is_like_itself(found: list[tuple[int, tuple[int, ...]]]) -> None:
    scores, looks = split(found)
    assert without_duplicates(scores, looks * 7.3, 0.9) == without_duplicates(scores, looks, 0.9)
    twice = without_duplicates(scores * 2, np.concatenate([looks, looks * 3]), 1.0)
    assert all(k < len(scores) or not looks[k - len(scores)].any() for k in twice)


@pytest.mark.parametrize(
    ("scores", "looks", "limit", "words"),
    [
        ([0.5], np.zeros((0, 2)), 0.9, "1 scores and embeddings"),
        ([0.5], np.full((1, 2), np.nan), 0.9, "finite"),
        ([0.5], np.ones((1, 2)), 0.0, "above 0"),
    ],
)
def test_highlights_and_embeddings_that_do_not_fit_are_refused(
    scores: list[float], looks: np.ndarray, limit: float, words: str
) -> None:
    with pytest.raises(ShapeError, match=words):
        without_duplicates(scores, looks, limit)


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 50), min_size=2, max_size=16, unique=True),
    st.lists(st.floats(-5, 60), max_size=12),
    st.floats(0.01, 20),
)
def test_snapping_keeps_all_spans_apart_and_inside(times_s: list[float], shots_s: list[float], snap_s: float) -> None:
    edges = sorted(times_s)
    spans = [Span(a, b, 0.5) for a, b in list(pairwise(edges))[::2]]
    moved = snap_spans(spans, shots_s, snap_s, 50.0)
    assert len(moved) == len(spans)
    assert all(a.end_s <= b.start_s for a, b in pairwise(moved))
    assert all(0 <= span.start_s < span.end_s <= 50 for span in moved)
    for old, new in zip(spans, moved, strict=True):
        assert abs(old.start_s - new.start_s) <= snap_s
        assert abs(old.end_s - new.end_s) <= snap_s
        for before, after in ((old.start_s, new.start_s), (old.end_s, new.end_s)):
            assert after == before or after in (0.0, 50.0) or after in shots_s
    assert snap_spans(moved, shots_s, snap_s, 50.0) == moved or any(
        (a.start_s, a.end_s) == (b.start_s, b.end_s) for a, b in zip(spans, moved, strict=True)
    )


def look_at(clip: Path, session: Any) -> EmbeddingTrack:
    """Return the look of a clip by an ImageNet network, a frame a second."""
    builder = EmbeddingTrackBuilder(1.0)
    for time_s, pixels in iterate_frames(clip, Sampling(1.0, 224, "squash")):
        image = ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)
        features = session.run(["view"], {"image": image.transpose(2, 0, 1)[None]})[0]
        builder.add(np.array([time_s]), np.reshape(features, (1, -1)))
    return builder.build()


def test_the_same_footage_in_two_files_is_one_highlight_and_other_elephants_are_not() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/data")
    model = onnx.load(REAL / "models/mobilenet_v2_int8.onnx")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("view"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ["elephant_tree_a.mp4", "elephant_tree_b.webm", "elephant_small_10fps.mp4", "elephant_forest_walk.mp4"]
    names += ["tiger_small_10fps.mp4", "goat_davis.mp4"]
    looks = [look_at(REAL / "wildlife" / name, session).mean_over(0, 60) for name in names]
    scores = [0.9 if name.endswith("webm") else 0.8 for name in names]
    kept = without_duplicates(scores, np.stack(looks), 0.9)
    assert [name for index, name in enumerate(names) if index not in kept] == ["elephant_tree_a.mp4"]
