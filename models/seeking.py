"""Parts of a video: the samples between two seconds, and its keyframes.

What comes out is what the sequential pass of models/video.py gives there, times and pixels. A seek lands on the
keyframe before; where a container stores no time for each frame, or the decoder is not sound from that keyframe on,
the part is reached by decoding from the start. Knows nothing of what the parts are chosen for.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from models.decoding import (
    DEFAULT_OPTIONS,
    DecodeOptions,
    Pixels,
    displayed_frames,
    displayed_pixels,
    opened,
    square_pixels,
)
from models.errors import ShapeError, VideoError
from models.grid import pick_on_grid
from models.skipping import SkippingUnsure, can_skip, decode_sampled
from models.video import Sampling, iterate_pictures

_SEEKABLE = ("mov", "matroska")
Picture = Callable[[int, int], Pixels]


class _SeekUnsure(Exception):
    """What stands behind the keyframe cannot be trusted; never shown to anybody."""


def iterate_between(
    path: Path,
    sampling: Sampling,
    start_s: float,
    end_s: float,
    options: DecodeOptions = DEFAULT_OPTIONS,
    *,
    origin: Fraction | None = None,
) -> Iterator[tuple[float, Pixels]]:
    """Yield those of `frames_of(path, sampling, options)` with start_s <= time_s < end_s, to the last bit.

    origin: of the video, as `origin_of` has it; saves opening the file once more, for callers with many parts
    Raises VideoError as `frames_of` does where it reads, ShapeError unless 0 <= start_s <= end_s.
    """
    for time_s, pixels, _ in pictures_between(path, sampling, start_s, end_s, options, origin=origin):
        yield time_s, pixels


def pictures_between(
    path: Path,
    sampling: Sampling,
    start_s: float,
    end_s: float,
    options: DecodeOptions = DEFAULT_OPTIONS,
    *,
    origin: Fraction | None = None,
) -> Iterator[tuple[float, Pixels, Picture]]:
    """Yield what `iterate_between` does, and with each frame a function that gives it for people to look at.

    The function is that of `models.video.iterate_pictures`.
    """
    if not 0 <= start_s <= end_s:
        raise ShapeError(f"part of a video: [{start_s}, {end_s}) s needs 0 <= start <= end")
    last_s = -math.inf
    if start_s > 0:
        try:
            origin = origin_of(path) if origin is None else origin
            for time_s, frame, stream in _sought(path, sampling.fps, start_s, end_s, options, origin):
                pixels = square_pixels(frame, stream, sampling.image_size, sampling.fit, options.scaler)
                yield time_s, pixels, functools.partial(displayed_pixels, frame, stream, path)
                last_s = time_s
        except (_SeekUnsure, SkippingUnsure, VideoError):
            pass  # what was given stands; the rest is reached from the start
        else:
            return
    for time_s, pixels, picture in iterate_pictures(path, sampling, options):
        if time_s >= end_s:
            return
        if time_s >= start_s and time_s > last_s:
            yield time_s, pixels, picture


def iterate_keyframes(
    path: Path, sampling: Sampling, options: DecodeOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[float, Pixels]]:
    """Yield `(time_s, pixels)` of every keyframe, in order; nothing else is decoded, and `sampling.fps` plays no part.

    Raises VideoError where no keyframe can be decoded, VideoBreaks where decoding breaks off.
    """
    for time_s, pixels, _ in keyframe_pictures(path, sampling, options):
        yield time_s, pixels


def keyframe_pictures(
    path: Path,
    sampling: Sampling,
    options: DecodeOptions = DEFAULT_OPTIONS,
    *,
    origin: Fraction | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[float, Pixels, Picture]]:
    """Yield what `iterate_keyframes` does, and with each a function as in `pictures_between`.

    origin: of the video, as `origin_of` has it
    share:  (k, n) for those alone whose number divided by n leaves k: n readers share the keyframes of one file, and
            one of them may find none
    """
    origin = origin_of(path) if origin is None else origin
    # Frames one by one leave nothing for several threads of frames to do but to wait.
    with opened(path, dataclasses.replace(options, thread_type="SLICE")) as (_, stream):
        frames = _keyframes(stream, *share)
        first = next(frames, None)
        if first is None and share[1] > 1:
            return
        found = frames if first is None else itertools.chain([first], frames)
        for time_s, _, frame in displayed_frames(path, stream, found, origin):
            pixels = square_pixels(frame, stream, sampling.image_size, sampling.fit, options.scaler)
            yield time_s, pixels, functools.partial(displayed_pixels, frame, stream, path)


def _keyframes(stream: Any, remainder: int, divisor: int) -> Iterator[Any]:
    """Yield the frames of the keyframe packets, each decoded by itself: between them alone no order can be told."""
    context, number = stream.codec_context, -1
    for packet in stream.container.demux(stream):
        if packet.is_keyframe and packet.size and not packet.is_discard:
            number += 1
            if number % divisor == remainder:
                yield from context.decode(packet)
                yield from context.decode(None)
                context.flush_buffers()


def keyframe_times(path: Path) -> list[float]:
    """Return the presentation times of the keyframes, seconds, in order, as the packets say; one frame is decoded.

    Raises VideoError where no frame can be decoded.
    """
    origin = origin_of(path)
    with opened(path) as (container, stream):
        times = {
            float(packet.pts * packet.time_base - origin)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None and not packet.is_discard
        }
    return sorted(time_s for time_s in times if time_s >= 0)


def origin_of(path: Path) -> Fraction:
    """Return the presentation timestamp of the first displayed frame, seconds; 0 where it has none.

    Raises VideoError where no frame can be decoded.
    """
    with opened(path) as (_, stream):
        for _, _, frame in displayed_frames(path, stream):
            tick_s = Fraction(frame.time_base or stream.time_base)
            return Fraction(0) if frame.pts is None else frame.pts * tick_s
    raise VideoError(f"{path.name}: no frame of it can be decoded")


def _sought(
    path: Path, fps: float, start_s: float, end_s: float, options: DecodeOptions, origin: Fraction
) -> Iterator[tuple[float, Any, Any]]:
    """Yield `(time_s, frame, stream)` of the frames on the grid in the part. Raises _SeekUnsure and SkippingUnsure."""
    with opened(path, options) as (container, stream):
        if not container.format.name.startswith(_SEEKABLE) or not stream.time_base:
            raise _SeekUnsure
        start = origin + Fraction(start_s)
        container.seek(math.floor(start / stream.time_base), stream=stream, backward=True)
        may_skip = options.skip_unsampled and can_skip(stream)
        decoded = decode_sampled(stream, fps, (origin, start)) if may_skip else container.decode(stream)
        frames = displayed_frames(path, stream, _sound_from(decoded, start, stream.time_base), origin)
        for time_s, frame in pick_on_grid(frames, fps, from_start=False):
            if time_s >= end_s:
                return
            if time_s >= start_s:
                yield time_s, frame, stream


def _sound_from(frames: Iterator[Any], start: Fraction, time_base: Fraction) -> Iterator[Any]:
    """Yield the frames from the first keyframe on. Raises _SeekUnsure unless that is at or before `start`, seconds."""
    first_pts: int | None = None
    for frame in frames:
        if first_pts is None and frame.key_frame and frame.pts is not None and not frame.is_corrupt:
            if frame.pts * (frame.time_base or time_base) > start:
                raise _SeekUnsure
            first_pts = frame.pts
        if first_pts is not None and frame.pts is not None and frame.pts >= first_pts:
            if frame.is_corrupt:
                raise _SeekUnsure
            yield frame
