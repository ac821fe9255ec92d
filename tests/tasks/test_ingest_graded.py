"""Ingest of graded truth: the highlights that it means, and entries that cost their video alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from models.importance import importance_of
from models.manifest import SPLITS
from models.spans import Span
from models.video import VideoInfo
from tasks.annotations import parse_annotations
from tasks.ingest import IngestParams, IngestResult, Probed, build_rows, count_rows

INFO = VideoInfo(10.0, 0.0, 250, 25.0, 25.0, False, 64, 48, 0, "h264", "yuv420p", "mov", False, 1000)


def build(
    paths: Sequence[str], entries: Mapping[str, Any] | None = None, params: IngestParams | None = None
) -> IngestResult:
    """Return the manifest of videos of 10 s at `paths`."""
    videos = [Probed(path, f"{index:064x}"[::-1], INFO) for index, path in enumerate(paths)]
    return build_rows(videos, [], parse_annotations({"videos": entries or {}}), params or IngestParams())


def graded(*scores: Sequence[Any], shot_s: float = 2.0) -> dict[str, Any]:
    """Return an entry with importance: a list of shots for each annotator."""
    return {"importance": {"shot_s": shot_s, "scores": [list(shots) for shots in scores]}}


def test_graded_videos_have_their_best_shots_as_highlights() -> None:
    scores = [[1, 5, 4, None, 1], [None, 3, 4, 2, 1]]
    entries = {
        "pool/a.mp4": graded(*scores),
        "pool/b.mp4": graded(*scores) | {"segments": [[0, 1]]},
        "train/bad/c.mp4": graded(*scores),
        "train/bad/d.mp4": graded(*scores) | {"segments": []},
    }
    rows = {row.path: row for row in build([*entries, "pool/e.mp4"], entries).rows}
    assert rows["pool/a.mp4"].spans == (Span(2.0, 6.0),)  # both have a mean of 4, so that the fifth has two shots
    assert rows["pool/b.mp4"].spans == (Span(0.0, 1.0),)
    assert rows["train/bad/c.mp4"].spans == rows["train/bad/d.mp4"].spans == ()
    assert rows["pool/e.mp4"].spans == (Span(0.0, 10.0),)
    for path, row in rows.items():
        assert row.importance == (importance_of(2.0, scores) if path in entries else None)


def test_the_share_of_highlights_is_a_parameter() -> None:
    entries = {"pool/a.mp4": graded([1, 4, 4, 2, 1])}
    (row,) = build(["pool/a.mp4"], entries, IngestParams(highlight_fraction=0.6)).rows
    assert row.spans == (Span(2.0, 8.0),)


def test_graded_videos_are_counted_by_split() -> None:
    paths = ["test/a.mp4", "test/b.mp4", "train/c.mp4"]
    metrics = count_rows(build(paths, {"test/a.mp4": graded([1, 2, 3, 4, 5])}))
    assert [metrics[f"num_graded_{split}"] for split in SPLITS] == [0, 0, 1]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (graded([1] * 7), r"importance of 7 shots of 2 s covers 14.00 s, longer than the video of 10.00 s"),
        (graded([1] * 3), r"importance of 3 shots of 2 s covers 6.00 s, shorter than the video of 10.00 s"),
        (graded([1] * 5, shot_s=0.5), "covers 2.50 s, shorter than .* is shot_s right"),
        (graded([1] * 5, shot_s=5.0), "covers 25.00 s, longer than .* is shot_s right"),
        (graded([1] * 5, [1] * 4), "annotator 2 scored 4 shots, annotator 1 scored 5"),
        (graded([None] * 5), "nobody scored any shot"),
        (graded([1, 1, float("nan"), 1, 1]), r"importance.scores.0.2 = nan: .*finite"),
        (graded([1, 1, float("inf"), 1, 1]), "finite"),
        (graded([1, 1, "2", 1, 1]), r"importance.scores.0.2 = '2'"),
        (graded([1] * 5, shot_s=0), "importance.shot_s = 0"),
        (graded([]), "at least one of each"),
        (graded(), "importance.scores"),
        ({"importance": {"scores": [[1] * 5]}}, "importance.shot_s"),
        ({"importance": [1] * 5}, "importance = "),
    ],
)
def test_bad_importance_costs_its_video_alone(entry: Any, reason: str) -> None:
    result = build(["pool/a.mp4", "pool/b.mp4"], {"pool/a.mp4": entry})
    assert [row.path for row in result.rows] == ["pool/b.mp4"]
    (rejected,) = result.rejected
    assert rejected.path == "pool/a.mp4"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(rejected.reason)
    assert "\n" not in rejected.reason
