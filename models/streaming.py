"""The time-aware head over a stream: logits of a video of any length from features that come as they are decoded.

`models.highlighter.score_logits` sees a whole video: windows start every half window, and one more lies flush with the
end. A window's logits depend on its own features and times alone, whatever the head does inside it (a multiscale head
measures position inside the window), so they are those of the whole pass as soon as the window is full. Only where the
last window lies is not known before the end. A frame's logit is final when no window that is still to come can hold
it; at most one window of features is kept. Knows features, not frames, files or threads.

Shapes: N frames of one portion, E features, T frames of the video.
"""

from array import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.calibration import NO_CALIBRATION, Calibration
from models.errors import ShapeError
from models.spans import ScoreTrack

# Windows of one call of the head, and frames in them: what bounds the memory of a portion with many windows.
_MAX_WINDOWS, _MAX_FRAMES = 64, 16_384

Features = npt.NDArray[np.float32]
Seconds = npt.NDArray[np.float64]


class StreamingHead:
    """A head fed with portions of a video's features; logits come out in order, each once.

    head:   features [B, T, E], times [B, T] since each window's start in seconds, mask [B, T] -> logits [B, T]
    window: frames that the head sees at once, at least 1
    """

    def __init__(self, head: nn.Module, window: int) -> None:
        if window < 1:
            raise ShapeError(f"streaming head: window {window} must be at least 1 frame")
        self.head, self.window = head, window
        self._step = max(window // 2, 1)
        self._first = 0  # frame that the buffers start with
        self._num_seen = 0
        self._next_start = 0  # of the next regular window
        self._num_given = 0
        self._features: torch.Tensor | None = None
        self._times_s = torch.zeros(0, dtype=torch.float64)
        self._total, self._count = torch.zeros(0), torch.zeros(0)  # from frame _num_given on

    @property
    def num_held(self) -> int:
        """Frames whose features are held: fewer than the window and its step together, between two portions."""
        return self._num_seen - self._first

    @torch.inference_mode()
    def feed(self, features_NE: Features, times_s: Seconds) -> npt.NDArray[np.float32]:
        """Take the next N frames, N from 0, and return the logits float32 that are final now, in order of time.

        Raises ShapeError for features that are not [N, E] as before, or times that are not [N].
        """
        self._append(features_NE, times_s)
        num_full = max(0, (self._num_seen - self.window - self._next_start) // self._step + 1)
        self._run([self._next_start + i * self._step for i in range(num_full)], self.window)
        self._next_start += num_full * self._step
        # The window flush with the end starts behind the last regular one, and not before the latest window of frames.
        last_start = self._next_start - self._step
        logits = self._give(max(last_start + 1, self._num_seen - self.window, 0))
        self._forget(max(self._num_seen - self.window, 0))
        return logits

    @torch.inference_mode()
    def finish(self) -> npt.NDArray[np.float32]:
        """Return the logits of the frames that were still open; the video ends here."""
        flush_start = max(self._num_seen - self.window, 0)
        if self._num_seen and self._next_start - self._step < flush_start:
            self._run([flush_start], min(self.window, self._num_seen))
        return self._give(self._num_seen)

    def _append(self, features_NE: Features, times_s: Seconds) -> None:
        width = features_NE.shape[-1] if self._features is None else self._features.shape[1]
        if features_NE.ndim != 2 or features_NE.shape[1] != width or times_s.shape != (len(features_NE),):
            raise ShapeError(
                f"streaming head: features {features_NE.shape} must be [N, {width}] and times {times_s.shape} [N]"
            )
        portion = torch.from_numpy(np.ascontiguousarray(features_NE, np.float32))
        self._features = portion if self._features is None else torch.cat([self._features, portion])
        self._times_s = torch.cat([self._times_s, torch.from_numpy(np.asarray(times_s, np.float64))])
        self._total, self._count = (torch.cat([x, torch.zeros(len(portion))]) for x in (self._total, self._count))
        self._num_seen += len(portion)

    def _run(self, starts: Sequence[int], length: int) -> None:
        """Add the logits of the windows that start at frames `starts`, in order."""
        if not starts:
            return
        assert self._features is not None
        index_BT = torch.tensor(starts)[:, None] + torch.arange(length)
        for part_BT in torch.split(index_BT, max(1, min(_MAX_WINDOWS, _MAX_FRAMES // length))):
            held_BT = part_BT - self._first
            times_s_BT = self._times_s[held_BT]
            relative_BT = (times_s_BT - times_s_BT[:, :1]).float()
            mask_BT = torch.ones_like(part_BT, dtype=torch.bool)
            logits_BT = self.head(self._features[held_BT], relative_BT, mask_BT)
            place = (part_BT - self._num_given).flatten()
            self._total.index_add_(0, place, logits_BT.float().flatten())
            self._count.index_add_(0, place, torch.ones(len(place)))

    def _give(self, end: int) -> npt.NDArray[np.float32]:
        """Return and drop the logits of the frames before `end` that were not given yet."""
        num = max(end - self._num_given, 0)
        logits: npt.NDArray[np.float32] = (self._total[:num] / self._count[:num]).numpy()
        self._total, self._count = self._total[num:].clone(), self._count[num:].clone()
        self._num_given += num
        return logits

    def _forget(self, first: int) -> None:
        """Drop the features before frame `first`."""
        if self._features is not None and first > self._first:
            self._features = self._features[first - self._first :].clone()
            self._times_s = self._times_s[first - self._first :].clone()
            self._first = first


class TrackStream(Protocol):
    """A score track in the making."""

    def add(self, features_NE: Features, times_s: Seconds) -> None:
        """Take the features and times (seconds) of the next N frames."""

    def finish(self, duration_s: float) -> ScoreTrack:
        """Return the track of a video that ends at `duration_s`, seconds."""


class HeadTrack:
    """The track of one head, calibrated: 12 bytes a frame and one window of features are held."""

    def __init__(self, head: nn.Module, window: int, calibration: Calibration = NO_CALIBRATION) -> None:
        self._head, self._calibration = StreamingHead(head, window), calibration
        self._times_s, self._scores = array("d"), array("f")

    def add(self, features_NE: Features, times_s: Seconds) -> None:
        """See TrackStream. Raises ShapeError as StreamingHead."""
        self._keep(self._head.feed(features_NE, times_s))
        self._times_s.frombytes(np.ascontiguousarray(times_s, np.float64).tobytes())

    def finish(self, duration_s: float) -> ScoreTrack:
        """See TrackStream."""
        self._keep(self._head.finish())
        return ScoreTrack(np.array(self._times_s, np.float64), np.array(self._scores, np.float32), duration_s)

    def _keep(self, logits: npt.NDArray[np.float32]) -> None:
        self._scores.frombytes(self._calibration.apply(logits).tobytes())
