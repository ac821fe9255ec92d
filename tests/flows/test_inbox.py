"""What is new in an inbox: by content, once, and only when it has arrived."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flows.score_inbox
import models.served
from flows.inbox import InboxIndex, KnownVideo, look, read_index, record, write_index
from flows.score_inbox import score_inbox
from models.errors import DataError, RegistryError
from models.files import read_json
from tasks.score import RejectedRow, ScoredRow, ScoreReport
from tests.flows.tiny import TinyRepository

EMPTY = InboxIndex({}, {})


def _put(folder: Path, name: str, content: str, age_s: float = 100) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def _known(name: str, status: str = "scored") -> KnownVideo:
    return KnownVideo(name, status, "", "model")


def test_new_is_what_has_a_content_that_is_not_known(tmp_path: Path) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    _put(inbox, "a.mp4", "aaa")
    _put(inbox, "deep/er/b.mp4", "bbb")
    _put(inbox, "copy of a.mp4", "aaa")
    first = look(inbox, out, EMPTY, 30)
    assert sorted(item.name for item in first.new.values()) == ["a.mp4", "deep/er/b.mp4"]
    index = record(first.index, [(video_id, _known(item.name)) for video_id, item in first.new.items()])
    (inbox / "a.mp4").rename(inbox / "renamed.mp4")
    _put(inbox, "deep/er/b.mp4", "BBB", age_s=50)
    second = look(inbox, out, index, 30)
    assert [item.name for item in second.new.values()] == ["deep/er/b.mp4"]
    assert set(second.index.files) == {"renamed.mp4", "copy of a.mp4", "deep/er/b.mp4"}


def test_a_file_that_is_still_written_to_waits(tmp_path: Path) -> None:
    _put(tmp_path / "inbox", "old.mp4", "old")
    _put(tmp_path / "inbox", "growing.mp4", "half", age_s=2)
    found = look(tmp_path / "inbox", tmp_path / "out", EMPTY, 30)
    assert [item.name for item in found.new.values()] == ["old.mp4"]
    assert found.waiting == ("growing.mp4",)
    assert "growing.mp4" not in found.index.files
    assert len(look(tmp_path / "inbox", tmp_path / "out", EMPTY, 1).new) == 2


def test_known_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(tmp_path / "inbox", "a.mp4", "aaa")
    index = look(tmp_path / "inbox", tmp_path / "out", EMPTY, 30).index
    monkeypatch.setattr(flows.inbox, "hash_file", lambda path: pytest.fail(f"read {path}"))
    assert len(look(tmp_path / "inbox", tmp_path / "out", index, 30).new) == 1  # known as a file, not yet scored


def test_an_inbox_is_made_and_may_be_empty(tmp_path: Path) -> None:
    assert look(tmp_path / "in" / "box", tmp_path / "out", EMPTY, 30).new == {}
    assert (tmp_path / "in" / "box").is_dir()


def test_outputs_inside_the_inbox_are_not_footage(tmp_path: Path) -> None:
    _put(tmp_path / "inbox", "highlights/x.mp4", "x")
    assert look(tmp_path / "inbox", tmp_path / "inbox" / "highlights", EMPTY, 30).new == {}


def test_the_index_is_read_back_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert read_index(tmp_path) == EMPTY
    _put(tmp_path / "inbox", "ä b.mp4", "x")
    found = look(tmp_path / "inbox", tmp_path, EMPTY, 30)
    index = record(found.index, [(video_id, _known("ä b.mp4")) for video_id in found.new])
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index
    for content in ("{", "[]", '{"videos": {"a": {"x": 1}}, "files": {}}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(DataError, match=r"index\.json: damaged"):
            read_index(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the model and the scoring; return the names that were to be scored, one list a call."""
    calls: list[list[str]] = []

    def score_videos(model: Any, identity: Any, footage: Any, out: Path, **_: Any) -> ScoreReport:
        calls.append([item.name for item in footage])
        assert (model, identity.version, identity.sha256) == ("model in champion", "4", "f00d")
        bad = [item for item in footage if item.path.read_text().startswith("bad")]
        return ScoreReport(
            tuple(ScoredRow(item.name, "id", "out", 1.0, 1, 1.0, False) for item in footage if item not in bad),
            tuple(RejectedRow(item.name, "moov atom not found") for item in bad),
        )

    found = SimpleNamespace(folder="champion", uri="models:/herdlight@champion", version="4", sha256="f00d")
    monkeypatch.setattr(flows.score_inbox, "resolve", lambda *_: found)
    monkeypatch.setattr(flows.score_inbox, "score_videos", score_videos)
    monkeypatch.setattr(models.served, "load_served", lambda folder: f"model in {folder}")
    return calls


@pytest.mark.usefixtures("prefect_server")
def test_each_video_is_scored_once_and_a_bad_one_is_not_tried_again(tmp_path: Path, asked: list[list[str]]) -> None:
    arguments = {"root": str(tmp_path), "tracking_uri": "sqlite:///unused.db"}
    _put(tmp_path / "inbox", "good.mp4", "good")
    _put(tmp_path / "inbox", "bad.mp4", "bad bytes")
    _put(tmp_path / "inbox", "late.mp4", "late", age_s=1)
    assert score_inbox(**arguments) == {"scored": 1, "rejected": 1, "waiting": 1}
    index = read_json(tmp_path / "highlights" / "index.json")
    assert sorted((entry["video"], entry["status"], entry["reason"]) for entry in index["videos"].values()) == [
        ("bad.mp4", "rejected", "moov atom not found"),
        ("good.mp4", "scored", ""),
    ]
    assert {entry["model"] for entry in index["videos"].values()} == {"models:/herdlight@champion (version 4)"}
    before = (tmp_path / "highlights" / "index.json").stat().st_mtime_ns
    assert score_inbox(**arguments) == {"scored": 0, "rejected": 0, "waiting": 1}
    assert (tmp_path / "highlights" / "index.json").stat().st_mtime_ns == before
    _put(tmp_path / "inbox", "late.mp4", "late")
    _put(tmp_path / "inbox", "bad.mp4", "repaired", age_s=90)
    assert score_inbox(**arguments) == {"scored": 2, "rejected": 0, "waiting": 0}
    assert [sorted(names) for names in asked] == [["bad.mp4", "good.mp4"], ["bad.mp4", "late.mp4"]]


@pytest.mark.usefixtures("prefect_server")
def test_without_a_champion_only_new_footage_is_an_error(repository: TinyRepository) -> None:
    assert score_inbox(**repository.flow_arguments) == {"scored": 0, "rejected": 0, "waiting": 0}
    _put(repository.root / "inbox", "a.mp4", "aaa")
    with pytest.raises(RegistryError, match="herdlight train"):
        score_inbox(**repository.flow_arguments)
    assert read_index(repository.root / "highlights").videos == {}  # it stays new
