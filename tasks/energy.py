"""Measuring the energy of a stage with CodeCarbon, offline.

CodeCarbon reads counters where the machine shows them (RAPL, NVML) and otherwise estimates from processor load and a
constant for memory; which of the two it was is part of the result. Nested trackers would count twice, so a stage
has one, in its shell. Grid factors: CodeCarbon's own table by country (Our World in Data).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil

from models.energy import Energy

# CodeCarbon's names for processor figures that come from counters; every other mode is a model of load.
_MEASURED_MODES = ("intel_power_gadget", "intel_rapl", "amd_rapl", "apple_powermetrics", "powermetrics")
DEFAULT_COUNTRY = "KEN"
_TICK_S = 0.01
# psutil.cpu_times: waiting, what other virtual machines had, and what is already part of another figure.
_NOT_BUSY = ("idle", "iowait", "steal", "guest", "guest_nice")


@dataclass
class EnergyMeter:
    """Filled when the `measure_energy` block ends.

    energy: the block's energy, or None while it runs
    """

    energy: Energy | None = None


@contextlib.contextmanager
def measure_energy(country: str | None = None) -> Iterator[EnergyMeter]:
    """Measure the block; `country` is an ISO alpha-3 code, by default $HERDLIGHT_COUNTRY or KEN (Kenya)."""
    tracker, code = _tracker(country)
    meter = EnergyMeter()
    _whole(tracker.start)
    try:
        yield meter
    finally:
        _whole(tracker.stop)
        meter.energy = _energy_of(tracker, tracker.final_emissions_data, code)


@dataclass(frozen=True)
class ProcessorTimes:
    """Processor time since processes and machine started.

    own_s:  of this process and the children that it has waited for, s
    busy_s: of all processes of the machine, s; all cores together
    """

    own_s: float
    busy_s: float

    @staticmethod
    def now() -> "ProcessorTimes":
        """Return the times at this moment, as the operating system counts them."""
        own, machine = os.times(), psutil.cpu_times()._asdict()
        busy_s = sum(value for name, value in machine.items() if name not in _NOT_BUSY)
        return ProcessorTimes(own.user + own.system + own.children_user + own.children_system, busy_s)

    def share_since(self, before: "ProcessorTimes") -> float:
        """Return this process's part, above 0 to 1, of the machine's processor time since `before`.

        The two are counted in ticks of their own (10 ms on Linux), so a short time says little.
        """
        own_s, busy_s = self.own_s - before.own_s, self.busy_s - before.busy_s
        return min(1.0, max(own_s, _TICK_S) / max(busy_s, _TICK_S))


class EnergyCounter:
    """Measures one piece of work after the other with one tracker; made by `energy_counter`."""

    def __init__(self, tracker: Any, country: str, *, shared: bool) -> None:
        self._tracker, self._country, self._shared, self._num = tracker, country, shared, 0

    @contextlib.contextmanager
    def count(self) -> Iterator[EnergyMeter]:
        """Measure the block, which holds no other block of this counter."""
        self._num += 1
        name, meter, before = f"piece {self._num}", EnergyMeter(), ProcessorTimes.now()
        _whole(self._tracker.start_task, name)
        try:
            yield meter
        finally:
            energy = _energy_of(self._tracker, _whole(self._tracker.stop_task, name), self._country)
            meter.energy = energy.part(ProcessorTimes.now().share_since(before)) if self._shared else energy


@contextlib.contextmanager
def energy_counter(country: str | None = None, *, shared: bool = False) -> Iterator[EnergyCounter]:
    """Yield a counter for a run of many pieces of work; `country` as in `measure_energy`.

    shared: other processes are at like work on this machine: each piece counts its share (see `Energy.share`)
    """
    tracker, code = _tracker(country)
    try:
        yield EnergyCounter(tracker, code, shared=shared)
    finally:
        _whole(tracker.stop)


def _whole(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `call` returns; an interrupt is raised once it has ended.

    CodeCarbon takes a lock that it does not give back where it is interrupted, and the next call would wait for ever.
    Only the main thread is interrupted.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def _tracker(country: str | None) -> tuple[Any, str]:
    from codecarbon import OfflineEmissionsTracker  # 1 s to import, and only what measures needs it

    code = country or os.environ.get("HERDLIGHT_COUNTRY", DEFAULT_COUNTRY)
    tracker = OfflineEmissionsTracker(
        country_iso_code=code, output_methods=[], log_level="critical", allow_multiple_runs=True, measure_power_secs=5
    )
    return tracker, code


def _energy_of(tracker: Any, data: Any, country: str) -> Energy:
    modes = [getattr(part, "_mode", None) for part in tracker._hardware]
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
