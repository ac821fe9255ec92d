"""Reading footage: times, pixels and orientation are exact; whatever is wrong with a file is a VideoError."""

import csv
import math
import os
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models import video
from models.decoding import displayed_frames, opened
from models.errors import ShapeError, VideoError
from models.video import GRID_TOLERANCE_S, SampledVideo, Sampling, iterate_frames, pick_on_grid, probe, sample_video

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="../shared is missing")


def make_video(
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


def test_constant_rate_is_sampled_on_the_grid(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", range(0, 3000, 40))
    sampled = sample_video(path, Sampling(fps=5, image_size=32))
    assert sampled.times_s.tolist() == [k / 5 for k in range(15)]
    assert levels(sampled.frames_THWC)[:10] == list(range(0, 50, 5))
    assert sampled.duration_s == pytest.approx(3.0)
    assert sampled.frames_THWC.shape == (15, 32, 32, 3)


@pytest.mark.parametrize("fps", [1, 4, 10, 30])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_gives_the_frame_that_is_on_screen(tmp_path: Path, suffix: str, fps: int) -> None:
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


def test_reordered_frames_come_in_the_order_of_display(tmp_path: Path) -> None:
    path = make_video(tmp_path / "b.mp4", range(0, 2000, 50), options={"crf": "5", "bf": "3", "b-adapt": "0"})
    sampled = sample_video(path, Sampling(fps=20, image_size=16))
    assert levels(sampled.frames_THWC) == list(range(40))
    assert not probe(path).is_vfr


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_times_start_at_the_first_frame(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"late{suffix}", range(10_000, 12_000, 100))
    info = probe(path)
    assert info.start_pts_s >= 10
    assert info.duration_s == pytest.approx(2, abs=0.02)
    sampled = sample_video(path, Sampling(fps=2, image_size=16))
    assert sampled.times_s == pytest.approx([0, 0.5, 1, 1.5], abs=0.001)
    assert levels(sampled.frames_THWC) == [0, 5, 10, 15]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".avi", ".webm"])
def test_one_frame_is_a_video(tmp_path: Path, suffix: str) -> None:
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


def quadrants(width: int, height: int) -> np.ndarray:
    """A picture of four colours: red, green / blue, white."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = (255, 255, 255)
    return picture


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_flag_is_applied(tmp_path: Path, rotation: int, fit: str) -> None:
    picture = quadrants(96, 64)
    path = make_video(tmp_path / "r.mp4", [0, 100], size=(96, 64), rotation=rotation, picture=picture)
    info = probe(path)
    upright = np.rot90(picture, k=rotation // 90)  # FFmpeg's flag counts counterclockwise, as rot90 does
    assert info.rotation_deg == -rotation % 360
    assert (info.height, info.width) == upright.shape[:2]
    frame = sample_video(path, Sampling(1, 32, fit)).frames_THWC[0].astype(int)  # type: ignore[arg-type]
    for y, x in ((4, 4), (4, 27), (27, 4), (27, 27)):
        wanted = upright[0 if y < 16 else -1, 0 if x < 16 else -1].astype(int)
        assert np.abs(frame[y, x] - wanted).max() < 12, (y, x)


def test_crop_keeps_the_centre_and_squash_keeps_all(tmp_path: Path) -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 255  # the centre square is white, both sides are black
    path = make_video(tmp_path / "wide.mp4", [0, 100], size=(128, 64), picture=picture)
    crop = sample_video(path, Sampling(1, 32, "crop")).frames_THWC[0]
    squash = sample_video(path, Sampling(1, 32, "squash")).frames_THWC[0]
    assert crop[:, 2:-2].min() > 240
    assert squash[:, :7].max() < 16
    assert squash[:, 10:22].min() > 240
    assert squash[:, 25:].max() < 16


def test_pixel_aspect_counts_as_displayed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "sar.mp4", [0, 100], size=(64, 64), pixel_aspect=Fraction(2, 1))
    info = probe(path)
    assert (info.width, info.height) == (128, 64)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv444p", (51, 37)),
        ("libx264", "yuv420p10le", (64, 48)),
        ("libvpx-vp9", "yuv444p", (33, 31)),
        ("mpeg4", "yuv420p", (70, 50)),
    ],
)
def test_formats_and_odd_sizes(tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "odd.mkv", codec=codec, pix_fmt=pix_fmt, size=size)
    info = probe(path)
    assert (info.width, info.height) == size
    assert info.pix_fmt == pix_fmt
    sampled = sample_video(path, Sampling(10, 24, "crop"))
    assert levels(sampled.frames_THWC) == list(range(10))


def test_probe_tells_what_was_written(tmp_path: Path) -> None:
    path = make_video(tmp_path / "plain.mkv", range(0, 4000, 50))
    info = probe(path)
    assert (info.codec, info.container, info.has_audio) == ("h264", "matroska,webm", False)
    assert (info.num_frames, info.is_vfr, info.rotation_deg) == (80, False, 0)
    assert info.mean_fps == pytest.approx(20)
    assert info.num_bytes == path.stat().st_size


def test_stream_without_a_clock_runs_at_its_nominal_rate(tmp_path: Path) -> None:
    path = make_video(tmp_path / "raw.h264", range(0, 2000, 40), container="h264", options={"qp": "0", "bf": "0"})
    info = probe(path)
    assert info.num_frames == 50
    sampled = sample_video(path, Sampling(info.mean_fps, 16))
    assert levels(sampled.frames_THWC)[:50] == list(range(50))
    assert sampled.duration_s == pytest.approx(info.duration_s)


@pytest.mark.parametrize(
    "name",
    ["-dash first.mp4", "mara %03d.mp4", "слон 象 é\u0301.mp4", "http:x.mp4", "no extension", "wrong.txt", "a\nb.mp4"],
)
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    make_video(tmp_path / "x.mp4").rename(tmp_path / name)
    assert probe(tmp_path / name).num_frames == 10
    assert len(list(iterate_frames(tmp_path / name, Sampling(10, 8)))) == 10


def write_wave(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def make_hostile(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    good = make_video(folder / "good.mp4")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sound":
        write_wave(path)
    elif kind == "picture":
        Image.new("RGB", (64, 48)).save(path, format="jpeg")
    elif kind != "missing":
        contents = {
            "empty": b"",
            "text": b"not a video at all\n" * 50,
            "zeros": bytes(100_000),
            "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n" + str(good).encode() + b"\n#EXT-X-ENDLIST\n",
            "concat": b"ffconcat version 1.0\nfile good.mp4\n",
            "head only": good.read_bytes()[:64],
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("empty", "the file is empty"),
        ("text", "not a video"),
        ("zeros", "not a video"),
        ("head only", "not a video"),
        ("sound", "not in a video container"),
        ("picture", "not in a video container"),
        ("hls", "not a video"),
        ("concat", "not in a video container"),
    ],
)
def test_what_is_no_video_is_told_in_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    path = make_hostile(tmp_path, kind)
    for read in (
        lambda: probe(path),
        lambda: sample_video(path, Sampling(1, 8)),
        lambda: list(iterate_frames(path, Sampling(1, 8))),
    ):
        with pytest.raises(VideoError, match=reason) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(path.name)


def test_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(make_video(tmp_path / "x.mkv", range(0, 3000, 50)).read_bytes())
    content[len(content) // 2 :: 97] = bytes(len(content[len(content) // 2 :: 97]))
    (tmp_path / "x.mkv").write_bytes(content)
    read_anyhow(tmp_path / "x.mkv")
    assert capfd.readouterr() == ("", "")


def read_anyhow(path: Path) -> bool:
    """Return whether `path` can be sampled; only VideoError may come, in one line, and what is given is sound."""
    try:
        info = probe(path)
        sampled = sample_video(path, Sampling(4, 16, "crop"))
    except VideoError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert path.name in message
        return False
    assert info.duration_s > 0
    assert info.num_frames >= 1
    assert min(info.width, info.height) >= 1
    assert sampled.duration_s > sampled.times_s[-1]
    assert len(sampled.times_s) <= math.ceil(sampled.duration_s * 4) + 1
    return True


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_truncated_video_is_refused_or_shorter(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    tick_ms = 50 if suffix == ".avi" else 1  # AVI stores a chunk for each tick
    whole = make_video(tmp_path / f"whole{suffix}", range(0, 5000, 50), codec=codec, tick_ms=tick_ms)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for share in range(0, 100, 4):
        cut.write_bytes(content[: len(content) * share // 100])
        is_read = read_anyhow(cut)
        # Only a stream without a header of its own may be cut and still be whole.
        assert not is_read or suffix == ".ts" or share > 70, share


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=30))
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_flipped_bits_never_crash(tmp_path: Path, suffix: str, flips: list[tuple[float, int]]) -> None:
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        make_video(whole, range(0, 2000, 100))
    content = bytearray(whole.read_bytes())
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    flipped = tmp_path / f"flipped{suffix}"
    flipped.write_bytes(content)
    read_anyhow(flipped)


def test_broken_middle_names_the_second_that_was_reached(tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4", range(0, 4000, 100), options={"qp": "0", "g": "1"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in packets[20:]:
        content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"x\.mp4: decoding breaks after 1\.[0-9]{2} s"):
        sample_video(path, Sampling(10, 8))


def test_damaged_frames_are_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "x.mp4", range(0, 6000, 100))

    class Frame:
        """A decoded frame of which some are marked as damaged, as FFmpeg marks what it had to make up."""

        time_base = Fraction(1, 10)
        duration = 1

        def __init__(self, pts: int, is_corrupt: bool) -> None:
            self.pts, self.is_corrupt = pts, is_corrupt

    class Stream:
        average_rate = Fraction(10)
        time_base = Fraction(1, 10)

        def __init__(self, damaged: set[int]) -> None:
            self.damaged = damaged
            self.container = self

        def decode(self, _stream: object) -> list[Frame]:
            return [Frame(i, i in self.damaged) for i in range(60)]

    shown = list(displayed_frames(path, Stream({7, 30})))
    assert [time_s for time_s, _, _ in shown] == [i / 10 for i in range(60) if i not in (7, 30)]
    with pytest.raises(VideoError, match="20 of 60 frames are damaged"):
        list(displayed_frames(path, Stream(set(range(20)))))
    with pytest.raises(VideoError, match="no frame of it can be decoded"):
        list(displayed_frames(path, Stream(set(range(60)))))


def test_two_recordings_in_one_file_are_refused(tmp_path: Path) -> None:
    one = make_video(tmp_path / "one.ts", range(0, 5000, 100)).read_bytes()
    (tmp_path / "two.ts").write_bytes(one + one)
    with pytest.raises(VideoError, match="jump back"):
        probe(tmp_path / "two.ts")
    with pytest.raises(VideoError, match="jump back"):
        list(iterate_frames(tmp_path / "two.ts", Sampling(1, 8)))


def test_limits_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4", range(0, 3000, 40))
    first, second = (sample_video(path, Sampling(7.5, 40, "crop")) for _ in range(2))
    assert first.frames_THWC.tobytes() == second.frames_THWC.tobytes()
    assert first.times_s.tobytes() == second.times_s.tobytes()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to count open files")
def test_files_are_closed_when_the_reader_stops_early(tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        frames = iterate_frames(path, Sampling(10, 8))
        next(frames)
        frames.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


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


@needs_shared
@pytest.mark.parametrize("folder", ["odd_media", "camera_trap", "wildlife"])
def test_every_real_file_is_read_or_refused(folder: str) -> None:
    with (DATA / "manifest.csv").open(newline="") as source:
        known = {row["file"]: row for row in csv.DictReader(source)}
    num_read = 0
    for path in sorted((DATA / folder).iterdir()):
        row = known.get(f"{folder}/{path.name}", {})
        is_read = read_anyhow(path)
        num_read += is_read
        if folder != "odd_media" and path.suffix != ".csv":
            assert is_read, path.name
        if row.get("pyav_error"):
            assert not is_read, path.name
        if is_read and row.get("duration_s"):
            info = probe(path)
            assert info.num_frames == pytest.approx(int(row["frames_decoded"]), rel=0.08), path.name
            turned = info.rotation_deg in (90, 270)
            height = info.width if turned else info.height  # pixel aspect changes the width alone
            assert f"{height}" == row["wh"].split("x")[1], path.name
    assert num_read >= {"odd_media": 55, "camera_trap": 14, "wildlife": 19}[folder]


@needs_shared
def test_real_rotation_flags_and_pixel_aspect() -> None:
    turns = {name: probe(DATA / f"odd_media/decord__video_{name}.mov") for name in ("0", "90", "270")}
    assert {name: info.rotation_deg for name, info in turns.items()} == {"0": 0, "90": 90, "270": 270}
    assert [(info.width, info.height) for info in turns.values()] == [(568, 320), (320, 568), (320, 568)]
    wide = probe(DATA / "odd_media/mp4parse__h264_white_frame_sar_16_9.mp4")
    assert (wide.width, wide.height) == (1138, 480)
