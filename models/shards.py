"""One file of sampled frames a video, so that nothing is decoded twice.

Knows the layout of `build/frames/shards/<video_id>.safetensors`: tensors `frames` uint8 [T, H, W, 3] RGB and `times_s`
float64 [T]; metadata `duration_s`. Knows nothing of video files or models.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from models.errors import DataError


@dataclass(frozen=True, eq=False)
class SampledVideo:
    """Frames of one video on the sampling grid.

    frames_THWC: uint8 RGB
    times_s:     float64 [T], presentation times, seconds
    duration_s:  end of the video, seconds
    """

    frames_THWC: npt.NDArray[np.uint8]  # noqa: N815
    times_s: npt.NDArray[np.float64]
    duration_s: float


def read_frames_shard(folder: Path, video_id: str) -> SampledVideo:
    """Return the sampled frames of `video_id`. Raises DataError when its shard is missing or damaged."""
    path = folder / f"{video_id}.safetensors"
    try:
        with safe_open(path, framework="numpy") as shard:
            duration_s = float(shard.metadata()["duration_s"])
            return SampledVideo(shard.get_tensor("frames"), shard.get_tensor("times_s"), duration_s)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no readable frames ({error}); run the frames stage again") from None
