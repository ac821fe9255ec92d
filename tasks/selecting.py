"""What a user asks for, turned into highlights: options to params, and one video's scores to spans with categories.

Knows the names of the command line's options and which of the stream's by-products a request needs; the rules
themselves are models/selection.py. Reads video only where shot boundaries are asked for, and only near highlights.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.category import Categoriser, Category, categories_of
from models.embedding_track import EmbeddingTrack, EmbeddingTrackBuilder
from models.errors import VideoBreaks
from models.params import parse_section
from models.seeking import iterate_between
from models.selection import SelectionParams, SpanRules, select, with_model
from models.shots import SIDE, ShotsParams, shot_boundaries
from models.spans import ScoreTrack, Span, merge_spans
from models.video import Sampling

# Option of the command line -> field of SelectionParams.
OPTIONS = {
    "threshold": "threshold",
    "hold": "hold_threshold",
    "min_length": "min_duration_s",
    "max_length": "max_duration_s",
    "too_long": "too_long",
    "merge_gap": "merge_gap_s",
    "distinct": "duplicate_cosine",
    "top": "top_k",
    "budget_s": "budget_s",
    "over_budget": "over_budget",
    "snap": "snap_s",
}
# A detector needs to see what is around a change before it calls it a cut, seconds.
_AROUND_S = 0.75
_BUCKET_S = 0.5

FramesBetween = Callable[[float, float], Iterable[tuple[float, npt.NDArray[np.uint8]]]]


@dataclass(frozen=True)
class Highlights:
    """What is given of one video.

    spans:      in order, disjoint
    categories: of each, None where there is none
    note:       what was left out, and where there are no spans, why
    """

    spans: tuple[Span, ...]
    categories: tuple[Category | None, ...]
    note: str


class HighlightFinder:
    """Selects the highlights of one video while it streams: hook `on_features` into the stream, then call `finish`.

    params:      settled by `selection_of`
    categoriser: of the served model (`models.category.load_categories`), None for no categories
    """

    def __init__(self, params: SelectionParams, categoriser: Categoriser | None = None) -> None:
        self._params, self._categoriser = params, categoriser
        looks_wanted = params.needs_embeddings or (categoriser is not None and bool(categoriser.names))
        self._looks = EmbeddingTrackBuilder(_BUCKET_S) if looks_wanted else None

    def on_features(self, times_s: npt.NDArray[np.float64], features_ND: npt.NDArray[np.floating]) -> None:
        """Take the features of the next frames; nothing is held where nothing asks for them."""
        if self._looks is not None:
            self._looks.add(times_s, features_ND)

    def finish(
        self,
        track: ScoreTrack | None,
        path: Path,
        shots: ShotsParams | None = None,
        *,
        on_stretch: Callable[[], None] | None = None,
        allow_breaks: bool = False,
    ) -> Highlights:
        """Return the highlights of the video at `path`. Raises VideoError where shots are sought and it breaks off.

        on_stretch:   called before each stretch in which shots are sought
        allow_breaks: where it breaks off, the shots up to there are all that there are
        """
        shots = shots or ShotsParams()
        sampling = Sampling(shots.fps, 4 * SIDE, "squash")

        def frames_between(start_s: float, end_s: float) -> Iterable[tuple[float, npt.NDArray[np.uint8]]]:
            if on_stretch:
                on_stretch()
            frames = iterate_between(path, sampling, start_s, end_s)
            return _up_to_break(frames) if allow_breaks else frames

        def find_shots(stretches: Sequence[tuple[float, float]]) -> list[float]:
            return shots_within(stretches, frames_between, shots)

        looks = self._looks.build() if self._looks is not None else None
        return select_highlights(track, self._params, looks, self._categoriser, find_shots)


def _up_to_break(
    frames: Iterable[tuple[float, npt.NDArray[np.uint8]]],
) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    with contextlib.suppress(VideoBreaks):
        yield from frames


def rows_of(found: Highlights) -> list[dict[str, Any]]:
    """Return the spans as they stand in `spans.json`: without a category they are written as before there was one."""
    rows: list[dict[str, Any]] = []
    for span, category in zip(found.spans, found.categories, strict=True):
        row: dict[str, Any] = {"start_s": span.start_s, "end_s": span.end_s, "score": span.score}
        if category is not None:
            row |= {"category": category.name, "category_probability": category.probability}
        rows.append(row)
    return rows


def asked_of(params: SelectionParams, own: SelectionParams) -> dict[str, Any] | None:
    """Return what `params` ask for beyond the model's own, as JSON, None for nothing: a rerun compares it.

    own: what `selection_of` settles where nothing is asked for
    The threshold is left out; results hold it by itself.
    """
    threshold = {"threshold"}
    if params.model_dump(exclude=threshold) == own.model_dump(exclude=threshold):
        return None
    return params.model_dump(mode="json", exclude_none=True, exclude=threshold)


def selection_of(options: Mapping[str, Any], model: SpanRules) -> SelectionParams:
    """Return settled params from options (see OPTIONS); what is None or missing is the model's own or not asked for.

    Raises ParamsError that names what is out of its range or contradicts.
    """
    asked = {OPTIONS[name]: value for name, value in options.items() if value is not None}
    return with_model(parse_section(asked, "selection", SelectionParams, "options"), model)


def select_highlights(
    track: ScoreTrack | None,
    params: SelectionParams,
    embeddings: EmbeddingTrack | None = None,
    categoriser: Categoriser | None = None,
    find_shots: Callable[[Sequence[tuple[float, float]]], Sequence[float]] | None = None,
) -> Highlights:
    """Return the highlights of one video with their categories.

    params:     settled by `selection_of`
    embeddings: what the video looks like; without it no category is given, and `duplicate_cosine` is refused
    find_shots: gives the shot boundaries within stretches, seconds; called once, where `snap_s` is asked for
    Raises ShapeError where something that `params` need is missing.
    """
    shots_s = None
    if params.needs_shots and find_shots is not None:
        shots_s = find_shots(stretches_to_search(track, params)) if track is not None else []
    found = select(track, params, embeddings=embeddings, shots_s=shots_s)
    categories: list[Category | None] = [None] * len(found.spans)
    if embeddings is not None:
        categories = categories_of(categoriser, found.spans, embeddings)
    return Highlights(found.spans, tuple(categories), found.note)


def stretches_to_search(track: ScoreTrack, params: SelectionParams) -> list[tuple[float, float]]:
    """Return the stretches `(start_s, end_s)` in which a shot boundary could move an edge: disjoint, in order.

    So a request for snapping decodes the surroundings of highlights once more, and not the whole video.
    """
    assert params.snap_s is not None
    plain = {"threshold", "hold_threshold", "min_duration_s", "merge_gap_s"}
    spans = select(track, SelectionParams.model_validate(params.model_dump(include=plain))).spans
    reach_s = params.snap_s + _AROUND_S
    near = [
        Span(max(edge_s - reach_s, 0.0), min(edge_s + reach_s, track.duration_s))
        for span in spans
        for edge_s in (span.start_s, span.end_s)
        if edge_s - reach_s < track.duration_s
    ]
    return [(span.start_s, span.end_s) for span in merge_spans(near, _AROUND_S)]


def shots_within(
    stretches: Iterable[tuple[float, float]], frames_between: FramesBetween, params: ShotsParams | None = None
) -> list[float]:
    """Return the shot boundaries within `stretches`, seconds, each stretch looked at for itself.

    frames_between: gives `(time_s, pixels)` of the frames from start to end, in order
    """
    return [
        cut_s
        for start_s, end_s in stretches
        for cut_s in shot_boundaries(frames_between(start_s, end_s), params)
        if start_s <= cut_s < end_s
    ]
