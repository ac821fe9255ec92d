"""Energy as a value: what a stage used, and how anybody knows.

Knows how figures add; measuring is `tasks.energy`'s.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.errors import ShapeError


@dataclass(frozen=True)
class Energy:
    """Electric energy of one piece of work.

    seconds:     wall time, s
    cpu_kwh:     processors, kWh
    gpu_kwh:     accelerators, kWh
    ram_kwh:     memory, kWh
    co2e_kg:     emissions with the grid factor of `country`, kg CO2 equivalent
    method:      how the figures were obtained: "measured" (counters), "estimated" (load and constants) or "mixed"
    device:      processor and accelerator, in words
    country:     ISO 3166-1 alpha-3 code whose grid factor was applied
    share:       part, above 0 to 1, of what the machine used meanwhile that is counted here: 1 where the work had the
                 machine to itself, else its part of the processor time that all processes took
    """

    seconds: float
    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    co2e_kg: float
    method: str
    device: str
    country: str
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ShapeError(f"energy: share must be above 0 and at most 1, got {self.share}")
        figures = (self.seconds, self.cpu_kwh, self.gpu_kwh, self.ram_kwh, self.co2e_kg)
        if not all(math.isfinite(value) and value >= 0 for value in figures):
            raise ShapeError(f"energy: figures must be finite and at least 0, got {figures}")
        if self.method not in ("measured", "estimated", "mixed"):
            raise ShapeError(f"energy: method must be measured, estimated or mixed, got {self.method!r}")

    @property
    def kwh(self) -> float:
        """Total, kWh."""
        return self.cpu_kwh + self.gpu_kwh + self.ram_kwh

    def wh_per_hour(self, duration_s: float) -> float:
        """Return watt-hours for an hour of video, of which `duration_s` seconds (above 0) took this energy."""
        return self.kwh * 1000 * 3600 / duration_s

    def part(self, share: float) -> "Energy":
        """Return the part of this energy that a piece of work took which shared the machine; `share` as in the fields.

        Seconds stay: they are the work's own.
        """
        figures = {name: getattr(self, name) * share for name in ("cpu_kwh", "gpu_kwh", "ram_kwh", "co2e_kg")}
        return replace(self, **figures, share=self.share * share)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the total as a JSON object."""
        return {**asdict(self), "kwh": self.kwh}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Energy":
        """Return the value that `to_json` wrote."""
        return Energy(**{key: value[key] for key in Energy.__dataclass_fields__ if key != "share" or key in value})


def add_energy(parts: Iterable[Energy]) -> Energy | None:
    """Return the sum of `parts`, or None when there are none; unlike methods add up to "mixed".

    Its share is that of the sum in what the machines used during all the parts.
    """
    parts = list(parts)
    if not parts:
        return None
    methods = {part.method for part in parts}
    whole_kwh = sum(part.kwh / part.share for part in parts)
    return Energy(
        seconds=sum(part.seconds for part in parts),
        cpu_kwh=sum(part.cpu_kwh for part in parts),
        gpu_kwh=sum(part.gpu_kwh for part in parts),
        ram_kwh=sum(part.ram_kwh for part in parts),
        co2e_kg=sum(part.co2e_kg for part in parts),
        method=methods.pop() if len(methods) == 1 else "mixed",
        device="; ".join(dict.fromkeys(part.device for part in parts)),
        country=", ".join(dict.fromkeys(part.country for part in parts)),
        share=min(1.0, sum(part.kwh for part in parts) / whole_kwh) if whole_kwh > 0 else 1.0,
    )
