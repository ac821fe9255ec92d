"""A scene: site, light, weather, camera, actors and what is true of every second of it.

Knows which stretches are highlights and why: bathing, playing, charging and meeting are; everything else is not,
however lively it looks. The casting of each activity is in `activities`. Knows nothing of pixels or files.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from models.spans import Span, merge_spans
from tasks.sample.casts import Actor
from tasks.sample.sites import Site

Hour = Literal["day", "dawn", "dusk", "night"]
Weather = Literal["clear", "cloudy", "rain", "dusty"]
Movement = Literal["still", "shaking", "panning", "zooming"]

HIGHLIGHTS = frozenset({"bathing", "playing", "charging", "meeting"})


@dataclass(frozen=True)
class Camera:
    """How the frame moves over the world.

    movement: kind of movement
    strength: 0 none to 1 strong
    phase:    radians, shifts its cycles
    """

    movement: Movement = "still"
    strength: float = 0.5
    phase: float = 0.0

    def at(self, time_s: float) -> tuple[float, float, float]:
        """Return (x, y, zoom) at `time_s`: shift of the frame in world units, and magnification (1 to 1.2)."""
        t, p = time_s, self.phase
        if self.movement == "shaking":
            x = math.sin(11.3 * t + p) + 0.7 * math.sin(23.1 * t + 2 * p)
            y = math.sin(14.9 * t + 1.3 * p) + 0.6 * math.sin(27.7 * t + p)
            return 0.022 * self.strength * x, 0.018 * self.strength * y, 1.0
        if self.movement == "panning":
            return 0.13 * self.strength * math.sin(0.55 * t + p), 0.0, 1.0
        if self.movement == "zooming":
            return 0.0, 0.0, 1.0 + 0.2 * self.strength * (0.5 - 0.5 * math.cos(0.8 * t + p))
        return 0.0, 0.0, 1.0


@dataclass(frozen=True)
class Stretch:
    """What happens from `start_s` to `end_s` (seconds within the scene).

    activity: a key of captions.ACTIVITIES; a highlight if it is one of HIGHLIGHTS
    count:    elephants or calves that do it, 0 where there are none
    """

    start_s: float
    end_s: float
    activity: str
    count: int


@dataclass(frozen=True)
class Water:
    """A waterhole: centre and half axes of an ellipse, world units."""

    x: float
    y: float
    half_width: float
    half_height: float


@dataclass(frozen=True)
class Scene:
    """One continuous shot.

    content:     the category of the clip, its main activity
    duration_s:  seconds
    stretches:   cover [0, duration_s) in order, without gaps
    frozen_at_s: where set, every actor holds still as it was at that second; wind, dust, rain and camera go on
    seed:        fixes clouds, dust and rain
    exposure:    fixes the camera's exposure and white balance
    """

    content: str
    site: Site
    hour: Hour
    weather: Weather
    camera: Camera
    actors: tuple[Actor, ...]
    stretches: tuple[Stretch, ...]
    duration_s: float
    water: Water | None = None
    frozen_at_s: float | None = None
    seed: int = 0
    exposure: int = 0

    def spans(self) -> list[Span]:
        """Return the highlights of the scene in order, seconds."""
        return merge_spans(Span(s.start_s, s.end_s) for s in self.stretches if s.activity in HIGHLIGHTS)

    def actor_time_s(self, time_s: float) -> float:
        """Return the second at which actors are to be looked up for the frame at `time_s`."""
        return time_s if self.frozen_at_s is None else self.frozen_at_s


def still_twin(scene: Scene, time_s: float, content: str, activity: str) -> Scene:
    """Return `scene` held still as it is at `time_s`: the same picture, and nothing happens.

    This is what makes motion matter: a single frame does not tell the two apart, and only one of them is a highlight.
    """
    now = next((s for s in scene.stretches if s.start_s <= time_s < s.end_s), scene.stretches[-1])
    held = Stretch(0.0, scene.duration_s, activity, now.count)
    return replace(scene, content=content, frozen_at_s=time_s, stretches=(held,))
