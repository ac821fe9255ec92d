"""Scoring a video by looking closely only where its keyframes promise something.

    keyframes -> score -> the promising stretches decoded -> score again -> what borders on a highlight -> …

Where a stretch is decoded, its samples are those of the exact mode; elsewhere a keyframe stands for what follows it.
The features of keyframes and of what was decoded are held until the end, 4 bytes a number: 10 hours with a keyframe
every 2 s and a budget of a quarter are about 75 MB at 512 numbers a picture. Knows files and models; where to look is
`models.cascade`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.cascade import CascadeParams, Stretches, joined, next_stretches, split_at_keyframes
from models.channel import made_ahead
from models.decoding import DEFAULT_OPTIONS, DecodeOptions
from models.errors import VideoError
from models.grid import GRID_TOLERANCE_S
from models.seeking import iterate_between, iterate_keyframes, origin_of
from models.spans import ScoreTrack, Span
from models.video import Sampling, frames_of
from tasks.score_stream import BATCH_SIZE, Embedder, Features, Pixels, Seconds, batched

_AHEAD = 2
Frames = Iterator[tuple[float, Pixels]]


@dataclass(frozen=True, eq=False)
class CascadeResult:
    """What a cascade found and what it cost.

    track:         scores: of every sample where it looked closely, of the keyframes elsewhere
    num_keyframes: pictures of the first pass
    decoded_s:     seconds that were decoded in full
    num_samples:   pictures that the image tower saw, all passes together
    fell_back:     why all of the video was decoded, None where it was not
    """

    track: ScoreTrack
    num_keyframes: int
    decoded_s: float
    num_samples: int
    fell_back: str | None = None

    @property
    def decoded_share(self) -> float:
        """Share of the video that was decoded in full, 0 to 1."""
        return min(1.0, self.decoded_s / self.track.duration_s)


def keyframe_track(
    model: Embedder, path: Path, sampling: Sampling, duration_s: float, batch_size: int = BATCH_SIZE
) -> ScoreTrack:
    """Return the scores of the keyframes alone. Raises VideoError where none can be decoded."""
    times_s, features_KE = _embedded(model, iterate_keyframes(path, sampling), path, batch_size)
    return _scored(model, times_s, features_KE, duration_s)


def cascade_track(
    model: Embedder,
    path: Path,
    sampling: Sampling,
    duration_s: float,
    threshold: float,
    params: CascadeParams,
    *,
    options: DecodeOptions = DEFAULT_OPTIONS,
    batch_size: int = BATCH_SIZE,
    on_fraction: Callable[[float], None] = lambda fraction: None,
) -> CascadeResult:
    """Return the scores of the video at `path` by cascade, see the module.

    threshold: score of a highlight; sampling: of the stretches that are decoded; duration_s: of the video
    Raises VideoError where its keyframes or a chosen stretch cannot be decoded.
    """
    key_times_s, key_features = _embedded(model, iterate_keyframes(path, sampling, options), path, batch_size)
    num_keyframes = len(key_times_s)
    if duration_s / num_keyframes > params.max_gap_s:
        times_s, features = _embedded(model, frames_of(path, sampling, options), path, batch_size)
        reason = f"a keyframe every {duration_s / num_keyframes:.1f} s is too few, at most {params.max_gap_s:g} s"
        track = _scored(model, times_s, features, duration_s)
        return CascadeResult(track, num_keyframes, duration_s, num_keyframes + len(times_s), reason)
    stretches, track = (
        split_at_keyframes(key_times_s, duration_s),
        _scored(model, key_times_s, key_features, duration_s),
    )
    close_times_s, close_features = key_times_s[:0], key_features[:0]
    origin = origin_of(path)
    for done in range(params.rounds):
        on_fraction((done + 1) / (params.rounds + 1))
        chosen = next_stretches(stretches, track, threshold, params, sampling.fps)
        if not len(chosen):
            break
        frames = _parts(path, sampling, joined(stretches, chosen), options, origin)
        times_s, features = _embedded(model, frames, path, batch_size, may_be_empty=True)
        stretches = stretches.with_decoded(chosen)
        close_times_s, close_features = _merged((close_times_s, close_features), (times_s, features))
        track = _scored(
            model, *_merged(_outside(stretches, key_times_s, key_features), (close_times_s, close_features)), duration_s
        )
    on_fraction(1.0)
    return CascadeResult(track, num_keyframes, stretches.decoded_s, num_keyframes + len(close_times_s))


def _parts(path: Path, sampling: Sampling, spans: Sequence[Span], options: DecodeOptions, origin: object) -> Frames:
    for span in spans:
        yield from iterate_between(path, sampling, span.start_s, span.end_s, options, origin=origin)  # type: ignore[arg-type]


def _embedded(
    model: Embedder, frames: Frames, path: Path, batch_size: int, *, may_be_empty: bool = False
) -> tuple[Seconds, Features]:
    """Return times [N] and features [N, E] of `frames`, decoded in a thread of its own while the tower runs."""
    times: list[Seconds] = []
    features: list[Features] = []
    with made_ahead(batched(frames, batch_size), num_ahead=_AHEAD, name="herdlight-cascade") as batches:
        for times_s, frames_NHWC in batches:
            times.append(times_s)
            features.append(model.embed(frames_NHWC))
    if not times and not may_be_empty:
        raise VideoError(f"{path.name}: no keyframe of it can be decoded")
    return (np.concatenate(times), np.concatenate(features)) if times else (np.zeros(0), np.zeros((0, 0), np.float32))


def _outside(stretches: Stretches, times_s: Seconds, features: Features) -> tuple[Seconds, Features]:
    outside = ~stretches.holds(times_s)
    return times_s[outside], features[outside]


def _merged(first: tuple[Seconds, Features], second: tuple[Seconds, Features]) -> tuple[Seconds, Features]:
    """Return both in order of time; a time that is in both is taken from the second."""
    if not len(first[0]) or not len(second[0]):
        return first if len(first[0]) else second
    own = ~np.isin(first[0], second[0])
    times_s = np.concatenate([first[0][own], second[0]])
    order = np.argsort(times_s, kind="stable")
    return times_s[order], np.concatenate([first[1][own], second[1]])[order]


def _scored(model: Embedder, times_s: Seconds, features: Features, duration_s: float) -> ScoreTrack:
    return model.score_track(features, times_s, max(duration_s, float(times_s[-1]) + GRID_TOLERANCE_S))
