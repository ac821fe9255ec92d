"""Segment mAP on the test split: whether the highlights that a model would cut out are the ones people marked.

Frame scores become highlights exactly as in serving (`models.spans.spans_above`, the model's threshold, the spans
section of params), each as confident as its mean score; people's highlights come from the manifest in seconds, not
from frame labels. All test videos are pooled into one ranking (`models.metrics.RankedMoments`), and intervals are by
bootstrap over videos. Knows times, scores and spans of test frames; thresholds are chosen elsewhere.

Shape legend: N test frames, sorted by video and time; V videos; R replicates; T IoU thresholds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.manifest import VideoRow
from models.metrics import Moments, RankedMoments
from models.spans import ScoreTrack, Span, merge_spans, spans_above

Floats = npt.NDArray[np.float64]

# A figure of the random row is a mean over this many draws: where highlights begin and end is chance, and unlike that
# of counts its expectation has no simple form.
NUM_RANDOM_DRAWS = 20
# How long the last frame stands at least, for containers whose duration is a little short.
_LAST_FRAME_S = 1e-3


@dataclass(frozen=True)
class SegmentTruth:
    """What people marked, and how scores become highlights.

    spans:          true highlights by video_id; touching ones count as one, since no prediction could part them
    durations_s:    length of each video, seconds
    min_duration_s: shortest highlight given, seconds
    merge_gap_s:    highlights at most this far apart become one, seconds
    """

    spans: Mapping[str, tuple[Span, ...]]
    durations_s: Mapping[str, float]
    min_duration_s: float
    merge_gap_s: float

    @staticmethod
    def of(rows: Iterable[VideoRow], *, min_duration_s: float, merge_gap_s: float) -> "SegmentTruth":
        """Return the truth of manifest rows."""
        by_id = {row.video_id: row for row in rows}
        return SegmentTruth(
            spans={video: row.spans for video, row in by_id.items()},
            durations_s={video: row.duration_s for video, row in by_id.items()},
            min_duration_s=min_duration_s,
            merge_gap_s=merge_gap_s,
        )

    def check(self, video_ids: Sequence[str]) -> None:
        """Raise ModelError when a video is not in the manifest."""
        unknown = [video for video in video_ids if video not in self.spans]
        if unknown:
            raise ModelError(
                f"evaluate: {len(unknown)} of {len(video_ids)} test videos are not in the manifest, e.g. {unknown[0]}; "
                "run the stages again from embed on"
            )

    def moments(self, video: str, times_s: Floats, scores: Floats, threshold: float) -> Moments:
        """Return predicted and true highlights of one video; times in seconds, scores 0 to 1."""
        duration_s = max(self.durations_s[video], float(times_s[-1]) + _LAST_FRAME_S)
        track = ScoreTrack(times_s, scores.astype(np.float32), duration_s)
        found = spans_above(track, threshold, min_duration_s=self.min_duration_s, merge_gap_s=self.merge_gap_s)
        return Moments.of(
            [(span.start_s, span.end_s, 0.0 if span.score is None else span.score) for span in found],
            [(span.start_s, span.end_s) for span in merge_spans(self.spans[video])],
        )


@dataclass(frozen=True, eq=False)
class SegmentFrames:
    """The test frames, and what segments are measured against.

    truth:     covers every video
    video_ids: [V], sorted
    videos:    int64 [N], rising: index of each frame's video
    times_s:   float64 [N], seconds, rising within a video
    """

    truth: SegmentTruth
    video_ids: tuple[str, ...]
    videos: npt.NDArray[np.int64]
    times_s: Floats

    def segment_average_precision(
        self, draws: Sequence[Floats], threshold: float, weights_RV: npt.NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Return average precision on all videos by IoU threshold, float64 [T], and segment mAP by replicate, [R].

        NaN without a true highlight. The mean of the first is the segment mAP on all videos.

        draws:     scores [N] of 0 to 1; more than one where they are by chance, and then the figures are means
        threshold: frames that score at least this are highlights
        """
        edges_V = np.searchsorted(self.videos, np.arange(len(self.video_ids) + 1))
        everything_V = np.ones((1, len(self.video_ids)), np.int64)
        found = []
        for scores_N in draws:
            moments = [
                self.truth.moments(video, self.times_s[start:end], scores_N[start:end], threshold)
                for video, start, end in zip(self.video_ids, edges_V[:-1], edges_V[1:], strict=True)
            ]
            found.append(RankedMoments.of(moments).replicates(np.concatenate([everything_V, weights_RV])))
        mean_RT = np.mean(found, axis=0)
        return mean_RT[0], mean_RT[1:].mean(axis=1)


def random_draws(chances_N: Floats, seed: int) -> list[Floats]:
    """Return NUM_RANDOM_DRAWS times flags [N], 0 or 1, with these chances; once where every chance is 0 or 1."""
    if np.isin(chances_N, (0.0, 1.0)).all():
        return [chances_N]
    uniform = np.random.default_rng(seed).random((NUM_RANDOM_DRAWS, len(chances_N)))
    return list((uniform < chances_N).astype(np.float64))
