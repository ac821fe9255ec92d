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

import av
import numpy as np
import pandas as pd
import pytest
import torch

from models.engines import build_engine
from models.highlighter import Highlighter
from models.served import ServedModel, load_served, save_served
from tasks.download import DownloadRules
from tasks.score import score_video_file
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


@pytest.fixture
def score(model: ServedModel) -> Callable[..., dict]:
    scorer = RowScorer(model, RULES)
    return lambda video=None, content=None, threshold=None, with_scores=True: scorer.score(
        video, content, threshold, with_scores=with_scores
    )


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


def test_nothing_is_left_behind(score, clips: list[Path], base: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    score(f"{base}/clip%200.mp4")
    score(None, clips[0].read_bytes())
    score(None, clips[0].read_bytes()[:2000])
    score(f"{base}/none.mp4")
    assert not list(tmp_path.iterdir())


def test_a_slow_download_does_not_hold_up_the_others(model: ServedModel, clips: list[Path]) -> None:
    import socket

    scorer = RowScorer(model, replace(RULES, timeout_s=3))
    with socket.socket() as silent, ThreadPoolExecutor(1) as pool:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        slow = pool.submit(scorer.score, url, None, None, with_scores=False)
        time.sleep(0.1)
        assert scorer.score(str(clips[0]), None, None, with_scores=False)["error"] is None
        assert not slow.done()
        assert "not there after 3 s" in slow.result()["error"]
