"""Frames of stored videos as small JPEG pictures inside the page.

Knows frame shards; a shard that is missing gives no picture, since the frames stage has its own say about that.
"""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import HerdlightError
from models.manifest import VideoRow
from models.shards import read_frames_shard
from models.video import SampledVideo

_HEIGHT = 96  # px
_JPEG_QUALITY = 80


@dataclass
class FramePictures:
    """Gives pictures of moments; keeps the frames of the last video only.

    folder:      of the frame shards, None for no pictures at all
    is_squashed: whether stored frames were squashed to a square, so that their shape has to be given back
    """

    folder: Path | None
    is_squashed: bool
    _last: tuple[str, SampledVideo | None] = field(default=("", None), init=False)

    def at(self, video: VideoRow, time_s: float) -> str | None:
        """Return the data URI of the frame of `video` nearest to `time_s` seconds, None where no frames are stored."""
        if self.folder is None:
            return None
        if self._last[0] != video.video_id:
            self._last = (video.video_id, _read(self.folder, video.video_id))
        sampled = self._last[1]
        if sampled is None:
            return None
        pixels_HWC = sampled.frames_THWC[int(np.argmin(np.abs(sampled.times_s - time_s)))]
        return _data_uri(pixels_HWC, video.width / video.height if self.is_squashed else 1.0)


def _read(folder: Path, video_id: str) -> SampledVideo | None:
    try:
        return read_frames_shard(folder, video_id)
    except HerdlightError:
        return None


def _data_uri(pixels_HWC: np.ndarray, aspect: float) -> str:
    width = max(1, round(_HEIGHT * min(max(aspect, 0.4), 2.5)))
    image = Image.fromarray(pixels_HWC).resize((width, _HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
