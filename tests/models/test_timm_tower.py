"""timm models as frozen towers: weights from a file, what does not fit, what is not there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before timm)
import timm

from models.encoder import (
    EncoderParams,
    encoder_image_size,
    hash_encoder,
    load_encoder,
    named_encoder,
    save_encoder,
    untrained_encoder,
)
from models.engines import build_engine, load_engine, reference_engine
from models.errors import ParamsError, WeightsUnavailable
from models.params import parse_section
from models.tower import Tower

NAME = "timm:mobilenetv3_small_050"  # its classifier sits behind a projection, so features are wider than the map


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    """Return the model as timm trains it, with a classifier."""
    torch.manual_seed(2)
    model: nn.Module = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    return model


@pytest.fixture(scope="module")
def weights(whole: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, path)
    return path


def test_features_are_those_in_front_of_the_classifier(whole: nn.Module, weights: Path, tmp_path: Path) -> None:
    params = EncoderParams(name=NAME, pretrained=str(weights))
    assert (params.unfreeze_blocks, encoder_image_size(params)) == (0, 224)
    encoder, spec = named_encoder(params)
    assert (spec.embed_dim, spec.has_text_tower) == (1024, False)
    save_encoder(tmp_path / "encoder", encoder, spec)
    loaded, found = load_encoder(tmp_path / "encoder")
    assert found == spec
    assert len(hash_encoder(tmp_path / "encoder")) == 64
    tower = Tower(spec, 0, loaded.visual).eval()  # type: ignore[arg-type]
    pixels = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    assert spec.mean == timm.get_pretrained_cfg("mobilenetv3_small_050").mean
    with torch.inference_mode():
        normalised = (pixels - mean) / std
        expected = whole.forward_head(whole.forward_features(normalised), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(tower(pixels * 255), expected, atol=1e-3, rtol=1e-3)
        tokens = tower.front(pixels * 255)
    assert tokens.shape == (2, 1, 1024)
    tower.freeze_front()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    build_engine("torchscript", tower, tmp_path / "engine", 224, "float32")
    frames = (pixels.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
    np.testing.assert_allclose(
        load_engine(tmp_path / "engine")(frames), reference_engine(tower, 224)(frames), atol=1e-3
    )


def test_weights_that_do_not_fit_are_told(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="do not fit timm:resnet18") as caught:
        named_encoder(EncoderParams(name="timm:resnet18", pretrained=str(weights)))
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsUnavailable, match=r"bad\.safetensors"):
        named_encoder(EncoderParams(name=NAME, pretrained=str(tmp_path / "bad.safetensors")))
    with pytest.raises(WeightsUnavailable, match="no such file"):
        named_encoder(EncoderParams(name=NAME, pretrained="gone.safetensors"))


def test_names_and_weights_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ParamsError, match=r"no such timm model; near: timm:resnet18"):
        encoder_image_size(EncoderParams(name="timm:resnett18"))
    with pytest.raises(ParamsError, match=r"'timm:resnet18\.bogus': no such timm model; near: .*timm:resnet18\."):
        encoder_image_size(EncoderParams(name="timm:resnet18.bogus"))
    with pytest.raises(ParamsError, match=r"hub, or a \.safetensors file"):
        named_encoder(EncoderParams(name=NAME))
    with pytest.raises(ParamsError, match=r"'w.pth': for timm it is hub or a .safetensors file"):
        named_encoder(EncoderParams(name=NAME, pretrained="w.pth"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    params = parse_section({"name": "timm:resnet18.a1_in1k", "pretrained": True}, "encoder", EncoderParams)
    assert params.pretrained == "hub"
    with pytest.raises(WeightsUnavailable, match=r"offline choices: .*a \.safetensors file"):
        named_encoder(params)


def test_fresh_towers_of_one_seed_are_equal() -> None:
    first, second = (untrained_encoder(EncoderParams(name=NAME), seed)[0].state_dict() for seed in (4, 4))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
