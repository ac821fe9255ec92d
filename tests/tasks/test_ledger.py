"""The ledger: killed at every step it takes and run again, two at once, damaged, and left behind by the dead."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import tasks.ledger
from models.files import hash_file
from tasks.ledger import Entry, Ledger, Recipe
from tasks.library_listing import list_library
from tasks.library_work import LibraryJob, score_group
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Outcome

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe("f00d", None, "1")
CONTENT = "ab" * 32
# A library of four contents at five places, worked on by a scorer that writes its file in two steps.
LIBRARY = """
import json, os, sys
from pathlib import Path
from models.files import hash_file
from tasks.ledger import Ledger
from tasks.library import LibraryOptions, score_library
from tasks.library_listing import list_library
from tasks.library_work import score_group
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Outcome

def score_file(place, content, out, on_fraction, on_tick):
    on_tick()
    if place.name.startswith("bad"):
        return Outcome("quarantined", "moov atom not found")
    part = out / "half.part"
    part.write_text(place.name)
    part.write_text(place.name + content)
    part.rename(out / f"{Path(place.name).stem}.spans.json")
    with open(Path(sys.argv[1]) / "scored.log", "a") as log:
        log.write(place.name + "\\n")
    return Outcome("scored", "", Path(place.name).stem, 2.0, 1, 1.0)

def run(job, batches, on_event):
    ledger = Ledger(Path(job.out), job.lease_s)
    for batch in batches:
        for group in batch:
            score_group(job, ledger, group, score_file, on_event)

def whole_run(root):
    out = root / "out"
    identity = ModelIdentity("tiny", "", "f00d")
    listing = list_library([root / "footage"], out)
    return score_library(listing, out, lambda: (root, identity), run, LibraryOptions(lease_s=0.3)).counts()
"""
KILLED = (
    LIBRARY
    + """
import shutil, signal
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.listdir", "os.scandir")
root = Path(sys.argv[1])

def snapshot():
    files = sorted(path for path in (root / "out").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hash_file(path) for path in files}

def fork(kill_at):
    # Returns how the child ended: killed just before its step number kill_at, or done.
    child = os.fork()
    if child == 0:
        left = [kill_at]
        def count(event, args):
            if event in STEPS:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        whole_run(root)
        os._exit(0)
    return os.waitpid(child, 0)[1]

whole_run(root)
expected = snapshot()
assert any(name.endswith("a.spans.json") for name in expected), expected
step, kills = 0, 0
while True:
    step += int(sys.argv[2])
    shutil.rmtree(root / "out")
    (root / "scored.log").unlink(missing_ok=True)
    if fork(step) == 0:
        break
    kills += 1
    assert fork(0) == 0
    found = snapshot()
    leftover = {name for name in set(found) - set(expected) if name.startswith("out/staging/")}
    assert {name: found[name] for name in found if name not in leftover} == expected, (step, set(found) ^ set(expected))
    assert not [name for name in leftover if (root / name).parent.name != "staging"], leftover
print(json.dumps({"kills": kills, "steps": step}))
"""
)


def lay_out(root: Path) -> None:
    contents = {"a.mp4": "aaa", "b/a.mp4": "other", "c/copy of a.mp4": "aaa", "bad.mp4": "bad bytes", "-d.mp4": "ddd"}
    for name, content in contents.items():
        (root / "footage" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "footage" / name).write_text(content)


def python(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def entry(content: str = CONTENT, reason: str = "") -> Entry:
    return Entry("quarantined" if reason else "scored", reason, content, 3, "a.mp4", "tiny", RECIPE)


def commit(ledger: Ledger, text: str, made: Entry | None = None) -> bool:
    made = made or entry()
    staged = ledger.stage(made.key)
    (staged / "a.spans.json").write_text(text)
    return ledger.commit(made, staged)


def test_killed_at_any_step_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    lay_out(tmp_path)
    done = json.loads(python(KILLED, str(tmp_path), "7").stdout)
    assert done["kills"] > 20, done


def test_the_first_of_two_results_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert commit(ledger, "first")
    assert not commit(ledger, "second")
    assert (ledger.entry_folder(entry().key) / "a.spans.json").read_text() == "first"
    assert list((tmp_path / "staging").iterdir()) == []
    assert [found.key for found in ledger.entries()] == [entry().key]


def test_a_claim_is_one_workers_until_it_gives_it_back(tmp_path: Path) -> None:
    claim = Ledger(tmp_path).claim("k-1")
    assert claim is not None
    assert Ledger(tmp_path).claim("k-1") is None
    Ledger(tmp_path).release(claim)
    assert Ledger(tmp_path).claim("k-1") is not None


def test_of_many_who_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "k-1.0").write_text('{"host": "elsewhere", "pid": 1}')
    ready, got = threading.Barrier(8), []

    def work() -> None:
        ledger = Ledger(tmp_path, lease_s=0.3)
        assert ledger.claim("k-1") is None  # seen for the first time, it may be alive
        time.sleep(0.4)
        ready.wait()
        if (claim := ledger.claim("k-1")) is not None:
            got.append(claim.path.name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["k-1.1"]


def test_the_claim_of_a_dead_process_counts_for_nothing_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.ledger import Ledger; Ledger(Path(sys.argv[1])).claim('k-1')"
    )
    python(code, str(tmp_path))
    assert (tmp_path / "claims" / "k-1.0").is_file()
    ledger = Ledger(tmp_path, lease_s=1e6)
    claim = ledger.claim("k-1")
    assert claim is not None
    assert claim.path.name == "k-1.1"
    ledger.release(claim)
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_elsewhere_counts_as_long_as_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("tasks.ledger.time.monotonic", lambda: now_s[0])
    ledger = Ledger(tmp_path, lease_s=60)
    claim = ledger.claim("k-1")
    assert claim is not None
    claim.path.write_text('{"host": "elsewhere", "pid": 1, "started": "1"}')
    for _ in range(20):  # ten leases
        now_s[0] += 30
        claim.beat()
        assert ledger.claim("k-1") is None
    now_s[0] += 61
    assert ledger.claim("k-1") is not None
    ledger.release(claim)  # the slow one comes back: it takes nothing away
    assert [path.name for path in sorted((tmp_path / "claims").iterdir())] == ["k-1.0", "k-1.1"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "scored"}', None])
def test_a_damaged_entry_is_set_aside_and_made_again(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    commit(ledger, "x")
    path = ledger.entry_folder(entry().key) / "entry.json"
    path.unlink() if content is None else path.write_text(content)
    assert ledger.entry(entry().key) is None
    assert "damaged" in caplog.text
    assert commit(ledger, "y")
    assert ledger.entry(entry().key) == entry()


def test_an_entry_that_is_published_while_it_is_looked_for_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, read = Ledger(tmp_path), tasks.ledger._read

    def too_early(path: Path) -> object:
        monkeypatch.setattr(tasks.ledger, "_read", read)
        assert commit(Ledger(tmp_path), "by another run")
        raise FileNotFoundError(path)

    monkeypatch.setattr(tasks.ledger, "_read", too_early)
    assert ledger.entry(entry().key) == entry()
    assert ledger.entry_folder(entry().key).is_dir()
    assert caplog.text == ""


def test_what_the_dead_left_is_swept_and_what_is_held_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    claim = ledger.claim("k-1")
    held, old, young = ledger.stage("k-1"), ledger.stage("k-2"), ledger.stage("k-3")
    for folder in (held, old):
        os.utime(folder, (0, 0))
    ledger.sweep()
    assert claim is not None
    assert claim.path.is_file()
    assert (held.is_dir(), old.is_dir(), young.is_dir()) == (True, False, True)


def test_paths_that_are_no_utf8_are_places_too(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \n-.mp4"))
    path.write_text("aaa")
    listing = list_library([path], tmp_path / "out")
    ledger = Ledger(tmp_path / "out")
    job = LibraryJob(str(ledger.folder), "", ModelIdentity("m", "", "f00d"))

    def score_file(*_: object) -> Outcome:
        return Outcome("quarantined", "no video")

    (row,) = score_group(job, ledger, listing.places, score_file, lambda _: None)
    assert (row.status, row.new) == ("quarantined", True)
    assert [record.path for record in ledger.places()] == [str(path)]


def test_two_runs_at_once_do_each_content_once(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / "footage").mkdir(exist_ok=True)
        (tmp_path / "footage" / f"{i:02}.mp4").write_text(str(i // 2))  # each content twice
    code = LIBRARY + "print(json.dumps(whole_run(Path(sys.argv[1]))))"
    runs = _together([code, code, code], tmp_path)
    assert [sum(run[name] for run in runs) for name in ("scored", "kept")] == [20, 100]
    scored = (tmp_path / "scored.log").read_text().split()
    assert len(scored) == len(set(scored)) == 20
    rows = json.loads((tmp_path / "out" / "index.json").read_text())["videos"]
    assert [len(row["places"]) for row in rows] == [2] * 20
    assert list((tmp_path / "out" / "claims").iterdir()) == []
    results = tmp_path / "out" / f"{rows[3]['results']}.spans.json"
    assert results.read_text() == rows[3]["video"] + hash_file(tmp_path / "footage" / rows[3]["video"])


def _together(codes: Sequence[str], root: Path) -> list[dict[str, int]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root)], env=environment, stdout=subprocess.PIPE)
        for code in codes
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(codes)
    return [json.loads(output) for output in outputs]
