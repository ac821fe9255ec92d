"""Casting: for each content category, who is there and what they do when.

Each caster takes a random generator and a duration and returns a `Cast`. Numbers were chosen by eye so that the
animals fill a good part of the frame and the story fits in six to nine seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.sample.casts import Actor, Beat
from tasks.sample.scenes import Stretch, Water


@dataclass(frozen=True)
class Cast:
    """What a caster decides: the actors, what is true when, and the water if the story needs it."""

    actors: tuple[Actor, ...]
    stretches: tuple[Stretch, ...]
    water: Water | None = None


Rng = np.random.Generator
Caster = Callable[[Rng, float, bool], Cast]
"""(random generator, duration in seconds, whether the highlight fills the clip) -> cast."""
WATERHOLE = Water(0.0, 0.41, 0.76, 0.12)


def any_side(rng: Rng) -> int:
    """Return 1 (facing right) or -1 (facing left), each as often."""
    return 1 if rng.random() < 0.5 else -1


def any_phase(rng: Rng) -> float:
    """Return where in its cycle a movement starts, radians, 0 to 2 pi."""
    return float(rng.uniform(0, 2 * math.pi))


def any_shade(rng: Rng) -> float:
    """Return how an animal's grey differs from its herd's, -1 (darker) to 1 (lighter)."""
    return float(rng.uniform(-1, 1))


def _window(rng: Rng, duration_s: float, whole: bool, part: tuple[float, float] = (0.5, 0.72)) -> tuple[float, float]:
    """Return start and end of the highlight: a part of the clip, sometimes up to its start or its end, or all of it."""
    if whole:
        return 0.0, duration_s
    length = duration_s * float(rng.uniform(*part))
    room = duration_s - length
    start = room * float(rng.choice([0.0, 0.4, 0.6, 1.0], p=[0.12, 0.34, 0.34, 0.2]))
    return round(start, 2), round(start + length, 2)


def _three(before: str, inside: str, after: str, window: tuple[float, float], duration_s: float,
           counts: tuple[int, int]) -> tuple[Stretch, ...]:  # fmt: skip
    """Return before / highlight / after, leaving out what has no length. counts: calm ones, ones in the highlight."""
    start, end = window
    parts = [Stretch(0.0, start, before, counts[0]), Stretch(start, end, inside, counts[1]),
             Stretch(end, duration_s, after, counts[0])]  # fmt: skip
    return tuple(part for part in parts if part.end_s - part.start_s > 1e-6)


def _story(before: list[Beat], inside: list[Beat], after: Beat, window: tuple[float, float]) -> tuple[Beat, ...]:
    kept = before if window[0] > 0 else []
    return (*kept, *inside, after)


def bathing(rng: Rng, duration_s: float, whole: bool = False) -> Cast:
    """Elephants walk into or stand in the water, then spray and splash."""
    window = _window(rng, duration_s, whole)
    count = int(rng.integers(1, 3))
    arriving = rng.random() < 0.45
    spacing = 0.7
    actors = []
    for i in range(count):
        x = (i - (count - 1) / 2) * spacing + float(rng.uniform(-0.06, 0.06))
        y, size, facing = 0.40 + 0.05 * (i % 2), float(rng.uniform(0.48, 0.56)), any_side(rng)
        come = Beat(0.0, "walk" if arriving else ("rest", "drink")[i % 2], x - 0.4 * facing * arriving, y, size, facing)
        inside = Beat(window[0], "bathe", x, y, size, facing)
        beats = _story([come], [inside], Beat(window[1], "rest", x, y, size, facing), window)
        actors.append(Actor("elephant", beats, any_phase(rng), any_shade(rng), wade=0.24))
    calm = "walking" if arriving else "standing in water"
    return Cast(tuple(actors), _three(calm, "bathing", "standing in water", window, duration_s, (count, count)),
                WATERHOLE)  # fmt: skip


def playing(rng: Rng, duration_s: float, whole: bool = False) -> Cast:
    """Calves stand about, then tumble, climb on each other and chase."""
    window = _window(rng, duration_s, whole)
    size, middle, side = float(rng.uniform(0.46, 0.54)), float(rng.uniform(-0.1, 0.1)), any_side(rng)
    y = float(rng.uniform(0.36, 0.42))
    turns = max(2, round((window[1] - window[0]) / 1.9))
    actors = []
    for i, role in enumerate((1, -1)):
        place = middle - 0.29 * role * side
        home = Beat(0.0, ("rest", "graze")[i], place - 0.14 * role * side, y + 0.02 * i, size, role * side)
        inside = []
        for k in range(turns):
            start = window[0] + k * (window[1] - window[0]) / turns
            action = ("tumble", "rear")[(i + k) % 2]
            step = 0.05 if action == "tumble" else -0.02
            inside.append(Beat(start, action, place + step * role * side, y + 0.02 * i, size, role * side))
        after = Beat(window[1], "rest", place - 0.08 * role * side, y + 0.02 * i, size, role * side)
        actors.append(Actor("calf", _story([home], inside, after, window), any_phase(rng), any_shade(rng), dust=0.7))
    count = 2
    if rng.random() < 0.4:
        count, edge = 3, middle + 0.72 * side
        run = [Beat(window[0], "run", edge, y + 0.08, size * 0.8, -side),
               Beat((window[0] + window[1]) / 2, "run", edge - 0.4 * side, y + 0.08, size * 0.8, side)]  # fmt: skip
        beats = _story([Beat(0.0, "rest", edge, y + 0.08, size * 0.8, -side)], run,
                       Beat(window[1], "rest", edge, y + 0.08, size * 0.8, side), window)  # fmt: skip
        actors.append(Actor("calf", beats, any_phase(rng), any_shade(rng), dust=0.7))
    if rng.random() < 0.5:
        far = (Beat(0.0, "graze", middle - 0.5 * side, 0.24, 0.46, side),)
        actors.append(Actor("elephant", far, any_phase(rng), any_shade(rng)))
    return Cast(tuple(actors), _three("calves standing", "playing", "calves standing", window, duration_s,
                                      (count, count)))  # fmt: skip


def charging(rng: Rng, duration_s: float, whole: bool = False) -> Cast:
    """An elephant in front view stands or comes slowly, then spreads its ears and runs at the camera."""
    window = _window(rng, duration_s, whole, (0.45, 0.62))
    x, drift = float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.1, 0.1))
    near, far = float(rng.uniform(0.72, 0.86)), float(rng.uniform(0.44, 0.50))
    slow = "walk_front" if rng.random() < 0.5 else "stand_front"
    before = [Beat(0.0, slow, x, 0.20, far * (0.88 if slow == "walk_front" else 1.0))]
    inside = [Beat(window[0], "charge", x, 0.22, far)]
    after = Beat(window[1], "stand_front", x + drift, 0.50, near)
    actors = [Actor("elephant", _story(before, inside, after, window), any_phase(rng), any_shade(rng), dust=1.0)]
    count = 1
    if rng.random() < 0.4:
        side = any_side(rng)
        second = _story([Beat(0.0, "stand_front", x + 0.58 * side, 0.15, far * 0.8)],
                        [Beat(window[0], "charge", x + 0.58 * side, 0.17, far * 0.8)],
                        Beat(window[1], "stand_front", x + 0.7 * side, 0.36, near * 0.7), window)  # fmt: skip
        actors.append(Actor("elephant", second, any_phase(rng), any_shade(rng), dust=1.0))
        count = 2
    calm = "walking" if slow == "walk_front" else "resting"
    return Cast(tuple(actors), _three(calm, "charging", "resting", window, duration_s, (count, count)))


def meeting(rng: Rng, duration_s: float, whole: bool = False) -> Cast:
    """Two elephants, each perhaps with a follower, walk up to each other, lift and entwine their trunks."""
    window = _window(rng, duration_s, whole)
    size, y = float(rng.uniform(0.52, 0.60)), float(rng.uniform(0.38, 0.44))
    walking = rng.random() < 0.65
    actors, count = [], 2
    for role in (1, -1):
        place = -role * size * 0.98
        away = 0.24 if walking else 0.03
        before = [Beat(0.0, "walk" if walking else "rest", place - away * role, y, size, role)]
        after = Beat(window[1], "rest", place - 0.03 * role, y, size, role)
        beats = _story(before, [Beat(window[0], "entwine", place, y, size, role)], after, window)
        # The sign of cos(phase) decides whose trunk goes over and whose goes under.
        actors.append(Actor("elephant", beats, 0.2 if role == 1 else math.pi - 0.2, any_shade(rng)))
        if rng.random() < 0.35:
            count += 1
            follow = (Beat(0.0, "rest", place - 0.42 * role, y - 0.09, size * 0.8, role),)
            actors.append(Actor("elephant", follow, any_phase(rng), any_shade(rng)))
    calm = "walking" if walking else "resting"
    return Cast(tuple(actors), _three(calm, "meeting", "resting", window, duration_s, (count, count)))


HIGHLIGHT_CASTERS: dict[str, Caster] = {
    "bathing": bathing,
    "playing": playing,
    "charging": charging,
    "meeting": meeting,
}
"""Content category of a clip with a highlight -> its caster."""
