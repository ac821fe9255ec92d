"""Highlights that look alike: the better one stays.

Greedy, as non-maximum suppression is: best first, and each goes that is like one that stays. Knows vectors and scores.

Shapes: N highlights, D length of an embedding.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.embedding_track import unit
from models.errors import ShapeError


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
