"""Views: the same video seen a little differently, the augmentation that a cache of tokens allows.

One draw of crop, flip, colour and blur holds for all frames of a view, since a camera does not change between two
frames and motion must stay what it is. Speed is changed later, when stored frames are picked (models.windows).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import models.torchvision_operators  # noqa: F401  # isort: skip  (before torchvision)
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transform


@dataclass(frozen=True)
class View:
    """One way of seeing a video.

    top, left, side: crop as shares of the picture's side
    flip:            mirrored left to right
    brightness, contrast, saturation: factors, 1 changes nothing
    hue:             turn of the colour wheel, -0.5 to 0.5
    blur_sigma:      of a Gaussian, px; 0 is none
    """

    top: float
    left: float
    side: float
    flip: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    blur_sigma: float


def draw_view(seed: int, *, min_crop: float, colour: float, max_blur: float) -> View:
    """Return a view drawn with `seed`.

    min_crop: smallest side of the crop, share of the picture's side
    colour:   largest change of brightness, contrast and saturation, share; a quarter of it for the hue
    max_blur: largest sigma, px; every second view stays sharp
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    side = uniform(min_crop, 1.0)
    return View(
        top=uniform(0, 1 - side),
        left=uniform(0, 1 - side),
        side=side,
        flip=uniform(0, 1) < 0.5,
        brightness=uniform(1 - colour, 1 + colour),
        contrast=uniform(1 - colour, 1 + colour),
        saturation=uniform(1 - colour, 1 + colour),
        hue=uniform(-colour / 4, colour / 4),
        blur_sigma=max(uniform(-max_blur, max_blur), 0.0),
    )


def apply_view(frames_TCHW: Tensor, view: View) -> Tensor:
    """Return uint8 frames [T, 3, S, S] as `view` sees them, same shape."""
    size = frames_TCHW.shape[-1]
    side = max(round(view.side * size), 1)
    top, left = (min(round(share * size), size - side) for share in (view.top, view.left))
    x: Tensor = transform.resized_crop(
        frames_TCHW, top, left, side, side, [size, size], InterpolationMode.BILINEAR, antialias=True
    )
    if view.flip:
        x = transform.horizontal_flip(x)
    x = transform.adjust_brightness(x, view.brightness)
    x = transform.adjust_contrast(x, view.contrast)
    x = transform.adjust_saturation(x, view.saturation)
    x = transform.adjust_hue(x, view.hue)
    if view.blur_sigma > 0.05:
        x = transform.gaussian_blur(x, [5, 5], [view.blur_sigma, view.blur_sigma])
    return x
