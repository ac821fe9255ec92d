"""The energy that an NVIDIA GPU has used, by the counter of its driver (NVML), through ctypes.

Knows one counter; where the driver, the GPU or the counter is missing there is no figure, and never a 0.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

_SUCCESS = 0
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, eq=False)
class EnergyCounter:
    """A GPU's counter: NVML's library and the handle of the device."""

    library: Any
    device: ctypes.c_void_p

    def read_j(self) -> float | None:
        """Return the energy since the driver was loaded, joules; None where the GPU counts none (before Volta)."""
        millijoules = ctypes.c_ulonglong()
        if self.library.nvmlDeviceGetTotalEnergyConsumption(self.device, ctypes.byref(millijoules)) != _SUCCESS:
            return None
        return millijoules.value / 1e3


def open_counter(uuid: str, library: str = "libnvidia-ml.so.1") -> EnergyCounter | None:
    """Return the counter of the GPU with `uuid` ("GPU-…"), or None where it cannot be had."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    device = ctypes.c_void_p()
    if nvml.nvmlInit_v2() != _SUCCESS:
        return None
    if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) != _SUCCESS:
        return None
    return EnergyCounter(nvml, device)


def kwh_per_1000(joules: float, num_images: int) -> float:
    """Return the energy of 1,000 images, kWh."""
    return joules / num_images * 1000 / _JOULES_PER_KWH
