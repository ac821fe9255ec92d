"""Where the served model misses highlights and where it flags what is none: by kind of scene, and stretch by stretch.

Knows frame tables and manifest rows. Every frame counts for the seconds until the next one (`models.spans`), so a
figure is footage and not frames. Only test videos are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from models.manifest import VideoRow

UNKNOWN = "not said"


@dataclass(frozen=True)
class Category:
    """What a model makes of all test videos of one kind, seconds of footage but for num_videos.

    name:       content of the clips
    num_videos: test videos of it
    found_s:    true highlight that is flagged
    missed_s:   true highlight that is not
    false_s:    flagged, and no highlight
    right_s:    neither, and rightly so
    """

    name: str
    num_videos: int
    found_s: float
    missed_s: float
    false_s: float
    right_s: float

    @property
    def highlight_s(self) -> float:
        """True highlight, seconds."""
        return self.found_s + self.missed_s


@dataclass(frozen=True)
class Stretch:
    """An unbroken run of frames that the model has wrong in the same way.

    video_id:   of the video
    start_s:    first instant, seconds
    end_s:      first instant after, seconds
    mean_score: over its frames
    caption:    words of the manifest for the longest part of it, "" where it has none
    """

    video_id: str
    start_s: float
    end_s: float
    mean_score: float
    caption: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


def judge_frames(predictions: pd.DataFrame, videos: Mapping[str, VideoRow], threshold: float) -> pd.DataFrame:
    """Return the test frames in order of video and time, with columns content, flagged, end_s and duration_s added.

    predictions: frame table; videos: manifest rows by video_id; threshold: score from which a frame is flagged
    """
    test = predictions[predictions["split"] == "test"].sort_values(["video_id", "time_s"], ignore_index=True)
    known = [videos.get(str(video_id)) for video_id in test["video_id"]]
    nominal_s = [row.duration_s if row else 0.0 for row in known]
    last = test["video_id"] != test["video_id"].shift(-1)
    # A container may announce an end that its own frames pass: then the last frame counts for nothing.
    until_end = np.maximum(nominal_s, test["time_s"])
    end_s = np.where(last, until_end, test["time_s"].shift(-1))
    return test.assign(
        content=[(row.content if row else "") or UNKNOWN for row in known],
        flagged=(test["score"] >= threshold).astype(int),
        end_s=end_s,
        duration_s=end_s - test["time_s"],
    )


def count_categories(judged: pd.DataFrame) -> list[Category]:
    """Return a line for each content among the frames of `judge_frames`, the most seconds wrong first."""
    lines = []
    for name, frames in judged.groupby("content", sort=True):
        seconds = {
            (label, flagged): float(part["duration_s"].sum())
            for (label, flagged), part in frames.groupby(["label", "flagged"])
        }
        found_s, missed_s, false_s, right_s = (seconds.get(key, 0.0) for key in ((1, 1), (1, 0), (0, 1), (0, 0)))
        lines.append(Category(str(name), frames["video_id"].nunique(), found_s, missed_s, false_s, right_s))
    return sorted(lines, key=lambda line: (-(line.missed_s + line.false_s), line.name))


def longest_stretches(
    judged: pd.DataFrame, videos: Mapping[str, VideoRow], *, label: int, num: int
) -> Sequence[Stretch]:
    """Return the longest wrong stretches of the frames of `judge_frames`, the longest first.

    label: 1 for missed highlights, 0 for false alarms; num: most stretches given
    """
    is_wrong = (judged["label"] == label) & (judged["flagged"] != label)
    is_new = (is_wrong != is_wrong.shift()) | (judged["video_id"] != judged["video_id"].shift())
    stretches = []
    for _, run in judged[is_wrong].groupby(is_new.cumsum()[is_wrong], sort=True):
        video_id = str(run["video_id"].iloc[0])
        start_s, end_s = float(run["time_s"].iloc[0]), float(run["end_s"].iloc[-1])
        caption = _caption_of(videos.get(video_id), start_s, end_s)
        stretches.append(Stretch(video_id, start_s, end_s, float(run["score"].mean()), caption))
    return sorted(stretches, key=lambda one: (-one.duration_s, one.video_id, one.start_s))[:num]


def _caption_of(video: VideoRow | None, start_s: float, end_s: float) -> str:
    """Return the words whose stretch covers most of [start_s, end_s), else those of the whole clip."""
    if video is None:
        return ""
    overlaps = [(min(c.end_s, end_s) - max(c.start_s, start_s), c.text) for c in video.captions]
    longest_s, text = max(overlaps, default=(0.0, ""), key=lambda pair: pair[0])
    return text if longest_s > 0 else video.caption
