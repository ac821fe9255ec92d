"""What stage train aims at: labels, or graded importance on [0, 1]; and a multiscale head that learns it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import DataError
from models.highlighter import Highlighter, HighlighterSpec
from models.importance import Importance
from models.loop import LoopParams, logits_of_video
from models.metrics import spearman_rho
from models.shards import write_shard
from models.spans import Span
from models.tower import Tower
from tasks.train import importance_range, open_videos, settle_basis, train
from tests.tiny_model import DIM, TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
]
NUM_SHOTS, PER_SHOT, SHOT_S, FPS = 12, 12, 3.0, 4


def graded(scores: list[list[float]], shot_s: float = 1.0) -> Importance:
    return Importance(shot_s, np.array(scores, np.float64))


def write_tokens(folder: Path, name: str, times_s: np.ndarray, tokens_TLD: np.ndarray) -> None:
    write_shard(folder, name, {"tokens": tokens_TLD[None].astype(np.float16), "times_s": times_s}, {"num_views": "1"})


def test_importance_is_put_on_0_to_1_by_what_people_gave_in_train(make_row: Callable[..., Any], tmp_path: Path) -> None:
    times_s = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    rows = [
        make_row("a", importance=graded([[1, 3, 5], [1, 5, 5]])),
        make_row("b", split="val", importance=graded([[0, 9, np.nan]])),
        make_row("c", segments=(Span(1.0, 2.0),)),
    ]
    for row in rows:
        write_tokens(tmp_path, row.video_id, times_s, np.zeros((6, 1, 2)))
    opened = open_videos(rows, tmp_path, "importance")
    np.testing.assert_allclose(opened["a"].targets, [0, 0, 0.75, 0.75, 1, 1])
    # what val says sets no range, and what nobody scored is unknown
    np.testing.assert_allclose(opened["b"].targets, [0, 0, 1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(opened["c"].targets, [0, 0, 1, 1, 0, 0])
    by_label = open_videos(rows, tmp_path, "labels")
    for row in rows:
        np.testing.assert_array_equal(by_label[row.video_id].targets, by_label[row.video_id].labels)


def test_scores_that_are_all_equal_cannot_be_learnt() -> None:
    assert importance_range([graded([[2, 3]]), graded([[1, np.nan]])]) == (1.0, 3.0)
    with pytest.raises(DataError, match="every score in the train split is 3"):
        importance_range([graded([[3, 3]]), graded([[3, np.nan]])])


def test_a_committee_learns_graded_truth_that_labels_do_not_tell(make_row: Callable[..., Any], tmp_path: Path) -> None:
    """Importance follows a direction of the embedding; below the highlights, where all labels are 0, too."""
    torch.manual_seed(1)
    spec = HighlighterSpec(
        **{**TINY.__dict__, "unfreeze_blocks": 0, "temporal": "multiscale", "num_members": 3, "window": 256}
    )
    direction = np.random.default_rng(9).normal(size=DIM)
    rows = []
    for index in range(10):
        draw = np.random.default_rng(index)
        strength_S = draw.uniform(0, 1, NUM_SHOTS)
        x = np.repeat(strength_S - 0.5, PER_SHOT)[:, None] * direction + 0.3 * draw.normal(
            size=(NUM_SHOTS * PER_SHOT, DIM)
        )
        name = f"v{index}"
        write_tokens(tmp_path / "tokens", name, np.arange(len(x)) / FPS, x[:, None])
        scores = [np.clip(np.round(1 + 4 * strength_S + draw.normal(0, 0.3, NUM_SHOTS)), 1, 5) for _ in range(3)]
        split = "train" if index < 6 else "val" if index < 8 else "test"
        best_s = SHOT_S * float(strength_S.argmax())
        segments = (Span(best_s, best_s + SHOT_S),)
        rows.append(
            make_row(
                name, split=split, importance=graded([s.tolist() for s in scores], SHOT_S), segments=segments,
                duration_s=NUM_SHOTS * SHOT_S,
            )
        )  # fmt: skip

    def fitted() -> tuple[Highlighter, Any, dict[str, Any]]:
        torch.manual_seed(0)
        model = Highlighter(spec)
        model.tower = _PassThrough(model.tower)  # type: ignore[assignment]
        videos = open_videos(rows, tmp_path / "tokens", "importance")
        settle_basis(model, [videos[row.video_id] for row in rows if row.split == "train"])
        params = LoopParams(epochs=50, batch_size=3, learning_rate=3e-3, loss="regression", keep="last", speeds=(1,))
        return model, train(model, spec, rows, videos, params, tmp_path / "checkpoints"), videos

    model, result, videos = fitted()
    assert len(result.history) == 50  # keep = last: no early stop
    for row in rows[8:]:
        assert row.importance is not None
        truth = row.importance.at(videos[row.video_id].times_s)
        assert spearman_rho(truth, logits_of_video(model, videos[row.video_id], 256).astype(np.float64)) > 0.6
    again, _, _ = fitted_after_clearing(tmp_path, fitted)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def fitted_after_clearing(tmp_path: Path, fitted: Callable[[], Any]) -> Any:
    shutil.rmtree(tmp_path / "checkpoints")
    return fitted()


class _PassThrough(torch.nn.Module):
    """A tower whose stored tokens are its embeddings, as those of an ONNX tower are."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.embed_dim = tower.embed_dim

    def tail(self, tokens_NLD: torch.Tensor) -> torch.Tensor:
        return tokens_NLD[:, 0]

    def freeze_front(self) -> None:
        pass
