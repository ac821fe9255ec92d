"""Atomic outputs: old or new, never half."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.files import read_json, replacing, replacing_folder, write_json, write_text


def test_an_error_while_writing_leaves_the_old_content_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("one", "two"):
        with replacing_folder(folder) as temporary:
            (temporary / name).write_text(name)
    assert [p.name for p in folder.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), replacing_folder(folder) as temporary:
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["two"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"version": 1})
    code = (
        "import sys, time; from pathlib import Path; from models.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_text('{\"version\": '); print('half', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert read_json(path) == {"version": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": value})
    assert not list(tmp_path.iterdir())


def test_unicode_is_written_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Éléphant 象"})
    assert "象" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": "Éléphant 象"}
    assert (tmp_path / "a.json").stat().st_mtime <= time.time() + 1
