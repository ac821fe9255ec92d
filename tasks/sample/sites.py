"""Where and when: the palette of a recording site, the light of the hour, the weather.

Knows colours as linear mixes of 8-bit RGB; draws nothing.
"""

from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]

_GROUNDS: tuple[tuple[RGB, RGB], ...] = (
    ((196, 168, 98), (150, 124, 62)),
    ((128, 152, 74), (88, 116, 54)),
    ((188, 118, 78), (146, 84, 56)),
    ((172, 160, 138), (128, 118, 100)),
    ((98, 128, 72), (66, 98, 54)),
    ((206, 184, 136), (164, 142, 96)),
    ((158, 140, 84), (112, 104, 56)),
)
_SKINS: tuple[RGB, ...] = ((128, 124, 122), (134, 116, 102), (112, 116, 126), (146, 126, 110), (118, 110, 104))
_WATERS: tuple[RGB, ...] = ((104, 142, 160), (132, 128, 104), (92, 126, 128), (128, 146, 148))
_FOLIAGE: tuple[RGB, ...] = ((78, 98, 52), (98, 104, 56), (62, 88, 62), (110, 100, 60))

SKIES: dict[str, tuple[RGB, RGB]] = {
    "day": ((112, 166, 214), (214, 226, 226)),
    "dawn": ((150, 164, 204), (244, 206, 178)),
    "dusk": ((112, 96, 138), (240, 158, 96)),
    "night": ((84, 100, 150), (138, 150, 182)),
}
"""Hour -> colour at the zenith, colour at the horizon."""

LIGHTS: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "dawn": (1.0, 0.92, 0.88),
    "dusk": (0.98, 0.85, 0.76),
    "night": (0.50, 0.58, 0.78),
}
"""Hour -> factor on red, green and blue of everything in the frame."""


@dataclass(frozen=True)
class Site:
    """One recording site on one day: what all clips of a group have in common.

    name:    the group's name
    ground:  8-bit RGB of the near ground
    far:     8-bit RGB of the ground at the horizon and of the grass strokes
    skin:    8-bit RGB of the herd
    water:   8-bit RGB of the waterhole
    foliage: 8-bit RGB of trees and bushes
    seed:    fixes hills, trees and grass
    """

    name: str
    ground: RGB
    far: RGB
    skin: RGB
    water: RGB
    foliage: RGB
    seed: int


def mix(first: RGB, second: RGB, weight: float) -> RGB:
    """Return the colour `weight` (0 to 1) of the way from `first` to `second`."""
    return tuple(round(a + (b - a) * weight) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def make_site(name: str, index: int, seed: int) -> Site:
    """Return site number `index`; neighbours in number differ in ground, skin, water and foliage."""
    rng = np.random.default_rng((seed, index, 1))

    def jitter(colour: RGB) -> RGB:
        moved = np.clip(np.array(colour) + rng.normal(0, 5, 3) + rng.normal(0, 7), 0, 255)
        return tuple(int(value) for value in moved)  # type: ignore[return-value]

    ground, far = _GROUNDS[index % len(_GROUNDS)]
    return Site(
        name=name,
        ground=jitter(ground),
        far=jitter(far),
        skin=jitter(_SKINS[index % len(_SKINS)]),
        water=jitter(_WATERS[index % len(_WATERS)]),
        foliage=jitter(_FOLIAGE[index // 2 % len(_FOLIAGE)]),
        seed=int(rng.integers(1 << 31)),
    )
