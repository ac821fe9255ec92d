"""Builds and runs every GPU rung, and writes one result file: `python -m benchmarks.gpu.check --into FILE`.

Towers have random weights of a stated seed, for none can be had without a network; speed does not depend on them, and
features are compared with the same tower's in float32. All rungs of a tower run in one process, in turn. A rung that
fails is one line with its reason, and the others go on. The file is written after every step and read again by the
next command, so that the work can be done in pieces: one tower each (`--models`), some rungs (`--rungs`), at most so
many seconds (`--budget-s`). `--device cpu --tiny` runs the same loop with a tiny tower and no GPU.
"""

import argparse
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measure import (
    Timing,
    batch_sizes,
    compare_features,
    features_of,
    measure_energy,
    measure_rates,
    parity_figures,
)
from benchmarks.gpu.nvml import EnergyCounter, open_counter
from benchmarks.gpu.rungs import FAILURES, RUNGS, TINY, Call, Subject, make_frames, make_subject
from benchmarks.results_file import code_commit, hardware, versions
from models.errors import EngineError, HerdlightError, ModelError
from models.files import read_json, write_json
from models.onnx_session import first_line

MODELS = ("ViT-B-32", "ViT-L-14")
REFERENCE = "eager-float16"
HEADLINE = ("ViT-B-32", 32)
_NUM_PARITY_FRAMES = 64
_PACKAGES = ("tensorrt", "tensorrt_rtx", "torch-tensorrt", "torch-tensorrt-rtx", "triton", "onnx", "onnxscript")
# Rungs of which the faster one counts, by the name of the figure.
_SPEEDUPS = {
    "tensorrt_fp16": ("tensorrt-float16", "torch-tensorrt-float16"),
    "tensorrt_int8": ("tensorrt-int8",),
    "tensorrt_fp8": ("tensorrt-fp8",),
    "compile_fp16": ("compile-float16",),
    "sparse24_fp16": ("sparse24-float16",),
}


@dataclass
class Report:
    """What was found so far; `figures` is flat, and what could not be had is None with its reason in `reasons`."""

    path: Path
    about: Mapping[str, Any]
    figures: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def fail(self, model: str, rung: str, reason: str) -> None:
        """Note why a rung was not measured, print it, and write the file."""
        self.reasons[f"{model} {rung}"] = reason
        print(f"{model:10} {rung:24} failed: {reason}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the file, with the speed-ups that the rates give."""
        self.figures.update(speedups(self.figures))
        about = dict(self.about)
        head = {"name": "gpu", "figures": self.figures, "reasons": self.reasons}
        write_json(self.path, {**head, **about})


def key_of(model: str, rung: str) -> str:
    """Return how the figures of a rung begin: vit_b_32_eager_float16."""
    return f"{model}_{rung}".lower().replace("-", "_")


def speedups(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return images/s of rungs over those of eager float16 at the same batch, None where one of the two is missing.

    The headline, ViT-B/32 at batch 32, has short names (`tensorrt_fp16_speedup`); other towers have theirs in front.
    """
    model, size = HEADLINE
    found: dict[str, float | None] = {}
    towers = {name for name in (*MODELS, TINY) if any(key.startswith(key_of(name, "")) for key in figures)}
    for tower in sorted(towers | {model}):
        base = figures.get(f"{key_of(tower, REFERENCE)}_batch_{size}_images_per_s")
        prefix = "" if tower == model else key_of(tower, "")
        for name, rungs in _SPEEDUPS.items():
            rates = [figures.get(f"{key_of(tower, rung)}_batch_{size}_images_per_s") for rung in rungs]
            known = [rate for rate in rates if rate]
            found[f"{prefix}{name}_speedup"] = max(known) / base if known and base else None
    return found


def open_report(path: Path, about: Mapping[str, Any]) -> Report:
    """Return a report that goes on with what `path` holds. Raises ModelError where that is of another machine."""
    report = Report(path, about)
    if path.is_file():
        try:
            content = read_json(path)
            same = all(content[key] == about[key] for key in ("hardware", "versions", "commit"))
            report.figures, report.reasons = dict(content["figures"]), dict(content["reasons"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: not a result of this check ({error!r}); name another file") from None
        if not same:
            raise ModelError(f"{path}: of another machine, version or commit; name another file")
    return report


def check_model(
    subject: Subject, rungs: Sequence[str], sizes: Iterable[int], report: Report, timing: Timing, end_s: float
) -> None:
    """Build `rungs` of one tower, compare and time them, and note all in `report`.

    end_s: of `time.perf_counter`; what has not begun by then is left out with a reason
    """
    frames = make_frames(_NUM_PARITY_FRAMES, subject.image_size, subject.seed + 2)
    on_device = torch.from_numpy(frames).to(subject.device)
    calls: dict[str, Call] = {}
    for rung in rungs:
        key = key_of(subject.name, rung)
        report.reasons.pop(f"{subject.name} {rung}", None)
        if time.perf_counter() > end_s:
            report.fail(subject.name, rung, "no time left; run it alone with --rungs")
            continue
        try:
            start_s = time.perf_counter()
            ready = RUNGS[rung](subject)
            features = features_of(ready.call, on_device)
            report.figures[f"{key}_build_s"] = time.perf_counter() - start_s
            reference = features_of(_reference(subject, ready.tower), on_device)
            report.figures.update(parity_figures(key, compare_features(features, reference)))
            report.figures.update({f"{key}_{name}": value for name, value in ready.figures.items()})
            calls[rung] = ready.call
        except FAILURES as error:
            report.fail(subject.name, rung, first_line(error))
            continue
        print(f"{subject.name:10} {rung:24} built in {report.figures[f'{key}_build_s']:.1f} s", flush=True)
        report.write()
    _time_calls(subject, calls, sizes, report, timing, end_s)
    _take_energy(subject, calls, report, timing)
    report.write()


def _reference(subject: Subject, tower: Any) -> Call:
    """Return the tower in float32 on the device, exact: tf32 off."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return RUNGS["eager-float32"](replace(subject, tower=tower)).call


def _time_calls(
    subject: Subject, calls: dict[str, Call], sizes: Iterable[int], report: Report, timing: Timing, end_s: float
) -> None:
    def on_failure(rung: str, reason: str) -> None:
        report.fail(subject.name, rung, reason)
        failed.add(rung)

    for size in sizes:
        if time.perf_counter() > end_s:
            report.fail(subject.name, "all rungs", f"no time left for batch {size}")
            break
        failed: set[str] = set()
        frames = torch.from_numpy(make_frames(size, subject.image_size, subject.seed + 3)).to(subject.device)
        rates = measure_rates(calls, frames, timing, on_failure)
        for rung in calls:
            prefix = f"{key_of(subject.name, rung)}_batch_{size}"
            report.figures[f"{prefix}_images_per_s"] = rates[rung].images_per_s if rung in rates else None
            report.figures[f"{prefix}_spread"] = rates[rung].spread if rung in rates else None
        shown = ", ".join(f"{rung} {rate.images_per_s:,.0f}" for rung, rate in rates.items())
        print(f"{subject.name:10} batch {size:4}: {shown}", flush=True)
        report.write()


def _take_energy(subject: Subject, calls: Mapping[str, Call], report: Report, timing: Timing) -> None:
    counter = _counter(subject.device)
    frames = torch.from_numpy(make_frames(HEADLINE[1], subject.image_size, subject.seed + 3)).to(subject.device)
    for rung, call in calls.items():
        try:
            found = measure_energy(call, frames, counter, timing.energy_s)
        except FAILURES as error:
            report.fail(subject.name, rung, f"energy: {first_line(error)}")
            continue
        report.figures[f"{key_of(subject.name, rung)}_batch_{HEADLINE[1]}_kwh_per_1000"] = found


def _counter(device: str) -> EnergyCounter | None:
    if device != "cuda":
        return None
    uuid = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))
    return open_counter(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return hardware, versions, commit and what was asked for, as result files have them."""
    found = {"python": versions()["python"], "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    for package in ("numpy", "open_clip_torch", *_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    machine: dict[str, Any] = dict(hardware())
    if options.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        machine |= {"gpu": facts.name, "gpu_memory_gb": round(facts.total_memory / 1e9, 1)}
        machine |= {"compute_capability": f"{facts.major}.{facts.minor}"}
    params = {"device": options.device, "seed": options.seed, "max_batch": options.max_batch, **asdict(options.timing)}
    return {"hardware": machine, "versions": found, "commit": options.commit or code_commit(), "params": params}


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for."""
    options = _parse(argv)
    options.timing = Timing(1, 0.01, 0.01, 0.05) if options.quick else Timing()
    end_s = time.perf_counter() + options.budget_s
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise EngineError("torch sees no GPU on this machine; --device cpu --tiny runs without one")
        report = open_report(options.into, describe(options))
        with tempfile.TemporaryDirectory(prefix="herdlight-") as scratch:
            for name in (TINY,) if options.tiny else options.models:
                subject = make_subject(name, options.device, Path(scratch), options.seed)
                check_model(subject, options.rungs, batch_sizes(options.max_batch), report, options.timing, end_s)
    except (HerdlightError, OSError) as error:
        print(f"gpu check: {first_line(error)}", file=sys.stderr)
        return 1
    print(f"{options.into}: {len(report.figures)} figures, {len(report.reasons)} not to be had")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check", description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, metavar="FILE", help="result file; it is gone on with")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny tower in place of the models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rungs", nargs="+", choices=tuple(RUNGS), default=tuple(RUNGS))
    parser.add_argument("--max-batch", type=int, default=512, help="batches are 1, 2, 4, … up to this")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds after which nothing new begins")
    parser.add_argument("--seed", type=int, default=0, help="of weights and frames")
    parser.add_argument("--commit", default="", help="of the code, where the host has no git")
    parser.add_argument("--quick", action="store_true", help="shortest turns: the same code, figures of no worth")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
