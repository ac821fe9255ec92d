"""How an elephant holds itself while it does something: pure functions of time.

Knows joint angles and cycles; knows nothing of pixels or of where the animal stands. The gaits are made by eye, not
taken from measurements.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

View = Literal["side", "front"]


@dataclass(frozen=True)
class Pose:
    """Joint angles of one elephant at one instant.

    view:      seen from the side (facing right before mirroring) or from the front
    trunk_deg: direction of the trunk where it leaves the head; 0 forwards, 90 up, -90 down
    curl_deg:  how far the trunk turns from root to tip, positive turns it upwards
    ear:       0 laid back, 1 spread wide
    head_deg:  pitch of the head, positive is up
    body_deg:  rotation of the whole body about its middle, positive lifts the front
    swing_deg: amplitude of the legs' swing
    gait_rad:  phase of the legs
    lift:      height of the body above the ground, in body heights
    fold:      0 legs stretched, 1 legs drawn up
    spray:     0 dry, 1 water leaves the trunk in full jets
    """

    view: View = "side"
    trunk_deg: float = -84.0
    curl_deg: float = 12.0
    ear: float = 0.2
    head_deg: float = 0.0
    body_deg: float = 0.0
    swing_deg: float = 0.0
    gait_rad: float = 0.0
    lift: float = 0.0
    fold: float = 0.0
    spray: float = 0.0


_ANGLES = [field.name for field in fields(Pose) if field.name not in ("view", "gait_rad")]


def blend_poses(old: Pose, new: Pose, weight: float) -> Pose:
    """Return the pose `weight` (0 to 1) of the way from `old` to `new`; a change of view happens at once."""
    if weight >= 1.0 or old.view != new.view:
        return new
    eased = weight * weight * (3 - 2 * weight)
    mixed = {name: getattr(old, name) * (1 - eased) + getattr(new, name) * eased for name in _ANGLES}
    return Pose(view=new.view, gait_rad=new.gait_rad, **mixed)


def _wave(time_s: float, period_s: float, shift_rad: float = 0.0) -> float:
    return math.sin(2 * math.pi * time_s / period_s + shift_rad)


def _rest(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=-86 + 5 * _wave(t, 3.4, shift), curl_deg=14 + 10 * _wave(t, 4.1, shift),
                ear=0.22 + 0.16 * _wave(t, 1.6, shift), head_deg=2 * _wave(t, 5.0, shift))  # fmt: skip


def _walk(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=-80 + 7 * _wave(t, 1.3, shift), curl_deg=20 + 10 * _wave(t, 1.3, shift), ear=0.25,
                head_deg=3 * _wave(t, 0.65, shift), swing_deg=19, gait_rad=2 * math.pi * t / 1.3 + shift,
                lift=0.012 * abs(_wave(t, 1.3, shift)))  # fmt: skip


def _graze(t: float, shift: float) -> Pose:
    reach = 0.5 + 0.5 * _wave(t, 3.2, shift)
    return Pose(trunk_deg=-74 - 14 * reach, curl_deg=-20 - 95 * (1 - reach), ear=0.2, head_deg=-13 * reach - 2)


def _drink(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=-66 + 4 * _wave(t, 2.2, shift), curl_deg=-32, ear=0.18, head_deg=-20)


def _bathe(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=72 + 12 * _wave(t, 1.1, shift), curl_deg=92 + 26 * _wave(t, 0.9, shift),
                ear=0.75 + 0.25 * _wave(t, 0.7, shift), head_deg=13 + 5 * _wave(t, 1.1, shift),
                body_deg=3.5 * _wave(t, 0.9, shift), lift=0.02 * _wave(t, 0.55, shift), spray=1.0)  # fmt: skip


def _entwine(t: float, shift: float) -> Pose:
    sway = _wave(t, 1.5)
    upper = 1.0 if math.cos(shift) > 0 else -1.0
    return Pose(trunk_deg=24 + 26 * upper + 9 * sway, curl_deg=-118 * upper + 24 * sway, ear=0.9 + 0.1 * sway,
                head_deg=15 + 4 * sway, body_deg=1.5 * sway)  # fmt: skip


def _run(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=30 + 22 * _wave(t, 0.6, shift), curl_deg=62, ear=0.95, head_deg=8,
                body_deg=9 * _wave(t, 0.6, shift), swing_deg=38, gait_rad=2 * math.pi * t / 0.6 + shift,
                lift=0.11 * abs(_wave(t, 0.6, shift)))  # fmt: skip


def _rear(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=12 + 24 * _wave(t, 0.9, shift), curl_deg=50, ear=0.95, head_deg=-8,
                body_deg=37 + 12 * _wave(t, 1.1, shift), swing_deg=26, gait_rad=5.5 * t + shift,
                lift=0.13 + 0.05 * _wave(t, 1.1, shift))  # fmt: skip


def _tumble(t: float, shift: float) -> Pose:
    return Pose(trunk_deg=5 + 38 * _wave(t, 0.8, shift), curl_deg=70, ear=0.9, head_deg=14,
                body_deg=182 + 26 * _wave(t, 1.3, shift), swing_deg=34, gait_rad=2 * math.pi * t / 0.7 + shift,
                fold=0.15)  # fmt: skip


def _stand_front(t: float, shift: float) -> Pose:
    return Pose(view="front", trunk_deg=-90 + 7 * _wave(t, 2.9, shift), curl_deg=10 * _wave(t, 2.3, shift),
                ear=0.12 + 0.12 * _wave(t, 1.5, shift))  # fmt: skip


def _walk_front(t: float, shift: float) -> Pose:
    return Pose(view="front", trunk_deg=-90 + 9 * _wave(t, 1.3, shift), curl_deg=14 * _wave(t, 1.3, shift),
                ear=0.16, swing_deg=9, gait_rad=2 * math.pi * t / 1.3 + shift)  # fmt: skip


def _charge(t: float, shift: float) -> Pose:
    return Pose(view="front", trunk_deg=-62 + 16 * _wave(t, 0.8, shift), curl_deg=118 + 24 * _wave(t, 0.8, shift),
                ear=0.95 + 0.05 * _wave(t, 0.5, shift), head_deg=5, swing_deg=24,
                gait_rad=2 * math.pi * t / 0.62 + shift, lift=0.035 * abs(_wave(t, 0.62, shift)))  # fmt: skip


ACTIONS: dict[str, Callable[[float, float], Pose]] = {
    "rest": _rest,
    "walk": _walk,
    "graze": _graze,
    "drink": _drink,
    "bathe": _bathe,
    "entwine": _entwine,
    "run": _run,
    "rear": _rear,
    "tumble": _tumble,
    "stand_front": _stand_front,
    "walk_front": _walk_front,
    "charge": _charge,
}
"""Name of an action -> (seconds, the animal's own phase in radians) -> pose."""
