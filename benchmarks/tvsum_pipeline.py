"""The whole flow on footage it was not made for: the TVSum videos in ../shared, from clone to verdict.

`python -m benchmarks.tvsum_pipeline [--quick]` clones this checkout (what is committed counts) into a temporary
folder, puts the videos under `data/` the way a user would, and runs the flow `train` there with `params/tvsum.yaml`.
No code is special to TVSum. A gate that refuses is a result and is recorded as it is; the exit status is 1 only where
the flow came to no verdict. TVSum: Song et al., "TVSum: Summarizing web videos using titles", CVPR 2015; a highlight
is a 2-second shot in the top fifth of its video by the mean score of 20 people.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_file import (
    RESULTS,
    ROOT,
    benchmark_parser,
    children_peak_mb,
    code_commit,
    print_figures,
    write_results,
)
from flows.dag import load_dag
from models.errors import DataError, StageFailed
from models.evaluation import MODEL_NAMES, TRIVIAL_NAMES
from tasks.shell import one_line_errors

NAME = "tvsum_pipeline"
PROFILE = "tvsum"
_QUICK_VIDEOS = 15
_QUICK_OVERRIDES = (
    "validate.min_videos_per_split=1",
    "pretrain.epochs=1",
    "train.epochs=1",
    "compile.num_latency_runs=5",
)


@dataclass(frozen=True)
class Layout:
    """What goes into `data/`.

    sources:      source file by path below data/videos
    annotations:  content of annotations.json
    num_clipped:  highlights that reach past the end of their video and were cut there
    num_dropped:  highlights that begin past it
    duration_s:   length of all videos, seconds
    """

    sources: Mapping[str, Path]
    annotations: dict[str, Any]
    num_clipped: int
    num_dropped: int
    duration_s: float


def plan_data(labels: Mapping[str, Any], videos: Path, limit: int | None = None) -> Layout:
    """Return TVSum in herdlight's convention: its highlights as segments, title as caption, category as content.

    labels: content of TVSum's labels.json, by video id
    videos: folder with `<id>.mp4`
    limit:  only so many, the shortest

    The shots are 2 s long and the last one of a video may reach past its end: it is cut at `duration_s`. Raises
    DataError where a video is missing.
    """
    chosen = sorted(labels, key=lambda name: (labels[name]["duration_s"], name))[:limit]
    sources, entries = {}, {}
    num_clipped = num_dropped = 0
    for name in sorted(chosen):
        label = labels[name]
        source = videos / f"{name}.mp4"
        if not source.is_file():
            raise DataError(f"{source.name}: labelled, but not among the videos; bring it or remove its label")
        end_s = float(label["duration_s"])
        inside = [(start, end) for start, end in label["highlights"] if start < end_s]
        num_dropped += len(label["highlights"]) - len(inside)
        num_clipped += sum(end > end_s for _, end in inside)
        path = f"pool/{name}.mp4"
        sources[path] = source
        entries[path] = {
            "segments": [[start, min(end, end_s)] for start, end in inside],
            "caption": label["title"],
            "content": label["category"],
        }
    duration_s = sum(float(labels[name]["duration_s"]) for name in chosen)
    return Layout(sources, {"videos": entries}, num_clipped, num_dropped, duration_s)


def collect(build: Path, stages: Sequence[str], verdict: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the flat figures of a finished run from what its stages left under `build`."""
    figures: dict[str, float | None] = {"promoted": int(verdict["promoted"])}
    lines = verdict["lines"]
    figures |= {"num_verdict_lines": len(lines), "num_refused_lines": sum(not line["passed"] for line in lines)}
    evaluation = _read(build / "evaluate" / "evaluation.json")
    for key in ("num_videos", "num_frames", "prevalence"):
        figures[f"test_{key}"] = evaluation[key]
    rows = {row["name"]: row for row in evaluation["rows"]}
    for name in (*MODEL_NAMES, *TRIVIAL_NAMES):
        for metric, short in (("f1", "f1"), ("average_precision", "ap")):
            estimate = rows[name][metric]
            figures[f"{name}_{short}"] = estimate["value"]
            figures[f"{name}_{short}_low"] = estimate["low"]
            figures[f"{name}_{short}_high"] = estimate["high"]
    energy = {stage: _read(build / stage / "energy.json") for stage in stages}
    figures |= {f"{stage}_s": round(part["seconds"], 2) for stage, part in energy.items()}
    figures["energy_kwh"] = sum(part["kwh"] for part in energy.values())
    rejected = [row for stage in ("ingest", "frames") for row in _read(build / stage / "rejected.json")]
    figures["num_rejected"] = len({row["path"] for row in rejected})
    for stage in ("ingest", "frames"):
        numbers = _read(build / stage / "metrics.json").items()
        figures |= {f"{stage}_{key}": value for key, value in numbers if isinstance(value, int | float)}
    return figures


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageFailed(f"{path.parent.name}/{path.name} was not written; the flow ended before it") from None


def _lay_out(clone: Path, layout: Layout) -> None:
    """Replace data/ of `clone` by `layout` and hand it to DVC, as a user with footage of his own would."""
    shutil.rmtree(clone / "data", ignore_errors=True)
    for path, source in layout.sources.items():
        target = clone / "data" / "videos" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (clone / "data" / "annotations.json").write_text(json.dumps(layout.annotations, indent=1), encoding="utf-8")
    _call([sys.executable, "-m", "dvc", "add", "--quiet", "data"], clone)


def _environment(clone: Path) -> dict[str, str]:
    """Return this environment with the clone's code first and no store of anybody else."""
    ours = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "HERDLIGHT_ROOT")}
    return ours | {"PYTHONPATH": str(clone), "PREFECT_HOME": str(clone.parent / "prefect"), "DVC_NO_ANALYTICS": "1"}


def _call(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise DataError(f"{' '.join(command[:5])}: {last[0]}")


def measure(shared: Path, *, quick: bool, results: Path = RESULTS) -> None:
    """Run the flow in a clone and write the result file. Raises DataError and StageFailed."""
    folder = shared / "data" / "tvsum"
    if not (folder / "labels.json").is_file():
        raise DataError(f"{NAME} skipped: {shared.name}/data/tvsum is missing; name the folder with --shared")
    layout = plan_data(_read(folder / "labels.json"), folder / "video_3fps", _QUICK_VIDEOS if quick else None)
    overrides = _QUICK_OVERRIDES if quick else ()
    commit = code_commit()
    if commit.endswith("+changes"):
        print("uncommitted changes are not in the clone and are not measured", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="herdlight-tvsum-", ignore_cleanup_errors=True) as temporary:
        clone = Path(temporary) / "herdlight"
        _call(["git", "clone", "--quiet", "--local", str(ROOT), str(clone)], ROOT)
        if not (clone / "params" / f"{PROFILE}.yaml").is_file():
            raise DataError(f"params/{PROFILE}.yaml is not committed; commit it, a clone has only what is")
        _lay_out(clone, layout)
        command = [sys.executable, "-m", "flows.train", "--profile", PROFILE]
        command += [part for override in overrides for part in ("--set", override)]
        started = time.monotonic()
        status = subprocess.run(command, cwd=clone, env=_environment(clone), check=False).returncode
        wall_s = time.monotonic() - started
        build = clone / "build"
        verdict = _read(build / "last_run.json")["verdict"]
        dag = load_dag(clone / "dvc.yaml")
        figures: dict[str, float | None] = {
            "flow_exit_status": status,
            "num_videos": len(layout.sources),
            "hours_of_video": round(layout.duration_s / 3600, 4),
            "num_highlights_clipped": layout.num_clipped,
            "num_highlights_dropped": layout.num_dropped,
            **collect(build, dag.names, verdict),
            "flow_wall_s": round(wall_s, 1),
            "peak_memory_mb": children_peak_mb(),
        }
        details = {
            "refused": [
                {key: line[key] for key in ("name", "text")} for line in verdict["lines"] if not line["passed"]
            ],
            "energy_method": _read(build / "train" / "energy.json")["method"],
            "notes": _read(build / "evaluate" / "evaluation.json")["notes"],
        }
    print_figures(figures)
    for line in details["refused"]:
        print(f"refused: {line['name']}: {line['text']}")
    params = {"profile": PROFILE, "overrides": list(overrides), "quick": quick, "num_runs": 1}
    # What runs is the clone, and that is the commit whatever lies changed here.
    commit = commit.removesuffix("+changes")
    path = write_results(f"{NAME}_quick" if quick else NAME, figures, params, details, commit=commit, folder=results)
    print(f"written: {path.name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where there is no footage or no verdict."""
    options = benchmark_parser(
        NAME, "The flow on the TVSum videos.", "fewer videos and epochs; the figures mean nothing"
    ).parse_args(argv)
    with one_line_errors(NAME):
        measure(options.shared, quick=options.quick)


if __name__ == "__main__":
    main()
