"""Where a benchmark leaves what it measured: `benchmarks/results/NAME.json`.

Knows the form of that file and how to describe the machine in words; no path of the machine gets into it.
"""

import argparse
import importlib.metadata
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ShapeError
from models.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = ROOT.parent / "shared"
_PACKAGES = (
    "av",
    "dvc",
    "lightning",
    "mlflow",
    "numpy",
    "onnxruntime",
    "open_clip_torch",
    "opencv-python-headless",
    "openvino",
    "prefect",
    "torch",
)


def benchmark_parser(name: str, description: str, quick: str) -> argparse.ArgumentParser:
    """Return the command line that every benchmark has: `--quick`, which is `quick`, and `--shared FOLDER`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--shared", type=Path, default=SHARED, metavar="FOLDER", help="default: ../shared")
    return parser


def write_results(
    name: str,
    figures: Mapping[str, float | None],
    params: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    *,
    commit: str,
    folder: Path = RESULTS,
) -> Path:
    """Write `NAME.json` into `folder` and return its path.

    figures: flat, key to number; None where a figure could not be had
    params:  what the benchmark was asked to do
    details: what is no number (reasons, texts), beside the figures
    commit:  of the code that ran, as `code_commit` gave it before the run
    Raises ShapeError for a figure that is not a finite number or None.
    """
    for key, value in figures.items():
        if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise ShapeError(f"figure {key} of benchmark {name}: {value!r} is no finite number; leave None instead")
    content = {
        "name": name,
        "figures": dict(figures),
        **(details or {}),
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit,
        "params": dict(params),
    }
    path = folder / f"{name}.json"
    write_json(path, content)
    return path


def hardware() -> dict[str, str | int | float]:
    """Return processor model, number of cores that this process may use, and memory in GB."""
    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": _cpu_model(), "cores": cores, "memory_gb": round(num_bytes / 1e9, 1), "os": platform.system()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that do the work; "missing" where one is not installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def code_commit(root: Path = ROOT) -> str:
    """Return the commit of the checkout, with "+changes" where tracked files differ from it (old results apart)."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
    return (commit + "+changes" if changed else commit) or "none"


def children_peak_mb() -> float:
    """Return the peak memory of the largest finished process that this one started, directly or not, MB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def children_cpu_s() -> float:
    """Return the processor time of all finished processes that this one started, directly or not, seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def print_figures(figures: Mapping[str, float | None]) -> None:
    """Print one figure a line."""
    for key, value in figures.items():
        text = "none" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        print(f"{key:45} {text:>14}")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
