"""Clips and the reel: the right frames at the right times, upright, with their sound, whatever the source is like."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from models.errors import VideoError
from models.files import hash_file
from models.video import probe
from tasks.handoff.clips import copy_clip, encode_clip, plan_copy, write_clip
from tasks.handoff.media import load_handoff, read_media
from tasks.handoff.reel import choose_size, on_grid, write_reel
from tasks.handoff.values import FootageIndex, Handoff, Highlight, read_scored
from tests.handoff_files import level_of, read_frames, read_sound, tone_seconds, write_result, write_video


def handoff_of(folder: Path, video: Path, *spans: tuple[float, float]) -> Handoff:
    scored = read_scored(write_result(folder / "results", video, [{"start_s": a, "end_s": b} for a, b in spans]))
    return load_handoff(scored, FootageIndex([video]))


def assert_frames(path: Path, first: int, num: int, rate: float) -> None:
    frames = read_frames(path)
    assert len(frames) == num
    assert np.allclose([time_s for time_s, _ in frames], np.arange(num) / rate, atol=0.002)
    expected = [level_of(first + i) for i in range(num)]
    assert np.allclose([grey for _, grey in frames], expected, atol=9)


def test_a_cut_on_a_keyframe_is_a_copy_of_the_very_bits(tmp_path):
    video = write_video(tmp_path / "v.mp4", 60, gop=12)
    item = handoff_of(tmp_path, video, (0.96, 1.8))
    clip = write_clip(tmp_path / "c.mp4", item, item.scored.highlights[0])
    assert clip.mode == "copy"
    assert_frames(clip.path, 24, 21, 25)
    with av.open(str(video)) as source, av.open(str(clip.path)) as copy:
        wanted = [
            bytes(p) for p in source.demux(video=0) if p.size and 24 <= round(float(p.pts * p.time_base) * 25) < 45
        ]
        assert [bytes(p) for p in copy.demux(video=0) if p.size] == wanted


def test_any_other_cut_is_encoded_with_every_frame_at_its_time(tmp_path):
    video = write_video(tmp_path / "v.mp4", 60, gop=30)
    item = handoff_of(tmp_path, video, (0.48, 1.56))
    clip = write_clip(tmp_path / "c.mp4", item, item.scored.highlights[0])
    assert clip.mode == "encode"
    assert clip.duration_s == pytest.approx(1.08, abs=0.001)
    assert_frames(clip.path, 12, 27, 25)


@pytest.mark.parametrize("span", [(0.96, 2.0), (0.4, 2.0)])
def test_sound_stays_with_its_picture(tmp_path, span):
    video = write_video(tmp_path / "v.mp4", 75, gop=12)
    item = handoff_of(tmp_path, video, span)
    clip = write_clip(tmp_path / "c.mp4", item, item.scored.highlights[0])
    heard = tone_seconds(*read_sound(clip.path))
    centres_s = span[0] + (np.arange(len(heard)) + 0.5) / 20
    expected = centres_s % 1 >= 0.5
    assert abs(len(heard) / 20 - (span[1] - span[0])) <= 0.06
    near_edge = np.abs((centres_s % 0.5) - 0.25) > 0.18
    assert np.array_equal(heard[~near_edge], expected[~near_edge])


def test_an_end_among_reordered_frames_is_never_cut_short(tmp_path):
    video = write_video(tmp_path / "v.mp4", 60, gop=20, bframes=3)
    media = read_media(video)
    modes = set()
    for last in range(23, 34):
        end_s = last / 25
        clip = copy_clip(tmp_path / "c.mp4", media, 0.8, end_s) or encode_clip(tmp_path / "c.mp4", media, 0.8, end_s)
        modes.add(clip.mode)
        frames = read_frames(tmp_path / "c.mp4")
        assert abs(len(frames) - (last - 20)) <= 1
        assert np.allclose([g for _, g in frames], [level_of(20 + i) for i in range(len(frames))], atol=9)
    assert modes == {"copy", "encode"}


def test_variable_frame_rate_keeps_its_times(tmp_path):
    gaps = np.tile([0.02, 0.08, 0.033, 0.2], 12)
    times_s = np.concatenate([[0.0], np.cumsum(gaps)])[:40].tolist()
    video = write_video(tmp_path / "v.mp4", 40, times_s=times_s, gop=100, has_sound=False)
    media = read_media(video)
    assert media.info.is_vfr
    start_s, end_s = times_s[7], times_s[23]
    item = handoff_of(tmp_path, video, (start_s, end_s))
    clip = write_clip(tmp_path / "c.mp4", item, item.scored.highlights[0])
    found = [time_s for time_s, _ in read_frames(clip.path)]
    assert np.allclose(found, np.array(times_s[7:23]) - start_s, atol=0.002)


def test_a_cut_between_two_frames_begins_with_the_one_on_screen(tmp_path):
    video = write_video(tmp_path / "v.mp4", 10, rate=2, gop=30, has_sound=False)
    clip = encode_clip(tmp_path / "c.mp4", read_media(video), 0.7, 1.8)
    frames = read_frames(tmp_path / "c.mp4")
    assert [round(time_s, 2) for time_s, _ in frames] == [0.0, 0.3, 0.8]
    assert np.allclose([grey for _, grey in frames], [level_of(1), level_of(2), level_of(3)], atol=9)
    assert clip.duration_s == pytest.approx(1.1, abs=0.5)


def test_rotated_footage_comes_out_upright(shared, tmp_path):
    source = shared / "data" / "odd_media" / "decord__video_90.mov"
    media = read_media(source)
    assert media.info.rotation_deg == 90
    clip = encode_clip(tmp_path / "c.mp4", media, 0.0, media.info.duration_s)
    made = probe(tmp_path / "c.mp4")
    assert (made.width, made.height, made.rotation_deg) == (media.info.width, media.info.height, 0)
    copied = copy_clip(tmp_path / "k.mp4", media, 0.0, media.info.duration_s)
    assert copied is not None
    assert probe(tmp_path / "k.mp4").rotation_deg == 90
    from tasks.handoff.reading import picture_at

    pictures = [picture_at(read_media(tmp_path / name), 0.0, 200, 200) for name in ("c.mp4", "k.mp4")]
    pictures.append(picture_at(media, 0.0, 200, 200))
    small = [np.asarray(p, np.float32)[::8, ::8] for p in pictures]
    assert np.abs(small[0] - small[2]).mean() < 12
    assert np.abs(small[1] - small[2]).mean() < 2
    assert clip.num_frames == media.info.num_frames


def test_a_source_that_breaks_leaves_no_file(tmp_path):
    video = write_video(tmp_path / "v.mp4", 60)
    item = handoff_of(tmp_path, video, (0.5, 1.5))
    content = bytearray(video.read_bytes())
    content[400:-400] = b"\x5a" * (len(content) - 800)
    video.write_bytes(bytes(content))
    with pytest.raises(VideoError):
        write_clip(tmp_path / "clips" / "c.mp4", item, item.scored.highlights[0])
    assert list((tmp_path / "clips").iterdir()) == []


def test_nothing_is_copied_from_a_codec_that_players_do_not_know(tmp_path):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level_of(i), np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    media = read_media(path)
    assert plan_copy(media, 0.0, 1.0) is None
    assert encode_clip(tmp_path / "c.mp4", media, 0.0, 1.0).num_frames == 25


def test_the_reel_joins_sizes_rates_and_silence(tmp_path):
    wide = handoff_of(tmp_path, write_video(tmp_path / "wide.mp4", 60, size=(128, 64)), (0.4, 1.4), (1.6, 2.0))
    tall = handoff_of(
        tmp_path, write_video(tmp_path / "tall.mp4", 40, rate=10, size=(48, 96), has_sound=False), (1.0, 1.5)
    )
    assert choose_size([wide, tall]) == (128, 64)
    reel = write_reel(tmp_path / "reel.mp4", [wide, tall], Fraction(25))
    assert [(round(p.start_s, 2), round(p.end_s, 2)) for p in reel.parts] == [(0.0, 1.0), (1.0, 1.4), (1.4, 1.92)]
    frames = read_frames(tmp_path / "reel.mp4")
    assert np.allclose([time_s for time_s, _ in frames], np.arange(48) / 25, atol=0.002)
    expected = [level_of(10 + i) for i in range(25)] + [level_of(40 + i) for i in range(10)]
    assert np.allclose([grey for _, grey in frames[:35]], expected, atol=12)
    heard = tone_seconds(*read_sound(tmp_path / "reel.mp4"))
    assert list(heard[[4, 6]]) == [True, True]  # 0.5 s of the source is at 0.1 s here
    assert not heard[13:19].any()
    assert heard[21:27].all()
    assert not heard[30:].any()
    with av.open(str(tmp_path / "reel.mp4")) as container:
        sound, picture = container.streams.audio[0], container.streams.video[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(
            float(picture.duration * picture.time_base), abs=0.03
        )


def test_the_reel_goes_on_past_a_source_that_breaks_and_says_so(tmp_path):
    good = handoff_of(tmp_path, write_video(tmp_path / "good.mp4", 30), (0.0, 0.8))
    bad = handoff_of(tmp_path, write_video(tmp_path / "bad.mp4", 30), (0.2, 0.8))
    bad.media.path.write_bytes(b"nothing")
    reel = write_reel(tmp_path / "reel.mp4", [bad, good], Fraction(25))
    assert [part.video for part in reel.parts] == ["good.mp4"]
    assert [row.video for row in reel.rejected] == ["bad.mp4"]
    with pytest.raises(VideoError, match="none of the highlights"):
        write_reel(tmp_path / "none.mp4", [bad], Fraction(25))
    assert not (tmp_path / "none.mp4").exists()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    item = handoff_of(tmp_path, write_video(tmp_path / "v.mp4", 60, gop=30), (0.4, 1.2))
    hashes = set()
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, item, item.scored.highlights[0])
        write_reel(tmp_path / f"reel-{name}", [item], Fraction(25))
        hashes.add((hash_file(tmp_path / name), hash_file(tmp_path / f"reel-{name}")))
    assert len(hashes) == 1


def test_a_grid_shows_what_is_on_screen():
    timed = [(0.0, "a"), (0.1, "b"), (0.5, "c")]
    assert list(on_grid(iter(timed), Fraction(10), 8)) == ["a", "b", "b", "b", "b", "c", "c", "c"]
    assert list(on_grid(iter(timed), Fraction(2), 3)) == ["a", "c", "c"]


def test_highlights_past_the_end_are_cut_there(tmp_path):
    item = handoff_of(tmp_path, write_video(tmp_path / "v.mp4", 50, gop=7), (1.2, 2.0))
    longer = Highlight(1.2, 2.05, 0.5)
    clip = write_clip(tmp_path / "c.mp4", item, longer)
    assert clip.num_frames == 20
