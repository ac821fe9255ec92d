"""A model without weights, for tests of what goes on around one: bright frames are highlights."""

import numpy as np
import numpy.typing as npt

from models.spans import ScoreTrack


class Brightness:
    """Scores a frame by how bright it is, 0 to 1, and counts what it is shown."""

    def __init__(self) -> None:
        self.num_seen = 0

    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the mean of each frame, [N, 1]."""
        self.num_seen += len(frames_NHWC)
        return frames_NHWC.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / 255

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        """Return the brightness as it is."""
        return ScoreTrack(times_s, features_TD[:, 0], duration_s)
