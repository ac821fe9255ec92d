"""Shot boundaries: true cuts of drawn and of real videos, counted; and what is no cut."""

import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ShapeError, VideoError
from models.seeking import keyframe_times
from models.shots import (
    CutFinder,
    FeatureShotDetector,
    ShotDetector,
    ShotsParams,
    colours,
    shot_boundaries,
    shots_of_file,
)

REAL = Path(__file__).resolve().parents[3] / "shared/data"
# Seconds of the first frame of each new shot, from looking at the frames.
TRUE_CUTS = {
    "wildlife/elephant_road_then_truck.mp4": [5.333],
    "wildlife/wildlife_multishot_854.mp4": [0.067, 4.204, 7.140, 11.812, 17.317, 20.854, 24.625],
    "general/scene_cuts.mp4": [1.2, 3.04, 5.48, 7.48, 9.68],
    "wildlife/waterhole_vfr_meme.mp4": [7.155],
}
# A wipe in daisies, a fast animal in sunbird, one still in elephant_still that fades in and out.
WITHOUT_CUTS = [
    *(f"wildlife/{name}_small_10fps.mp4" for name in ("daisies", "sunbird", "tiger", "elephant", "meconopsis")),
    *("wildlife/elephant_still_tusker.mp4", "wildlife/goat_davis.mp4", "general/bigbuckbunny.mp4"),
]


def count(found: Sequence[float], true: Sequence[float], late_s: float) -> tuple[int, int, int]:
    """Return how many were found, found for nothing, and missed; a cut is found up to `late_s` after it."""
    left = list(true)
    for time_s in found:
        near = [cut for cut in left if -0.002 <= time_s - cut <= late_s + 0.002]
        if near:
            left.remove(near[0])
    hits = len(true) - len(left)
    return hits, len(found) - hits, len(left)


def scene(seed: int, place: float) -> np.ndarray:
    """Return a 96 x 64 picture of one scene, seen from `place`: blocks of colour that pass by."""
    rng = np.random.default_rng(seed)
    wide = np.kron(rng.integers(20, 235, (8, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    left = round(place) % (wide.shape[1] - 96)
    return wide[:, left : left + 96]


def draw(path: Path, lengths: Sequence[int], pan: float, fps: int = 25) -> list[float]:
    """Write a video of one scene after the other, panning by `pan` px a frame; return its true cuts, seconds."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps, options={"crf": "18", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        index = 0
        for seed, length in enumerate(lengths):
            for i in range(length):
                frame = av.VideoFrame.from_ndarray(scene(seed, i * pan), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                if i == 0:
                    frame.pict_type = PictureType.I
                output.mux(stream.encode(frame))
                index += 1
        output.mux(stream.encode(None))
    return (np.cumsum(lengths[:-1]) / fps).tolist()


def test_every_cut_of_drawn_videos_is_found_and_nothing_else(tmp_path: Path) -> None:
    hits = extra = missed = 0
    for number, (lengths, pan) in enumerate([([40, 25, 60, 13, 30], 0.0), ([50, 50, 50], 1.0), ([125], 2.0)]):
        true = draw(tmp_path / f"{number}.mp4", lengths, pan)
        counts = count(shots_of_file(tmp_path / f"{number}.mp4"), true, 0.0)
        hits, extra, missed = hits + counts[0], extra + counts[1], missed + counts[2]
    assert (hits, extra, missed) == (6, 0, 0)


def test_cuts_of_real_videos_are_counted() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/data")
    clips = [*TRUE_CUTS, *WITHOUT_CUTS]
    totals = np.zeros((2, 3), int)
    for clip in clips:
        for row, fps in enumerate((30.0, 8.0)):
            found = shots_of_file(REAL / clip, ShotsParams(fps=fps))
            totals[row] += count(found, TRUE_CUTS.get(clip, []), 1 / fps if fps < 30 else 0.0)
    assert totals[0].tolist() == [14, 0, 0]  # all frames
    assert totals[1, 0] >= 12  # eight a second
    assert totals[1, 1] <= 1


def test_a_pan_a_flicker_of_noise_and_a_slow_fade_are_no_cuts() -> None:
    rng = np.random.default_rng(0)

    def fading(i: int) -> np.ndarray:
        return (scene(3, 0) * (1 - i / 100)).astype(np.uint8)

    def noisy(i: int) -> np.ndarray:
        return np.clip(scene(3, i) + rng.normal(0, 40, (64, 96, 3)), 0, 255).astype(np.uint8)

    for picture in (fading, noisy, lambda i: scene(3, 8 * i % 100)):
        assert list(shot_boundaries((i / 25, picture(i)) for i in range(100))) == []


def test_of_two_cuts_in_one_blink_the_greater_stays() -> None:
    black, grey, white = (np.full((8, 8, 3), level, np.uint8) for level in (0, 60, 250))
    frames = [black] * 10 + [grey] * 4 + [white] * 20
    assert list(shot_boundaries((i / 25, frame) for i, frame in enumerate(frames))) == [14 / 25]
    apart = ShotsParams(min_shot_s=0.1)
    assert list(shot_boundaries(((i / 25, frame) for i, frame in enumerate(frames)), apart)) == [10 / 25, 14 / 25]


def test_a_cut_beside_another_is_found() -> None:
    black, red, white = (np.full((8, 8, 3), level, np.uint8) for level in ((0, 0, 0), (200, 30, 30), (250, 250, 250)))
    frames = [black] * 10 + [red] * 2 + [white] * 20
    params = ShotsParams(min_shot_s=0.0)
    assert list(shot_boundaries(((i / 25, frame) for i, frame in enumerate(frames)), params)) == [10 / 25, 12 / 25]


def test_features_have_cuts_too_and_their_length_means_nothing() -> None:
    rng = np.random.default_rng(0)
    shots = rng.normal(size=(4, 32))
    detector, found = FeatureShotDetector(), []
    for i in range(80):
        found += detector.add(i / 4, (shots[i // 20] + 0.1 * rng.normal(size=32)) * rng.uniform(0.5, 9))
    assert [*found, *detector.finish()] == [5.0, 10.0, 15.0]


def test_cuts_are_told_while_the_video_runs_and_in_constant_memory() -> None:
    pictures = [np.full((64, 64, 3), 230 * (k % 2), np.uint8) for k in range(2)]

    def detect() -> tuple[int, list[tuple[int, float]]]:
        """Return by how many bytes memory grows after 40 s, and which cut was told at which picture."""
        detector, told = ShotDetector(), []
        tracemalloc.start()
        try:
            for i in range(4_000):
                told += [(i, cut) for cut in detector.add(i / 25, pictures[i // 50 % 2])]
                if i == 1000:
                    tracemalloc.reset_peak()
                    early = tracemalloc.get_traced_memory()[1]
            return tracemalloc.get_traced_memory()[1] - early, told
        finally:
            tracemalloc.stop()

    growths, (told, *_) = zip(*(detect() for _ in range(3)), strict=True)
    assert min(growths) < 200_000  # threads that earlier tests left behind are traced too, but not in every run
    assert len(told) == 4_000 / 50 - 1
    assert all(i / 25 - cut < 1.0 for i, cut in told)


@settings(max_examples=100)
@given(
    st.lists(st.floats(0, 255), max_size=60),
    st.builds(ShotsParams, ratio=st.floats(1.1, 6), reach=st.integers(1, 5), min_shot_s=st.floats(0, 3)),
    st.integers(0, 80),
)
def test_cuts_are_in_order_apart_and_shift_with_the_video(
    changes: list[float], params: ShotsParams, shift: int
) -> None:
    def cuts(first: int) -> list[float]:
        finder = CutFinder(params, params.min_change)
        found = [cut for i, change in enumerate(changes) for cut in finder.add((first + i) / 4, change)]
        return found + list(finder.finish())

    found = cuts(0)
    assert all(b - a >= params.min_shot_s and b > a for a, b in pairwise(found))
    assert all(changes[round(cut * 4)] >= params.min_change for cut in found)
    assert cuts(shift) == [cut + shift / 4 for cut in found]


def test_keyframes_are_told_in_order(tmp_path: Path) -> None:
    true = draw(tmp_path / "cuts.mp4", [40, 60, 50], 0.0)
    found = keyframe_times(tmp_path / "cuts.mp4")
    assert found[0] == 0.0
    assert count(found[1:], true, 0.0) == (2, 0, 0)


def test_keyframes_count_from_the_first_frame(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    path = make_video(tmp_path / "late.mkv", range(5000, 7000, 100), options={"g": "5", "keyint_min": "5"})
    assert keyframe_times(path) == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=1e-6)


def test_keyframes_of_odd_files_are_told_or_refused() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/data")
    told = refused = 0
    for path in sorted((REAL / "odd_media").iterdir()):
        try:
            found = keyframe_times(path)
        except VideoError:
            refused += 1
            continue
        told += 1
        assert found == sorted(set(found))
        assert all(0 <= time_s < 600 for time_s in found)
    assert told > 50
    assert refused > 10


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 3), (480, 640, 3), (17, 16, 3)])
def test_a_thumbnail_of_one_colour_is_that_colour_whatever_the_size(shape: tuple[int, ...]) -> None:
    thumbnail = colours(np.full(shape, 100, np.uint8))
    assert np.allclose(thumbnail, [100, 0, 0], atol=1e-3)


def test_what_is_no_frame_or_out_of_order_is_refused(tmp_path: Path) -> None:
    detector = ShotDetector()
    detector.add(1.0, np.zeros((4, 4, 3), np.uint8))
    good = np.zeros((4, 4, 3), np.uint8)
    for time_s, pixels in ((1.0, good), (2.0, good[:, :, 0]), (2.0, good.astype(float))):
        with pytest.raises(ShapeError, match="shots"):
            detector.add(time_s, pixels)
    with pytest.raises(ShapeError, match="finite"):
        FeatureShotDetector().add(0.0, np.array([np.nan]))
    (tmp_path / "no.mp4").write_text("no video")
    for read in (shots_of_file, keyframe_times):
        with pytest.raises(VideoError):
            read(tmp_path / "no.mp4")
