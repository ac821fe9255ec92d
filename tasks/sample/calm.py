"""Casting of everything that is not a highlight: calm elephants, empty plains and distractors."""

from collections.abc import Callable

from tasks.sample.activities import WATERHOLE, Cast, Rng, any_phase, any_shade, any_side
from tasks.sample.casts import Actor, Beat, Kind
from tasks.sample.scenes import Stretch


def _all_through(activity: str, count: int, duration_s: float) -> tuple[Stretch, ...]:
    return (Stretch(0.0, duration_s, activity, count),)


def _thing(rng: Rng, kind: Kind, x: float, y: float, size: float, facing: int = 1, dust: float = 0.0) -> Actor:
    return Actor(kind, (Beat(0.0, "stand", x, y, size, facing),), any_phase(rng), any_shade(rng), dust=dust)


def _herd(rng: Rng, action: str, count: int, size: float, y: float, wade: float = 0.0) -> tuple[Actor, ...]:
    """Return `count` elephants one behind the other that do one thing all the time."""
    spacing, facing = (0.78 if count < 3 else 0.58), any_side(rng)
    actors = []
    for i in range(count):
        x = (i - (count - 1) / 2) * spacing + float(rng.uniform(-0.08, 0.08))
        beat = Beat(0.0, action, x, y + 0.05 * (i % 2), size * float(rng.uniform(0.9, 1.1)), facing)
        actors.append(Actor("elephant", (beat,), any_phase(rng), any_shade(rng), wade=wade))
    return tuple(actors)


def _egrets(rng: Rng, count: int) -> tuple[Actor, ...]:
    spots = [(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(0.42, 0.5))) for _ in range(count)]
    return tuple(_thing(rng, "bird", x, y, 0.10, any_side(rng)) for x, y in spots)


def resting(rng: Rng, duration_s: float) -> Cast:
    """Elephants stand and flap their ears: in a group from the side, one near from the front, or in the water."""
    variety = rng.random()
    if variety < 0.4:
        size, x = float(rng.uniform(0.45, 0.8)), float(rng.uniform(-0.25, 0.25))
        beat = Beat(0.0, "stand_front", x, 0.2 + 0.35 * size, size)
        actors: tuple[Actor, ...] = (Actor("elephant", (beat,), any_phase(rng), any_shade(rng)),)
        return Cast(actors + _egrets(rng, 2), _all_through("resting", 1, duration_s))
    count = int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))
    wet = variety > 0.6
    herd = _herd(rng, "rest", count, 0.55, 0.40, 0.24 if wet else 0.0)
    activity = "standing in water" if wet else "resting"
    return Cast(herd + _egrets(rng, 3), _all_through(activity, count, duration_s), WATERHOLE if wet else None)


def walking(rng: Rng, duration_s: float) -> Cast:
    """Elephants, perhaps with a calf at heel, walk across."""
    count, facing = int(rng.integers(1, 4)), any_side(rng)
    speed, y, size = float(rng.uniform(0.07, 0.13)), float(rng.uniform(0.34, 0.44)), float(rng.uniform(0.5, 0.6))
    actors = []
    for i in range(count):
        small = i == count - 1 and count > 1
        start = -facing * (speed * duration_s / 2 - 0.1 + 0.55 * (i - (count - 1) / 2))
        own = size * (0.62 if small else 1.0)
        path = (Beat(0.0, "walk", start, y, own, facing),
                Beat(duration_s + 1, "walk", start + facing * speed * (duration_s + 1), y, own, facing))  # fmt: skip
        actors.append(Actor("calf" if small else "elephant", path, any_phase(rng), any_shade(rng)))
    return Cast(tuple(actors), _all_through("walking", count, duration_s))


def grazing(rng: Rng, duration_s: float) -> Cast:
    """Elephants pull grass and bring it to the mouth."""
    count = int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))
    return Cast(_herd(rng, "graze", count, 0.55, 0.40), _all_through("grazing", count, duration_s))


def drinking(rng: Rng, duration_s: float) -> Cast:
    """Elephants at the water's edge with the trunk in it; birds may splash beside them."""
    count = int(rng.integers(1, 3))
    herd = _herd(rng, "drink", count, 0.55, 0.38, 0.12)
    birds = _egrets(rng, 2) if rng.random() < 0.5 else ()
    return Cast(herd + birds, _all_through("drinking", count, duration_s), WATERHOLE)


def empty(rng: Rng, duration_s: float) -> Cast:
    """Nobody, sometimes a waterhole and a few birds."""
    wet = rng.random() < 0.6
    birds = _egrets(rng, 2) if rng.random() < 0.4 else ()
    return Cast(birds, _all_through("empty", 0, duration_s), WATERHOLE if wet else None)


def jeep(rng: Rng, duration_s: float) -> Cast:
    """A jeep drives by in its dust, in front of a resting elephant or an empty plain."""
    facing, y = any_side(rng), float(rng.uniform(0.36, 0.44))
    end = 1.2 * float(rng.uniform(0.8, 1.0))
    path = (
        Beat(0.0, "drive", -facing * end, y, 0.36, facing),
        Beat(duration_s, "drive", facing * end, y, 0.36, facing),
    )
    car = Actor("jeep", path, any_phase(rng), any_shade(rng), dust=0.9)
    herd = _herd(rng, "rest", int(rng.integers(1, 3)), 0.48, 0.27) if rng.random() < 0.85 else ()
    return Cast((*herd, car), _all_through("jeep", len(herd), duration_s))


def antelopes(rng: Rng, duration_s: float) -> Cast:
    """Antelopes run past, in front of a grazing elephant or an empty plain."""
    facing, speed = any_side(rng), float(rng.uniform(0.35, 0.5))
    actors = []
    for _ in range(int(rng.integers(5, 8))):
        start, y = -facing * (0.5 + float(rng.uniform(0, 1.6))), float(rng.uniform(0.26, 0.48))
        path = (Beat(0.0, "run", start, y, 0.24, facing),
                Beat(duration_s, "run", start + facing * speed * duration_s, y, 0.24, facing))  # fmt: skip
        actors.append(Actor("antelope", path, any_phase(rng), any_shade(rng), dust=0.5))
    herd = _herd(rng, "graze", int(rng.integers(1, 3)), 0.5, 0.29) if rng.random() < 0.85 else ()
    return Cast((*herd, *actors), _all_through("antelopes", len(herd), duration_s))


def dust_devil(rng: Rng, duration_s: float) -> Cast:
    """A dust devil wanders about, in front of a resting elephant or an empty plain."""
    facing = any_side(rng)
    path = (Beat(0.0, "spin", -0.5 * facing, 0.20, 0.55, facing),
            Beat(duration_s, "spin", 0.5 * facing, 0.24, 0.60, facing))  # fmt: skip
    devil = Actor("dust_devil", path, any_phase(rng), any_shade(rng), dust=1.0)
    herd = _herd(rng, "rest", int(rng.integers(1, 3)), 0.54, 0.40) if rng.random() < 0.85 else ()
    return Cast((*herd, devil), _all_through("dust devil", len(herd), duration_s))


def rock(rng: Rng, duration_s: float) -> Cast:
    """Boulders shaped like an elephant, which only a shaking camera brings to life."""
    first = _thing(rng, "rock", float(rng.uniform(-0.3, 0.2)), 0.40, float(rng.uniform(0.5, 0.62)), any_side(rng))
    second = _thing(rng, "rock", float(rng.uniform(0.4, 0.7)), 0.33, 0.3, any_side(rng))
    return Cast((second, first), _all_through("rock", 0, duration_s))


def birds(rng: Rng, duration_s: float) -> Cast:
    """Birds splash in the water, beside a standing elephant or alone."""
    flock = []
    for _ in range(5):
        x, y = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.36, 0.46))
        beat = Beat(0.0, "splash", x, y, float(rng.uniform(0.13, 0.18)), any_side(rng))
        flock.append(Actor("bird", (beat,), any_phase(rng), any_shade(rng)))
    herd = _herd(rng, "rest", int(rng.integers(1, 3)), 0.54, 0.38, 0.24) if rng.random() < 0.85 else ()
    return Cast((*herd, *flock), _all_through("birds", len(herd), duration_s), WATERHOLE)


CALM_CASTERS: dict[str, Callable[[Rng, float], Cast]] = {
    "resting": resting,
    "walking": walking,
    "grazing": grazing,
    "drinking": drinking,
    "empty": empty,
    "jeep": jeep,
    "antelopes": antelopes,
    "dust devil": dust_devil,
    "rock": rock,
    "birds": birds,
}
"""Content category of a clip without a highlight -> its caster."""
