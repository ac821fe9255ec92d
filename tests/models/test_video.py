"""Sampling footage: frames are taken at true seconds, and a video is what its packets say."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from models import video
from models.decoding import displayed_frames, opened
from models.errors import ShapeError, VideoError
from models.video import GRID_TOLERANCE_S, SampledVideo, Sampling, iterate_frames, pick_on_grid, probe, sample_video

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="../shared is missing")
MakeVideo = Callable[..., Path]


def levels(frames: np.ndarray) -> list[int]:
    """Return which frame of `make_video` each sampled picture is."""
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def shown_by_rule(times_ms: Sequence[int], end_ms: int, fps: int) -> list[int]:
    """The rule of sampling written the slow way: at each grid point the last frame at or before it, each once."""
    shown: list[int] = []
    for k in range(math.ceil(end_ms * fps / 1000) + 2):
        instant_ms = Fraction(1000 * k, fps)
        if instant_ms >= end_ms:
            break
        now = max(i for i, time_ms in enumerate(times_ms) if time_ms <= instant_ms + GRID_TOLERANCE_S * 1000)
        if not shown or shown[-1] != now:
            shown.append(now)
    return shown


@given(
    gaps_ms=st.lists(st.integers(2, 3000), min_size=1, max_size=40),
    fps=st.integers(1, 60),
    last_ms=st.integers(2, 5000),
)
@example(gaps_ms=[2, 2, 2, 2, 2, 2, 2789], fps=5, last_ms=2)  # 2.801 s is within the tolerance of 2.8 s, rounded or not
def test_picking_follows_the_rule_of_the_grid(gaps_ms: list[int], fps: int, last_ms: int) -> None:
    times_ms = [0, *np.cumsum(gaps_ms).tolist()]
    end_ms = times_ms[-1] + last_ms
    timed = [(ms / 1000, end_ms / 1000 if ms == times_ms[-1] else math.nan, i) for i, ms in enumerate(times_ms)]
    picked = list(pick_on_grid(timed, fps))
    assert [i for _, i in picked] == shown_by_rule(times_ms, end_ms, fps)
    assert [time_s for time_s, _ in picked] == [times_ms[i] / 1000 for _, i in picked]


@given(st.lists(st.integers(1, 1000), max_size=30), st.floats(0.05, 500))
def test_picking_gives_each_item_at_most_once_and_the_first_always(gaps_ms: list[int], fps: float) -> None:
    times_s = [0.0, *(np.cumsum(gaps_ms) / 1000).tolist()]
    picked = [i for _, i in pick_on_grid([(time_s, time_s + 0.02, i) for i, time_s in enumerate(times_s)], fps)]
    assert picked[0] == 0
    assert picked == sorted(set(picked))
    assert len(picked) <= math.ceil((times_s[-1] + 0.021) * fps) + 1


def test_constant_rate_is_sampled_on_the_grid(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", range(0, 3000, 40))
    sampled = sample_video(path, Sampling(fps=5, image_size=32))
    assert sampled.times_s.tolist() == [k / 5 for k in range(15)]
    assert levels(sampled.frames_THWC)[:10] == list(range(0, 50, 5))
    assert sampled.duration_s == pytest.approx(3.0)
    assert sampled.frames_THWC.shape == (15, 32, 32, 3)


@pytest.mark.parametrize("fps", [1, 4, 10, 30])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_gives_the_frame_that_is_on_screen(
    make_video: MakeVideo, tmp_path: Path, suffix: str, fps: int
) -> None:
    times_ms = [0, 40, 90, 300, 310, 1250, 1300, 1900, 3000, 3100]
    path = make_video(tmp_path / f"vfr{suffix}", times_ms, options={"qp": "0", "bf": "0"})
    sampled = sample_video(path, Sampling(fps=fps, image_size=16))
    wanted = shown_by_rule(times_ms, round(sampled.duration_s * 1000), fps)
    assert levels(sampled.frames_THWC) == wanted
    assert sampled.times_s == pytest.approx([times_ms[i] / 1000 for i in wanted], abs=1e-9)
    info = probe(path)
    assert info.is_vfr
    assert info.num_frames == len(times_ms)
    assert info.duration_s > 3.1


def test_reordered_frames_come_in_the_order_of_display(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "b.mp4", range(0, 2000, 50), options={"crf": "5", "bf": "3", "b-adapt": "0"})
    sampled = sample_video(path, Sampling(fps=20, image_size=16))
    assert levels(sampled.frames_THWC) == list(range(40))
    assert not probe(path).is_vfr


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_times_start_at_the_first_frame(make_video: MakeVideo, tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"late{suffix}", range(10_000, 12_000, 100))
    info = probe(path)
    assert info.start_pts_s >= 10
    assert info.duration_s == pytest.approx(2, abs=0.02)
    sampled = sample_video(path, Sampling(fps=2, image_size=16))
    assert sampled.times_s == pytest.approx([0, 0.5, 1, 1.5], abs=0.001)
    assert levels(sampled.frames_THWC) == [0, 5, 10, 15]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".avi", ".webm"])
def test_one_frame_is_a_video(make_video: MakeVideo, tmp_path: Path, suffix: str) -> None:
    codec, pix_fmt = {".gif": ("gif", "rgb8"), ".avi": ("mpeg4", "yuv420p"), ".webm": ("libvpx", "yuv420p")}.get(
        suffix, ("libx264", "yuv420p")
    )
    path = make_video(tmp_path / f"one{suffix}", [0], codec=codec, pix_fmt=pix_fmt)
    info = probe(path)
    assert info.num_frames == 1
    assert info.duration_s > 0
    sampled = sample_video(path, Sampling(fps=30, image_size=8))
    assert sampled.times_s.tolist() == [0.0]
    assert sampled.duration_s > 0


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv444p", (51, 37)),
        ("libx264", "yuv420p10le", (64, 48)),
        ("libvpx-vp9", "yuv444p", (33, 31)),
        ("mpeg4", "yuv420p", (70, 50)),
    ],
)
def test_formats_and_odd_sizes(
    make_video: MakeVideo, tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]
) -> None:
    path = make_video(tmp_path / "odd.mkv", codec=codec, pix_fmt=pix_fmt, size=size)
    info = probe(path)
    assert (info.width, info.height) == size
    assert info.pix_fmt == pix_fmt
    sampled = sample_video(path, Sampling(10, 24, "crop"))
    assert levels(sampled.frames_THWC) == list(range(10))


def test_probe_tells_what_was_written(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "plain.mkv", range(0, 4000, 50))
    info = probe(path)
    assert (info.codec, info.container, info.has_audio) == ("h264", "matroska,webm", False)
    assert (info.num_frames, info.is_vfr, info.rotation_deg) == (80, False, 0)
    assert info.mean_fps == pytest.approx(20)
    assert info.num_bytes == path.stat().st_size


def test_stream_without_a_clock_runs_at_its_nominal_rate(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "raw.h264", range(0, 2000, 40), container="h264", options={"qp": "0", "bf": "0"})
    info = probe(path)
    assert info.num_frames == 50
    sampled = sample_video(path, Sampling(info.mean_fps, 16))
    assert levels(sampled.frames_THWC)[:50] == list(range(50))
    assert sampled.duration_s == pytest.approx(info.duration_s)


def test_two_recordings_in_one_file_are_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    one = make_video(tmp_path / "one.ts", range(0, 5000, 100)).read_bytes()
    (tmp_path / "two.ts").write_bytes(one + one)
    with pytest.raises(VideoError, match="jump back"):
        probe(tmp_path / "two.ts")
    with pytest.raises(VideoError, match="jump back"):
        list(iterate_frames(tmp_path / "two.ts", Sampling(1, 8)))


def test_limits_are_held(make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VideoError, match="above 172800 s"):
        probe(make_video(tmp_path / "gap.mkv", [0, 100, 200_000_000]))
    with pytest.raises(VideoError, match="400 x 16 px"):
        probe(make_video(tmp_path / "strip.mkv", [0, 100], size=(400, 16)))
    path = make_video(tmp_path / "x.mp4")
    monkeypatch.setattr(video, "MAX_SAMPLED_BYTES", 8 * 8 * 3 * 5)
    with pytest.raises(VideoError, match="lower fps"):
        sample_video(path, Sampling(10, 8))
    monkeypatch.setattr(video, "MAX_FRAMES", 5)
    with pytest.raises(VideoError, match="more than 5 frames"):
        probe(path)


def test_the_same_file_gives_the_same_bytes(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4", range(0, 3000, 40))
    first, second = (sample_video(path, Sampling(7.5, 40, "crop")) for _ in range(2))
    assert first.frames_THWC.tobytes() == second.frames_THWC.tobytes()
    assert first.times_s.tobytes() == second.times_s.tobytes()


@pytest.mark.parametrize(
    ("fps", "size", "fit"), [(0, 8, "crop"), (math.nan, 8, "crop"), (1, 0, "crop"), (1, 8, "fill")]
)
def test_sampling_refuses_nonsense(fps: float, size: int, fit: str) -> None:
    with pytest.raises(ShapeError, match="sampling"):
        Sampling(fps, size, fit)  # type: ignore[arg-type]


def test_sampled_video_refuses_what_does_not_fit() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    SampledVideo(frames, np.array([0.0, 1.0]), 2.0)
    for bad in (
        (frames.astype(np.float32), np.array([0.0, 1.0]), 2.0),
        (frames, np.array([0.0, 0.0]), 2.0),
        (frames, np.array([0.0]), 2.0),
        (frames, np.array([0.0, 1.0]), 1.0),
        (frames[:0], np.array([]), 2.0),
    ):
        with pytest.raises(ShapeError):
            SampledVideo(*bad)


@needs_shared
def test_decoded_frames_equal_the_golden_pictures() -> None:
    golden = {int(path.stem[-3:]): path for path in sorted((DATA / "golden_frames").glob("*.png"))}
    assert len(golden) == 5
    path = DATA / "golden_frames/testvid_1022ms.mp4"
    with opened(path) as (_, stream):
        shown = [frame.to_ndarray(format="rgb24") for _, _, frame in displayed_frames(path, stream)]
    for i, picture in golden.items():
        assert np.array_equal(shown[i], np.asarray(Image.open(picture).convert("RGB"))), i
    sampled = sample_video(path, Sampling(1000, 64, "squash"))
    assert len(sampled.times_s) == len(shown) == probe(path).num_frames
    for i, picture in golden.items():
        wanted = np.asarray(Image.open(picture).convert("RGB").resize((64, 64), Image.Resampling.BOX)).astype(float)
        assert np.abs(sampled.frames_THWC[i] - wanted).mean() < 4  # noise below black is clipped before or after
