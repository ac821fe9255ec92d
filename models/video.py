"""Reading footage with PyAV: what a video is, and its frames at true presentation times.

Knows containers, timestamps, rotation, pixel aspect and resizing; knows nothing of labels, splits or models. Whatever
is wrong with a file becomes one VideoError of one line. A file is opened by its descriptor and only by demuxers of
`_CONTAINERS`, so that neither its name nor a play list inside it can make FFmpeg open anything else.

Time here: seconds from the first frame that the decoder shows (the contract of models/spans.py). Frame indices are
never times.
"""

import contextlib
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from models.errors import ShapeError, VideoError

# Limits. Beyond them a file is taken for damaged or hostile, and refused before it costs memory or hours.
MAX_DURATION_S = 48 * 3600.0
MAX_FRAMES = 20_000_000
MAX_SIDE_PX = 16_384
MAX_ASPECT = 16.0
MAX_SAMPLED_BYTES = 8 << 30
# A frame whose timestamp is at most this far after a grid point counts as on it: containers round to 1 ms.
GRID_TOLERANCE_S = 0.001
# What a lone frame lasts when neither it nor its stream says: one frame at 25 frames/s.
DEFAULT_FRAME_S = 0.04
# Share of gaps between frames that may deviate by more than a tick and 5% before a video counts as VFR.
VFR_TOLERANCE = 0.01
_DECODER_THREADS = 2
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,live_flv,f4v,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,h261,"
    "h263,h264,hevc,vvc,evc,obu,av1,ivf,ogg,gif,apng,mxf,mxf_opatom,rm,nut,dv,wtv,gxf,lxf,amv,avs2,avs3,cavsvideo,"
    "dirac,vc1,vc1test,swf,mjpeg,smjpeg,mpjpeg,yuv4mpegpipe,mtv,nsv,nuv,bink,smk,film_cpk,roq,dxa,wc3movie,ty,pva,"
    "rpl,viv,xmv,mvi,mv,ea,4xm,flic"
)
_RESIZE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

Pixels = npt.NDArray[np.uint8]
ItemT = TypeVar("ItemT")


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
    fit: Literal["crop", "squash"] = "squash"

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
            raise ShapeError(f"sampled video: duration {self.duration_s} s must be after the last frame {times_s[-1]} s")


def probe(path: Path) -> VideoInfo:
    """Return what the video at `path` is: its first frame is decoded, all of its packets are read.

    Raises VideoError where the file is no video, is damaged or is beyond the limits of this module.
    """
    with _opened(path) as (container, stream):
        first: Any = None
        packets: list[tuple[int, int]] = []
        for packet in container.demux(stream):
            if packet.pts is not None and not packet.is_discard:
                packets.append((packet.pts, packet.duration or 0))
            if first is None:
                first = next(iter(packet.decode()), None)
            if len(packets) > MAX_FRAMES:
                raise VideoError(f"{path.name}: more than {MAX_FRAMES} frames")
        if first is None:
            raise VideoError(f"{path.name}: no frame of it can be decoded")
        has_audio = bool(container.streams.audio)
        timing = _timing(packets, first, stream)
        if timing.duration_s > MAX_DURATION_S:
            raise VideoError(f"{path.name}: timestamps span {timing.duration_s:.0f} s, above {MAX_DURATION_S:.0f} s")
        width, height = _displayed_size(first, stream, path)
        return VideoInfo(
            duration_s=timing.duration_s,
            start_pts_s=timing.start_pts_s,
            num_frames=timing.num_frames,
            mean_fps=timing.num_frames / timing.duration_s,
            nominal_fps=float(stream.average_rate or 0) or timing.num_frames / timing.duration_s,
            is_vfr=timing.is_vfr,
            width=width,
            height=height,
            rotation_deg=_rotation_deg(first),
            codec=stream.codec_context.name,
            pix_fmt=first.format.name,
            container=container.format.name,
            has_audio=has_audio,
            num_bytes=path.stat().st_size,
        )


def iterate_frames(path: Path, sampling: Sampling) -> Iterator[tuple[float, Pixels]]:
    """Yield `(time_s, pixels)` of the frames shown at the instants k / fps, k = 0, 1, …, in order.

    time_s is the frame's own presentation time, pixels are uint8 [S, S, 3] RGB. A frame is never given twice, so a
    long gap, or an fps above the video's own, gives fewer samples. Decoding is sequential and holds one frame.
    Raises VideoError where the file is no video or its decoding breaks.
    """
    for time_s, pixels, _ in iterate_pictures(path, sampling):
        yield time_s, pixels


def iterate_pictures(path: Path, sampling: Sampling) -> Iterator[tuple[float, Pixels, Callable[[int, int], Pixels]]]:
    """Yield what `iterate_frames` does, and with each frame a function that gives it for people to look at.

    The function takes the largest width and height, px, and returns uint8 [h, w, 3] RGB, upright and in the
    proportions in which the video is displayed. Its cost is paid when it is called.
    """
    with _opened(path) as (_, stream):
        for time_s, frame in pick_on_grid(_displayed_frames(path, stream), sampling.fps):
            yield time_s, _pixels(frame, stream, sampling), functools.partial(_picture, frame, stream, path)


def sample_video(path: Path, sampling: Sampling) -> SampledVideo:
    """Return all samples of the video at `path` (see `iterate_frames`).

    Raises VideoError; where decoding breaks in the middle the message names the second that was reached.
    """
    info = probe(path)
    size = sampling.image_size
    most = min(info.num_frames, math.ceil((info.duration_s + 1) * sampling.fps)) + 1
    if most * size * size * 3 > MAX_SAMPLED_BYTES:
        raise VideoError(
            f"{path.name}: {most} samples of {size} px need more than {MAX_SAMPLED_BYTES >> 30} GiB; lower fps or cut it"
        )
    times_s: list[float] = []
    frames: list[Pixels] = []
    for time_s, pixels in iterate_frames(path, sampling):
        times_s.append(time_s)
        frames.append(pixels)
    if not frames:
        raise VideoError(f"{path.name}: no frame of it can be decoded")
    duration_s = info.duration_s
    if duration_s <= times_s[-1]:
        duration_s = times_s[-1] + 1 / info.mean_fps
    return SampledVideo(np.stack(frames), np.array(times_s, dtype=np.float64), duration_s)


def pick_on_grid(timed: Iterable[tuple[float, ItemT]], fps: float) -> Iterator[tuple[float, ItemT]]:
    """Yield those of `timed` (time_s, item; times strictly increasing from 0) that are shown at an instant k / fps.

    An item is shown from its time until that of the next; times up to GRID_TOLERANCE_S after an instant count as on
    it. The last item is taken when the grid point at or after its time is not served yet and lies within the tolerance.
    """
    pending: tuple[float, ItemT] | None = None
    k = 0
    for time_s, item in timed:
        # Grid point k is the first that no given item serves.
        if pending is not None and k / fps + GRID_TOLERANCE_S < time_s:
            yield pending
            k = math.ceil((time_s - GRID_TOLERANCE_S) * fps)
        pending = (time_s, item)
    if pending is not None and k / fps <= pending[0] + GRID_TOLERANCE_S:
        yield pending


@dataclass(frozen=True)
class _Timing:
    duration_s: float
    start_pts_s: float
    num_frames: int
    is_vfr: bool


def _timing(packets: list[tuple[int, int]], first: Any, stream: Any) -> _Timing:
    """Return the timing of what is displayed: the packets from the first decoded frame on."""
    tick_s = float(first.time_base or stream.time_base or Fraction(1, 1000))
    frame_s = 1 / float(stream.average_rate) if stream.average_rate else DEFAULT_FRAME_S
    origin = first.pts if first.pts is not None else min((pts for pts, _ in packets), default=0)
    shown = sorted((pts, duration) for pts, duration in packets if pts >= origin) or [(origin, 0)]
    distinct = sorted({pts for pts, _ in shown})
    gaps = [b - a for a, b in zip(distinct, distinct[1:], strict=False)]
    last = shown[-1][1] or (statistics.median(gaps) if gaps else 0) or frame_s / tick_s
    median = statistics.median(gaps) if gaps else 0
    odd = sum(abs(gap - median) > max(1.5, 0.05 * median) for gap in gaps)
    return _Timing(
        duration_s=float(distinct[-1] - origin + last) * tick_s,
        start_pts_s=origin * tick_s,
        num_frames=len(distinct),
        is_vfr=odd > VFR_TOLERANCE * len(gaps),
    )


def _displayed_frames(path: Path, stream: Any) -> Iterator[tuple[float, Any]]:
    """Yield `(time_s, frame)` of all decoded frames, times strictly increasing from 0."""
    origin: int | None = None
    time_s = 0.0
    frame_s = 1 / float(stream.average_rate) if stream.average_rate else DEFAULT_FRAME_S
    last_s = -math.inf
    try:
        for frame in stream.container.decode(stream):
            if frame.pts is None:
                time_s = 0.0 if last_s < 0 else last_s + frame_s
            else:
                origin = frame.pts if origin is None else origin
                time_s = float((frame.pts - origin) * (frame.time_base or stream.time_base))
            if time_s > last_s:
                last_s = time_s
                yield time_s, frame
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: decoding breaks after {max(last_s, 0):.2f} s: {_reason(error)}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open `path` and its main video stream; every FFmpeg error inside becomes a VideoError."""
    av.logging.set_level(None)  # Broken files would fill the terminal; the reason travels in the error.
    try:
        if not path.is_file():
            raise VideoError(f"{path.name}: {'not a regular file' if path.exists() else 'no such file'}")
        if not path.stat().st_size:
            raise VideoError(f"{path.name}: the file is empty")
        with path.open("rb") as source:
            options = {"fd": str(source.fileno()), "format_whitelist": _CONTAINERS, "fflags": "+genpts"}
            with av.open("fd:", options=options, metadata_errors="replace") as container:
                yield container, _main_stream(container, path)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: {_reason(error)}") from None
    except OSError as error:
        raise VideoError(f"{path.name}: {error.strerror or error}") from None


def _main_stream(container: Any, path: Path) -> Any:
    stream = container.streams.best("video")
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    if stream is None or stream.disposition & still:
        raise VideoError(f"{path.name}: there is no video in it" + (", only audio" if container.streams.audio else ""))
    if stream.codec_context is None:
        raise VideoError(f"{path.name}: no decoder for its video on this machine")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = _DECODER_THREADS
    stream.codec_context.options = {"max_pixels": str(MAX_SIDE_PX * MAX_SIDE_PX // 4)}
    return stream


def _reason(error: av.FFmpegError) -> str:
    return " ".join((error.strerror or str(error)).split()).lower()


def _rotation_deg(frame: Any) -> int:
    """Return the clockwise turn that displays `frame` upright, to the nearest quarter."""
    return round(-frame.rotation / 90) % 4 * 90


def _pixel_aspect(stream: Any) -> float:
    """Return displayed width over height of one stored pixel; 1 where it is absent or absurd."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / 8 <= aspect <= 8 else 1.0


def _displayed_size(frame: Any, stream: Any, path: Path) -> tuple[int, int]:
    """Return width and height as displayed, px."""
    width, height = max(1, round(frame.width * _pixel_aspect(stream))), frame.height
    if max(width, height) > MAX_SIDE_PX or max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError(f"{path.name}: a picture of {width} x {height} px is beyond what is read")
    return (height, width) if _rotation_deg(frame) in (90, 270) else (width, height)


def _pixels(frame: Any, stream: Any, sampling: Sampling) -> Pixels:
    """Return `frame` resized to the sampling, upright: uint8 [S, S, 3] RGB."""
    size = sampling.image_size
    width = height = size
    if sampling.fit == "crop":
        aspect = frame.width * _pixel_aspect(stream) / frame.height
        aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
        width, height = max(size, round(size * aspect)), max(size, round(size / aspect))
    resized = frame.reformat(width, height, "rgb24", interpolation=_RESIZE, threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    square = resized[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(square, k=-_rotation_deg(frame) // 90))


def _picture(frame: Any, stream: Any, path: Path, max_width: int, max_height: int) -> Pixels:
    """Return `frame` upright in its displayed proportions within the given size: uint8 [h, w, 3] RGB."""
    shown_width, shown_height = _displayed_size(frame, stream, path)
    scale = min(max_width / shown_width, max_height / shown_height)
    width, height = max(1, round(shown_width * scale)), max(1, round(shown_height * scale))
    turned = _rotation_deg(frame) in (90, 270)
    stored = (height, width) if turned else (width, height)
    pixels = frame.reformat(*stored, "rgb24", interpolation=_RESIZE, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, k=-_rotation_deg(frame) // 90))
