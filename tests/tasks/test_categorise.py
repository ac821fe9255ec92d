"""Stage categorise: by prompts and by labels, on the sample and on videos that are made here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.category import CategoriesParams, categories_of, from_prompts, load_categories
from models.embedding_track import EmbeddingTrackBuilder
from models.encoder import EncoderParams, save_encoder, untrained_encoder
from models.errors import DataError, ParamsError
from models.files import read_json
from models.highlighter import Highlighter, save_highlighter
from models.manifest import write_manifest
from models.served import load_served
from models.shards import write_shard
from models.spans import Span
from models.video import sample_video
from tasks.categorise import choose_categoriser, labelled_looks, main, prompt_categoriser
from tests.tiny_model import TINY

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"playing": (220, 40, 40), "charging": (40, 220, 40), "empty": (40, 40, 220)}
TABLE = {"playing": "funny", "charging": "action", "empty": "scenic"}
UNSEEN_TABLE = {"bathing": "educational", "meeting": "touching", "playing": "funny"}
PARAMS = CategoriesParams(labels=TABLE, min_labelled=3)


@pytest.fixture(scope="module")
def tiny() -> Highlighter:
    torch.manual_seed(0)
    return Highlighter(TINY).eval()


def store(folder: Path, model: Highlighter, make_row: Callable[..., Any], contents: list[str], split: str) -> list[Any]:
    """Write token shards of 8 frames, coloured until 2 s and then black, `empty` all through; return their rows."""
    rows = []
    rng = np.random.default_rng(len(split))
    for i, content in enumerate(contents):
        pixels = np.clip(np.array(COLOURS[content]) + rng.normal(0, 25, (8, 32, 32, 3)), 0, 255)
        segments: tuple[Span, ...] = ()
        if content != "empty":
            pixels[4:] = 0
            segments = (Span(0.0, 2.0),)
        with torch.inference_mode():
            tokens = model.tower.front(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).half().numpy()
        video_id = f"{split}{i}"
        write_shard(folder, video_id, {"tokens": tokens[None], "times_s": np.arange(8) / 2}, {"fingerprint": "x"})
        rows.append(make_row(video_id, path=f"{split}/{video_id}.mp4", split=split, content=content, segments=segments))
    return rows


def made(folder: Path, model: Highlighter, make_row: Callable[..., Any], names: list[str]) -> list[Any]:
    return [
        row
        for split, each in (("train", 4), ("val", 2), ("test", 3))
        for row in store(folder, model, make_row, names * each, split)
    ]


def test_labels_are_learnt_from_what_is_inside_the_highlights(
    tmp_path: Path, tiny: Highlighter, make_row: Callable[..., Any]
) -> None:
    rows = made(tmp_path, tiny, make_row, list(COLOURS))
    rows.append(replace(rows[0], video_id="nobody", content="unknown"))  # has no shard: it is never opened
    looks = labelled_looks(rows, tmp_path, tiny, PARAMS)
    assert looks["train"].names == ("funny", "action", "scenic") * 4
    assert np.allclose(np.linalg.norm(looks["val"].looks_ND, axis=1), 1, atol=1e-5)
    result = choose_categoriser(looks, None, PARAMS)
    assert result.chosen.method == "labels"
    assert result.metrics["test_accuracy_labels"] == 1.0
    assert np.isnan(result.metrics["test_accuracy_prompts"])
    assert result.table["test"] == [{"true": name, "found": name, "count": 3} for name in ("action", "funny", "scenic")]


def test_who_is_asked_and_what_there_is_decide_the_way(
    tmp_path: Path, tiny: Highlighter, make_row: Callable[..., Any]
) -> None:
    looks = labelled_looks(made(tmp_path, tiny, make_row, ["playing", "charging"]), tmp_path, tiny, PARAMS)
    prompts = from_prompts({"funny": looks["train"].looks_ND[:1], "action": looks["train"].looks_ND[1:2]}, 15.0)
    few = PARAMS.model_copy(update={"min_labelled": 5})

    def way(params: CategoriesParams, text: bool, **changes: Any) -> str:
        return choose_categoriser(looks, prompts if text else None, params.model_copy(update=changes)).chosen.method

    assert way(PARAMS, True) == way(PARAMS, False) == "labels"
    assert way(PARAMS, True, method="prompts") == way(few, True) == "prompts"
    assert way(few, False) == way(PARAMS, True, method="none") == "none"
    assert "no text tower" in choose_categoriser(looks, None, few).chosen.note
    with pytest.raises(ParamsError, match="no text tower"):
        way(PARAMS, False, method="prompts")
    with pytest.raises(DataError, match="label more"):
        way(few, True, method="labels")


def test_a_tower_without_words_has_no_prompts() -> None:
    spec = replace(TINY.encoder, name="timm:resnet18", model_config={"embed_dim": 24})
    assert prompt_categoriser(torch.nn.Identity(), spec, PARAMS) is None


def test_the_stage_leaves_one_file_for_serving_and_the_same_bytes_again(
    tmp_path: Path, make_row: Callable[..., Any]
) -> None:
    clip, encoder = untrained_encoder(EncoderParams(), 0)
    side = encoder.image_size
    save_encoder(tmp_path / "encoder", clip, encoder)
    spec = replace(TINY, encoder=encoder)
    model = Highlighter(spec, clip.visual).eval()  # type: ignore[arg-type]
    save_highlighter(tmp_path / "model", model, spec)
    splits = ("train", "val", "test")
    rows = [row for split in splits for row in store_nano(tmp_path / "tokens", model, side, make_row, split)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"categories": {"labels": TABLE, "min_labelled": 9}}))
    for out in ("one", "two"):
        main(
            ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / out)]
            + [word for name in ("manifest", "tokens", "encoder", "model") for word in
               (f"--{name}", str(tmp_path / ("manifest.parquet" if name == "manifest" else name)))]
        )  # fmt: skip
    served = load_categories(tmp_path / "one" / "model")
    assert served is not None
    assert (served.method, len(served.names), served.weights_CD.shape[1]) == ("prompts", 5, encoder.embed_dim)
    for name in ("model/categories.safetensors", "categories.json", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    metrics = read_json(tmp_path / "one" / "metrics.json")
    assert metrics["num_test"] == 2
    assert metrics["test_accuracy_labels"] is None


def store_nano(folder: Path, model: Highlighter, side: int, make_row: Callable[..., Any], split: str) -> list[Any]:
    rows = []
    for i, content in enumerate(("playing", "charging")):
        pixels = torch.full((3, 3, side, side), float(60 + 90 * i))
        with torch.inference_mode():
            tokens = model.tower.front(pixels).half().numpy()
        write_shard(folder, f"{split}{i}", {"tokens": tokens[None], "times_s": np.arange(3.0)}, {"fingerprint": "x"})
        rows.append(make_row(f"{split}{i}", path=f"{split}/{i}.mp4", split=split, content=content))
    return rows


@pytest.mark.parametrize("way", ["prompts", "labels"])
def test_on_the_samples_test_split_both_ways_are_well_above_chance(way: str) -> None:
    metrics_file = ROOT / "build/categorise/metrics.json"
    if not metrics_file.is_file() or "charging: action" not in (ROOT / "params.yaml").read_text():
        pytest.skip("needs build/ of the sample; `make run` makes it")
    metrics = read_json(metrics_file)
    if metrics["num_test"] < 15 or metrics[f"test_accuracy_{way}"] is None:
        pytest.skip("build/ is of other data")
    assert metrics[f"test_accuracy_{way}"] >= 0.45  # 8 of 17; the most frequent category alone has 4 of 17
    assert metrics[f"test_accuracy_{way}"] >= 1.5 * metrics["test_most_frequent"]


def test_highlights_of_footage_at_new_sites_get_their_category_from_the_served_engine() -> None:
    served, unseen = ROOT / "build/compile/model", ROOT / "data/unseen"
    if not (ROOT / "build/categorise/model").is_dir() or not served.is_dir() or not (unseen / "truth.json").is_file():
        pytest.skip("needs data/ and build/ of the sample; `make run` makes them")
    model, categoriser = load_served(served), load_categories(ROOT / "build/categorise/model")
    right = total = 0
    for name, truth in read_json(unseen / "truth.json")["videos"].items():
        video = sample_video(unseen / name, model.spec.sampling)
        looks = EmbeddingTrackBuilder(0.5)
        looks.add(video.times_s, model.embed(video.frames_THWC))
        lively = [content for content in truth["content"].split(", ") if content in UNSEEN_TABLE]
        spans = [Span(*segment) for segment in truth["segments"]]
        found = categories_of(categoriser, spans, looks.build())
        right += sum(f is not None and f.name == UNSEEN_TABLE[c] for f, c in zip(found, lively, strict=True))
        total += len(spans)
    assert total == 3
    assert right >= 2
