"""Drawing water and dust in motion: jets from a trunk, splashes, puffs, rain.

Every drop and puff is a function of time alone, so any frame can be drawn without the ones before it.
"""

import math

import numpy as np
from PIL import ImageDraw

from tasks.sample.elephant import Place
from tasks.sample.sites import RGB, mix

_FOAM = (240, 246, 250)


def _hash(number: float) -> float:
    """Return a fixed pseudo-random value in [0, 1) for `number`."""
    return (math.sin(number * 12.9898 + 4.1414) * 43758.5453) % 1.0


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
    draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill)


def draw_jets(draw: ImageDraw.ImageDraw, tip: tuple[float, float], size: float, facing: int, time_s: float,
              strength: float) -> None:  # fmt: skip
    """Draw the arcs of water that leave a raised trunk at pixel `tip`. size: pixels of the animal's unit."""
    for jet, (across, up) in enumerate(((-1.35, 0.55), (-0.80, 0.85), (0.55, 0.70))):
        wobble = 1 + 0.15 * math.sin(7 * time_s + 2.1 * jet)
        last = tip
        for k in range(1, 10):
            tau = k / 9 * 0.95 * strength
            x = tip[0] + facing * across * wobble * tau * size * 0.72
            y = tip[1] - (up * wobble * tau - 1.75 * tau * tau) * size * 0.72
            draw.line((*last, x, y), fill=(*_FOAM, 215), width=max(2, round(size * 0.075 * (1 - 0.45 * tau))))
            last = (x, y)
        for k in range(5):
            tau = ((k + _hash(jet * 7 + k)) / 5 + 1.3 * time_s) % 1.0 * strength
            spread = (_hash(jet + 3.7 * k) - 0.5) * 0.24
            x = tip[0] + facing * (across + spread) * tau * size * 0.76
            y = tip[1] - ((up + spread) * tau - 1.75 * tau * tau) * size * 0.76
            _disc(draw, x, y, size * 0.035, size * 0.035, (*_FOAM, 200))


def draw_splash(draw: ImageDraw.ImageDraw, x: float, y: float, half_width: float, height: float, time_s: float,
                phase: float) -> None:  # fmt: skip
    """Draw a crown of splashing water around pixel (x, y)."""
    for k in range(11):
        place = -1 + 2 * k / 10
        rise = abs(math.sin(5.2 * time_s + 2.4 * k + phase)) * height * (0.55 + 0.45 * _hash(k + phase))
        foot, lean = x + place * half_width, place * 0.35 * rise
        width = max(2.0, half_width * 0.055)
        draw.polygon([foot - width, y, foot + lean, y - rise, foot + width, y], fill=(*_FOAM, 205))
        _disc(draw, foot + lean * 1.1, y - rise * 1.12, width * 0.8, width * 0.8, (*_FOAM, 190))


def draw_waterline(draw: ImageDraw.ImageDraw, place: Place, wade: float, water: RGB, time_s: float, lively: float,
                   wide: float = 0.72) -> None:  # fmt: skip
    """Cover the feet of an animal that stands in water, with rings around it. lively: 0 calm to 1 splashing."""
    depth, half = wade * place.size, wide * place.size
    draw.chord((place.x - half, place.y - depth * 1.5, place.x + half, place.y + depth * 0.5), 0, 180, fill=water)
    top = place.y - depth * 0.5
    draw.polygon([place.x - half, top - 1, place.x + half, top - 1, place.x + half * 0.96, top + depth * 0.5,
                  place.x - half * 0.96, top + depth * 0.5], fill=water)  # fmt: skip
    for ring in range(2):
        grow = half * (0.80 + 0.22 * ((0.5 * ring + (0.35 + lively) * time_s) % 1.0))
        box = (place.x - grow, top - depth * 0.16, place.x + grow, top + depth * 0.75)
        draw.arc(box, 8, 172, fill=(*mix(water, (255, 255, 255), 0.55), 170), width=2)


def draw_dust(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, amount: float, colour: RGB, time_s: float,
              phase: float, drift: float = 0.0) -> None:  # fmt: skip
    """Draw puffs of dust around pixel (x, y). drift: how far they trail, in sizes, negative to the left."""
    for k in range(round(14 * amount)):
        age = (time_s * 0.9 + _hash(k + phase)) % 1.0
        spread = (_hash(3.1 * k + phase) - 0.5) * 2
        r = size * (0.10 + 0.22 * age)
        px = x + size * (0.75 * spread * (0.6 + 0.6 * age) + drift * age)
        py = y - size * 0.30 * age * (1.2 - abs(spread))
        _disc(draw, px, py, r * 1.25, r * 0.8, (*colour, round(150 * (1 - age) * min(1.0, 0.6 + amount))))


def draw_dust_devil(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: RGB, time_s: float) -> None:
    """Draw a whirling column of dust with its foot at pixel (x, y)."""
    for k in range(16):
        part = k / 15
        sway = math.sin(2.2 * time_s + 3.0 * part) * 0.10 * height * part
        swirl = math.sin(9 * time_s + 2.4 * k) * 0.05 * height * (0.3 + part)
        r = height * (0.05 + 0.15 * part)
        _disc(draw, x + sway + swirl, y - part * height, r, r * 0.45, (*colour, round(165 - 60 * part)))


def draw_wind(
    draw: ImageDraw.ImageDraw, width: int, y: float, unit: float, colour: RGB, time_s: float, seed: int
) -> None:
    """Draw veils of dust that drift over the ground from the row `y` downwards."""
    for k in range(9):
        speed = 0.12 + 0.2 * _hash(k + 0.37 * (seed % 97))
        x = ((_hash(2.2 * k + seed % 89) + speed * time_s / 2) % 1.3 - 0.15) * width
        _disc(draw, x, y + unit * 0.45 * _hash(5.5 * k), unit * (0.16 + 0.14 * _hash(k)), unit * 0.045, (*colour, 64))


def draw_rain(draw: ImageDraw.ImageDraw, width: int, height: int, unit: float, time_s: float, seed: int) -> None:
    """Draw streaks of rain over the whole canvas."""
    rng = np.random.default_rng(seed)
    starts = rng.random((60, 3))
    fallen = (starts[:, 1] + (1.5 + starts[:, 2]) * time_s) % 1.0
    for x, y in zip((starts[:, 0] * 1.1 * width).tolist(), (fallen * 1.1 * height).tolist(), strict=True):
        draw.line((x, y, x - 0.012 * unit, y - 0.07 * unit), fill=(222, 230, 238, 105), width=2)
