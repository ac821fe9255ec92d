"""Opening footage: pixels and orientation are exact; whatever is wrong with a file is a VideoError of one line."""

import csv
import math
import os
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.decoding import displayed_frames
from models.errors import VideoError
from models.video import Sampling, iterate_frames, probe, sample_video

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="../shared is missing")
MakeVideo = Callable[..., Path]


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
def test_rotation_flag_is_applied(make_video: MakeVideo, tmp_path: Path, rotation: int, fit: str) -> None:
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


def test_crop_keeps_the_centre_and_squash_keeps_all(make_video: MakeVideo, tmp_path: Path) -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 255  # the centre square is white, both sides are black
    path = make_video(tmp_path / "wide.mp4", [0, 100], size=(128, 64), picture=picture)
    crop = sample_video(path, Sampling(1, 32, "crop")).frames_THWC[0]
    squash = sample_video(path, Sampling(1, 32, "squash")).frames_THWC[0]
    assert crop[:, 2:-2].min() > 240
    assert squash[:, :7].max() < 16
    assert squash[:, 10:22].min() > 240
    assert squash[:, 25:].max() < 16


def test_pixel_aspect_counts_as_displayed(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "sar.mp4", [0, 100], size=(64, 64), pixel_aspect=Fraction(2, 1))
    info = probe(path)
    assert (info.width, info.height) == (128, 64)


@pytest.mark.parametrize(
    "name",
    ["-dash first.mp4", "mara %03d.mp4", "слон 象 é\u0301.mp4", "http:x.mp4", "no extension", "wrong.txt", "a\nb.mp4"],
)
def test_any_name_is_read(make_video: MakeVideo, tmp_path: Path, name: str) -> None:
    make_video(tmp_path / "x.mp4").rename(tmp_path / name)
    assert probe(tmp_path / name).num_frames == 10
    assert len(list(iterate_frames(tmp_path / name, Sampling(10, 8)))) == 10


def write_wave(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def make_hostile(make_video: MakeVideo, folder: Path, kind: str) -> Path:
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
def test_what_is_no_video_is_told_in_one_line(make_video: MakeVideo, tmp_path: Path, kind: str, reason: str) -> None:
    path = make_hostile(make_video, tmp_path, kind)
    for read in (
        lambda: probe(path),
        lambda: sample_video(path, Sampling(1, 8)),
        lambda: list(iterate_frames(path, Sampling(1, 8))),
    ):
        with pytest.raises(VideoError, match=reason) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(path.name)


def test_nothing_reaches_the_terminal(make_video: MakeVideo, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
def test_truncated_video_is_refused_or_shorter(make_video: MakeVideo, tmp_path: Path, suffix: str) -> None:
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
def test_flipped_bits_never_crash(
    make_video: MakeVideo, tmp_path: Path, suffix: str, flips: list[tuple[float, int]]
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        make_video(whole, range(0, 2000, 100))
    content = bytearray(whole.read_bytes())
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    flipped = tmp_path / f"flipped{suffix}"
    flipped.write_bytes(content)
    read_anyhow(flipped)


def test_broken_middle_names_the_second_that_was_reached(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4", range(0, 4000, 100), options={"qp": "0", "g": "1"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in packets[20:]:
        content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"x\.mp4: decoding breaks after 1\.[0-9]{2} s"):
        sample_video(path, Sampling(10, 8))


def test_damaged_frames_are_not_given(make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to count open files")
def test_files_are_closed_when_the_reader_stops_early(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "x.mp4")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        frames = iterate_frames(path, Sampling(10, 8))
        next(frames)
        frames.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


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
