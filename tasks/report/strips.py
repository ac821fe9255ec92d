"""One strip a test video: truth, flagged stretches and score over time, with a few frames.

Knows frame tables and frame shards, and lays shapes out in a box of 1000 by 100; knows nothing of HTML. A frame
stands until the next one, the last until the end of the video (`models.spans`).
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from models.errors import HerdlightError
from models.manifest import VideoRow
from models.metrics import Counts, count_frames
from models.shards import read_frames_shard

WIDTH, HEIGHT = 1000.0, 100.0
_NUM_THUMBNAILS = 5
_THUMBNAIL_HEIGHT = 96  # px
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Block:
    """A stretch in a strip; x and width in the strip's box."""

    x: float
    width: float


@dataclass(frozen=True)
class Thumbnail:
    """A frame of the video.

    source:       data URI of a JPEG
    time_s:       presentation time, seconds
    score:        of that frame
    is_highlight: whether the frame is labelled a highlight
    is_flagged:   whether its score reached the threshold
    """

    source: str
    time_s: float
    score: float
    is_highlight: bool
    is_flagged: bool


@dataclass(frozen=True)
class Strip:
    """Everything that a strip shows.

    path:        of the video, relative to the videos folder; anything may be in a file name
    content:     category of the clip, "" unknown
    counts:      its frames by prediction and truth
    truth:       labelled stretches
    flagged:     stretches at or above the threshold
    curve:       points "x,y x,y …" of the score, a step a frame
    threshold_y: of the threshold
    ticks:       position in percent and label of each mark on the time axis
    thumbnails:  in order of time, empty without frames
    """

    path: str
    content: str
    counts: Counts
    truth: tuple[Block, ...]
    flagged: tuple[Block, ...]
    curve: str
    threshold_y: float
    ticks: tuple[tuple[float, str], ...]
    thumbnails: tuple[Thumbnail, ...] = ()


def rank_videos(predictions: pd.DataFrame, threshold: float) -> list[tuple[str, Counts]]:
    """Return every test video with its counts, the one with the smallest share of right frames first."""
    test = predictions[predictions["split"] == "test"]
    counted = [
        (str(video_id), count_frames(rows["label"].to_numpy(), rows["score"].to_numpy() >= threshold))
        for video_id, rows in test.groupby("video_id", sort=True)
    ]
    return sorted(counted, key=lambda item: (item[1].accuracy, item[0]))


def make_strip(
    rows: pd.DataFrame, video: VideoRow, threshold: float, frames: Path | None, *, is_squashed: bool
) -> Strip:
    """Return the strip of one video.

    rows:        its frames, columns time_s, label, score
    video:       its manifest row
    frames:      folder of the frame shards, None for a strip without thumbnails
    is_squashed: whether stored frames were squashed to a square, so that their shape has to be given back
    """
    rows = rows.sort_values("time_s")
    times_s = rows["time_s"].to_numpy(np.float64)
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy(np.float64)
    duration_s = max(video.duration_s, float(times_s[-1]) + 1e-3)
    edges = np.append(times_s, duration_s) / duration_s * WIDTH
    points = [
        f"{x:.1f},{HEIGHT * (1 - score):.1f}"
        for score, start, end in zip(scores, edges[:-1], edges[1:], strict=True)
        for x in (start, end)
    ]
    flagged = scores >= threshold
    aspect = video.width / video.height if is_squashed else 1.0
    return Strip(
        path=video.path,
        content=video.content,
        counts=count_frames(labels, flagged),
        truth=_blocks(labels.astype(bool), edges),
        flagged=_blocks(flagged, edges),
        curve=" ".join(points),
        threshold_y=HEIGHT * (1 - min(threshold, 1.0)),
        ticks=_ticks(duration_s),
        thumbnails=() if frames is None else _thumbnails(rows, video.video_id, threshold, frames, aspect),
    )


def _blocks(inside_T: np.ndarray, edges: np.ndarray) -> tuple[Block, ...]:
    changes = np.flatnonzero(np.diff(np.concatenate([[False], inside_T, [False]]).astype(int)))
    return tuple(
        Block(float(edges[start]), float(edges[end] - edges[start]))
        for start, end in zip(changes[::2], changes[1::2], strict=True)
    )


def _ticks(duration_s: float) -> tuple[tuple[float, str], ...]:
    """Return at most seven round marks."""
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
    step = next((step for step in steps if duration_s / step <= 6.5), duration_s / 4)
    marks = np.arange(0, duration_s * 0.97, step)
    return tuple((float(mark / duration_s * 100), _clock(float(mark))) for mark in marks)


def _clock(time_s: float) -> str:
    if time_s < 60:
        return f"{time_s:g} s"
    minutes, seconds = divmod(round(time_s), 60)
    return f"{minutes}:{seconds:02d}"


def _thumbnails(
    rows: pd.DataFrame, video_id: str, threshold: float, frames: Path, aspect: float
) -> tuple[Thumbnail, ...]:
    try:
        sampled = read_frames_shard(frames, video_id)
    except HerdlightError:
        return ()  # the strip is whole without pictures, and the frames stage has its own say about missing shards
    times_s, labels = rows["time_s"].to_numpy(np.float64), rows["label"].to_numpy()
    scores = rows["score"].to_numpy(np.float64)
    return tuple(
        Thumbnail(
            source=_data_uri(sampled.frames_THWC[int(np.argmin(np.abs(sampled.times_s - times_s[place])))], aspect),
            time_s=float(times_s[place]),
            score=float(scores[place]),
            is_highlight=bool(labels[place]),
            is_flagged=bool(scores[place] >= threshold),
        )
        for place in _even_places(len(rows))
    )


def _even_places(num_frames: int) -> list[int]:
    count = min(_NUM_THUMBNAILS, num_frames)
    return [int((place + 0.5) * num_frames / count) for place in range(count)]


def _data_uri(pixels_HWC: np.ndarray, aspect: float) -> str:
    width = max(1, round(_THUMBNAIL_HEIGHT * min(max(aspect, 0.4), 2.5)))
    image = Image.fromarray(pixels_HWC).resize((width, _THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
