"""The settings of a library: part of an entry's name where something is asked for, and what a child does with them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from models.errors import ParamsError
from models.files import read_json
from models.video import Sampling
from tasks.energy import energy_counter
from tasks.ledger import Entry, Ledger, Recipe
from tasks.library import LibraryOptions, make_job, options_of, score_library
from tasks.library_listing import list_library
from tasks.library_work import Batch, LibraryJob, OnEvent, score_group
from tasks.scored_files import ModelIdentity
from tasks.watchdog import Outcome
from tasks.watchdog_child import score_job
from tests.brightness import Brightness

IDENTITY = ModelIdentity("tiny", "", "f00d")
RATE, SECONDS = 8, 4


def job_of(tmp_path: Path, **settings: Any) -> LibraryJob:
    return make_job(tmp_path / "out", tmp_path, IDENTITY, options_of(1, None, settings=settings))


# Names of entries: the digests are those that ledgers out there are named by.


@pytest.mark.parametrize(("settings", "digest"), [({}, "488a82b157f0"), ({"threshold": 0.9}, "1f0fcec42667")])
def test_a_plain_run_keeps_the_keys_that_ledgers_have(settings: dict[str, Any], digest: str, tmp_path: Path) -> None:
    assert job_of(tmp_path, **settings, mode="exact", top=None).recipe.digest == digest


def test_a_plain_entry_has_the_bytes_it_always_had(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    entry = Entry("quarantined", "x", "ab" * 32, 1, "a.mp4", "m", Recipe("f00d", None, "1"))
    ledger.commit(entry, ledger.stage(entry.key))
    written = read_json(ledger.entry_folder(entry.key) / "entry.json")
    assert list(written["recipe"].items()) == [("model_sha256", "f00d"), ("threshold", None), ("scoring_version", "1")]


def test_other_settings_have_another_key_and_equal_ones_the_same(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [{}, {"top": 3}, {"top": 4}, {"fps": 3}, {"mode": "keyframes"}, {"mode": "cascade"}]
    assert len({job_of(tmp_path, **settings).recipe.digest for settings in asked}) == len(asked)
    assert job_of(tmp_path, top=3).recipe == job_of(tmp_path, top=3.0, snap=None).recipe


def test_settings_travel_as_json(tmp_path: Path) -> None:
    job = job_of(tmp_path, mode="cascade", top=3, threshold=0.3)
    assert LibraryJob.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert (job.threshold, job.settings) == (0.3, {"mode": "cascade", "top": 3})


def test_a_library_is_scored_once_for_each_settings_and_the_index_tells_them_apart(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("a")

    def run(job: LibraryJob, batches: Sequence[Batch], on_event: OnEvent) -> None:
        for group in batches[0]:
            score_group(job, Ledger(Path(job.out)), group, lambda *_: Outcome("scored", "", "x"), on_event)

    def once(any_model: bool = False, **settings: Any) -> dict[str, int]:
        options = options_of(1, None, settings=settings, any_model=any_model)
        listing = list_library([tmp_path / "a.mp4"], tmp_path / "out")
        return score_library(listing, tmp_path / "out", lambda: (tmp_path, IDENTITY), run, options).counts()

    assert [once(top=3)["scored"], once(top=3)["kept"], once(any_model=True)["kept"], once()["scored"]] == [1] * 4
    assert once(threshold=0.5)["scored"] == 1
    rows = read_json(tmp_path / "out" / "index.json")["videos"]
    assert sorted(str(row.get("settings")) for row in rows) == ["None", "{'threshold': 0.5}", "{'top': 3}"]
    texts = pq.read_table(tmp_path / "out" / "index.parquet")["settings"].to_pylist()
    assert [json.loads(text) for text in texts] == [row.get("settings", {}) for row in rows]


@pytest.mark.parametrize("settings", [{"tops": 3}, {"fps": -1}, {"mode": "keyframes", "fps": 2}, {"hold": 2}])
def test_bad_settings_are_refused_where_options_are_made(settings: dict[str, Any]) -> None:
    for make in (lambda: options_of(1, None, settings=settings), lambda: LibraryOptions(settings=settings)):
        with pytest.raises(ParamsError):
            make()


# What the child does, without the process around it.


@dataclass
class Spec:
    sampling: Sampling = field(default_factory=lambda: Sampling(2.0, 16))
    threshold: float = 0.5
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0


class Served(Brightness):
    """With a spec, as scoring asks for one."""

    spec: Any = Spec()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a film of 4 s with a keyframe every second: dark, bright, dark, brighter."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.options = {"g": str(RATE), "sc_threshold": "0"}
        for index in range(RATE * SECONDS):
            pixels = np.full((32, 32, 3), (20, 200, 20, 240)[index // RATE], np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def scored(
    film: Path, out: Path, status: str = "scored", **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return spans.json of a job with `options`, and what the child said on its way."""
    out.mkdir()
    said: list[dict[str, Any]] = []
    names = {"path": str(film), "name": "film.mp4", "video_id": "ab" * 8, "out": str(out)}
    model = {"name": "m", "version": "", "sha256": "f00d"}
    job = {**names, "options": options, "model": model}
    with energy_counter() as counter:
        outcome = score_job(Served(), job, lambda m: said.append(dict(m)), counter)
    assert outcome.status == status
    return read_json(out / "film.spans.json"), said


def test_the_child_applies_the_settings(film: Path, tmp_path: Path) -> None:
    plain, _ = scored(film, tmp_path / "plain")
    best, _ = scored(film, tmp_path / "best", top=1)
    assert [span["start_s"] for span in plain["spans"]] == [1.0, 3.0]
    assert [span["start_s"] for span in best["spans"]] == [3.0]
    assert "settings" not in plain
    assert best["settings"]["selection"]["top_k"] == 1


@pytest.mark.parametrize("options", [{"mode": "keyframes"}, {"mode": "cascade", "budget": 1.0}, {"snap": 0.5}])
def test_a_child_that_looks_twice_shows_that_it_has_not_hung(
    options: dict[str, Any], film: Path, tmp_path: Path
) -> None:
    _, plain = scored(film, tmp_path / "plain")
    _, said = scored(film, tmp_path / "asked", **options)
    signs = [message for message in said if "fraction" in message]
    assert len(signs) >= (1 if options == {"mode": "keyframes"} else len(plain))
    shares = [message["fraction"] for message in signs]
    assert shares == sorted(shares)


DAMAGED = "decord__corrupted.mp4"  # sound to its survey, and breaks off at 2.7 s


@pytest.mark.parametrize("options", [{"mode": "cascade", "budget": 1.0}, {"snap": 0.5, "threshold": 0.0}])
def test_a_damaged_video_is_scored_up_to_there_however_it_is_looked_at(
    options: dict[str, Any], tmp_path: Path, shared: Path
) -> None:
    damaged = shared / "data" / "odd_media" / DAMAGED
    plain, _ = scored(damaged, tmp_path / "plain", status="partial")
    asked, _ = scored(damaged, tmp_path / "asked", status="partial", **options)
    assert asked["partial"] == plain["partial"] == "decoding breaks after 2.70 s: damaged, encrypted or not a video"
    assert asked["duration_s"] == plain["duration_s"] == pytest.approx(2.7)
    assert asked.get("looked", {}).get("fell_back", "") in ("", plain["partial"])
    assert ("looked" in asked) == ("mode" in options)


def test_settings_that_contradict_the_model_are_no_fault_of_the_video(film: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"at most threshold, 0\.5"):
        scored(film, tmp_path / "out", hold=0.9)
