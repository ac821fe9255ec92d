"""Speed, latency and energy of rungs, taken in rounds in each of which every rung has its turn.

A machine that slows down then slows all of them. A round's speed is all its frames over all its time. The spread over
the rounds leaves the slowest and the fastest out where there are enough, so that one hiccup of the machine does not
make two runs choose differently. What fails meanwhile is a row, and the others go on.

Knows engines and a clock; knows nothing of scores.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from models.energy import Energy
from models.engines.base import Frames
from models.engines.compare import time_calls
from models.errors import EngineError
from models.ladder import Rung, RungResult, Speed
from models.params import Section
from tasks.energy import measure_energy
from tasks.rungs import BuiltRung, Footage, without_figures

# Of the median: two starts of one process differ by about as much, whatever the rounds of either say.
_LEAST_SPREAD = 0.02
_ENOUGH_ROUNDS = 5


class TimingParams(Section):
    """How speed and energy of the rungs are taken."""

    batch_sizes: tuple[int, ...] = Field(default=(8, 32), min_length=1)
    """Frames of a batch that are tried beside one alone."""
    num_rounds: int = Field(default=7, ge=1, le=100)
    """Turns of every rung; the spread of a speed is over them."""
    num_latency_runs: int = Field(default=50, ge=1)
    """Most timed calls for each figure of a turn."""
    latency_budget_s: float = Field(default=0.2, gt=0)
    """Time for each figure of a turn, seconds."""
    energy_budget_s: float = Field(default=3.0, ge=0)
    """Time over which the energy of one rung is taken, seconds; 0 takes none."""


@dataclass
class RungClock:
    """What the rounds gave for one rung.

    turns:      by batch size, for each round the times of its calls, seconds
    energy:     of `num_frames` frames in batches of the best size; None where it was not taken
    """

    turns: dict[int, list[list[float]]]
    energy: Energy | None = None
    num_frames: int = field(default=0)

    @property
    def single(self) -> Speed:
        """Speed of one frame at a time."""
        return self._speed(1)

    @property
    def best(self) -> Speed:
        """Speed at the batch size at which it is highest."""
        return max((self._speed(size) for size in self.turns), key=lambda speed: speed.frames_per_s)

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of the time of one frame alone, over all rounds, ms."""
        p50, p99 = np.percentile([call_s for turn in self.turns[1] for call_s in turn], [50, 99]) * 1e3
        return float(p50), float(p99)

    @property
    def kwh_per_1000(self) -> float | None:
        """Energy of 1,000 frames, kWh."""
        return None if self.energy is None else self.energy.kwh * 1000 / self.num_frames

    def _speed(self, batch_size: int) -> Speed:
        rounds = sorted(len(turn) * batch_size / sum(turn) for turn in self.turns[batch_size])
        middle = statistics.median(rounds)
        kept = rounds[1:-1] if len(rounds) >= _ENOUGH_ROUNDS else rounds
        return Speed(batch_size, middle, max((kept[-1] - kept[0]) / 2, _LEAST_SPREAD * middle))


def time_rungs(
    built: Sequence[BuiltRung], footage: Footage, params: TimingParams
) -> tuple[dict[Rung, RungClock], dict[Rung, RungResult]]:
    """Return speed and energy of each rung, taken in turn, and the rows of those that failed meanwhile."""
    sizes = sorted({1, *params.batch_sizes})
    frames_NHWC = footage.frames(max(sizes))
    clocks = {rung.rung: RungClock({size: [] for size in sizes}) for rung in built}
    failures: dict[Rung, RungResult] = {}

    def each(work: Callable[[BuiltRung, RungClock], None]) -> None:
        for rung in built:
            if rung.rung not in failures:
                try:
                    work(rung, clocks[rung.rung])
                except (EngineError, MemoryError) as error:
                    failures[rung.rung] = without_figures(rung.rung, error)

    def turn(rung: BuiltRung, clock: RungClock) -> None:
        for size, found in clock.turns.items():
            batch_NHWC = frames_NHWC[:size]
            found.append(time_calls(rung.engine, batch_NHWC, params.num_latency_runs, params.latency_budget_s))

    for _ in range(params.num_rounds):
        each(turn)
    if params.energy_budget_s > 0:
        each(lambda rung, clock: _take_energy(rung, clock, frames_NHWC, params.energy_budget_s))
    return clocks, failures


def _take_energy(rung: BuiltRung, clock: RungClock, frames_NHWC: Frames, budget_s: float) -> None:
    batch_NHWC = frames_NHWC[: clock.best.batch_size]
    with measure_energy() as meter:
        end_s = time.perf_counter() + budget_s
        while not clock.num_frames or time.perf_counter() < end_s:
            rung.engine(batch_NHWC)
            clock.num_frames += len(batch_NHWC)
    clock.energy = meter.energy
