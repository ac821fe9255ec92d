"""Comparing an engine with the model that it came from, and timing it.

Knows scores of frames and a clock; knows nothing of how either was come by.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.engines.base import Engine, Frames
from models.errors import ShapeError
from models.metrics import count_frames

_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Parity:
    """Scores of an engine beside those of the float32 model.

    max_score_diff, mean_score_diff: of absolute differences over the val and test frames
    f1, f1_diff: F1 on test at the model's own threshold, and that minus the model's; None where F1 is undefined
    """

    max_score_diff: float
    mean_score_diff: float
    f1: float | None
    f1_diff: float | None


@dataclass(frozen=True)
class EngineReport:
    """One line of engines.json: what does not change from run to run.

    name:      engine
    status:    "measured"; "built" where it cannot run here; "missing" where its package is;
               "not_possible" for this kind of tower; "failed"
    reason:    why it was not measured, in one line; None where it was
    precision: float32, bfloat16 or float16; None where nothing was built
    num_bytes: its files together; None where nothing was built
    parity:    None where it was not measured
    """

    name: str
    status: str
    reason: str | None = None
    precision: str | None = None
    num_bytes: int | None = None
    parity: Parity | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a flat object; the figures of an engine that was not measured are null."""
        fields = asdict(self)
        parity = fields.pop("parity") or dict.fromkeys(Parity.__dataclass_fields__)
        return {**fields, **parity}


@dataclass(frozen=True)
class EngineLatency:
    """One line of latency.json.

    name:           engine
    latency_ms_p50: median time of one frame alone, ms
    latency_ms_p99: 99th percentile of it, ms
    frames_per_s:   frames a second in full batches
    batch_size:     frames of such a batch
    """

    name: str
    latency_ms_p50: float
    latency_ms_p99: float
    frames_per_s: float
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def compare_scores(
    reference_N: npt.NDArray[np.float32],
    scores_N: npt.NDArray[np.float32],
    labels_N: npt.NDArray[np.int8],
    is_test_N: npt.NDArray[np.bool_],
    threshold: float,
) -> Parity:
    """Return the parity of an engine's scores with the reference's, over the same N val and test frames.

    labels_N: 0 or 1; is_test_N: frames that F1 is taken over; threshold: the same for both, 0 to 1
    """
    shapes = {array.shape for array in (reference_N, scores_N, labels_N, is_test_N)}
    if len(shapes) != 1 or not len(scores_N):
        raise ShapeError(f"parity: reference, scores, labels and split must all be [N], N >= 1, got {sorted(shapes)}")
    difference_N = np.abs(scores_N.astype(np.float64) - reference_N)
    f1, reference_f1 = (
        count_frames(labels_N[is_test_N], scores[is_test_N] >= threshold).f1 for scores in (scores_N, reference_N)
    )
    defined = not (np.isnan(f1) or np.isnan(reference_f1))
    return Parity(
        max_score_diff=float(difference_N.max()),
        mean_score_diff=float(difference_N.mean()),
        f1=None if np.isnan(f1) else f1,
        f1_diff=f1 - reference_f1 if defined else None,
    )


def measure_latency(
    engine: Engine, frames_NHWC: Frames, batch_size: int, num_runs: int, budget_s: float
) -> EngineLatency:
    """Return how fast `engine` is, after a warm-up; about `budget_s` seconds are spent on each of the two figures.

    frames_NHWC: real frames, at least one; they are repeated to fill a batch
    num_runs:    most timed calls for each figure
    """
    batch_NHWC = np.resize(frames_NHWC, (batch_size, *frames_NHWC.shape[1:]))
    single_s = time_calls(engine, frames_NHWC[:1], num_runs, budget_s)
    batch_s = time_calls(engine, batch_NHWC, num_runs, budget_s)
    p50, p99 = np.percentile(single_s, [50, 99]) * 1e3
    return EngineLatency(engine.name, float(p50), float(p99), batch_size / float(np.median(batch_s)), batch_size)


def time_calls(engine: Engine, frames_NHWC: Frames, num_runs: int, budget_s: float) -> list[float]:
    """Return the times of calls, seconds, after a warm-up: at most `num_runs` and about `budget_s` in all."""
    for _ in range(_WARM_UP_CALLS):
        engine(frames_NHWC)
    times_s: list[float] = []
    while len(times_s) < num_runs and (not times_s or sum(times_s) < budget_s):
        start_s = time.perf_counter()
        engine(frames_NHWC)
        times_s.append(time.perf_counter() - start_s)
    return times_s
