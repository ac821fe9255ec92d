"""Real footage scored by real child processes and Dask workers: everything odd, and runs that are killed."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.files import hash_file, read_json
from tasks.ledger import Ledger
from tasks.library import LibraryOptions, LibraryReport, score_library
from tasks.library_dask import LOCAL, dask_client, dask_scheduler, run_on
from tasks.library_listing import list_library
from tasks.library_work import run_local
from tasks.scored_files import identify_model
from tasks.watchdog import Limits
from tests.tiny_served import make_served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("served"))


def score_here(paths: Sequence[Path], out: Path, model: Path, run: Any = run_local, **options: Any) -> LibraryReport:
    identity = identify_model(model, "tiny")
    return score_library(list_library(paths, out), out, lambda: (model, identity), run, LibraryOptions(**options))


def results(out: Path) -> dict[str, str]:
    """Return hash by name of everything that a run leaves but energy, which is measured anew each time."""
    files = (path for path in out.rglob("*") if path.is_file() and "energy" not in path.name)
    return {path.relative_to(out).as_posix(): hash_file(path) for path in files}


def energies(out: Path) -> list[dict[str, Any]]:
    """Return the energy of every result."""
    return [read_json(path)["energy"] for path in out.glob("entries/*/*/*.energy.json")]


def test_everything_odd_ends_as_scored_partial_or_quarantined(tmp_path: Path, shared: Path, model: Path) -> None:
    odd = sorted((shared / "data" / "odd_media").iterdir())
    start_s = time.monotonic()
    two = functools.partial(run_local, workers=2)
    report = score_here(odd, tmp_path, model, two, workers=2, limits=Limits(memory_gib=2.0))
    assert time.monotonic() - start_s < 400
    assert len(report.rows) == len(odd) == 87
    counts = {status: sum(row.status == status for row in report.rows) for status in ("scored", "partial")}
    assert counts["scored"] >= 55, counts
    assert counts["partial"] >= 1, counts
    bad = [row for row in report.rows if row.status != "scored"]
    assert all(row.status in ("partial", "quarantined") and row.reason for row in bad), bad
    assert not [row for row in bad if "the process" in row.reason], bad  # none crashes this build of the decoder
    assert {row.name for row in report.rows if row.name.startswith("-")} == {"-video-with-dash-.mp4"}
    assert len(energies(tmp_path)) == len({row.key for row in report.rows if row.status != "quarantined"})
    assert all(0 < energy["share"] <= 1 for energy in energies(tmp_path))


# How many entries there are when a run is killed: none while the model loads, then some of seven.
@pytest.mark.parametrize("kills", [(0, 2, 5)])
def test_a_real_run_killed_on_its_way_ends_with_the_same_bytes(
    kills: tuple[int, ...], tmp_path: Path, shared: Path, model: Path
) -> None:
    names = ["small__webm.webm", "tc__h265_video.mp4", "decord__corrupted.mp4", "zero__error_vid.mp4"]
    names += ["mp4parse__white.mp4", "ax__sample_h263.ts", "decord__video_90.mov"]
    folder, out = tmp_path / "footage" / "a b", tmp_path / "killed"
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(shared / "data" / "odd_media" / name, folder / name)
    shutil.copy(folder / names[0], tmp_path / "footage" / "élan.webm")
    for num_entries in kills:
        run = _start(tmp_path / "footage", out, model)
        while run.poll() is None and len(list(Ledger(out).entries())) < num_entries:
            time.sleep(0.02)
        time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == -signal.SIGKILL, errors.decode()
    for last in (out, tmp_path / "whole"):
        run = _start(tmp_path / "footage", last, model)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
    expected = results(tmp_path / "whole")
    assert {name: digest for name, digest in results(out).items() if not name.startswith("staging/")} == expected
    assert sum(name.endswith(".spans.json") for name in expected) == 6


def _start(footage: Path, out: Path, model: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app.cli", "score-library", str(footage), "--model", str(model), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_dask_workers_score_the_same_bytes(tmp_path: Path, shared: Path, model: Path) -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    names = ("small__webm.webm", "mp4parse__white.mp4", "zero__error_vid.mp4")
    footage = [shared / "data" / "odd_media" / name for name in names]
    score_here(footage, tmp_path / "local", model)
    with dask_scheduler(LOCAL, 2) as address, dask_client(address) as client:
        report = score_here(footage, tmp_path / "dask", model, run_on(client), num_batches=2)
    assert [row.status for row in report.rows] == ["scored", "scored", "quarantined"]
    assert results(tmp_path / "dask") == results(tmp_path / "local")
    assert [energy["share"] for energy in energies(tmp_path / "local")] == [1, 1]
    assert all(0 < energy["share"] < 1 and energy["kwh"] > 0 for energy in energies(tmp_path / "dask"))
    assert len(energies(tmp_path / "dask")) == 2
