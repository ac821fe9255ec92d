"""The manifest: one row a video, and its Parquet file.

Knows the columns and their types; knows nothing of how a row is found out (tasks/ingest.py) or judged
(tasks/validate.py). The same rows give the same bytes: no timestamps, no index, fixed compression.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataError, ShapeError
from models.files import replacing
from models.spans import Span

SPLITS = ("train", "val", "test")
FOLDERS = ("good", "bad", "other")


@dataclass(frozen=True)
class Caption:
    """What is to be seen in one stretch of a video.

    start_s: first instant inside, seconds
    end_s:   first instant after, seconds, above start_s
    text:    one sentence
    """

    start_s: float
    end_s: float
    text: str

    def __post_init__(self) -> None:
        Span(self.start_s, self.end_s)


@dataclass(frozen=True)
class VideoRow:
    """One video of the manifest.

    video_id:     first 16 hexadecimal digits of the SHA-256 of the file
    path:         relative to data/videos, with forward slashes
    split:        train, val or test
    folder:       good, bad or other: the folder rule that applied
    group:        the recording; no group lies in two splits
    content:      category, "" where unknown
    caption:      of the whole clip, "" where there is none
    captions:     of stretches, in order
    segments:     highlights, seconds, in order, disjoint, inside [0, duration_s)
    duration_s … num_bytes: as in models.video.VideoInfo
    """

    video_id: str
    path: str
    split: str
    folder: str
    group: str
    content: str
    caption: str
    captions: tuple[Caption, ...]
    segments: tuple[tuple[float, float], ...]
    duration_s: float
    start_pts_s: float
    num_frames: int
    mean_fps: float
    nominal_fps: float
    is_vfr: bool
    width: int
    height: int
    rotation_deg: int
    codec: str
    pix_fmt: str
    container: str
    has_audio: bool
    num_bytes: int

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ShapeError(f"manifest row {self.path}: split {self.split!r} must be one of {', '.join(SPLITS)}")
        if self.folder not in FOLDERS:
            raise ShapeError(f"manifest row {self.path}: folder {self.folder!r} must be one of {', '.join(FOLDERS)}")

    @property
    def spans(self) -> tuple[Span, ...]:
        """The highlights as spans, in order."""
        return tuple(Span(start_s, end_s) for start_s, end_s in self.segments)


_SPAN_TYPE = [("start_s", pa.float64()), ("end_s", pa.float64())]
SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("video_id", "path", "split", "folder", "group")]
    + [pa.field(name, pa.string(), nullable=False) for name in ("content", "caption")]
    + [
        pa.field("captions", pa.list_(pa.struct([*_SPAN_TYPE, ("text", pa.string())])), nullable=False),
        pa.field("segments", pa.list_(pa.struct(_SPAN_TYPE)), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("start_pts_s", pa.float64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("mean_fps", pa.float64(), nullable=False),
        pa.field("nominal_fps", pa.float64(), nullable=False),
        pa.field("is_vfr", pa.bool_(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rotation_deg", pa.int32(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("pix_fmt", pa.string(), nullable=False),
        pa.field("container", pa.string(), nullable=False),
        pa.field("has_audio", pa.bool_(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
    ]
)


def to_table(rows: Iterable[VideoRow]) -> pa.Table:
    """Return `rows` as a table of SCHEMA, sorted by path."""
    records = []
    for row in sorted(rows, key=lambda row: row.path):
        record = asdict(row)
        record["segments"] = [{"start_s": start_s, "end_s": end_s} for start_s, end_s in row.segments]
        records.append(record)
    return pa.Table.from_pylist(records, schema=SCHEMA)


def from_table(table: pa.Table) -> list[VideoRow]:
    """Return the rows of a table of SCHEMA; further columns are left alone. Raises DataError on a missing column."""
    names = [part.name for part in fields(VideoRow)]
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise DataError(f"manifest: no column {', '.join(missing)}; run `dvc repro ingest` again")
    return [
        VideoRow(
            **{
                **record,
                "captions": tuple(Caption(**caption) for caption in record["captions"]),
                "segments": tuple((segment["start_s"], segment["end_s"]) for segment in record["segments"]),
            }
        )
        for record in table.select(names).to_pylist()
    ]


def write_manifest(path: Path, rows: Iterable[VideoRow]) -> None:
    """Write `rows`, sorted by path, to the Parquet file `path`, atomically and to the same bytes each time."""
    with replacing(path) as temporary:
        pq.write_table(to_table(rows), temporary, compression="zstd", version="2.6", write_statistics=True)


def read_manifest(path: Path) -> list[VideoRow]:
    """Return the rows of the Parquet file `path`. Raises DataError where it is missing or no manifest."""
    try:
        return from_table(pq.ParquetFile(path).read())
    except FileNotFoundError:
        raise DataError(f"{path}: no manifest; run `dvc repro ingest` first") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a manifest: {' '.join(str(error).split())}") from None
