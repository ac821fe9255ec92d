"""One strip a test video: true and predicted highlights and the score over time, with a few frames.

Knows frame tables, and lays shapes out in a box of 1000 by 100; knows nothing of HTML or of how pictures are
stored. A frame stands until the next one, the last until the end of the video (`models.spans`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from models.manifest import VideoRow
from models.metrics import Counts, count_frames
from models.spans import ScoreTrack, Span, spans_above
from tasks.report.images import FramePictures

WIDTH, HEIGHT = 1000.0, 100.0
_NUM_THUMBNAILS = 4


@dataclass(frozen=True)
class Cut:
    """How scores become highlights, as the served model does it.

    threshold:      score from which a frame is flagged, 0 to 1
    min_duration_s: shortest highlight, seconds
    merge_gap_s:    highlights at most this far apart become one, seconds
    """

    threshold: float
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0


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
    caption:     words for it, "" unknown
    counts:      its frames by prediction and truth
    truth:       labelled stretches
    flagged:     stretches at or above the threshold
    predicted:   highlights that the model gives: those stretches joined where close, less what is too short
    curve:       points "x,y x,y …" of the score, a step a frame
    threshold_y: of the threshold
    ticks:       position in percent and label of each mark on the time axis
    thumbnails:  in order of time, empty without frames
    """

    path: str
    content: str
    caption: str
    counts: Counts
    truth: tuple[Block, ...]
    flagged: tuple[Block, ...]
    predicted: tuple[Block, ...]
    curve: str
    threshold_y: float
    ticks: tuple[tuple[float, str], ...]
    thumbnails: tuple[Thumbnail, ...] = ()


def rank_videos(predictions: pd.DataFrame, threshold: float) -> list[tuple[str, Counts]]:
    """Return every test video with its counts, the one with the smallest share of right frames first.

    Of equals, one where more highlight is found counts as better.
    """
    test = predictions[predictions["split"] == "test"]
    counted = [
        (str(video_id), count_frames(rows["label"].to_numpy(), rows["score"].to_numpy() >= threshold))
        for video_id, rows in test.groupby("video_id", sort=True)
    ]
    return sorted(counted, key=lambda item: (item[1].accuracy, item[1].tp, item[0]))


def choose_extremes(ranked: Sequence[str], most: int) -> tuple[list[str], list[str]]:
    """Return the worst and the best of videos `ranked` from worst to best, worst and best first, none in both.

    At most `most` of each; where there are fewer than twice as many, the better half counts as best.
    """
    num_worst = min(most, (len(ranked) + 1) // 2)
    num_best = min(most, len(ranked) - num_worst)
    return list(ranked[:num_worst]), list(reversed(ranked[len(ranked) - num_best :]))


def make_strip(rows: pd.DataFrame, video: VideoRow, cut: Cut, pictures: FramePictures) -> Strip:
    """Return the strip of one video.

    rows:     its frames, columns time_s, label, score
    video:    its manifest row
    cut:      how its scores become highlights
    pictures: where thumbnails come from
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
    flagged = scores >= cut.threshold
    track = ScoreTrack(times_s, rows["score"].to_numpy(np.float32), duration_s)
    predicted = spans_above(track, cut.threshold, min_duration_s=cut.min_duration_s, merge_gap_s=cut.merge_gap_s)
    return Strip(
        path=video.path,
        content=video.content,
        caption=video.caption,
        counts=count_frames(labels, flagged),
        truth=_blocks(labels.astype(bool), edges),
        flagged=_blocks(flagged, edges),
        predicted=tuple(_block(span, duration_s) for span in predicted),
        curve=" ".join(points),
        threshold_y=HEIGHT * (1 - min(cut.threshold, 1.0)),
        ticks=_ticks(duration_s),
        thumbnails=_thumbnails(rows, video, cut.threshold, pictures),
    )


def _blocks(inside_T: np.ndarray, edges: np.ndarray) -> tuple[Block, ...]:
    changes = np.flatnonzero(np.diff(np.concatenate([[False], inside_T, [False]]).astype(int)))
    return tuple(
        Block(float(edges[start]), float(edges[end] - edges[start]))
        for start, end in zip(changes[::2], changes[1::2], strict=True)
    )


def _block(span: Span, duration_s: float) -> Block:
    return Block(span.start_s / duration_s * WIDTH, span.duration_s / duration_s * WIDTH)


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
    rows: pd.DataFrame, video: VideoRow, threshold: float, pictures: FramePictures
) -> tuple[Thumbnail, ...]:
    times_s, labels = rows["time_s"].to_numpy(np.float64), rows["label"].to_numpy()
    scores = rows["score"].to_numpy(np.float64)
    shown = ((place, pictures.at(video, times_s[place])) for place in _even_places(len(rows)))
    return tuple(
        Thumbnail(
            source=source,
            time_s=float(times_s[place]),
            score=float(scores[place]),
            is_highlight=bool(labels[place]),
            is_flagged=bool(scores[place] >= threshold),
        )
        for place, source in shown
        if source is not None
    )


def _even_places(num_frames: int) -> list[int]:
    count = min(_NUM_THUMBNAILS, num_frames)
    return [int((place + 0.5) * num_frames / count) for place in range(count)]
