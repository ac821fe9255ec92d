"""Several served models as one: every frame is decoded once, and the mean of their scores is the score.

The folder of an ensemble is models/members.py's business.
Averaging the outputs of networks trained on different folds lowers the variance of the score (Hansen and Salamon,
"Neural network ensembles", PAMI 1990). Members that share an engine, as folds over a frozen tower do, run it once.
Knows served folders and their scores; knows nothing of files of video or of the registry.

Shape legend: N frames, T frames of one video, D features of all engines side by side, M members.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.engines.base import RECORD_FILE
from models.errors import ModelError
from models.files import hash_file
from models.highlighter import HighlighterSpec, load_spec
from models.members import is_ensemble_folder, member_folders
from models.served import ServedModel, load_served
from models.spans import ScoreTrack
from models.video import SampledVideo


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Frames in, the mean of the members' scores out; it scores a video as a ServedModel does.

    members: one at least, which sample videos alike
    engines: for each member the index of the first member with the same engine, its own where there is none before
    """

    members: tuple[ServedModel, ...]
    engines: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.members or len(self.engines) != len(self.members):
            raise ModelError(f"ensemble: {len(self.members)} members, {len(self.engines)} engines; needs one of each")
        for index, member in enumerate(self.members[1:], start=1):
            ours, first = member.spec.sampling, self.members[0].spec.sampling
            if ours != first:
                raise ModelError(f"ensemble: member {index} takes {ours}, member 0 {first}; evaluate them one by one")

    @property
    def spec(self) -> HighlighterSpec:
        """The first member's spec with the mean of the members' thresholds, 0 to 1."""
        thresholds = [member.spec.threshold for member in self.members]
        return dataclasses.replace(self.members[0].spec, threshold=math.fsum(thresholds) / len(thresholds))

    @property
    def _runs(self) -> list[int]:
        return sorted(set(self.engines))

    def embed(self, frames_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 [N, D]: the features of each different engine, side by side."""
        return np.concatenate([self.members[index].embed(frames_NHWC) for index in self._runs], axis=1)

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        """Return the mean over members of the scores of T frames; times and duration in seconds."""
        parts = self._split(features_TD)
        return _mean_track(
            [
                member.score_track(parts[engine], times_s, duration_s)
                for member, engine in zip(self.members, self.engines, strict=True)
            ]
        )

    def start_track(self) -> "EnsembleTrack":
        """Return a track that takes features as they come, and says what `score_track` says of all at once."""
        return EnsembleTrack(self)

    def _split(self, features_ND: npt.NDArray[np.float32]) -> dict[int, npt.NDArray[np.float32]]:
        """Return the features [N, D] of each different engine."""
        ends = np.cumsum([self.members[index].spec.encoder.embed_dim for index in self._runs])
        if features_ND.shape[1:] != (int(ends[-1]),):
            raise ModelError(
                f"ensemble: features {features_ND.shape} must be [T, {int(ends[-1])}], as embed gives them"
            )
        parts = np.split(features_ND, ends[:-1], axis=1)
        return {index: np.ascontiguousarray(part) for index, part in zip(self._runs, parts, strict=True)}

    def score_video(self, video: SampledVideo) -> ScoreTrack:
        """Return the scores of the frames of one video."""
        return self.score_track(self.embed(video.frames_THWC), video.times_s, video.duration_s)


class EnsembleTrack:
    """The track of an ensemble over a stream; see models.streaming.TrackStream."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._tracks = [member.start_track() for member in ensemble.members]

    def add(self, features_NE: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64]) -> None:
        """Take the features of all engines side by side and the times (seconds) of the next N frames."""
        parts = self._ensemble._split(features_NE)
        for track, engine in zip(self._tracks, self._ensemble.engines, strict=True):
            track.add(parts[engine], times_s)

    def finish(self, duration_s: float) -> ScoreTrack:
        """Return the mean of the members' tracks of a video that ends at `duration_s`, seconds."""
        return _mean_track([track.finish(duration_s) for track in self._tracks])


def _mean_track(tracks: Sequence[ScoreTrack]) -> ScoreTrack:
    scores_MT = np.stack([track.scores.astype(np.float64) for track in tracks])
    return ScoreTrack(tracks[0].times_s, scores_MT.mean(axis=0).astype(np.float32), tracks[0].duration_s)


def load_scorer(folder: Path) -> ServedModel | Ensemble:
    """Return the served model or the ensemble in `folder`, ready to score.

    Raises ModelError where it is neither, or where a member is missing or damaged, EngineError as `load_served` does.
    """
    if is_ensemble_folder(folder):
        return load_ensemble(member_folders(folder))
    return load_served(folder)


def load_ensemble(folders: Sequence[Path]) -> Ensemble:
    """Return the served models in `folders` as one; an ensemble among them adds its members. Raises as load_scorer."""
    expanded = [member for folder in folders for member in _expand(folder)]
    members = tuple(load_served(folder) for folder in expanded)
    seen: dict[str, int] = {}
    engines = tuple(seen.setdefault(_engine_key(folder), index) for index, folder in enumerate(expanded))
    return Ensemble(members, engines)


def _expand(folder: Path) -> list[Path]:
    return member_folders(folder) if is_ensemble_folder(folder) else [folder]


def _engine_key(folder: Path) -> str:
    """Return what two folders have in common only where their engines are the same, file by file."""
    spec = load_spec(folder)  # an eager engine stores weights alone, the architecture is the spec's
    return json.dumps([hash_file(folder / RECORD_FILE), str(spec.encoder), spec.unfreeze_blocks])
