"""Shards, the frame table, checkpoints: what is stored comes back, what is stale or damaged does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.checkpoints import SafeCheckpointIO, pack, unpack
from models.errors import ModelError, ShapeError
from models.predictions import predictions_of, read_predictions, write_predictions
from models.shards import keep_only, read_frames_shard, read_tensors, shard_path, write_shard
from models.spans import Span


def store(folder: Path, video_id: str, mark: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    write_shard(
        folder, video_id, {"frames": frames, "times_s": np.arange(4) / 4}, {"fingerprint": mark, "duration_s": "1.0"}
    )


def test_only_shards_that_are_wanted_whole_and_fresh_are_kept(tmp_path: Path) -> None:
    for video_id, mark in (("fresh", "1"), ("stale", "0"), ("unwanted", "1"), ("damaged", "1")):
        store(tmp_path, video_id, mark)
    damaged = shard_path(tmp_path, "damaged")
    damaged.write_bytes(damaged.read_bytes()[:40])
    (tmp_path / ".half.123.part.safetensors").write_bytes(b"half")
    assert keep_only(tmp_path, {"fresh": "1", "stale": "1", "damaged": "1", "missing": "1"}) == {"fresh"}
    assert [p.stem for p in tmp_path.iterdir()] == ["fresh"]


def test_a_frame_shard_comes_back_and_a_truncated_one_says_so(tmp_path: Path) -> None:
    store(tmp_path, "a", "1")
    video = read_frames_shard(tmp_path, "a")
    assert video.frames_THWC.shape == (4, 8, 8, 3)
    assert video.duration_s == 1.0
    path = shard_path(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="damaged"):
        read_tensors(tmp_path, "a", ("frames",))


def test_the_frame_table_labels_frames_by_the_spans_of_their_video(make_row: Callable[..., Any]) -> None:
    row = make_row("b", split="val", segments=(Span(0.5, 1.0),))
    table = predictions_of([(row, np.array([0.0, 0.5, 0.75, 1.0]), np.full(4, 0.3, np.float32))])
    assert table["label"].tolist() == [0, 1, 1, 0]


def test_the_frame_table_has_the_same_bytes_whatever_the_order_it_came_in(
    make_row: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [make_row("x", split="test"), make_row("a", split="val")]
    scored = [(row, np.arange(3.0), np.full(3, 0.5, np.float32)) for row in rows]
    write_predictions(tmp_path / "1", predictions_of(scored))
    write_predictions(tmp_path / "2", predictions_of(scored[::-1]))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert read_predictions(tmp_path / "1")["video_id"].tolist() == ["x"] * 3 + ["a"] * 3


GOOD = {
    "video_id": ["a", "a"],
    "group": ["g", "g"],
    "split": ["val", "val"],
    "time_s": [0.0, 1.0],
    "label": [0, 1],
    "score": [0.1, 0.9],
}


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("score", [0.1, float("nan")], "NaN is not a score"),
        ("score", [0.1, 1.5], "score"),
        ("label", [0, 2], "label must be"),
        ("split", ["val", "train"], "split must be"),
        ("time_s", [1.0, 1.0], "twice"),
        ("group", None, "missing"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, column: str, values: list[Any] | None, says: str) -> None:
    table = pd.DataFrame({k: v for k, v in {**GOOD, column: values}.items() if v is not None})
    with pytest.raises(ShapeError, match=says):
        write_predictions(tmp_path / "t", table)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_truncated_table_says_what_to_do(tmp_path: Path) -> None:
    write_predictions(tmp_path / "t", pd.DataFrame(GOOD))
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:50])
    for name in ("t", "none"):
        with pytest.raises(ModelError, match="dvc repro"):
            read_predictions(tmp_path / name)


numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | st.text()
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(trees)
def test_what_a_checkpoint_packs_it_unpacks(tree: Any) -> None:
    assert unpack(pack(tree, {}), {}) == tree


def test_a_checkpoint_holds_tensors_and_refuses_what_only_pickle_could_hold(tmp_path: Path) -> None:
    state, optimizer = {"w": torch.arange(3.0)}, {0: {"step": torch.tensor(5)}}
    checkpoint = {"state": state, "optimizer": optimizer, "loops": [1, (2, "x")]}
    SafeCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last")
    found = SafeCheckpointIO().load_checkpoint(tmp_path / "last")
    assert torch.equal(found["state"]["w"], torch.arange(3.0))
    assert found["optimizer"][0]["step"] == 5
    assert found["loops"] == [1, (2, "x")]
    with pytest.raises(ModelError, match="without pickle"):
        SafeCheckpointIO().save_checkpoint({"f": object()}, tmp_path / "bad")
    (tmp_path / "last" / "state.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last")
