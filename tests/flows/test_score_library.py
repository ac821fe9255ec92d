"""The flow over a library: what is new in an inbox, by content, once, only when it has arrived; and the Dask runner."""

import functools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

import flows.score_library
from flows.score_library import score_library
from models.errors import ParamsError, RegistryError
from models.files import read_json
from tasks.ledger import Ledger
from tasks.library_listing import list_library
from tasks.library_work import Batch, LibraryJob, OnEvent, score_group
from tasks.watchdog import Outcome
from tests.flows.tiny import TinyRepository
from tests.tiny_served import make_served

NOTHING = {"scored": 0, "partial": 0, "quarantined": 0, "kept": 0, "waiting": 0, "unreadable": 0}


def _put(folder: Path, name: str, content: str, age_s: float = 100) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the model and the scoring; return the names that were to be scored, one list a call."""
    calls: list[list[str]] = []

    def score_file(place: Any, _content: str, out: Path, *_: Any) -> Outcome:
        calls[-1].append(place.name)
        if place.path.read_text().startswith("bad"):
            return Outcome("quarantined", "moov atom not found")
        (out / "x.spans.json").write_text(place.name)
        return Outcome("scored", "", "x", 1.0, 1, 1.0)

    def run(workers: int, job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
        assert (workers, job.model_folder, job.identity.version) == (1, str(Path("champion").resolve()), "4")
        calls.append([])
        for batch in batches:
            for group in batch:
                score_group(job, Ledger(Path(job.out)), group, score_file, on_event)

    found = SimpleNamespace(folder=Path("champion"), uri="models:/herdlight@champion", version="4", sha256="f00d")
    monkeypatch.setattr(flows.score_library, "resolve", lambda *_: found)
    monkeypatch.setattr(flows.score_library, "_run_here", run)
    return calls


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def look(tmp_path: Path, prefect_server: None) -> Callable[[], dict[str, int]]:
    """Return a scheduled look into the inbox, which answers how many became what, the zeros left out."""

    def run() -> dict[str, int]:
        counts = score_library(root=str(tmp_path), tracking_uri="sqlite:///unused.db")
        assert counts.keys() == NOTHING.keys()
        return {name: count for name, count in counts.items() if count}

    return run


def _videos(root: Path) -> dict[str, dict[str, Any]]:
    return {row["video"]: row for row in read_json(root / "highlights" / "index.json")["videos"]}


def test_new_is_what_has_a_content_that_is_not_known(
    tmp_path: Path, inbox: Path, look: Callable[[], dict[str, int]], asked: list[list[str]]
) -> None:
    _put(inbox, "a.mp4", "aaa")
    _put(inbox, "deep/er/b.mp4", "bbb")
    _put(inbox, "copy of a.mp4", "aaa")
    assert look() == {"scored": 2, "kept": 1}
    assert sorted(asked[0]) == ["a.mp4", "deep/er/b.mp4"]
    assert _videos(tmp_path)["a.mp4"]["places"] == [str(inbox / "a.mp4"), str(inbox / "copy of a.mp4")]
    (inbox / "a.mp4").rename(inbox / "renamed.mp4")
    _put(inbox, "deep/er/b.mp4", "BBB", age_s=50)
    assert look() == {"scored": 1, "kept": 2}
    assert asked[1] == ["deep/er/b.mp4"]
    places = {record.path for record in Ledger(tmp_path / "highlights").places()}
    assert places == {str(inbox / name) for name in ("renamed.mp4", "copy of a.mp4", "deep/er/b.mp4")}


def test_a_file_that_is_still_written_to_waits(tmp_path: Path) -> None:
    _put(tmp_path / "inbox", "old.mp4", "old")
    _put(tmp_path / "inbox", "growing.mp4", "half", age_s=2)
    found = list_library([tmp_path / "inbox"], tmp_path / "out", min_age_s=30)
    assert [place.name for place in found.places] == ["old.mp4"]
    assert found.waiting == ("growing.mp4",)
    assert len(list_library([tmp_path / "inbox"], tmp_path / "out", min_age_s=1).places) == 2


def test_known_files_are_not_read_again(
    inbox: Path, look: Callable[[], dict[str, int]], asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(inbox, "a.mp4", "aaa")
    assert look() == {"scored": 1}
    monkeypatch.setattr("tasks.library_work.read_place", lambda place: pytest.fail(f"read {place.name}"))
    assert look() == {"kept": 1}
    assert len(asked) == 1


def test_an_inbox_is_made_and_may_be_empty(inbox: Path, look: Callable[[], dict[str, int]]) -> None:
    assert look() == {}
    assert inbox.is_dir()


def test_outputs_inside_the_inbox_are_not_footage(tmp_path: Path) -> None:
    _put(tmp_path / "inbox", "highlights/x.mp4", "x")
    assert list_library([tmp_path / "inbox"], tmp_path / "inbox" / "highlights").places == ()


def test_a_damaged_index_is_made_anew(
    tmp_path: Path, inbox: Path, look: Callable[[], dict[str, int]], asked: list[list[str]]
) -> None:
    _put(inbox, "ä b.mp4", "x")
    assert look() == {"scored": 1}
    whole = {name: (tmp_path / "highlights" / name).read_bytes() for name in ("index.json", "index.parquet")}
    for content in ("{", "[]", '{"videos": {"a": {"x": 1}}, "files": {}}'):
        (tmp_path / "highlights" / "index.json").write_text(content)
        assert look() == {"kept": 1}
        assert {name: (tmp_path / "highlights" / name).read_bytes() for name in whole} == whole
    assert pq.read_table(tmp_path / "highlights" / "index.parquet")["video"].to_pylist() == ["ä b.mp4"]
    assert len(asked) == 1


def test_each_video_is_scored_once_and_a_bad_one_is_not_tried_again(
    tmp_path: Path, inbox: Path, look: Callable[[], dict[str, int]], asked: list[list[str]]
) -> None:
    _put(inbox, "good.mp4", "good")
    _put(inbox, "bad.mp4", "bad bytes")
    _put(inbox, "late.mp4", "late", age_s=1)
    assert look() == {"scored": 1, "quarantined": 1, "waiting": 1}
    videos = _videos(tmp_path).values()
    assert sorted((entry["video"], entry["status"], entry["reason"]) for entry in videos) == [
        ("bad.mp4", "quarantined", "moov atom not found"),
        ("good.mp4", "scored", ""),
    ]
    assert {entry["model"] for entry in videos} == {"models:/herdlight@champion (version 4)"}
    before = (tmp_path / "highlights" / "index.json").stat().st_mtime_ns
    assert look() == {"kept": 2, "waiting": 1}
    assert (tmp_path / "highlights" / "index.json").stat().st_mtime_ns == before
    _put(inbox, "late.mp4", "late")
    _put(inbox, "bad.mp4", "repaired", age_s=90)
    assert look() == {"scored": 2, "kept": 1}
    assert [sorted(names) for names in asked] == [["bad.mp4", "good.mp4"], ["bad.mp4", "late.mp4"]]


def test_a_new_champion_scores_an_inbox_no_second_time_but_a_library(
    tmp_path: Path, inbox: Path, look: Callable[[], dict[str, int]], asked: list[list[str]], monkeypatch: Any
) -> None:
    _put(inbox, "a.mp4", "aaa")
    assert look() == {"scored": 1}
    found = SimpleNamespace(folder=Path("champion"), uri="models:/herdlight@champion", version="4", sha256="beef")
    monkeypatch.setattr(flows.score_library, "resolve", lambda *_: found)
    assert look() == {"kept": 1}
    assert score_library(paths=["inbox"], root=str(tmp_path)) == {**NOTHING, "scored": 1}
    assert score_library(paths=["inbox"], root=str(tmp_path)) == {**NOTHING, "kept": 1}
    assert len(asked) == 2


@pytest.mark.usefixtures("prefect_server")
def test_without_a_champion_only_new_footage_is_an_error(repository: TinyRepository) -> None:
    assert score_library(**repository.flow_arguments) == NOTHING
    _put(repository.root / "inbox", "a.mp4", "aaa")
    with pytest.raises(RegistryError, match="herdlight train"):
        score_library(**repository.flow_arguments)
    assert list(Ledger(repository.root / "highlights").entries()) == []  # it stays new


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("runner", ["local", "dask"])
def test_real_workers_score_what_can_be_scored(runner: str, tmp_path: Path, shared: Path) -> None:
    if runner == "dask":
        pytest.importorskip("prefect_dask", reason="the extra cluster is not installed")
    make_served(tmp_path)
    for name in ("small__webm.webm", "zero__error_vid.mp4", "mp4parse__video_rotation_90.mp4"):
        (tmp_path / "footage").mkdir(exist_ok=True)
        shutil.copy(shared / "data" / "odd_media" / name, tmp_path / "footage" / name)
    run = functools.partial(score_library, ["footage"], "out", "model", 0.0, root=str(tmp_path))
    assert run(runner=runner) == {**NOTHING, "scored": 2, "quarantined": 1}
    assert run(runner=runner) == {**NOTHING, "kept": 3}
    rows = read_json(tmp_path / "out" / "index.json")["videos"]
    assert [row["reason"] for row in rows] == ["", "", "the file is empty"]
    assert all((tmp_path / "out" / f"{row['results']}.spans.json").is_file() for row in rows[:2])


@pytest.mark.usefixtures("prefect_server", "asked")
def test_settings_make_results_of_their_own_but_no_second_ones_of_an_inbox(tmp_path: Path, inbox: Path) -> None:
    _put(inbox, "a.mp4", "aaa")
    run = functools.partial(score_library, root=str(tmp_path))
    assert run(["inbox"]) == {**NOTHING, "scored": 1}
    assert run(["inbox"], settings={"mode": "cascade", "top": 3}) == {**NOTHING, "scored": 1}
    assert run(["inbox"], settings={"top": 3, "mode": "cascade", "snap": None}) == {**NOTHING, "kept": 1}
    assert run(settings={"fps": 2}) == {**NOTHING, "kept": 1}
    entries = Ledger(tmp_path / "highlights").entries()
    assert sorted(str(entry.recipe.settings) for entry in entries) == ["{'top': 3, 'mode': 'cascade'}", "{}"]


@pytest.mark.usefixtures("prefect_server")
def test_bad_settings_fail_the_flow_in_one_line_before_anything_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"selection.top_k = -3") as raised:
        score_library(settings={"top": -3}, root=str(tmp_path))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "inbox").exists()


def test_settings_are_set_by_key_and_value_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, Any]] = []
    monkeypatch.setattr(flows.score_library, "score_library", lambda **given: called.append(given))
    flows.score_library.main(["footage", "--set", "mode=cascade", "--set", "top=3", "--set", "snap=0.5"])
    flows.score_library.main([])
    assert [call["settings"] for call in called] == [{"mode": "cascade", "top": 3, "snap": 0.5}, {}]


@pytest.mark.parametrize("setting", ["top", "=3", "top=[", "="])
def test_a_setting_that_is_no_key_and_value_is_one_line(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flows.score_library.main(["--set", setting])
    assert ended.value.code == 1
    assert f"--set {setting!r}" in capsys.readouterr().err
