"""Highlights as tables: JSON for programs, CSV for spreadsheets, Parquet for data frames.

Knows three encodings of one list of rows; needs no footage. A table without a highlight has its columns and no row,
and the JSON says so in words.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.files import replacing, write_json, write_text
from tasks.handoff.values import Scored

SCHEMA_NAME = "herdlight.highlights/1"
NOTHING = "no highlight: no stretch of these videos reaches its threshold"
_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("video_id", pa.string()),
        ("index", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("start", pa.string()),
        ("end", pa.string()),
        ("score", pa.float64()),
        ("category", pa.string()),
        ("category_probability", pa.float64()),
        ("threshold", pa.float64()),
        ("video_duration_s", pa.float64()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("model_sha256", pa.string()),
    ]
)
# A spreadsheet takes a cell that starts with one of these for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@")


def clock(seconds: float) -> str:
    """Return `seconds` as HH:MM:SS.mmm."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def table_rows(videos: Sequence[Scored]) -> Iterator[dict[str, Any]]:
    """Yield one row for each highlight, with the columns of the tables; `index` counts from 1 in each video."""
    for video in videos:
        for index, highlight in enumerate(video.highlights, 1):
            yield {
                "video": video.video,
                "video_id": video.video_id,
                "index": index,
                "start_s": highlight.start_s,
                "end_s": highlight.end_s,
                "duration_s": highlight.duration_s,
                "start": clock(highlight.start_s),
                "end": clock(highlight.end_s),
                "score": highlight.score,
                "category": highlight.category,
                "category_probability": highlight.category_probability,
                "threshold": video.threshold,
                "video_duration_s": video.duration_s,
                "model": video.model.name,
                "model_version": video.model.version,
                "model_sha256": video.model.sha256,
            }


def write_json_table(path: Path, videos: Sequence[Scored]) -> None:
    """Write all videos, those without a highlight too, with theirs."""
    rows = list(table_rows(videos))
    content: dict[str, Any] = {"schema": SCHEMA_NAME, "num_videos": len(videos), "num_highlights": len(rows)}
    if not rows:
        content["note"] = NOTHING
    content["videos"] = [
        {
            "video": video.video,
            "video_id": video.video_id,
            "duration_s": video.duration_s,
            "threshold": video.threshold,
            **({"partial": video.partial} if video.partial else {}),
            **({"note": video.note} if video.note else {}),
            "model": {"name": video.model.name, "version": video.model.version, "sha256": video.model.sha256},
            "highlights": [
                {
                    "start_s": highlight.start_s,
                    "end_s": highlight.end_s,
                    "score": highlight.score,
                    "category": highlight.category,
                    "category_probability": highlight.category_probability,
                }
                for highlight in video.highlights
            ],
        }
        for video in videos
    ]
    write_json(path, content)


def write_csv_table(path: Path, videos: Sequence[Scored]) -> None:
    """Write one line for each highlight; a name that a spreadsheet would run as a formula gets ./ before it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(key, value) for key, value in row.items()} for row in table_rows(videos))
    write_text(path, text.getvalue())


def _cell(key: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA_STARTS):
        return value
    return f"./{value}" if key == "video" else f"'{value}"


def write_parquet_table(path: Path, videos: Sequence[Scored]) -> None:
    """Write one row for each highlight."""
    table = pa.Table.from_pylist(list(table_rows(videos)), schema=_SCHEMA)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
