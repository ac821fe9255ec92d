"""The watchdog: children that crash, hang, grow and flood, and real footage scored behind it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.errors import EngineError, ModelError
from tasks.watchdog import Limits, Outcome, WatchedChild

ROOT = Path(__file__).resolve().parents[2]
# Does what the job says; counts how many jobs this process has had.
CHILD = """
import ctypes, os, sys, time
from pathlib import Path
from models.errors import EngineError, ModelError, VideoError
from tasks.watchdog import Outcome
from tasks.watchdog_child import serve

done = []

def work(job, say):
    done.append(job["do"])
    print("chatter of a library")
    match job["do"]:
        case "score":
            say({"duration_s": 8.0})
            say({"fraction": 0.5})
        case "crash":
            ctypes.string_at(0)
        case "crash second":
            if len(done) > 1:
                os.abort()
        case "hang":
            time.sleep(1000)
        case "busy":
            while True:
                say({"fraction": 0.1})
                time.sleep(0.01)
        case "grow":
            held = []
            while True:
                held.append(b"x" * 50_000_000)
                time.sleep(0.05)
        case "allocate":
            bytearray(20 * 2**30)
        case "raise":
            raise RuntimeError("no such codec: ü")
        case "exit":
            sys.exit(3)
        case "reject":
            raise VideoError("a.mp4: moov atom not found")
        case "engine":
            raise EngineError("engine eager: broken")
        case "full":
            raise OSError(28, "No space left on device", job["out"] + "/a.parquet")
        case "pid":
            Path(job["out"], "pid").write_text(str(os.getpid()))
            time.sleep(1000)
    return Outcome("scored", "", f"{os.getpid()}", 8.0, len(done), 0.0)

def load():
    if "unloadable" in sys.argv:
        raise ModelError("model.json: damaged")
    if "dead" in sys.argv:
        raise RuntimeError("libengine.so: not found")
    if "slow" in sys.argv:
        time.sleep(1000)
    return work

serve(load, 0.5)
"""
LIMITS = Limits(start_s=60, base_s=30, stall_s=20, memory_gib=0.5)


def child(limits: Limits = LIMITS, *how: str) -> WatchedChild:
    return WatchedChild([sys.executable, "-c", CHILD, *how], limits)


def ask(watched: WatchedChild, do: str, **options: Any) -> Outcome:
    return watched.score({"do": do, "out": "results"}, 1000, **options)


def test_one_child_does_many_jobs_and_tells_how_far_it_is() -> None:
    watched, seen = child(), []
    try:
        first = ask(watched, "score", on_fraction=lambda fraction, duration_s: seen.append((fraction, duration_s)))
        second = ask(watched, "score")
    finally:
        watched.close()
    assert seen == [(0.0, 8.0), (0.5, 8.0)]
    assert (first.output, first.num_spans, second.num_spans) == (second.output, 1, 2)
    assert not psutil.pid_exists(int(first.output))


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("crash", "crashed (SIGSEGV)"),
        ("exit", "ended with status 3"),
        ("raise", "ended with status 1: RuntimeError: no such codec: ü"),
        ("allocate", "MemoryError"),
        ("grow", "GiB of memory, 0.5 are allowed"),
        ("reject", "moov atom not found"),
    ],
)
def test_what_a_video_does_to_a_fresh_child_is_its_reason(do: str, reason: str) -> None:
    watched = child()
    try:
        outcome = ask(watched, do)
        assert outcome.status == "quarantined"
        assert reason in outcome.reason
        assert ask(watched, "score").status == "scored"
    finally:
        watched.close()


@pytest.mark.parametrize(("do", "reason"), [("hang", "no progress for 0.6 s"), ("busy", "took more than its 2 s")])
def test_time_has_a_limit(do: str, reason: str) -> None:
    watched = child(Limits(base_s=2, stall_s=0.6, memory_gib=0.5))
    try:
        ask(watched, "score")  # the model is loaded
        start_s = time.monotonic()
        outcome = ask(watched, do)
        assert (outcome.status, reason in outcome.reason) == ("quarantined", True), outcome
        assert time.monotonic() - start_s < 10
    finally:
        watched.close()


def test_a_child_that_others_have_spoilt_gets_one_more_chance() -> None:
    watched = child()
    try:
        first = ask(watched, "score")
        second = ask(watched, "crash second")
        assert (second.status, second.num_spans) == ("scored", 1)
        assert second.output != first.output
    finally:
        watched.close()


def test_what_is_not_the_videos_fault_ends_the_run(tmp_path: Path) -> None:
    watched = child()
    try:
        with pytest.raises(EngineError, match="engine eager: broken"):
            ask(watched, "engine")
        with pytest.raises(OSError, match="No space left") as caught:
            watched.score({"do": "full", "out": str(tmp_path)}, 1000)
        assert caught.value.filename == str(tmp_path / "a.parquet")
    finally:
        watched.close()


@pytest.mark.parametrize(("how", "error"), [("unloadable", "model.json: damaged"), ("dead", "libengine.so: not found")])
def test_a_model_that_does_not_load_ends_the_run(how: str, error: str) -> None:
    with pytest.raises(ModelError, match=error):
        ask(child(LIMITS, how), "score")


def test_a_model_that_loads_for_ever_ends_the_run() -> None:
    with pytest.raises(ModelError, match="not loaded after 1 s"):
        ask(child(Limits(start_s=1), "slow"), "score")


def test_a_caller_that_stops_takes_the_child_along(tmp_path: Path) -> None:
    def stop_once_it_works() -> None:
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child().score({"do": "pid", "out": str(tmp_path)}, 1000, on_tick=stop_once_it_works)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_hanging_child_goes_with_its_killed_parent(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[3])
from tasks.watchdog import Limits, WatchedChild
WatchedChild([sys.executable, "-c", sys.argv[1]], Limits()).score({"do": "pid", "out": sys.argv[2]}, 1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, CHILD, str(tmp_path), str(ROOT)])
    pid = tmp_path / "pid"
    _wait_until(lambda: pid.is_file() and pid.read_text() != "")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not _runs(int(pid.read_text())))


def test_a_header_gets_no_time_for_what_it_cannot_hold() -> None:
    limits = Limits(base_s=60, per_video_s=10, per_mb_s=2)
    assert limits.time_limit_s(0, 0.0) == 60
    assert limits.time_limit_s(10_000_000, 60.0) == 60 + 600 + 20
    assert limits.time_limit_s(5_000, 1e12) == pytest.approx(60 + 10 * 100 + 0.01)
    assert limits.time_limit_s(5_000, float("inf")) == limits.time_limit_s(5_000, float("nan")) == 60.01
    assert limits.time_limit_s(5_000, -1.0) == 60.01


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until(condition: Any) -> None:
    latest_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < latest_s, "did not happen within a minute"
        time.sleep(0.05)
