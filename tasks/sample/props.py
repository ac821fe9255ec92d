"""Drawing what is not an elephant: antelopes, birds, a jeep, boulders.

Knows shapes; knows nothing of where things go or why.
"""

import math

import numpy as np
from PIL import ImageDraw

from tasks.sample.elephant import Place, ribbon, smooth_outline
from tasks.sample.sites import RGB, mix

_ANTELOPE = smooth_outline([(-0.52, 0.74), (-0.30, 0.86), (0.20, 0.84), (0.46, 1.06), (0.50, 1.30), (0.62, 1.36),
                            (0.80, 1.22), (0.62, 1.18), (0.58, 0.90), (0.40, 0.60), (-0.10, 0.54),
                            (-0.46, 0.58)])  # fmt: skip
_ROCK = smooth_outline([(-0.66, 0.0), (-0.60, 0.55), (-0.40, 0.88), (0.0, 0.94), (0.30, 0.98), (0.52, 1.02),
                        (0.74, 0.86), (0.82, 0.50), (0.86, 0.14), (0.80, 0.0)])  # fmt: skip
_ROCK_ARCH = smooth_outline([(-0.22, 0.0), (-0.18, 0.24), (0.0, 0.34), (0.16, 0.22), (0.20, 0.0)])
_ROCK_NOTCH = smooth_outline([(0.52, 0.0), (0.54, 0.36), (0.62, 0.44), (0.70, 0.30), (0.70, 0.0)])
_ROCK_LIGHT = smooth_outline([(-0.50, 0.62), (-0.36, 0.82), (0.0, 0.88), (0.34, 0.92), (0.30, 0.72), (-0.10, 0.64)])
_BIRD = smooth_outline([(-0.55, 0.35), (-0.20, 0.62), (0.22, 0.62), (0.34, 0.92), (0.62, 0.98), (0.50, 0.70),
                        (0.40, 0.36), (0.0, 0.22)])  # fmt: skip
_CAR = np.array([-1.0 + 0.28j, -1.0 + 0.72j, -0.92 + 1.18j, 0.28 + 1.18j, 0.50 + 0.76j, 1.02 + 0.70j, 1.06 + 0.28j])
_WINDOWS = (np.array([-0.84 + 0.76j, -0.80 + 1.06j, -0.34 + 1.06j, -0.34 + 0.76j]),
            np.array([-0.24 + 0.76j, -0.24 + 1.06j, 0.20 + 1.06j, 0.38 + 0.76j]))  # fmt: skip


def draw_antelope(draw: ImageDraw.ImageDraw, place: Place, gait_rad: float) -> None:
    """Draw an antelope at full run."""
    coat, dark = (176, 128, 82), (128, 88, 56)
    for hip, shift in ((-0.38, 0.0), (0.34, 2.2), (-0.30, 0.5), (0.42, 2.7)):
        swing = 0.75 * math.sin(gait_rad + shift)
        leg = np.array([hip + 0.62j, hip + 0.30 * swing + 0.32j, hip + 0.62 * swing + 0.04j])
        outline = place.to_pixels(ribbon(leg, np.array([0.14, 0.08, 0.06])))
        draw.polygon(outline, fill=dark if hip in (-0.38, 0.34) else coat)
    draw.polygon(place.to_pixels(_ANTELOPE), fill=coat)
    draw.line(place.to_pixels(np.array([0.56 + 1.34j, 0.50 + 1.56j, 0.42 + 1.72j])), fill=(50, 40, 34), width=2)
    belly = smooth_outline([(-0.40, 0.62), (0.0, 0.62), (0.34, 0.66), (0.0, 0.55)])
    draw.polygon(place.to_pixels(belly), fill=(236, 222, 196))


def draw_rock(draw: ImageDraw.ImageDraw, place: Place, colour: RGB) -> None:
    """Draw a boulder with the outline of an elephant: a back, a head, a trunk that reaches the ground."""
    shade = mix(colour, (40, 36, 40), 0.45)
    draw.polygon(place.to_pixels(_ROCK), fill=colour)
    draw.polygon(place.to_pixels(_ROCK_LIGHT), fill=mix(colour, (250, 244, 230), 0.25))
    for hollow in (_ROCK_ARCH, _ROCK_NOTCH):
        draw.polygon(place.to_pixels(hollow), fill=shade)
    for crack in ([-0.40 + 0.50j, -0.20 + 0.62j, -0.16 + 0.80j], [0.36 + 0.92j, 0.42 + 0.6j, 0.34 + 0.4j]):
        draw.line(place.to_pixels(np.array(crack)), fill=shade, width=2)


def draw_bird(draw: ImageDraw.ImageDraw, place: Place, beat: float) -> None:
    """Draw a white egret. beat: 0 wings folded, -1 to 1 wings down to up."""
    white, grey = (244, 242, 234), (206, 206, 204)
    for x in (-0.02, 0.10):
        draw.line(place.to_pixels(np.array([x + 0.30j, x + 0j])), fill=(90, 80, 60), width=2)
    draw.polygon(place.to_pixels(_BIRD), fill=white)
    draw.line(place.to_pixels(np.array([0.58 + 0.92j, 0.84 + 0.86j])), fill=(214, 160, 60), width=2)
    if beat:
        for root, colour in ((0.0, grey), (0.08, white)):
            elbow, tip = -0.34 + (0.6 + 0.7 * beat) * 1j, -0.85 + (0.55 + 1.0 * beat) * 1j
            wing = np.array([0.56j, elbow, tip, -0.30 + 0.42j]) + complex(root)
            draw.polygon(place.to_pixels(wing), fill=colour)


def draw_jeep(draw: ImageDraw.ImageDraw, place: Place, colour: RGB, roll_rad: float) -> None:
    """Draw a jeep. roll_rad: how far its wheels have turned."""
    draw.polygon(place.to_pixels(_CAR), fill=colour)
    sill = np.array([-1.0 + 0.28j, -1.0 + 0.44j, 1.05 + 0.44j, 1.06 + 0.28j])
    draw.polygon(place.to_pixels(sill), fill=mix(colour, (20, 20, 20), 0.35))
    for window in _WINDOWS:
        draw.polygon(place.to_pixels(window), fill=(196, 214, 220))
    for x in (-0.62, 0.66):
        cx, cy = place.to_pixels(np.array([x + 0.24j]))
        for radius, fill in ((0.25, (40, 38, 38)), (0.12, (170, 168, 160))):
            r = radius * place.size
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)
        spoke = complex(0.10 * math.cos(roll_rad), -0.10 * math.sin(roll_rad))
        draw.line(place.to_pixels(x + 0.24j + np.array([-spoke, spoke])), fill=(60, 58, 58), width=2)
