"""The manifest: one row a video, the table that every stage starts from; and the rows that were rejected.

Knows the columns, their types and how they are stored (Parquet with the same bytes for the same rows). Does not know
how a row is probed or validated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataError, ShapeError, TooManyRejected
from models.files import replacing, write_json
from models.importance import Importance, importance_of, list_scores
from models.spans import Span
from models.video import VideoInfo

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Caption:
    """Words for a stretch of a video, `[start_s, end_s)` in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class VideoRow(VideoInfo):
    """One video of the data set: what its file is, and what is known of it.

    video_id:     first 16 hexadecimal digits of the SHA-256 of its content
    path:         relative to data/videos, with forward slashes
    split:        train, val or test
    folder:       good, bad or other: what its folder says
    group:        recording it belongs to; never in two splits
    content:      category such as "bathing"; "" where unknown
    caption:      words for the whole clip; "" where unknown
    captions:     words for stretches of it
    segments:     its true highlights, in order, inside [0, duration_s]
    importance:   how important people found each of its shots; None where nobody was asked
    """

    video_id: str
    path: str
    split: str
    folder: str
    group: str
    content: str
    caption: str
    captions: tuple[Caption, ...]
    segments: tuple[Span, ...]
    importance: Importance | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """The true highlights."""
        return self.segments


@dataclass(frozen=True)
class Rejection:
    """One file that is not used.

    path:   relative to data/videos
    reason: why, in one line
    """

    path: str
    reason: str


_SEGMENT = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64())])
_CAPTION = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
_TYPES: dict[Any, pa.DataType] = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
_IMPORTANCE = pa.struct([("shot_s", pa.float64()), ("scores", pa.list_(pa.list_(pa.float64())))])
_NESTED = {"captions": pa.list_(_CAPTION), "segments": pa.list_(_SEGMENT), "importance": _IMPORTANCE}
_OF_FILE = {field.name for field in fields(VideoInfo)}
# What is known of a video, what its file is, importance: a stable sort.
_COLUMNS = sorted(fields(VideoRow), key=lambda field: (field.name == "importance", field.name in _OF_FILE))
_SCHEMA = pa.schema([(field.name, _NESTED.get(field.name, _TYPES.get(field.type))) for field in _COLUMNS])


def to_table(rows: Iterable[VideoRow]) -> pa.Table:
    """Return `rows`, sorted by path, as an Arrow table."""
    records = []
    for row in sorted(rows, key=lambda r: r.path):
        record = asdict(replace(row, importance=None))
        record["importance"] = None if row.importance is None else _stored(row.importance)
        record["segments"] = [{"start_s": span.start_s, "end_s": span.end_s} for span in row.segments]
        records.append(record)
    return pa.Table.from_pylist(records, schema=_SCHEMA)


def _stored(importance: Importance) -> dict[str, Any]:
    """Return `importance` as it lies in a column: annotators, their shots, null where one gave no score."""
    return {"shot_s": importance.shot_s, "scores": list_scores(importance)}


def write_manifest(path: Path, rows: Iterable[VideoRow]) -> None:
    """Write `rows` to `path`, atomically."""
    with replacing(path) as temporary:
        pq.write_table(to_table(rows), temporary, compression="zstd")


def read_manifest(path: Path) -> list[VideoRow]:
    """Return the rows in `path`, sorted by path. Raises DataError where it is missing or no manifest."""
    try:
        table = pq.ParquetFile(path).read()  # read_table would take a folder a=b above it for a column
        rows = []
        for record in table.to_pylist():
            record["captions"] = tuple(Caption(**caption) for caption in record["captions"])
            record["segments"] = tuple(Span(**segment) for segment in record["segments"])
            graded = record["importance"]
            record["importance"] = None if graded is None else importance_of(graded["shot_s"], graded["scores"])
            rows.append(VideoRow(**record))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ShapeError) as error:
        raise DataError(f"{path}: not a manifest ({error}); run stage ingest again") from None
    return rows


def write_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write the rejected rows as JSON, sorted by path."""
    write_json(path, [asdict(rejection) for rejection in sorted(rejections, key=lambda r: (r.path, r.reason))])


def refuse_too_many(rejections: Sequence[Rejection], num_files: int, limit: float, key: str) -> None:
    """Raise TooManyRejected when more than share `limit` (params key `key`) of `num_files` files were rejected."""
    if len(rejections) > limit * num_files:
        first = "; ".join(f"{rejection.path}: {rejection.reason}" for rejection in rejections[:3])
        raise TooManyRejected(
            f"{len(rejections)} of {num_files} videos are rejected, more than {key} = {limit} allows; first: {first}"
        )
