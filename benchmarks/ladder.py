"""The compression ladder measured: what each kind of rung gains on a processor, and what it costs in F1.

`python -m benchmarks.ladder [--quick] [--build DIR] [--data DIR] [--only PART]` needs what stages `frames` and `train`
leave of the sample. Three parts, each through the ladder stage's own code (`tasks.ladder`), every rung timed in turn in
rounds: runtimes on ViT-B/32 (`best_cpu_speedup`, `best_cpu_mean_score_diff`), structured pruning of nano
(`structured_speedup`, `structured_f1_drop`), token merging of a small ViT (`tokens_speedup`, `tokens_f1_drop`). About
seven minutes on two quiet cores with AMX. Speeds are at each rung's best batch size, medians over the rounds;
`_low` and `_high` are what their spreads allow. F1 is on the test split at thresholds chosen on val; an F1 drop has
its 95% interval over videos and the exchange test's p-value that the parent is better.
"""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ladder_runtimes import SEED, measure_runtimes
from benchmarks.ladder_sample import read_parent, read_sample
from benchmarks.ladder_shrinks import PRUNINGS, TOKENS, measure_structured, measure_tokens
from benchmarks.results_file import RESULTS, ROOT, benchmark_parser, code_commit, print_figures, write_results
from models.params import load_section
from tasks.ladder import LadderParams
from tasks.shell import one_line_errors, quiet_environment
from tasks.train import TrainParams

NAME = "ladder"
PARTS = ("runtimes", "structured", "tokens")
Found = tuple[dict[str, float | None], dict[str, Any]]


def measure(
    build: Path, data: Path, *, quick: bool, parts: Sequence[str] = PARTS, results: Path = RESULTS
) -> dict[str, float | None]:
    """Measure, print and write the result file; return the figures."""
    commit, started = code_commit(), time.monotonic()
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(num_cores)
    params = ladder_params(quick)
    fps, epochs_of_block, epochs_of_vit = (1.0, 1, 1) if quick else (1.0, 6, 15)
    sample = read_sample(
        build, data / "videos", load_section(ROOT / "params.yaml", "train", TrainParams), 4 if quick else None
    )
    parent = read_parent(build)
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="herdlight-ladder-") as scratch:
        work: dict[str, Callable[[Path], Found]] = {
            "runtimes": lambda folder: measure_runtimes(sample, params, folder, fps, epochs_of_block),
            "structured": lambda folder: measure_structured(sample, parent, params, folder, quick=quick),
            "tokens": lambda folder: measure_tokens(sample, parent, params, folder, epochs_of_vit),
        }
        for part in parts:
            begun = time.monotonic()
            folder = Path(scratch) / part
            folder.mkdir()
            of_part, told = work[part](folder)
            figures |= of_part
            details |= told
            seconds[part] = round(time.monotonic() - begun, 1)
    print_figures(figures)
    asked = {
        "quick": quick,
        "parts": list(parts),
        "num_threads": num_cores,
        "ladder": params.model_dump(mode="json"),
        "prunings": {name: step.model_dump(mode="json") for name, step in PRUNINGS.items()},
        "tokens": {name: step.model_dump(mode="json") for name, step in TOKENS.items()},
        "fps_of_vit_b_32": fps,
        "epochs_of_vit_b_32_block": epochs_of_block,
        "epochs_of_small_vit": epochs_of_vit,
        "seed": SEED,
        "seconds": {**seconds, "all": round(time.monotonic() - started, 1)},
    }
    path = write_results(f"{NAME}_quick" if quick else NAME, figures, asked, details, commit=commit, folder=results)
    print(f"written: {path.name}")
    return figures


def ladder_params(quick: bool) -> LadderParams:
    """Return how rungs are measured."""
    if quick:
        return LadderParams(
            batch_sizes=(8,), num_rounds=2, num_latency_runs=3, latency_budget_s=0.05, energy_budget_s=0,
            num_calibration_frames=32, num_bootstrap=100,
        )  # fmt: skip
    return LadderParams(
        batch_sizes=(8, 32), num_rounds=5, num_latency_runs=50, latency_budget_s=0.2, energy_budget_s=0,
        num_calibration_frames=128,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where the sample is not there."""
    parser = benchmark_parser(NAME, "What each kind of rung gains and costs on a processor.", "few videos and rounds")
    parser.add_argument("--build", type=Path, default=ROOT / "build", metavar="FOLDER", help="default: build")
    parser.add_argument("--data", type=Path, default=ROOT / "data", metavar="FOLDER", help="default: data")
    parser.add_argument("--only", choices=PARTS, help="one part; the file has its figures alone")
    options = parser.parse_args(argv)
    quiet_environment()
    for noisy in ("lightning.pytorch", "onnx_ir", "onnxscript"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    with one_line_errors(NAME):
        measure(options.build, options.data, quick=options.quick, parts=[options.only] if options.only else PARTS)


if __name__ == "__main__":
    main()
