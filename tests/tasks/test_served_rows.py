"""Rows of requests through a real small model: by path, by address, as bytes, several at once, good beside bad."""

import base64
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch

from models.category import Categoriser
from models.engines import build_engine
from models.highlighter import Highlighter
from models.served import ServedModel, load_served, save_served
from tasks.download import DownloadRules
from tasks.score import Scorer, score_video_file
from tasks.served_params import request_of
from tasks.served_rows import RowScorer
from tests.tiny_model import SIDE, TINY_WITHOUT_TIME

RULES = DownloadRules(private_hosts=frozenset({"127.0.0.1"}), max_bytes=1 << 20, timeout_s=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    highlighter = Highlighter(TINY_WITHOUT_TIME).eval()
    build_engine("openvino", highlighter.tower, folder / "engine", SIDE, "float32")
    save_served(folder / "model", folder / "engine", highlighter.head, TINY_WITHOUT_TIME)
    return load_served(folder / "model", batch_size=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("footage"), np.random.default_rng(0)
    paths = [folder / f"clip {index}.mp4" for index in range(4)]
    for index, path in enumerate(paths):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(16 * (index + 1)):
                pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return paths


@pytest.fixture(scope="module")
def base(clips: list[Path]) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(clips[0].parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def film(clips: list[Path]) -> Path:
    """Return 16 s of noise with a keyframe every 2 s and its header first, beside the clips."""
    path, rng = clips[0].with_name("film.mp4"), np.random.default_rng(1)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "16", "sc_threshold": "0", "bf": "0"}
        for _ in range(16 * 8):
            pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def score(model: ServedModel) -> Callable[..., dict]:
    """Return what answers one row of a request with the params that are named; all rows share the engine's lock."""
    return asked_of(model)


def asked_of(model: Scorer) -> Callable[..., dict]:
    scorer = RowScorer(model, RULES)

    def score(video: Any = None, content: Any = None, with_scores: bool = True, **params: Any) -> dict:
        settings = request_of(params, model.spec).settings
        return scorer.score(video, content, settings, with_scores=with_scores)

    return score


def without_times(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("timing", "video")}


def test_all_three_ways_give_the_same(score, model: ServedModel, clips: list[Path], base: str) -> None:
    content = clips[0].read_bytes()
    by_path = score(str(clips[0]))
    by_url = score(f"{base}/clip%200.mp4")
    by_bytes, by_text = score(None, content), score("a name", base64.encodebytes(content).decode())
    assert by_path["error"] is None
    assert all(without_times(row) == without_times(by_path) for row in (by_url, by_bytes, by_text))
    assert [row["video"] for row in (by_path, by_bytes, by_text)] == [str(clips[0]), None, "a name"]
    track = score_video_file(model, clips[0]).track
    assert by_path["scores"] == {"time_s": track.times_s.tolist(), "score": track.scores.tolist()}
    assert score(str(clips[0]), with_scores=False)["scores"] is None


def test_times_add_up(score, clips: list[Path], base: str) -> None:
    row = score(f"{base}/clip%203.mp4")
    timing = row["timing"]
    assert min(timing.values()) >= 0
    parts_s = sum(timing[key] for key in ("fetch_s", "decode_s", "encode_s", "wait_s"))
    assert parts_s == pytest.approx(timing["total_s"], abs=0.05)
    assert timing["encode_s"] > 0
    assert timing["speed"] == pytest.approx(row["duration_s"] / timing["total_s"])


def test_many_at_once_on_an_engine_for_one(score, clips: list[Path], base: str) -> None:
    """OpenVINO's engine has one buffer for its answers: two threads in it would mix them up."""
    alone = [without_times(score(str(path))) for path in clips]
    ways = [lambda i: score(str(clips[i])), lambda i: score(f"{base}/clip%20{i}.mp4"),
            lambda i: score(None, clips[i].read_bytes())]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i % 4, pool.submit(ways[i % 3], i % 4)) for i in range(24)]
        for index, job in jobs:
            assert without_times(job.result()) == alone[index]


@pytest.mark.parametrize(
    ("video", "content", "words"),
    [
        (None, None, "a row needs `video`"),
        ("", b"", "a row needs `video`"),
        (float("nan"), None, "a row needs `video`"),
        (3, pd.NA, "a row needs `video`"),
        ("nowhere.mp4", None, "nowhere.mp4: no such file"),
        ("/", None, "not a regular file"),
        ("file:///etc/passwd", None, "scheme 'file' is not allowed"),
        ("ftp://example.org/a.mp4", None, "scheme 'ftp' is not allowed"),
        ("http://localhost/a.mp4", None, "HERDLIGHT_PRIVATE_HOSTS"),
        ("a.mp4", b"no video", "a.mp4: "),
        (None, "bm8gdmlkZW8=", "video: "),
        (None, "not base64!", "not base64"),
        (None, "YQ", "not base64"),
        (None, b"x" * (1 << 20) + b"y", "larger than 1048576 bytes"),
        (None, "QUJD" * ((1 << 20) // 3 + 60_000), "larger than 1048576 bytes"),
        ("a\0b.mp4", None, "no such file"),
    ],
)
def test_a_bad_row_says_why(score, video, content, words: str) -> None:
    row = score(video, content)
    assert words in row["error"]
    assert "\n" not in row["error"]
    assert (row["spans"], row["scores"], row["timing"], row["duration_s"]) == ([], None, None, None)
    assert (row["partial"], row["note"], row["looked"]) == (None, None, None)


def test_nothing_is_left_behind(score, clips: list[Path], base: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    score(f"{base}/clip%200.mp4")
    score(None, clips[0].read_bytes())
    score(None, clips[0].read_bytes()[:2000])
    score(f"{base}/none.mp4")
    assert not list(tmp_path.iterdir())


def test_a_slow_download_does_not_hold_up_the_others(model: ServedModel, clips: list[Path]) -> None:
    import socket

    scorer, plain = RowScorer(model, replace(RULES, timeout_s=3)), request_of({}, model.spec).settings
    with socket.socket() as silent, ThreadPoolExecutor(1) as pool:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        slow = pool.submit(scorer.score, url, None, plain, with_scores=False)
        time.sleep(0.1)
        assert scorer.score(str(clips[0]), None, plain, with_scores=False)["error"] is None
        assert not slow.done()
        assert "not there after 3 s" in slow.result()["error"]


def test_a_video_that_breaks_off_is_scored_up_to_there_and_says_so(score, film: Path) -> None:
    whole, half = score(str(film)), score(None, film.read_bytes()[: film.stat().st_size // 2])
    assert (whole["partial"], half["error"]) == ("", None)
    assert half["partial"].startswith("truncated: its header declares")
    assert 6 < half["duration_s"] < 10
    assert half["scores"]["score"] == whole["scores"]["score"][: len(half["scores"]["score"])]


def test_a_plain_row_asks_for_nothing_and_looks_at_everything(score, film: Path) -> None:
    row = score(str(film), threshold=0.0)
    assert (row["settings"], row["looked"], row["note"]) == ({}, None, "")
    assert len(row["scores"]["score"]) == 64


def test_mode_keyframes_sees_fewer_frames_whichever_way_the_video_comes(score, film: Path, base: str) -> None:
    row = score(str(film), mode="keyframes")
    assert row["scores"]["time_s"] == [2.0 * index for index in range(8)]
    assert row["settings"] == {"mode": "keyframes"}
    assert row["looked"] == {"num_keyframes": 8, "num_samples": 8, "decoded_s": 0.0, "decoded_share": 0.0}
    for other in (score(None, film.read_bytes(), mode="keyframes"), score(f"{base}/film.mp4", mode="keyframes")):
        assert without_times(other) == without_times(row)


def test_keyframes_of_a_video_that_breaks_off_are_not_trusted_and_all_of_it_is_scored(score, film: Path) -> None:
    half = film.read_bytes()[: film.stat().st_size // 2]
    row, exact = score(None, half, mode="keyframes"), score(None, half)
    assert (row["scores"], row["partial"], row["looked"]) == (exact["scores"], exact["partial"], None)


def test_mode_cascade_decodes_no_more_than_its_budget_and_says_how_much(score, film: Path) -> None:
    row = score(None, film.read_bytes(), mode="cascade", budget=0.25, threshold=0.0)
    assert row["looked"]["decoded_s"] == pytest.approx(4.0)
    assert row["looked"]["decoded_share"] == pytest.approx(0.25)
    assert len(row["scores"]["score"]) == 64  # where it did not look, the nearest keyframe's score stands
    assert row["settings"]["cascade"]["budget"] == 0.25


def test_top_leaves_so_many_spans_at_most_and_the_note_says_what_went(score, film: Path) -> None:
    threshold = float(np.median(score(str(film))["scores"]["score"]))
    several = score(str(film), threshold=threshold, min_length=0, merge_gap=0)["spans"]
    row = score(str(film), threshold=threshold, min_length=0, merge_gap=0, top=1)
    assert len(several) > 1
    assert row["spans"] == [max(several, key=lambda span: (span["score"], -span["start_s"]))]
    assert row["note"] == f"left out: {len(several) - 1} beyond the best 1"
    assert row["settings"]["selection"]["top_k"] == 1


def test_no_span_says_why(score, clips: list[Path]) -> None:
    row = score(str(clips[0]), threshold=1.0)
    assert row["spans"] == []
    assert row["note"].startswith("no highlight: the highest score")


def test_a_span_has_its_category_where_the_model_has_categories(model: ServedModel, clips: list[Path]) -> None:
    weights = np.zeros((2, model.spec.encoder.embed_dim), np.float32)
    categoriser = Categoriser(("calm", "wild"), weights, np.array([0.0, 5.0], np.float32), 1.0, "labels", "")
    (span,) = asked_of(replace(model, categoriser=categoriser))(str(clips[0]), threshold=0.0)["spans"]
    assert span["category"] == "wild"
    assert span["category_probability"] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-4)
    assert "category" not in asked_of(model)(str(clips[0]), threshold=0.0)["spans"][0]


def test_requests_at_once_with_different_settings_do_not_mix(score, film: Path) -> None:
    asked = [{}, {"threshold": 0.0}, {"mode": "keyframes"}, {"mode": "cascade", "budget": 0.5}, {"top": 0}, {"snap": 1}]
    alone = [without_times(score(str(film), **params)) for params in asked]
    with ThreadPoolExecutor(6) as pool:
        jobs = [(i % 6, pool.submit(score, str(film), **asked[i % 6])) for i in range(18)]
        for index, job in jobs:
            assert without_times(job.result()) == alone[index]


@pytest.mark.parametrize("mode", ["exact", "keyframes", "cascade"])
def test_the_engine_takes_one_batch_at_a_time_in_every_mode(model: ServedModel, film: Path, mode: str) -> None:
    class Slow:
        """The model, with an engine that notices company."""

        spec, score_track = model.spec, model.score_track

        def __init__(self) -> None:
            self.inside = self.most_inside = 0

        def embed(self, frames_NHWC: np.ndarray) -> np.ndarray:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            time.sleep(0.05)
            self.inside -= 1
            return model.embed(frames_NHWC)

    slow = Slow()
    scorer, settings = RowScorer(slow, RULES), request_of({"mode": mode, "threshold": 0.0}, model.spec).settings
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: scorer.score(str(film), None, settings, with_scores=False), range(4)))
    assert [row["error"] for row in rows] == [None] * 4
    assert sum(row["timing"]["wait_s"] for row in rows) > 0
    assert slow.most_inside == 1
