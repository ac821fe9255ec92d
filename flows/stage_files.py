"""What a stage left behind, read back as a value: the files are the seam between stages and MLflow.

Knows metrics.json, history.jsonl, energy.json and the sections of params.yaml; knows nothing of MLflow or DVC's cache.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.dag import Dag, Stage
from flows.dvc import Outcome
from models.energy import Energy, add_energy
from models.errors import StageFailed
from models.files import read_json, read_jsonl

# What is worth keeping with a run; weights, frames and tokens stay in DVC's cache.
_ARTIFACT_SUFFIXES = frozenset(
    {".json", ".jsonl", ".html", ".css", ".js", ".md", ".png", ".svg", ".csv", ".parquet", ".txt"}
)
_MAX_ARTIFACT_BYTES = 16 << 20


@dataclass(frozen=True)
class StageRecord:
    """One stage of one flow run.

    stage:     what was run
    outcome:   ran, or taken from DVC's cache
    params:    flattened, "train.epochs" -> value
    metrics:   figures of metrics.json; the undefined ones (null) are left out
    undefined: names of the undefined ones
    history:   rows of history.jsonl, [] where there are no steps
    energy:    of the time when the stage really ran, None where it left none
    artifacts: files to keep with the run, relative to the repository root
    """

    stage: Stage
    outcome: Outcome
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    undefined: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
    energy: Energy | None
    artifacts: tuple[str, ...]


@dataclass(frozen=True)
class EnergyTotals:
    """Energy of all stages.

    embodied: of every stage at the time it ran: what the model and its figures cost to make
    spent:    of the stages that this flow run ran itself; None when all were cached
    """

    embodied: Energy | None
    spent: Energy | None


def read_stage(root: Path, stage: Stage, outcome: Outcome, params: Mapping[str, Any]) -> StageRecord:
    """Return what `stage` left in the repository `root`. Raises StageFailed when one of the files is damaged.

    params: content of params.yaml
    """
    folder = root / stage.folder
    figures: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    energy = None
    try:
        if (folder / "metrics.json").is_file():
            figures = read_json(folder / "metrics.json")
        if (folder / "history.jsonl").is_file():
            history = read_jsonl(folder / "history.jsonl")
        if (folder / "energy.json").is_file():
            energy = Energy.from_json(read_json(folder / "energy.json"))
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(
            f"stage {stage.name}: its files in {folder} are damaged ({error}); run `dvc repro -f -s {stage.name}`"
        ) from None
    return StageRecord(
        stage=stage,
        outcome=outcome,
        params=select_params(params, stage.params),
        metrics={key: float(value) for key, value in figures.items() if is_figure(value)},
        undefined=tuple(key for key, value in figures.items() if value is None),
        history=tuple(history),
        energy=energy,
        artifacts=tuple(_artifacts(root, stage)),
    )


def read_params_file(path: Path) -> dict[str, Any]:
    """Return the content of params.yaml, {} when the repository has none."""
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def select_params(params: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the flattened values below each of `keys`, sections or keys in one; absent ones give nothing."""
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = params
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found |= _flatten(key, value)
    return found


def is_figure(value: Any) -> bool:
    """Whether `value` is a finite number (True and False are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def add_totals(records: Iterable[StageRecord]) -> EnergyTotals:
    """Return the totals over `records`."""
    known = [(record.outcome, record.energy) for record in records if record.energy is not None]
    return EnergyTotals(
        embodied=add_energy(energy for _, energy in known),
        spent=add_energy(energy for outcome, energy in known if outcome is Outcome.RAN),
    )


def data_hash(root: Path) -> str | None:
    """Return the hash of the tracked data from data.dvc, None where the repository tracks none."""
    path = root / "data.dvc"
    if not path.is_file():
        return None
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    out = content["outs"][0]
    return str(out.get("md5") or out.get("hash"))


def missing_outputs(root: Path, dag: Dag) -> list[str]:
    """Return the outputs that dvc.yaml promises and that are not there."""
    return [path for stage in dag.stages for path in stage.files if not (root / path).exists()]


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flatten(f"{name}.{key}", part)
    return flat


def _artifacts(root: Path, stage: Stage) -> Iterable[str]:
    """Give the files of a stage that are worth keeping, sorted, each once."""
    names = {*stage.files, f"{stage.folder}/history.jsonl"}
    found: set[Path] = set()
    for name in names:
        path = root / name
        found.update(path.rglob("*") if path.is_dir() else [path])
    for path in sorted(found):
        if path.is_file() and path.suffix in _ARTIFACT_SUFFIXES and path.stat().st_size <= _MAX_ARTIFACT_BYTES:
            yield path.relative_to(root).as_posix()
