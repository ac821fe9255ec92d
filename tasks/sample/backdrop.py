"""Painting what stands still: sky, hills, trees, grass and water, once for each scene.

The painting is larger than the frame on every side, so that a moving camera only crops it. Knows colours and
shapes; knows nothing of animals.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tasks.sample.scenes import Scene, Water
from tasks.sample.sites import RGB, SKIES, Site, mix

OVERSAMPLING = 2
"""Everything is drawn this many times larger than the frame and averaged down, which is the antialiasing."""

_MARGIN_X, _MARGIN_Y = 0.2, 0.1
_HORIZON = 0.45


@dataclass(frozen=True)
class View:
    """How world units become pixels of the oversampled canvas.

    width, height: canvas, oversampled pixels
    unit:          oversampled pixels of one world unit
    """

    width: int
    height: int
    unit: float

    @classmethod
    def of_frame(cls, width: int, height: int) -> "View":
        """Return the view for a frame of the given size; narrow frames show the same width of world, smaller."""
        narrow = 1.3 if height > width else 1.45
        return cls(width * OVERSAMPLING, height * OVERSAMPLING, min(height, width / narrow) * OVERSAMPLING)

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels by which the backdrop is larger than the canvas on each side: (x, y)."""
        return round(_MARGIN_X * self.unit), round(_MARGIN_Y * self.unit)

    def x(self, world_x: float) -> float:
        """Return the canvas column of a world x, for a camera at rest."""
        return self.width / 2 + world_x * self.unit

    def y(self, world_y: float) -> float:
        """Return the canvas row of a world y, for a camera at rest."""
        return self.height / 2 + (world_y - 0.05) * self.unit


def paint_backdrop(scene: Scene, view: View) -> Image.Image:
    """Return the RGB painting behind the actors of `scene`, larger than the canvas by `view.margins`."""
    margin_x, margin_y = view.margins
    size = (view.width + 2 * margin_x, view.height + 2 * margin_y)
    horizon = view.y(0.0) + margin_y
    rng = np.random.default_rng(scene.site.seed)
    image = _gradients(scene, size, horizon)
    _clouds(image, scene, horizon, view.unit)
    draw = ImageDraw.Draw(image, "RGBA")
    _hills(draw, scene.site, rng, size, horizon, view.unit, SKIES[scene.hour][1])
    _plants(draw, scene.site, rng, size, horizon, view.unit)
    if scene.water is not None:
        _waterhole(draw, scene, scene.water, view, SKIES[scene.hour][1])
    return image


def _gradients(scene: Scene, size: tuple[int, int], horizon: float) -> Image.Image:
    top, low = SKIES[scene.hour]
    if scene.weather in ("cloudy", "rain"):
        top, low = mix(top, (142, 146, 152), 0.7), mix(low, (176, 178, 180), 0.7)
    elif scene.weather == "dusty":
        low = mix(low, scene.site.ground, 0.5)
    rows = np.arange(size[1], dtype=np.float64)
    up = np.clip(rows / horizon, 0, 1)[:, None]
    down = np.clip((rows - horizon) / (size[1] - horizon), 0, 1)[:, None] ** 0.7
    sky = np.array(top) * (1 - up) + np.array(low) * up
    haze = mix(scene.site.far, low, 0.3)
    ground = np.array(haze) * (1 - down) + np.array(scene.site.ground) * down
    column = np.where((rows < horizon)[:, None], sky, ground)
    pixels = np.repeat(np.rint(column)[:, None, :], size[0], axis=1).astype(np.uint8)
    return Image.fromarray(pixels)


def _clouds(image: Image.Image, scene: Scene, horizon: float, unit: float) -> None:
    rng = np.random.default_rng((scene.seed, 3))
    number = {"clear": 3, "cloudy": 9, "rain": 12, "dusty": 2}[scene.weather]
    mask = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(mask)
    if scene.weather != "rain":
        x, y = rng.uniform(0.1, 0.9) * image.size[0], rng.uniform(0.15, 0.6) * horizon
        r, strength = 0.05 * unit, {"cloudy": 90, "dusty": 120}.get(scene.weather, 230)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=strength)
    for _ in range(number):
        x, y, w = rng.uniform(0, image.size[0]), rng.uniform(0.05, 0.8) * horizon, rng.uniform(0.12, 0.35) * unit
        for puff in np.linspace(-1, 1, 5):
            r = w * 0.3 * (1.25 - puff * puff)
            draw.ellipse((x + puff * w - r * 1.3, y - r * 0.55, x + puff * w + r * 1.3, y + r * 0.45), fill=120)
    mask = mask.filter(ImageFilter.GaussianBlur(0.008 * unit))
    colour = mix(SKIES[scene.hour][1], (255, 252, 244), 0.6)
    image.paste(Image.new("RGB", image.size, colour if scene.weather != "rain" else (150, 154, 160)), mask=mask)


def _hills(draw: ImageDraw.ImageDraw, site: Site, rng: np.random.Generator, size: tuple[int, int], horizon: float,
           unit: float, sky: RGB) -> None:  # fmt: skip
    xs = np.linspace(0, size[0], 60)
    for layer, height in ((0.55, 0.11), (0.25, 0.055)):
        waves = sum(
            rng.uniform(0.2, 1.0) * np.sin(xs / unit * rng.uniform(1.5, 7) + rng.uniform(0, 6.3)) for _ in range(3)
        )
        tops = horizon - unit * height * (0.35 + 0.25 * np.asarray(waves))
        ridge = [(float(x), float(min(y, horizon))) for x, y in zip(xs, tops, strict=True)]
        colour = mix(mix(site.foliage, site.far, 0.4), sky, layer)
        draw.polygon([(0.0, horizon + 1), *ridge, (float(size[0]), horizon + 1)], fill=colour)


def _plants(draw: ImageDraw.ImageDraw, site: Site, rng: np.random.Generator, size: tuple[int, int], horizon: float,
            unit: float) -> None:  # fmt: skip
    for _ in range(int(rng.integers(9, 15))):
        x, r = float(rng.uniform(0, size[0])), float(rng.uniform(0.012, 0.03)) * unit
        draw.ellipse((x - 1.6 * r, horizon - r, x + 1.6 * r, horizon + 0.6 * r), fill=mix(site.foliage, site.far, 0.25))
    for _ in range(int(rng.integers(1, 4))):
        _acacia(draw, site, float(rng.uniform(0, size[0])), horizon + float(rng.uniform(0.01, 0.07)) * unit,
                float(rng.uniform(0.16, 0.30)) * unit, rng)  # fmt: skip
    light, dark = mix(site.far, (255, 240, 190), 0.22), mix(site.ground, site.foliage, 0.55)
    for _ in range(420):
        depth = float(rng.random()) ** 0.7
        x, y = float(rng.uniform(0, size[0])), horizon + depth * (size[1] - horizon)
        blade, lean = (0.008 + 0.032 * depth) * unit, float(rng.uniform(-0.4, 0.4))
        colour = light if rng.random() < 0.5 else dark
        for side in (-0.5, 0.0, 0.5):
            tip = (x + (side + lean) * blade, y - blade)
            draw.line((x + side * 0.3 * blade, y, *tip), fill=(*colour, 150), width=2)


def _acacia(draw: ImageDraw.ImageDraw, site: Site, x: float, y: float, height: float, rng: np.random.Generator) -> None:
    bark, shadow = mix(site.foliage, (52, 40, 34), 0.7), mix(site.foliage, (30, 36, 24), 0.35)
    draw.ellipse((x - 0.5 * height, y - 0.03 * height, x + 0.5 * height, y + 0.05 * height), fill=(40, 34, 24, 70))
    for side in (-1, 1):
        fork = (x + side * 0.05 * height, y - 0.45 * height)
        draw.line(
            (x, y, *fork, x + side * 0.34 * height, y - 0.82 * height), fill=bark, width=max(2, int(height * 0.05))
        )
    for colour, shift in ((shadow, 0.03), (site.foliage, 0.0)):
        for puff in np.linspace(-1, 1, 7):
            r = height * 0.17 * (1.1 - 0.4 * abs(puff)) * float(rng.uniform(0.85, 1.15))
            cx, cy = x + puff * 0.52 * height, y - height * (0.88 - shift - 0.02 * (1 - puff * puff))
            draw.ellipse((cx - 1.5 * r, cy - 0.62 * r, cx + 1.5 * r, cy + 0.62 * r), fill=colour)


def _waterhole(draw: ImageDraw.ImageDraw, scene: Scene, water: Water, view: View, sky: RGB) -> None:
    margin_x, margin_y = view.margins
    x, y = view.x(water.x) + margin_x, view.y(water.y) + margin_y
    w, h = water.half_width * view.unit, water.half_height * view.unit
    mud, base = mix(scene.site.ground, (70, 56, 44), 0.4), scene.site.water
    draw.ellipse((x - w * 1.06, y - h * 1.12, x + w * 1.06, y + h * 1.12), fill=mud)
    draw.ellipse((x - w, y - h, x + w, y + h), fill=base)
    draw.ellipse((x - w * 0.94, y - h * 0.96, x + w * 0.94, y + h * 0.5), fill=(*mix(base, sky, 0.45), 130))
    rng = np.random.default_rng((scene.seed, 4))
    for _ in range(16):
        dy = float(rng.uniform(-0.85, 0.85))
        reach = w * (1 - dy * dy) ** 0.5 * 0.8
        cx, half = x + float(rng.uniform(-1, 1)) * reach, float(rng.uniform(0.03, 0.09)) * view.unit
        draw.line((cx - half, y + dy * h, cx + half, y + dy * h), fill=(*mix(base, (255, 255, 255), 0.5), 120), width=2)
