"""The manifest comes back as it was written, to the same bytes, and a file that is none is told."""

import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import DataError, TooManyRejected
from models.files import read_json
from models.importance import importance_of
from models.manifest import (
    Caption,
    Rejection,
    VideoRow,
    read_manifest,
    refuse_too_many,
    to_table,
    write_manifest,
    write_rejections,
)
from models.spans import Span

MakeRow = Callable[..., VideoRow]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
seconds = st.floats(0, 1e6)
spans = st.lists(st.tuples(seconds, st.floats(0.001, 1e3)), max_size=4).map(
    lambda pairs: tuple(Span(start_s, start_s + length_s) for start_s, length_s in pairs)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    path=names,
    caption=st.text(string.printable),
    segments=spans,
    start_s=st.floats(-1e6, 1e6),
    num=st.integers(1, 2**60),
)
def test_rows_come_back_exactly(
    make_row: MakeRow,
    tmp_path: Path,
    path: str,
    caption: str,
    segments: tuple[Span, ...],
    start_s: float,
    num: int,
) -> None:
    captions = tuple(Caption(span.start_s, span.end_s, caption) for span in segments)
    row = make_row("a", path=path, caption=caption, segments=segments, captions=captions, start_pts_s=start_s)
    write_manifest(tmp_path / "m.parquet", [replace(row, num_bytes=num)])
    (found,) = read_manifest(tmp_path / "m.parquet")
    assert found == replace(row, num_bytes=num)
    assert found.spans == segments


def test_order_and_time_of_writing_leave_no_trace(make_row: MakeRow, tmp_path: Path) -> None:
    rows = [make_row(video_id, path=f"{video_id}.mp4") for video_id in ("b", "a", "c")]
    write_manifest(tmp_path / "one.parquet", rows)
    write_manifest(tmp_path / "two.parquet", reversed(rows))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert [row.path for row in read_manifest(tmp_path / "one.parquet")] == ["a.mp4", "b.mp4", "c.mp4"]


def test_importance_comes_back_with_its_gaps_and_to_the_same_bytes(make_row: MakeRow, tmp_path: Path) -> None:
    importance = importance_of(2.0, [[1, None, 3.5], [None, None, 0.1 + 0.2]])
    rows = [make_row("a", path="a.mp4", importance=importance), make_row("b", path="b.mp4")]
    write_manifest(tmp_path / "one.parquet", rows)
    found = read_manifest(tmp_path / "one.parquet")
    assert found == rows
    assert found[0].importance == importance
    assert found[1].importance is None
    write_manifest(tmp_path / "two.parquet", reversed(found))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_manifest_of_ragged_annotators_is_told(make_row: MakeRow, tmp_path: Path) -> None:
    table = to_table([make_row("a")])
    ragged = pa.array([{"shot_s": 2.0, "scores": [[1.0], [1.0, 2.0]]}], table.schema.field("importance").type)
    index = table.schema.get_field_index("importance")
    pq.write_table(table.set_column(index, "importance", ragged), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="annotator 2 scored 2 shots"):
        read_manifest(tmp_path / "m.parquet")


def test_an_empty_manifest_keeps_its_columns(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.parquet", [])
    assert read_manifest(tmp_path / "m.parquet") == []
    assert pq.read_schema(tmp_path / "m.parquet").field("segments").type == pa.list_(
        pa.struct([("start_s", pa.float64()), ("end_s", pa.float64())])
    )


def test_folders_above_are_no_columns(make_row: MakeRow, tmp_path: Path) -> None:
    path = tmp_path / "split=none" / "fps=4" / "m.parquet"
    write_manifest(path, [make_row("a", split="val")])
    assert read_manifest(path)[0].split == "val"


@pytest.mark.parametrize("content", [None, b"", b"PAR1 not really PAR1", {"path": ["a"]}])
def test_what_is_no_manifest_is_told(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "m.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pq.write_table(pa.table(content), path)
    with pytest.raises(DataError, match="not a manifest") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_rejections_are_sorted_and_counted(tmp_path: Path) -> None:
    rejections = [Rejection("b", "broken"), Rejection("a", "empty")]
    write_rejections(tmp_path / "r.json", rejections)
    assert read_json(tmp_path / "r.json") == [{"path": "a", "reason": "empty"}, {"path": "b", "reason": "broken"}]
    refuse_too_many(rejections, 20, 0.1, "ingest.max_rejected_fraction")
    with pytest.raises(TooManyRejected, match=r"2 of 19 .* ingest.max_rejected_fraction = 0.1 .*b: broken"):
        refuse_too_many(rejections, 19, 0.1, "ingest.max_rejected_fraction")
