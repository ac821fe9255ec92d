"""The present champion on the candidate's test frames."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import flows.champion
import models.highlighter
import models.served
from flows.champion import champion_counts, hash_test_set, score_test_set, scores_at
from flows.registry import ModelVersion
from flows.settings import Settings
from models.errors import ModelError
from models.manifest import write_manifest
from models.metrics import Counts
from models.shards import write_shard
from models.spans import ScoreTrack
from models.video import SampledVideo, Sampling

SAMPLING = Sampling(2.0, 8, "squash")


def _test_frames() -> pd.DataFrame:
    rows = [("v1", 0.0, 1), ("v1", 0.5, 1), ("v1", 1.0, 0), ("v2", 0.0, 0), ("v2", 0.5, 1)]
    return pd.DataFrame(rows, columns=["video_id", "time_s", "label"])


class FakeModel:
    """Scores a frame by its brightness."""

    def __init__(self, sampling: Sampling, threshold: float) -> None:
        self.spec = SimpleNamespace(sampling=sampling, threshold=threshold)

    def score_video(self, video: SampledVideo) -> ScoreTrack:
        scores = (video.frames_THWC.mean(axis=(1, 2, 3)) / 255).astype(np.float32)
        return ScoreTrack(video.times_s, scores, video.duration_s)


def _video(times_s: list[float], brightness: list[int]) -> SampledVideo:
    frames = np.stack([np.full((8, 8, 3), value, np.uint8) for value in brightness])
    return SampledVideo(frames, np.array(times_s), times_s[-1] + 0.5)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A repository with stored frames of two videos."""
    settings = Settings(tmp_path, "sqlite:///nowhere.db")
    for video_id, video in {
        "v1": _video([0.0, 0.5, 1.0], [204, 51, 255]), "v2": _video([0.0, 0.5], [0, 153])
    }.items():  # fmt: skip
        write_shard(
            settings.build / "frames" / "shards",
            video_id,
            {"frames": video.frames_THWC, "times_s": video.times_s},
            {"duration_s": str(video.duration_s)},
        )
    monkeypatch.setattr(models.highlighter, "load_spec", lambda _folder: SimpleNamespace(sampling=SAMPLING))
    return settings


def _serve(monkeypatch: pytest.MonkeyPatch, model: FakeModel) -> None:
    monkeypatch.setattr(models.served, "load_served", lambda _folder: model)


def test_stored_frames_are_scored_at_the_champions_own_threshold(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, FakeModel(SAMPLING, threshold=0.6))
    counts = score_test_set(settings, Path("champion"), _test_frames())
    assert counts == {"v1": Counts(tp=1, fp=1, fn=1, tn=0), "v2": Counts(tp=1, fp=0, fn=0, tn=1)}


def test_a_champion_of_another_sampling_sees_the_video_anew_and_is_judged_on_the_same_frames(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, make_row: Any
) -> None:
    write_manifest(
        settings.build / "ingest" / "manifest.parquet",
        [make_row(video_id, split="test", path=f"test/{video_id}.mp4") for video_id in ("v1", "v2")],
    )
    asked = []

    def sample_video(path: Path, sampling: Sampling) -> SampledVideo:
        asked.append((path.relative_to(settings.root).as_posix(), sampling))
        return _video([0.0, 0.7], [255, 0])  # what stands for 0.0 and 0.5 is the first, for 1.0 the second

    monkeypatch.setattr(flows.champion, "sample_video", sample_video)
    coarse = Sampling(1.4, 8, "squash")
    _serve(monkeypatch, FakeModel(coarse, threshold=0.5))
    counts = score_test_set(settings, Path("champion"), _test_frames())
    assert counts == {"v1": Counts(tp=2, fp=0, fn=0, tn=1), "v2": Counts(tp=1, fp=1, fn=0, tn=0)}
    assert asked == [("data/videos/test/v1.mp4", coarse), ("data/videos/test/v2.mp4", coarse)]


def test_an_instant_has_the_score_of_the_frame_that_stands_for_it() -> None:
    track = ScoreTrack(np.array([0.1, 1.0, 2.0]), np.array([0.1, 0.2, 0.3], np.float32), 3.0)
    times_s = np.array([0.0, 0.1, 0.99, 1.0, 1.5, 2.5, 9.0])
    np.testing.assert_allclose(scores_at(track, times_s), [0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_the_hash_of_a_test_set_sees_videos_times_and_labels_and_no_order() -> None:
    frame = _test_frames()
    reference = hash_test_set(frame)
    assert hash_test_set(frame.sample(frac=1, random_state=1)) == reference
    assert hash_test_set(frame.assign(score=0.5)) == reference
    other = [
        frame.assign(label=1 - frame["label"]),
        frame.assign(time_s=frame["time_s"] + 1e-9),
        frame.replace("v2", "v3"),
        frame.iloc[:-1],
    ]
    assert len({reference, *(hash_test_set(entry) for entry in other)}) == 5


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The artifacts of a champion version whose evaluation covers v1 and v2."""
    folder = tmp_path / "logged"
    folder.mkdir()
    counts = {"compiled": {"v1": [2, 0, 0, 1], "v2": [1, 0, 0, 1]}}
    (folder / "evaluation.json").write_text(json.dumps({"video_counts": counts}))
    (folder / "test_set.json").write_text(json.dumps({"sha256": hash_test_set(_test_frames())}))
    monkeypatch.setattr(flows.champion, "model_artifacts", lambda *_: folder)
    monkeypatch.setattr(flows.champion, "score_test_set", lambda *_: {"scored": Counts(0, 0, 0, 0)})
    return folder


def _counts(settings: Settings, test: pd.DataFrame, videos: tuple[str, ...] = ("v1", "v2")) -> Any:
    evaluation: Any = SimpleNamespace(video_counts={"compiled": dict.fromkeys(videos)})
    return champion_counts(settings, ModelVersion("herdlight", "1", "hash", ""), evaluation, test, lambda _line: None)


def test_a_logged_evaluation_answers_only_for_the_same_frames_and_labels(settings: Settings, logged: Path) -> None:
    frame = _test_frames()
    scored = {"scored": Counts(0, 0, 0, 0)}
    assert _counts(settings, frame) == {"v1": Counts(2, 0, 0, 1), "v2": Counts(1, 0, 0, 1)}
    assert _counts(settings, frame.assign(label=0)) == scored
    assert _counts(settings, frame, videos=("v1", "v2", "v3")) == scored
    (logged / "evaluation.json").write_text("{}")  # of a release that had no counts by video
    assert _counts(settings, frame) == scored
    (logged / "test_set.json").unlink()
    assert _counts(settings, frame) == scored


def test_a_test_video_that_is_nowhere_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(settings.build / "ingest" / "manifest.parquet", [])
    _serve(monkeypatch, FakeModel(Sampling(1.0, 8, "squash"), threshold=0.5))
    with pytest.raises(ModelError, match=r"v1 is not in build/ingest/manifest\.parquet"):
        score_test_set(settings, Path("champion"), _test_frames())
