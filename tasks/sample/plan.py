"""Which clips there are: their split, site, story and encoding.

Pure: the same number and seed give the same plan. Good and bad clips share their sites, hours, weathers and
cameras, so that none of these tells them apart. Knows nothing of pixels or bytes.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from models.errors import ParamsError
from models.spans import Span
from tasks.sample.activities import HIGHLIGHT_CASTERS, Rng
from tasks.sample.calm import CALM_CASTERS
from tasks.sample.captions import caption_scene, caption_stretches
from tasks.sample.encode import Encoding
from tasks.sample.scenes import Camera, Hour, Movement, Scene, Water, Weather, still_twin
from tasks.sample.sites import Site, make_site

MIN_CLIPS = 8
DURATION_S = (6.0, 7.2)

_SITES = (
    *("acacia-ford", "baobab-bend", "salt-pan", "marula-grove", "red-hills", "reed-lake", "stone-kraal", "fever-tree"),
    *("long-grass", "ivory-palms", "sand-river", "thorn-valley", "ébène-camp", "moon-pool", "dry-delta", "fig-island"),
    *("mopane-flats", "lion-rock", "crane-marsh", "old-borehole", "wind-ridge", "honey-plain"),
    *("kudu-plain", "amber-hills", "black-cotton", "river-bend", "palm-gate", "cloud-rim"),
)
_UNSEEN_SITES = ("north-fence", "ranger-post")
_HOURS: tuple[Hour, ...] = ("day", "dawn", "day", "dusk", "day", "night", "day", "dusk")
_WEATHERS: tuple[Weather, ...] = ("clear", "cloudy", "clear", "dusty", "rain", "clear", "dusty", "clear", "cloudy")
_MOVEMENTS: tuple[Movement, ...] = ("still", "shaking", "still", "panning", "still", "zooming", "shaking", "still")
_WITH_TWINS = (
    *("resting", "walking", "standing", "birds", "lying", "dust devil", "drinking", "rock", "grazing", "jeep"),
    *("antelopes", "empty"),
)
_WITHOUT_TWINS = (
    *("resting", "walking", "grazing", "birds", "drinking", "dust devil", "resting", "rock", "walking", "jeep"),
    *("antelopes", "empty"),
)
# Not every round has the still twins: some are enough to make motion matter, many would drown the rest.
_CALM = (*_WITH_TWINS, *_WITHOUT_TWINS, *_WITH_TWINS)
_TWIN_OF = {"standing": "charging", "lying": "playing"}
_FORMATS: tuple[tuple[str, str, str | None], ...] = (
    *(("mp4", "libx264", "aac"), ("mkv", "libx265", None), ("webm", "libvpx-vp9", "libopus")),
    *(("avi", "mpeg4", "libmp3lame"), ("mp4", "libx265", None), ("mp4", "libx264", None)),
    *(("mkv", "libx264", "libopus"), ("webm", "libvpx-vp9", None), ("mov", "libx264", "aac")),
    *(("avi", "mpeg4", None), ("mp4", "mpeg4", None)),
)
_SIZES = ((256, 144), (192, 108), (240, 180), (256, 144), (320, 180), (208, 156), (224, 126))
_RATES = tuple(Fraction(rate) for rate in ("10", "12.5", "15", "12", "24", "10", "15", "25", "12.5", "30000/1001"))


@dataclass(frozen=True)
class Clip:
    """One video to be written.

    name:     path relative to the folder of all videos, POSIX
    group:    recording site and day
    shots:    scenes shown one after the other, with hard cuts
    encoding: how it is stored
    """

    name: str
    group: str
    shots: tuple[Scene, ...]
    encoding: Encoding

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return sum(scene.duration_s for scene in self.shots)

    @property
    def content(self) -> str:
        """Category: the content of its shots."""
        return ", ".join(scene.content for scene in self.shots)

    @property
    def is_highlight_throughout(self) -> bool:
        """Whether every second of it is a highlight."""
        return all(scene.spans() == [Span(0.0, scene.duration_s)] for scene in self.shots)

    def caption(self) -> str:
        """Return one caption for the whole clip."""
        return ", then ".join(caption_scene(scene) for scene in self.shots)

    def captions(self) -> list[tuple[Span, str]]:
        """Return every stretch with its caption, in order, seconds within the clip."""
        rows, start = [], 0.0
        for scene in self.shots:
            rows += [(self._within(start + s.start_s, start + s.end_s), text) for s, text in caption_stretches(scene)]
            start += scene.duration_s
        return rows

    def spans(self) -> list[Span]:
        """Return the true highlights in order, seconds within the clip."""
        spans, start = [], 0.0
        for scene in self.shots:
            spans += [self._within(start + span.start_s, start + span.end_s) for span in scene.spans()]
            start += scene.duration_s
        return spans

    def _within(self, start_s: float, end_s: float) -> Span:
        # Containers round their clocks: half a frame before the nominal end is after the last frame and never past
        # the end of the file.
        limit = self.encoding.frame_times_s(self.duration_s)[-1] + float(1 / self.encoding.fps) / 2
        return Span(round(start_s, 3), round(min(end_s, limit), 3))


@dataclass(frozen=True)
class _Setting:
    site: Site
    hour: Hour
    weather: Weather
    camera: Camera
    exposure: int = 0


def plan_clips(num_clips: int, seed: int, duration_s: tuple[float, float] = DURATION_S) -> list[Clip]:
    """Return the annotated clips: about 65% train, 16% val and 19% test, half of each with a highlight.

    duration_s: shortest and longest clip, seconds. Raises ParamsError below MIN_CLIPS.
    """
    if num_clips < MIN_CLIPS:
        raise ParamsError(f"num_clips = {num_clips}: at least {MIN_CLIPS}, so that every split has good and bad clips")
    val, test = max(2, round(num_clips * 0.16)), max(2, round(num_clips * 0.19))
    clips: list[Clip] = []
    first_site = 0
    for index, (split, count) in enumerate((("train", num_clips - val - test), ("val", val), ("test", test))):
        sites = [_site(first_site + i, seed) for i in range(max(1, round(count / 6)))]
        first_site += len(sites)
        clips += _plan_split(split, count, sites, np.random.default_rng((seed, index)), duration_s)
    return clips


def plan_unseen(seed: int, duration_s: float = 6.7) -> list[Clip]:
    """Return two longer clips of three shots each, at sites of their own. duration_s: of one shot, seconds."""
    stories = (("walking", "bathing", "birds"), ("grazing", "meeting", "playing"))
    clips = []
    for index, story in enumerate(stories):
        rng = np.random.default_rng((seed, 10 + index))
        site = make_site(_UNSEEN_SITES[index], 100 + index, seed)
        setting = _Setting(site, ("day", "dusk")[index], "clear", Camera(("still", "panning")[index], 0.5, 1.0))
        shots = tuple(_scene(content, setting, duration_s, False, rng) for content in story)
        encoding = Encoding("mp4", "libx264", 320, 180, Fraction(15), "aac")
        clips.append(Clip(f"{site.name} {index + 1}.mp4", site.name, shots, encoding))
    return clips


def _site(index: int, seed: int) -> Site:
    day = "" if index < len(_SITES) else f"-day{index // len(_SITES) + 1}"
    return make_site(_SITES[index % len(_SITES)] + day, index, seed)


def _deal(deck: tuple[str, ...], count: int, rng: Rng) -> list[str]:
    """Return `count` cards of `deck` in random order, each as often as in the deck."""
    cards = [deck[i % len(deck)] for i in range(count)]
    return [cards[i] for i in rng.permutation(count)]


def _settings(sites: list[Site], count: int, rng: Rng) -> list[_Setting]:
    hours, weathers = _deal(_HOURS, count, rng), _deal(_WEATHERS, count, rng)
    movements = _deal(_MOVEMENTS, count, rng)
    return [
        _Setting(sites[i % len(sites)], hours[i], weathers[i],  # type: ignore[arg-type]
                 Camera(movements[i], float(rng.uniform(0.5, 1)), float(rng.uniform(0, 6.3))),  # type: ignore[arg-type]
                 int(rng.integers(1 << 31)))
        for i in range(count)
    ]  # fmt: skip


def _scene(content: str, setting: _Setting, duration_s: float, whole: bool, rng: Rng) -> Scene:
    if content in HIGHLIGHT_CASTERS:
        cast = HIGHLIGHT_CASTERS[content](rng, duration_s, whole)
    else:
        cast = CALM_CASTERS[content](rng, duration_s)
    camera = Camera("shaking", 1.0, setting.camera.phase) if content == "rock" else setting.camera
    water = cast.water
    if water is None and rng.random() < 0.45:
        # Water alone must not mean bathing: a waterhole lies behind many other scenes.
        water = Water(float(rng.uniform(-0.5, 0.5)), 0.14, float(rng.uniform(0.45, 0.7)), 0.065)
    return Scene(content, setting.site, setting.hour, setting.weather, camera, cast.actors, cast.stretches, duration_s,
                 water, seed=int(rng.integers(1 << 31)), exposure=setting.exposure)  # fmt: skip


def _plan_split(split: str, count: int, sites: list[Site], rng: Rng, duration_s: tuple[float, float]) -> list[Clip]:
    num_good = count // 2
    lively = tuple(HIGHLIGHT_CASTERS)
    first = {"train": 0, "val": 2, "test": 1}[split]  # so that small sets show more than the first of each deck
    settings = _settings(sites, count - num_good, rng)
    good = []
    for i, setting in enumerate(settings[:num_good]):
        length = round(float(rng.uniform(*duration_s)), 2)
        good.append(_scene(lively[(i + first) % len(lively)], setting, length, i % 12 == 5, rng))
    bad = []
    # The same settings once more: every site, hour, weather and exposure of a good clip is that of a bad one too, so
    # that the palette of a clip says nothing about its class.
    for i, which in enumerate(rng.permutation(len(settings))):
        content, setting = _CALM[i % len(_CALM)], settings[which]
        length = round(float(rng.uniform(*duration_s)), 2)
        twins = [scene for scene in good if scene.content == _TWIN_OF.get(content)]
        if twins:
            bad.append(_held(twins[i // len(_WITH_TWINS) % len(twins)], content, rng))
        else:
            bad.append(_scene(content if content in CALM_CASTERS else "resting", setting, length, False, rng))
    formats = rng.permutation(count)
    scenes = [("good", scene) for scene in good] + [("bad", scene) for scene in bad]
    order = rng.permutation(count)
    return [
        _clip(f"{split}/{scenes[which][0]}", scenes[which][1], number, int(formats[number]))
        for number, which in enumerate(order)
    ]


def _held(moving: Scene, content: str, rng: Rng) -> Scene:
    """Return the still twin of a scene, held somewhere in its highlight."""
    span = moving.spans()[0]
    time_s = span.start_s + span.duration_s * float(rng.uniform(0.35, 0.85))
    return still_twin(moving, round(time_s, 2), content, content)


def _clip(folder: str, scene: Scene, number: int, form: int) -> Clip:
    extension, codec, audio = _FORMATS[form % len(_FORMATS)]
    width, height = _SIZES[form % len(_SIZES)]
    rotated = form % 42 == 5 and extension == "mp4"
    if rotated or form % 46 == 8:
        width, height = 176, 220
    variable = form % 6 == 1 and extension != "avi"
    rate = Fraction(25) if variable else _RATES[form % len(_RATES)]
    encoding = Encoding(extension, codec, width, height, rate, audio, variable, rotated)
    return Clip(f"{folder}/{scene.site.name} {number:02d}.{extension}", scene.site.name, (scene,), encoding)
