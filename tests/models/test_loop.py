"""The training loop: it learns what only motion shows, gives the same weights twice, and resumes to the same ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import loop
from models.encoder import EncoderSpec
from models.highlighter import Highlighter, HighlighterSpec
from models.loop import LoopParams, fit, score_video
from models.metrics import average_precision
from models.shards import write_shard
from models.video import Sampling
from models.windows import LabelledVideo, TokenWindows, collate, open_video, read_tokens

import models.torchvision_operators  # noqa: F401  # isort: skip
from lightning.pytorch.callbacks import Callback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
]
WIDTH, TOKENS = 16, 5


@pytest.fixture(scope="module")
def spec() -> HighlighterSpec:
    vision = {"image_size": 16, "layers": 2, "width": WIDTH, "head_width": 8, "patch_size": 8}
    encoder = EncoderSpec("tiny", None, {"embed_dim": 16, "vision_cfg": vision}, 16, (0.5,) * 3, (0.5,) * 3)
    return HighlighterSpec(encoder, Sampling(4, 16), 1, "transformer", 16, 8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[LabelledVideo]]:
    """Make videos in which a frame is a highlight when the pattern moves; any single frame looks the same in both."""
    folder = tmp_path_factory.mktemp("tokens")
    draw = np.random.default_rng(0)
    basis = draw.normal(size=(4, TOKENS, WIDTH))
    made: dict[str, list[LabelledVideo]] = {"train": [], "val": []}
    for index in range(32):
        labels = np.repeat(draw.permutation([0, 1, 0, 1]), 6).astype(np.int8)
        phase = np.cumsum(labels) + draw.integers(0, 4)
        tokens = (basis[phase % 4] + 0.1 * draw.normal(size=(24, TOKENS, WIDTH))).astype(np.float16)
        name = f"v{index}"
        write_shard(folder, name, {"tokens": tokens[None], "times_s": np.arange(24) / 4}, {"num_views": "1"})
        made["train" if index < 24 else "val"].append(open_video(folder, name, labels))
    return made


PARAMS = LoopParams(epochs=8, learning_rate=5e-3, speeds=(1,), batch_size=8, patience=20)


def new_model(spec: HighlighterSpec) -> Highlighter:
    torch.manual_seed(0)
    return Highlighter(spec)


def scores_of(model: Highlighter, spec: HighlighterSpec, videos: list[LabelledVideo]) -> tuple[Any, Any]:
    return (
        np.concatenate([v.labels for v in videos]),
        np.concatenate([score_video(model, v, spec.window) for v in videos]),
    )


def test_motion_is_learned_by_the_time_aware_head_and_cannot_be_without_it(
    spec: HighlighterSpec, videos: dict[str, list[LabelledVideo]], tmp_path: Path
) -> None:
    found = {}
    for kind in ("transformer", "none"):
        kind_spec = HighlighterSpec(**{**spec.__dict__, "temporal": kind})
        model = new_model(kind_spec)
        history = fit(model, videos["train"], videos["val"], spec.window, PARAMS, tmp_path / kind)
        assert len(history) == PARAMS.epochs
        found[kind] = average_precision(*scores_of(model, kind_spec, videos["val"]))
    assert found["transformer"] > 0.9
    assert found["none"] < 0.7


def test_two_runs_give_the_same_weights_and_so_does_one_that_was_stopped_and_resumed(
    spec: HighlighterSpec, videos: dict[str, list[LabelledVideo]], tmp_path: Path
) -> None:
    class StopAfter(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    params = PARAMS.model_copy(update={"epochs": 4})
    weights = []
    for name in ("a", "b", "stopped"):
        model = new_model(spec)
        if name == "stopped":
            with pytest.raises(RuntimeError, match="power cut"):
                fit(model, videos["train"], videos["val"], 8, params, tmp_path / name, callbacks=[StopAfter()])
            model = new_model(spec)
        history = fit(model, videos["train"], videos["val"], 8, params, tmp_path / name)
        assert [row["epoch"] for row in history] == [1, 2, 3, 4]
        weights.append(torch.cat([p.flatten() for p in model.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_frozen_blocks_keep_their_weights_and_trained_ones_move(
    spec: HighlighterSpec, videos: dict[str, list[LabelledVideo]], tmp_path: Path
) -> None:
    model, before = new_model(spec), new_model(spec).state_dict()
    fit(model, videos["train"], videos["val"], 8, PARAMS.model_copy(update={"epochs": 1}), tmp_path)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if "resblocks.0." in name or "conv1" in name}
    assert any("resblocks.1." in name for name in moved)
    assert any(name.startswith("head.") for name in moved)
    shutil.rmtree(tmp_path)


def test_a_window_depends_on_seed_epoch_and_index_only(videos: dict[str, list[LabelledVideo]]) -> None:
    first, second = (TokenWindows(videos["train"], 8, (1, 2), seed=3) for _ in range(2))
    for _ in range(5):
        second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[7], second[7], strict=True))
    second.set_epoch(1)
    assert any(not torch.equal(first[i][0], second[i][0]) for i in range(len(first)))


def test_every_video_gives_windows_in_proportion_to_its_length(videos: dict[str, list[LabelledVideo]]) -> None:
    assert len(TokenWindows(videos["val"], 7, (1,), 0)) == len(videos["val"]) * 4


def test_at_twice_the_speed_every_second_frame_is_seen_in_half_the_time(videos: dict[str, list[LabelledVideo]]) -> None:
    tokens, times_s, labels = TokenWindows(videos["train"][:1], 8, (2,), 0)[0]
    video = videos["train"][0]
    assert times_s.tolist() == pytest.approx([i / 4 for i in range(8)])
    whole = read_tokens(video, 0, 0, 24)
    start = next(i for i in range(24) if torch.equal(whole[i], tokens[0]))
    assert torch.equal(tokens, whole[start : start + 16 : 2])
    assert labels.tolist() == video.labels[start : start + 16 : 2].tolist()


def test_padding_is_masked_and_time_does_not_run_back() -> None:
    windows = [(torch.ones(n, 2, 3), torch.arange(n) / 4.0, torch.ones(n)) for n in (2, 4)]
    batch = collate(windows)
    assert batch.mask_BW.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.times_s_BW[0].tolist() == [0.0, 0.25, 0.25, 0.25]
    assert batch.tokens_BWLD.shape == (2, 4, 2, 3)


def test_a_fixed_description_is_made_once_and_training_is_the_same(
    spec: HighlighterSpec, videos: dict[str, list[LabelledVideo]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = HighlighterSpec(
        **{**spec.__dict__, "unfreeze_blocks": 0, "temporal": "multiscale", "num_members": 3, "window": 64}
    )
    params = PARAMS.model_copy(update={"epochs": 3, "keep": "last"})
    embedded = []
    for video in videos["train"][:6]:
        tokens = torch.randn(len(video.times_s), 1, 16, generator=torch.Generator().manual_seed(len(embedded)))
        write_shard(
            tmp_path, video.path.stem, {"tokens": tokens[None].half().numpy(), "times_s": video.times_s},
            {"num_views": "1"},
        )  # fmt: skip
        embedded.append(open_video(tmp_path, video.path.stem, video.labels))
    trained = []
    for described in (True, False):
        model = new_model(fixed)
        model.tower.requires_grad_(False)
        assert loop._described(model, embedded, fixed.window, params) is not None
        if not described:
            monkeypatch.setattr(loop, "_described", lambda *_: None)
        history = fit(model, embedded, embedded, fixed.window, params, tmp_path / f"described-{described}")
        trained.append((history, model.head.state_dict()))
    assert [row["loss"] for row in trained[0][0]] == pytest.approx([row["loss"] for row in trained[1][0]], rel=1e-5)
    for name, weight in trained[0][1].items():
        torch.testing.assert_close(weight, trained[1][1][name], rtol=1e-4, atol=1e-5)
