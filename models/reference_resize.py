"""Preprocessing as the towers' own projects do it: Pillow's resize, then the centre.

OpenAI's CLIP and open_clip scale the shorter side to S by Pillow's bicubic filter and take the centre S x S (Radford
et al. 2021, arXiv:2103.00020, and the code published with it); timm scales the shorter side to S / crop_pct first.
The decoder's own scaler (`models.decoding.square_pixels`) is faster and near, not equal; benchmarks/feature_parity.py
measures how near. Knows pixels; normalisation is the tower's.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.errors import ParamsError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ReferenceResize:
    """How a picture becomes the square that a tower takes.

    side:          S of the result, px
    scaled_side:   side that the picture is scaled to before the centre is cut out, px, at least S
    interpolation: a name of FILTERS
    mode:          "shortest" scales the shorter side and keeps proportions; "squash" scales both sides
    """

    side: int
    scaled_side: int
    interpolation: str = "bicubic"
    mode: Literal["shortest", "squash"] = "shortest"

    def __post_init__(self) -> None:
        if not 1 <= self.side <= self.scaled_side:
            raise ParamsError(f"resize: {self.side} px must be from 1 to the scaled {self.scaled_side} px")
        if self.interpolation not in FILTERS:
            raise ParamsError(f"resize: interpolation {self.interpolation!r} is none of {', '.join(FILTERS)}")

    def __call__(self, picture_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return uint8 [S, S, 3] of a uint8 RGB picture [H, W, 3]."""
        height, width = picture_HWC.shape[:2]
        new_width = new_height = self.scaled_side
        if self.mode == "shortest" and width >= height:  # torchvision's Resize rounds the longer side down
            new_width = math.floor(self.scaled_side * width / height)
        elif self.mode == "shortest":
            new_height = math.floor(self.scaled_side * height / width)
        image = Image.fromarray(picture_HWC).resize((new_width, new_height), FILTERS[self.interpolation])
        left, top = round((new_width - self.side) / 2), round((new_height - self.side) / 2)
        return np.array(image.crop((left, top, left + self.side, top + self.side)))
