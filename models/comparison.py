"""How a candidate stands to the model in use, as a value that the flow and the report hand to each other.

Knows counts by video of both on the same test videos; where they come from is `flows.champion`'s.
"""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

from models.bootstrap import PairedDifference
from models.errors import ModelError
from models.metrics import Counts


@dataclass(frozen=True)
class VideoChange:
    """One test video under both models.

    video_id: of the video
    before:   frames as the champion has them
    after:    frames as the candidate has them
    """

    video_id: str
    before: Counts
    after: Counts

    @property
    def gained(self) -> float:
        """Frames that are right now and were wrong, less those that were right and are wrong."""
        return (self.after.tp + self.after.tn) - (self.before.tp + self.before.tn)


@dataclass(frozen=True)
class Comparison:
    """The candidate against the champion.

    champion: what the model in use is called, for a person
    f1:       F1 of the candidate less the champion's, paired by video
    videos:   each test video under both, in the order of their ids
    """

    champion: str
    f1: PairedDifference
    videos: tuple[VideoChange, ...]

    @staticmethod
    def of(
        champion: str, f1: PairedDifference, candidate: Mapping[str, Counts], in_use: Mapping[str, Counts]
    ) -> "Comparison":
        """Return the comparison of counts by video. Raises ModelError where the videos are not the same."""
        if set(candidate) != set(in_use):
            raise ModelError(f"comparison: {len(candidate)} and {len(in_use)} test videos are not the same")
        changes = (VideoChange(video, in_use[video], candidate[video]) for video in sorted(candidate))
        return Comparison(champion, f1, tuple(changes))

    @property
    def better(self) -> tuple[VideoChange, ...]:
        """Videos with more right frames than before, the largest gain first."""
        return tuple(sorted((v for v in self.videos if v.gained > 0), key=lambda v: (-v.gained, v.video_id)))

    @property
    def worse(self) -> tuple[VideoChange, ...]:
        """Videos with fewer right frames than before, the largest loss first."""
        return tuple(sorted((v for v in self.videos if v.gained < 0), key=lambda v: (v.gained, v.video_id)))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; an undefined figure is NaN's null."""
        figures = {name: None if value != value else value for name, value in asdict(self.f1).items()}
        videos = {v.video_id: [list(astuple(v.before)), list(astuple(v.after))] for v in self.videos}
        return {"champion": self.champion, "f1": figures, "videos": videos}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Comparison":
        """Return the value that `to_json` wrote. Raises ModelError when it is not one."""
        try:
            figures: dict[str, Any] = {
                name: float("nan") if number is None else number for name, number in value["f1"].items()
            }
            videos = (VideoChange(video, *(Counts(*c) for c in both)) for video, both in value["videos"].items())
            return Comparison(value["champion"], PairedDifference(**figures), tuple(videos))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"comparison.json: not what the flow writes ({error}); run the flow again") from None
