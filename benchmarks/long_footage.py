"""Long footage for benchmarks, made quickly: clips are encoded once, and their packets written again and again.

The clips become one 720p H.264 stream with a keyframe at the start of each and at least every `KEYFRAME_S` seconds, as
cameras write it, with the noise of a sensor over it, so that decoding costs what it costs on real footage. Any order
of the clips is then a copy of packets: an hour takes seconds. What is made is the same in every run.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, RATE = 1280, 720, 30
KEYFRAME_S = 2.0
_NOISE = 3.0  # standard deviation of luma, of 255: a small camera in daylight
_NUM_GRAINS = 8  # pictures of noise that take turns, shifted: drawing a fresh one for each frame would cost more


@dataclass(frozen=True)
class Packets:
    """A clip as it lies in the encoded stream.

    name:       of the clip
    duration_s: seconds
    packets:    data, presentation and decoding time from the clip's start in ticks, and whether it is a keyframe
    """

    name: str
    duration_s: float
    packets: tuple[tuple[bytes, int, int, bool], ...]


def encode_clips(paths: Sequence[Path], scratch: Path) -> tuple[Path, list[Packets]]:
    """Return a file with all clips one after the other, and each clip's packets."""
    path = scratch / "clips.mp4"
    starts = [0]
    grain = np.random.default_rng(0).normal(0, _NOISE, (_NUM_GRAINS, HEIGHT, WIDTH)).astype(np.int16)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_type = "FRAME"  # one slice a picture, as cameras write it; else as many as there are cores
        options = {"preset": "superfast", "crf": "23", "g": str(round(KEYFRAME_S * RATE)), "sc_threshold": "0"}
        stream.options = options | {"x264-params": "open-gop=0", "forced-idr": "1"}
        count = 0
        for source in paths:
            for number, frame in enumerate(_frames(source, grain)):
                frame.pts, frame.time_base = count, Fraction(1, RATE)
                frame.pict_type = 1 if number == 0 else 0  # I, or what the encoder likes
                output.mux(stream.encode(frame))
                count += 1
            starts.append(count)
        output.mux(stream.encode())
    return path, _cut(path, [source.name for source in paths], starts)


def _frames(path: Path, grain: Any) -> Iterator[Any]:
    """Yield the frames of a clip at RATE, scaled and noisy."""
    with av.open(str(path)) as container:
        number = 0
        origin_s: float | None = None
        shown: Any = None
        for frame in container.decode(video=0):
            time_s = float(frame.time or 0.0)
            origin_s = time_s if origin_s is None else origin_s
            scaled = frame.reformat(WIDTH, HEIGHT, "yuv420p", interpolation="BICUBIC").to_ndarray()
            while shown is not None and number / RATE < time_s - origin_s - 1e-6:
                yield _noisy(shown, grain, number)
                number += 1
            shown = scaled
        if shown is not None:
            yield _noisy(shown, grain, number)


def _noisy(planes: Any, grain: Any, number: int) -> Any:
    noisy = planes.copy()
    shifted = np.roll(grain[number % len(grain)], 37 * number, axis=1)
    noisy[:HEIGHT] = np.clip(planes[:HEIGHT].astype(np.int16) + shifted, 0, 255)
    return av.VideoFrame.from_ndarray(noisy, "yuv420p")


def _cut(path: Path, names: Sequence[str], starts: Sequence[int]) -> list[Packets]:
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        tick = Fraction(1, RATE) / stream.time_base
        found: list[list[tuple[bytes, int, int, bool]]] = [[] for _ in names]
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None:
                clip = int(np.searchsorted(starts, packet.pts / tick, side="right")) - 1
                start = round(starts[clip] * tick)
                found[clip].append((bytes(packet), packet.pts - start, packet.dts - start, packet.is_keyframe))
    lengths = [(end - start) / RATE for start, end in itertools.pairwise(starts)]
    return [Packets(*parts) for parts in zip(names, lengths, map(tuple, found), strict=True)]


def write_film(template: Path, clips: Sequence[Packets], path: Path) -> float:
    """Write `clips` one after the other to `path` without encoding anything; return its length in seconds."""
    with av.open(str(template)) as source, av.open(str(path), "w") as output:
        like: Any = source.streams.video[0]
        stream: Any = output.add_stream_from_template(like)
        stream.time_base = like.time_base
        start_s = 0.0
        for clip in clips:
            start = round(start_s / like.time_base)
            for data, pts, dts, is_keyframe in clip.packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, like.time_base
                packet.pts, packet.dts, packet.is_keyframe = pts + start, dts + start, is_keyframe
                output.mux(packet)
            start_s += clip.duration_s
    return start_s
