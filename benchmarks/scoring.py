"""How fast scoring is, and how little memory it takes: `python -m benchmarks.scoring [--quick] [--only PART]`.

Each part is a module of its own with `measure(bench) -> figures`; its docstring says what the figures are:

    speed    benchmarks.scoring_speed    exact_vs_seek, exact_vs_sequential, pipeline_efficiency
    memory   benchmarks.scoring_memory   memory_ratio, peak_gib
    cascade  benchmarks.scoring_cascade  cascade_vs_exact, cascade_recall, with the sample's own model
    dask     benchmarks.scoring_dask     dask_two_workers, core_s_per_video_hour (for benchmarks.scale)

All run in one process group on the same cores, two in turn at a time, and write `benchmarks/results/scoring.json`.
With `--only` the figures of the other parts stay in that file as they are, and `params.commits` says which part was
measured at which commit. `--quick` is a minute of the same code on short files, with figures that mean little.
"""

import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results_file import RESULTS, benchmark_parser, code_commit, print_figures, write_results
from benchmarks.scoring_bench import ENCODER, ENGINE, PRECISION, STRIDE, WINDOW, set_up
from benchmarks.scoring_footage import FPS
from models.cores import usable_cores
from models.files import read_json
from tasks.shell import one_line_errors

NAME = "scoring"
PARTS = {part: f"benchmarks.scoring_{part}" for part in ("speed", "memory", "cascade", "dask")}


def measure(parts: Sequence[str], *, quick: bool, results: Path = RESULTS) -> dict[str, float | None]:
    """Measure `parts`, write the result file and return its figures."""
    torch.set_num_threads(usable_cores())
    commit, name = code_commit(), f"{NAME}_quick" if quick else NAME
    before = _read(results / f"{name}.json") if set(parts) != set(PARTS) else {}
    figures: dict[str, float | None] = dict(before.get("figures", {}))
    commits: dict[str, str] = dict(before.get("params", {}).get("commits", {}))
    figures["load_before"] = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="herdlight-scoring-") as folder:
        bench = set_up(Path(folder), quick=quick, fps=FPS / STRIDE)
        for part in parts:
            figures |= importlib.import_module(PARTS[part]).measure(bench)
            commits[part] = commit
    print_figures(figures)
    params: dict[str, Any] = {
        "quick": quick,
        "encoder": ENCODER,
        "weights": "random",
        "engine": f"{ENGINE} {PRECISION}",
        "stride": STRIDE,
        "fps": FPS,
        "window": WINDOW,
        "commits": commits,
    }
    path = write_results(name, figures, params, commit=commit, folder=results)
    print(f"written: {path.name}")
    return figures


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where something is missing."""
    parser = benchmark_parser(NAME, "Speed and memory of scoring.", "short files, one round: a minute")
    parser.add_argument("--only", action="append", choices=sorted(PARTS), metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args(argv)
    with one_line_errors(NAME):
        measure(options.only or list(PARTS), quick=options.quick)


if __name__ == "__main__":
    main()
