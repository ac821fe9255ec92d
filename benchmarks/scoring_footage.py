"""Footage that the scoring benchmarks make for themselves: H.264 as cameras and editors write it, with libx264.

A camera that wanders over a textured picture, with grain. What is hard on a decoder is coded bits: files have the bit
rate that YouTube recommends for uploads of their size at 30 frames a second (720p 5 Mbit/s, 1080p 8 Mbit/s,
support.google.com/youtube/answer/1722171). libx264's own defaults otherwise: preset medium, a keyframe at most every
250 frames, up to three frames between references, deblocking. Long files are the same packets again and again with
later times, which takes seconds and is as long to decode as if it had been encoded at that length.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

FPS = 30
BIT_RATES = {720: 5_000_000, 1080: 8_000_000}  # bit/s by height
_GRAIN, _NUM_GRAINS = 6, 8


def make_clip(path: Path, width: int, height: int, duration_s: float, fps: int = FPS) -> Path:
    """Write `duration_s` seconds of H.264 of `width` x `height` px."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.bit_rate = BIT_RATES.get(height, width * height * 5)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_type = "FRAME"  # one slice a picture, as cameras write it; else as many as there are cores
        for i, picture in enumerate(_pictures(width, height, round(duration_s * fps))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def repeat_clip(source: Path, path: Path, num: int) -> Path:
    """Write the packets of `source` `num` times in a row, without encoding again."""
    with av.open(str(source)) as container:
        packets: list[Any] = [packet for packet in container.demux(video=0) if packet.dts is not None]
        template: Any = container.streams.video[0]
        # The first frame follows the last at the distance that frames have.
        ticks = max(packet.pts for packet in packets) - min(packet.pts for packet in packets)
        ticks += round(ticks / (len(packets) - 1))
        first = [(packet.pts, packet.dts) for packet in packets]
        with av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(template)
            for i in range(num):
                for packet, (pts, dts) in zip(packets, first, strict=True):
                    packet.stream, packet.time_base = stream, template.time_base
                    packet.pts, packet.dts = pts + i * ticks, dts + i * ticks
                    output.mux(packet)
    return path


def _pictures(width: int, height: int, num: int) -> Iterator[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(texture).resize((width * 2, height * 2), Image.Resampling.BICUBIC), np.int16)
    grains = rng.integers(-_GRAIN, _GRAIN + 1, (_NUM_GRAINS, height, width, 1)).astype(np.int16)
    for i in range(num):
        x, y = int((np.sin(i / 60) + 1) * width * 0.45), int((np.cos(i / 45) + 1) * height * 0.45)
        picture = scene[y : y + height, x : x + width] + grains[i % _NUM_GRAINS]
        yield np.clip(picture, 0, 255).astype(np.uint8)
