"""From frames to a video file, through PyAV.

Knows codecs, containers and clocks; knows nothing of what the frames show. Encoders run on one thread and muxers in
bit-exact mode, so that the same frames give the same bytes with the same version of FFmpeg.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container import OutputContainer

from models.files import replacing

_CODEC_OPTIONS: dict[str, dict[str, str]] = {
    # With its macroblock tree, x264 core 165 gives other bytes from run to run even on one thread; without, the same.
    "libx264": {"preset": "veryfast", "crf": "27", "x264-params": "mbtree=0"},
    "libx265": {"preset": "superfast", "crf": "28", "x265-params": "pools=none:frame-threads=1:log-level=none:info=0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "crf": "38", "b": "0"},
    "mpeg4": {"qmin": "4", "qmax": "7"},
}
_AVI_DELAY = 2304  # samples: two frames of MPEG audio, more than the delay of the encoder
_FORMATS = {"mkv": "matroska"}
_SAMPLE_RATES_HZ = {"aac": 32000, "libopus": 48000, "libmp3lame": 32000}
# Milliseconds: fine enough for a variable frame rate, and coarse enough for every container and codec used here.
_VARIABLE_TIME_BASE = Fraction(1, 1000)


@dataclass(frozen=True)
class Encoding:
    """How a clip is stored.

    extension:     file name extension, which chooses the container
    codec:         FFmpeg's name of the video encoder
    width, height: pixels as displayed, both even
    fps:           frames a second; the upper rate where it is variable
    audio:         FFmpeg's name of the audio encoder, or None
    is_variable:   leave frames out here and there, so that the frame rate varies
    is_rotated:    store the frames lying on their side with a rotation flag (mp4 and mov only)
    """

    extension: str
    codec: str
    width: int
    height: int
    fps: Fraction
    audio: str | None = None
    is_variable: bool = False
    is_rotated: bool = False

    def frame_times_s(self, duration_s: float) -> list[float]:
        """Return the presentation times of the frames of a clip of that length, seconds, from 0 upwards."""
        ticks = range(max(1, round(duration_s * self.fps)))
        last = len(ticks) - 1
        # Runs of 7 frames at the full rate take turns with runs of 8 where every second frame is missing.
        kept = [k for k in ticks if not self.is_variable or k in (0, last) or k % 15 < 7 or k % 2 == 0]
        times = [float(k / self.fps) for k in kept]
        return [round(time_s, 3) for time_s in times] if self.is_variable else times


def write_video(path: Path, frames: Iterable[npt.NDArray[np.uint8]], times_s: list[float], encoding: Encoding,
                seed: int) -> None:  # fmt: skip
    """Write `frames` (uint8 [H, W, 3] RGB, displayed at `times_s` seconds) to `path`, atomically.

    seed: fixes the sound, where the encoding has any
    """
    container = _FORMATS.get(encoding.extension, encoding.extension)
    with replacing(path) as temporary:
        with av.open(str(temporary), "w", format=container, options={"fflags": "+bitexact"}) as out:
            video = _add_video(out, encoding)
            audio = _add_audio(out, encoding.audio) if encoding.audio is not None else None
            for pixels, time_s in zip(frames, times_s, strict=True):
                stored = np.ascontiguousarray(np.rot90(pixels)) if encoding.is_rotated else pixels
                frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
                frame.time_base = video.codec_context.time_base
                frame.pts = round(Fraction(time_s) / video.codec_context.time_base)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
            if audio is not None:
                # AVI has no negative times: an encoder's delay there would push the picture off its grid.
                first = _AVI_DELAY if encoding.extension == "avi" else 0
                for block in _rumble(
                    times_s[-1] + float(1 / encoding.fps), audio.codec_context.sample_rate, seed, first
                ):
                    out.mux(audio.encode(block))
                out.mux(audio.encode(None))
        if encoding.is_rotated:
            temporary.write_bytes(_with_rotation(temporary.read_bytes()))


def _add_video(out: OutputContainer, encoding: Encoding) -> av.VideoStream:
    video = out.add_stream(encoding.codec, rate=encoding.fps, options=dict(_CODEC_OPTIONS[encoding.codec]))
    assert isinstance(video, av.VideoStream)
    size = (encoding.width, encoding.height)
    video.width, video.height = size[::-1] if encoding.is_rotated else size
    video.pix_fmt = "yuv420p"
    context = video.codec_context
    context.time_base = _VARIABLE_TIME_BASE if encoding.is_variable else 1 / encoding.fps
    context.thread_count = 1
    context.gop_size = 60
    context.flags |= Flags.bitexact
    if encoding.codec == "libx265" and encoding.extension in ("mp4", "mov"):
        context.codec_tag = "hvc1"
    return video


def _add_audio(out: OutputContainer, codec: str) -> av.AudioStream:
    audio = out.add_stream(codec, rate=_SAMPLE_RATES_HZ[codec])
    assert isinstance(audio, av.AudioStream)
    context = audio.codec_context
    context.layout, context.bit_rate, context.thread_count = "mono", 20_000, 1
    context.flags |= Flags.bitexact
    return audio


def _rumble(duration_s: float, rate_hz: int, seed: int, first: int) -> Iterator[av.AudioFrame]:
    """Yield a low rumble under faint wind, float32 in blocks of 1024 samples. It says nothing about the picture."""
    rng = np.random.default_rng((seed, 5))
    num_samples = int(duration_s * rate_hz)
    t = np.arange(num_samples) / rate_hz
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * float(rng.uniform(0.1, 0.3)) * t + float(rng.uniform(0, 6.3)))
    sound = 0.2 * swell * np.sin(2 * np.pi * float(rng.uniform(18, 32)) * t) + 0.01 * rng.standard_normal(num_samples)
    for start in range(0, num_samples, 1024):
        block = sound[None, start : start + 1024].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first + start, Fraction(1, rate_hz)
        yield frame


def _with_rotation(content: bytes) -> bytes:
    """Return the mp4 `content` with its first track flagged to be shown turned a quarter clockwise.

    PyAV has no way to set it. The matrix is that of the track header box, ISO/IEC 14496-12, 8.3.2: nine 32-bit
    numbers, 40 bytes after the box type in version 0.
    """
    at = content.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return content[:at] + matrix + content[at + len(matrix) :]
