"""The command `herdlight export` as people run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.handoff_files import write_result, write_video

ROOT = Path(__file__).resolve().parents[2]


def run_export(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "export", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_highlights_are_handed_on_and_told(tmp_path):
    video = write_video(tmp_path / "footage" / "-a b.mp4", 40)
    write_result(tmp_path / "results", video, [{"start_s": 0.4, "end_s": 1.2}])
    formats = "csv,edl,clips,html"
    done = run_export("results", "--footage", "footage", "--out", "out", "--formats", formats, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 highlights of 1 videos, 0 rejected; files in out" in done.stdout
    assert "note: clips: 0 copied, 1 encoded (libx264 crf 18, AAC)" in done.stdout
    files = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert list(files) == formats.split(",")
    assert all((tmp_path / "out" / name).is_file() for names in files.values() for name in names)


def test_what_cannot_be_done_is_one_line(tmp_path):
    video = write_video(tmp_path / "a.mp4", 10)
    write_result(tmp_path / "results", video, [{"start_s": 0.0, "end_s": 0.3}])
    video.unlink()
    cases = {
        ("nowhere", "--out", "out"): "nowhere: no such folder",
        ("results", "--out", "out", "--formats", "avi"): "'avi' is no format",
        ("results", "--out", "out", "--formats", "edl", "--start", "x"): "must be VIDEO=TIME with a zone",
        ("results", "--out", "results"): "the results lie there",
        ("results", "--out", "out", "--formats", "llc"): "nothing could be handed on",
    }
    for arguments, said in cases.items():
        done = run_export(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
    row = json.loads((tmp_path / "out" / "export.json").read_text())["rejected"][0]
    assert row == {"video": "a.mp4", "reason": "no such file in the footage; name its folder with --footage"}
