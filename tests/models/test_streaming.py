"""The head over a stream says what it says of the whole video, as early as it can, and forgets the rest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.calibration import Calibration
from models.errors import ShapeError
from models.highlighter import score_logits, window_starts
from models.multiscale import MultiScaleHead
from models.streaming import HeadTrack, StreamingHead
from models.temporal import HighlightHead

DIM = 12
KINDS = ("none", "transformer", "lstm", "multiscale")


def head_of(kind: Any) -> nn.Module:
    torch.manual_seed(3)
    head = MultiScaleHead(DIM, 8, 3) if kind == "multiscale" else HighlightHead(DIM, 16, kind)
    return head.eval().requires_grad_(False)


HEADS = {kind: head_of(kind) for kind in KINDS}


def video(num_frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features, and times of a variable rate."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_frames, DIM)).astype(np.float32), np.cumsum(rng.uniform(0.02, 1.5, num_frames))


def portions(num_frames: int, sizes: Sequence[int]) -> list[slice]:
    """Cut `num_frames` by `sizes`, over and over."""
    cuts, start = [], 0
    while start < num_frames:
        size = sizes[len(cuts) % len(sizes)]
        cuts.append(slice(start, start + size))
        start += size
    return cuts


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    num_frames=st.integers(1, 90),
    window=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
)
def test_any_window_and_any_portions_give_the_whole_pass(
    kind: str, num_frames: int, window: int, sizes: list[int]
) -> None:
    features, times_s = video(num_frames, seed=num_frames)
    stream = StreamingHead(HEADS[kind], window)
    parts = [stream.feed(features[cut], times_s[cut]) for cut in portions(num_frames, sizes)]
    logits = np.concatenate([*parts, stream.finish()])
    assert logits.shape == (num_frames,)
    assert np.abs(logits - score_logits(HEADS[kind], features, times_s, window)).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(num_frames=st.integers(1, 60), window=st.integers(1, 20), more=st.integers(1, 40))
def test_what_is_given_is_final_and_nothing_final_is_held_back(num_frames: int, window: int, more: int) -> None:
    features, times_s = video(num_frames + 40)
    head = HEADS["transformer"]
    stream = StreamingHead(head, window)
    given_now = np.concatenate([stream.feed(features[i : i + 1], times_s[i : i + 1]) for i in range(num_frames)])
    whole = score_logits(head, features[: num_frames + more], times_s[: num_frames + more], window)
    assert np.abs(given_now - whole[: len(given_now)]).max(initial=0) < 1e-5
    # The next frame is one that some longer video's windows would still change: its count of windows differs.
    counts = {count_of_windows(len(given_now), num_frames + extra, window) for extra in range(41)}
    assert len(counts) > 1 or num_frames < window


def count_of_windows(frame: int, num_frames: int, window: int) -> tuple[int, ...]:
    """Return the starts of the windows that hold `frame` in a video of `num_frames`, by the rule of the whole pass."""
    length = min(window, num_frames)
    return tuple(s for s in window_starts(num_frames, window) if s <= frame < s + length)


@pytest.mark.parametrize("window", [1, 2, 7, 32])
def test_memory_does_not_grow_with_the_video(window: int) -> None:
    features, times_s = video(3000)
    stream = StreamingHead(HEADS["none"], window)
    held = []
    for cut in portions(3000, [32]):
        stream.feed(features[cut], times_s[cut])
        held.append(stream.num_held)
    assert max(held) <= window
    assert stream._features is not None
    assert stream._features.untyped_storage().nbytes() <= window * DIM * 4
    assert len(stream._total) <= 2 * window


def test_the_track_is_calibrated_and_complete() -> None:
    features, times_s = video(50)
    calibration = Calibration("temperature", temperature=2.0, bias=0.25)
    track = HeadTrack(HEADS["multiscale"], 16, calibration)
    for cut in portions(50, [7]):
        track.add(features[cut], times_s[cut])
    found = track.finish(float(times_s[-1]) + 1)
    assert np.array_equal(found.times_s, times_s)
    expected = calibration.apply(score_logits(HEADS["multiscale"], features, times_s, 16))
    assert np.abs(found.scores - expected).max() < 1e-5


def test_shapes_are_checked() -> None:
    features, times_s = video(4)
    stream = StreamingHead(HEADS["none"], 4)
    stream.feed(features, times_s)
    for bad, times in ((features[:, :5], times_s), (features, times_s[:2]), (features[0], times_s)):
        with pytest.raises(ShapeError):
            stream.feed(bad, times)
    with pytest.raises(ShapeError):
        StreamingHead(HEADS["none"], 0)
