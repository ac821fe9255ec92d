"""The sample as the ladder's benchmark needs it: what the pipeline left of it, and frames at other sizes.

Knows where stages leave their outputs; makes none of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from models.errors import DataError
from models.highlighter import Highlighter, HighlighterSpec, load_highlighter
from models.ladder import Figures, RungResult
from models.manifest import VideoRow, read_manifest
from models.shards import read_frames_shard
from models.video import SampledVideo
from tasks.ladder import LadderResult
from tasks.rungs import Footage, calibration_frames
from tasks.shrinks import TrainingData
from tasks.train import TrainParams


@dataclass(frozen=True, eq=False)
class Sample:
    """Videos of the sample, their frames, and how training went.

    rows:    manifest rows of all splits
    frames:  folder with a shard of frames for each
    videos:  folder with the footage
    fitting: section `train` of params.yaml
    """

    rows: Sequence[VideoRow]
    frames: Path
    videos: Path
    fitting: TrainParams

    @cached_property
    def _kept(self) -> dict[str, SampledVideo]:
        return {}

    def read_video(self, video_id: str) -> SampledVideo:
        """Return the frames of a video; the sample is small, so that they are kept."""
        if video_id not in self._kept:
            self._kept[video_id] = read_frames_shard(self.frames, video_id)
        return self._kept[video_id]

    def of(self, *splits: str) -> list[VideoRow]:
        """Return the rows of some splits."""
        return [row for row in self.rows if row.split in splits]

    def footage(self, num_calibration_frames: int) -> Footage:
        """Return what rungs are measured on."""
        calibrate = partial(calibration_frames, self.of("train"), self.read_video, num_calibration_frames)
        return Footage(self.of("val", "test"), self.read_video, calibrate)

    def training(self) -> TrainingData:
        """Return what steps are trained by."""
        return TrainingData(self.rows, self.read_video, self.fitting)


def read_sample(build: Path, videos: Path, fitting: TrainParams, num_videos: int | None = None) -> Sample:
    """Return the sample whose frames lie in `build`; of each split the first `num_videos`, or all.

    Raises DataError where the stages have not run.
    """
    manifest = build / "frames" / "manifest.parquet"
    if not manifest.is_file():
        raise DataError(
            f"ladder: {manifest} is missing; make it with `dvc pull` and `dvc repro train`, or name --build"
        )
    rows = read_manifest(manifest)
    chosen = [row for split in ("train", "val", "test") for row in _first(rows, split, num_videos)]
    return Sample(chosen, build / "frames" / "shards", videos, fitting)


def _first(rows: Sequence[VideoRow], split: str, num_videos: int | None) -> list[VideoRow]:
    """Return rows of a split, evenly taken, so that highlights are among them."""
    found = [row for row in rows if row.split == split]
    if num_videos is None or len(found) <= num_videos:
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, num_videos).round().astype(int)]


def read_parent(build: Path) -> tuple[Highlighter, HighlighterSpec]:
    """Return the model that stage `train` left. Raises DataError where it has not run."""
    if not (build / "train" / "model").is_dir():
        raise DataError(
            f"ladder: {build / 'train' / 'model'} is missing; make it with `dvc repro train`, or name --build"
        )
    return load_highlighter(build / "train" / "model")


def figures_of(result: LadderResult, name: str) -> Figures:
    """Return what was measured of a rung. Raises DataError with the reason where nothing was."""
    row = result.row(name)
    if row.figures is None:
        raise DataError(f"ladder: rung {name} {row.status.replace('_', ' ')}: {row.reason}")
    return row.figures


def speedup(faster: Figures, slower: Figures) -> dict[str, float]:
    """Return how many times faster one rung is at its best batch, and the least and most that the spreads allow."""
    fast, slow = faster.best, slower.best
    return {
        "": fast.frames_per_s / slow.frames_per_s,
        "_low": (fast.frames_per_s - fast.spread) / (slow.frames_per_s + slow.spread),
        "_high": (fast.frames_per_s + fast.spread) / max(slow.frames_per_s - slow.spread, 1e-9),
    }


def named(prefix: str, values: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures under names that begin with `prefix`; what is undefined is None."""
    return {f"{prefix}{key}": value if math.isfinite(value) else None for key, value in values.items()}


def rung_figures(prefix: str, rows: Sequence[RungResult]) -> dict[str, float | None]:
    """Return frames/s, F1 and score differences of every rung that has them, as PREFIX/RUNG/FIGURE."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row.figures is not None:
            values = {
                "frames_per_s": row.figures.best.frames_per_s,
                "frames_per_s_spread": row.figures.best.spread,
                "batch_size": row.figures.best.batch_size,
                "f1": row.figures.f1.value,
                "f1_difference": row.figures.f1_difference.value,
                "mean_score_diff": row.figures.mean_score_diff,
                "max_score_diff": row.figures.max_score_diff,
            }
            found |= named(f"{prefix}/{row.rung.name}/", values)
    return found
