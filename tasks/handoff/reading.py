"""The pictures and the sound of one stretch of a video, at true times and upright.

Knows seeking, display rotation, pixel aspect and sample clocks; knows no output file. Everything streams: one picture
and a second or so of sound are held. Times given are seconds from `start_s` of the stretch.
"""

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import av.filter
import numpy as np
import numpy.typing as npt

from models.decoding import displayed_pixels, opened
from models.errors import VideoError
from tasks.handoff.values import Media

# Containers round times; a frame this far after an instant counts as shown at it, seconds.
TIME_TOLERANCE_S = 0.002
# Sound whose clock is off by more than this is put where its clock says, seconds; less is jitter of the container.
_SOUND_JITTER_S = 0.04
# Sound is read from this long before, so that the decoder is in step at the start, seconds.
_SOUND_LEAD_S = 0.5
_SCALER = "bicubic+accurate_rnd+full_chroma_int+bitexact"
_TURNS = {0: (), 90: ("transpose=clock",), 180: ("hflip", "vflip"), 270: ("transpose=cclock",)}


def shown_frames(media: Media, start_s: float, end_s: float) -> Generator[tuple[float, Any], None, None]:
    """Yield (time_s, frame) of what is on screen in [start_s, end_s) of the video, in order.

    The first is what is shown at start_s, at time 0; the others are at their own times. Raises VideoError where the
    video has no clock, shows nothing there or cannot be decoded.
    """
    for seeks in (True, False) if start_s > 0 else (False,):
        with opened(media.path) as (container, stream):
            if seeks:
                ticks = math.floor((start_s + media.info.start_pts_s) / float(stream.time_base))
                try:
                    container.seek(ticks, stream=stream, backward=True)
                except av.FFmpegError:
                    continue  # a container without an index: read it from its start
            timed = _timed(media, container.decode(stream))
            first = next(timed, None)
            if seeks and (first is None or first[0] > start_s + TIME_TOLERANCE_S):
                continue  # it landed behind; read from the start
            yield from _within(media, first, timed, start_s, end_s)
            return


def _timed(media: Media, frames: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yield the sound frames with their times in the video, strictly increasing from 0."""
    last_s = -math.inf
    for frame in frames:
        if frame.is_corrupt:
            continue
        if frame.pts is None:
            raise VideoError(f"{media.path.name}: its frames carry no times; remux it first")
        time_s = float(frame.pts * frame.time_base) - media.info.start_pts_s
        if time_s > last_s and time_s > -TIME_TOLERANCE_S:
            last_s = time_s
            yield time_s, frame


def _within(
    media: Media, first: tuple[float, Any] | None, timed: Iterator[tuple[float, Any]], start_s: float, end_s: float
) -> Iterator[tuple[float, Any]]:
    pending = first
    for time_s, frame in timed:
        if pending is None or time_s <= start_s + TIME_TOLERANCE_S:
            pending = (time_s, frame)
            continue
        if time_s >= end_s - TIME_TOLERANCE_S:
            break
        yield max(0.0, pending[0] - start_s), pending[1]
        pending = (time_s, frame)
    if pending is None or pending[0] >= end_s:
        raise VideoError(f"{media.path.name}: nothing is shown from {start_s:.3f} s to {end_s:.3f} s")
    yield max(0.0, pending[0] - start_s), pending[1]


def picture_at(media: Media, time_s: float, max_width: int, max_height: int) -> npt.NDArray[np.uint8]:
    """Return what is on screen at `time_s` seconds, upright and within the given size, px: uint8 [h, w, 3] RGB."""
    with contextlib.closing(shown_frames(media, time_s, time_s + 1.0)) as frames:
        _, frame = next(frames)
        with opened(media.path) as (_, stream):
            return displayed_pixels(frame, stream, media.path, max_width, max_height)


@dataclass
class Upright:
    """Gives frames of one video upright, in square pixels, as yuv420p of one size, with bars where they do not fill it.

    size:     width and height of what comes out, even, px
    is_bt709: colours are converted to BT.709, for footage that is joined with other footage; else they stay
    """

    media: Media
    size: tuple[int, int]
    is_bt709: bool = False
    _graph: Any = field(default=None, init=False)
    _made_for: tuple[int, int, str] | None = field(default=None, init=False)

    def __call__(self, frame: Any) -> Any:
        """Return `frame` so; its time is the caller's to set."""
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._made_for:
            self._graph, self._made_for = self._build(frame), kind
        self._graph.push(frame)
        return self._graph.pull()

    def _build(self, frame: Any) -> Any:
        width, height = self.size
        turn = self.media.info.rotation_deg
        fitted = fit_size((self.media.info.width, self.media.info.height), self.size)
        stored = fitted[::-1] if turn in (90, 270) else fitted
        matrix = ":out_color_matrix=bt709" if self.is_bt709 else ""
        steps = [f"scale={stored[0]}:{stored[1]}:flags={_SCALER}:out_range=tv{matrix}", "format=yuv420p", *_TURNS[turn]]
        if fitted != self.size:
            steps.append(f"pad={width}:{height}:{(width - fitted[0]) // 2}:{(height - fitted[1]) // 2}:black")
        steps.append("setsar=1")
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format.name,
                time_base=frame.time_base or Fraction(1, 1000),
            )
        ]
        for step in steps:
            name, _, arguments = step.partition("=")
            nodes.append(graph.add(name, arguments or None))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


def even(size: int) -> int:
    """Return the even number nearest to `size`, at least 2: what 4:2:0 pictures need."""
    return max(2, 2 * round(size / 2))


def fit_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest even size with the proportions of `size` inside `box`, px."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return min(even(round(size[0] * scale)), box[0]), min(even(round(size[1] * scale)), box[1])


class Sound:
    """The sound of a stretch of a video, taken in pieces; silence where it has none.

    Samples sit where their clock puts them: a gap becomes silence, what overlaps is dropped. Use it in a `with`.
    """

    def __init__(self, media: Media, start_s: float, *, rate: int, layout: str) -> None:
        """Read from `start_s` on, as float32 at `rate` samples a second in `layout` (mono, stereo, …)."""
        self.rate, self.layout = rate, layout
        self.num_channels = av.AudioLayout(layout).nb_channels
        self._chunks = _sound_chunks(media, start_s, rate, layout)
        self._held: list[npt.NDArray[np.float32]] = []
        self._num_held = 0

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._chunks.close()

    def take(self, num: int) -> npt.NDArray[np.float32]:
        """Return the next `num` samples, float32 [C, num]. Raises VideoError where the sound cannot be decoded."""
        while self._num_held < num:
            chunk = next(self._chunks, None)
            if chunk is None:
                chunk = np.zeros((self.num_channels, num - self._num_held), np.float32)
            self._held.append(chunk)
            self._num_held += chunk.shape[1]
        samples = np.concatenate(self._held, axis=1)
        self._held, self._num_held = [samples[:, num:]], self._num_held - num
        return samples[:, :num]


def sound_format(media: Media) -> tuple[int, str] | None:
    """Return sample rate and layout in which the sound of `media` is kept, None where it has none that can be read."""
    with opened(media.path) as (container, _):
        stream = sound_stream(container)
        if stream is None:
            return None
        channels = stream.codec_context.layout.nb_channels
        layout = "mono" if channels == 1 else "stereo"
        rate = stream.codec_context.sample_rate
        return (rate if rate in (22050, 24000, 32000, 44100, 48000) else 48000), layout


def sound_stream(container: Any) -> Any:
    """Return the main sound of an opened container, None where it has none that can be decoded."""
    stream = container.streams.best("audio") if container.streams.audio else None
    if stream is None or stream.codec_context is None or not stream.codec_context.sample_rate:
        return None
    return stream


def _sound_chunks(
    media: Media, start_s: float, rate: int, layout: str
) -> Generator[npt.NDArray[np.float32], None, None]:
    """Yield samples [C, n] from `start_s` on, without a gap."""
    num_channels = av.AudioLayout(layout).nb_channels
    with opened(media.path) as (container, _):
        stream = sound_stream(container)
        if stream is None:
            return
        if start_s > 0:
            ticks = math.floor((start_s + media.info.start_pts_s - _SOUND_LEAD_S) / stream.time_base)
            with contextlib.suppress(av.FFmpegError):  # without an index it is read from the start
                container.seek(max(0, ticks), stream=stream)
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        given = 0  # samples yielded: position 0 is start_s
        at: int | None = None  # position of the next sample that is decoded
        for frame in _sound_frames(container, stream):
            if frame.pts is not None and frame.time_base:
                time_s = float(frame.pts * frame.time_base) - media.info.start_pts_s - start_s
                due = round(time_s * rate)
                if at is None or abs(due - at) > _SOUND_JITTER_S * rate:
                    at = due
            for piece in resampler.resample(frame):
                samples = np.asarray(piece.to_ndarray(), np.float32)
                at = at or 0
                while given < at:
                    silence = min(rate, at - given)
                    yield np.zeros((num_channels, silence), np.float32)
                    given += silence
                if at + samples.shape[1] > given:
                    yield samples[:, given - at :]
                    given = at + samples.shape[1]
                at += samples.shape[1]


def _sound_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield what can be decoded; a damaged packet leaves a gap, which becomes silence."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue
