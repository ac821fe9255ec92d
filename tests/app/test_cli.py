"""The `herdlight` command as people meet it: words, exit statuses, signals, a kill, and what a start costs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import app.cli
from app.cli import app as command_line
from models.verdict import Resolution

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "PREFECT_API"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1", **more}


def herdlight(*arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_fails(arguments: list[str], *words: str) -> Result:
    """Assert the same of a command that runs in this process."""
    result = RUNNER.invoke(command_line, arguments)
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("herdlight: ")
    assert all(word in lines[0] for word in words), lines[0]
    return result


def test_help_names_every_command_without_loading_anything_heavy(tmp_path):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app", "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("score", "features", "evaluate", "train", "serve", "rollback", "gate", "doctor"):
        assert f" {name} " in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "app.cli" in imported
    heavy = {"torch", "mlflow", "prefect", "av", "matplotlib", "pandas", "pyarrow", "open_clip", "codecarbon", "numpy"}
    assert not heavy & imported
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["score", "features", "evaluate", "train", "serve", "rollback", "gate", "doctor"])
def test_every_command_has_help(name):
    result = RUNNER.invoke(command_line, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout) > 200


def test_a_wrong_option_is_a_usage_error():
    assert RUNNER.invoke(command_line, ["score", "a.mp4"]).exit_code == 2
    assert RUNNER.invoke(command_line, ["score", "a.mp4", "--out", "x", "--threshold", "1.5"]).exit_code == 2
    assert RUNNER.invoke(command_line, ["nothing"]).exit_code == 2


def test_a_folder_is_scored_past_a_bad_file_and_again_for_free(tmp_path, served_folder, make_video, monkeypatch):
    make_video(tmp_path / "in" / "a.mp4", seed=1)
    make_video(tmp_path / "in" / "ünï [b].mp4", seed=2)
    (tmp_path / "in" / "broken.mp4").write_bytes(b"")
    arguments = ("score", "in", "--out", "out", "--model", served_folder)
    result = herdlight(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "ünï [b].mp4" in result.stdout
    assert "the file is empty" in result.stdout
    assert "2 scored, 1 rejected; results in out" in result.stdout
    for stem in ("a", "ünï [b]"):
        for suffix in ("spans.json", "scores.parquet", "timeline.png"):
            assert (tmp_path / "out" / f"{stem}.{suffix}").stat().st_size > 0
    model = json.loads((tmp_path / "out" / "a.spans.json").read_text())["model"]
    assert model["name"] == str(served_folder)
    assert len(model["sha256"]) == 64
    before = (tmp_path / "out" / "a.timeline.png").stat().st_ino
    monkeypatch.chdir(tmp_path)
    again = RUNNER.invoke(command_line, list(map(str, arguments)))
    assert again.exit_code == 0
    assert "2 scored (2 kept from before), 1 rejected" in again.stdout
    assert (tmp_path / "out" / "a.timeline.png").stat().st_ino == before
    forced = RUNNER.invoke(command_line, [*map(str, arguments), "--force", "--threshold", "0.0"])
    assert "kept" not in forced.stdout
    spans = json.loads((tmp_path / "out" / "a.spans.json").read_text())["spans"]
    assert [(span["start_s"], span["end_s"]) for span in spans] == [(0.0, pytest.approx(2.0))]


def test_nothing_scored_is_a_failure_that_points_at_the_reasons(tmp_path, served_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    arguments = ["score", "a.mp4", "--out", "out", "--model", str(served_folder)]
    assert "a.mp4" in assert_fails(arguments, "none of the videos", "rejected.json").stdout
    assert json.loads((tmp_path / "out" / "rejected.json").read_text())[0]["video"] == "a.mp4"


def test_paths_and_models_that_are_not_there_are_named(tmp_path, make_video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    video = str(make_video(tmp_path / "a.mp4", seconds=0.2))
    (tmp_path / "empty").mkdir()
    assert_fails(["score", "nowhere", "--out", "out"], "nowhere: no such file or folder")
    assert_fails(["score", "empty", "--out", "out"], "empty: no video files")
    assert_fails(["score", video, "--out", video], "choose another --out")
    assert_fails(["score", video, "--out", f"{video}/below"], "choose another --out")
    assert_fails(["score", video, "--out", "out", "--model", "empty"], "empty", "make run")
    assert_fails(["score", video, "--out", "out"], "models:/herdlight@champion", "make run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "empty"]


# The command itself with a model that needs no torch, so that it is at work within a second.
DRIVER = """
import numpy as np
import app.scoring
from models.spans import ScoreTrack
from models.video import Sampling
from tasks.score import ModelIdentity

class Spec:
    sampling, threshold, min_duration_s, merge_gap_s = Sampling(4.0, 32), 0.5, 0.0, 0.0

class Model:
    spec = Spec()
    def embed(self, frames_NHWC):
        return frames_NHWC.reshape(len(frames_NHWC), -1).mean(1, keepdims=True).astype(np.float32)
    def score_track(self, features_TD, times_s, duration_s):
        return ScoreTrack(times_s, (features_TD[:, 0] / 255).astype(np.float32), duration_s)

app.scoring._load_model = lambda uri: (Model(), ModelIdentity(uri, "1", "ab" * 32))
from app.cli import main
main()
"""


def start_scoring(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "score", "in", "--out", "out"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_first(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(out.glob("*.spans.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_where_it_was(number, tmp_path, make_video):
    for i in range(12):
        make_video(tmp_path / "in" / f"v{i:02d}.mp4", seconds=1, seed=i)
    process = start_scoring(tmp_path)
    wait_for_first(tmp_path / "out", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    done = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.spans.json")}
    assert 1 <= len(done) < 12
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert errors.strip().splitlines()[-1].startswith("herdlight: interrupted")
        assert "Traceback" not in errors
        assert not list((tmp_path / "out").glob(".*"))
    again = start_scoring(tmp_path)
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert f"12 scored ({len(done)} kept from before), 0 rejected" in output
    assert all((tmp_path / "out" / name).stat().st_ino == inode for name, inode in done.items())


@pytest.mark.parametrize(
    ("arguments", "module", "passed"),
    [
        (["train"], "flows.train", []),
        (
            ["train", "--profile", "tvsum", "--set", "train.epochs=2", "--set", "gate.min_f1=0.1", "--resume"],
            "flows.train",
            ["--profile", "tvsum", "--set", "train.epochs=2", "--set", "gate.min_f1=0.1", "--resume"],
        ),
        (["serve", "--inbox", "footage"], "flows.serve", ["--inbox", "footage"]),
        (["rollback", "--to", "3"], "flows.rollback", ["--to", "3"]),
    ],
)
def test_flows_get_the_same_arguments(arguments, module, passed, monkeypatch):
    started: list[list[str]] = []

    def become(_path: str, argv: list[str]) -> None:
        started.append(argv)
        raise SystemExit(7)

    monkeypatch.setattr(app.cli.os, "execv", become)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    result = RUNNER.invoke(command_line, arguments)
    assert result.exit_code == 7
    assert started == [[sys.executable, "-m", module, *passed]]
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "elsewhere"]


def start_fake_flow(folder: Path, body: str) -> subprocess.Popen[str]:
    """Start `herdlight train` in a folder whose own package `flows` takes the place of the real one."""
    (folder / "flows").mkdir()
    (folder / "flows" / "__init__.py").touch()
    (folder / "flows" / "train.py").write_text(body)
    return subprocess.Popen(
        [sys.executable, "-m", "app", "train", "--set", "a=1"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_exit_status_of_a_flow_is_passed_through(tmp_path):
    process = start_fake_flow(tmp_path, "import sys; print(sys.argv[1:]); sys.exit(9)")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (9, "['--set', 'a=1']")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_flow_itself(number, tmp_path):
    body = (
        "import signal, sys, time\n"
        "def end(number, frame): print('got', number); sys.exit(40 + number)\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, end)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = start_fake_flow(tmp_path, body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (40 + number, f"got {int(number)}")


def verdict(*passed: bool, resolution: object = None) -> str:
    lines = [
        {"name": f"line_{i}", "passed": ok, "value": 0.5, "bound": 0.6, "comparison": ">=", "text": f"text [{i}] of it"}
        for i, ok in enumerate(passed)
    ]
    return json.dumps({"promoted": all(passed), "lines": lines, "resolution": resolution})


def test_gate_prints_every_line_and_exits_by_the_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "build" / "gate" / "verdict.json"
    path.parent.mkdir(parents=True)
    path.write_text(verdict(True, True))
    result = RUNNER.invoke(command_line, ["gate"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "promoted"
    path.write_text(verdict(True, False, True))
    result = RUNNER.invoke(command_line, ["gate"])
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["passed", "refused", "passed", "refused"]
    assert "line_1: text [1] of it" in result.stdout
    assert result.stderr.startswith("herdlight: the gate refused")
    for num_videos, words in (
        (40, "the smallest improvement that 40 test videos can show is 0.0612"),
        (4, "too small"),
    ):
        value = Resolution(num_videos, 0.0612 if num_videos == 40 else None, 0.8, 0.025, 0.2, True, 6).to_json()
        path.write_text(verdict(True, resolution=value))
        result = RUNNER.invoke(command_line, ["gate"])
        assert result.exit_code == 0
        note, last = result.stdout.splitlines()[1:]
        assert note.startswith("note    ")
        assert words in note
        assert last == "promoted"


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"promoted": true, "lines": []}', '{"promoted": true, "lines": [], "resolution": null}'],
)
def test_gate_without_a_verdict_says_what_to_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "verdict.json"
    if content is not None:
        path.write_text(content)
    assert_fails(["gate", "--verdict", "verdict.json"], "verdict.json", "run")


def test_an_error_in_a_process_of_its_own_is_one_line(tmp_path):
    result = herdlight("gate", "--verdict", tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"herdlight: {tmp_path}: not readable")
