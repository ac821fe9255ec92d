"""From the scores of a video to the highlights that are given: a pure function.

In this order, each step only where its parameter asks for it:

1. hysteresis: a highlight starts where the score reaches `threshold`, and holds both ways while it stays at
   `hold_threshold` or above (Canny's two thresholds, IEEE PAMI 1986, in one dimension)
2. gaps of at most `merge_gap_s` are closed, then what is shorter than `min_duration_s` goes: `models.spans.spans_above`
3. `snap_s`: each edge moves to the nearest shot boundary within reach (models/snapping.py)
4. `max_duration_s`: what is longer is cut, or its best part is kept (models/cutting.py)
5. `duplicate_cosine`: greedily by score, what looks like a better one goes (models/duplicates.py)
6. `top_k`: the best, then `budget_s`: the best that fit. Best is by score, of equals the earlier one. The first that
   does not fit ends the list; by `over_budget` it is dropped, or trimmed to its best part of what is left, and dropped
   where that is shorter than `min_duration_s`. So a larger `top_k`, or with `drop` a larger budget, only adds.

Steps 4 and 6 may leave an edge off a shot boundary: lengths are kept first. What is given is in order and disjoint; two
may touch. An empty result says why. Knows nothing of pixels, files or models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator

from models.cutting import TOLERANCE_S, best_part, cut_at_valleys, mean_score
from models.duplicates import without_duplicates
from models.embedding_track import EmbeddingTrack
from models.errors import ShapeError
from models.params import Section, parse_section
from models.snapping import snap_spans
from models.spans import ScoreTrack, Span, merge_spans

TooLong = Literal["cut", "best"]
OverBudget = Literal["drop", "trim"]


class SelectionParams(Section):
    """How scores become highlights; the defaults are what a model says of itself and nothing more."""

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Score from which a highlight starts, 0 to 1; the model's own where it is left out."""
    hold_threshold: float | None = Field(default=None, ge=0, le=1, validate_default=True)
    """Score at which a highlight that has started goes on, 0 to `threshold`; `threshold` where it is left out."""
    min_duration_s: float | None = Field(default=None, ge=0)
    """Shortest highlight given, seconds; the model's own where it is left out."""
    merge_gap_s: float | None = Field(default=None, ge=0)
    """Highlights at most this far apart become one, seconds; the model's own where it is left out."""
    max_duration_s: float | None = Field(default=None, ge=0.1, validate_default=True)
    """Longest highlight given, seconds, at least 0.1; any length where it is left out."""
    too_long: TooLong = "cut"
    """What becomes of a longer one: `cut` at its lowest scores into several, or only its `best` part."""
    duplicate_cosine: float | None = Field(default=None, gt=0, le=1)
    """Cosine of mean embeddings from which two highlights are the same to a viewer; all differ where it is left out."""
    top_k: int | None = Field(default=None, ge=0)
    """Most highlights of a video; any number where it is left out."""
    budget_s: float | None = Field(default=None, ge=0)
    """Most seconds of highlights of a video, together; any length where it is left out."""
    over_budget: OverBudget = "drop"
    """What becomes of the first highlight that does not fit the budget: `drop`, or `trim` to its best part."""
    snap_s: float | None = Field(default=None, gt=0)
    """Farthest that an edge moves to a shot boundary, seconds; none moves where it is left out."""

    @field_validator("hold_threshold")
    @classmethod
    def _holds_lower(cls, value: float | None, info: ValidationInfo) -> float | None:
        threshold = info.data.get("threshold")
        if value is not None and threshold is not None and value > threshold:
            raise ValueError(f"must be at most threshold, {threshold:g}")
        return value

    @field_validator("max_duration_s")
    @classmethod
    def _longer_than_least(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get("min_duration_s")
        if value is not None and least is not None and value < least:
            raise ValueError(f"must be at least min_duration_s, {least:g} s")
        return value

    @property
    def needs_embeddings(self) -> bool:
        """Whether `select` has to be given an embedding track."""
        return self.duplicate_cosine is not None

    @property
    def needs_shots(self) -> bool:
        """Whether `select` has to be given shot boundaries."""
        return self.snap_s is not None


class SpanRules(Protocol):
    """What a `models.highlighter.HighlighterSpec` says of highlights."""

    @property
    def threshold(self) -> float: ...
    @property
    def min_duration_s(self) -> float: ...
    @property
    def merge_gap_s(self) -> float: ...


@dataclass(frozen=True)
class Selection:
    """The highlights of one video.

    spans: in order, disjoint, inside the video
    note:  one line on what was left out, and where there are no spans, why; "" where nothing was left out
    """

    spans: tuple[Span, ...]
    note: str = ""


def with_model(params: SelectionParams, model: SpanRules) -> SelectionParams:
    """Return `params` with what it leaves out taken from the model. Raises ParamsError where the two contradict."""
    own = {name: getattr(model, name) for name in ("threshold", "min_duration_s", "merge_gap_s")}
    return parse_section(
        {**own, **params.model_dump(exclude_none=True)}, "selection", SelectionParams, "with the model"
    )


def select(
    track: ScoreTrack | None,
    params: SelectionParams,
    *,
    embeddings: EmbeddingTrack | None = None,
    shots_s: Sequence[float] | None = None,
) -> Selection:
    """Return the highlights of a video by its scores (see the module).

    track:      scores; None where no frame was scored, and there is nothing to select
    params:     with threshold, min_duration_s and merge_gap_s settled (`with_model`)
    embeddings: what the video looks like; needed for `duplicate_cosine`
    shots_s:    shot boundaries, seconds, in any order; needed for `snap_s`
    Raises ShapeError where something that is needed is missing.
    """
    threshold, least_s = _settled(params, "threshold"), _settled(params, "min_duration_s")
    _require(params.needs_embeddings, embeddings, "duplicate_cosine", "an embedding track")
    _require(params.needs_shots, shots_s, "snap_s", "shot boundaries")
    if track is None:
        return Selection((), "no highlight: no frame was scored")
    if reason := _nothing_wanted(params):
        return Selection((), f"no highlight: {reason}")
    inside = held_frames(track, threshold, params.hold_threshold)
    if not inside.any():
        top = float(track.scores.max())
        return Selection((), f"no highlight: the highest score {top:.4g} is below the threshold {threshold:.4g}")
    left_out: list[str] = []

    def keep(before: Sequence[Span], after: Sequence[Span], why: str) -> list[Span]:
        if lost := len(before) - len(after):
            left_out.append(f"{lost} {why}")
        return list(after)

    spans = _runs(track, inside, _settled(params, "merge_gap_s"))
    too_short = f"shorter than {least_s:g} s"
    spans = keep(spans, [span for span in spans if span.duration_s >= least_s], too_short)
    if params.snap_s is not None and shots_s is not None:
        moved = snap_spans(spans, shots_s, params.snap_s, track.duration_s)
        spans = _rescored(track, inside, spans, moved)
    if params.max_duration_s is not None:
        spans = [part for span in spans for part in _shortened(track, inside, span, params, least_s, shots_s)]
    if params.snap_s is not None or params.max_duration_s is not None:
        spans = keep(spans, [span for span in spans if span.duration_s >= least_s - TOLERANCE_S], too_short)
    if params.duplicate_cosine is not None and embeddings is not None:
        looks_ND = _looks(embeddings, spans)
        kept = without_duplicates([_score(span) for span in spans], looks_ND, params.duplicate_cosine)
        spans = keep(spans, [spans[i] for i in kept], "like a better one")
    ranked = rank(spans)
    if params.top_k is not None:
        ranked = keep(ranked, ranked[: params.top_k], f"beyond the best {params.top_k}")
    if params.budget_s is not None:
        trim = _trimmer(track, inside, least_s) if params.over_budget == "trim" else None
        fitting = within_budget(ranked, params.budget_s, trim)
        ranked = keep(ranked, fitting, f"beyond the budget of {params.budget_s:g} s")
    return Selection(tuple(sorted(ranked, key=lambda span: span.start_s)), _note(ranked, left_out))


def held_frames(track: ScoreTrack, threshold: float, hold: float | None) -> npt.NDArray[np.bool_]:
    """Return bool [T]: frames in a run that stays at `hold` or above and reaches `threshold` somewhere."""
    starts = track.scores >= threshold
    if hold is None or hold >= threshold:
        return starts
    holds = track.scores >= hold
    run = np.cumsum(np.diff(holds.astype(np.int8), prepend=0) == 1)
    started = np.unique(run[starts])
    return holds & np.isin(run, started)


def rank(spans: Sequence[Span]) -> list[Span]:
    """Return `spans` best first: by score, of equals the earlier one."""
    return sorted(spans, key=lambda span: (-_score(span), span.start_s))


def within_budget(
    ranked: Sequence[Span], budget_s: float, trim: Callable[[Span, float], Span | None] | None = None
) -> list[Span]:
    """Return the first of `ranked` that together last at most `budget_s`, seconds.

    trim: gives a part of a span of at most so many seconds, or None; without it the first that does not fit is dropped
    """
    fitting: list[Span] = []
    for span in ranked:
        used_s = math.fsum(kept.duration_s for kept in fitting)
        if used_s + span.duration_s <= budget_s + TOLERANCE_S:
            fitting.append(span)
            continue
        part = trim(span, budget_s - used_s) if trim is not None and budget_s - used_s > TOLERANCE_S else None
        return [*fitting, part] if part is not None else fitting
    return fitting


def _settled(params: SelectionParams, name: str) -> float:
    value: float | None = getattr(params, name)
    if value is None:
        raise ShapeError(f"selection: {name} is not settled; take it from the model by with_model")
    return value


def _require(needed: bool, given: object, name: str, what: str) -> None:
    if needed and given is None:
        raise ShapeError(f"selection: {name} needs {what} of the video; give it, or leave {name} out")


def _nothing_wanted(params: SelectionParams) -> str:
    if params.top_k == 0:
        return "the best 0 were asked for"
    return "the budget is 0 s" if params.budget_s == 0 else ""


def _runs(track: ScoreTrack, inside: npt.NDArray[np.bool_], merge_gap_s: float) -> list[Span]:
    ends_s = track.ends_s()
    frames = [Span(float(track.times_s[i]), float(ends_s[i]), float(track.scores[i])) for i in np.flatnonzero(inside)]
    return merge_spans(frames, merge_gap_s)


def _rescored(
    track: ScoreTrack, inside: npt.NDArray[np.bool_], spans: Sequence[Span], moved: Sequence[Span]
) -> list[Span]:
    """Return `moved`, each with the mean score of what it holds now; one that did not move keeps its own."""
    return [
        old if (new.start_s, new.end_s) == (old.start_s, old.end_s) else mean_score(track, inside, new)
        for old, new in zip(spans, moved, strict=True)
    ]


def _shortened(
    track: ScoreTrack,
    inside: npt.NDArray[np.bool_],
    span: Span,
    params: SelectionParams,
    least_s: float,
    shots_s: Sequence[float] | None,
) -> list[Span]:
    """Return what is given of `span` where it may be too long."""
    assert params.max_duration_s is not None
    if span.duration_s <= params.max_duration_s + TOLERANCE_S:
        return [span]
    if params.too_long == "best":
        return [best_part(track, inside, span, params.max_duration_s)]
    return cut_at_valleys(track, inside, span, params.max_duration_s, least_s, shots_s or ())


def _trimmer(track: ScoreTrack, inside: npt.NDArray[np.bool_], least_s: float) -> Callable[[Span, float], Span | None]:
    def trim(span: Span, length_s: float) -> Span | None:
        return best_part(track, inside, span, length_s) if length_s >= least_s - TOLERANCE_S else None

    return trim


def _looks(embeddings: EmbeddingTrack, spans: Sequence[Span]) -> npt.NDArray[np.float32]:
    looks = [embeddings.mean_over(span.start_s, span.end_s) for span in spans]
    return np.stack(looks) if looks else np.zeros((0, embeddings.vectors_KD.shape[1]), np.float32)


def _score(span: Span) -> float:
    return 0.0 if span.score is None else span.score


def _note(spans: Sequence[Span], left_out: Sequence[str]) -> str:
    if not left_out:
        return ""
    return ("left out: " if spans else "no highlight: all left out: ") + ", ".join(left_out)
