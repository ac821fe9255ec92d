"""Frames for people: the same moment as the sample beside them, upright and in their own proportions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.video import Sampling, iterate_frames, iterate_pictures, probe

NAMES = [
    "decord__video_0.mov",
    "decord__video_90.mov",
    "decord__video_270.mov",
    "mp4parse__h264_white_frame_sar_16_9.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_shows_what_its_sample_shows(name, shared: Path):
    path = shared / "data" / "odd_media" / name
    sampling, info = Sampling(10.0, 64, "squash"), probe(path)
    samples = list(iterate_frames(path, sampling))
    for (time_s, pixels), (same_time_s, same_pixels, picture) in zip(
        samples, iterate_pictures(path, sampling), strict=True
    ):
        shown = picture(480, 180)
        height, width = shown.shape[:2]
        assert time_s == same_time_s
        assert np.array_equal(pixels, same_pixels)
        assert width <= 480
        assert height <= 180
        assert width == 480 or height == 180
        assert width / height == pytest.approx(info.width / info.height, abs=0.02)
        squashed = np.asarray(Image.fromarray(shown).resize((64, 64), Image.Resampling.BOX)).astype(int)
        assert np.abs(squashed - pixels).mean() < 6
