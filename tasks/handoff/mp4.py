"""An MP4 file that is written picture by picture: H.264 and AAC, playable anywhere.

Knows encoders and time bases; knows nothing of highlights. The same input gives the same bytes: the encoder's threads
are fixed and no date is written. Holds what the encoder looks ahead, and no more.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

# libx264's constant rate factor: 18 is what its authors call visually lossless (https://trac.ffmpeg.org/wiki/Encode/H.264).
CRF = 18
_PRESET = "fast"
_THREADS = 2
_AUDIO_BIT_RATE = 160_000
TICKS_PER_S = 90_000
MP4_OPTIONS: Mapping[str, str] = {"movflags": "+faststart", "fflags": "+bitexact"}
_BT709 = 1  # the number of BT.709 in ITU-T H.273, for primaries, transfer and matrix alike
_COLOURS = ("color_primaries", "color_trc", "colorspace")


def open_mp4(path: Path) -> Any:
    """Return an av container that writes MP4 to `path`, whatever its name is."""
    return av.open(f"file:{path}", "w", format="mp4", options={**MP4_OPTIONS, "video_track_timescale": "90000"})


class Mp4Writer:
    """Writes pictures at their times, and sound. Use it in a `with`; on an error the file is not finished."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        sound: tuple[int, str] | None,
        *,
        is_bt709: bool = False,
    ) -> None:
        """Write to `path` pictures of `size` px, about `rate` a second, and `sound` (samples a second, layout).

        is_bt709: the colours are BT.709; else they are what the first picture says of itself
        """
        self._is_bt709 = is_bt709
        self._container = open_mp4(path)
        self._video = add_video(self._container, size, rate)
        self._audio = None if sound is None else add_audio(self._container, *sound)
        self._sound = sound
        self._durations: dict[int, int] = {}
        self.num_frames = 0
        self.num_samples = 0

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._mux(self._video.encode())
                if self._audio is not None:
                    self._container.mux(self._audio.encode())
        finally:
            self._container.close()

    def add_picture(self, frame: Any, time_s: Fraction | float, duration_s: Fraction | float) -> None:
        """Add a yuv420p `frame` that is shown from `time_s` for `duration_s` seconds."""
        if not self.num_frames:
            self._copy_colours(frame)
        start = round(Fraction(time_s) * TICKS_PER_S)
        frame.pts, frame.time_base = start, Fraction(1, TICKS_PER_S)
        frame.pict_type = 0
        self._durations[start] = round((Fraction(time_s) + Fraction(duration_s)) * TICKS_PER_S) - start
        self._mux(self._video.encode(frame))
        self.num_frames += 1

    def add_sound(self, samples_CN: npt.NDArray[np.float32]) -> None:
        """Add the next samples, float32 [C, N]."""
        if self._audio is not None and self._sound is not None and samples_CN.shape[1]:
            self._container.mux(encode_sound(self._audio, samples_CN, self.num_samples, *self._sound))
            self.num_samples += samples_CN.shape[1]

    def _copy_colours(self, frame: Any) -> None:
        context = self._video.codec_context
        context.color_range = 1  # limited, what `Upright` gives
        for name in _COLOURS:
            value = _BT709 if self._is_bt709 else getattr(frame, name)
            if value is not None:
                setattr(context, name, value)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            duration = self._durations.pop(packet.pts, None)
            if duration is not None:
                packet.duration = duration
            self._container.mux(packet)


def add_video(container: Any, size: tuple[int, int], rate: Fraction) -> Any:
    """Return a new libx264 stream of `container`."""
    options = {"crf": str(CRF), "preset": _PRESET, "threads": str(_THREADS)}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
    stream.time_base = Fraction(1, TICKS_PER_S)
    return stream


def add_audio(container: Any, rate: int, layout: str) -> Any:
    """Return a new AAC stream of `container`."""
    stream = container.add_stream("aac", rate=rate, layout=layout)
    stream.codec_context.bit_rate = _AUDIO_BIT_RATE
    return stream


def encode_sound(stream: Any, samples_CN: npt.NDArray[np.float32], position: int, rate: int, layout: str) -> list[Any]:
    """Return the packets of samples that start at `position`, counted in samples."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CN), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
    packets: list[Any] = stream.encode(frame)
    return packets
