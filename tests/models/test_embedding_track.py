"""What a video looks like over time: bounded, in any order, and read back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embedding_track import (
    EmbeddingTrack,
    EmbeddingTrackBuilder,
    read_embedding_track,
    write_embedding_track,
)
from models.errors import DataError, ShapeError

DIM = 6


def built(times_s: np.ndarray, features: np.ndarray, bucket_s: float = 1.0, **more: int) -> EmbeddingTrack:
    builder = EmbeddingTrackBuilder(bucket_s, **more)
    builder.add(times_s, features)
    return builder.build()


def one_hot(index: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[index]


def test_a_bucket_holds_the_mean_direction_and_not_the_length() -> None:
    track = built(np.array([0.0, 0.5, 3.25]), np.stack([one_hot(0) * 100, one_hot(1), one_hot(2)]))
    assert track.times_s.tolist() == [0.0, 3.0]
    assert track.vectors_KD.tolist() == [[0.5, 0.5, 0, 0, 0, 0], one_hot(2).tolist()]
    assert np.allclose(track.mean_over(0, 1), np.sqrt([0.5, 0.5, 0, 0, 0, 0]))


def test_a_mean_counts_buckets_by_the_seconds_that_they_share() -> None:
    track = built(np.array([0.0, 1.0]), np.stack([one_hot(0), one_hot(1)]))
    mean = track.mean_over(0.25, 1.25)  # three quarters of the first, one of the second
    assert mean[0] / mean[1] == pytest.approx(3)
    assert np.linalg.norm(mean) == pytest.approx(1)
    assert mean.dtype == np.float32


@pytest.mark.parametrize(("start_s", "end_s", "index"), [(4.0, 4.5, 0), (7.5, 8.0, 1), (50.0, 60.0, 1)])
def test_a_stretch_without_frames_looks_like_the_nearest(start_s: float, end_s: float, index: int) -> None:
    track = built(np.array([2.0, 9.0]), np.stack([one_hot(0), one_hot(1)]))
    assert track.mean_over(start_s, end_s).tolist() == one_hot(index).tolist()


def test_what_has_no_direction_is_like_nothing() -> None:
    track = built(np.array([0.0, 1.0]), np.zeros((2, DIM)))
    assert len(track.times_s) == 0
    assert not track.mean_over(0, 1).any()
    opposite = built(np.array([0.0, 0.5]), np.stack([one_hot(0), -one_hot(0)]))
    assert not opposite.mean_over(0, 1).any()


@settings(max_examples=40)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=40, unique=True), st.randoms(), st.integers(1, 7))
def test_order_and_batches_do_not_matter(ticks: list[int], random: object, size: int) -> None:
    times_s = np.array(sorted(ticks)) / 8
    features = np.random.default_rng(len(ticks)).normal(size=(len(ticks), DIM)) + 1
    whole = built(times_s, features)
    batches = EmbeddingTrackBuilder(1.0)
    for first in range(0, len(ticks), size):
        batches.add(times_s[first : first + size], features[first : first + size])
    assert np.array_equal(batches.build().vectors_KD, whole.vectors_KD)  # to the bit
    order = list(range(len(ticks)))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed = built(times_s[order], features[order])
    assert np.array_equal(mixed.times_s, whole.times_s)
    assert np.allclose(mixed.vectors_KD, whole.vectors_KD, atol=4e-3)


@settings(max_examples=40)
@given(st.integers(2, 9), st.lists(st.integers(0, 4000), min_size=1, max_size=60, unique=True))
def test_memory_has_a_ceiling_and_the_look_survives(most: int, ticks: list[int]) -> None:
    times_s = np.array(ticks) / 4
    features = np.abs(np.random.default_rng(1).normal(size=(len(ticks), DIM)))
    track = built(times_s, features, max_buckets=most)
    assert 1 <= len(track.times_s) <= most
    assert np.all(track.times_s % track.bucket_s == 0)
    held = {float(t // track.bucket_s * track.bucket_s) for t in times_s}
    assert set(track.times_s.tolist()) == held
    for start_s, vector in zip(track.times_s, track.vectors_KD, strict=True):
        inside = (times_s >= start_s) & (times_s < start_s + track.bucket_s)
        truth = (features / np.linalg.norm(features, axis=1, keepdims=True))[inside].mean(axis=0)
        assert np.allclose(vector, truth, atol=6e-3)


def test_ten_hours_take_no_more_memory_than_the_ceiling() -> None:
    builder = EmbeddingTrackBuilder(0.5, max_buckets=512)
    features = np.ones((720, DIM), np.float32)
    for hour in range(10):
        builder.add(hour * 3600 + np.arange(720) * 5.0, features)
    track = builder.build()
    assert len(track.times_s) <= 512
    assert track.times_s[-1] + track.bucket_s >= 10 * 3600 - 5
    assert np.allclose(track.mean_over(0, 36_000), 1 / np.sqrt(DIM), atol=1e-3)


@pytest.mark.parametrize(
    ("times_s", "features"),
    [
        (np.array([0.0]), np.ones((2, DIM))),
        (np.array([-1.0]), np.ones((1, DIM))),
        (np.array([np.nan]), np.ones((1, DIM))),
        (np.array([0.0]), np.full((1, DIM), np.inf)),
        (np.array([0.0]), np.ones(DIM)),
        (np.array([0.0]), np.ones((1, DIM + 1))),
    ],
)
def test_what_is_no_feature_is_refused(times_s: np.ndarray, features: np.ndarray) -> None:
    builder = EmbeddingTrackBuilder(1.0)
    builder.add(np.array([0.0]), np.ones((1, DIM)))
    with pytest.raises(ShapeError, match="embedding track"):
        builder.add(times_s, features)


@pytest.mark.parametrize("bucket_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bucket_of_no_length_is_refused(bucket_s: float) -> None:
    with pytest.raises(ShapeError, match="bucket_s"):
        EmbeddingTrackBuilder(bucket_s)


def test_it_is_read_back_and_a_damaged_file_says_so(tmp_path: Path) -> None:
    track = built(np.arange(5.0), np.random.default_rng(0).normal(size=(5, DIM)))
    path = tmp_path / "a.embedding.safetensors"
    write_embedding_track(path, track)
    again = read_embedding_track(path)
    assert np.array_equal(again.vectors_KD, track.vectors_KD)
    assert np.array_equal(again.times_s, track.times_s)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="score the video again"):
        read_embedding_track(path)
