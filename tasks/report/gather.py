"""Reading what the stages left in the build folder, into one value that the page is made of.

The evaluation, the manifest and the predictions of the compiled engine are needed; everything else may be missing,
and the page then says so in that place. Knows where the stages put their files; knows nothing of HTML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from models.comparison import Comparison
from models.energy import Energy
from models.errors import DataError
from models.evaluation import Evaluation
from models.files import read_json, read_jsonl
from models.manifest import VideoRow, read_manifest
from models.params import read_params
from models.predictions import read_predictions
from models.reliability import ReliabilityPair
from models.verdict import Verdict

# In the order in which they run; report itself is still running when it reads the others.
STAGES = (
    "ingest",
    "validate",
    "frames",
    "pretrain",
    "embed",
    "train",
    "prune",
    "ladder",
    "compile",
    "evaluate",
    "gate",
)
PICTURES = ("pr_curve", "confusion", "scores", "reliability")


@dataclass(frozen=True)
class Validation:
    """Outcome of the expectations on the manifest.

    success: whether all of them held
    total:   expectations checked
    failed:  expectations that did not hold
    """

    success: bool
    total: int
    failed: int


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything that the report shows.

    figures:     content of evaluation.json, with what later stages may add to it
    reliability: of the served model; None where no stage left it
    champion:    against the model in use; None where there is none or nobody compared
    manifest:    one row a video that was used
    predictions: frame table of the compiled engine
    rejected:    path and reason of each rejected video; None where no stage left a list
    ladder:      content of ladder.json; None where it was not measured
    engines:     content of engines.json; empty where missing
    energy:      by stage, those that were measured
    histories:   by stage, rows of history.jsonl; stages without steps are absent
    spec:        content of the served model.json; empty where missing
    params:      content of params.yaml
    pictures:    PNG bytes by name, of the evaluation and of the ladder
    frames:      folder of the frame shards, which may not exist
    """

    evaluation: Evaluation
    figures: Mapping[str, Any]
    reliability: ReliabilityPair | None
    champion: Comparison | None
    verdict: Verdict | None
    manifest: Sequence[VideoRow]
    predictions: pd.DataFrame
    rejected: Sequence[Mapping[str, str]] | None
    validation: Validation | None
    ladder: Mapping[str, Any] | None
    engines: Mapping[str, Any]
    energy: Mapping[str, Energy]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    spec: Mapping[str, Any]
    params: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    frames: Path


def read_inputs(build: Path, params: Path, champion: Comparison | None = None) -> ReportInputs:
    """Return what the stages left under `build`. Raises DataError or ModelError when a needed file is missing.

    champion: how the served model stands to the one in use, which no stage knows
    """
    verdict = _optional_json(build / "gate" / "verdict.json")
    figures = _needed_json(build / "evaluate" / "evaluation.json", "evaluate")
    reliability = _optional_json(build / "evaluate" / "reliability.json")
    return ReportInputs(
        evaluation=Evaluation.from_json(figures),
        figures=figures,
        reliability=None if reliability is None else ReliabilityPair.from_json(reliability),
        champion=champion,
        verdict=None if verdict is None else Verdict.from_json(verdict),
        manifest=_manifest(build),
        predictions=read_predictions(build / "compile" / "predictions.parquet"),
        rejected=_rejected(build),
        validation=_validation(_optional_json(build / "validate" / "expectations.json")),
        ladder=_optional_json(build / "ladder" / "ladder.json"),
        engines=_optional_json(build / "compile" / "engines.json") or {},
        energy={
            stage: Energy.from_json(value)
            for stage in STAGES
            if (value := _optional_json(build / stage / "energy.json")) is not None
        },
        histories={
            stage: rows
            for stage in STAGES
            if (path := build / stage / "history.jsonl").is_file() and (rows := read_jsonl(path))
        },
        spec=_optional_json(build / "compile" / "model" / "model.json") or {},
        params=read_params(params) if params.is_file() else {},
        pictures={path.stem: path.read_bytes() for path in _pictures(build) if path.is_file()},
        frames=build / "frames" / "shards",
    )


def _pictures(build: Path) -> list[Path]:
    return [*(build / "evaluate" / "pictures" / f"{name}.png" for name in PICTURES), build / "ladder" / "ladder.png"]


def _needed_json(path: Path, stage: str) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: missing; run stage {stage} first (dvc repro {stage})")
    return read_json(path)


def _optional_json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _manifest(build: Path) -> list[VideoRow]:
    """Return the videos that were decoded, or those that were probed where the frames stage left no list."""
    decoded = build / "frames" / "manifest.parquet"
    return read_manifest(decoded if decoded.is_file() else build / "ingest" / "manifest.parquet")


def _rejected(build: Path) -> list[Mapping[str, str]] | None:
    """Return what ingest could not probe and what broke off in frames."""
    lists = [_optional_json(build / stage / "rejected.json") for stage in ("ingest", "frames")]
    if all(rows is None for rows in lists):
        return None
    return [row for rows in lists for row in rows or ()]


def _validation(value: Any) -> Validation | None:
    """Read what stage validate writes: whether all expectations held, and each of them."""
    if value is None:
        return None
    outcomes = value.get("expectations") or []
    return Validation(bool(value.get("success")), len(outcomes), sum(not one.get("success") for one in outcomes))
