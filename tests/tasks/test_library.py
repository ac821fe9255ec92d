"""A library: what paths mean, the order of things with a scorer that does what a name says, and clusters."""

import functools
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.errors import DataError, MissingExtra, ModelError, ParamsError
from tasks.ledger import Ledger
from tasks.library import LibraryOptions, LibraryProgress, make_batches, score_library
from tasks.library_dask import LOCAL, SlurmJob, dask_client, dask_scheduler, slurm_cluster
from tasks.library_listing import Place, group_alike, list_library
from tasks.library_work import Batch, LibraryJob, OnEvent, run_local, score_group
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Outcome, WatchedChild

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = ModelIdentity("tiny", "", "f00d")


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


# Folders, lists, globs.


def test_folders_lists_globs_and_files_are_listed_once(tmp_path: Path) -> None:
    put(tmp_path, "footage/a.mp4", "footage/deep/b c.mp4", "footage/-dash.mp4", "footage/élan.mp4", "other/x.avi")
    put(tmp_path, "footage/.hidden.mp4", "footage/.cache/y.mp4", "footage/notes.txt", "footage/out/z.mp4")
    (tmp_path / "list.txt").write_text("# cards\n\nfootage/a.mp4\nother\n")
    names = {"a.mp4", "deep/b c.mp4", "-dash.mp4", "élan.mp4"}
    out = tmp_path / "footage" / "out"
    assert {place.name for place in list_library([tmp_path / "footage"], out).places} == names
    assert {place.name for place in list_library([tmp_path / "list.txt"], out).places} == {"a.mp4", "x.avi"}
    globbed = list_library([str(tmp_path / "*" / "[ab].mp4"), str(tmp_path / "**" / "b c.mp4")], out)
    assert {place.name for place in globbed.places} == {"a.mp4", "b c.mp4"}
    both = list_library([tmp_path / "footage", tmp_path / "list.txt", tmp_path / "footage" / "a.mp4"], out)
    assert sorted(place.path.name for place in both.places) == ["-dash.mp4", "a.mp4", "b c.mp4", "x.avi", "élan.mp4"]


def test_a_name_with_the_letters_of_a_glob_is_itself(tmp_path: Path) -> None:
    put(tmp_path, "trap[1].mp4", "trap1.mp4")
    assert [place.name for place in list_library([str(tmp_path / "trap[1].mp4")], tmp_path / "out").places] == [
        "trap[1].mp4"
    ]


@pytest.mark.parametrize("name", ["missing.mp4", "*.avi", "list.txt"])
def test_a_path_that_means_nothing_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"no such file|cannot be read as a list"):
        list_library([str(tmp_path / name)], tmp_path / "out")


def test_what_is_no_file_is_told_and_never_opened(tmp_path: Path) -> None:
    put(tmp_path, "footage/good.mp4", "elsewhere/linked.mp4")
    folder = tmp_path / "footage"
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder)
    (folder / "card").symlink_to(tmp_path / "elsewhere")
    (folder / "null.mp4").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.mp4"))  # a socket's path may have no more than 107 bytes
        listing = list_library([folder], tmp_path / "out")
    assert [place.name for place in listing.places] == ["card/linked.mp4", "good.mp4"]
    reasons = {item.name: item.reason for item in listing.unreadable}
    assert reasons.keys() == {"gone.mp4", "loop.mp4", "null.mp4", "pipe.mp4", "socket.mp4"}
    assert reasons["pipe.mp4"] == "a pipe, not a file"
    assert reasons["null.mp4"] == "a device, not a file"


def test_a_file_that_turns_into_a_pipe_does_not_block(tmp_path: Path) -> None:
    put(tmp_path, "footage/a.mp4")
    listing = list_library([tmp_path / "footage"], tmp_path / "out")
    (tmp_path / "footage" / "a.mp4").unlink()
    os.mkfifo(tmp_path / "footage" / "a.mp4")
    job = LibraryJob(str(tmp_path / "out"), "", IDENTITY)
    (row,) = score_group(job, Ledger(tmp_path / "out"), listing.places, fake, lambda _: None)
    assert (row.status, row.reason) == ("unreadable", "not a regular file")


def test_only_what_may_be_one_content_stays_together(tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    for name, content in {"a": b"x" * 200_000, "b": b"x" * 200_000, "c": b"y" * 200_000, "d": b"x"}.items():
        (tmp_path / "footage" / name).write_bytes(content)
    places = list_library([tmp_path / "footage"], tmp_path / "out").places
    assert [[place.name for place in group] for group in group_alike(places)] == [["a", "b"], ["c"], ["d"]]
    assert [len(batch) for batch in make_batches(places)] == [1, 1, 1]
    assert sorted(place.name for batch in make_batches(places, 2) for group in batch for place in group) == [*"abcd"]


# The order of things, with a scorer that does what its name says.


def fake(place: Place, _content: str, out: Path, *_: Any) -> Outcome:
    if place.name.startswith("bad"):
        return Outcome("quarantined", "no moov atom")
    if place.name.startswith("grow"):
        place.path.write_text("more and more")
    (out / "x.spans.json").write_text(place.name)
    return Outcome("scored", "", "x", 3600.0, 1, 1.0)


def run_fake(job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent, asked: list[str] | None = None) -> None:
    def score(place: Place, *rest: Any) -> Outcome:
        if asked is not None:
            asked.append(place.name)
        return fake(place, *rest)

    for batch in batches:
        for group in batch:
            score_group(job, Ledger(Path(job.out), job.lease_s), group, score, on_event)


def test_quarantine_ends_on_request_or_with_another_model(tmp_path: Path) -> None:
    put(tmp_path, "footage/bad.mp4", "footage/good.mp4")
    asked: list[str] = []
    run = functools.partial(run_fake, asked=asked)

    def once(sha256: str = "f00d", **options: Any) -> dict[str, int]:
        listing = list_library([tmp_path / "footage"], tmp_path / "out")
        find = lambda: (tmp_path, ModelIdentity("m", "", sha256))  # noqa: E731
        counts = score_library(listing, tmp_path / "out", find, run, LibraryOptions(**options)).counts()
        return {name: count for name, count in counts.items() if count}

    assert once() == {"scored": 1, "quarantined": 1}
    assert once() == {"kept": 2}
    assert once(retry_quarantined=True) == {"quarantined": 1, "kept": 1}
    assert once("beef") == {"scored": 1, "quarantined": 1}
    assert once(threshold=0.9) == {"scored": 1, "quarantined": 1}
    assert asked.count("good.mp4") == 3
    assert (tmp_path / "footage" / "bad.mp4").read_text() == "footage/bad.mp4"  # neither moved nor altered


def test_a_file_that_is_written_to_while_it_is_scored_waits(tmp_path: Path) -> None:
    put(tmp_path, "footage/grow.mp4")
    listing = list_library([tmp_path / "footage"], tmp_path / "out")
    report = score_library(listing, tmp_path / "out", lambda: (tmp_path, IDENTITY), run_fake)
    assert report.counts()["waiting"] == 1
    assert list(Ledger(tmp_path / "out").entries()) == []


def test_equal_stems_never_collide(tmp_path: Path) -> None:
    put(tmp_path, "footage/a/x.mp4", "footage/b/x.mp4", "footage/b/X.mp4")
    score_library(
        list_library([tmp_path / "footage"], tmp_path / "out"), tmp_path / "out", lambda: (tmp_path, IDENTITY), run_fake
    )
    rows = json.loads((tmp_path / "out" / "index.json").read_text())["videos"]
    texts = [(tmp_path / "out" / f"{row['results']}.spans.json").read_text() for row in rows]
    assert texts == [row["video"] for row in rows]
    assert len(set(texts)) == 3


def test_progress_tells_hours_speed_and_time_left(tmp_path: Path) -> None:
    put(tmp_path, *(f"footage/{i}.mp4" for i in range(4)))
    seen: list[LibraryProgress] = []
    listing = list_library([tmp_path / "footage"], tmp_path / "out")
    score_library(listing, tmp_path / "out", lambda: (tmp_path, IDENTITY), run_fake, on_progress=seen.append)
    assert [step.num_done for step in seen] == [1, 2, 3, 4]
    assert [step.bytes_left for step in seen] == sorted((step.bytes_left for step in seen), reverse=True)
    last = seen[-1]
    assert (last.bytes_left, last.video_s, last.left_s) == (0, 4 * 3600.0, 0.0)
    assert last.speed == pytest.approx(last.video_s / last.elapsed_s)
    half = LibraryProgress(1, 2, 1e9, 3e9, 7200.0, 3600.0, None)
    assert str(half) == "1 of 2 files, 2.00 h of video done, 2.0 times real time, 3.0 h left"


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"workers": 0}])
def test_options_have_ranges(options: dict[str, Any]) -> None:
    with pytest.raises(ParamsError):
        LibraryOptions(**options)


def test_an_out_that_is_a_file_is_told(tmp_path: Path) -> None:
    put(tmp_path, "out")
    listing = list_library([tmp_path / "out"], tmp_path / "elsewhere")
    with pytest.raises(DataError, match="not a folder"):
        score_library(listing, tmp_path / "out" / "deeper", lambda: (tmp_path, IDENTITY), run_fake)


def test_a_worker_that_fails_ends_the_run_and_its_children(tmp_path: Path) -> None:
    put(tmp_path, *(f"footage/{i}.mp4" for i in range(4)))
    code = "from tasks.watchdog_child import serve; serve(lambda: [][0], 1.0)"
    make_child = lambda job: WatchedChild([sys.executable, "-c", code], job.limits)  # noqa: E731
    with pytest.raises(ModelError, match="IndexError"):
        score_library(
            list_library([tmp_path / "footage"], tmp_path / "out"),
            tmp_path / "out",
            lambda: (tmp_path, IDENTITY),
            functools.partial(run_local, workers=2, make_child=make_child),
        )
    assert list((tmp_path / "out" / "claims").iterdir()) == []


# Clusters.


def test_a_scheduler_that_does_not_answer_is_told() -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    with pytest.raises(DataError, match="no Dask scheduler answers there"), dask_client("nonsense://nowhere"):
        pass


def test_slurm_gets_a_job_script_that_starts_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra cluster is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    job = SlurmJob(cores=8, memory="32GB", walltime="02:30:00", queue="cpu", account="elephants")
    cluster = slurm_cluster(job)
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    for line in ("#SBATCH -J herdlight", "#SBATCH -p cpu", "#SBATCH -A elephants", "#SBATCH -t 02:30:00",
                 "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G"):  # fmt: skip
        assert line in script, script
    assert "--nthreads 1 " in script
    assert "--nworkers 8 " in script
    assert f"PYTHONPATH={ROOT}" in script


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"distributed is not installed.*\.\[cluster\]"), dask_scheduler(LOCAL, 1):
        pass
