"""How well scores order the shots of graded videos: rank correlation and top-5 mAP, beside rows that need no model.

Knows graded truth and one score for each of its shots; knows nothing of files, frames or models. The order of the
means is: over the annotators of one video, then over the videos where the figure is defined. What is undefined (a
constant score, annotators who all gave one value, a single shot) is NaN, is counted, and is in no mean.

    random            uniform draws, the mean of NUM_RANDOM of them; 0 is expected
    uniform           every k-th shot, a fifth of all
    human             one annotator against the mean of the others
    human_each        one annotator against each other one, which is how a model is measured
    ceiling           the mean of all annotators against each of them: no scores can be much better

Shape legend: A annotators, S shots, V videos, R replicates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bootstrap import draw_weights, percentile_interval
from models.errors import ModelError, ShapeError
from models.evaluation import Estimate
from models.importance import Importance
from models.metrics import annotator_against_each, annotator_against_rest, per_annotator, top_k_average_precision

Floats = npt.NDArray[np.float64]

REFERENCE_NAMES = ("random", "uniform", "human", "human_each", "ceiling")
FIGURE_NAMES = ("kendall_tau", "spearman_rho", "top5_map")
NUM_RANDOM = 10
# One shot in five is marked by the uniform row, the share of highlights by TVSum's rule.
_UNIFORM_STEP = 5


@dataclass(frozen=True)
class Ranking:
    """How well the shots of one video are ordered; each figure NaN where undefined.

    kendall_tau:  tau-b, mean over annotators, -1 to 1
    spearman_rho: mean over annotators, -1 to 1
    top5_map:     average precision of the five best shots, mean over annotators, 0 to 1
    """

    kendall_tau: float
    spearman_rho: float
    top5_map: float


@dataclass(frozen=True)
class RankRow:
    """One row over all graded videos.

    name:          of a model or of REFERENCE_NAMES
    figures:       an Estimate for each of FIGURE_NAMES, the mean over the videos where it is defined
    num_undefined: for each of FIGURE_NAMES the number of videos where it is not
    by_video:      figures of each video, by its name
    """

    name: str
    figures: Mapping[str, Estimate]
    num_undefined: Mapping[str, int]
    by_video: Mapping[str, Ranking]


@dataclass(frozen=True)
class GradedEvaluation:
    """Every row on the graded videos.

    rows:            models first, then REFERENCE_NAMES
    num_videos:      graded videos
    num_shots:       their labelled shots together
    num_annotators:  fewest and most of a video
    confidence:      of every interval
    num_bootstrap:   replicates of every interval
    notes:           what a reader must know, one sentence each
    """

    rows: tuple[RankRow, ...]
    num_videos: int
    num_shots: int
    num_annotators: tuple[int, int]
    confidence: float
    num_bootstrap: int
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> RankRow | None:
        """Return the row called `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def to_metrics(self) -> dict[str, float]:
        """Return the figures flat, `compiled_kendall_tau`, `compiled_kendall_tau_low`, …; NaN where undefined."""
        flat: dict[str, float] = {"num_graded_videos": self.num_videos}
        for row in self.rows:
            for name, estimate in row.figures.items():
                flat[f"{row.name}_{name}"] = estimate.value
                if row.name not in REFERENCE_NAMES:
                    flat[f"{row.name}_{name}_low"], flat[f"{row.name}_{name}_high"] = estimate.low, estimate.high
        return flat

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; undefined figures are null."""
        return {
            "num_videos": self.num_videos,
            "num_shots": self.num_shots,
            "num_annotators": list(self.num_annotators),
            "confidence": self.confidence,
            "num_bootstrap": self.num_bootstrap,
            "notes": list(self.notes),
            "rows": [
                {
                    "name": row.name,
                    "kind": "reference" if row.name in REFERENCE_NAMES else "model",
                    **{name: _estimate_json(estimate) for name, estimate in row.figures.items()},
                    "num_undefined": dict(row.num_undefined),
                    "videos": {
                        video: {name: _number(getattr(ranking, name)) for name in FIGURE_NAMES}
                        for video, ranking in row.by_video.items()
                    },
                }
                for row in self.rows
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "GradedEvaluation":
        """Return what `to_json` wrote. Raises ModelError if malformed."""
        try:
            few, many = value["num_annotators"]
            return GradedEvaluation(
                rows=tuple(_row_of(row) for row in value["rows"]),
                num_videos=int(value["num_videos"]),
                num_shots=int(value["num_shots"]),
                num_annotators=(int(few), int(many)),
                confidence=float(value["confidence"]),
                num_bootstrap=int(value["num_bootstrap"]),
                notes=tuple(value["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"evaluation.json: graded figures are not what the evaluate stage writes ({type(error).__name__}: "
                f"{error}); run the stage again"
            ) from None


def rank_video(importance: Importance, scores_S: Floats) -> Ranking:
    """Return how well `scores_S` order the shots of one video.

    scores_S: float64 [S], any scale, NaN for a shot that has no score, which is then left out

    Raises ShapeError where there are not as many scores as shots, or where one is infinite.
    """
    scores = np.asarray(scores_S, np.float64)
    if scores.shape != (importance.num_shots,) or np.isinf(scores).any():
        raise ShapeError(f"ranking: scores {scores.shape} must be [{importance.num_shots}], finite or NaN")
    scored_S = ~np.isnan(scores)
    truth_AS, scores = importance.scores_AS[:, scored_S], scores[scored_S]
    if not len(scores):
        return Ranking(math.nan, math.nan, math.nan)
    correlation = per_annotator(truth_AS, scores)
    return Ranking(correlation.tau, correlation.rho, _top5(truth_AS, scores))


def evaluate_graded(
    truth: Mapping[str, Importance],
    scores: Mapping[str, Mapping[str, Floats]],
    *,
    num_bootstrap: int,
    confidence: float,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> GradedEvaluation:
    """Return each model's row on the graded videos, and the rows of REFERENCE_NAMES.

    truth:       importance of each video, by its name, one video at least
    scores:      of each model for each of these videos float64 [S], NaN for a shot without a score
    on_progress: gets the number of videos whose reference rows are done

    Raises ModelError where a model lacks a video, ShapeError as `rank_video` does.
    """
    videos = sorted(truth)
    if not videos:
        raise ShapeError("graded evaluation: no graded video; call it only where there is one")
    table: dict[str, dict[str, Ranking]] = {name: {} for name in (*scores, *REFERENCE_NAMES)}
    for index, video in enumerate(videos):
        for name, by_video in scores.items():
            if video not in by_video:
                raise ModelError(f"{name}: no scores of graded video {video}; run the stage that scores it again")
            table[name][video] = rank_video(truth[video], by_video[video])
        generator = np.random.default_rng([seed, index])
        for name, ranking in _reference_rankings(truth[video], generator).items():
            table[name][video] = ranking
        on_progress(index + 1)
    weights_RV = draw_weights(len(videos), num_bootstrap, seed)
    rows = tuple(_rank_row(name, by_video, weights_RV, confidence) for name, by_video in table.items())
    numbers = [importance.num_annotators for importance in truth.values()]
    return GradedEvaluation(
        rows=rows,
        num_videos=len(videos),
        num_shots=sum(importance.num_shots for importance in truth.values()),
        num_annotators=(min(numbers), max(numbers)),
        confidence=confidence,
        num_bootstrap=num_bootstrap,
        notes=_notes(rows, truth),
    )


def _reference_rankings(importance: Importance, generator: np.random.Generator) -> dict[str, Ranking]:
    num_shots, truth_AS = importance.num_shots, importance.scores_AS
    draws = [rank_video(importance, generator.random(num_shots)) for _ in range(NUM_RANDOM)]
    every_kth = (np.arange(num_shots) % _UNIFORM_STEP == _UNIFORM_STEP // 2).astype(np.float64)
    rest, each = annotator_against_rest(truth_AS), annotator_against_each(truth_AS)
    others = [_others(truth_AS, index) for index in range(len(truth_AS))]
    return {
        "random": Ranking(*(_mean([getattr(draw, name) for draw in draws]) for name in FIGURE_NAMES)),
        "uniform": rank_video(importance, every_kth),
        "human": Ranking(rest.tau, rest.rho, _mean([_top5_of_mean(*pair) for pair in others])),
        "human_each": Ranking(each.tau, each.rho, _mean([_top5(*pair) for pair in others])),
        "ceiling": rank_video(importance, importance.mean_S),
    }


def _others(truth_AS: Floats, index: int) -> tuple[Floats, Floats]:
    """Return what the others gave the shots that annotator `index` scored, and that annotator's scores."""
    scored_S = ~np.isnan(truth_AS[index])
    return np.delete(truth_AS, index, axis=0)[:, scored_S], truth_AS[index, scored_S]


def _top5(truth_AS: Floats, scores_S: Floats) -> float:
    return top_k_average_precision(truth_AS, scores_S) if len(truth_AS) and len(scores_S) else math.nan


def _top5_of_mean(truth_AS: Floats, scores_S: Floats) -> float:
    if not len(truth_AS) or np.isnan(truth_AS).all():
        return math.nan
    return _top5(Importance(1.0, truth_AS).mean_S[None], scores_S)


def _rank_row(
    name: str, by_video: Mapping[str, Ranking], weights_RV: npt.NDArray[np.int64], confidence: float
) -> RankRow:
    figures, undefined = {}, {}
    for figure in FIGURE_NAMES:
        values_V = np.array([getattr(ranking, figure) for ranking in by_video.values()])
        defined_V = ~np.isnan(values_V)
        num_R = weights_RV @ defined_V
        replicates_R = np.full(len(weights_RV), math.nan)
        np.divide(weights_RV @ np.where(defined_V, values_V, 0.0), num_R, out=replicates_R, where=num_R > 0)
        point = _mean(values_V.tolist())
        interval = percentile_interval(point, replicates_R, confidence, int(defined_V.sum()))
        figures[figure] = Estimate(point, interval.low, interval.high)
        undefined[figure] = int((~defined_V).sum())
    return RankRow(name, figures, undefined, by_video)


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are defined, NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _notes(rows: Sequence[RankRow], truth: Mapping[str, Importance]) -> tuple[str, ...]:
    notes = []
    alone = sum(importance.num_annotators == 1 for importance in truth.values())
    if alone:
        notes.append(
            f"{alone} of {len(truth)} graded videos have one list of scores, so rank correlation there is with that "
            "list (against a mean of people it is higher than against each of them), and there is no human row."
        )
    for row in rows:
        if row.name not in REFERENCE_NAMES and row.num_undefined["kendall_tau"]:
            notes.append(
                f"Rank correlation of {row.name} is undefined in {row.num_undefined['kendall_tau']} of {len(truth)} "
                "videos (constant scores or labels), which are in no mean."
            )
    if len(truth) < 2:
        notes.append("There is one graded video, so no interval over videos can be given.")
    return tuple(notes)


def _row_of(row: Mapping[str, Any]) -> RankRow:
    return RankRow(
        name=row["name"],
        figures={
            name: Estimate(*(_read(row[name][part]) for part in ("value", "low", "high"))) for name in FIGURE_NAMES
        },
        num_undefined={name: int(row["num_undefined"][name]) for name in FIGURE_NAMES},
        by_video={
            video: Ranking(*(_read(found[name]) for name in FIGURE_NAMES)) for video, found in row["videos"].items()
        },
    )


def _estimate_of(value: Mapping[str, float | None]) -> Estimate:
    return Estimate(*(_read(value[part]) for part in ("value", "low", "high")))


def _read(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _estimate_json(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}
