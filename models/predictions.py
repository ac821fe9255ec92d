"""The frame table: one row for each scored frame of the val and test videos, the seam between models and metrics.

Columns: video_id str, group str, split "val" or "test", time_s float64 seconds, label int8 0 or 1, score float32 in
[0, 1]; sorted by split, video_id, time_s, so that equal content is equal bytes. A table of a model that gives logits
has raw_score float32 too, the score as it was before calibration.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.calibration import NO_CALIBRATION, Calibration
from models.errors import ModelError, ShapeError
from models.files import replacing
from models.manifest import VideoRow
from models.spans import label_times

_DTYPES = {"video_id": "str", "group": "str", "split": "str", "time_s": "f8", "label": "i1", "score": "f4"}
_RAW = "raw_score"
_KEY = ["split", "video_id", "time_s"]


def predictions_of(
    scored: Iterable[tuple[VideoRow, npt.NDArray[np.float64], npt.NDArray[np.float32]]],
) -> pd.DataFrame:
    """Return the frame table of scored videos.

    scored: a manifest row, times_s float64 [T] and scores float32 [T] for each video
    """
    parts = [
        pd.DataFrame(
            {
                "video_id": row.video_id,
                "group": row.group,
                "split": row.split,
                "time_s": times_s,
                "label": label_times(times_s, row.spans),
                "score": scores,
            }
        )
        for row, times_s, scores in scored
    ]
    if not parts:
        raise ShapeError("predictions: no val or test video to score; add some or change ingest.val_fraction")
    return check_predictions(pd.concat(parts, ignore_index=True), "predictions")


def calibrated_predictions(
    scored: Iterable[tuple[VideoRow, npt.NDArray[np.float64], npt.NDArray[np.float32]]], calibration: Calibration
) -> pd.DataFrame:
    """Return the frame table of videos from their logits, with the scores before and after calibration.

    scored: a manifest row, times_s float64 [T] and logits float32 [T] for each video
    """
    videos = list(scored)
    table = predictions_of((row, times_s, calibration.apply(logits)) for row, times_s, logits in videos)
    raw = predictions_of((row, times_s, NO_CALIBRATION.apply(logits)) for row, times_s, logits in videos)
    return table.assign(**{_RAW: raw["score"]})


def no_predictions() -> pd.DataFrame:
    """Return a frame table without rows: of a model that there is none of, such as zero-shot without a text tower."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _DTYPES.items()})


def check_predictions(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return `table` with its types and order settled. Raises ShapeError naming the first rule that is broken."""
    missing = [name for name in _DTYPES if name not in table.columns]
    if missing:
        raise ShapeError(f"{where}: columns {missing} are missing")
    dtypes = _DTYPES | ({_RAW: "f4"} if _RAW in table.columns else {})
    table = table[list(dtypes)].astype(dtypes).sort_values(_KEY, ignore_index=True)
    if not table["split"].isin(["val", "test"]).all():
        raise ShapeError(f"{where}: split must be val or test, found {sorted(set(table['split']) - {'val', 'test'})}")
    if not table["label"].isin([0, 1]).all():
        raise ShapeError(f"{where}: label must be 0 or 1")
    if not table.filter(["score", _RAW]).apply(lambda scores: scores.between(0, 1)).all(axis=None):
        raise ShapeError(f"{where}: score must lie in [0, 1], NaN is not a score")
    if table.duplicated(["video_id", "time_s"]).any():
        raise ShapeError(f"{where}: a frame occurs twice")
    return table


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Check `table` and write it as Parquet, atomically and with the same bytes for the same content."""
    content = pa.Table.from_pandas(check_predictions(table, str(path)), preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(content.replace_schema_metadata(None), temporary, compression="zstd")


def read_predictions(path: Path) -> pd.DataFrame:
    """Return the frame table in `path`. Raises ModelError where it is missing or is not one."""
    try:
        table = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise ModelError(f"{path}: not a frame table ({error}); run `dvc repro` again") from None
    return check_predictions(table, str(path))
