"""The words for what is seen, from a small vocabulary so that a small text tower can learn all of it.

Knows English; knows nothing of how a scene is made.
"""

import numpy as np

from tasks.sample.scenes import HIGHLIGHTS, Scene, Stretch

ACTIVITIES: dict[str, tuple[str, ...]] = {
    "bathing": ("bathing and spraying water", "splashing in the water", "taking a bath in the waterhole"),
    "playing": ("playing and tumbling", "playing together", "climbing on each other in play"),
    "charging": ("charging at the camera", "charging with spread ears in the dust", "running at the camera"),
    "meeting": ("meeting and entwining their trunks", "greeting each other with their trunks", "meeting head to head"),
    "resting": ("resting", "standing still", "resting in the savanna"),
    "calves standing": ("standing still", "resting", "standing about"),
    "standing in water": ("standing in the water", "resting in the water"),
    "walking": ("walking", "walking across the savanna"),
    "grazing": ("grazing", "eating grass"),
    "drinking": ("drinking water", "drinking at the waterhole"),
    "standing": ("standing still with spread ears", "standing with spread ears, not moving"),
    "lying": ("lying still", "lying still on the ground"),
}
"""Activity -> ways to say what elephants do."""

_SCENERY: dict[str, tuple[str, ...]] = {
    "empty": ("an empty savanna", "an empty plain with no elephants"),
    "jeep": ("a jeep driving by", "a car on a dusty track"),
    "antelopes": ("antelopes running", "running antelopes"),
    "dust devil": ("a dust devil", "a whirl of dust"),
    "rock": ("a rock like an elephant", "gray rocks"),
    "birds": ("birds splashing in the water", "white birds in the water"),
}
_NUMBERS = {1: "an elephant", 2: "two elephants", 3: "three elephants", 4: "four elephants"}
_CALVES = {2: "two elephant calves", 3: "three elephant calves"}
_HOURS = {"day": "by day", "dawn": "at dawn", "dusk": "at dusk", "night": "at night"}
_WEATHERS = {"clear": "", "cloudy": "under clouds", "rain": "in the rain", "dusty": "in dusty wind"}
_MOVEMENTS = {"still": "", "shaking": "shaking camera", "panning": "moving camera", "zooming": "zooming camera"}
_YOUNG = frozenset({"playing", "calves standing", "lying"})


def _what(stretch: Stretch, rng: np.random.Generator) -> str:
    if stretch.activity in _SCENERY:
        words = str(rng.choice(_SCENERY[stretch.activity]))
        return f"{words} and {_NUMBERS[stretch.count]}" if stretch.count else words
    numbers = _CALVES if stretch.activity in _YOUNG else _NUMBERS
    return f"{numbers[stretch.count]} {rng.choice(ACTIVITIES[stretch.activity])}"


def _setting(scene: Scene) -> str:
    words = " ".join(filter(None, (_HOURS[scene.hour], _WEATHERS[scene.weather])))
    movement = _MOVEMENTS[scene.camera.movement]
    return f"{words}, {movement}" if movement else words


def caption_stretches(scene: Scene) -> list[tuple[Stretch, str]]:
    """Return every stretch of `scene` with its caption."""
    rng = np.random.default_rng((scene.seed, 2))
    return [(stretch, f"{_what(stretch, rng)} {_setting(scene)}") for stretch in scene.stretches]


def caption_scene(scene: Scene) -> str:
    """Return one caption for the whole scene: that of its highlight, or of its longest stretch."""
    captions = caption_stretches(scene)
    lively = [pair for pair in captions if pair[0].activity in HIGHLIGHTS]
    return max(lively or captions, key=lambda pair: pair[0].end_s - pair[0].start_s)[1]
