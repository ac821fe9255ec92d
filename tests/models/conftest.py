"""Small videos of known frames and times, made with PyAV."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Return the function that writes a video."""
    return _make_video


def _make_video(
    path: Path,
    times_ms: Sequence[int] = range(0, 1000, 100),
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    picture: np.ndarray | None = None,
    tick_ms: int = 1,
) -> Path:
    """Write a video whose frame i is shown at times_ms[i] and is grey of level 20 + 4 * i, or always `picture`."""
    with av.open(str(path), "w", format=container) as output:
        gap_ms = times_ms[1] - times_ms[0] if len(times_ms) > 1 else 100
        stream = output.add_stream(
            codec, rate=Fraction(1000, gap_ms), options=options or {"qp": "0"} if codec == "libx264" else {}
        )
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(tick_ms, 1000)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for i, time_ms in enumerate(times_ms):
            level = np.full((size[1], size[0], 3), min(20 + 4 * i, 235), np.uint8) if picture is None else picture
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
