"""Tables, chapters and timelines, each read back by somebody else's reader and held against the highlights."""

import json
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import av
import json5
import opentimelineio as otio
import pandas as pd
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError, ShapeError, VideoError
from tasks.handoff.chapters import write_chapters
from tasks.handoff.fcpxml import write_fcpxml
from tasks.handoff.media import load_handoff, parse_time, read_media
from tasks.handoff.tables import clock, write_csv_table, write_json_table, write_parquet_table
from tasks.handoff.timecode import RATES, choose_rate, cut_of, read_timecode, show_timecode, to_frame
from tasks.handoff.timelines import common_rate, write_edl, write_fcp7, write_losslesscut, write_otio
from tasks.handoff.values import FootageIndex, Handoff, Highlight, read_results, read_scored
from tests.handoff_files import write_result, write_video

NTSC = Fraction(30000, 1001)
HOSTILE = "-éléphant <b>&amp;\"1\" 'x' --> 北.mp4"
SPANS = [
    {"start_s": 0.48, "end_s": 1.2, "score": 0.61},
    {"start_s": 1.6, "end_s": 2.0, "score": 0.9, "category": "funny | <b>", "category_probability": 0.7},
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Handoff:
    """Return a video of 25 frames a second with sound, two highlights and a name that means trouble."""
    folder = tmp_path_factory.mktemp("hostile")
    video = write_video(folder / "foot age" / HOSTILE, 60, metadata={"timecode": "01:00:00:00"})
    return load_handoff(
        read_scored(write_result(folder / "results", video, SPANS)), FootageIndex([folder / "foot age"])
    )


@pytest.fixture(scope="module")
def ntsc(tmp_path_factory: pytest.TempPathFactory) -> Handoff:
    """Return a video of 29.97 frames a second without sound and one highlight."""
    folder = tmp_path_factory.mktemp("ntsc")
    video = write_video(folder / "ntsc.mp4", 70, rate=NTSC, has_sound=False)
    spans = [{"start_s": float(20 / NTSC), "end_s": float(50 / NTSC)}]
    return load_handoff(read_scored(write_result(folder, video, spans)), FootageIndex([video]))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Handoff:
    """Return a video without a highlight."""
    folder = tmp_path_factory.mktemp("quiet")
    video = write_video(folder / "quiet.mp4", 30)
    return load_handoff(read_scored(write_result(folder, video, [])), FootageIndex([video]))


def cuts_read(timeline) -> list[tuple[int, int, float]]:
    """Return first frame, number of frames and rate of every picture clip of an otio timeline."""
    track = next(track for track in timeline.tracks if track.kind == otio.schema.TrackKind.Video)
    ranges = [clip.source_range for clip in track.find_clips()]
    return [(round(r.start_time.value), round(r.duration.value), round(r.start_time.rate, 3)) for r in ranges]


def test_tables_hold_every_highlight(tmp_path, hostile, quiet):
    videos = [hostile.scored, quiet.scored]
    write_json_table(tmp_path / "t.json", videos)
    write_csv_table(tmp_path / "t.csv", videos)
    write_parquet_table(tmp_path / "t.parquet", videos)
    content = json.loads((tmp_path / "t.json").read_text())
    assert [len(video["highlights"]) for video in content["videos"]] == [2, 0]
    assert content["videos"][0]["highlights"][1] == SPANS[1]
    frames = [pd.read_csv(tmp_path / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")]
    for frame in frames:
        assert list(frame.start_s) == [0.48, 1.6]
        assert list(frame.end_s) == [1.2, 2.0]
        assert list(frame.score) == [0.61, 0.9]
        assert frame.category[1] == "funny | <b>"
        assert pd.isna(frame.category[0])
        assert list(frame.index) == [0, 1]
    assert list(frames[1].video) == [HOSTILE] * 2
    assert list(frames[0].video) == [f"./{HOSTILE}"] * 2  # a cell that begins with - is a formula to a spreadsheet


def test_tables_without_a_highlight_say_so(tmp_path, quiet):
    write_json_table(tmp_path / "t.json", [quiet.scored])
    write_csv_table(tmp_path / "t.csv", [quiet.scored])
    write_parquet_table(tmp_path / "t.parquet", [])
    assert "no highlight" in json.loads((tmp_path / "t.json").read_text())["note"]
    assert len(pd.read_csv(tmp_path / "t.csv")) == len(pd.read_parquet(tmp_path / "t.parquet")) == 0
    assert list(pd.read_csv(tmp_path / "t.csv")) == list(pd.read_parquet(tmp_path / "t.parquet"))


def test_chapters_are_read_by_webvtt_and_by_ffmpeg(tmp_path, hostile, quiet):
    write_chapters(tmp_path / "c.vtt", hostile.scored)
    cues = webvtt.read(tmp_path / "c.vtt")
    assert [(cue.start, cue.end) for cue in cues] == [
        ("00:00:00.480", "00:00:01.200"),
        ("00:00:01.600", "00:00:02.000"),
    ]
    assert cues[1].text == "Highlight 2: score 0.90, funny | &lt;b&gt; 70%"
    with av.open(str(tmp_path / "c.vtt")) as container:
        starts = [float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None]
    assert starts == [0.48, 1.6]
    write_chapters(tmp_path / "e.vtt", quiet.scored)
    assert list(webvtt.read(tmp_path / "e.vtt")) == []
    assert "no highlight" in (tmp_path / "e.vtt").read_text()


def test_edl_and_xml_and_otio_agree_to_the_frame(tmp_path, hostile):
    rate = hostile.media.rate
    assert hostile.media.start_frame == 3600 * 25  # the camera's own timecode
    expected = [(90012, 18, 25.0), (90040, 10, 25.0)]
    for name, write in (("t.otio", write_otio), ("t.xml", write_fcp7), ("t.edl", write_edl)):
        write(tmp_path / name, "a <title> & more", [hostile], rate)
        options = {"rate": 25} if name.endswith("edl") else {}
        timeline = otio.adapters.read_from_file(str(tmp_path / name), **options)
        assert cuts_read(timeline) == expected, name
        assert timeline.name == "a <title> & more"
        assert [track.kind for track in timeline.tracks] == ["Video", "Audio"]
        clip = next(iter(timeline.find_clips()))
        assert clip.name == HOSTILE
        assert Path(clip.media_reference.target_url).name in (hostile.media.path.as_uri().rpartition("/")[2],)
    assert "01:00:00:12 01:00:01:05 00:00:00:00 00:00:00:18" in (tmp_path / "t.edl").read_text()
    assert "FCM: NON-DROP FRAME" in (tmp_path / "t.edl").read_text()


def test_ntsc_counts_in_drop_frame_and_exact_fractions(tmp_path, ntsc):
    write_edl(tmp_path / "t.edl", "ntsc", [ntsc], NTSC)
    text = (tmp_path / "t.edl").read_text()
    assert "FCM: DROP FRAME" in text
    assert "00:00:00;20 00:00:01;20" in text
    timeline = otio.adapters.read_from_file(str(tmp_path / "t.edl"), rate=float(NTSC))
    assert cuts_read(timeline) == [(20, 30, 29.97)]
    write_fcpxml(tmp_path / "t.fcpxml", "ntsc", [ntsc], NTSC)
    [clip] = ET.parse(tmp_path / "t.fcpxml").iter("asset-clip")
    assert Fraction(clip.get("start")[:-1]) == 20 / NTSC
    assert Fraction(clip.get("duration")[:-1]) == 30 / NTSC
    assert clip.get("tcFormat") == "DF"


def test_fcpxml_is_read_by_the_adapter_of_others(tmp_path, hostile, quiet):
    write_fcpxml(tmp_path / "t.fcpxml", "cut", [hostile, quiet], Fraction(25))
    found = otio.adapters.read_from_file(str(tmp_path / "t.fcpxml"))
    clips = list(found.find_children(descended_from_type=otio.schema.Clip))
    assert [(c.source_range.start_time.value, c.source_range.duration.value) for c in clips] == [
        (90012, 18),
        (90040, 10),
    ]
    root = ET.parse(tmp_path / "t.fcpxml").getroot()
    assert [asset.get("src") for asset in root.iter("asset")] == [hostile.media.path.resolve().as_uri()]
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert {element.get("ref") for element in root.iter("asset-clip")} <= ids


def test_one_timeline_holds_footage_of_many_rates(tmp_path, hostile, ntsc):
    both = [hostile, ntsc]
    rate = common_rate(both)
    assert rate == 25
    write_otio(tmp_path / "t.otio", "both", both, rate)
    expected = [(90012, 18, 25.0), (90040, 10, 25.0), (20, 30, 29.97)]
    assert cuts_read(otio.adapters.read_from_file(str(tmp_path / "t.otio"))) == expected
    write_fcp7(tmp_path / "t.xml", "both", both, rate)
    assert [cut[0] for cut in cuts_read(otio.adapters.read_from_file(str(tmp_path / "t.xml")))] == [90012, 90040, 20]
    write_fcpxml(tmp_path / "t.fcpxml", "both", both, rate)
    durations = [clip.get("duration") for clip in ET.parse(tmp_path / "t.fcpxml").iter("asset-clip")]
    assert durations == ["18/25s", "10/25s", "25/25s"]
    with pytest.raises(ShapeError, match=r"counted in 29.97, the EDL 25"):
        write_edl(tmp_path / "t.edl", "both", both, rate)
    assert not (tmp_path / "t.edl").exists()


@pytest.mark.parametrize("name", ["t.otio", "t.xml", "t.edl", "t.fcpxml"])
def test_timelines_without_a_highlight_are_valid_and_say_so(tmp_path, quiet, name):
    write = {"otio": write_otio, "xml": write_fcp7, "edl": write_edl, "fcpxml": write_fcpxml}[name.partition(".")[2]]
    write(tmp_path / name, "empty", [quiet], Fraction(25))
    found = otio.adapters.read_from_file(str(tmp_path / name), **({"rate": 25} if name == "t.edl" else {}))
    if name == "t.fcpxml":
        assert list(found.find_children(descended_from_type=otio.schema.Clip)) == []
    else:
        assert list(found.find_clips()) == []
    if name != "t.xml":
        assert "no highlight" in (tmp_path / name).read_text()


def test_losslesscut_finds_the_video_from_where_the_project_is(tmp_path, hostile, quiet):
    path = tmp_path / "out" / "videos" / "p.llc"
    write_losslesscut(path, hostile)
    project = json5.loads(path.read_text())
    assert (path.parent / project["mediaFileName"]).resolve() == hostile.media.path.resolve()
    assert [(s["start"], s["end"]) for s in project["cutSegments"]] == [(0.48, 1.2), (1.6, 2.0)]
    assert project["version"] == 2
    assert all(isinstance(v, str) for s in project["cutSegments"] for v in s["tags"].values())
    write_losslesscut(path, quiet)
    assert json5.loads(path.read_text())["cutSegments"] == []
    assert "no highlight" in path.read_text()


def test_a_variable_rate_is_told_with_the_rate_that_was_chosen(tmp_path):
    times_s = [0.0]
    for i in range(49):
        times_s.append(times_s[-1] + (0.03 if i % 2 else 0.05))
    video = write_video(tmp_path / "vfr.mp4", 50, times_s=times_s, has_sound=False)
    item = load_handoff(read_scored(write_result(tmp_path, video, SPANS[:1])), FootageIndex([video]))
    assert item.media.info.is_vfr
    assert item.media.rate == 25
    write_edl(tmp_path / "t.edl", "vfr", [item], item.media.rate)
    assert "variable frame rate" in (tmp_path / "t.edl").read_text()
    assert cuts_read(otio.adapters.read_from_file(str(tmp_path / "t.edl"), rate=25)) == [(12, 18, 25.0)]


def test_slow_cameras_get_a_rate_of_which_theirs_is_a_part(tmp_path):
    video = write_video(tmp_path / "slow.mp4", 20, rate=10, has_sound=False)
    rate, note = choose_rate(read_media(video).info)
    assert rate == 30
    assert "10.000 frames a second" in note


@given(
    st.sampled_from(RATES),
    st.lists(st.floats(0, 5000, allow_nan=False), min_size=3, max_size=3).map(sorted),
)
def test_what_touches_in_seconds_touches_in_frames(rate, times_s):
    first, middle, last = times_s
    if not first < middle < last:
        return
    before, after = (cut_of(Highlight(a, b), rate, 6000.0) for a, b in ((first, middle), (middle, last)))
    assert before.num_frames >= 1
    assert after.num_frames >= 1
    assert abs(before.first / rate - first) <= 1 / rate
    if to_frame(first, rate) < to_frame(middle, rate):
        assert before.end == after.first


@given(st.sampled_from(RATES), st.integers(0, 24 * 3600 * 23))
def test_timecode_is_read_back_to_the_same_frame(rate, frame):
    assert read_timecode(show_timecode(frame, rate), rate) == frame


def test_drop_frame_keeps_up_with_the_clock():
    assert show_timecode(1800, NTSC) == "00:01:00;02"
    assert show_timecode(17982, NTSC) == "00:10:00;00"
    assert show_timecode(1800, Fraction(30)) == "00:01:00:00"
    assert clock(3723.0049) == "01:02:03.005"


def test_camera_clocks_that_were_never_set_are_not_believed(tmp_path):
    times = {"1970-01-01T00:00:00Z": None, "2024-05-06T07:08:09Z": "2024-05-06T07:08:09+00:00"}
    for text, expected in times.items():
        media = read_media(write_video(tmp_path / "v.mp4", 5, has_sound=False, metadata={"creation_time": text}))
        assert (media.created and media.created.isoformat()) == expected
    assert parse_time("yesterday") is None


def test_only_the_very_video_is_taken(tmp_path):
    video = write_video(tmp_path / "a" / "v.mp4", 20, has_sound=False)
    scored = read_scored(write_result(tmp_path / "results", video, [], name="deep/v.mp4"))
    other = write_video(tmp_path / "b" / "deep" / "v.mp4", 25, has_sound=False)
    assert FootageIndex([tmp_path / "b", tmp_path / "a"]).find(scored) == video
    with pytest.raises(VideoError, match="another video lies under its name"):
        FootageIndex([other]).find(scored)
    with pytest.raises(VideoError, match="name its folder with --footage"):
        FootageIndex([tmp_path / "results"]).find(scored)


@pytest.mark.parametrize(
    "change",
    [
        {"spans": [{"start_s": 2, "end_s": 1}]},
        {"spans": [{"start_s": 0, "end_s": 900}]},
        {"spans": [{"start_s": 0, "end_s": 1, "score": 7}]},
        {"spans": [{"start_s": "0", "end_s": 1}]},
        {"spans": "none"},
        {"duration_s": None},
        {"video": 3},
        {"threshold": float("nan")},
    ],
)
def test_damaged_results_are_one_row_and_no_crash(tmp_path, change):
    good = write_video(tmp_path / "good.mp4", 20, has_sound=False)
    write_result(tmp_path / "results", good, [])
    bad = write_result(tmp_path / "results", good, [], stem="bad")
    bad.write_text(json.dumps({**json.loads(bad.read_text()), **change}))
    scored, rejected = read_results(tmp_path / "results")
    assert [item.stem for item in scored] == ["good"]
    assert rejected[0].video == "bad.spans.json"
    assert "--force" in rejected[0].reason


def test_scores_that_are_missing_or_no_parquet_are_one_row(tmp_path):
    video = write_video(tmp_path / "v.mp4", 20, has_sound=False)
    write_result(tmp_path, video, [])
    for spoil in (lambda p: p.write_bytes(b"PAR1nonsense"), lambda p: p.unlink()):
        spoil(tmp_path / "v.scores.parquet")
        scored, rejected = read_results(tmp_path)
        assert not scored
        assert len(rejected) == 1
    with pytest.raises(DataError, match="no results there"):
        read_results(tmp_path.parent)
