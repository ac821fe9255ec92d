"""Validate: a sound manifest passes, and each expectation fails alone, naming its rows, when it is broken alone."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import DataError, ParamsError, ValidationFailed
from models.files import read_json
from models.importance import importance_of
from models.manifest import Caption, VideoRow, write_manifest
from models.params import parse_section
from models.spans import Span
from tasks.validate import (
    Outcome,
    ValidateParams,
    build_suites,
    build_tables,
    check_outcomes,
    count_rejected,
    main,
    summarise,
    tell_failures,
    validate_tables,
)

PARAMS = ValidateParams(min_videos_per_split=2, min_duration_s=1, max_duration_s=100, min_side_px=32, max_side_px=640)
MakeRow = Callable[..., VideoRow]


@pytest.fixture
def rows(make_row: MakeRow) -> list[VideoRow]:
    """A sound manifest: two videos a split, one of them under bad/."""
    found = []
    for i, split in enumerate(("train", "val", "test")):
        good, bad = f"{i:016x}", f"{i + 9:016x}"
        found.append(make_row(good, split=split, path=f"{split}/good/{good}.mp4"))
        found.append(make_row(bad, split=split, path=f"{split}/bad/{bad}.mp4", folder="bad", segments=()))
    return found


def run(rows: list[VideoRow], num_rejected: int = 0, params: ValidateParams = PARAMS) -> list[Outcome]:
    return validate_tables(build_tables(rows, num_rejected), params)


def failed(outcomes: list[Outcome]) -> dict[str, tuple[str, ...]]:
    return {outcome.description: outcome.unexpected for outcome in outcomes if not outcome.success}


def test_a_sound_manifest_passes(rows: list[VideoRow]) -> None:
    outcomes = run(rows)
    assert failed(outcomes) == {}
    assert len(outcomes) == sum(len(suite) for suite in build_suites(PARAMS).values())
    assert check_outcomes(outcomes) == {"num_expectations": len(outcomes), "num_failed": 0}
    assert summarise(outcomes)["success"] is True


# What is changed in the first row, train/good/0…0.mp4, and what must then fail.
FIRST = "train/good/0000000000000000.mp4"
BAD = "train/bad/0000000000000009.mp4"
BROKEN: list[tuple[str, int, dict[str, Any], set[str]]] = [
    ("identity", 0, {"video_id": "XYZ"}, {"Identity is 16 hexadecimal digits"}),
    (
        "split",
        0,
        {"split": "dev"},
        {"Every video has a split", "Every split has enough videos", "Every split has highlight"},
    ),
    ("no group", 0, {"group": ""}, {"Every video has a group"}),
    ("too short", 1, {"duration_s": 0.5}, {"Durations are in range, seconds"}),
    ("too long", 0, {"duration_s": 101.0}, {"Durations are in range, seconds"}),
    ("no rate", 0, {"mean_fps": float("nan")}, {"Every video has a mean frame rate"}),
    ("too slow", 0, {"mean_fps": 0.01}, {"Mean frame rates are in range, frames/s"}),
    ("too fast", 0, {"mean_fps": 1001.0}, {"Mean frame rates are in range, frames/s"}),
    ("no frame", 0, {"num_frames": 0}, {"Every video has a frame"}),
    ("empty file", 0, {"num_bytes": 0}, {"No file is empty"}),
    ("rotation", 0, {"rotation_deg": 45}, {"Rotations are quarter turns"}),
    ("narrow", 0, {"width": 31}, {"Displayed widths are in range, px"}),
    ("tall", 0, {"height": 641}, {"Displayed heights are in range, px"}),
    ("late end", 0, {"segments": (Span(3.0, 4.1),)}, {"No highlight ends after its video"}),
    ("late caption", 0, {"captions": (Caption(3.0, 4.1, "x"),)}, {"No caption ends after its video"}),
    ("misfit", 0, {"importance": importance_of(2.0, [[1.0] * 9])}, {"Graded shots cover their video"}),
    ("bad with highlight", 1, {"segments": (Span(0.0, 1.0),)}, {"No video under bad/ has a highlight"}),
]


@pytest.mark.parametrize(
    ("index", "changes", "wanted"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_each_expectation_fails_alone_and_names_its_row(
    rows: list[VideoRow], index: int, changes: dict[str, Any], wanted: set[str]
) -> None:
    rows[index] = replace(rows[index], **changes)
    found = failed(run(rows))
    assert set(found) == wanted
    for description, names in found.items():
        assert names == (("train",) if description.startswith("Every split") else (rows[index].path,))


def test_importance_that_fits_passes(rows: list[VideoRow]) -> None:
    rows[0] = replace(rows[0], importance=importance_of(1.0, [[1, None, 3, 4], [None, None, 1, 1]]))
    assert failed(run(rows)) == {}


def test_negative_starts_are_found(rows: list[VideoRow]) -> None:
    span = Span(0.0, 1.0)
    object.__setattr__(span, "start_s", -0.5)  # a Span refuses this itself; the manifest may come from elsewhere
    rows[0] = replace(rows[0], segments=(span,))
    assert failed(run(rows)) == {"No highlight starts before 0": (FIRST,)}


def test_highlights_longer_than_the_video_are_found(rows: list[VideoRow]) -> None:
    tables = build_tables(rows, 0)
    tables.videos.loc[0, "highlight_s"] = 5.0
    assert failed(validate_tables(tables, PARAMS)) == {"Highlights are no longer than the video": (FIRST,)}
    tables.videos.loc[0, "highlight_s"] = None
    assert failed(validate_tables(tables, PARAMS))["Every video has a resolved label"] == (FIRST,)
    tables = build_tables([replace(rows[0], duration_s=float("nan")), *rows[1:]], 0)
    assert failed(validate_tables(tables, PARAMS))["Every video has a duration"] == (FIRST,)


def test_a_leak_between_splits_names_every_row_of_the_group(rows: list[VideoRow]) -> None:
    rows[0], rows[2] = replace(rows[0], group="river"), replace(rows[2], group="river")
    assert failed(run(rows)) == {"No recording lies in two splits": tuple(sorted([rows[0].path, rows[2].path]))}
    same_split = [replace(row, group="river") if row.split == "train" else row for row in rows[1:2] + rows[3:]]
    assert "No recording lies in two splits" not in failed(run(same_split))


def test_the_same_content_twice_is_found(rows: list[VideoRow]) -> None:
    rows[2] = replace(rows[2], video_id=rows[0].video_id)
    pair = tuple(sorted([rows[0].path, rows[2].path]))
    assert failed(run(rows)) == {
        "Each content stands once": pair,
        "No content lies in two splits": pair,
    }
    rows[2] = replace(rows[2], video_id="0" * 15 + "f", path=rows[0].path)
    assert failed(run(rows)) == {"Each path stands once": (FIRST, FIRST)}


def test_each_split_needs_both_classes_and_enough_videos(rows: list[VideoRow]) -> None:
    no_highlight = [replace(row, segments=()) if row.split == "val" else row for row in rows]
    assert failed(run(no_highlight)) == {"Every split has highlight": ("val",)}
    all_highlight = [
        replace(row, folder="other", segments=(Span(0.0, 4.0),)) if row.split == "test" else row for row in rows
    ]
    assert failed(run(all_highlight)) == {"Every split has footage without highlight": ("test",)}
    outcomes = run(rows[:5])
    assert failed(outcomes) == {"Every split has enough videos": ("test",)}
    assert run([row for row in rows if row.split != "val"]) != outcomes


def test_the_share_of_rejected_rows(rows: list[VideoRow]) -> None:
    params = PARAMS.model_copy(update={"max_rejected_fraction": 0.25})
    assert failed(run(rows, num_rejected=2, params=params)) == {}
    outcomes = run(rows, num_rejected=3, params=params)
    assert failed(outcomes) == {"The share of rejected rows is within its limit": ("all",)}
    assert "all (0.333333)" in tell_failures(outcomes)


def test_the_message_names_the_expectation_and_five_rows_at_most(rows: list[VideoRow]) -> None:
    outcomes = run([replace(row, rotation_deg=10) for row in rows])
    with pytest.raises(ValidationFailed) as caught:
        check_outcomes(outcomes)
    message = str(caught.value)
    assert message.startswith(
        "Rotations are quarter turns (expect_column_values_to_be_in_set on videos: rotation_deg) fails for 6: "
        "test/bad/000000000000000b.mp4 (10), "
    )
    assert message.count(".mp4") == 5
    assert "and 1 more" in message
    assert "\n" not in message


def test_every_expectation_can_fail(rows: list[VideoRow]) -> None:
    """Hold the list of tests above against the suites: a new expectation needs its case."""
    described = {one.description for suite in build_suites(PARAMS).values() for one in suite}
    source = Path(__file__).read_text(encoding="utf-8")
    assert [text for text in described if f'"{text}"' not in source] == []
    assert len(described) == sum(len(suite) for suite in build_suites(PARAMS).values())


@pytest.mark.parametrize(
    "values", [{"min_duration_s": 5, "max_duration_s": 2}, {"min_videos_per_split": 0}, {"min_video": 1}]
)
def test_params_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ParamsError, match="validate"):
        parse_section(values, "validate", ValidateParams)


@pytest.mark.parametrize("content", [None, "{}", "[", "3"])
def test_a_list_of_rejected_rows_is_needed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "rejected.json").write_text(content)
    with pytest.raises(DataError, match="dvc repro ingest"):
        count_rejected(tmp_path / "rejected.json")


def run_stage(rows: list[VideoRow], folder: Path) -> Path:
    write_manifest(folder / "manifest.parquet", rows)
    (folder / "rejected.json").write_text("[]")
    (folder / "params.yaml").write_text("validate: {min_videos_per_split: 2}\n")
    paths = {name: str(folder / name) for name in ("manifest.parquet", "rejected.json", "params.yaml", "out")}
    main([
        "--manifest", paths["manifest.parquet"], "--rejected", paths["rejected.json"], "--params", paths["params.yaml"],
        "--out", paths["out"],
    ])  # fmt: skip
    return folder / "out"


def test_the_stage_leaves_its_report_and_nothing_else(
    rows: list[VideoRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("home", "temporary", "work", "a", "b"):
        (tmp_path / place).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    first, second = (run_stage(rows, tmp_path / name) for name in ("a", "b"))
    assert (first / "expectations.json").read_bytes() == (second / "expectations.json").read_bytes()
    assert read_json(first / "expectations.json")["success"] is True
    assert read_json(first / "metrics.json")["num_failed"] == 0
    assert sorted(path.name for path in first.iterdir()) == [
        "data_docs",
        "energy.json",
        "expectations.json",
        "metrics.json",
    ]
    pages = sorted(path.name for path in (first / "data_docs").rglob("*.html"))
    assert pages == [
        "index.html", "manifest-run.html", "manifest-splits.html", "manifest-videos.html", "run.html", "splits.html",
        "videos.html",
    ]  # fmt: skip
    assert "Each path stands once" in next((first / "data_docs").rglob("manifest-videos.html")).read_text()
    for page in (first / "data_docs").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.search(r"""<script|\son\w+=|(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", html), page
        links = [link for link in re.findall(r'href="([^"#][^"]*)"', html) if "favicon" not in link]
        assert all((page.parent / link).resolve().is_file() for link in links), page
        assert ".ge-section" in html
    index = (first / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert re.findall('href="validations/(\\w+)/', index) == ["run", "splits", "videos"]
    assert [path for place in ("home", "work") for path in (tmp_path / place).rglob("*")] == []


def test_a_failed_stage_still_leaves_its_report(
    rows: list[VideoRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows[0] = replace(rows[0], rotation_deg=10)
    with pytest.raises(SystemExit) as caught:
        run_stage(rows, tmp_path)
    assert caught.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("stage validate: Rotations are quarter turns (expect_column_values_to_be_in_set on videos: ")
    assert f"fails for 1: {FIRST} (10)" in told
    report = json.loads((tmp_path / "out/expectations.json").read_text())
    assert report["success"] is False
    assert [one["unexpected"] for one in report["expectations"] if not one["success"]] == [[FIRST]]
    assert (tmp_path / "out/data_docs/index.html").is_file()


def test_an_empty_manifest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_stage([], tmp_path)
    assert "the manifest is empty" in capsys.readouterr().err
