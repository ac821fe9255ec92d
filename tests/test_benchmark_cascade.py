"""The film of the cascade's benchmark: copied packets in any order, with the share of highlights asked for."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.long_footage import KEYFRAME_S, RATE, Packets, encode_clips, write_film
from benchmarks.scoring_cascade import _arrange
from models.seeking import keyframe_times


def write_clip(path: Path, level: int, num_frames: int) -> Path:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_a_film_of_copied_packets_shows_its_clips_in_order_with_a_keyframe_at_the_start_of_each(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / "dark.mp4", 30, 12), write_clip(tmp_path / "bright.mp4", 220, 9)]
    template, (dark, bright) = encode_clips(paths, tmp_path)
    order = [bright, dark, dark, bright]
    length_s = write_film(template, order, tmp_path / "film.mp4")
    assert length_s == pytest.approx(sum(clip.duration_s for clip in order))
    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    times_s = [time_s for time_s, _ in frames]
    np.testing.assert_allclose(np.diff(times_s), 1 / RATE, atol=1e-3)
    starts_s = np.cumsum([0.0, *(clip.duration_s for clip in order)])
    for clip, start_s, end_s in zip(order, starts_s, starts_s[1:], strict=False):
        levels = [level for time_s, level in frames if start_s - 1e-6 <= time_s < end_s - 1e-6]
        assert np.mean(levels) == pytest.approx(220 if clip is bright else 30, abs=12)
    found_s = keyframe_times(tmp_path / "film.mp4")
    assert all(min(abs(time_s - start_s) for time_s in found_s) < 1e-3 for start_s in starts_s[:-1])
    assert max(np.diff([*found_s, length_s])) <= KEYFRAME_S + 1e-3


def test_highlights_take_a_twentieth_of_the_film() -> None:
    good = [(Packets("good", 6.0, ()), 3.0)]
    quiet = [(Packets("quiet", 7.0, ()), 0.0), (Packets("quieter", 5.0, ()), 0.0)]
    chosen, share = _arrange(good, quiet, 3600.0)
    assert sum(clip.duration_s for clip in chosen) >= 3600
    assert share == pytest.approx(0.05, abs=0.002)
    assert chosen == _arrange(good, quiet, 3600.0)[0]
