"""`herdlight score-library` as one would use it: a real model, real files, what it prints and how it ends."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.cli import app
from app.library import print_library
from models.files import read_json
from tasks.library import LibraryReport
from tasks.library_listing import UnreadablePlace
from tasks.library_work import LibraryRow


def test_a_library_is_scored_and_kept(
    tmp_path: Path, served_folder: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "footage" / "-élan 1.mp4")
    (tmp_path / "footage" / "card").mkdir()
    os.link(tmp_path / "footage" / "-élan 1.mp4", tmp_path / "footage" / "card" / "copy.mp4")
    (tmp_path / "footage" / "broken.mp4").write_bytes(b"no video at all" * 100)
    command = ["score-library", "footage", "--out", "library", "--model", str(served_folder)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert (
        "1 scored, 1 quarantined, 1 kept; 2 s of video; 2 of 3 files have results in library/index.json" in first.output
    )
    assert "broken.mp4" in first.output
    again = CliRunner().invoke(app, command)
    assert "3 kept; 0 s of video; 2 of 3 files" in again.output
    scored, bad = sorted(read_json(tmp_path / "library" / "index.json")["videos"], key=lambda row: row["status"])[::-1]
    assert (scored["status"], len(scored["places"])) == ("scored", 2)
    assert (bad["video"], bad["places"]) == ("broken.mp4", [str(tmp_path / "footage" / "broken.mp4")])
    spans = read_json(tmp_path / "library" / f"{scored['results']}.spans.json")
    assert spans["duration_s"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: no such file, folder or list"),
        (["empty"], "empty: no video files there"),
        (["bad"], "none of the files could be scored"),
        (["bad", "--runner", "dask", "--address", "nonsense://x"], "no Dask scheduler answers there"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, served_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_text("x")
    command = ["score-library", *arguments, "--out", "library", "--model", str(served_folder)]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, told in " ".join(done.output.split())) == (1, True), done.output


def test_a_long_list_of_bad_files_is_cut(tmp_path: Path) -> None:
    rows = tuple(LibraryRow(f"/{i}", f"{i}.mp4", 1, "quarantined", "no [moov] atom") for i in range(40))
    report = LibraryReport(rows, (UnreadablePlace(Path("/p"), "pipe.mp4", "a pipe, not a file"),), ())
    console = Console(record=True, width=100)
    print_library(report, tmp_path, console)
    text = console.export_text()
    assert "no [moov] atom" in text
    assert "and 11 more" in text
    assert "0 of 40 files have results" in text
