"""The graded part of stage evaluate: how well each model of the ladder orders the shots of the graded test videos.

Knows frame tables and manifest rows; the figures are `models.graded`'s. Absent where no test video carries importance.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from models.errors import ModelError
from models.graded import GradedEvaluation, evaluate_graded
from models.importance import pool_track
from models.manifest import VideoRow
from models.spans import ScoreTrack


def evaluate_importance(
    tables: Mapping[str, pd.DataFrame],
    rows: Sequence[VideoRow],
    *,
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> GradedEvaluation | None:
    """Return the rank rows of the graded test videos, None where there is none.

    tables: for each model the frame table with columns video_id, split, time_s seconds and score 0 to 1
    rows:   the manifest

    Raises ModelError where a model has no scores of a graded test video.
    """
    graded = {row.video_id: row for row in rows if row.split == "test" and row.importance is not None}
    if not graded:
        return None
    scores = {name: _shot_scores(name, table, graded) for name, table in tables.items()}
    return evaluate_graded(
        {video_id: row.importance for video_id, row in graded.items() if row.importance is not None},
        scores,
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def _shot_scores(
    name: str, table: pd.DataFrame, graded: Mapping[str, VideoRow]
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Return the score of each labelled shot by video."""
    test = table[table["split"] == "test"].sort_values(["video_id", "time_s"], kind="stable")
    frames = {str(video_id): part for video_id, part in test.groupby("video_id", sort=True)}
    found = {}
    for video_id, row in graded.items():
        if video_id not in frames or row.importance is None:
            raise ModelError(f"{name}: no test frames of graded video {row.path} ({video_id}); run its stage again")
        times_s = frames[video_id]["time_s"].to_numpy(np.float64)
        # A container may announce an end that its own frames pass.
        duration_s = max(row.duration_s, float(np.nextafter(times_s[-1], np.inf)))
        track = ScoreTrack(times_s, frames[video_id]["score"].to_numpy(np.float32), duration_s)
        found[video_id] = pool_track(track, row.importance)
    return found
