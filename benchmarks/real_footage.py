"""Scoring of every real video in ../shared: how fast, how much memory, and what becomes of the bad ones.

`python -m benchmarks.real_footage [--quick] [--model FOLDER]` runs `herdlight score` once over all of them, as a user
with a disk full of footage would. Wall time holds everything: start, model, decoding, network, result files and
pictures. The served model of the sample data has seen none of this footage; whether its highlights are good is not
asked here, only how much of the footage it flags. One run, no repeats: read the speed with that in mind, and on a
machine with other work beside (`load_before`) the processor time `cpu_s` rather than the wall time.
"""

import csv
import os
import re
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
    children_cpu_s,
    children_peak_mb,
    code_commit,
    print_figures,
    write_results,
)
from models.errors import DataError, ModelError
from models.files import read_json
from tasks.footage import list_footage
from tasks.scored_files import identify_model
from tasks.shell import one_line_errors

NAME = "real_footage"
# Name in the figures, and folder below ../shared/data.
FOLDERS: Mapping[str, str] = {
    "wildlife": "wildlife",
    "odd_media": "odd_media",
    "camera_trap": "camera_trap",
    "general": "general",
    "panda70m": "panda70m",
    "tvsum": "tvsum/video_3fps",
    "golden_frames": "golden_frames",
    "hdvg": "hdvg",
}
QUICK_FOLDERS = ("wildlife", "odd_media")
MAX_REASON_LENGTH = 200
# What a reason shows when an exception got through that nobody turned into a sentence.
_UNCLEAR = re.compile(r"Traceback|^\s*$|^\w+(Error|Exception)\b|\n")


@dataclass(frozen=True)
class Input:
    """One file: its name in the results, folder first, and where it lies."""

    name: str
    path: Path


def plan(shared: Path, names: Sequence[str]) -> list[Input]:
    """Return every file that scoring takes for footage in the folders `names`. Raises DataError where one is missing.

    What `herdlight score` passes over in a folder (notes, tables, pictures) is passed over here by the same rule.
    """
    found = []
    for name in names:
        folder = shared / "data" / FOLDERS[name]
        if not folder.is_dir():
            place = f"{shared.name}/data/{FOLDERS[name]}"
            raise DataError(f"{NAME} skipped: {place} is missing; name the folder with --shared")
        found += [Input(f"{name}/{item.name}", item.path) for item in list_footage([folder])]
    return found


def lay_out(inputs: Sequence[Input], folder: Path) -> None:
    """Make `folder` hold every input under its name, as links: one place for one run."""
    for item in inputs:
        link = folder / item.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(item.path.resolve())


def summarise(
    inputs: Sequence[Input], scored: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, str]]
) -> dict[str, float | None]:
    """Return counts, hours and share of footage flagged, in all and by folder. Raises DataError if one is lost.

    scored, rejected: rows of scored.json and rejected.json
    """
    outcome = {row["video"] for row in scored} | {row["video"] for row in rejected}
    lost = sorted({item.name for item in inputs} ^ outcome)
    if lost or len(scored) + len(rejected) != len(inputs):
        raise DataError(f"{len(lost)} of {len(inputs)} videos are neither scored nor rejected, or both: {lost[:3]}")
    figures: dict[str, float | None] = {}
    for name in ("", *dict.fromkeys(item.name.split("/")[0] for item in inputs)):
        start = f"{name}/" if name else ""
        prefix = f"{name}_" if name else ""
        rows = [row for row in scored if row["video"].startswith(start)]
        seconds = sum(row["duration_s"] for row in rows)
        figures[f"{prefix}num_videos"] = sum(item.name.startswith(start) for item in inputs)
        figures[f"{prefix}num_scored"] = len(rows)
        figures[f"{prefix}num_rejected"] = sum(row["video"].startswith(start) for row in rejected)
        figures[f"{prefix}hours"] = round(seconds / 3600, 5)
        flagged = sum(row["highlight_s"] for row in rows)
        figures[f"{prefix}highlight_share"] = round(flagged / seconds, 4) if seconds else None
    return figures


def compare(
    baseline: Mapping[str, bool], inputs: Sequence[Input], rejected: set[str], data: Path
) -> dict[str, list[str]]:
    """Return where scoring and another decoder disagree: names by kind of disagreement.

    baseline: whether the decoder behind manifest.csv read frames without an error, by path below `data`
    """
    found: dict[str, list[str]] = {"rejected_but_decoded_elsewhere": [], "scored_but_not_decoded_elsewhere": []}
    for item in inputs:
        decoded = baseline.get(item.path.relative_to(data).as_posix())
        if decoded is not None and decoded == (item.name in rejected):
            kind = "rejected_but_decoded_elsewhere" if decoded else "scored_but_not_decoded_elsewhere"
            found[kind].append(item.name)
    return found


def read_baseline(path: Path) -> dict[str, bool]:
    """Return, by path tried, whether the decoder behind manifest.csv got frames and no error; {} without the file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Where neither an error nor a count stands, nobody tried.
    tried = [row for row in rows if row["pyav_error"] or row["frames_decoded"]]
    return {row["file"]: not row["pyav_error"] and int(row["frames_decoded"]) > 0 for row in tried}


def is_clear(reason: str) -> bool:
    """Return whether a reason is one line for a person: short, not empty, and no exception's own name or trace."""
    return len(reason) <= MAX_REASON_LENGTH and not _UNCLEAR.search(reason)


def measure(shared: Path, model: Path, *, quick: bool, results: Path = RESULTS) -> None:
    """Score the footage and write the result file. Raises DataError and ModelError."""
    names = QUICK_FOLDERS if quick else tuple(FOLDERS)
    inputs = plan(shared, names)
    if not (model / "model.json").is_file():
        raise ModelError(f"{model.name}: no served model there; `make run` makes one, or name a folder with --model")
    commit = code_commit()
    with tempfile.TemporaryDirectory(prefix="herdlight-footage-") as temporary:
        footage, out = Path(temporary) / "footage", Path(temporary) / "out"
        lay_out(inputs, footage)
        command = [sys.executable, "-m", "app", "score", str(footage), "--model", str(model.resolve())]
        known = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(ROOT), known] if known else [str(ROOT)])
        load_before, cpu_before_s = os.getloadavg()[0], children_cpu_s()
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--out", str(out)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        wall_s, cpu_s = time.monotonic() - started, children_cpu_s() - cpu_before_s
        if done.returncode != 0:
            raise DataError(f"herdlight score ended with status {done.returncode}; its own line stands above")
        scored, rejected = read_json(out / "scored.json"), read_json(out / "rejected.json")
    unclear = [row["reason"] for row in rejected if not is_clear(row["reason"])]
    others = compare(
        read_baseline(shared / "data" / "manifest.csv"), inputs, {row["video"] for row in rejected}, shared / "data"
    )
    totals = summarise(inputs, scored, rejected)
    hours = totals["hours"] or 0.0
    figures: dict[str, float | None] = {
        "wall_s": round(wall_s, 2),
        "times_real_time": round(hours * 3600 / wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "load_before": round(load_before, 2),
        "peak_memory_mb": children_peak_mb(),
        "num_unclear_reasons": len(unclear),
        **{f"num_{kind}": len(found) for kind, found in others.items()},
        **totals,
    }
    print_figures(figures)
    for row in rejected:
        print(f"rejected: {row['video']}: {row['reason']}")
    params = {"quick": quick, "folders": list(names), "num_runs": 1}
    params["model_sha256"] = identify_model(model, model.name).sha256
    details = {"rejected": rejected, **others}
    path_written = write_results(
        f"{NAME}_quick" if quick else NAME, figures, params, details, commit=commit, folder=results
    )
    print(f"written: {path_written.name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where there is no footage or no model."""
    parser = benchmark_parser(NAME, "Scoring of real footage.", f"only {' and '.join(QUICK_FOLDERS)}")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "compile" / "model", metavar="FOLDER")
    options = parser.parse_args(argv)
    with one_line_errors(NAME):
        measure(options.shared, options.model, quick=options.quick)


if __name__ == "__main__":
    main()
