"""Scoring a video by looking closely only where its keyframes promise something.

    keyframes -> score -> the promising stretches decoded -> score again -> what borders on a highlight -> …

Where a stretch is decoded, its samples are those of the exact mode; elsewhere the nearest keyframe stands for what is
on screen, at the same rate, so that a head that looks at a window of samples sees the time that it was made for. The
features of keyframes and of what was decoded are held until the end, 4 bytes a number: 10 hours with a keyframe every
2 s and a budget of a quarter are about 75 MB at 512 numbers a picture. Knows files and models; where to look is
`models.cascade`'s.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.cascade import CascadeParams, Stretches, joined, next_stretches, split_at_keyframes, stand_ins
from models.channel import made_ahead
from models.cores import usable_cores
from models.decoding import DEFAULT_OPTIONS, DecodeOptions
from models.errors import VideoError
from models.grid import GRID_TOLERANCE_S
from models.seeking import Picture, keyframe_pictures, origin_of, pictures_between
from models.spans import ScoreTrack, Span
from models.video import Sampling, iterate_pictures
from tasks.score_stream import BATCH_SIZE, Embedder, Features, OnFeatures, Pixels, Seconds, batched, start_track

_AHEAD = 2
_PORTION = 4096  # samples that the head is given at once
_MAX_READERS = 4  # of one file at once; each has a decoder of one thread
Pictures = Iterator[tuple[float, Pixels, Picture]]
Samples = tuple[Seconds, Features]
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, eq=False)
class CascadeResult:
    """What a cascade found and what it cost.

    track:         scores at `fps`: of the samples where it looked closely, elsewhere of the nearest keyframe at
                   k / fps; of keyframes alone, at their own times
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


@dataclass(frozen=True, eq=False)
class Looker:
    """One video, the model that looks at it, and who else wants to see what it sees.

    sampling:    of the stretches that are decoded; its fps plays no part for keyframes
    duration_s:  of the video, seconds
    on_features: called after every batch with times float64 [N], seconds, and features float32 [N, D]; stretches
                 come after the keyframes
    on_picture:  called with the time of every frame that is looked at, seconds, and the function that shows it; from
                 several threads, and so in no order
    """

    model: Embedder
    path: Path
    sampling: Sampling
    duration_s: float
    options: DecodeOptions = DEFAULT_OPTIONS
    batch_size: int = BATCH_SIZE
    on_features: OnFeatures | None = None
    on_picture: Callable[[float, Picture], None] | None = None

    @functools.cached_property
    def origin(self) -> Fraction:
        """Presentation timestamp of the video's first displayed frame, seconds. Raises VideoError where none is."""
        return origin_of(self.path)

    def keyframes(self) -> Samples:
        """Return times [K] and features [K, E] of the keyframes. Raises VideoError where none can be decoded."""
        readers = min(_MAX_READERS, usable_cores())
        origin = self.origin  # before the threads begin
        found = self._embedded(
            keyframe_pictures(self.path, self.sampling, self.options, origin=origin, share=(k, readers))
            for k in range(readers)
        )
        if not len(found[0]):
            raise VideoError(f"{self.path.name}: no keyframe of it can be decoded")
        return found

    def everything(self) -> Samples:
        """Return times and features of all samples."""
        return self._embedded([iterate_pictures(self.path, self.sampling, self.options)])

    def parts(self, spans: Sequence[Span]) -> Samples:
        """Return times and features of the samples in `spans`, which may have none."""
        readers = max(1, min(_MAX_READERS, usable_cores(), len(spans)))
        alone = self.options if readers == 1 else dataclasses.replace(self.options, num_threads=1)

        def pictures(mine: Sequence[Span]) -> Pictures:
            for span in mine:
                start_s, end_s = span.start_s, span.end_s
                yield from pictures_between(self.path, self.sampling, start_s, end_s, alone, origin=self.origin)

        return self._embedded(pictures(spans[k::readers]) for k in range(readers))

    def scored(self, times_s: Seconds, features: Features) -> ScoreTrack:
        """Return the scores of samples in order of time."""
        return self.model.score_track(features, times_s, self._end_of(times_s))

    def filled(self, stretches: Stretches, keyframes: Samples, close: Samples) -> ScoreTrack:
        """Return the scores of all that is known: of `close`, and of stand-ins where nothing was decoded."""
        instants_s, nearest = stand_ins(stretches, keyframes[0], self.sampling.fps)
        times_s = np.concatenate([close[0], instants_s])
        order = np.argsort(times_s, kind="stable")  # of the same time, what was decoded comes first
        order = order[np.append(True, np.diff(times_s[order]) > 0)]
        times_s, is_close = times_s[order], order < len(close[0])
        track = start_track(self.model)
        for at in range(0, len(order), _PORTION):
            part, mine = order[at : at + _PORTION], is_close[at : at + _PORTION]
            features = np.empty((len(part), keyframes[1].shape[1]), np.float32)
            features[mine] = close[1][part[mine]] if len(close[0]) else 0
            features[~mine] = keyframes[1][nearest[part[~mine] - len(close[0])]]
            track.add(features, times_s[at : at + _PORTION])
        return track.finish(self._end_of(times_s))

    def _end_of(self, times_s: Seconds) -> float:
        """Return the video's length, seconds; a little past the last of its samples where that is later."""
        return max(self.duration_s, float(times_s[-1]) + GRID_TOLERANCE_S)

    def _embedded(self, readers: Iterable[Pictures]) -> Samples:
        """Return times and features of all that `readers` give, in order of time; each decodes in a thread of its own.

        Their batches are taken in turn, so that the same video goes through the tower in the same portions each time.
        """
        times: list[Seconds] = []
        features: list[Features] = []
        with contextlib.ExitStack() as threads:
            sources = [
                threads.enter_context(
                    made_ahead(batched(self._shown(reader), self.batch_size), num_ahead=_AHEAD, name="herdlight-look")
                )
                for reader in readers
            ]
            for times_s, frames_NHWC in in_turn(sources):
                times.append(times_s)
                features.append(self.model.embed(frames_NHWC))
                if self.on_features:
                    self.on_features(times_s, features[-1])
        if not times:
            return np.zeros(0), np.zeros((0, 0), np.float32)
        all_s = np.concatenate(times)
        order = np.argsort(all_s, kind="stable")
        return all_s[order], np.concatenate(features)[order]

    def _shown(self, pictures: Pictures) -> Iterator[tuple[float, Pixels]]:
        for time_s, pixels, picture in pictures:
            if self.on_picture:
                self.on_picture(time_s, picture)
            yield time_s, pixels


def in_turn(sources: Sequence[Iterator[ItemT]]) -> Iterator[ItemT]:
    """Yield one item of each source after the other until all have ended."""
    waiting = collections.deque(sources)
    while waiting:
        source = waiting.popleft()
        for item in itertools.islice(source, 1):
            yield item
            waiting.append(source)


def keyframe_track(looker: Looker) -> CascadeResult:
    """Return the scores of the keyframes alone. Raises VideoError where none can be decoded."""
    times_s, features = looker.keyframes()
    return CascadeResult(looker.scored(times_s, features), len(times_s), 0.0, len(times_s))


def cascade_track(
    looker: Looker, threshold: float, params: CascadeParams, on_fraction: Callable[[float], None] | None = None
) -> CascadeResult:
    """Return the scores of a video by cascade, see the module.

    threshold:   score of a highlight
    on_fraction: called before every round with how many of the rounds are done, 0 to 1
    Raises VideoError where the keyframes or a chosen stretch cannot be decoded.
    """
    keyframes = looker.keyframes()
    num_keyframes = len(keyframes[0])
    if looker.duration_s / num_keyframes > params.max_gap_s:
        everything = looker.everything()
        gap_s, num_samples = looker.duration_s / num_keyframes, num_keyframes + len(everything[0])
        reason = f"a keyframe every {gap_s:.1f} s is too few, at most {params.max_gap_s:g} s"
        return CascadeResult(looker.scored(*everything), num_keyframes, looker.duration_s, num_samples, reason)
    stretches = split_at_keyframes(keyframes[0], looker.duration_s)
    close: Samples = (np.zeros(0), np.zeros((0, 0), np.float32))
    track = looker.filled(stretches, keyframes, close)
    for done in range(params.rounds):
        if on_fraction:
            on_fraction((done + 1) / (params.rounds + 1))
        chosen = next_stretches(stretches, track, threshold, params, looker.sampling.fps)
        if not len(chosen):
            break
        stretches = stretches.with_decoded(chosen)
        close = _merged(close, looker.parts(joined(stretches, chosen)))
        track = looker.filled(stretches, keyframes, close)
    return CascadeResult(track, num_keyframes, stretches.decoded_s, num_keyframes + len(close[0]))


def _merged(first: Samples, second: Samples) -> Samples:
    """Return both in order of time; a time that is in both is taken from the second."""
    if not len(first[0]) or not len(second[0]):
        return first if len(first[0]) else second
    own = ~np.isin(first[0], second[0])
    times_s = np.concatenate([first[0][own], second[0]])
    order = np.argsort(times_s, kind="stable")
    return times_s[order], np.concatenate([first[1][own], second[1]])[order]
