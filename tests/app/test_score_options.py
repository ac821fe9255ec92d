"""Options that `score` and `score-library` share: the same on both, told in one line when bad, and done."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from app.cli import app
from app.score_options import settings_asked
from models.files import read_json
from tasks.selecting import OPTIONS


def herdlight(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def footage(tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_video(tmp_path / "footage" / "a.mp4", fps=16)


def test_both_commands_have_every_option_that_settings_know() -> None:
    group: Any = typer.main.get_command(app)
    shared = set(inspect.signature(settings_asked).parameters)
    assert shared == {*OPTIONS, "mode", "budget", "fps"}
    of = {name: {param.name for param in group.commands[name].params} for name in ("score", "score-library")}
    assert all(shared <= names and "settings" not in names for names in of.values()), of


@pytest.mark.parametrize("command", ["score", "score-library"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--budget", "0.5"], "needs mode cascade"),
        (["--fps", "2", "--mode", "keyframes"], "mode keyframes takes the keyframes"),
        (["--fps", "0"], "sampling.fps = 0.0"),
        (["--hold", "0.5", "--threshold", "0.2"], "at most threshold, 0.2"),
    ],
)
@pytest.mark.usefixtures("footage")
def test_bad_settings_are_one_line_before_a_model_is_looked_for(command: str, options: list[str], told: str) -> None:
    done = herdlight(command, "footage", "--out", "out", "--model", "no-such-model", *options)
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    assert told in line


@pytest.mark.usefixtures("footage")
def test_settings_that_contradict_the_model_end_a_library_in_one_line_and_set_nothing_aside(
    served_folder: Path,
) -> None:
    done = herdlight("score-library", "footage", "--out", "out", "--model", str(served_folder), "--hold", "0.9")
    assert done.exit_code == 1
    assert "at most threshold, 0.5" in done.stderr.strip().splitlines()[-1]
    assert not list(Path("out").glob("entries/*/*"))


@pytest.mark.parametrize("more", [[], ["--mode", "cascade", "--budget", "1"]])
@pytest.mark.usefixtures("footage")
def test_twice_the_fps_is_twice_the_samples_and_scored_again(more: list[str], served_folder: Path) -> None:
    command = ["score", "footage", "--out", "out", "--model", str(served_folder), "--threshold", "0", *more]
    counts = []
    for fps in ("4", "8", "8"):
        done = herdlight(*command, "--fps", fps)
        assert done.exit_code == 0, done.output
        assert read_json(Path("out/a.spans.json"))["settings"]["fps"] == float(fps)
        counts.append((pq.read_table("out/a.scores.parquet").num_rows, "kept from before" in done.output))
    assert counts == [(8, False), (16, False), (16, True)]


@pytest.mark.usefixtures("footage")
def test_a_library_is_scored_as_asked_and_kept_for_the_same_settings(served_folder: Path) -> None:
    command = ["score-library", "footage", "--out", "out", "--model", str(served_folder), "--threshold", "0"]
    for told in ("1 scored", "1 kept"):
        done = herdlight(*command, "--fps", "8", "--top", "0")
        assert done.exit_code == 0, done.output
        assert told in done.output
    (row,) = read_json(Path("out/index.json"))["videos"]
    results = Path("out") / row["results"]
    assert row["settings"] == {"threshold": 0.0, "top": 0, "fps": 8.0}
    assert read_json(Path(f"{results}.spans.json"))["spans"] == []
    assert pq.read_table(f"{results}.scores.parquet").num_rows == 16
