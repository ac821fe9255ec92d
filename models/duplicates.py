"""Highlights that look alike: the better one stays.

Greedy, as non-maximum suppression is: best first, and each goes that is like one that stays. Knows vectors and scores;
works within one video and over many alike.

Shapes: N highlights, D length of an embedding.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.embedding_track import unit
from models.errors import ShapeError
from models.spans import Span


def without_duplicates(
    scores: Sequence[float], looks_ND: npt.NDArray[np.floating], duplicate_cosine: float
) -> list[int]:
    """Return which of N highlights stay, in order: no two of them have a cosine of `duplicate_cosine` or more.

    The best stays, of equal scores the first. A vector of all 0 is like nothing. Time grows with N times what stays.

    scores: N numbers; looks_ND: [N, D], of any length; duplicate_cosine: above 0, at most 1. Raises ShapeError.
    """
    if looks_ND.ndim != 2 or len(scores) != len(looks_ND):
        raise ShapeError(f"duplicates: {len(scores)} scores and embeddings {looks_ND.shape} must be [N] and [N, D]")
    if not 0 < duplicate_cosine <= 1:
        raise ShapeError(f"duplicates: cosine {duplicate_cosine} must be above 0 and at most 1")
    if not np.isfinite(looks_ND).all():
        raise ShapeError("duplicates: embeddings must be finite")
    units_ND = unit(looks_ND)
    limit = duplicate_cosine - 1e-6  # the rounding of unit vectors; a highlight is always like itself
    kept: list[int] = []
    held_ND = np.empty_like(units_ND)
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        cosines = held_ND[: len(kept)] @ units_ND[index]
        if not np.any(cosines >= limit):
            held_ND[len(kept)] = units_ND[index]
            kept.append(index)
    return sorted(kept)


def without_duplicates_across(
    spans: Mapping[str, Sequence[Span]], looks: Mapping[str, npt.NDArray[np.floating]], duplicate_cosine: float
) -> dict[str, tuple[Span, ...]]:
    """Return the highlights of each video that stay when those of all videos are held against each other.

    Of equal scores, the video whose name comes first keeps its own, and in one video the earlier one: the order of the
    mappings says nothing.

    spans: name of a video to its highlights, a missing score counts as 0; looks: name to embeddings [N, D] of them
    """
    names = sorted(spans)
    if names != sorted(looks):
        odd = sorted(set(spans) ^ set(looks))
        raise ShapeError(f"duplicates: {odd[:3]} has highlights or embeddings and not both")
    for name in names:
        if len(spans[name]) != len(looks[name]):
            raise ShapeError(f"duplicates: {name}: {len(spans[name])} highlights and {len(looks[name])} embeddings")
    rows = [(name, span) for name in names for span in spans[name]]
    if not rows:
        return dict.fromkeys(names, ())
    widths = {looks[name].shape[1:] for name in names if len(looks[name])}
    if len(widths) > 1:
        raise ShapeError(f"duplicates: embeddings of lengths {sorted(widths)}; score all videos with one model")
    looks_ND = np.concatenate([looks[name] for name in names if len(looks[name])])
    stay = without_duplicates([span.score or 0.0 for _, span in rows], looks_ND, duplicate_cosine)
    kept: dict[str, list[Span]] = {name: [] for name in names}
    for index in stay:
        kept[rows[index][0]].append(rows[index][1])
    return {name: tuple(found) for name, found in kept.items()}
