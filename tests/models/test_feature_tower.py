"""Towers by the names that people know them by, and their weights: found, refused, prepared for as they ask."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from models.encoder import EncoderParams, save_encoder, untrained_encoder
from models.errors import HerdlightError, ParamsError, WeightsUnavailable
from models.feature_tower import OPENAI_NAMES, TowerChoice, _name, load_tower, resize_of


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> TowerChoice:
    folder = tmp_path_factory.mktemp("nano") / "encoder"
    save_encoder(folder, *untrained_encoder(EncoderParams(), seed=1))
    return TowerChoice("clip", "nano", weights=folder)


def test_weights_of_ones_own(nano: TowerChoice, tmp_path: Path) -> None:
    tower = load_tower(nano, "cpu")
    save_file(tower.clip.state_dict(), tmp_path / "mine.safetensors")
    mine = load_tower(TowerChoice("clip", "nano", weights=tmp_path / "mine.safetensors"), "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(mine.embed(frames), tower.embed(frames))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (TowerChoice("clip", "ViT-B/32", weights=Path("pyproject.toml")), "must be a .safetensors"),
        (TowerChoice("clip", "ViT-B/32", weights=Path("nowhere.safetensors")), "no such file"),
        (TowerChoice("clip", "ViT-B-23", "openai"), "near: "),
        (TowerChoice("clip", "ViT-B-32"), "open_clip knows: openai"),
        (TowerChoice("timm", "resnet17"), "near: "),
    ],
)
def test_a_tower_that_is_not_there(choice: TowerChoice, words: str) -> None:
    with pytest.raises(HerdlightError) as missing:
        load_tower(choice, "cpu")
    assert words in str(missing.value)
    assert "encoder." not in str(missing.value)


def test_a_pickle_of_weights_is_refused(nano: TowerChoice, tmp_path: Path) -> None:
    (tmp_path / "CLIP-custom.pth").write_bytes(b"PK")
    with pytest.raises(WeightsUnavailable, match="convert it once"):
        load_tower(TowerChoice("clip", "ViT-B/32", weights=tmp_path / "CLIP-custom.pth"), "cpu")
    with pytest.raises(ParamsError, match="holds nano"):
        load_tower(TowerChoice("clip", "ViT-B/32", weights=nano.weights), "cpu")


def test_every_name_of_openai_is_an_architecture_with_its_activation() -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    for theirs, ours in OPENAI_NAMES.items():
        assert get_pretrained_cfg(ours, "openai")["quick_gelu"]
        with_file = _name(TowerChoice("clip", theirs, weights=Path("mine.safetensors")))
        assert open_clip.get_model_config(with_file)["quick_gelu"]
        assert open_clip.get_model_config(with_file)["vision_cfg"] == open_clip.get_model_config(ours)["vision_cfg"]
    assert _name(TowerChoice("clip", "ViT-B-32", weights=Path("mine.safetensors"))) == "ViT-B-32"


def test_pictures_are_prepared_as_each_project_does() -> None:
    specs = {name: untrained_encoder(EncoderParams(name=name), seed=0)[1] for name in ("nano", "timm:test_vit")}
    clip, timm = resize_of(specs["nano"]), resize_of(specs["timm:test_vit"])
    assert (clip.side, clip.scaled_side, clip.interpolation, clip.mode) == (64, 64, "bicubic", "shortest")
    assert (timm.side, timm.scaled_side, timm.mode) == (160, 168, "shortest")
