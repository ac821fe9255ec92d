"""What is on screen at every instant, and the preparation of pictures that CLIP's own project does."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import models.torchvision_operators  # noqa: F401

import torchvision.transforms as transforms  # isort: skip  (after models.torchvision_operators)
from models.errors import ParamsError, VideoError
from models.reference_resize import ReferenceResize
from models.shown import iterate_shown, shown_on_grid
from models.video import GRID_TOLERANCE_S

GAPS_MS = st.lists(st.integers(2, 900), min_size=1, max_size=40)


@settings(deadline=None, max_examples=200)
@given(gaps_ms=GAPS_MS, fps=st.sampled_from([0.5, 1.0, 2.0, 7.0, 25.0, 29.97, 240.0]))
def test_a_grid_has_no_holes_and_shows_what_is_on_screen(gaps_ms: list[int], fps: float) -> None:
    starts = np.concatenate([[0.0], np.cumsum(gaps_ms) / 1000])
    ends = np.append(starts[1:], starts[-1] + 0.04)
    timed = [(float(start), float(end), index) for index, (start, end) in enumerate(zip(starts, ends, strict=True))]
    found = list(shown_on_grid(timed, fps))
    instants = [k for ks, _ in found for k in ks]
    assert instants == list(range(len(instants)))
    assert abs(len(instants) - ends[-1] * fps) <= 1 + 1e-6 or len(instants) == 1
    for ks, index in found:
        for k in ks:
            assert starts[index] <= k / fps + GRID_TOLERANCE_S + 1e-6
            assert index + 1 == len(starts) or k / fps < starts[index + 1] - GRID_TOLERANCE_S + 1e-5


def test_a_single_frame_is_shown_at_zero() -> None:
    assert list(shown_on_grid([(0.0, 0.0, "a")], 0.1)) == [(range(1), "a")]
    assert list(shown_on_grid([], 1.0)) == []


@settings(deadline=None, max_examples=40)
@given(width=st.integers(20, 300), height=st.integers(20, 300), side=st.sampled_from([32, 50, 224]))
def test_the_reference_resize_is_that_of_clip(width: int, height: int, side: int) -> None:
    picture = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = transforms.Compose(
        [transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)]
    )
    assert np.array_equal(ReferenceResize(side, side)(picture), np.asarray(theirs(Image.fromarray(picture))))


def test_the_resize_of_timm_scales_to_more_and_cuts_the_centre() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    theirs = transforms.Compose([transforms.Resize(math.floor(56 / 0.875)), transforms.CenterCrop(56)])
    ours = ReferenceResize(56, 64, "bilinear")(picture)
    assert np.array_equal(ours, np.asarray(theirs(Image.fromarray(picture))))
    squashed = ReferenceResize(56, 56, "bicubic", "squash")(picture)
    assert np.array_equal(squashed, np.asarray(Image.fromarray(picture).resize((56, 56), Image.Resampling.BICUBIC)))
    for arguments in ((0, 10), (20, 10), (10, 10, "cubic")):
        with pytest.raises(ParamsError):
            ReferenceResize(*arguments)


def test_every_frame_at_its_true_time(make_video, tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 500, 520, 1400]
    path = make_video(tmp_path / "vfr.mkv", times_ms, container="matroska")
    rows = list(iterate_shown(path, None, ReferenceResize(16, 16)))
    assert [row[0].tolist() for row in rows] == [[ms / 1000] for ms in times_ms]
    levels = [float(pixels.mean()) for _, pixels in rows]
    assert levels == sorted(levels)
    assert all(pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8 for _, pixels in rows)


@pytest.mark.parametrize("exact", [True, False])
def test_a_long_frame_fills_its_instants(make_video, tmp_path: Path, exact: bool) -> None:
    path = make_video(tmp_path / "gap.mkv", [0, 100, 2100, 2200], container="matroska")
    rows = list(iterate_shown(path, 2.0, ReferenceResize(16, 16), exact=exact))
    assert [row[0].tolist() for row in rows] == [[0.0], [0.5, 1.0, 1.5, 2.0]]


def test_a_turned_video_stands_upright(make_video, tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 200
    path = make_video(tmp_path / "turned.mp4", rotation=90, picture=picture)
    ((_, exact), *_), ((_, fast), *_) = (
        list(iterate_shown(path, 1.0, ReferenceResize(32, 32), exact=exact)) for exact in (True, False)
    )
    assert np.abs(exact.astype(int) - fast).mean() < 3


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        list(iterate_shown(tmp_path / "bad.mp4", 1.0, ReferenceResize(16, 16)))
