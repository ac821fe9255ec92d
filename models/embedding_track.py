"""What a video looks like over time, small enough to keep: one mean unit vector for each bucket of presentation time.

Frames may arrive in any order and in batches of any size (a pass over keyframes, then one in between). Memory has a
ceiling whatever the length of the video: past `max_buckets` neighbouring buckets become one and `bucket_s` doubles.
Knows vectors and seconds; knows nothing of what made the vectors or of what they are compared for.

Shapes: N frames, K buckets, D length of a feature.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.errors import DataError, ShapeError
from models.files import replacing

# 9 hours at two seconds: 17 MB of 512 float16.
MAX_BUCKETS = 16_384
_FIRST_ROWS = 64
_SMALLEST_LENGTH = 1e-12


@dataclass(frozen=True, eq=False)
class EmbeddingTrack:
    """What one video looks like over time.

    times_s:    float64 [K], start of each bucket that has frames, strictly increasing, seconds; K from 0
    vectors_KD: float16 [K, D], mean of the unit features in the bucket: as long as its frames are alike, at most 1
    bucket_s:   length of a bucket, above 0, seconds
    """

    times_s: npt.NDArray[np.float64]
    vectors_KD: npt.NDArray[np.float16]
    bucket_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bucket_s) and self.bucket_s > 0):
            raise ShapeError(f"embedding track: bucket_s {self.bucket_s} must be finite and above 0")
        times_s, vectors = self.times_s, self.vectors_KD
        if vectors.dtype != np.float16 or vectors.ndim != 2 or times_s.shape != vectors.shape[:1]:
            raise ShapeError(
                f"embedding track: vectors {vectors.dtype} {vectors.shape} must be float16 [K, D] and times "
                f"{times_s.shape} [K]"
            )
        if len(times_s) and (times_s[0] < 0 or np.any(np.diff(times_s) <= 0)):
            raise ShapeError("embedding track: times_s must increase strictly from 0 or later")
        if not np.isfinite(vectors).all():
            raise ShapeError("embedding track: vectors must be finite")

    def mean_over(self, start_s: float, end_s: float) -> npt.NDArray[np.float32]:
        """Return the look of `[start_s, end_s)`, seconds: float32 [D] of length 1.

        Buckets count by the seconds that they share with the stretch. Where none does, the nearest one stands for it;
        where nothing is known (no bucket, or vectors that cancel out) all is 0, which is like nothing.
        """
        if not start_s < end_s:
            raise ShapeError(f"embedding track: [{start_s}, {end_s}) s covers nothing; needs start < end")
        if not len(self.times_s):
            return np.zeros(self.vectors_KD.shape[1], np.float32)
        first = max(int(np.searchsorted(self.times_s, start_s, side="right")) - 1, 0)
        last = max(int(np.searchsorted(self.times_s, end_s, side="left")), first + 1)
        starts_s = self.times_s[first:last]
        shared_s = np.minimum(starts_s + self.bucket_s, end_s) - np.maximum(starts_s, start_s)
        if np.any(shared_s > 0):
            mean_D = np.maximum(shared_s, 0) @ self.vectors_KD[first:last].astype(np.float64)
        else:
            distance_s = np.maximum(self.times_s - end_s, start_s - (self.times_s + self.bucket_s))
            mean_D = self.vectors_KD[int(np.argmin(distance_s))].astype(np.float64)
        look_1D = unit(mean_D[None])
        return look_1D.reshape(-1)


def unit(vectors_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return float32 [N, D]: each vector at length 1; one without a direction stays all 0."""
    length_N1 = np.linalg.norm(vectors_ND.astype(np.float64), axis=1, keepdims=True)
    known = length_N1 > _SMALLEST_LENGTH
    return np.where(known, vectors_ND / np.where(known, length_N1, 1), 0).astype(np.float32)


class EmbeddingTrackBuilder:
    """Gathers the features of a video while it streams.

    bucket_s:    length of a bucket at first, above 0, seconds
    max_buckets: most buckets that are held, at least 2; past that, two become one
    """

    def __init__(self, bucket_s: float, max_buckets: int = MAX_BUCKETS) -> None:
        if not (math.isfinite(bucket_s) and bucket_s > 0):
            raise ShapeError(f"embedding track: bucket_s {bucket_s} must be finite and above 0")
        if max_buckets < 2:
            raise ShapeError(f"embedding track: max_buckets {max_buckets} must be at least 2")
        self._bucket_s, self._max_buckets = bucket_s, max_buckets
        self._rows: dict[int, int] = {}  # number of a bucket -> its row below
        self._means_KD = np.zeros((0, 0), np.float16)
        self._counts_K = np.zeros(0, np.int64)

    def add(self, times_s: npt.NDArray[np.float64], features_ND: npt.NDArray[np.floating]) -> None:
        """Take N frames; a feature of length 0 has no direction and counts for nothing.

        times_s: float64 [N], at least 0, seconds; features_ND: floating [N, D], of any length. Raises ShapeError.
        """
        if features_ND.ndim != 2 or np.shape(times_s) != features_ND.shape[:1]:
            raise ShapeError(
                f"embedding track: features {features_ND.shape} must be [N, D] and times {np.shape(times_s)} [N]"
            )
        if self._means_KD.shape[1] not in (0, features_ND.shape[1]):
            raise ShapeError(
                f"embedding track: features of length {features_ND.shape[1]} after some of {self._means_KD.shape[1]}"
            )
        if not (np.isfinite(times_s).all() and np.isfinite(features_ND).all() and np.all(np.asarray(times_s) >= 0)):
            raise ShapeError("embedding track: times must be 0 or later, and times and features finite")
        if not len(self._means_KD):
            self._means_KD = np.zeros((_FIRST_ROWS, features_ND.shape[1]), np.float16)
            self._counts_K = np.zeros(_FIRST_ROWS, np.int64)
        units_ND = unit(features_ND)
        known = np.any(units_ND != 0, axis=1)
        times_s, units_ND = np.asarray(times_s, np.float64)[known], units_ND[known]
        # One frame after the other: the result is then the same for any size of batch.
        for time_s, unit_D in zip(times_s.tolist(), units_ND, strict=True):
            self._put(time_s, unit_D)

    def _put(self, time_s: float, unit_D: npt.NDArray[np.float32]) -> None:
        while (row := self._row_of(time_s)) is None:
            self._halve()
        count = self._counts_K[row]
        mean_D = self._means_KD[row].astype(np.float32)
        self._means_KD[row] = mean_D + (unit_D - mean_D) / np.float32(count + 1)
        self._counts_K[row] = count + 1

    def _row_of(self, time_s: float) -> int | None:
        """Return the row of the bucket that `time_s` lies in, a new one where it has none, None where all are taken."""
        number = math.floor(time_s / self._bucket_s)
        if number not in self._rows:
            row = len(self._rows)
            if row == self._max_buckets:
                return None
            if row == len(self._means_KD):
                rows = min(2 * row, max(self._max_buckets, row + 1))
                self._means_KD = np.concatenate([self._means_KD, np.zeros_like(self._means_KD[: rows - row])])
                self._counts_K = np.concatenate([self._counts_K, np.zeros_like(self._counts_K[: rows - row])])
            self._rows[number] = row
        return self._rows[number]

    def _halve(self) -> None:
        """Let buckets be twice as long: each pair becomes one, weighted by its frames."""
        self._bucket_s *= 2
        rows: dict[int, int] = {}
        for number, row in sorted(self._rows.items()):
            target = rows.setdefault(number // 2, row)
            if target != row:
                counts = self._counts_K[[target, row]]
                both_2D = self._means_KD[[target, row]].astype(np.float32)
                self._means_KD[target] = (counts @ both_2D) / counts.sum()
                self._counts_K[target] = counts.sum()
        kept = list(rows.values())
        self._means_KD[: len(kept)], self._counts_K[: len(kept)] = self._means_KD[kept], self._counts_K[kept]
        self._means_KD[len(kept) :], self._counts_K[len(kept) :] = 0, 0
        self._rows = {number: row for row, number in enumerate(rows)}

    def build(self) -> EmbeddingTrack:
        """Return what was gathered so far."""
        numbers = sorted(self._rows)
        times_s = np.array([number * self._bucket_s for number in numbers], np.float64)
        return EmbeddingTrack(times_s, self._means_KD[[self._rows[number] for number in numbers]], self._bucket_s)


def write_embedding_track(path: Path, track: EmbeddingTrack) -> None:
    """Write `track` as safetensors, atomically."""
    tensors = {"times_s": track.times_s, "vectors": track.vectors_KD, "bucket_s": np.array([track.bucket_s])}
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary)


def read_embedding_track(path: Path) -> EmbeddingTrack:
    """Return the track in `path`. Raises DataError where there is none."""
    try:
        with safe_open(path, "numpy") as stored:
            times_s, vectors, bucket_s = (stored.get_tensor(name) for name in ("times_s", "vectors", "bucket_s"))
        return EmbeddingTrack(times_s, vectors, float(bucket_s.item()))
    except (OSError, SafetensorError, ShapeError, ValueError) as error:
        raise DataError(f"{path}: not an embedding track ({error}); score the video again") from None
