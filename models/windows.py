"""Windows of stored tokens: what the training loop sees of a video.

Shapes: W frames of a window, L tokens, D width. In an epoch every video gives ceil(T / W) windows at drawn offsets,
of a drawn view and at a drawn speed: at speed s every s-th stored frame is taken and its time divided by s, which is
the video played s times faster. What is drawn depends on (seed, epoch, index) alone, so a resumed epoch is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.shards import read_tensors, shard_path


@dataclass(frozen=True, eq=False)
class LabelledVideo:
    """Where the tokens of a video lie, and the truth of its frames.

    path:     shard with `tokens` float16 [V, T, L, D]
    num_views: V
    times_s:  float64 [T], seconds
    labels:   int8 [T], 0 or 1
    targets:  float32 [T], what training aims at, 0 to 1, NaN where nobody knows; the labels unless others are given
    """

    path: Path
    num_views: int
    times_s: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int8]
    targets: npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Windows of one step.

    tokens_BWLD: float32; times_s_BW: float32, seconds since the window's first frame
    targets_BW:  float32, 0 to 1 or NaN; mask_BW: bool, True where a frame is real
    """

    tokens_BWLD: Tensor
    times_s_BW: Tensor
    targets_BW: Tensor
    mask_BW: Tensor


def open_video(
    folder: Path,
    video_id: str,
    labels_of: "npt.NDArray[np.int8] | None" = None,
    targets_of: "npt.NDArray[np.float32] | None" = None,
) -> LabelledVideo:
    """Return the stored video `video_id`; without `labels_of` all are 0, without `targets_of` labels are the aim."""
    tensors, metadata = read_tensors(folder, video_id, ("times_s",))
    times_s = tensors["times_s"]
    labels = np.zeros(len(times_s), np.int8) if labels_of is None else labels_of
    targets = labels.astype(np.float32) if targets_of is None else targets_of
    return LabelledVideo(shard_path(folder, video_id), int(metadata["num_views"]), times_s, labels, targets)


def read_tokens(video: LabelledVideo, view: int, start: int, stop: int, step: int = 1) -> Tensor:
    """Return float32 tokens [ceil((stop - start) / step), L, D] of stored frames start, start + step, …"""
    with safe_open(video.path, "pt") as shard:
        stored = shard.get_slice("tokens")[view, start:stop]
        return stored[::step].float()  # type: ignore[no-any-return]


class TokenWindows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Drawn windows of `videos`; `EpochSampler` settles the epoch.

    window: W, frames; speeds: whole factors, each equally likely
    """

    def __init__(self, videos: Sequence[LabelledVideo], window: int, speeds: Sequence[int], seed: int) -> None:
        self.videos, self.window, self.speeds, self.seed, self.epoch = list(videos), window, list(speeds), seed, 0
        self.owner = [index for index, v in enumerate(self.videos) for _ in range(-(-len(v.times_s) // window))]

    def set_epoch(self, epoch: int) -> None:
        """Settle what the coming epoch draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return windows an epoch."""
        return len(self.owner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [w, L, D], seconds [w] and targets [w] of one window, w <= W."""
        draw = np.random.default_rng((self.seed, self.epoch, index))
        video = self.videos[self.owner[index]]
        num_frames = len(video.times_s)
        speed = int(draw.choice(self.speeds))
        length = min(self.window * speed, num_frames)
        start = int(draw.integers(0, num_frames - length + 1))
        view = int(draw.integers(0, video.num_views))
        picked = slice(start, start + length, speed)
        times_s = (video.times_s[picked] - video.times_s[start]) / speed
        targets = torch.from_numpy(video.targets[picked])
        return read_tokens(video, view, start, start + length, speed), torch.from_numpy(times_s).float(), targets


class DescribedVideos(TokenWindows):
    """Whole videos as a head describes them, each described once and kept: for heads whose first part does not learn.

    describe: tokens [T, L, D] and seconds [T] to the features of each frame [T, F], which stand in the place of tokens
    """

    def __init__(
        self, videos: Sequence[LabelledVideo], seed: int, describe: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__(videos, max(len(video.times_s) for video in videos), (1,), seed)
        self.describe, self.described = describe, dict[int, Tensor]()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [T, 1, F], seconds [T] and targets [T] of one video."""
        video = self.videos[index]
        times_s = torch.from_numpy(video.times_s - video.times_s[0]).float()
        if index not in self.described:
            self.described[index] = self.describe(read_tokens(video, 0, 0, len(times_s)), times_s)[:, None]
        return self.described[index], times_s, torch.from_numpy(video.targets)


class EpochSampler(Sampler[int]):
    """An epoch's order of windows, drawn from (seed, epoch) alone; Lightning calls `set_epoch` before each epoch."""

    def __init__(self, windows: TokenWindows) -> None:
        self.windows = windows

    def set_epoch(self, epoch: int) -> None:
        """Settle order and windows of the coming epoch."""
        self.windows.set_epoch(epoch)

    def __len__(self) -> int:
        """Return windows an epoch."""
        return len(self.windows)

    def __iter__(self) -> Iterator[int]:
        """Yield every index once."""
        draw = np.random.default_rng((self.windows.seed, self.windows.epoch))
        yield from draw.permutation(len(self.windows)).tolist()


def collate(windows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    """Return windows padded at their ends to the longest; padding has mask False and time of the last frame."""
    tokens, times, targets = zip(*windows, strict=True)
    longest = max(len(t) for t in times)
    mask_BW = torch.zeros(len(windows), longest, dtype=torch.bool)
    times_s_BW = torch.zeros(len(windows), longest)
    for row, time in enumerate(times):
        mask_BW[row, : len(time)] = True
        times_s_BW[row] = time[-1]
        times_s_BW[row, : len(time)] = time
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(pad(list(tokens), batch_first=True), times_s_BW, pad(list(targets), batch_first=True), mask_BW)
