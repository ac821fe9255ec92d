"""Stages frames, pretrain, embed and train: pure functions on small made videos, and their shells as processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from models.encoder import EncoderParams, EncoderSpec, load_encoder, save_encoder, untrained_encoder
from models.errors import DataError, TooManyRejected, WeightsUnavailable
from models.files import read_json, read_jsonl
from models.manifest import Caption, Rejection, read_manifest, refuse_too_many, write_manifest
from models.predictions import read_predictions
from models.shards import read_frames_shard, read_tensors, shard_path, write_shard
from models.spans import Span
from models.tower import Tower
from models.video import SampledVideo, Sampling
from models.views import apply_view, draw_view
from tasks.embed import EmbedParams, embed_views, store_tokens, zero_shot_scores
from tasks.frames import store_frames
from tasks.pretrain import PretrainParams, caption_at, captioned_frames, pretrain_nano
from tasks.train import settle_checkpoints

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"a red field": (200, 40, 40), "a blue lake": (40, 60, 200), "a green bush": (50, 180, 60)}


def write_video(path: Path, colour: tuple[int, int, int], num_frames: int = 24, fps: int = 8) -> None:
    """Write an H.264 clip of one colour with noise, whose first half is darker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(sum(colour))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(num_frames):
            shade = np.array(colour) * (0.6 if index < num_frames // 2 else 1.0)
            pixels = np.clip(shade + draw.normal(0, 8, (64, 96, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def noise_video(seed: int, num_frames: int = 6) -> SampledVideo:
    draw = np.random.default_rng(seed)
    frames = draw.integers(0, 255, (num_frames, 64, 64, 3), dtype=np.uint8)
    return SampledVideo(frames, np.arange(num_frames) / 4, num_frames / 4)


@pytest.fixture
def encoder() -> tuple[Tower, EncoderSpec]:
    clip, spec = untrained_encoder(EncoderParams(), 0)
    return Tower(spec, 2, clip.visual).eval(), spec  # type: ignore[arg-type]


def test_a_video_that_breaks_off_is_rejected_and_the_rest_is_stored(
    make_row: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("whole", "broken"):
        write_video(tmp_path / f"{name}.mp4", (90, 120, 60), num_frames=48)
    broken = tmp_path / "broken.mp4"
    content = bytearray(broken.read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    broken.write_bytes(content)
    rows = [make_row(name, path=f"{name}.mp4") for name in ("broken", "whole")]
    result = store_frames(rows, tmp_path, Sampling(4, 32), tmp_path / "shards")
    assert [row.video_id for row in result.rows] == ["whole"]
    assert [r.path for r in result.rejected] == ["broken.mp4"]
    assert read_frames_shard(tmp_path / "shards", "whole").times_s[:3].tolist() == [0.0, 0.25, 0.5]


def test_too_many_rejected_rows_stop_the_run_and_the_first_reasons_are_told() -> None:
    rejected = [Rejection(f"{i}.mp4", "no moov atom") for i in range(3)]
    refuse_too_many(rejected, 30, 0.1, "frames.max_rejected_fraction")
    with pytest.raises(TooManyRejected, match=r"3 of 29 .*frames.max_rejected_fraction = 0.1.*no moov atom"):
        refuse_too_many(rejected, 29, 0.1, "frames.max_rejected_fraction")


def test_stored_frames_are_kept_and_only_what_is_missing_is_decoded(
    make_row: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", (90, 120, 60))
    rows = [make_row(name, path=f"{name}.mp4") for name in ("a", "b")]
    shards = tmp_path / "shards"
    first = store_frames(rows, tmp_path, Sampling(4, 32), shards)
    before = {p.name: p.read_bytes() for p in shards.iterdir()}
    shard_path(shards, "b").unlink()
    (tmp_path / "a.mp4").unlink()  # would fail if it were read again
    second = store_frames(rows, tmp_path, Sampling(4, 32), shards)
    assert (second.rows, second.num_frames) == (first.rows, first.num_frames)
    assert {p.name: p.read_bytes() for p in shards.iterdir()} == before
    third = store_frames(rows, tmp_path, Sampling(2, 32), shards)  # another sampling is stale, and a is gone
    assert [r.path for r in third.rejected] == ["a.mp4"]
    with pytest.raises(TooManyRejected):
        refuse_too_many(third.rejected, 2, 0.1, "k")


def test_words_of_a_frame_are_those_of_its_stretch_then_of_its_clip(make_row: Callable[..., Any]) -> None:
    row = make_row("a", captions=(Caption(1.0, 2.0, "it charges"),), caption="a clip", content="charging")
    assert [caption_at(row, t) for t in (0.5, 1.0, 1.99, 2.0)] == ["a clip", "it charges", "it charges", "a clip"]
    assert caption_at(make_row("b", caption=""), 0) == "bathing"
    assert caption_at(make_row("b", caption="", content=""), 0) == "wildlife"


def test_captioned_frames_are_spread_over_all_videos(make_row: Callable[..., Any]) -> None:
    rows = [make_row(f"v{i}", caption=f"caption {i}") for i in range(4)]
    pairs = list(captioned_frames(rows, lambda video_id: noise_video(0, 10), max_frames=12))
    assert {text for _, text in pairs} == {f"caption {i}" for i in range(4)}
    assert len(pairs) <= 12


def test_nano_learns_to_match_words_and_pictures_and_the_same_seed_gives_the_same_weights(
    make_row: Callable[..., Any], tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)

    def read(video_id: str) -> SampledVideo:
        colour = list(COLOURS.values())[int(video_id[1:]) % 3]
        frames = np.clip(np.array(colour) + draw.normal(0, 10, (32, 64, 64, 3)), 0, 255).astype(np.uint8)
        return SampledVideo(frames, np.arange(32) / 4, 8.0)

    rows = [make_row(f"v{i}", caption=list(COLOURS)[i % 3]) for i in range(6)]
    params = PretrainParams(epochs=3, batch_size=16, warmup_steps=2)
    weights = []
    for _ in range(2):
        draw = np.random.default_rng(0)
        pairs = (captioned_frames(rows, read, 1000) for _ in range(2))
        model, spec, history = pretrain_nano(*pairs, params)
        weights.append(torch.cat([p.flatten() for p in model.state_dict().values()]))
    assert torch.equal(*weights)
    judged = [row for row in history if "epoch" in row]
    assert len(judged) == params.epochs
    # 64 pictures share each caption, so (64 + 1) / 2 is the mean rank of a model that confuses no two captions.
    for way in ("image_to_text", "text_to_image"):
        assert judged[-1][f"val_{way}_mean_rank"] == 32.5
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < losses[0]
    save_encoder(tmp_path / "encoder", model, spec)
    clip, found = load_encoder(tmp_path / "encoder")
    assert found == spec
    import open_clip

    texts = clip.encode_text(open_clip.get_tokenizer("nano")(list(COLOURS)), normalize=True)  # type: ignore[operator]
    tower = Tower(spec, 2, clip.visual).eval()  # type: ignore[arg-type]
    solid = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[:, :, None, None].expand(-1, -1, 64, 64)
    with torch.inference_mode():
        similarity = torch.nn.functional.normalize(tower(solid), dim=-1) @ texts.T
    assert similarity.argmax(dim=1).tolist() == [0, 1, 2]


def test_captions_that_teach_nothing_are_refused(make_row: Callable[..., Any]) -> None:
    rows = [make_row(f"v{i}", caption="the same") for i in range(12)]
    train, val = (captioned_frames(rows, lambda _: noise_video(0), 99) for _ in range(2))
    with pytest.raises(DataError, match="1 different captions"):
        pretrain_nano(train, val, PretrainParams(batch_size=8))


def test_a_view_is_one_draw_for_the_whole_video() -> None:
    still = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8).expand(5, -1, -1, -1).contiguous()
    for seed in range(5):
        seen = apply_view(still, draw_view(seed, min_crop=0.7, colour=0.3, max_blur=1.0))
        assert seen.shape == still.shape
        assert (seen == seen[0]).all()
    assert draw_view(1, min_crop=0.7, colour=0.3, max_blur=1.0) != draw_view(2, min_crop=0.7, colour=0.3, max_blur=1.0)


def test_the_first_view_is_untouched_and_tokens_and_tail_give_the_towers_embedding(
    encoder: tuple[Tower, EncoderSpec],
) -> None:
    tower, _ = encoder
    video = noise_video(1)
    tokens = embed_views(tower, video, "v", 2, EmbedParams(batch_size=4))
    assert tokens.shape == (3, 6, 8 * 8, 128)  # three views of six frames: the feature map between stages 2 and 3
    with torch.inference_mode():
        whole = tower(torch.from_numpy(video.frames_THWC).permute(0, 3, 1, 2).float())
        stored = tower.tail(torch.from_numpy(tokens[0]).float())
    assert (whole - stored).abs().max() < 0.02 * whole.abs().max()
    assert not np.array_equal(tokens[0], tokens[1])


def test_only_train_videos_get_views_and_other_weights_make_tokens_stale(
    encoder: tuple[Tower, EncoderSpec], make_row: Callable[..., Any], tmp_path: Path
) -> None:
    tower, _ = encoder
    rows = [make_row("a"), make_row("b", split="val")]
    for row in rows:
        video = noise_video(2)
        tensors = {"frames": video.frames_THWC, "times_s": video.times_s}
        metadata = {"fingerprint": "f", "duration_s": "1.5", "num_frames": "6"}
        write_shard(tmp_path / "frames", row.video_id, tensors, metadata)
    folder, params = tmp_path / "tokens", EmbedParams(views=1)
    store_tokens(rows, tmp_path / "frames", tower, "hash 1", params, folder)
    shapes = {row.video_id: read_tensors(folder, row.video_id, ("tokens",))[0]["tokens"].shape[0] for row in rows}
    assert shapes == {"a": 2, "b": 1}
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    store_tokens(rows, tmp_path / "frames", tower, "hash 1", params, folder)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    store_tokens(rows, tmp_path / "frames", tower, "hash 2", params, folder)
    assert all(p.stat().st_mtime_ns != before[p.name] for p in folder.iterdir())


def test_a_zero_shot_score_is_the_share_of_the_highlight_prompts() -> None:
    prompts = torch.eye(3)
    scores = zero_shot_scores(torch.tensor([[5.0, 0, 0], [0, 0, 5.0]]), prompts, 1, logit_scale=10.0)
    assert scores[0] == pytest.approx(np.exp(10) / (np.exp(10) + 2), rel=1e-5)
    assert scores[1] < 0.001


def test_weights_that_are_not_here_are_named_with_the_offline_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from models.encoder import named_encoder

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable, match=r"'laion2b_s34b_b79k' of ViT-B-32.*encoder.name = nano"):
        named_encoder(EncoderParams(name="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    with pytest.raises(WeightsUnavailable, match="no such file"):
        named_encoder(EncoderParams(name="ViT-B-32", pretrained="gone.safetensors"))


def test_weights_from_a_local_file_are_loaded_into_a_named_architecture(tmp_path: Path) -> None:
    from models.encoder import named_encoder, save_weights

    clip, _ = untrained_encoder(EncoderParams(name="ViT-S-32-alt"), 1)
    save_weights(tmp_path / "w.safetensors", clip)
    loaded, spec = named_encoder(EncoderParams(name="ViT-S-32-alt", pretrained=str(tmp_path / "w.safetensors")))
    assert torch.equal(loaded.visual.conv1.weight, clip.visual.conv1.weight)  # type: ignore[union-attr]
    assert spec.image_size == 224
    with pytest.raises(WeightsUnavailable, match="do not fit"):
        named_encoder(EncoderParams(name="ViT-S-32", pretrained=str(tmp_path / "w.safetensors")))


def test_checkpoints_of_other_data_or_params_are_not_resumed(tmp_path: Path) -> None:
    settle_checkpoints(tmp_path / "c", "mark 1")
    (tmp_path / "c" / "last").mkdir()
    settle_checkpoints(tmp_path / "c", "mark 1")
    assert (tmp_path / "c" / "last").is_dir()
    settle_checkpoints(tmp_path / "c", "mark 2")
    assert not (tmp_path / "c" / "last").exists()


def run_stage(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=None, check=False)


@pytest.mark.filterwarnings("default")
def test_the_shells_chain_from_videos_to_a_model_and_leave_what_the_flow_logs(
    make_row: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rows = []
    for index, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3):
        words = list(COLOURS)[index % 3]
        name = f"{split}/good/{index} é.mp4"
        write_video(tmp_path / "data" / "videos" / name, COLOURS[words])
        segments = (Span(1.5, 3.0),) if index % 3 else ()
        rows.append(make_row(f"v{index}", path=name, split=split, caption=words, segments=segments, duration_s=3.0))
    write_manifest(tmp_path / "manifest.parquet", rows)
    (tmp_path / "params.yaml").write_text(
        "frames: {fps: 4.0}\npretrain: {epochs: 1, batch_size: 16}\nembed: {views: 1}\n"
        "train: {epochs: 2, window: 8, hidden_dim: 16, learning_rate: 0.003}\n"
    )
    manifest, weights = ["--manifest", "b/frames/manifest.parquet"], ["--encoder", "b/pretrain/encoder"]
    chain = {
        "frames": ["--data", "data", "--manifest", "manifest.parquet"],
        "pretrain": [*manifest, "--frames", "b/frames/shards"],
        "embed": [*manifest, "--frames", "b/frames/shards", *weights],
        "train": [*manifest, "--tokens", "b/embed/shards", *weights],
    }
    for stage, words_ in chain.items():
        done = run_stage(tmp_path, f"tasks.{stage}", *words_, "--out", f"b/{stage}")
        assert done.returncode == 0, done.stderr
        assert read_json(tmp_path / "b" / stage / "energy.json")["kwh"] > 0
        metrics = read_json(tmp_path / "b" / stage / "metrics.json")
        assert all(isinstance(v, (int, float, type(None))) for v in metrics.values())
    assert len(read_manifest(tmp_path / "b/frames/manifest.parquet")) == 12
    assert [row["epoch"] for row in read_jsonl(tmp_path / "b/train/history.jsonl")] == [1, 2]
    for table in ("embed/zero_shot.parquet", "train/predictions.parquet"):
        found = read_predictions(tmp_path / "b" / table)
        assert set(found["split"]) == {"val", "test"}
        assert found.groupby("video_id").size().tolist() == [12] * 6
    model = tmp_path / "b/train/model/model.safetensors"
    before = model.read_bytes()
    assert run_stage(tmp_path, "tasks.train", *chain["train"], "--out", "b/train").returncode == 0
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("frames: {fsp: 2}", "frames.fsp"),
        ("frames: {fps: -1}", "frames.fps = -1"),
        ("encoder: {name: ViT-B-33}", "near:"),
        ("frames: [", "not readable as YAML"),
        ("- a", "one section a stage"),
    ],
)
def test_malformed_params_are_one_line_and_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: str, says: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_manifest(tmp_path / "m.parquet", [])
    (tmp_path / "params.yaml").write_text(params)
    done = run_stage(tmp_path, "tasks.frames", "--data", "data", "--manifest", "m.parquet", "--out", "b")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
