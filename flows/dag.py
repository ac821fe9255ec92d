"""The stages of `dvc.yaml` as a graph of values.

`dvc.yaml` is the one definition of the DAG: nothing here is a second one. Knows the fields of a stage that herdlight
uses and which stage feeds which; knows nothing of running, Prefect or MLflow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from models.errors import ParamsError

PARAMS_FILE = "params.yaml"


@dataclass(frozen=True)
class Stage:
    """One stage.

    name:     as in dvc.yaml; its output folder is build/NAME
    desc:     one sentence for a person, "" where there is none
    cmd:      the shell command
    deps:     paths that it reads, relative to the repository root
    outs:     paths that it writes, plots and metrics apart
    params:   keys of params.yaml that it depends on: a section ("train") or a key in one ("train.epochs")
    metrics:  metrics files that it writes
    plots:    plot files that it writes
    upstream: names of the stages whose files it reads, in the order of dvc.yaml
    """

    name: str
    desc: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    upstream: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every path that the stage writes."""
        return (*self.outs, *self.metrics, *self.plots)

    @property
    def folder(self) -> str:
        """The stage's output folder, relative to the repository root."""
        return f"build/{self.name}"


@dataclass(frozen=True)
class Dag:
    """Every stage once, each after those it reads from.

    stages: in a topological order; stages that are free of each other keep the order of dvc.yaml
    """

    stages: tuple[Stage, ...]

    def __getitem__(self, name: str) -> Stage:
        """Return the stage called `name`. Raises ParamsError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ParamsError(f"dvc.yaml: no stage {name!r}; it has {', '.join(self.names) or 'none'}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in topological order."""
        return tuple(stage.name for stage in self.stages)

    def ancestors(self, name: str) -> frozenset[str]:
        """Return the names of all stages that `name` depends on, near and far."""
        found: set[str] = set()
        waiting = list(self[name].upstream)
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting.extend(self[current].upstream)
        return frozenset(found)


def load_dag(path: Path) -> Dag:
    """Return the DAG in the dvc.yaml at `path`. Raises ParamsError when it is missing, malformed or has a cycle."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the repository root or pass --root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    return parse_dag(content, str(path))


def parse_dag(content: Any, where: str = "dvc.yaml") -> Dag:
    """Return the DAG of a parsed dvc.yaml. Raises ParamsError as `load_dag` does, naming `where`."""
    entries = content.get("stages") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise ParamsError(f"{where}: must hold a mapping `stages` with at least one stage")
    stages = [_stage(str(name), entry, where) for name, entry in entries.items()]
    owners = _owners(stages, where)
    return Dag(_sorted([replace(stage, upstream=_upstream(stage, owners)) for stage in stages], where))


def _stage(name: str, entry: Any, where: str) -> Stage:
    if not isinstance(entry, Mapping) or not entry.get("cmd"):
        raise ParamsError(
            f"{where}: stage {name!r} must be a mapping with a `cmd` (foreach and matrix are not used here)"
        )
    cmd = entry["cmd"]
    return Stage(
        name=name,
        desc=str(entry.get("desc", "")),
        cmd=" && ".join(map(str, cmd)) if isinstance(cmd, list) else str(cmd),
        deps=_paths(entry, "deps", where, name),
        outs=_paths(entry, "outs", where, name),
        params=_params(entry, where, name),
        metrics=_paths(entry, "metrics", where, name),
        plots=_paths(entry, "plots", where, name),
    )


def _items(entry: Mapping[str, Any], key: str, where: str, name: str) -> list[Any]:
    items = entry.get(key) or []
    if not isinstance(items, list):
        raise ParamsError(f"{where}: stage {name!r}: `{key}` must be a list, found {type(items).__name__}")
    return items


def _paths(entry: Mapping[str, Any], key: str, where: str, name: str) -> tuple[str, ...]:
    """Return the paths of a list whose items are `PATH` or `PATH: {options}`, without trailing slashes."""
    paths: list[str] = []
    for item in _items(entry, key, where, name):
        paths.extend(item if isinstance(item, Mapping) else [item])
    return tuple(str(PurePosixPath(str(path))) for path in paths)


def _params(entry: Mapping[str, Any], where: str, name: str) -> tuple[str, ...]:
    """Return the keys of params.yaml; keys of another file (`FILE: [KEY…]`) are DVC's business alone."""
    keys: list[str] = []
    for item in _items(entry, "params", where, name):
        if isinstance(item, Mapping):
            keys.extend(item.get(PARAMS_FILE) or [])
        else:
            keys.append(str(item))
    return tuple(keys)


def _owners(stages: Iterable[Stage], where: str) -> dict[str, str]:
    """Return the stage that writes each path. Raises ParamsError when two stages write the same path."""
    owners: dict[str, str] = {}
    for stage in stages:
        for path in stage.files:
            if path in owners:
                raise ParamsError(f"{where}: {path} is written by both {owners[path]!r} and {stage.name!r}")
            owners[path] = stage.name
    return owners


def _upstream(stage: Stage, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return who writes what `stage` reads: the path itself, a folder around it, or a path inside it."""
    return tuple(
        dict.fromkeys(
            owner
            for path, owner in owners.items()
            if any(_touch(PurePosixPath(path), PurePosixPath(dep)) for dep in stage.deps)
        )
    )


def _touch(out: PurePosixPath, dep: PurePosixPath) -> bool:
    return out == dep or out in dep.parents or dep in out.parents


def _sorted(stages: Sequence[Stage], where: str) -> tuple[Stage, ...]:
    """Return `stages` in topological order (Kahn, first in dvc.yaml first). Raises ParamsError on a cycle."""
    waiting = list(stages)
    done: dict[str, Stage] = {}
    while waiting:
        ready = next((stage for stage in waiting if all(name in done for name in stage.upstream)), None)
        if ready is None:
            raise ParamsError(
                f"{where}: the stages {_cycle(waiting)} wait for each other; remove a dep from one of them"
            )
        done[ready.name] = ready
        waiting.remove(ready)
    return tuple(done.values())


def _cycle(stages: Sequence[Stage]) -> str:
    """Return one cycle among `stages`, each of which waits for another of them, as `a -> b -> a`."""
    names = {stage.name: stage for stage in stages}
    seen: list[str] = [stages[0].name]
    while True:
        following = next(name for name in names[seen[-1]].upstream if name in names)
        if following in seen:
            return " -> ".join([*reversed(seen[seen.index(following) :]), seen[-1]])
        seen.append(following)
