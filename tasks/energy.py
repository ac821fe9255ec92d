"""Measuring the energy of a stage with CodeCarbon, offline.

CodeCarbon reads counters where the machine shows them (RAPL, NVML) and otherwise estimates from processor load and a
constant for memory; which of the two it was is part of the result. Nested trackers would count twice, so a stage
has one, in its shell. Grid factors: CodeCarbon's own table by country (Our World in Data).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from models.energy import Energy

# CodeCarbon's names for processor figures that come from counters; every other mode is a model of load.
_MEASURED_MODES = ("intel_power_gadget", "intel_rapl", "amd_rapl", "apple_powermetrics", "powermetrics")
DEFAULT_COUNTRY = "KEN"


@dataclass
class EnergyMeter:
    """Filled when the `measure_energy` block ends.

    energy: the block's energy, or None while it runs
    """

    energy: Energy | None = None


@contextlib.contextmanager
def measure_energy(country: str | None = None) -> Iterator[EnergyMeter]:
    """Measure the block; `country` is an ISO alpha-3 code, by default $HERDLIGHT_COUNTRY or KEN (Kenya)."""
    from codecarbon import OfflineEmissionsTracker  # 1 s to import, and only stages need it

    code = country or os.environ.get("HERDLIGHT_COUNTRY", DEFAULT_COUNTRY)
    tracker = OfflineEmissionsTracker(
        country_iso_code=code, output_methods=[], log_level="critical", allow_multiple_runs=True, measure_power_secs=5
    )
    meter = EnergyMeter()
    tracker.start()
    try:
        yield meter
    finally:
        tracker.stop()
        meter.energy = _energy_of(tracker, code)


def _energy_of(tracker: object, country: str) -> Energy:
    data = tracker.final_emissions_data  # type: ignore[attr-defined]
    modes = [getattr(part, "_mode", None) for part in tracker._hardware]  # type: ignore[attr-defined]
    cpu_measured = any(mode in _MEASURED_MODES for mode in modes)
    has_gpu = bool(data.gpu_count)
    # Never "measured": memory is always a constant of CodeCarbon's.
    method = "mixed" if cpu_measured or has_gpu else "estimated"
    device = f"{data.cpu_model} x{data.cpu_count}" + (f", {data.gpu_model}" if has_gpu else "")
    return Energy(
        seconds=float(data.duration),
        cpu_kwh=float(data.cpu_energy),
        gpu_kwh=float(data.gpu_energy),
        ram_kwh=float(data.ram_energy),
        co2e_kg=float(data.emissions),
        method=method,
        device=device,
        country=country,
    )
