"""One video streamed through a model: decoding, the image tower and the time-aware head run at once, in threads.

    decode and batch  ->  embed  ->  head, track, hooks
       a thread          a thread     the caller's thread

At most `_AHEAD` batches wait between two of them, so memory does not depend on the length of the video: what is kept
of it is 12 bytes a sample (times and scores) and one window of features. Decoders and runtimes release Python's lock,
so the threads share the cores. Knows the order of things; knows nothing of files of results.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from models.channel import made_ahead
from models.errors import VideoError
from models.grid import GRID_TOLERANCE_S
from models.spans import ScoreTrack
from models.streaming import TrackStream

BATCH_SIZE = 32
_AHEAD = 2  # batches: enough to bridge a long group of pictures

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Seconds = npt.NDArray[np.float64]
OnFeatures = Callable[[Seconds, Features], None]


class Embedder(Protocol):
    """What a stream asks of a model."""

    def embed(self, frames_NHWC: Pixels) -> Features:
        """Return features float32 [N, D] of frames uint8 [N, S, S, 3]."""

    def score_track(self, features_TD: Features, times_s: Seconds, duration_s: float) -> ScoreTrack:
        """Return the scores of all sampled frames of one video."""


@runtime_checkable
class StreamingModel(Protocol):
    """A model whose head takes features as they come."""

    def start_track(self) -> TrackStream:
        """Return an empty track."""


class _WholeTrack:
    """The track of a model that wants all features at once: they are kept until the end."""

    def __init__(self, model: Embedder) -> None:
        self._model = model
        self._features: list[Features] = []
        self._times_s: list[Seconds] = []

    def add(self, features_NE: Features, times_s: Seconds) -> None:
        self._features.append(features_NE)
        self._times_s.append(times_s)

    def finish(self, duration_s: float) -> ScoreTrack:
        return self._model.score_track(np.concatenate(self._features), np.concatenate(self._times_s), duration_s)


def start_track(model: Embedder) -> TrackStream:
    """Return an empty track of `model`'s; of one that wants all features at once, it keeps them until the end."""
    return model.start_track() if isinstance(model, StreamingModel) else _WholeTrack(model)


def stream_track(
    model: Embedder,
    frames: Iterable[tuple[float, Pixels]],
    *,
    name: str,
    duration_s: Callable[[], float],
    batch_size: int = BATCH_SIZE,
    on_times: Callable[[float], None] | None = None,
    on_features: OnFeatures | None = None,
) -> ScoreTrack:
    """Return the scores of `frames`, the times (seconds, rising) and pixels of one video's samples.

    frames:      run in a thread of its own, and closed there
    duration_s:  asked at the end for the end of the video, seconds; a later last frame moves it
    on_times:    called after every batch with the last time that is done, seconds
    on_features: called after every batch with times float64 [N], seconds, and features float32 [N, D]
    Raises what reading, the model or a hook raises, after all threads have ended; VideoError where no frame came.
    """
    track = start_track(model)
    last_s = -1.0
    batches = batched(frames, batch_size)
    with made_ahead(batches, _embedding(model), num_ahead=_AHEAD, name="herdlight-score") as embedded:
        for times_s, features_ND in embedded:
            track.add(features_ND, times_s)
            last_s = float(times_s[-1])
            if on_features:
                on_features(times_s, features_ND)
            if on_times:
                on_times(last_s)
    if last_s < 0:
        raise VideoError(f"{name}: no frame of it can be decoded")
    # A container may announce an end that its own frames pass.
    return track.finish(max(duration_s(), last_s + GRID_TOLERANCE_S))


def batched(frames: Iterable[tuple[float, Pixels]], size: int) -> Iterator[tuple[Seconds, Pixels]]:
    """Yield times float64 [n] and frames uint8 [n, S, S, 3] of at most `size` frames at a time."""
    iterator = iter(frames)
    while batch := list(itertools.islice(iterator, size)):
        yield np.array([time_s for time_s, _ in batch], np.float64), np.stack([pixels for _, pixels in batch])


def _embedding(model: Embedder) -> Callable[[Iterator[Any]], Iterator[tuple[Seconds, Features]]]:
    return lambda batches: ((times_s, model.embed(frames_NHWC)) for times_s, frames_NHWC in batches)
