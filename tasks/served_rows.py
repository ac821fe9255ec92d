"""One row of a request to the served model: whatever it brings becomes a file, is streamed through the model, and goes.

Several requests may come at once. Decoding and fetching then run side by side; the engine, which not every runtime
lets two threads use, takes one batch after the other. Knows rows and times; knows nothing of MLflow.
"""

import base64
import binascii
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import DataError, HerdlightError
from models.files import require_space
from models.spans import ScoreTrack
from tasks.download import DownloadRules, download, is_url, name_of
from tasks.footage import printable
from tasks.score import Scorer, ScoringSpec, score_video_file
from tasks.score_settings import ScoreSettings
from tasks.scored_files import looked_of, span_rows


@dataclass
class _Watched:
    """A model that is used by one thread at a time, and how long this row used it and waited for it, seconds."""

    model: Scorer
    lock: threading.Lock
    encode_s: float = 0.0
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        if hasattr(self.model, "start_track"):  # it takes features as they come; asked of the object, not its class
            self.start_track = self.model.start_track
        self.categoriser = getattr(self.model, "categoriser", None)

    @property
    def spec(self) -> ScoringSpec:
        return self.model.spec

    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._turn():
            return self.model.embed(frames_NHWC)

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        with self._turn():
            return self.model.score_track(features_TD, times_s, duration_s)

    def timing(self, start_s: float, fetched_s: float, end_s: float, duration_s: float) -> dict[str, float]:
        """Return `timing` of a row that began, had its file and was done at these times of the clock, seconds."""
        total_s, busy_s = end_s - start_s, self.encode_s + self.wait_s
        return {
            "fetch_s": fetched_s - start_s,
            "decode_s": max(0.0, end_s - fetched_s - busy_s),
            "encode_s": self.encode_s,
            "wait_s": self.wait_s,
            "total_s": total_s,
            "speed": duration_s / total_s,
        }

    @contextmanager
    def _turn(self) -> Iterator[None]:
        asked_s = time.perf_counter()
        with self.lock:
            started_s = time.perf_counter()
            self.wait_s += started_s - asked_s
            try:
                yield
            finally:
                self.encode_s += time.perf_counter() - started_s


@dataclass(frozen=True)
class RowScorer:
    """Scores the rows of requests.

    model: that scores
    rules: what may be fetched, and how large a video may be
    """

    model: Scorer
    rules: DownloadRules
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def score(self, video: Any, content: Any, settings: ScoreSettings, *, with_scores: bool) -> dict[str, Any]:
        """Return the answer for one row, keys as in `tasks.served_model`; what is wrong stands in `error`, unraised.

        video:    path, address, or just a name where `content` is there
        content:  bytes of a video, or base64 of them
        settings: of the request, settled with the model

        Seconds in `timing`: fetch_s until the file is there, encode_s inside the image tower and the head, wait_s for
        other requests to leave them, decode_s the rest, in which they wait for frames; speed is seconds of video a
        second of all that.
        """
        video = video if isinstance(video, str) and video else None
        row: dict[str, Any] = {"video": video, "duration_s": None, "threshold": None, "spans": [], "error": None}
        row |= {"partial": None, "note": None, "settings": settings.to_json(), "looked": None}
        row |= {"scores": None, "timing": None}
        watched, start_s = _Watched(self.model, self._lock), time.perf_counter()
        name = "video"
        try:
            with self._file(video, content) as (path, name):
                fetched_s = time.perf_counter()
                scored = score_video_file(watched, path, settings=settings, allow_partial=True)
        except (HerdlightError, OSError) as error:
            return {**row, "error": _told(error, name)}
        end_s, track = time.perf_counter(), scored.track
        row |= {"duration_s": track.duration_s, "threshold": scored.threshold, "spans": span_rows(scored)}
        row |= {"partial": scored.partial, "note": scored.note, "looked": looked_of(scored)}
        if with_scores:
            row["scores"] = {"time_s": track.times_s.tolist(), "score": track.scores.tolist()}
        row["timing"] = watched.timing(start_s, fetched_s, end_s, track.duration_s)
        return row

    @contextmanager
    def _file(self, video: str | None, content: Any) -> Iterator[tuple[Path, str]]:
        """Yield the file that a row means, and its name; what was made for the row is removed afterwards."""
        has_content = isinstance(content, (str, bytes, bytearray)) and len(content) > 0
        if video is None and not has_content:
            raise DataError("a row needs `video`, a path or an address, or `content`, bytes (base64 in JSON)")
        if video is not None and not has_content and not is_url(video):
            yield Path(video), Path(video).name
            return
        with tempfile.TemporaryDirectory(prefix="herdlight-") as folder:
            path = Path(folder) / "video"
            if has_content:
                bytes_ = self._decoded(content)
                require_space(path.parent, len(bytes_))
                path.write_bytes(bytes_)
                del bytes_
            else:
                assert video is not None
                download(video, path, self.rules)
            yield path, path.name if video is None else name_of(video) if is_url(video) else Path(video).name

    def _decoded(self, content: str | bytes | bytearray) -> bytes:
        limit = self.rules.max_bytes
        too_large = DataError(f"content: larger than {limit} bytes (HERDLIGHT_MAX_VIDEO_BYTES)")
        if isinstance(content, str):
            if len(content) * 3 // 4 > limit + len(content) // 32:  # line ends are not content
                raise too_large
            try:
                content = base64.b64decode("".join(content.split()), validate=True)
            except (binascii.Error, ValueError) as error:
                raise DataError(f"content: not base64 ({error})") from None
        if len(content) > limit:
            raise too_large
        return bytes(content)


def _told(error: Exception, name: str) -> str:
    """Return an error with the name that the row has, not that of the file made for it."""
    message = printable(str(error))
    return f"{name}: {message.removeprefix('video: ')}" if message.startswith("video: ") else message
