"""Labels of a folder: three formats, one bad entry at a time, and whose label is whose."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import AnnotationError, DataError
from models.importance import importance_of
from models.spans import Span
from tasks.graded_labels import LabelFile, labels_of, match_labels, read_labels


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- formats --------------------------------------------------------------------------------------------------------


def test_herdlight_annotations(tmp_path: Path) -> None:
    graded = {"importance": {"shot_s": 1.0, "scores": [[1, None, 3, 1, 1]]}}
    entries = {
        "pool/a.mp4": graded,
        "pool/b.mp4": graded | {"segments": [[0, 1]]},
        "pool/c.mp4": {"segments": []},
        "pool/d.mp4": {"caption": "rain"},
        "pool/e.mp4": {"importance": {"shot_s": -1, "scores": [[1]]}},
        "x/bad/f.mp4": {"segments": [[0, 1]]},
    }
    labels = read_labels(write(tmp_path / "annotations.json", {"videos": entries}))
    assert labels.format == "annotations"
    assert labels.names == sorted(entries)
    assert labels_of(labels, "pool/a.mp4", 5.0).segments == (Span(2.0, 3.0),)
    assert labels_of(labels, "pool/b.mp4", 5.0).segments == (Span(0.0, 1.0),)
    assert labels_of(labels, "pool/b.mp4", 5.0).importance == importance_of(1.0, graded["importance"]["scores"])
    assert labels_of(labels, "pool/c.mp4", 5.0).segments == ()
    assert labels_of(labels, "pool/c.mp4", 5.0).importance is None
    for name, reason in (("d", "neither importance nor segments"), ("e", "importance.shot_s = -1")):
        with pytest.raises(AnnotationError, match=reason):
            labels_of(labels, f"pool/{name}.mp4", 5.0)
    with pytest.raises(AnnotationError, match="lies under bad/"):
        labels_of(labels, "x/bad/f.mp4", 5.0)
    with pytest.raises(AnnotationError, match=r"5 shots of 1 s covers 5.00 s, shorter than the video of 9.00 s"):
        labels_of(labels, "pool/a.mp4", 9.0)


def test_tvsum_json(tmp_path: Path) -> None:
    entries = {
        "mean": {"shot_s": 2.0, "mean_scores": [1, 5, 1], "highlights": [[2, 4], [4, 7], [8, 9]], "title": "x"},
        "each": {"mean_scores": [1, 1, 1], "user_scores": [[1, 2, None], [None, 5, 3]]},
        "spans": {"highlights": [[0, 1]]},
        "none": {"title": "nothing"},
        "text": {"mean_scores": ["1"]},
        "ragged": {"user_scores": [[1, 2], [1]]},
    }
    labels = read_labels(write(tmp_path / "labels.json", entries))
    assert labels.format == "tvsum"
    found = labels_of(labels, "mean", 6.5)
    assert found.segments == (Span(2.0, 6.5),)
    assert found.importance == importance_of(2.0, [[1, 5, 1]])
    assert labels_of(labels, "each", 6.0).importance == importance_of(2.0, [[1, 2, None], [None, 5, 3]])
    assert labels_of(labels, "each", 6.0).segments == (Span(2.0, 4.0),)
    assert labels_of(labels, "spans", 6.0).importance is None
    reasons = {"none": "no mean_scores", "text": "mean_scores.0 = '1'", "ragged": "annotator 2 scored 1 shots"}
    for name, reason in reasons.items():
        with pytest.raises(AnnotationError, match=reason):
            labels_of(labels, name, 4.0)


def test_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "labels.bin"
    scores = np.array([[1, 2], [5, 5], [np.nan, 1]])
    with h5py.File(path, "w") as file:
        file["-a/user_scores"] = scores
        file["b/user_scores"] = scores[:2].astype(np.uint8)
        file["b"].attrs["shot_s"] = 0.5
        file["flat/user_scores"] = [1, 2]
        file["text/user_scores"] = [["x"]]
        file["infinite/user_scores"] = [[np.inf]]
        file["missing/gt_score"] = [1.0]
        file["no group"] = [1.0]
        file["dangling"] = h5py.SoftLink("/nowhere")
    labels = read_labels(path)
    assert labels.format == "hdf5"
    assert labels.names == ["-a", "b", "dangling", "flat", "infinite", "missing", "text"]
    assert labels_of(labels, "-a", 6.0).importance == importance_of(2.0, [[1, 5, None], [2, 5, 1]])
    assert labels_of(labels, "-a", 6.0).segments == (Span(2.0, 4.0),)
    assert labels_of(labels, "b", 1.0).importance == importance_of(0.5, [[1, 5], [2, 5]])
    for name, reason in (
        ("flat", "must be numbers"),
        ("text", "must be numbers"),
        ("missing", "only gt_score"),
        ("dangling", "labels: "),
    ):
        with pytest.raises(AnnotationError, match=reason):
            labels_of(labels, name, 6.0)
    with pytest.raises(AnnotationError, match="infinite"):
        labels_of(labels, "infinite", 2.0)


def test_tvsum_itself_in_both_files(shared: Path) -> None:
    folder = shared / "data" / "tvsum"
    each, mean = read_labels(folder / "tvsum_2s.h5"), read_labels(folder / "labels.json")
    assert each.names == mean.names
    assert len(each.names) == 33
    for name, entry in json.loads((folder / "labels.json").read_text()).items():
        graded, known = (labels_of(file, name, entry["duration_s"]).importance for file in (each, mean))
        assert graded is not None
        assert known is not None
        assert graded.num_annotators == 20
        np.testing.assert_allclose(graded.mean_S, known.mean_S, atol=0.006)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "neither JSON nor HDF5"),
        (b"\xff\xfe", "neither JSON nor HDF5"),
        (b"[" * 100_000, "neither JSON nor HDF5"),
        (b"[1]", "neither {videos"),
        (b'{"a": 1}', "neither {videos"),
        (b"{}", "no video in it"),
        (b'{"videos": {}}', "no video in it"),
        (b'{"videos": []}', "must be a mapping"),
        (b'{"a": {}, "a": {}}', "a stands twice"),
    ],
)
def test_what_is_no_label_file_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "nowhere.json")


def test_nan_in_json_costs_its_video_alone(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"a": {"mean_scores": [1, NaN]}, "b": {"mean_scores": [1, null]}}')
    labels = read_labels(tmp_path / "l.json")
    with pytest.raises(AnnotationError, match=r"mean_scores.1 = nan"):
        labels_of(labels, "a", 4.0)
    found = labels_of(labels, "b", 4.0).importance
    assert found is not None
    assert math.isnan(found.mean_S[1])
    assert isinstance(labels, LabelFile)


# --- matching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("video", "label"),
    [
        ("a.mp4", "a.mp4"), ("x/a.mp4", "x/a.mp4"), ("x/a.mp4", "x/a"), ("x/a.mp4", "a.mp4"), ("x/a.mp4", "a"),
        ("a.mp4", "test/good/a.mp4"), ("-a_1.mp4", "-a_1"), ("v.1.mp4", "v.1"), ("a.mkv", "pool/a.mp4"),
        ("e\u0301.mp4", "\u00e9"),
    ],
)  # fmt: skip
def test_a_video_finds_its_label(video: str, label: str) -> None:
    found = match_labels([video, "other.mp4"], [label, "nobody"])
    assert found.label_of == {video: label}
    assert found.unlabelled == {"other.mp4": "no label for it"}
    assert found.without_video == ("nobody",)


def test_a_nearer_match_goes_first() -> None:
    found = match_labels(["x/a.mp4", "y/a.mp4"], ["x/a.mp4", "a"])
    assert found.label_of == {"x/a.mp4": "x/a.mp4", "y/a.mp4": "a"}
    assert match_labels(["v.mp4", "v.1.mp4"], ["v.1", "v"]).label_of == {"v.mp4": "v", "v.1.mp4": "v.1"}


def test_what_is_ambiguous_is_not_guessed() -> None:
    found = match_labels(["x/a.mp4", "y/a.mp4", "b.mp4"], ["a", "p/b.mp4", "q/b.mp4"])
    assert found.label_of == {}
    assert set(found.unlabelled) == {"x/a.mp4", "y/a.mp4", "b.mp4"}
    assert "x/a.mp4, y/a.mp4 could each have the label a" in found.unlabelled["x/a.mp4"]
    assert "p/b.mp4, q/b.mp4" in found.unlabelled["b.mp4"]
    assert found.without_video == ("a", "p/b.mp4", "q/b.mp4")


names = st.text("abé.-", min_size=1, max_size=4).filter(lambda name: name.strip("."))
paths = st.lists(st.tuples(st.sampled_from(["", "x/", "y/"]), names).map("".join), max_size=8, unique=True)


@given(paths, paths)
def test_nothing_is_dropped_or_used_twice(videos: list[str], labels: list[str]) -> None:
    found = match_labels(videos, labels)
    assert sorted([*found.label_of, *found.unlabelled]) == sorted(videos)
    assert sorted([*found.label_of.values(), *found.without_video]) == sorted(labels)
    for video in set(videos) & set(labels):
        assert found.label_of[video] == video
    composed = [unicodedata.normalize("NFD", video) for video in videos]
    assert len(match_labels(composed, labels).label_of) == len(found.label_of)
