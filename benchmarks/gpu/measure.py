"""Measuring rungs beside each other: are their features right, how many images a second, how much energy.

Every rung has its turn in every round, so that a GPU that slows down slows all of them. Frames lie on the device: what
is timed is the network, not the copy. Knows functions on tensors; knows nothing of how one is built.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.gpu.nvml import EnergyCounter, kwh_per_1000
from benchmarks.gpu.rungs import FAILURES, Call
from models.errors import EngineError
from models.onnx_session import first_line


@dataclass(frozen=True)
class Timing:
    """What the clock is asked to do.

    num_rounds: turns of every rung at every batch size
    turn_s:     time of one turn, seconds
    warm_up_s:  time before the first turn at a batch size, seconds
    energy_s:   time over which energy is taken, seconds
    """

    num_rounds: int = 5
    turn_s: float = 0.1
    warm_up_s: float = 0.3
    energy_s: float = 2.0


@dataclass(frozen=True)
class FeatureParity:
    """Features of a rung beside the float32 tower's on the same N frames.

    cosine_min, cosine_mean:      of the N pairs
    max_abs_diff, mean_abs_diff:  of features scaled to unit length
    relative_to_spread:           root mean square of the difference, over that of frames from their mean: random
                                  towers say nearly the same of any frame, and a rung must tell them apart still
    """

    cosine_min: float
    cosine_mean: float
    max_abs_diff: float
    mean_abs_diff: float
    relative_to_spread: float


@dataclass(frozen=True)
class Rate:
    """Images a second: median over the rounds, and half the distance from the slowest to the fastest."""

    images_per_s: float
    spread: float


def compare_features(features: np.ndarray, reference: np.ndarray) -> FeatureParity:
    """Return the parity of features [N, D] with a reference. Raises EngineError where a value is not finite."""
    if features.shape != reference.shape:
        raise EngineError(f"features {features.shape} beside {reference.shape}")
    if not np.isfinite(features).all():
        raise EngineError(f"{int((~np.isfinite(features)).sum())} of {features.size} feature values are not finite")
    ours, theirs = (_unit(values.astype(np.float64)) for values in (features, reference))
    cosine_N = (ours * theirs).sum(axis=1)
    difference = np.abs(ours - theirs)
    spread = float(np.sqrt(np.mean((theirs - theirs.mean(axis=0)) ** 2)))
    return FeatureParity(
        cosine_min=float(cosine_N.min()),
        cosine_mean=float(cosine_N.mean()),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        relative_to_spread=float(np.sqrt(np.mean(difference**2))) / spread if spread else 0.0,
    )


def features_of(call: Call, frames: torch.Tensor, batch_size: int = 32) -> np.ndarray:
    """Return the features of frames as float32 [N, D]."""
    with torch.inference_mode():
        parts = [call(part).float().cpu() for part in torch.split(frames, batch_size)]
    return torch.cat(parts).numpy()


def measure_rates(
    calls: Mapping[str, Call], frames: torch.Tensor, timing: Timing, on_failure: Callable[[str, str], None]
) -> dict[str, Rate]:
    """Return how fast each rung takes `frames` as one batch, in turn; one that fails is told and left out.

    frames:     uint8 [N, H, W, 3] on the device
    on_failure: called with the rung's name and the reason
    """
    found: dict[str, list[float]] = {name: [] for name in calls}

    def turn(name: str, budget_s: float) -> float:
        try:
            return len(frames) * _calls_per_s(calls[name], frames, budget_s)
        except FAILURES as error:
            del found[name]
            on_failure(name, f"at batch {len(frames)}: {first_line(error)}")
            return 0.0

    for name in list(found):
        turn(name, timing.warm_up_s)
    for _ in range(timing.num_rounds):
        for name in list(found):
            rate = turn(name, timing.turn_s)
            if name in found:
                found[name].append(rate)
    return {
        name: Rate(statistics.median(rates), (max(rates) - min(rates)) / 2) for name, rates in found.items() if rates
    }


def measure_energy(call: Call, frames: torch.Tensor, counter: EnergyCounter | None, energy_s: float) -> float | None:
    """Return the energy of 1,000 images in batches like `frames`, kWh; None where nothing counts it."""
    before_j = counter.read_j() if counter else None
    if counter is None or before_j is None:
        return None
    num_images, end_s = 0, time.perf_counter() + energy_s
    with torch.inference_mode():
        while time.perf_counter() < end_s:
            call(frames)
            num_images += len(frames)
            _wait(frames)
    after_j = counter.read_j()
    return None if after_j is None or after_j <= before_j else kwh_per_1000(after_j - before_j, num_images)


def parity_figures(prefix: str, parity: FeatureParity) -> dict[str, float]:
    """Return the fields as flat figures."""
    return {f"{prefix}_{key}": value for key, value in asdict(parity).items()}


def batch_sizes(largest: int) -> Iterable[int]:
    """Return 1, 2, 4, … up to `largest`."""
    return [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]


def _calls_per_s(call: Call, frames: torch.Tensor, budget_s: float) -> float:
    with torch.inference_mode():
        call(frames)
        _wait(frames)
        num_calls, start_s = 0, time.perf_counter()
        while not num_calls or time.perf_counter() - start_s < budget_s:
            for _ in range(3):
                call(frames)
            _wait(frames)
            num_calls += 3
    return num_calls / (time.perf_counter() - start_s)


def _wait(frames: torch.Tensor) -> None:
    if frames.device.type == "cuda":
        torch.cuda.synchronize()


def _unit(values: np.ndarray) -> np.ndarray:
    unit: np.ndarray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return unit
