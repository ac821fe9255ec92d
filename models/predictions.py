"""The frame table: what one model says of every val and test frame, with the truth beside it.

Columns: video_id, group, split (val or test), time_s (seconds), label (0 or 1), score (0 to 1, float32), sorted by
split, video_id and time_s. Knows the columns and their ranges; knows nothing of models.
"""

from pathlib import Path

import pandas as pd

from models.errors import ModelError
from models.files import replacing

COLUMNS = ("video_id", "group", "split", "time_s", "label", "score")


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` as Parquet, sorted. Raises ModelError when a column, split, label or score is not as above."""
    _check(frame, path)
    ordered = frame[list(COLUMNS)].sort_values(["split", "video_id", "time_s"], kind="stable")
    ordered = ordered.astype({"time_s": "float64", "label": "int8", "score": "float32"})
    with replacing(path) as temporary:
        ordered.to_parquet(temporary, index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    """Return the frame table in `path`. Raises ModelError when it is missing or not as above."""
    try:
        frame = pd.read_parquet(path)
    except (FileNotFoundError, ValueError) as error:
        raise ModelError(f"{path}: no readable frame table ({error}); run the stage that writes it") from None
    _check(frame, path)
    return frame


def _check(frame: pd.DataFrame, path: Path) -> None:
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise ModelError(f"{path}: frame table lacks {', '.join(missing)}; run the stage that writes it again")
    if not frame["split"].isin(["val", "test"]).all():
        raise ModelError(f"{path}: split must be val or test, got {sorted(set(frame['split']))}")
    if not frame["label"].isin([0, 1]).all() or not frame["score"].between(0, 1).all():
        raise ModelError(f"{path}: labels must be 0 or 1 and scores in [0, 1], without NaN")
