"""Drawing one elephant from its pose.

Outlines are complex numbers in the animal's own frame: x forwards, y up, the shoulder one unit above the feet.
Knows how an elephant looks; knows nothing of what it does or of the scene around it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from tasks.sample.poses import Pose
from tasks.sample.sites import RGB, mix

Points = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Place:
    """Where an animal's frame lies on the canvas.

    x, y:   pixel of the feet
    size:   pixels of one unit
    facing: 1 looks right, -1 looks left
    """

    x: float
    y: float
    size: float
    facing: int = 1

    def to_pixels(self, points: Points) -> list[float]:
        """Return the flat list x0, y0, x1, y1, … of `points` on the canvas."""
        flat = np.empty(2 * len(points))
        flat[0::2] = self.x + self.size * self.facing * points.real
        flat[1::2] = self.y - self.size * points.imag
        out: list[float] = flat.tolist()
        return out


def smooth_outline(corners: list[tuple[float, float]], steps: int = 5) -> Points:
    """Return the closed Catmull-Rom curve through `corners`, complex [len(corners) * steps]."""
    p1 = np.array([complex(x, y) for x, y in corners])
    p0, p2, p3 = np.roll(p1, 1), np.roll(p1, -1), np.roll(p1, -2)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :]
    a, b, c, d = (p[:, None] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(curve.ravel(), dtype=np.complex128)


def turn(points: Points, degrees: float, about: complex) -> Points:
    """Return `points` rotated anticlockwise by `degrees` about a point."""
    radians = math.radians(degrees)
    return about + (points - about) * complex(math.cos(radians), math.sin(radians))


def ribbon(centre: Points, widths: npt.NDArray[np.float64]) -> Points:
    """Return the outline of a band of the given widths along `centre`, complex [2 T]."""
    along = np.gradient(centre)
    normal = 1j * along / np.maximum(np.abs(along), 1e-9) * widths / 2
    return np.concatenate([centre + normal, (centre - normal)[::-1]])


_BODY = smooth_outline([(-0.57, 0.62), (-0.50, 0.82), (-0.28, 0.93), (0.02, 0.95), (0.28, 0.99), (0.46, 0.86),
                        (0.46, 0.58), (0.22, 0.40), (-0.12, 0.35), (-0.42, 0.38)])  # fmt: skip
_BACK = smooth_outline([(-0.46, 0.76), (-0.26, 0.88), (0.02, 0.90), (0.28, 0.93), (0.36, 0.80), (0.02, 0.74),
                        (-0.30, 0.70)])  # fmt: skip
_HEAD = smooth_outline([(0.34, 0.90), (0.44, 1.04), (0.60, 1.04), (0.72, 0.90), (0.74, 0.74), (0.64, 0.62),
                        (0.48, 0.60), (0.36, 0.70)])  # fmt: skip
_EAR = smooth_outline([(0.52, 0.98), (0.38, 1.00), (0.22, 0.88), (0.20, 0.70), (0.30, 0.56), (0.40, 0.58),
                       (0.48, 0.72)])  # fmt: skip
_TUSK = np.array([0.66 + 0.66j, 0.74 + 0.57j, 0.90 + 0.56j, 0.76 + 0.62j, 0.71 + 0.70j])
_NECK, _EAR_ROOT, _MIDDLE, _TRUNK_ROOT = 0.42 + 0.80j, 0.50 + 0.86j, -0.04 + 0.62j, 0.68 + 0.74j
_HIPS = ((-0.40, 0.0, True), (0.20, 0.5, True), (-0.30, 0.5, False), (0.33, 0.0, False))
_FRONT_HEAD = smooth_outline([(-0.20, 0.96), (-0.10, 1.08), (0.10, 1.08), (0.20, 0.96), (0.20, 0.76), (0.11, 0.58),
                              (-0.11, 0.58), (-0.20, 0.76)])  # fmt: skip
_FRONT_EAR = smooth_outline([(0.14, 1.02), (0.34, 1.10), (0.62, 1.04), (0.70, 0.84), (0.60, 0.60), (0.40, 0.46),
                             (0.28, 0.56), (0.16, 0.74)])  # fmt: skip
_FRONT_BODY = smooth_outline([(-0.37, 0.62), (-0.28, 0.92), (0.0, 1.02), (0.28, 0.92), (0.37, 0.62), (0.26, 0.36),
                              (-0.26, 0.36)])  # fmt: skip
_STEPS = np.linspace(0, 1, 9)
_IVORY: RGB = (238, 230, 206)
_EYE: RGB = (34, 28, 26)
_EAR_PINK: RGB = (206, 138, 124)


def trunk_line(pose: Pose, calf: bool) -> Points:
    """Return the centre line of the trunk seen from the side, complex [9], before the body's rotation."""
    length = 0.56 if calf else 0.80
    angles = np.radians(pose.trunk_deg + pose.head_deg + pose.curl_deg * _STEPS[:-1] ** 0.8)
    root = turn(np.array([_TRUNK_ROOT]), pose.head_deg, _NECK)
    return np.concatenate([root, root + np.cumsum(np.exp(1j * angles)) * length / 8])


def posed(points: Points, pose: Pose) -> Points:
    """Return `points` after the rotation and the lift of the whole body."""
    return (turn(points, pose.body_deg, _MIDDLE) if pose.body_deg else points) + 1j * pose.lift


def _leg(hip_x: float, phase: float, pose: Pose) -> Points:
    swing = np.radians(pose.swing_deg * np.sin(pose.gait_rad + 2 * np.pi * phase))
    bend = np.radians(max(0.0, pose.swing_deg * 0.9 * np.cos(pose.gait_rad + 2 * np.pi * phase)) + 70 * pose.fold)
    hip = complex(hip_x, 0.50)
    knee = hip - 0.25j * np.exp(1j * swing)
    foot = knee - 0.25j * np.exp(1j * (swing - bend))
    return np.array([hip, (hip + knee) / 2, knee, (knee + foot) / 2, foot])


def draw_elephant(draw: ImageDraw.ImageDraw, pose: Pose, place: Place, skin: RGB, calf: bool) -> None:
    """Draw one elephant on `draw`."""
    if pose.view == "front":
        _draw_front(draw, pose, place, skin)
    else:
        _draw_side(draw, pose, place, skin, calf)


def _draw_side(draw: ImageDraw.ImageDraw, pose: Pose, place: Place, skin: RGB, calf: bool) -> None:
    dark, light = mix(skin, (30, 26, 34), 0.38), mix(skin, (255, 244, 226), 0.24)

    def fill(points: Points, colour: RGB) -> None:
        draw.polygon(place.to_pixels(posed(points, pose)), fill=colour)

    def head_part(points: Points) -> Points:
        scaled = _NECK + (points - _NECK) * (1.16 if calf else 1.0)
        return turn(scaled, pose.head_deg, _NECK)

    widths = np.array([0.20, 0.18, 0.17, 0.165, 0.18])
    for hip_x, phase, far in _HIPS:
        if far:
            fill(ribbon(_leg(hip_x, phase, pose), widths), dark)
    tail = np.array([-0.55 + 0.74j, -0.64 + 0.60j, -0.66 + 0.40j + 0.05 * np.sin(pose.gait_rad), -0.63 + 0.36j])
    fill(ribbon(tail, np.array([0.05, 0.035, 0.03, 0.07])), dark)
    fill(_BODY, skin)
    fill(_BACK, light)
    for hip_x, phase, far in _HIPS:
        if not far:
            fill(ribbon(_leg(hip_x, phase, pose), widths), mix(skin, dark, 0.25))
    fill(head_part(_HEAD), mix(skin, light, 0.35))
    trunk = trunk_line(pose, calf)
    fill(ribbon(trunk, np.linspace(0.24, 0.11, 9)), mix(skin, light, 0.2))
    if not calf:
        fill(head_part(_TUSK), _IVORY)
    spread = turn((_EAR - _EAR_ROOT) * complex(0.82 + 0.88 * pose.ear, 0) + _EAR_ROOT, -26 * pose.ear, _EAR_ROOT)
    fill(head_part(spread), mix(skin, dark, 0.45))
    inner = _EAR_ROOT + (spread - _EAR_ROOT) * 0.72
    fill(head_part(inner), mix(skin, _EAR_PINK, 0.25))
    eye = posed(head_part(np.array([0.61 + 0.84j])), pose)[0]
    _dot(draw, place, eye, 0.026)


def _dot(draw: ImageDraw.ImageDraw, place: Place, at: complex, radius: float) -> None:
    x, y = place.to_pixels(np.array([at]))
    r = max(radius * place.size, 1.0)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_EYE)


def _draw_front(draw: ImageDraw.ImageDraw, pose: Pose, place: Place, skin: RGB) -> None:
    dark, light = mix(skin, (30, 26, 34), 0.38), mix(skin, (255, 244, 226), 0.24)

    def fill(points: Points, colour: RGB) -> None:
        draw.polygon(place.to_pixels(points + 1j * pose.lift), fill=colour)

    beat = np.sin(pose.gait_rad) * pose.swing_deg / 24
    for side, back in ((-1, True), (1, True), (-1, False), (1, False)):
        step = max(0.0, side * beat * (-1 if back else 1)) * 0.16
        x = side * (0.25 if back else 0.19)
        leg = np.array([complex(x, 0.52), complex(x, 0.28), complex(x, step)])
        fill(ribbon(leg, np.array([0.22, 0.20, 0.21])), dark if back else mix(skin, dark, 0.3))
        if back and side == 1:
            fill(_FRONT_BODY, mix(skin, dark, 0.45))
    reach = 0.42 + 0.62 * pose.ear
    for side in (-1, 1):
        squeezed = 0.14 + (_FRONT_EAR.real - 0.14) * reach + 1j * _FRONT_EAR.imag
        ear = turn(squeezed, -10 + 18 * pose.ear, 0.14 + 0.9j)
        ear = ear if side == 1 else -np.conj(ear)
        fill(ear, mix(skin, dark, 0.2))
        fill(side * 0.2 + 0.84j + (ear - side * 0.2 - 0.84j) * 0.78, mix(skin, _EAR_PINK, 0.25))
    fill(_FRONT_HEAD, mix(skin, light, 0.4))
    for side in (-1, 1):
        tusk = np.array([0.13 + 0.66j, 0.20 + 0.50j, 0.24 + 0.40j])
        fill(ribbon(tusk if side == 1 else -np.conj(tusk), np.array([0.07, 0.055, 0.02])), _IVORY)
    angles = np.radians(pose.trunk_deg + pose.curl_deg * _STEPS[:-1])
    steps = np.asarray(np.exp(1j * angles) * 0.66 / 8, dtype=np.complex128)
    trunk = np.cumsum(np.concatenate([np.array([0.70j]), steps]))
    fill(ribbon(trunk, np.linspace(0.22, 0.10, 9)), mix(skin, light, 0.15))
    for side in (-1, 1):
        _dot(draw, place, side * 0.13 + 0.84j + 1j * pose.lift, 0.026)
