"""Reading footage: what a video is, and its frames at true presentation times.

Knows packets, timestamps and the grid of seconds that samples are taken on; how a file is opened and a frame made
square is models/decoding.py; knows nothing of labels, splits or models. Whatever is wrong with a file becomes one
VideoError of one line.

Time here: seconds from the first frame that the decoder shows (the contract of models/spans.py). Frame indices are
never times.
"""

import functools
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from models.decoding import (
    DEFAULT_OPTIONS,
    MAX_JUMP_BACK_S,
    DecodeOptions,
    Fit,
    Pixels,
    displayed_frames,
    displayed_pixels,
    displayed_size,
    nominal_frame_s,
    opened,
    reason_of,
    rotation_deg,
    square_pixels,
)
from models.errors import ShapeError, VideoError
from models.grid import GRID_TOLERANCE_S as GRID_TOLERANCE_S
from models.grid import pick_on_grid as pick_on_grid
from models.skipping import SkippingUnsure, can_skip, decode_sampled

# Limits. Beyond them a file is taken for damaged or hostile, and refused before it costs memory or hours.
MAX_DURATION_S = 48 * 3600.0
MAX_FRAMES = 20_000_000
MAX_SAMPLED_BYTES = 8 << 30
# Share of what the header declares that may be missing, for containers rounded or cut by a second.
MAX_MISSING_FRACTION = 0.05
# Share of gaps between frames that may deviate by more than a tick and 5% before a video counts as VFR.
VFR_TOLERANCE = 0.01


@dataclass(frozen=True)
class VideoInfo:
    """What one video is, read from all of its packets and its first decoded frame.

    duration_s:   from the first displayed frame to the end of the last, seconds, above 0
    start_pts_s:  presentation timestamp of the first displayed frame before it is moved to 0, seconds
    num_frames:   pictures to display, at least 1
    mean_fps:     num_frames / duration_s
    nominal_fps:  what the container claims; mean_fps where it claims nothing
    is_vfr:       gaps between frames differ
    width:        as displayed, rotation and pixel aspect applied, px
    height:       as displayed, rotation and pixel aspect applied, px
    rotation_deg: clockwise turn that displays the stored picture upright: 0, 90, 180 or 270
    codec:        FFmpeg's name of the codec, e.g. h264
    pix_fmt:      FFmpeg's name of the stored pixel format, e.g. yuv420p
    container:    FFmpeg's name of the demuxer, e.g. matroska,webm
    has_audio:    there is at least one audio stream
    num_bytes:    size of the file
    """

    duration_s: float
    start_pts_s: float
    num_frames: int
    mean_fps: float
    nominal_fps: float
    is_vfr: bool
    width: int
    height: int
    rotation_deg: int
    codec: str
    pix_fmt: str
    container: str
    has_audio: bool
    num_bytes: int


@dataclass(frozen=True)
class Sampling:
    """How frames are taken from a video.

    fps:        samples a second of presentation time, above 0
    image_size: side S of the square samples, px, 1 to 4096
    fit:        "crop" scales the shorter side to S and keeps the centre; "squash" scales both sides to S
    """

    fps: float
    image_size: int
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ShapeError(f"sampling: fps {self.fps} must be finite and above 0")
        if not 1 <= self.image_size <= 4096:
            raise ShapeError(f"sampling: image_size {self.image_size} px must be 1 to 4096")
        if self.fit not in ("crop", "squash"):
            raise ShapeError(f"sampling: fit {self.fit!r} must be crop or squash")


@dataclass(frozen=True, eq=False)
class SampledVideo:
    """Frames of one video and when they are shown.

    frames_THWC: uint8 [T, S, S, 3] RGB, T >= 1
    times_s:     float64 [T], strictly increasing from 0, seconds
    duration_s:  end of the video, above times_s[-1], seconds
    """

    frames_THWC: Pixels
    times_s: npt.NDArray[np.float64]
    duration_s: float

    def __post_init__(self) -> None:
        frames, times_s = self.frames_THWC, self.times_s
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
            raise ShapeError(f"sampled video: frames {frames.dtype} {frames.shape} must be uint8 [T, H, W, 3], T >= 1")
        if times_s.shape != (len(frames),) or times_s[0] < 0 or np.any(np.diff(times_s) <= 0):
            raise ShapeError(f"sampled video: times_s must be [{len(frames)}], strictly increasing from 0 or later")
        if not self.duration_s > times_s[-1]:
            raise ShapeError(
                f"sampled video: duration {self.duration_s} s must be after {times_s[-1]} s, the last frame"
            )


def probe(path: Path) -> VideoInfo:
    """Return what the video at `path` is: it is decoded up to its first sound frame, all of its packets are read.

    Raises VideoError where the file is no video, is damaged, lacks its end or is beyond the limits of this module.
    """
    info, missing = survey(path)
    if missing:
        raise VideoError(f"{path.name}: {missing}")
    return info


def survey(path: Path) -> tuple[VideoInfo, str]:
    """Return what `probe` does of what can be read of `path`, and what is missing of it in words, "" for nothing.

    Raises VideoError as `probe` where nothing can be read, or where what can be read is beyond the limits.
    """
    with opened(path) as (container, stream):
        first: Any = None
        pts, durations = array("q"), array("q")
        latest_dts: int | None = None
        num_read = 0
        broken: list[str] = []
        for packet in _packets(container, stream, broken):
            if first is None:
                first = next((frame for frame in packet.decode() if not frame.is_corrupt), None)
            if not packet.size:
                continue  # the packet that flushes the decoder
            num_read += 1
            if num_read > MAX_FRAMES:
                raise VideoError(f"{path.name}: more than {MAX_FRAMES} frames; cut it")
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None and not packet.is_discard:
                pts.append(time)
                durations.append(packet.duration or 0)
            if packet.dts is not None:
                _refuse_jump_back(path, latest_dts, packet.dts, packet.time_base)
                latest_dts = packet.dts if latest_dts is None else max(latest_dts, packet.dts)
        if first is None:
            raise VideoError(f"{path.name}: no frame of it can be decoded")
        timing = _timing(np.array(pts, np.int64), np.array(durations, np.int64), num_read, first, stream)
        if timing.duration_s > MAX_DURATION_S:
            raise VideoError(f"{path.name}: timestamps span {timing.duration_s:.0f} s, above {MAX_DURATION_S:.0f} s")
        missing = _truncation(container, stream, num_read, timing)
        if broken:
            missing = f"reading breaks after {timing.duration_s:.2f} s: {broken[0]}"
        width, height = displayed_size(first, stream, path)
        mean_fps = timing.num_frames / timing.duration_s
        info = VideoInfo(
            duration_s=timing.duration_s,
            start_pts_s=timing.start_pts_s,
            num_frames=timing.num_frames,
            mean_fps=mean_fps,
            nominal_fps=float(stream.average_rate or mean_fps),
            is_vfr=timing.is_vfr,
            width=width,
            height=height,
            rotation_deg=rotation_deg(first),
            codec=stream.codec_context.codec.canonical_name,
            pix_fmt=first.format.name,
            container=container.format.name,
            has_audio=bool(container.streams.audio),
            num_bytes=path.stat().st_size,
        )
        return info, missing


def _packets(container: Any, stream: Any, broken: list[str]) -> Iterator[Any]:
    """Yield packets until the end, or until the demuxer fails, whose reason goes to `broken`."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        broken.append(reason_of(error))


def iterate_frames(path: Path, sampling: Sampling) -> Iterator[tuple[float, Pixels]]:
    """Yield `(time_s, pixels)` of the frames shown at the instants k / fps, k = 0, 1, …, in order.

    time_s is the frame's own presentation time, pixels are uint8 [S, S, 3] RGB. A frame is never given twice, so a
    long gap, or an fps above the video's own, gives fewer samples. Decoding is sequential and holds one frame. A
    frame that the decoder marks as damaged is never given: the one before it stays on screen.
    Raises VideoError where the file is no video or its decoding breaks, naming the second that was reached.
    """
    yield from frames_of(path, sampling)


def frames_of(
    path: Path, sampling: Sampling, options: DecodeOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[float, Pixels]]:
    """Yield what `iterate_frames` does, decoded as `options` say."""
    for time_s, pixels, _ in iterate_pictures(path, sampling, options):
        yield time_s, pixels


def iterate_pictures(
    path: Path, sampling: Sampling, options: DecodeOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[float, Pixels, Callable[[int, int], Pixels]]]:
    """Yield what `frames_of` does, and with each frame a function that gives it for people to look at.

    The function takes the largest width and height, px, and returns uint8 [h, w, 3] RGB, upright and in the
    proportions in which the video is displayed. Its cost is paid when it is called.
    """
    for time_s, frame, stream in _picked(path, sampling.fps, options):
        pixels = square_pixels(frame, stream, sampling.image_size, sampling.fit, options.scaler)
        yield time_s, pixels, functools.partial(displayed_pixels, frame, stream, path)


def _picked(path: Path, fps: float, options: DecodeOptions) -> Iterator[tuple[float, Any, Any]]:
    """Yield `(time_s, frame, stream)` of the frames on the grid."""
    last_s = -math.inf
    with opened(path, options) as (_, stream):
        if options.skip_unsampled and can_skip(stream):
            try:
                frames = displayed_frames(path, stream, decode_sampled(stream, fps))
                for time_s, frame in pick_on_grid(frames, fps):
                    yield time_s, frame, stream
                    last_s = time_s
            except SkippingUnsure:
                pass  # what was given stands; the rest is decoded in full
            else:
                return
    with opened(path, options) as (_, stream):
        for time_s, frame in pick_on_grid(displayed_frames(path, stream), fps):
            if time_s > last_s:
                yield time_s, frame, stream


def sample_video(path: Path, sampling: Sampling) -> SampledVideo:
    """Return all samples of the video at `path` (see `iterate_frames`). Raises VideoError as `probe` and that do."""
    info = probe(path)
    size = sampling.image_size
    most = min(info.num_frames, math.ceil((info.duration_s + 1) * sampling.fps)) + 1
    if most * size * size * 3 > MAX_SAMPLED_BYTES:
        limit = f"{MAX_SAMPLED_BYTES >> 30} GiB"
        raise VideoError(f"{path.name}: {most} samples of {size} px need more than {limit}; lower fps or cut it")
    times_s: list[float] = []
    frames: list[Pixels] = []
    for time_s, pixels in iterate_frames(path, sampling):
        times_s.append(time_s)
        frames.append(pixels)
    duration_s = max(info.duration_s, times_s[-1] + GRID_TOLERANCE_S)
    return SampledVideo(np.stack(frames), np.array(times_s, dtype=np.float64), duration_s)


@dataclass(frozen=True)
class _Timing:
    duration_s: float
    start_pts_s: float
    num_frames: int
    is_vfr: bool


def _timing(
    pts: npt.NDArray[np.int64], durations: npt.NDArray[np.int64], num_read: int, first: Any, stream: Any
) -> _Timing:
    """Return the timing of what is displayed: the packets (pts and durations, ticks) from the first frame on."""
    tick_s = float(first.time_base or stream.time_base)
    origin = first.pts if first.pts is not None else int(pts.min(initial=0))
    if not len(pts):  # elementary streams have no clock: their frames follow each other at the nominal rate
        return _Timing(num_read * nominal_frame_s(stream), 0.0, num_read, False)
    order = np.argsort(pts, kind="stable")
    order = order[pts[order] >= origin]
    times = np.unique(np.append(pts[order], origin))
    gaps = np.diff(times)
    median = float(np.median(gaps)) if len(gaps) else 0.0
    last = float(durations[order[-1]]) if len(order) else 0.0
    if last < median / 2 or not last:  # some containers store no duration, or one tick of it
        last = median or nominal_frame_s(stream) / tick_s
    return _Timing(
        duration_s=float(times[-1] - origin + last) * tick_s,
        start_pts_s=origin * tick_s,
        num_frames=len(times),
        is_vfr=bool(np.sum(np.abs(gaps - median) > max(1.5, 0.05 * median)) > VFR_TOLERANCE * len(gaps)),
    )


def _refuse_jump_back(path: Path, latest: int | None, now: int, time_base: Fraction) -> None:
    """Raise VideoError where the clock of a recording starts again: seconds would mean two things."""
    if latest is not None and (latest - now) * time_base > MAX_JUMP_BACK_S:
        raise VideoError(
            f"{path.name}: timestamps jump back by {float((latest - now) * time_base):.1f} s; it holds several "
            "recordings in a row: split or remux it"
        )


def _truncation(container: Any, stream: Any, num_read: int, timing: _Timing) -> str:
    """Return in words that the header declares much more than there is, as after a copy that broke off; else ""."""
    end_s = timing.start_pts_s + timing.duration_s
    if container.format.name.startswith("mov"):
        found, declared, unit = float(num_read), float(stream.frames or 0), "frames"
    elif container.format.name.startswith("avi"):
        found, declared, unit = end_s, float((stream.frames or 0) * stream.time_base), "seconds"  # a tick is a frame
    elif container.format.name.startswith(("matroska", "asf")) and not container.streams.audio:
        found, declared, unit = end_s, (container.duration or 0) / av.time_base, "seconds"
    else:
        return ""
    if found < declared * (1 - MAX_MISSING_FRACTION) - 1:
        return f"truncated: its header declares {declared:.0f} {unit}, {found:.0f} are there"
    return ""
