"""Scoring as a stream: what the whole pass says, in threads that all end, up to where a damaged file can be read."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.ensemble import Ensemble
from models.errors import EngineError, VideoError
from models.highlighter import Highlighter
from models.served import ServedModel
from models.spans import ScoreTrack
from models.video import Sampling, probe, sample_video
from tasks.energy import energy_counter
from tasks.footage import list_footage
from tasks.score import ModelIdentity, score_track_of_file, score_video_file, score_videos
from tasks.score_stream import stream_track
from tests.tiny_model import DIM, SIDE, TINY

IDENTITY = ModelIdentity("models:/fake@champion", "3", "ab" * 32)


@dataclass
class MeanEngine:
    """A linear map of small pictures: it does not depend on the batch."""

    name: str = "mean"
    precision: str = "float32"

    def __call__(self, frames_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        cells = frames_NHWC.reshape(len(frames_NHWC), 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4)).reshape(-1, 48)
        return cells[:, :DIM].astype(np.float32) / 64


@dataclass
class FakeModel:
    """Scores by brightness; keeps which threads it ran in."""

    spec: Any = field(default_factory=lambda: replace(TINY, threshold=0.5))
    delay_s: float = 0.0
    fails_at: int = -1
    num_batches: int = 0

    def embed(self, frames_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self.delay_s)
        if self.num_batches == self.fails_at:
            raise EngineError("engine fake: broken")
        self.num_batches += 1
        return frames_NHWC.reshape(len(frames_NHWC), -1).mean(1, keepdims=True).astype(np.float32)

    def score_track(
        self, features_TD: NDArray[np.float32], times_s: NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        return ScoreTrack(times_s, (features_TD[:, 0] / 255).clip(0, 1).astype(np.float32), duration_s)


def served(temporal: Any, window: int, seed: int = 0) -> ServedModel:
    torch.manual_seed(seed)
    spec = replace(TINY, temporal=temporal, window=window, num_members=2)
    return ServedModel(spec, MeanEngine(), Highlighter(spec).head.eval().requires_grad_(False))


def write_video(path: Path, num_frames: int, container: str | None = None) -> Path:
    """Write frames that move, ten a second, a keyframe each second."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for i in range(num_frames):
            picture = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("herdlight")]


@pytest.mark.parametrize("temporal", ["none", "transformer", "multiscale"])
@pytest.mark.parametrize("window", [1, 6, 200])
def test_the_stream_says_what_the_whole_video_says(tmp_path: Path, temporal: str, window: int) -> None:
    video = write_video(tmp_path / "v.mp4", 130)
    model = served(temporal, window)
    whole = model.score_video(sample_video(video, model.spec.sampling))
    for batch_size in (1, 7, 32):
        track = score_video_file(model, video, batch_size=batch_size).track
        assert np.array_equal(track.times_s, whole.times_s)
        assert np.abs(track.scores - whole.scores).max() < 1e-5
        assert track.duration_s == whole.duration_s
    again = score_track_of_file(model, video, duration_s=whole.duration_s)
    assert np.abs(again.scores - whole.scores).max() < 1e-5
    assert np.ptp(whole.scores) > 1e-3


def test_an_ensemble_streams_too(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 60)
    ensemble = Ensemble((served("transformer", 6), served("multiscale", 9, seed=1)), (0, 0))
    whole = ensemble.score_video(sample_video(video, ensemble.spec.sampling))
    track = score_video_file(ensemble, video, batch_size=5).track
    assert np.abs(track.scores - whole.scores).max() < 1e-5


def test_features_are_handed_on_as_they_come(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 60)
    model = served("transformer", 6)
    seen: list[tuple[NDArray[np.float64], NDArray[np.float32]]] = []
    score_video_file(model, video, batch_size=4, on_features=lambda times_s, features: seen.append((times_s, features)))
    whole = sample_video(video, model.spec.sampling)
    assert [len(times_s) for times_s, _ in seen] == [4] * (len(whole.times_s) // 4)
    assert np.array_equal(np.concatenate([times_s for times_s, _ in seen]), whole.times_s)
    assert np.array_equal(np.concatenate([features for _, features in seen]), model.embed(whole.frames_THWC))


def test_a_slow_model_holds_the_decoder_back() -> None:
    made = 0

    def frames() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        nonlocal made
        for made in range(1, 201):
            yield made / 4, np.zeros((8, 8, 3), np.uint8)

    ahead: list[int] = []
    done = itertools.count(10, 10)
    stream_track(
        FakeModel(delay_s=0.01),
        frames(),
        name="v",
        duration_s=lambda: 60.0,
        batch_size=10,
        on_times=lambda _: ahead.append(made - next(done)),
    )
    assert max(ahead) <= 80  # two queues of two batches, and one batch in the hand of each of four
    assert len(ahead) == 20
    assert no_thread_is_left()


def endless() -> Iterator[tuple[float, NDArray[np.uint8]]]:
    return ((i / 4, np.zeros((8, 8, 3), np.uint8)) for i in itertools.count())


@pytest.mark.parametrize("where", ["model", "hook", "reader", "stop"])
def test_an_error_anywhere_ends_every_thread(where: str) -> None:
    def frames() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for i, item in enumerate(endless()):
            if where == "reader" and i == 100:
                raise VideoError("v: breaks")
            yield item

    def hook(_times_s: Any, _features: Any) -> None:
        if where == "hook":
            raise OSError(28, "No space left on device")
        if where == "stop":
            raise KeyboardInterrupt

    error = {"model": EngineError, "hook": OSError, "reader": VideoError, "stop": KeyboardInterrupt}[where]
    model = FakeModel(fails_at=3 if where == "model" else -1)
    started = time.monotonic()
    with pytest.raises(error):
        stream_track(model, frames(), name="v", duration_s=lambda: 1e9, batch_size=8, on_features=hook)
    assert time.monotonic() - started < 5
    assert no_thread_is_left()


def test_no_frame_at_all_is_an_error() -> None:
    with pytest.raises(VideoError, match="v: no frame of it can be decoded"):
        stream_track(FakeModel(), [], name="v", duration_s=lambda: 1.0)


def cut_video(folder: Path) -> Path:
    """A recording that was copied by half: all its header says is there, half of what it speaks of is not."""
    whole = write_video(folder / "whole.mkv", 100)
    path = folder / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    return path


def broken_video(folder: Path) -> Path:
    """A video whose second half is noise where pictures should be."""
    path = write_video(folder / "broken.mp4", 100)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in packets[50:]:
        content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [(cut_video, "truncated: its header declares 10 seconds, 5 are there"), (broken_video, "decoding breaks after 4.")],
)
def test_what_can_be_read_of_a_damaged_file_is_scored_and_says_so(tmp_path: Path, make: Any, reason: str) -> None:
    (tmp_path / "in").mkdir()
    video = make(tmp_path / "in")
    model = FakeModel()
    with pytest.raises(VideoError, match=reason):
        score_video_file(model, video)
    report = score_videos(model, IDENTITY, list_footage([video]), tmp_path / "out")  # type: ignore[arg-type]
    [row] = report.scored
    assert row.partial.startswith(reason)
    assert 3.5 < row.duration_s < 5.5
    assert json.loads((tmp_path / "out" / f"{row.output}.spans.json").read_text())["partial"] == row.partial
    assert json.loads((tmp_path / "out" / "scored.json").read_text())[0]["partial"] == row.partial
    before = (tmp_path / "out" / "scored.json").read_bytes()
    again = score_videos(model, IDENTITY, list_footage([video]), tmp_path / "out")  # type: ignore[arg-type]
    assert again.scored == (replace(row, kept=True),)
    assert (tmp_path / "out" / "scored.json").read_bytes() == before


def test_a_whole_file_says_nothing_of_parts(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 30)
    score_videos(FakeModel(), IDENTITY, list_footage([video]), tmp_path / "out")  # type: ignore[arg-type]
    assert all("partial" not in path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "out").glob("*.energy.json"))


def test_each_result_has_its_energy_beside_it_when_a_run_measures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", 30)
    footage = list_footage([tmp_path / "a.mp4", tmp_path / "b.mp4"])
    model: Any = FakeModel(delay_s=0.2)
    with energy_counter("FRA") as counter:
        report = score_videos(model, IDENTITY, footage, tmp_path / "out", counter=counter)
    for row in report.scored:
        content = json.loads((tmp_path / "out" / f"{row.output}.energy.json").read_text())
        assert content["energy"]["kwh"] > 0
        assert content["energy"]["method"] in ("measured", "estimated", "mixed")
        assert content["energy"]["country"] == "FRA"
        assert content["wh_per_video_hour"] == pytest.approx(content["energy"]["kwh"] * 3.6e6 / row.duration_s)
    score_videos(model, IDENTITY, footage, tmp_path / "out", force=True)
    assert not list((tmp_path / "out").glob("*.energy.json"))  # nobody measured these results


def test_every_odd_file_is_scored_in_part_or_whole_or_rejected(tmp_path: Path, shared: Path) -> None:
    folder = shared / "data" / "odd_media"
    paths = [path for path in sorted(folder.iterdir()) if path.stat().st_size < 12_000 or "corrupt" in path.name]
    model: Any = FakeModel(spec=replace(TINY, sampling=Sampling(1.0, SIDE)))
    report = score_videos(model, IDENTITY, list_footage(paths), tmp_path / "out")
    assert len(report.scored) + len(report.rejected) == len(list_footage(paths))
    partial = {row.video: row.partial for row in report.scored if row.partial}
    assert partial["decord__corrupted.mp4"].startswith("decoding breaks after 2.")
    assert all(row.reason and "\n" not in row.reason for row in report.rejected)
    for row in report.scored:
        if not row.partial:
            assert row.duration_s == pytest.approx(probe(folder / row.video).duration_s, abs=0.01)
    assert no_thread_is_left()
