"""The doctor: every check finds what is there and what is not, says what to do, and changes nothing."""

import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import app.doctor as doctor
from app.check import Check
from app.cli import app as command_line
from app.doctor_registry import check_champion, check_tracking


@contextlib.contextmanager
def server(status: int) -> Iterator[str]:
    """Serve every GET with `status` on a free local port and yield the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def test_an_unsupported_python_is_required_and_missing():
    assert doctor.check_python((3, 11)).ok
    check = doctor.check_python((3, 9))
    assert not check.ok
    assert check.required
    assert "3.11" in check.remedy


def test_memory_is_the_limit_of_the_container(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("2000000000\n")
    check = doctor.check_memory(limit)
    assert (check.ok, check.detail) == (False, "2.0 GB")
    assert check.remedy
    limit.write_text("max\n")
    assert doctor.check_memory(limit) == doctor.check_memory(tmp_path / "nowhere")


def test_a_full_disk_says_how_to_make_room(tmp_path, monkeypatch):
    assert "GB free" in doctor.check_disk(tmp_path).detail
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    check = doctor.check_disk(tmp_path)
    assert not check.ok
    assert "dvc gc" in check.remedy


def test_a_gpu_that_torch_cannot_use_is_told_from_none(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    assert "none" in doctor.check_gpu(tmp_path).detail
    (tmp_path / "nvidia0").touch()
    check = doctor.check_gpu(tmp_path)
    assert not check.ok
    assert "CPU build" in check.detail
    assert "torch" in check.remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tester 9000")
    assert doctor.check_gpu(tmp_path).detail.startswith("Tester 9000")


def test_every_engine_of_the_issue_has_a_line_and_missing_ones_a_remedy(monkeypatch):
    names = ["engine eager-bf16", "engine torchscript", "engine onnx", "engine openvino", "engine tensorrt"]
    assert [check.name for check in doctor.check_engines()] == names

    def nothing(name: str) -> tuple[None, str]:
        return None, f"{name} is not installed"

    monkeypatch.setattr(doctor, "_import", nothing)
    checks = doctor.check_engines()
    assert [check.name for check in checks] == names
    assert not any(check.ok for check in checks)
    assert all("install" in check.remedy for check in checks)
    assert "herdlight[tensorrt]" in checks[-1].remedy


def test_tensorrt_without_a_gpu_builds_and_does_not_run(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = doctor.check_engines()[-1]
    if check.ok:
        assert "builds ahead of time" in check.detail
    else:
        assert check.detail == "tensorrt_rtx is not installed"


def test_a_package_that_is_installed_but_broken_is_no_crash(tmp_path, monkeypatch):
    (tmp_path / "broken_package_of_test.py").write_text("raise OSError('libnothing.so: cannot open\\n shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    module, why = doctor._import("broken_package_of_test")
    assert module is None
    assert why == "broken_package_of_test cannot be imported: libnothing.so: cannot open shared object"
    assert doctor._import("no_such_package_of_test") == (None, "no_such_package_of_test is not installed")


def test_codecs_are_those_of_pyav(monkeypatch):
    checks = {check.name: check for check in doctor.check_ffmpeg()}
    assert set(checks) == {"FFmpeg", *(f"codec {name}" for name in ("h264", "hevc", "vp9", "av1", "mpeg4"))}
    assert checks["codec h264"].ok
    assert "decodes with h264" in checks["codec h264"].detail
    monkeypatch.setattr(doctor, "CODECS", {"no_such_codec": "no_such_encoder"})
    check = doctor.check_ffmpeg()[1]
    assert not check.ok
    assert check.required
    assert check.detail == "decodes with nothing, encodes with nothing"


def write_pointer(root: Path, num_files: int) -> None:
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": "0.dir", "nfiles": num_files, "path": "data"}]}))


def test_data_is_counted_against_its_pointer(tmp_path):
    assert doctor.check_data(tmp_path).detail == "no data.dvc here"
    write_pointer(tmp_path, 3)
    assert doctor.check_data(tmp_path).remedy == "dvc pull"
    videos = tmp_path / "data" / "videos" / "train"
    videos.mkdir(parents=True)
    for i in range(3):
        (videos / f"{i}.mp4").touch()
    check = doctor.check_data(tmp_path)
    assert (check.ok, check.detail) == (True, "3 of 3 files in data/")
    (videos / "new.mp4").touch()
    assert "dvc add data" in doctor.check_data(tmp_path).remedy
    (tmp_path / "data.dvc").write_text("outs: [")
    assert "git checkout data.dvc" in doctor.check_data(tmp_path).remedy
    (tmp_path / "data.dvc").unlink()
    assert doctor.check_data(tmp_path).remedy == "dvc add data"


def test_energy_counters_are_absent_unreadable_or_read(tmp_path):
    assert "estimated" in doctor.check_energy(tmp_path).remedy
    for name in ("intel-rapl:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1")
    assert doctor.check_energy(tmp_path).detail == "RAPL, 2 counters"


def test_unreadable_energy_counters_say_how_to_open_them(tmp_path, monkeypatch):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    check = doctor.check_energy(tmp_path)
    assert not check.ok
    assert "chmod" in check.remedy


def test_prefect_answers_or_the_line_says_why_not():
    with server(200) as url:
        assert doctor.check_prefect({"PREFECT_API_URL": f"{url}/api"}) == Check("Prefect server", True, f"{url}/api")
    assert "refused" in doctor.check_prefect({"PREFECT_API_URL": f"{url}/api"}).detail
    with server(503) as url:
        assert "status 503" in doctor.check_prefect({"PREFECT_API_URL": url}).detail
    check = doctor.check_prefect({"PREFECT_API_URL": "not a url"})
    assert not check.ok
    assert "prefect server start" in check.remedy


def test_a_tracking_server_is_asked_and_an_absent_store_is_not_made(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = check_tracking(tmp_path)
    assert not tracking.ok
    assert "make run" in tracking.remedy
    champion = check_champion(tmp_path, tracking)
    assert not champion.ok
    assert "make run" in champion.remedy
    assert list(tmp_path.iterdir()) == []
    with server(200) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert check_tracking(tmp_path).ok
    check = check_tracking(tmp_path)
    assert not check.ok
    assert url in check.detail


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow 3.17 on SQLAlchemy 2.1
def test_the_champion_is_the_version_behind_the_alias(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri, uri)
    client.create_registered_model("herdlight")
    tracking = check_tracking(tmp_path)
    assert tracking.ok
    assert check_champion(tmp_path, tracking).detail == "no version of herdlight is the champion"
    client.create_model_version("herdlight", str(tmp_path))
    client.set_registered_model_alias("herdlight", "champion", "1")
    assert check_champion(tmp_path, tracking) == Check("champion", True, "herdlight version 1")


CHECKS = [Check("fine [x]", True, "here"), Check("optional", False, "not here", "get it")]
BROKEN = Check("needed", False, "gone", "put it back", required=True)


def test_the_table_names_what_is_required_and_missing():
    page = io.StringIO()
    doctor.print_checks([*CHECKS, BROKEN], Console(file=page, width=100), as_json=False)
    text = page.getvalue()
    assert "fine [x]" in text
    assert "put it back" in text
    assert "required and missing: needed" in text


@pytest.mark.parametrize(("checks", "status"), [(CHECKS, 0), ([*CHECKS, BROKEN], 1)])
def test_only_what_is_required_decides_the_exit_status(checks, status, monkeypatch):
    monkeypatch.setattr(doctor, "all_checks", lambda *_: checks)
    result = CliRunner().invoke(command_line, ["doctor", "--json"])
    assert result.exit_code == status
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == [check.name for check in checks]
    assert set(rows[0]) == {"name", "ok", "detail", "remedy", "required"}
    assert CliRunner().invoke(command_line, ["doctor"]).exit_code == status


def test_here_everything_required_is_present_and_every_absence_has_a_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checks = doctor.all_checks(tmp_path, {"PREFECT_API_URL": "http://127.0.0.1:9"})
    assert all(check.ok for check in checks if check.required)
    assert all(check.remedy for check in checks if not check.ok)
    assert not any("\n" in check.detail for check in checks)
    assert list(tmp_path.iterdir()) == []
