"""What each choice of the decoder costs and changes: `python -m benchmarks.decoding [--quick]`.

On H.264 of 720p and 1080p (benchmarks/scoring_footage.py), sampled as the notebook does (every fifth frame of thirty a
second, centre crops of 224 px), each of `CHOICES` is run in turn. Figures are `FILE_CHOICE_FIGURE`:

    samples_per_s      by the clock, decoding alone with all cores
    cpu_ms             processor time of one sample: what it takes from an encoder that runs beside
    pixel_mean_abs     difference to the reference preprocessing, grey levels of 0 to 255: full decoding, the whole RGB
                       picture, then PIL's antialiased bicubic scaling and the centre, as CLIP's own code does
    feature_distance   1 - cosine between the tower's features of the two, mean (ViT-B/32, random weights, so it
                       compares choices with each other and says nothing of scores)

`rgb_then_resize` is that reference itself: decoding to RGB, then scaling the array.

Of keyframes: `FILE_keyframe_index_speed` is how many times real time their times are read from the packets, and
`FILE_keyframes_speed` from their decoded pictures by one reader, as a cascade's first pass does.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.results_file import RESULTS, benchmark_parser, code_commit, print_figures, write_results
from benchmarks.scoring_bench import STRIDE, set_up
from benchmarks.scoring_footage import FPS, make_clip
from benchmarks.scoring_loops import square_of
from models.decoding import DecodeOptions, displayed_frames, opened
from models.grid import pick_on_grid
from models.seeking import iterate_keyframes, keyframe_times
from models.served import ServedModel
from models.video import Sampling, frames_of, probe
from tasks.shell import one_line_errors

NAME = "decoding"
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
# By name; everything not said is the default.
CHOICES: dict[str, DecodeOptions] = {
    "default": DecodeOptions(),
    "all_frames": DecodeOptions(skip_unsampled=False),
    "one_thread": DecodeOptions(num_threads=1),
    "frame_2": DecodeOptions("FRAME", 2),
    "frame_3": DecodeOptions("FRAME", 3),
    "frame_4": DecodeOptions("FRAME", 4),
    "frame_6": DecodeOptions("FRAME", 6),
    "slice_2": DecodeOptions("SLICE", 2),
    "loop_filter_noref": DecodeOptions(skip_loop_filter="noref"),
    "loop_filter_nokey": DecodeOptions(skip_loop_filter="nokey"),
    "loop_filter_all": DecodeOptions(skip_loop_filter="all"),
    "bilinear": DecodeOptions(scaler="BILINEAR"),
    "bicubic": DecodeOptions(scaler="BICUBIC"),
    "fast_bilinear": DecodeOptions(scaler="FAST_BILINEAR"),
}
REFERENCE = "rgb_then_resize"
Squares = npt.NDArray[np.uint8]


def reference_squares(path: Path, sampling: Sampling) -> Squares:
    """Return uint8 [T, S, S, 3] of the samples by the reference preprocessing."""
    with opened(path, CHOICES["all_frames"]) as (_, stream):
        frames = pick_on_grid(displayed_frames(path, stream), sampling.fps)
        return np.stack([square_of(frame.to_image(), sampling.image_size) for _, frame in frames])


def squares(path: Path, sampling: Sampling, options: DecodeOptions) -> Squares:
    """Return uint8 [T, S, S, 3] of the samples as `options` give them."""
    return np.stack([pixels for _, pixels in frames_of(path, sampling, options)])


def compare(found: Squares, reference: Squares, model: ServedModel) -> dict[str, float]:
    """Return the two differences of the module's docstring."""
    pixels = float(np.abs(found.astype(np.int16) - reference).mean())
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (model.embed(found), model.embed(reference))]
    distance = float(1 - (units[0] * units[1]).sum(axis=1).mean())
    return {"pixel_mean_abs": round(pixels, 4), "feature_distance": round(max(distance, 0.0), 7)}


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds by the clock and of processor time that `work` takes."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _median_s(work: Callable[[], object], rounds: int) -> float:
    return statistics.median(timed(work)[0] for _ in range(rounds))


def measure(*, quick: bool, results: Path = RESULTS) -> dict[str, float | None]:
    """Measure every choice on both files, write the result file and return its figures."""
    commit = code_commit()
    figures: dict[str, float | None] = {"load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory(prefix="herdlight-decoding-") as folder:
        model = set_up(Path(folder), quick=quick, fps=FPS / STRIDE).model
        for name, (width, height) in SIZES.items():
            path = make_clip(Path(folder) / f"{name}.mp4", width, height, 2 if quick else 12)
            figures |= measure_file(name, path, model, rounds=1 if quick else 3)
    print_figures(figures)
    params = {"quick": quick, "stride": STRIDE, "choices": {name: asdict(value) for name, value in CHOICES.items()}}
    written = write_results(f"{NAME}_quick" if quick else NAME, figures, params, commit=commit, folder=results)
    print(f"written: {written.name}")
    return figures


def measure_file(name: str, path: Path, model: ServedModel, rounds: int) -> dict[str, float | None]:
    """Return the figures of every choice on one file."""
    sampling = model.spec.sampling
    reference = reference_squares(path, sampling)
    works: dict[str, Callable[[], Squares]] = {
        choice: (lambda options=options: squares(path, sampling, options))  # type: ignore[misc]
        for choice, options in CHOICES.items()
    }
    duration_s = probe(path).duration_s
    figures: dict[str, float | None] = {
        f"{name}_keyframe_index_speed": round(duration_s / _median_s(lambda: keyframe_times(path), rounds), 1),
        f"{name}_keyframes_speed": round(
            duration_s / _median_s(lambda: list(iterate_keyframes(path, sampling)), rounds), 1
        ),
    }
    works[REFERENCE] = lambda: reference_squares(path, sampling)
    seconds: dict[str, list[tuple[float, float]]] = {choice: [] for choice in works}
    for _ in range(rounds):
        for choice, work in works.items():
            seconds[choice].append(timed(work))
    for choice, work in works.items():
        wall_s, cpu_s = (statistics.median(values) for values in zip(*seconds[choice], strict=True))
        start = f"{name}_{choice}"
        figures[f"{start}_samples_per_s"] = round(len(reference) / wall_s, 2)
        figures[f"{start}_cpu_ms"] = round(1000 * cpu_s / len(reference), 3)
        if choice != REFERENCE:
            figures |= {f"{start}_{key}": value for key, value in compare(work(), reference, model).items()}
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where something is missing."""
    options = benchmark_parser(NAME, "What each choice of the decoder costs.", "short files, one round").parse_args(
        argv
    )
    with one_line_errors(NAME):
        measure(quick=options.quick)


if __name__ == "__main__":
    main()
