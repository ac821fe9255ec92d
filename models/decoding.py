"""The lowest step of reading footage: a file opened safely, its frames in order, upright and square.

Knows FFmpeg's containers, clocks and errors; knows nothing of sampling or labels. A file is opened by its descriptor
and only by the demuxers of `_CONTAINERS`: neither its name (a leading dash, `%03d`, `http:`) nor a play list inside
it can make FFmpeg open anything else. PyAV keeps FFmpeg's own messages off the terminal; the reason travels in the
VideoError.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from models.errors import ShapeError, VideoBreaks, VideoError

# Limits. Beyond them a file is taken for damaged or hostile, and refused before it costs memory or hours.
MAX_SIDE_PX = 16_384
MAX_ASPECT = 16.0
MAX_DAMAGED_FRACTION = 0.05
# A clock that goes back by more than reordered frames explain, seconds.
MAX_JUMP_BACK_S = 1.0
# What a lone frame lasts when neither it nor its stream says: one frame at 25 frames/s.
DEFAULT_FRAME_S = 0.04
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,live_flv,f4v,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,h261,"
    "h263,h264,hevc,vvc,evc,obu,av1,ivf,ogg,gif,apng,mxf,mxf_opatom,rm,nut,dv,wtv,gxf,lxf,amv,avs2,avs3,cavsvideo,"
    "dirac,vc1,vc1test,swf,mjpeg,smjpeg,mpjpeg,yuv4mpegpipe,mtv,nsv,nuv,bink,smk,film_cpk,roq,dxa,wc3movie,ty,pva,"
    "rpl,viv,xmv,mvi,mv,ea,4xm,flic"
)
# HEIC and AVIF pictures come in the container of MP4.
_STILL_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "avif")
_EXACTLY = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

Fit = Literal["crop", "squash"]
ThreadType = Literal["AUTO", "FRAME", "SLICE"]
LoopFilter = Literal["default", "noref", "nokey", "all"]
Scaler = Literal["AREA", "BILINEAR", "BICUBIC", "FAST_BILINEAR"]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeOptions:
    """How FFmpeg is asked to decode and to scale. The defaults give every pixel as a plain decoder gives it.

    What each choice costs and changes is measured: `python -m benchmarks.decoding`, benchmarks/results/decoding.json.
    Nothing that changes pixels is on by default; leaving frames out (`skip_unsampled`) is what saves without a change.

    thread_type:      how the decoder shares its work: AUTO, FRAME or SLICE
    num_threads:      of the decoder, 0 for as many as there are cores. One of several threads of frames is always
                      handing over, so four keep two cores busy, and cost no more processor time
    skip_loop_filter: frames whose edges between blocks are not smoothed: "default" (none), "noref" (frames that no
                      other needs), "nokey", "all". Anything but the default changes pixels
    skip_unsampled:   H.264 frames that no other frame needs and no sample falls on are not decoded; pixels and times
                      stay as they are (models/skipping.py)
    scaler:           FFmpeg's interpolation of square samples. The data of every stage was made with AREA
    """

    thread_type: ThreadType = "AUTO"
    num_threads: int = 4
    skip_loop_filter: LoopFilter = "default"
    skip_unsampled: bool = True
    scaler: Scaler = "AREA"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("thread_type", self.thread_type, get_args(ThreadType)),
            ("skip_loop_filter", self.skip_loop_filter, get_args(LoopFilter)),
            ("scaler", self.scaler, get_args(Scaler)),
        ):
            if value not in known:
                raise ShapeError(f"decode options: {name} {value!r} must be one of {', '.join(known)}")
        if not 0 <= self.num_threads <= 64:
            raise ShapeError(f"decode options: num_threads {self.num_threads} must be 0 to 64")


DEFAULT_OPTIONS = DecodeOptions()


@contextlib.contextmanager
def opened(path: Path, decoding: DecodeOptions = DEFAULT_OPTIONS) -> Iterator[tuple[Any, Any]]:
    """Open `path`: yields its av container and its main video stream.

    Every error of FFmpeg or of the file system inside the block becomes a VideoError.
    """
    try:
        if not path.is_file():
            raise VideoError(f"{path.name}: {'not a regular file' if path.exists() else 'no such file'}")
        if not path.stat().st_size:
            raise VideoError(f"{path.name}: the file is empty")
        with path.open("rb") as source:
            # genpts: AVI stores no presentation times, FFmpeg derives them from the order of the frames.
            options = {"fd": str(source.fileno()), "format_whitelist": _CONTAINERS, "fflags": "+genpts"}
            with av.open("fd:", options=options, metadata_errors="replace") as container:
                yield container, _main_stream(container, path, decoding)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: {reason_of(error)}") from None
    except OSError as error:
        raise VideoError(f"{path.name}: {error.strerror or error}") from None


def _main_stream(container: Any, path: Path, decoding: DecodeOptions) -> Any:
    if container.metadata.get("major_brand") in _STILL_BRANDS:
        raise VideoError(f"{path.name}: a still image, not a video")
    stream = container.streams.best("video")
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    if stream is None or stream.disposition & pictures:
        raise VideoError(f"{path.name}: there is no video in it" + (", only audio" if container.streams.audio else ""))
    if stream.codec_context is None:
        raise VideoError(f"{path.name}: no decoder for its video on this machine")
    stream.thread_type = decoding.thread_type
    stream.codec_context.thread_count = decoding.num_threads
    stream.codec_context.options = {"max_pixels": str(MAX_SIDE_PX * MAX_SIDE_PX // 4)}
    if decoding.skip_loop_filter != "default":
        stream.codec_context.options = {
            **stream.codec_context.options,
            "skip_loop_filter": decoding.skip_loop_filter,
        }
    return stream


def reason_of(error: av.FFmpegError) -> str:
    """Return what FFmpeg's error means for a file, in words."""
    if isinstance(error, av.InvalidDataError):
        return "damaged, encrypted or not a video"
    if isinstance(error, av.ArgumentError):  # what FFmpeg says of a demuxer that is not in _CONTAINERS
        return "not in a video container"
    if isinstance(error, av.EOFError):
        return "it ends before its first frame"
    return " ".join((error.strerror or str(error)).split()).lower()


def displayed_frames(
    path: Path, stream: Any, frames: Iterable[Any] | None = None, origin: Fraction | None = None
) -> Iterator[tuple[float, float, Any]]:
    """Yield `(time_s, end_s, frame)` of all sound frames of an opened stream, times strictly increasing from 0.

    frames: what the decoder gives, by default all that is left of the stream
    origin: presentation timestamp of the first displayed frame, seconds, where `frames` begin later; frames before
            it are dropped
    end_s is where the frame ends by its own duration, or by the gap before it where it has none. Raises VideoBreaks
    where decoding breaks, naming the second that was reached; VideoError where there is no sound frame, and at the end
    where too many were damaged.
    """
    last_s, gap_s = -math.inf, nominal_frame_s(stream)
    num_damaged = num_frames = 0
    try:
        for frame in stream.container.decode(stream) if frames is None else frames:
            num_frames += 1
            if frame.is_corrupt:
                num_damaged += 1
                continue
            tick_s = frame.time_base or stream.time_base
            time_s = max(0.0, last_s + gap_s)  # where a frame has no clock, it follows the one before
            if frame.pts is not None:
                origin = frame.pts * tick_s - Fraction(time_s) if origin is None else origin
                time_s = float(frame.pts * tick_s - origin)
            if time_s < last_s - MAX_JUMP_BACK_S:
                raise VideoError(f"{path.name}: timestamps jump back after {last_s:.2f} s; split or remux it")
            if time_s > last_s and time_s >= 0:
                gap_s = time_s - last_s if last_s >= 0 else gap_s
                last_s = time_s
                yield time_s, time_s + max(float((frame.duration or 0) * tick_s), gap_s / 2), frame
    except av.FFmpegError as error:
        message = f"{path.name}: decoding breaks after {max(last_s, 0):.2f} s: {reason_of(error)}"
        raise (VideoBreaks(message, last_s) if last_s >= 0 else VideoError(message)) from None
    if last_s < 0:
        raise VideoError(f"{path.name}: no frame of it can be decoded")
    if num_damaged > 1 + MAX_DAMAGED_FRACTION * num_frames:
        raise VideoError(f"{path.name}: {num_damaged} of {num_frames} frames are damaged")


def nominal_frame_s(stream: Any) -> float:
    """Return what one frame lasts by the stream's header, seconds."""
    return 1 / float(stream.average_rate) if stream.average_rate else DEFAULT_FRAME_S


def rotation_deg(frame: Any) -> int:
    """Return the clockwise turn that displays `frame` upright, to the nearest quarter: 0, 90, 180 or 270."""
    return int(round(-frame.rotation / 90) % 4) * 90


def displayed_size(frame: Any, stream: Any, path: Path) -> tuple[int, int]:
    """Return width and height of `frame` as displayed, px. Raises VideoError beyond the limits of this module."""
    width, height = max(1, round(frame.width * _pixel_aspect(stream))), frame.height
    if max(width, height) > MAX_SIDE_PX or max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError(f"{path.name}: a picture of {width} x {height} px is beyond what is read")
    return (height, width) if rotation_deg(frame) in (90, 270) else (width, height)


def square_pixels(frame: Any, stream: Any, size: int, fit: Fit, scaler: Scaler = "AREA") -> Pixels:
    """Return `frame` as uint8 [size, size, 3] RGB, upright.

    fit:    "crop" scales the shorter side to `size` and keeps the centre; "squash" scales both sides
    scaler: FFmpeg's interpolation
    """
    width = height = size
    if fit == "crop":
        aspect = frame.width * _pixel_aspect(stream) / frame.height
        aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
        width, height = max(size, round(size * aspect)), max(size, round(size / aspect))
    resized = frame.reformat(
        width, height, "rgb24", interpolation=Interpolation[scaler] | _EXACTLY, threads=1
    ).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    square = resized[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(square, k=-rotation_deg(frame) // 90))


def displayed_pixels(frame: Any, stream: Any, path: Path, max_width: int, max_height: int) -> Pixels:
    """Return `frame` upright in its displayed proportions, within the given size, px: uint8 [h, w, 3] RGB.

    Raises VideoError as `displayed_size` does.
    """
    displayed_width, displayed_height = displayed_size(frame, stream, path)
    scale = min(max_width / displayed_width, max_height / displayed_height)
    width, height = max(1, round(displayed_width * scale)), max(1, round(displayed_height * scale))
    stored_size = (height, width) if rotation_deg(frame) in (90, 270) else (width, height)
    pixels = frame.reformat(*stored_size, "rgb24", interpolation=Interpolation.AREA | _EXACTLY, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, k=-rotation_deg(frame) // 90))


def _pixel_aspect(stream: Any) -> float:
    """Return displayed width over height of one stored pixel; 1 where it is absent or absurd."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / 8 <= aspect <= 8 else 1.0
