"""Holding the candidate against the present champion on the same test videos.

The champion's counts are taken from its own evaluation when that was made on these very frames and labels; otherwise
the champion scores the present test frames now. Knows the files of a version and of build/; the statistics are
`tasks.gate`'s.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from flows.registry import ModelVersion
from flows.settings import Settings
from models.errors import ModelError
from models.evaluation import SERVED, Evaluation, read_video_counts
from models.files import read_json
from models.manifest import read_manifest
from models.metrics import Counts, count_frames
from models.predictions import read_predictions
from models.shards import read_frames_shard
from models.spans import ScoreTrack
from models.video import SampledVideo, Sampling, sample_video
from tasks.model_uri import MODEL_ARTIFACT, model_artifacts

# Evidence that every version carries: its evaluation, and which frames and labels that was made on.
EVALUATION_FILE = "evaluation.json"
TEST_SET_FILE = "test_set.json"


def read_test_frames(settings: Settings) -> pd.DataFrame:
    """Return the test rows of the compiled engine's frame table: video_id, time_s (seconds), label (0 or 1), score."""
    frame = read_predictions(settings.build / "compile" / "predictions.parquet")
    return frame[frame["split"] == "test"]


def hash_test_set(test: pd.DataFrame) -> str:
    """Return a SHA-256 over which frames are judged and how they are labelled."""
    ordered = test.sort_values(["video_id", "time_s"], kind="stable")
    digest = hashlib.sha256()
    for video_id, rows in ordered.groupby("video_id", sort=True):
        digest.update(f"{video_id} {len(rows)}\n".encode())
        digest.update(rows["time_s"].to_numpy("<f8").tobytes())
        digest.update(rows["label"].to_numpy("<i1").tobytes())
    return digest.hexdigest()


def champion_counts(
    settings: Settings,
    champion: ModelVersion,
    evaluation: Evaluation,
    test: pd.DataFrame,
    on_line: Callable[[str], None],
) -> Mapping[str, Counts]:
    """Return the champion's counts by test video.

    evaluation: of the candidate, whose videos are to be covered
    test:       the candidate's test rows (`read_test_frames`)

    Raises ModelError or EngineError when the champion has to score and cannot do so on this machine.
    """
    folder = model_artifacts(settings.tracking_uri, champion.name, champion.version, champion.model_hash)
    logged = _logged_counts(folder, hash_test_set(test), set(evaluation.video_counts[SERVED]))
    if logged is not None:
        on_line(f"champion {champion.uri}: evaluated on these test videos and labels already")
        return logged
    on_line(
        f"champion {champion.uri}: evaluated on other test videos or labels, scoring these {test['video_id'].nunique()}"
    )
    return score_test_set(settings, folder / MODEL_ARTIFACT, test)


def score_test_set(settings: Settings, model_folder: Path, test: pd.DataFrame) -> dict[str, Counts]:
    """Return the counts by test video of the served model in `model_folder`, at its own threshold.

    The model sees frames as it was made for: the stored ones where its sampling is theirs, else the video is sampled
    anew. Its score of an instant is that of the frame which stands for it, so the judged frames are always `test`'s.
    """
    from models.highlighter import load_spec  # torch, only where a model has to score
    from models.served import load_served

    model = load_served(model_folder)
    stored = load_spec(settings.build / "compile" / "model").sampling
    counts: dict[str, Counts] = {}
    for video_id, rows in test.groupby("video_id", sort=True):
        track = model.score_video(_sample(settings, str(video_id), model.spec.sampling, stored))
        scores = scores_at(track, rows["time_s"].to_numpy(np.float64))
        counts[str(video_id)] = count_frames(rows["label"].to_numpy(), scores >= model.spec.threshold)
    return counts


def scores_at(track: ScoreTrack, times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return float32 [N]: the score of the frame that stands for each of N instants (seconds)."""
    indices = np.searchsorted(track.times_s, times_s, side="right") - 1
    return track.scores[np.maximum(indices, 0)]


def _sample(settings: Settings, video_id: str, sampling: Sampling, stored: Sampling) -> SampledVideo:
    """Return the frames of a test video: the stored ones where they were sampled in this way, else from the video."""
    if stored == sampling:
        return read_frames_shard(settings.build / "frames" / "shards", video_id)
    rows = read_manifest(settings.build / "ingest" / "manifest.parquet")
    path = next((row.path for row in rows if row.video_id == video_id), None)
    if path is None:
        raise ModelError(f"test video {video_id} is not in build/ingest/manifest.parquet; run `dvc repro`")
    return sample_video(settings.root / "data" / "videos" / path, sampling)


def _logged_counts(folder: Path, test_set_hash: str, videos: set[str]) -> dict[str, Counts] | None:
    """Return the counts that were logged with a version, None where they are of other videos, frames or labels."""
    if not (folder / EVALUATION_FILE).is_file() or not (folder / TEST_SET_FILE).is_file():
        return None
    if read_json(folder / TEST_SET_FILE).get("sha256") != test_set_hash:
        return None
    try:
        counts = read_video_counts(read_json(folder / EVALUATION_FILE))
    except ModelError:  # of another release; scoring answers instead
        return None
    return counts if set(counts) == videos else None
