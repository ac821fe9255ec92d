"""From a scene to pixels: one frame at a time, in any order.

Frames are drawn twice as large as asked and averaged down. Knows the order of painting; the shapes are in
`elephant`, `props`, `effects` and `backdrop`.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tasks.sample import effects, props
from tasks.sample.backdrop import OVERSAMPLING, View, paint_backdrop
from tasks.sample.casts import Actor, State, state_at
from tasks.sample.elephant import Place, draw_elephant, posed, trunk_line
from tasks.sample.poses import Pose
from tasks.sample.scenes import Scene
from tasks.sample.sites import LIGHTS, RGB, mix

Frame = npt.NDArray[np.uint8]

_HAZES = {"clear": (0, 0.0), "cloudy": (150, 0.10), "rain": (140, 0.20), "dusty": (196, 0.14)}
_SHADOW = (30, 26, 22, 80)
_RAISES_DUST = frozenset({"charge", "run", "tumble", "rear", "drive"})


def draw_frames(scene: Scene, times_s: Iterable[float], width: int, height: int) -> Iterator[Frame]:
    """Yield one uint8 [height, width, 3] RGB frame for each of `times_s` (seconds within the scene)."""
    view = View.of_frame(width, height)
    backdrop = paint_backdrop(scene, view)
    table = _light_table(scene)
    for time_s in times_s:
        yield _draw_frame(scene, time_s, view, backdrop, table)


def _light_table(scene: Scene) -> list[int]:
    """Return the look-up table of light, haze and the camera's own exposure: 256 entries for each of R, G, B."""
    haze, strength = _HAZES[scene.weather]
    levels = np.arange(256) * (1 - strength) + haze * strength
    # Two recordings never have the same exposure and white balance; without that, colour would tell too much.
    rng = np.random.default_rng((scene.exposure, 6))
    factors = np.array(LIGHTS[scene.hour]) * rng.uniform(0.88, 1.10) * rng.uniform(0.94, 1.06, 3)
    return [int(value) for factor in factors for value in np.clip(np.rint(levels * factor), 0, 255)]


def _draw_frame(scene: Scene, time_s: float, view: View, backdrop: Image.Image, table: list[int]) -> Frame:
    pan_x, pan_y, zoom = scene.camera.at(time_s)
    margin_x, margin_y = view.margins
    left, top = round(margin_x + pan_x * view.unit), round(margin_y + pan_y * view.unit)
    left, top = min(max(left, 0), 2 * margin_x), min(max(top, 0), 2 * margin_y)
    canvas = backdrop.crop((left, top, left + view.width, top + view.height))
    draw = ImageDraw.Draw(canvas, "RGBA")
    states = [(actor, state_at(actor, scene.actor_time_s(time_s))) for actor in scene.actors]
    for actor, state in sorted(states, key=lambda pair: pair[1].y):
        x, y = view.x(state.x) + margin_x - left, view.y(state.y) + margin_y - top
        place = Place(x, y, state.size * view.unit, state.facing)
        _draw_actor(draw, scene, actor, state, place, time_s)
    if scene.weather == "dusty":
        veil = mix(scene.site.ground, (255, 250, 240), 0.3)
        effects.draw_wind(draw, view.width, view.y(0.0) + margin_y - top, view.unit, veil, time_s, scene.seed)
    if scene.weather == "rain":
        effects.draw_rain(draw, view.width, view.height, view.unit, time_s, scene.seed)
    return np.asarray(_average_down(canvas, view, zoom).point(table))


def _average_down(canvas: Image.Image, view: View, zoom: float) -> Image.Image:
    if zoom <= 1.0:
        return canvas.reduce(OVERSAMPLING)
    cut_x, cut_y = view.width * (1 - 1 / zoom) / 2, view.height * (1 - 1 / zoom) / 2
    box = (cut_x, cut_y, view.width - cut_x, view.height - cut_y)
    return canvas.resize((view.width // OVERSAMPLING, view.height // OVERSAMPLING), Image.Resampling.BOX, box=box)


def _draw_actor(
    draw: ImageDraw.ImageDraw, scene: Scene, actor: Actor, state: State, place: Place, time_s: float
) -> None:
    site = scene.site
    dust_colour = mix(site.ground, (255, 246, 230), 0.42)
    if actor.dust and state.action in _RAISES_DUST:
        trail = -0.9 * state.facing if actor.kind in ("jeep", "antelope") else 0.0
        effects.draw_dust(draw, place.x, place.y, place.size, actor.dust, dust_colour, time_s, actor.phase_rad, trail)
    if not actor.wade and actor.kind not in ("bird", "dust_devil"):
        half = place.size * (0.5 if state.pose is None or state.pose.view == "side" else 0.36)
        above, below = place.y - 0.05 * place.size, place.y + 0.07 * place.size
        draw.ellipse((place.x - half, above, place.x + half, below), fill=_SHADOW)
    if state.pose is not None:
        _draw_herd_member(draw, scene, actor, state.pose, place, time_s)
    elif actor.kind == "antelope":
        props.draw_antelope(draw, place, 9.5 * time_s + actor.phase_rad)
    elif actor.kind == "rock":
        props.draw_rock(draw, place, mix(site.skin, site.ground, 0.15))
    elif actor.kind == "jeep":
        colour = mix(site.skin, (150, 150, 120), 0.4) if actor.shade < 0 else mix(site.foliage, (140, 136, 110), 0.4)
        props.draw_jeep(draw, place, colour, 6.0 * time_s)
    elif actor.kind == "bird":
        _draw_bird(draw, actor, state, place, time_s)
    elif actor.kind == "dust_devil":
        sandy = mix(dust_colour, (196, 160, 112), 0.5)
        effects.draw_dust_devil(draw, place.x, place.y, place.size, sandy, time_s + actor.phase_rad)


def _draw_bird(draw: ImageDraw.ImageDraw, actor: Actor, state: State, place: Place, time_s: float) -> None:
    splashing = state.action == "splash"
    beat = math.sin(14 * time_s + actor.phase_rad) if splashing else 0.0
    props.draw_bird(draw, place, beat)
    if splashing:
        effects.draw_splash(draw, place.x, place.y, place.size * 0.8, place.size * 0.5, time_s, actor.phase_rad)


def _draw_herd_member(draw: ImageDraw.ImageDraw, scene: Scene, actor: Actor, pose: Pose, place: Place,
                      time_s: float) -> None:  # fmt: skip
    calf = actor.kind == "calf"
    tone: RGB = (214, 196, 180) if actor.shade > 0 else (70, 62, 66)
    draw_elephant(draw, pose, place, mix(scene.site.skin, tone, 0.14 * abs(actor.shade)), calf)
    if actor.wade:
        effects.draw_waterline(draw, place, actor.wade, scene.site.water, time_s, pose.spray)
    if pose.spray > 0.05:
        x, y = place.to_pixels(posed(trunk_line(pose, calf)[-1:], pose))
        effects.draw_jets(draw, (x, y), place.size, place.facing, time_s, pose.spray)
        effects.draw_splash(draw, place.x, place.y - 0.5 * actor.wade * place.size, place.size * 0.66,
                            place.size * 0.42 * pose.spray, time_s, actor.phase_rad)  # fmt: skip
