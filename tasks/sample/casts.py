"""Who is in a scene and where they are at each instant.

An actor follows beats: from each beat on it does one action, and between two beats it moves steadily from place to
place. Places are in world units: one unit is about the height of a landscape frame, x = 0 is the middle of the frame,
y = 0 the horizon and y grows downwards along the ground. Knows nothing of pixels.
"""

from dataclasses import dataclass
from typing import Literal

from tasks.sample.poses import ACTIONS, Pose, blend_poses

Kind = Literal["elephant", "calf", "antelope", "jeep", "rock", "bird", "dust_devil"]

_BLEND_S = 0.4


@dataclass(frozen=True)
class Beat:
    """From `start_s` on: what an actor does and where it starts doing it.

    start_s: seconds
    action:  a key of poses.ACTIONS for elephants and calves, any word for others
    x, y:    place of the feet, world units
    size:    height of the shoulder, world units
    facing:  1 right, -1 left
    """

    start_s: float
    action: str
    x: float
    y: float
    size: float
    facing: int = 1


@dataclass(frozen=True)
class Actor:
    """One animal or thing.

    beats:     in order of time, the first at or before 0 s
    phase_rad: its own phase in every cycle, so that a herd does not move as one
    shade:     -1 darker to 1 lighter than the herd
    wade:      depth of the water it stands in, part of its own size
    dust:      dust it raises while it charges, runs or drives, 0 to 1
    """

    kind: Kind
    beats: tuple[Beat, ...]
    phase_rad: float = 0.0
    shade: float = 0.0
    wade: float = 0.0
    dust: float = 0.0


@dataclass(frozen=True)
class State:
    """Where an actor is and what it does at one instant; `pose` is None for what is not an elephant."""

    action: str
    x: float
    y: float
    size: float
    facing: int
    pose: Pose | None


def state_at(actor: Actor, time_s: float) -> State:
    """Return the actor's state at `time_s` (seconds)."""
    index = max((i for i, beat in enumerate(actor.beats) if beat.start_s <= time_s), default=0)
    beat = actor.beats[index]
    x, y, size = beat.x, beat.y, beat.size
    if index + 1 < len(actor.beats):
        after = actor.beats[index + 1]
        part = min(max((time_s - beat.start_s) / (after.start_s - beat.start_s), 0.0), 1.0)
        x, y = x + (after.x - x) * part, y + (after.y - y) * part
        # What comes closer at a steady speed grows faster the nearer it is; a geometric path is close to that.
        size *= (after.size / size) ** part
    return State(beat.action, x, y, size, beat.facing, _pose_at(actor, index, time_s))


def _pose_at(actor: Actor, index: int, time_s: float) -> Pose | None:
    if actor.kind not in ("elephant", "calf"):
        return None
    beat = actor.beats[index]
    pose = ACTIONS[beat.action](time_s, actor.phase_rad)
    if index == 0 or time_s - beat.start_s >= _BLEND_S:
        return pose
    before = ACTIONS[actor.beats[index - 1].action](time_s, actor.phase_rad)
    return blend_poses(before, pose, (time_s - beat.start_s) / _BLEND_S)
