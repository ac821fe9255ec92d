"""The registry's model, logged, resolved, loaded and served, with a real small engine and real video files."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch

from flows.registry import CHAMPION, ModelVersion, Registry
from flows.settings import Settings
from models.engines import build_engine
from models.errors import ModelError, RegistryError, TrackingUnavailable
from models.highlighter import Highlighter
from models.members import write_members
from models.served import save_served
from tasks.mlflow_store import MlflowException, connect, fluent, mlflow
from tasks.model_uri import resolve, resolve_model
from tasks.score import identify_model
from tasks.served_params import TYPES
from tests.tiny_model import SIDE, TINY_WITHOUT_TIME


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("repository")
    return Settings(root, f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")


@pytest.fixture(scope="module")
def champion(settings: Settings) -> ModelVersion:
    """A served model, registered and promoted as the flow does it."""
    torch.manual_seed(3)
    highlighter = Highlighter(TINY_WITHOUT_TIME).eval()
    folder = settings.build / "compile" / "model"
    build_engine("torchscript", highlighter.tower, settings.root / "engine", SIDE, "float32")
    save_served(folder, settings.root / "engine", highlighter.head, TINY_WITHOUT_TIME)
    shutil.rmtree(settings.root / "engine")
    client = connect(settings.tracking_uri)
    experiment = client.create_experiment(
        "herdlight", artifact_location=(settings.root / "mlflow" / "artifacts").as_uri()
    )
    run = client.create_run(experiment)
    evaluation = settings.root / "evaluation.json"
    evaluation.write_text("{}")
    registry = Registry(client, settings)
    model_hash = identify_model(folder, "").sha256
    version = registry.register(run.info.run_id, folder, model_hash, {"evaluation": evaluation}, {})
    registry.promote(version)
    return version


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("footage") / "élan 1.mp4"
    _write_noise(path, num_frames=16)
    return path


@pytest.mark.parametrize("uri", [f"models:/herdlight@{CHAMPION}", "models:/herdlight/1"])
def test_names_resolve_to_the_registered_folder(settings: Settings, champion: ModelVersion, uri: str) -> None:
    found = resolve(uri, settings.tracking_uri)
    assert (found.uri, found.version, found.sha256) == (uri, "1", champion.model_hash)
    assert (found.folder / "model.json").is_file()
    assert (found.folder.parent / "evaluation.json").is_file()
    assert resolve_model(uri, settings.tracking_uri) == found.folder


@pytest.mark.parametrize("form", ["runs:/{}/model", "runs:/{}"])
def test_a_training_run_resolves_to_the_version_it_registered(
    settings: Settings, champion: ModelVersion, form: str
) -> None:
    (entry,) = connect(settings.tracking_uri).search_model_versions("name = 'herdlight'")
    found = resolve(form.format(entry.run_id), settings.tracking_uri)
    assert (found.version, found.sha256) == ("1", champion.model_hash)
    assert (found.folder / "model.json").is_file()


def test_an_ensemble_folder_resolves_to_itself(settings: Settings, champion: ModelVersion, tmp_path: Path) -> None:
    shutil.copytree(settings.build / "compile" / "model", tmp_path / "fold-0")
    write_members(tmp_path, ["fold-0"])
    assert resolve_model(tmp_path) == tmp_path
    assert resolve(tmp_path).sha256 != champion.model_hash


def test_a_folder_resolves_to_itself(settings: Settings, champion: ModelVersion, tmp_path: Path) -> None:
    folder = settings.build / "compile" / "model"
    assert resolve_model(folder) == folder
    assert resolve(str(folder)).sha256 == champion.model_hash
    with pytest.raises(RegistryError, match="no such folder"):
        resolve(tmp_path / "nope")
    with pytest.raises(RegistryError, match=r"model\.json"):
        resolve(tmp_path)


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/herdlight@challenger", "aliases: champion"),
        ("models:/herdlight/7", "no such version"),
        ("models:/giraffes@champion", "no model 'giraffes'"),
        ("models:/giraffes/1", "no such version"),
        ("models:/herdlight", "NAME@ALIAS"),
        ("runs:/0123", "no model of this run"),
        ("runs:/", "runs:/RUN_ID/model"),
        ("runs:/a'b", "runs:/RUN_ID/model"),
        ("models:/herdlight/Production", "NAME@ALIAS"),
    ],
)
def test_names_that_are_not_there(settings: Settings, uri: str, words: str) -> None:
    with pytest.raises(RegistryError) as missing:
        resolve(uri, settings.tracking_uri)
    assert words in str(missing.value)
    assert uri in str(missing.value)


def test_a_registry_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for uri in (f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", "http://127.0.0.1:9"):
        with pytest.raises(TrackingUnavailable, match="does not answer"):
            resolve("models:/herdlight@champion", uri)


def test_a_damaged_download_is_not_served(settings: Settings, champion: ModelVersion) -> None:
    path = resolve(champion.uri, settings.tracking_uri).folder / "model.json"
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    try:
        with pytest.raises(ModelError, match="not those that were registered"):
            resolve(champion.uri, settings.tracking_uri)
    finally:
        path.write_bytes(whole)


@pytest.mark.usefixtures("champion")
def test_predictions_row_by_row(settings: Settings, clip: Path, tmp_path: Path) -> None:
    with fluent(settings.tracking_uri):
        model = mlflow.pyfunc.load_model(f"models:/herdlight@{CHAMPION}")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    rows = model.predict([{"video": str(clip)}, {"video": str(tmp_path / "bad.mp4")}, {"video": "nowhere.mp4"}])
    good, bad, absent = rows
    assert (good["video"], good["threshold"], good["error"]) == (str(clip), 0.4, None)
    assert good["duration_s"] == pytest.approx(2.0, abs=0.2)
    assert bad["spans"] == absent["spans"] == []
    assert "bad.mp4" in bad["error"]
    assert "nowhere.mp4" in absent["error"]
    (everything,) = model.predict([{"video": str(clip)}], params={"threshold": 0.0})
    (span,) = everything["spans"]
    assert (span["start_s"], span["end_s"]) == (0.0, good["duration_s"])
    assert 0 <= span["score"] <= 1
    (nothing,) = model.predict([{"video": str(clip)}], params={"threshold": 1.0})
    assert nothing["spans"] == []
    json.dumps(rows)


@pytest.mark.usefixtures("champion")
def test_the_signature_names_every_param_and_a_plain_request_needs_none(settings: Settings, clip: Path) -> None:
    with fluent(settings.tracking_uri):
        model = mlflow.pyfunc.load_model(f"models:/herdlight@{CHAMPION}")
    schema = model.metadata.get_params_schema()
    assert {param.name: param.dtype.name for param in schema} == TYPES
    assert {param.name: param.default for param in schema} == dict.fromkeys(TYPES) | {"scores": False}
    rows = [{"video": str(clip)}]
    plain, named = model.predict(rows), model.predict(rows, params={param.name: param.default for param in schema})
    assert [{**row, "timing": None} for row in plain] == [{**row, "timing": None} for row in named]
    assert (plain[0]["settings"], plain[0]["partial"], plain[0]["looked"]) == ({}, "", None)


@pytest.mark.usefixtures("champion")
def test_params_out_of_range_are_refused_for_the_whole_request(settings: Settings, clip: Path) -> None:
    with fluent(settings.tracking_uri):
        model = mlflow.pyfunc.load_model(f"models:/herdlight@{CHAMPION}")
    with pytest.raises(MlflowException, match="mode 'fast': there are exact, keyframes, cascade"):
        model.predict([{"video": str(clip)}], params={"mode": "fast"})
    table = pd.DataFrame([{"video": str(clip)}])
    with pytest.raises(MlflowException, match="params 'treshold': not known; there are scores, threshold, mode"):
        model.unwrap_python_model().predict(None, table, {"treshold": 0.5})


@pytest.mark.usefixtures("champion")
def test_mlflow_serves_it_in_another_process_without_the_repository(
    settings: Settings, clip: Path, tmp_path: Path
) -> None:
    port = _free_port()
    model = ["models", "serve", "-m", f"models:/herdlight@{CHAMPION}", "--env-manager", "local"]
    address = ["-h", "127.0.0.1", "-p", str(port)]
    environment = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "HERDLIGHT_MAX_VIDEO_BYTES": "200000"}
    content = base64.b64encode(clip.read_bytes()).decode()
    rows = [
        {"video": str(clip)}, {"content": content}, {"video": "nowhere.mp4"}, {"content": "no base64!"},
        {"content": "QUJD" * 100_000}, {"video": "file:///etc/passwd"}, {"video": f"http://127.0.0.1:{port}/ping"},
    ]  # fmt: skip
    film, broken = tmp_path / "film.mp4", tmp_path / "broken.mp4"
    _write_noise(film, num_frames=128)
    broken.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with _running([*model, *address], f"http://127.0.0.1:{port}/ping", environment, tmp_path):
        url = f"http://127.0.0.1:{port}/invocations"
        _check_settings(url, film, broken)
        (old,) = _post(url, {"dataframe_records": [{"video": str(clip)}], "params": {"threshold": 0.0}})["predictions"]
        request = {"dataframe_records": rows, "params": {"threshold": 0.0, "scores": True}}
        with ThreadPoolExecutor(4) as pool:
            answers = [answer["predictions"] for answer in pool.map(lambda _: _post(url, request), range(6))]
    assert len(old["spans"]) == 1
    assert (old["error"], old["scores"]) == (None, None)
    assert old["timing"]["speed"] > 0
    for by_path, by_bytes, absent, *refused in answers:
        assert by_path["spans"] == by_bytes["spans"] == old["spans"]
        assert by_path["scores"] == by_bytes["scores"]
        assert len(by_path["scores"]["score"]) == 8
        assert "nowhere.mp4" in absent["error"]
        words = ("not base64", "larger than 200000 bytes", "'file' is not allowed", "HERDLIGHT_PRIVATE_HOSTS")
        assert [word for word, row in zip(words, refused, strict=True) if word not in row["error"]] == []


@pytest.mark.usefixtures("champion")
def test_a_registry_on_a_server_is_downloaded_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERDLIGHT_CACHE", str(tmp_path / "cache"))
    database = tmp_path / "server.db"
    shutil.copyfile(settings.root / "mlflow" / "mlflow.db", database)  # its tables; the version there is not asked for
    port = _free_port()
    store = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "artifacts")]
    command = ["server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    there = Settings(settings.root, f"http://127.0.0.1:{port}", model_name="far")
    with _running(command, f"{there.tracking_uri}/health", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, tmp_path):
        client = connect(there.tracking_uri)
        registry = Registry(client, there)
        folder = settings.build / "compile" / "model"
        run = client.create_run(client.create_experiment("far"))
        version = registry.register(run.info.run_id, folder, identify_model(folder, "").sha256, {}, {})
        registry.promote(version)
        found = resolve(f"models:/far@{CHAMPION}", there.tracking_uri)
        assert found.folder.is_relative_to(tmp_path / "cache")
        assert found.sha256 == version.model_hash
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: pytest.fail("downloaded again"))
            assert resolve(version.uri, there.tracking_uri).folder == found.folder


def _check_settings(url: str, film: Path, broken: Path) -> None:
    """Ask a server for all kinds of settings at once, and for what nobody can mean."""
    rows = [{"video": str(film)}, {"video": str(broken)}]
    whole, half = _post(url, {"dataframe_records": rows, "params": {"scores": True}})["predictions"]
    assert whole["partial"] == ""
    assert half["partial"].startswith("truncated: its header declares")
    assert (whole["settings"], whole["looked"], len(whole["scores"]["score"])) == ({}, None, 64)
    middle = {"threshold": float(np.median(whole["scores"]["score"])), "min_length": 0, "merge_gap": 0}
    asked = [
        {},
        middle,
        {**middle, "top": 1},
        {"mode": "keyframes", "scores": True},
        {"mode": "cascade", "budget": 0.25},
    ]
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda params: _post(url, {"dataframe_records": rows, "params": params}), asked * 2))
    assert [_timeless(answer) for answer in answers[:5]] == [_timeless(answer) for answer in answers[5:]]
    plain, several, top, keyframes, cascade = [answer["predictions"][0] for answer in answers[:5]]
    assert plain == {**whole, "scores": None, "timing": plain["timing"]}
    assert len(several["spans"]) > len(top["spans"]) == 1
    assert (several["settings"], top["settings"]["selection"]["top_k"]) == ({}, 1)
    assert keyframes["looked"]["num_samples"] == len(keyframes["scores"]["score"]) == 8
    assert cascade["settings"]["cascade"]["budget"] == 0.25
    assert cascade["looked"]["decoded_share"] <= 0.25
    for params, words in (({"mode": "fast"}, "mode 'fast': there are exact"), ({"top": -1}, "selection.top_k = -1")):
        status, body = _refused(url, {"dataframe_records": rows, "params": params})
        assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert words in body["error"]
        assert "\n" not in body["error"]
        assert "stack_trace" not in body
    status, body = _refused(url, {"dataframe_records": rows, "params": {"top": "three"}})
    assert (status, "three" in body["message"], "stack_trace" in body) == (400, True, False)
    (row, _) = _post(url, {"dataframe_records": rows, "params": {"tops": 1}})["predictions"]
    assert row["settings"] == {}  # MLflow dropped it; the answer says what was understood


def _timeless(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "timing": None} for row in answer["predictions"]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(arguments: list[str], health: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run `mlflow` from a folder where herdlight's code is not to be found, until the block ends."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in entries if entry and not (Path(entry) / "tasks").is_dir()]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                **environment,
            },
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, health, folder / "log")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"not served:\n{log.read_text()[-3000:]}")


def _write_noise(path: Path, num_frames: int) -> None:
    """Write a video of 8 frames a second, a keyframe every 2 s, with its header first."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "16", "sc_threshold": "0"}
        for _ in range(num_frames):
            pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _refused(url: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the body with which a server refuses a request."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as error:
        return error.code, json.load(error)


def _post(url: str, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
