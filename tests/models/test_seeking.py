"""Leaving frames out, seeking and keyframes give what the plain sequential pass gives there, times and pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import seeking, video
from models.decoding import DecodeOptions
from models.errors import ShapeError, VideoBreaks, VideoError
from models.grid import may_be_sampled, pick_on_grid
from models.seeking import iterate_between, iterate_keyframes, keyframe_times, origin_of
from models.skipping import SkippingUnsure, decode_sampled
from models.video import Sampling, frames_of, iterate_frames, probe, survey

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="../shared is missing")
MakeVideo = Callable[..., Path]
PLAIN = DecodeOptions(skip_unsampled=False)
# What encoders are asked for: no reordering, the usual, pyramids of references, open groups, short groups.
ENCODINGS = {
    "simple": {"crf": "23", "bf": "0"},
    "usual": {"crf": "23", "g": "40"},
    "pyramid": {"crf": "23", "bf": "8", "b-adapt": "0", "b-pyramid": "normal", "g": "60"},
    "open": {"crf": "23", "bf": "3", "b-adapt": "0", "x264-params": "open-gop=1:keyint=25:min-keyint=10"},
    "short": {"crf": "23", "g": "6", "sc_threshold": "0"},
}
VFR_MS = [0, 40, 90, 300, 310, 1250, 1300, 1900, 3000, *range(3100, 9000, 40), 9500, 9510, 9520, 12000]


def read(path: Path, fps: float, options: DecodeOptions) -> list[Any]:
    """Return times and pixels of all samples, and the error that ended them."""
    found: list[Any] = []
    try:
        found.extend((time_s, pixels.tobytes()) for time_s, pixels in frames_of(path, Sampling(fps, 24), options))
    except VideoError as error:
        found.append(str(error))
    return found


@pytest.fixture
def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of frames decoded by every pass that left some out; -1 where it gave up."""
    counts: list[int] = []

    def spy(*arguments: Any) -> Any:
        num = 0
        try:
            for frame in decode_sampled(*arguments):
                num += 1
                yield frame
        except SkippingUnsure:
            num = -1
            raise
        finally:
            counts.append(num)

    monkeypatch.setattr(video, "decode_sampled", spy)
    monkeypatch.setattr(seeking, "decode_sampled", spy)
    return counts


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_left_out_change_nothing(
    make_video: MakeVideo, tmp_path: Path, encoding: str, suffix: str, count_frames: list[int]
) -> None:
    for times_ms in (VFR_MS, range(500, 8500, 40)):
        path = make_video(tmp_path / f"v{suffix}", times_ms, options=ENCODINGS[encoding])
        for fps in (0.3, 2, 5, 25, 60):
            assert read(path, fps, DecodeOptions()) == read(path, fps, PLAIN), fps
            if fps == 0.3 and encoding in ("usual", "pyramid", "open"):
                assert 0 < count_frames[-1] < 0.8 * len(times_ms)
    assert -1 not in count_frames


@settings(max_examples=200, deadline=None)
@given(
    gaps_ms=st.lists(st.integers(1, 3000), min_size=2, max_size=40),
    fps=st.one_of(st.integers(1, 60), st.floats(0.05, 100)),
    data=st.data(),
)
def test_only_what_no_sample_falls_on_may_be_left_out(gaps_ms: list[int], fps: float, data: st.DataObject) -> None:
    times_s = [0.0]
    for gap_ms in gaps_ms:
        times_s.append(times_s[-1] + gap_ms / 1000)
    timed = [(time_s, time_s + 0.02, i) for i, time_s in enumerate(times_s)]
    needed = [
        i == 0 or i == len(times_s) - 1 or may_be_sampled(times_s[i], times_s[i + 1], fps) for i in range(len(times_s))
    ]
    kept = [item for item, is_needed in zip(timed, needed, strict=True) if is_needed or data.draw(st.booleans())]
    assert list(pick_on_grid(kept, fps)) == list(pick_on_grid(timed, fps))


@needs_shared
def test_real_files_give_the_same_with_and_without() -> None:
    names = ["wildlife/waterhole_vfr_meme.mp4", "odd_media/decord__corrupted.mp4", "odd_media/mp4parse__short-cenc.mp4"]
    names += [f"odd_media/{path.name}" for path in sorted((DATA / "odd_media").glob("ax__sample_*edit*.mp4"))]
    for name in names:
        assert read(DATA / name, 0.7, DecodeOptions()) == read(DATA / name, 0.7, PLAIN), name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.tuples(st.floats(0, 13), st.floats(0, 5)), fps=st.sampled_from([0.5, 3, 25]))
@pytest.mark.parametrize("encoding", ["usual", "open"])
def test_a_part_is_what_the_whole_pass_gives_there(
    make_video: MakeVideo, tmp_path: Path, encoding: str, part: tuple[float, float], fps: float
) -> None:
    path = tmp_path / "v.mkv"
    if not path.exists():
        make_video(path, VFR_MS, options=ENCODINGS[encoding])
    check_part(path, fps, part[0], part[0] + part[1])


def check_part(path: Path, fps: float, start_s: float, end_s: float) -> int:
    whole = [(time_s, pixels.tobytes()) for time_s, pixels in iterate_frames(path, Sampling(fps, 24))]
    found = [(t, pixels.tobytes()) for t, pixels in iterate_between(path, Sampling(fps, 24), start_s, end_s)]
    assert found == [item for item in whole if start_s <= item[0] < end_s]
    return len(found)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi"])
def test_parts_of_other_containers(make_video: MakeVideo, tmp_path: Path, suffix: str) -> None:
    codec, first_ms = ("mpeg4", 0) if suffix == ".avi" else ("libx264", 10_000)  # AVI has no later start
    path = make_video(tmp_path / f"v{suffix}", range(first_ms, first_ms + 6000, 40), codec=codec, tick_ms=40)
    assert check_part(path, 5, 1.0, 2.0) == 5
    assert check_part(path, 5, 3.33, 99.0) > 10
    assert check_part(path, 5, 50.0, 60.0) == 0
    assert check_part(path, 5, 2.0, 2.0) == 0


def test_a_seek_decodes_only_from_the_keyframe_before(
    make_video: MakeVideo, tmp_path: Path, count_frames: list[int]
) -> None:
    path = make_video(tmp_path / "v.mp4", range(0, 20_000, 40), options=ENCODINGS["usual"])
    samples = list(iterate_between(path, Sampling(25, 24), 12.0, 12.4, origin=origin_of(path)))
    assert [time_s for time_s, _ in samples] == pytest.approx([12.0 + i / 25 for i in range(10)])
    assert count_frames == [] or max(count_frames) < 150


@pytest.mark.parametrize("encoding", ["usual", "open", "short"])
def test_keyframes_are_those_of_the_packets(make_video: MakeVideo, tmp_path: Path, encoding: str) -> None:
    path = make_video(tmp_path / "v.mkv", VFR_MS, options=ENCODINGS[encoding])
    times_s = keyframe_times(path)
    assert len(times_s) > 2
    whole = {time_s: pixels.tobytes() for time_s, pixels in iterate_frames(path, Sampling(1000, 24))}
    found = [(time_s, pixels.tobytes()) for time_s, pixels in iterate_keyframes(path, Sampling(1, 24))]
    assert [time_s for time_s, _ in found] == times_s
    assert all(whole[time_s] == pixels for time_s, pixels in found)


@pytest.mark.parametrize("options", [{"thread_type": "BOTH"}, {"num_threads": -1}, {"scaler": "NONE"}])
def test_options_refuse_nonsense(options: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="decode options"):
        DecodeOptions(**options)
    with pytest.raises(ShapeError, match="part of a video"):
        list(iterate_between(Path("x"), Sampling(1, 8), 2.0, 1.0))


def test_every_option_decodes_and_only_pixels_may_differ(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", range(0, 3000, 40), options=ENCODINGS["usual"])
    plain = [time_s for time_s, _ in frames_of(path, Sampling(5, 24), PLAIN)]
    for options in (
        DecodeOptions("SLICE", 1),
        DecodeOptions("FRAME", 3),
        DecodeOptions(skip_loop_filter="all"),
        DecodeOptions(scaler="FAST_BILINEAR"),
    ):
        assert [time_s for time_s, _ in frames_of(path, Sampling(5, 24), options)] == plain


def test_a_cut_file_says_what_is_missing_and_still_what_it_is(make_video: MakeVideo, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "v.mkv", range(0, 6000, 40), options=ENCODINGS["short"])
    assert survey(whole)[1] == ""
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    info, missing = survey(cut)
    assert "truncated: its header declares 6 seconds" in missing
    assert 0 < info.duration_s < 5
    with pytest.raises(VideoError, match="truncated"):
        probe(cut)


@needs_shared
def test_a_break_in_the_middle_is_told_apart() -> None:
    with pytest.raises(VideoBreaks, match=r"decoding breaks after 2\.\d+ s"):
        list(iterate_frames(DATA / "odd_media" / "decord__corrupted.mp4", Sampling(4, 16)))
