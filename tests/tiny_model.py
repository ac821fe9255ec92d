"""The smallest highlighter that every part of the house takes: two transformer blocks on 32 px frames."""

from dataclasses import replace

import torch

from models.encoder import EncoderSpec
from models.highlighter import HighlighterSpec
from models.tower import Tower
from models.video import Sampling

SIDE, DIM = 32, 24
TINY = HighlighterSpec(
    encoder=EncoderSpec(
        name="tiny",
        pretrained=None,
        model_config={
            "embed_dim": DIM,
            "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        },
        image_size=SIDE,
        mean=(0.48, 0.46, 0.41),
        std=(0.27, 0.26, 0.28),
    ),
    sampling=Sampling(4.0, SIDE, "squash"),
    unfreeze_blocks=1,
    temporal="transformer",
    hidden_dim=16,
    window=6,
    threshold=0.4,
)
TINY_WITHOUT_TIME = replace(TINY, temporal="none")


def tower_with_biases(spec: EncoderSpec) -> Tower:
    """Return a seeded tower whose biases are not 0, as open_clip starts them: an engine that drops them would pass."""
    torch.manual_seed(1)
    tower = Tower(spec, 1).eval()
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.5)
    return tower
