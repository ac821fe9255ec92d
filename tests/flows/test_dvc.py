"""One stage through DVC, as a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.dvc import Outcome, run_stage, stage_environment
from models.errors import StageFailed
from tests.flows.tiny import TinyRepository


def _ignore(_line: str) -> None:
    return None


def test_a_stage_runs_once_and_is_cached_afterwards(repository: TinyRepository) -> None:
    lines: list[str] = []
    assert run_stage(repository.root, "prepare", lines.append) is Outcome.RAN
    assert "drawing 8 videos" in lines
    assert run_stage(repository.root, "prepare", lines.append) is Outcome.CACHED
    assert lines.count("drawing 8 videos") == 1
    assert repository.stages_run() == ["prepare"]


def test_outputs_from_the_run_cache_count_as_cached(repository: TinyRepository) -> None:
    run_stage(repository.root, "prepare", _ignore)
    shutil.rmtree(repository.root / "build")
    (repository.root / "dvc.lock").unlink()
    assert run_stage(repository.root, "prepare", _ignore) is Outcome.CACHED
    assert (repository.root / "build" / "prepare" / "metrics.json").is_file()
    assert repository.stages_run() == ["prepare"]


def test_a_failure_carries_the_stages_own_last_line_once(repository: TinyRepository) -> None:
    run_stage(repository.root, "prepare", _ignore)
    repository.set("model", fail=True)
    with pytest.raises(StageFailed) as failure:
        run_stage(repository.root, "compile", _ignore)
    assert str(failure.value) == "stage compile: weights of layer 3 do not fit; lower model.quality"


def test_a_failure_of_dvc_itself_carries_dvcs_line(repository: TinyRepository) -> None:
    with pytest.raises(StageFailed, match=r"^stage compile: .*build/prepare/rows\.json"):
        run_stage(repository.root, "compile", _ignore)
    with pytest.raises(StageFailed, match=r"^stage nope: Stage 'nope' not found"):
        run_stage(repository.root, "nope", _ignore)


def test_a_silent_failure_names_the_command(repository: TinyRepository) -> None:
    (repository.root / "scripts" / "prepare.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(StageFailed, match=r"^stage prepare: failed to run: python scripts/prepare\.py, exited with 3"):
        run_stage(repository.root, "prepare", _ignore)


def test_a_traceback_ends_in_its_exception(repository: TinyRepository) -> None:
    (repository.root / "scripts" / "prepare.py").write_text("raise ValueError('shape (3,) is not (4,)')\n")
    with pytest.raises(StageFailed, match=r"^stage prepare: ValueError: shape \(3,\) is not \(4,\)$"):
        run_stage(repository.root, "prepare", _ignore)


def test_python_in_a_command_is_the_one_that_runs_this() -> None:
    found = shutil.which("python", path=stage_environment()["PATH"])
    assert found is not None
    assert Path(found).resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaving_in_the_middle_ends_the_whole_process_group(
    repository: TinyRepository, error: type[BaseException]
) -> None:
    run_stage(repository.root, "prepare", _ignore)
    repository.set("model", sleep_s=600)

    def leave(line: str) -> None:
        if line.startswith("> python"):
            _wait_for(repository.root / "sleeping")
            raise error

    with pytest.raises(error):
        run_stage(repository.root, "compile", leave)
    assert not _is_running(int((repository.root / "sleeping").read_text()))
    repository.set("model", sleep_s=0)
    assert run_stage(repository.root, "compile", _ignore) is Outcome.RAN  # no lock was left behind
    assert repository.stages_run() == ["prepare", "compile"]


def test_it_waits_for_another_dvc(repository: TinyRepository) -> None:
    """While a first process holds the repository's lock, a second one waits and then runs."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom dvc.repo import Repo\nrepo = Repo('.')\nwith repo.lock:\n"
            "    print('held', flush=True)\n    sys.stdin.readline()\n",
        ],
        cwd=repository.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    outcomes: list[Outcome] = []
    second = threading.Thread(target=lambda: outcomes.append(run_stage(repository.root, "prepare", _ignore)))
    second.start()
    second.join(timeout=3)
    assert second.is_alive()
    assert repository.stages_run() == []
    holder.communicate("\n")
    second.join(timeout=60)
    assert outcomes == [Outcome.RAN]


def _wait_for(path: Path) -> None:
    for _ in range(600):
        if path.is_file() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True
