"""Ingest: identity, split and labels of every video, and a reason for each that is left out."""

import json
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import AnnotationError, DataError, ParamsError, TooManyRejected
from models.files import hash_file, read_json
from models.manifest import Caption, Rejection, read_manifest
from models.params import parse_section
from models.spans import Span
from models.video import VideoInfo
from tasks.annotations import Annotations, folder_of, parse_annotations, read_annotations, resolve_labels
from tasks.ingest import (
    IngestParams,
    IngestResult,
    Probed,
    assign_splits,
    build_rows,
    check_rejected,
    count_rows,
    find_videos,
    main,
    probe_videos,
    split_of_group,
)

PARAMS = IngestParams()
INFO = VideoInfo(
    duration_s=10.0, start_pts_s=0.0, num_frames=250, mean_fps=25.0, nominal_fps=25.0, is_vfr=False, width=64,
    height=48, rotation_deg=0, codec="h264", pix_fmt="yuv420p", container="mov", has_audio=False, num_bytes=1000,
)  # fmt: skip


def video(path: str, content: str | None = None) -> Probed:
    return Probed(path, (content or path).encode().hex().ljust(64, "0")[:64], INFO)


def build(paths: Sequence[str], entries: Mapping[str, Any] | None = None) -> IngestResult:
    return build_rows([video(path) for path in paths], [], parse_annotations({"videos": entries or {}}), PARAMS)


def reasons(result: IngestResult) -> dict[str, str]:
    return {one.path: one.reason for one in result.rejected}


# --- splits ---------------------------------------------------------------------------------------------------------


@given(
    old=st.dictionaries(st.text(max_size=8), st.text(max_size=3), max_size=20),
    new=st.dictionaries(st.text(max_size=8), st.text(max_size=3), max_size=20),
)
def test_additions_move_nothing_that_was_there(old: dict[str, str], new: dict[str, str]) -> None:
    before = {f"pool/{path}": group for path, group in old.items()}
    after = {**{f"more/{path}": group for path, group in new.items()}, **before}
    assert assign_splits(before, PARAMS).items() <= assign_splits(after, PARAMS).items()


@given(st.dictionaries(st.text(max_size=8), st.sampled_from("abcdef"), max_size=30))
def test_no_group_is_torn_apart(groups: dict[str, str]) -> None:
    groups = {f"pool/{path}": group for path, group in groups.items()}
    splits = assign_splits(groups, PARAMS)
    for group in set(groups.values()):
        assert len({splits[path] for path in groups if groups[path] == group}) == 1


def test_fractions_of_the_draw_are_those_of_the_params() -> None:
    params = IngestParams(val_fraction=0.3, test_fraction=0.1)
    drawn = [split_of_group(f"recording {i}", params) for i in range(4000)]
    assert {split: round(drawn.count(split) / 4000, 1) for split in sorted(set(drawn))} == {
        "test": 0.1, "train": 0.6, "val": 0.3
    }  # fmt: skip
    assert {split_of_group(str(i), IngestParams(val_fraction=0, test_fraction=0)) for i in range(99)} == {"train"}


def test_the_draw_is_fixed_for_ever() -> None:
    assert [split_of_group(group, PARAMS) for group in ("a", "b", "c", "d", "e", "f", "g", "h")] == [
        "train", "val", "test", "test", "val", "test", "train", "train"
    ]  # fmt: skip


def test_split_folders_decide_and_take_their_group_along() -> None:
    groups = {
        "train/good/a": "1", "train_augmented/b": "2", "val/c": "3", "valid/bad/d": "4", "test/e": "5",
        "pool/f": "1", "pool/g": "3", "pool/h": "5", "train": "6",
    }  # fmt: skip
    splits = assign_splits(groups, PARAMS)
    assert [splits[path] for path in groups][:8] == ["train", "train", "val", "val", "test", "train", "val", "test"]
    assert splits["train"] == split_of_group("6", PARAMS)  # a file of that name is no folder


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "folder"),
    [("train/good/a.mp4", "good"), ("train/bad/x/a.mp4", "bad"), ("a.mp4", "other"), ("pool/bad", "other"),
     ("good/bad/a.mp4", "bad"), ("train/badger/a.mp4", "other")],
)  # fmt: skip
def test_folder_rule(path: str, folder: str) -> None:
    assert folder_of(path) == folder
    wanted = () if folder == "bad" else (Span(0.0, 10.0),)
    assert resolve_labels(path, None, 10.0).segments == wanted


def test_segments_are_sorted_joined_and_clipped() -> None:
    (row,) = build(["pool/a.mp4"], {"pool/a.mp4": {"segments": [[8, 10.4], [1, 3], [2, 5]]}}).rows
    assert row.spans == (Span(1.0, 5.0), Span(8.0, 10.0))


def test_an_entry_says_everything_it_can() -> None:
    entry = {
        "segments": [], "caption": "an elephant bathes", "group": "river", "content": "bathing",
        "captions": [{"start_s": 5, "end_s": 6.5, "text": "it sprays"}, {"start_s": 0, "end_s": 5, "text": "it waits"}],
    }  # fmt: skip
    (row,) = build(["train/good/a.mp4"], {"train/good/a.mp4": entry}).rows
    assert row.spans == ()
    assert (row.caption, row.group, row.content) == ("an elephant bathes", "river", "bathing")
    assert row.captions == (Caption(0.0, 5.0, "it waits"), Caption(5.0, 6.5, "it sprays"))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"segments": [[3, 2]]}, r"segments.0 = \[3, 2\] s: ends before it starts"),
        ({"segments": [[0, 1], [2, 2]]}, r"segments.1 = \[2, 2\] s: ends before it starts"),
        ({"segments": [[-0.1, 2]]}, "starts before 0"),
        ({"segments": [[9, 10.6]]}, "past the end of the video at 10.00 s"),
        ({"segments": [[10.1, 10.3]]}, "past the end"),
        ({"segments": [[0, float("nan")]]}, r"segments.0.1 = nan: .*finite"),
        ({"segments": [[0, float("inf")]]}, "finite"),
        ({"segments": [[0, 1, 2]]}, "segments.0 = .*at most 2"),
        ({"segments": [["0", "1"]]}, "valid number"),
        ({"segments": [[False, True]]}, "valid number"),
        ({"segments": "all"}, "segments = 'all': .*list"),
        ({"captions": [{"start_s": 4, "end_s": 1, "text": "x"}]}, "captions.0 .*ends before it starts"),
        ({"captions": [{"start_s": 4, "end_s": 5, "text": ""}]}, "captions.0.text"),
        ({"caption": 3}, "caption = 3"),
        ({"caption": "\ud800"}, "UTF-8"),
        ({"group": ""}, "group"),
        ({"segment": [[0, 1]]}, "segment = .*not permitted"),
        ([[0, 1]], "entry = "),
        (None, "entry = None"),
    ],
)
def test_a_bad_entry_costs_its_video_alone(entry: Any, reason: str) -> None:
    result = build(["pool/a.mp4", "pool/b.mp4"], {"pool/a.mp4": entry})
    assert [row.path for row in result.rows] == ["pool/b.mp4"]
    (rejected,) = result.rejected
    assert rejected.path == "pool/a.mp4"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(rejected.reason)
    assert "\n" not in rejected.reason


def test_highlights_under_bad_contradict_each_other() -> None:
    result = build(["train/bad/a.mp4", "train/bad/b.mp4"], {
        "train/bad/a.mp4": {"segments": [[0, 1]]}, "train/bad/b.mp4": {"segments": [], "caption": "rain"},
    })  # fmt: skip
    assert "lies under bad/" in reasons(result)["train/bad/a.mp4"]
    assert [row.spans for row in result.rows] == [()]


def test_an_entry_without_a_video_is_told_unless_the_video_is_unreadable() -> None:
    annotations = parse_annotations({"videos": {"gone.mp4": {}, "gone too.mp4": {"x": 1}, "broken.mp4": {}}})
    result = build_rows([video("a.mp4")], [Rejection("broken.mp4", "empty")], annotations, PARAMS)
    assert reasons(result) == {
        "broken.mp4": "empty",
        "gone too.mp4": "annotations.json names a video that is not there",
        "gone.mp4": "annotations.json names a video that is not there",
    }


def test_accents_match_however_they_are_composed() -> None:
    (row,) = build(["pool/e\u0301.mp4"], {"pool/\u00e9.mp4": {"caption": "found"}}).rows
    assert row.caption == "found"


def test_copies_are_rejected_and_the_first_path_stays() -> None:
    probed = [video("b.mp4", "same"), video("a.mp4", "same"), video("c.mp4"), video("z/d.mp4", "same")]
    result = build_rows(probed, [], Annotations({}, {}), PARAMS)
    assert [row.path for row in result.rows] == ["a.mp4", "c.mp4"]
    assert reasons(result) == {"b.mp4": "same content as a.mp4", "z/d.mp4": "same content as a.mp4"}


# --- the file of annotations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON at line 1, column 2"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"[]", "must be a mapping"),
        (b"{}", "must be a mapping"),
        (b'{"videos": []}', "must be a mapping"),
        (b'{"videos": {}, "vidoes": {}}', "unknown key vidoes"),
        (b'{"videos": {"a.mp4": {}, "a.mp4": {}}}', "a.mp4 stands twice"),
        ('{"videos": {"é.mp4": {}, "e\u0301.mp4": {}}}'.encode(), "has two entries"),
        (b'{"videos": {"\\ud800": {}}}', "no UTF-8 text"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_mapping_stops_the_run(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=says) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(str(path))


def test_no_file_of_annotations_is_no_annotations(tmp_path: Path) -> None:
    assert read_annotations(tmp_path / "annotations.json") == Annotations({}, {})


# --- limits and counts ----------------------------------------------------------------------------------------------


def test_the_limit_of_rejected_rows() -> None:
    rows = build([f"{i}.mp4" for i in range(9)]).rows
    rejected = tuple(Rejection(f"x{i}", "empty") for i in range(2))
    check_rejected(IngestResult(rows, rejected[:1]), PARAMS)
    with pytest.raises(TooManyRejected, match=r"2 of 11 .* ingest.max_rejected_fraction = 0.1"):
        check_rejected(IngestResult(rows, rejected), PARAMS)
    with pytest.raises(DataError, match="none of 2 videos"):
        check_rejected(IngestResult((), rejected), IngestParams(max_rejected_fraction=1))


def test_counts() -> None:
    paths = ["train/good/a.mp4", "train/bad/b.mp4", "train/good/c.mp4", "val/good/d.mp4"]
    metrics = count_rows(build(paths, {"train/good/c.mp4": {"segments": [[0, 5]]}}))
    assert metrics["num_videos"] == 4
    assert metrics["hours"] == pytest.approx(40 / 3600)
    assert (metrics["num_videos_train"], metrics["num_videos_val"], metrics["num_videos_test"]) == (3, 1, 0)
    assert metrics["highlight_fraction_train"] == pytest.approx(0.5)
    assert metrics["highlight_fraction_val"] == 1
    assert np.isnan(metrics["highlight_fraction_test"])


@pytest.mark.parametrize(
    "values", [{"val_fraction": 0.6, "test_fraction": 0.4}, {"val_fraction": -0.1}, {"val_fractoin": 0.1}]
)
def test_params_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ParamsError, match="ingest"):
        parse_section(values, "ingest", IngestParams)


# --- files ----------------------------------------------------------------------------------------------------------


def write_video(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_files_to_try(tmp_path: Path) -> None:
    for name in (
        "b/x.mp4",
        "a.mov",
        "no extension",
        "b/x.srt",
        "b/x.JSON",
        ".hidden.mp4",
        ".cache/x.mp4",
        "b/Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert find_videos(tmp_path) == ["a.mov", "b/x.mp4", "no extension"]
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert find_videos(tmp_path) == ["a.mov", "b/x.mp4", "no extension"]
    (tmp_path / "b" / "up").unlink()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "pool").symlink_to(tmp_path / "b")
    assert find_videos(tmp_path / "root") == ["pool/x.mp4"]


@pytest.mark.parametrize("exists", [True, False])
def test_no_footage_says_what_to_do(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match="dvc pull"):
        find_videos(tmp_path / "videos")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
def test_every_file_is_probed_or_rejected_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "b.mp4", 100)
    write_video(tmp_path / "-é 象.mp4", 50)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "c.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "d.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "e\udcff.mp4").write_bytes(b"x")
    done: list[int] = []
    probed, rejected = probe_videos(tmp_path, find_videos(tmp_path), done.append)
    assert [one.path for one in probed] == ["-é 象.mp4", "b.mp4", "d.mp4"]
    assert probed[1].sha256 == hash_file(tmp_path / "b.mp4") == probed[2].sha256
    assert rejected == [
        Rejection("a.mp4", "the file is empty"),
        Rejection("c.mp4", "no such file"),
        Rejection("e\\udcff.mp4", "its name is not UTF-8; rename it"),
    ]
    assert done == [1, 2, 3, 4, 5, 6]


def make_data(folder: Path, num_broken: int) -> Path:
    for i in range(9):
        write_video(folder / f"videos/{('train', 'val', 'pool')[i % 3]}/{('good', 'bad')[i % 2]}/{i}.mp4", 20 * i)
    for i in range(num_broken):
        (folder / f"videos/train/broken {i}.mp4").write_bytes(b"not a video")
    (folder / "annotations.json").write_text(json.dumps({"videos": {"train/good/0.mp4": {"segments": [[0.5, 1]]}}}))
    return folder


def run_stage(data: Path, out: Path) -> None:
    params = out.parent / "params.yaml"
    params.write_text("ingest: {max_rejected_fraction: 0.1}\n")
    main(["--data", str(data), "--out", str(out), "--params", str(params)])


def test_the_stage_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", 1)
    for out in ("one", "two"):
        run_stage(data, tmp_path / out)
    for name in ("manifest.parquet", "rejected.json", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = read_manifest(tmp_path / "one/manifest.parquet")
    assert len(rows) == 9
    assert rows[0].video_id == hash_file(data / "videos" / rows[0].path)[:16]
    assert {row.path: row.spans for row in rows}["train/good/0.mp4"] == (Span(0.5, 1.0),)
    assert all(not row.spans for row in rows if "/bad/" in row.path)
    assert read_json(tmp_path / "one/metrics.json")["num_rejected"] == 1


def test_too_many_rejected_stop_the_stage_after_their_reasons_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "data", 3)
    with pytest.raises(SystemExit) as caught:
        run_stage(data, tmp_path / "out")
    assert caught.value.code == 1
    assert "stage ingest: 3 of 12 videos are rejected" in capsys.readouterr().err
    assert len(read_json(tmp_path / "out/rejected.json")) == 3
    assert not (tmp_path / "out/manifest.parquet").exists()
