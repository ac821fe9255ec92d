"""Two Dask workers beside one, each held on a core of its own: `dask_two_workers`, two over one in videos an hour.

Both score the same equal videos (one 720p H.264 clip under different contents, so that the ledger takes none for
another) through the engine that users have: hash, claim, watched child, results, index. The two workers are started
once and have their models loaded before anything is timed; the runs with one worker use the first of them, in turn
with the runs with both. Scheduler and client are not held anywhere: what they cost is part of the answer.

`python -m benchmarks.scoring_dask [--quick]`; `benchmarks.scoring` takes `measure` as one of its parts.
"""

import contextlib
import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from benchmarks.results_file import benchmark_parser, code_commit, print_figures, write_results
from models.encoder import EncoderParams, image_tower, untrained_encoder
from models.engines import build_engine
from models.errors import DataError
from models.highlighter import HighlighterSpec, build_head
from models.served import save_served
from models.tower import Tower
from models.video import Sampling
from tasks.energy import EnergyMeter, measure_energy
from tasks.library import LibraryOptions, score_library
from tasks.library_dask import LOCAL, dask_client, dask_scheduler, run_on
from tasks.library_listing import list_library
from tasks.scored_files import identify_model
from tasks.shell import one_line_errors

NAME = "scoring_dask"
WIDTH, HEIGHT, FPS, SAMPLE_FPS = 1280, 720, 30, 2.0
NUM_VIDEOS, SECONDS, ROUNDS = 8, 60.0, 3
QUICK_NUM_VIDEOS, QUICK_SECONDS, QUICK_ROUNDS = 4, 3.0, 1
# One thread everywhere: a worker is one core's work. OpenVINO takes as many as the cores it is held on.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Bench(Protocol):
    """What this part reads of the workbench of `benchmarks.scoring`."""

    @property
    def folder(self) -> Path: ...
    @property
    def quick(self) -> bool: ...


def measure(bench: Bench) -> dict[str, float]:
    """Return the figures of this part, with a model that samples `SAMPLE_FPS` as users' models do."""
    return measure_dask(bench.quick, folder=bench.folder / NAME)


def measure_dask(quick: bool, model: Path | None = None, folder: Path | None = None) -> dict[str, float]:
    """Return `dask_two_workers`, the seconds that it comes from, and the costs of an hour of video, all included.

    `core_s_per_video_hour` are seconds of one core; `wh_per_video_hour` watt-hours by CodeCarbon, with both workers at
    work: counters where the machine shows them, else an estimate from load.

    model:  folder of a served model, by default CLIP's ViT-B/32 with random weights in bfloat16
    folder: to work in, by default one that is removed again
    Raises DataError where this process has fewer than two cores.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise DataError("dask_two_workers: needs two cores, this process has one; allow it more (taskset)")
    num_videos, rounds = (QUICK_NUM_VIDEOS, QUICK_ROUNDS) if quick else (NUM_VIDEOS, ROUNDS)
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herdlight-dask-")))
        model = model or make_model(folder)
        footage = make_equal_videos(folder / "footage", num_videos, QUICK_SECONDS if quick else SECONDS)
        stack.enter_context(_environment(_ONE_THREAD))
        client = stack.enter_context(dask_client(stack.enter_context(dask_scheduler(LOCAL, 2))))
        addresses = hold_on_cores(client, cores)
        score = functools.partial(_score_all, client, footage, model, folder)
        score(addresses)  # both have their models loaded, and the footage is in the page cache
        seconds = [(score(addresses[:1]), score(addresses)) for _ in range(rounds)]
        with measure_energy() as meter:  # a run of its own: measuring takes time too
            score(addresses)
    ratios = [one / two for one, two in seconds]
    video_s = num_videos * (QUICK_SECONDS if quick else SECONDS)
    one_worker_s = statistics.median(one for one, _ in seconds)
    return {
        "dask_two_workers": round(statistics.median(ratios), 3),
        "dask_two_workers_min": round(min(ratios), 3),
        "dask_one_worker_s": round(one_worker_s, 3),
        "dask_two_workers_s": round(statistics.median(two for _, two in seconds), 3),
        "dask_video_s": video_s,
        "core_s_per_video_hour": round(one_worker_s / video_s * 3600, 1),
        "wh_per_video_hour": round(_watt_hours(meter) / video_s * 3600, 3),
    }


def _watt_hours(meter: EnergyMeter) -> float:
    assert meter.energy is not None
    return 1000 * (meter.energy.cpu_kwh + meter.energy.gpu_kwh + meter.energy.ram_kwh)


def make_model(folder: Path) -> Path:
    """Write ViT-B/32 with random weights as a served model into `folder`; return its folder."""
    encoder = untrained_encoder(EncoderParams(name="ViT-B-32", pretrained=None), seed=0)[1]
    spec = HighlighterSpec(encoder, Sampling(SAMPLE_FPS, encoder.image_size), 0, "transformer", 512, 16)
    tower = Tower(encoder, 0, image_tower(encoder).eval().requires_grad_(False))
    build_engine("openvino", tower, folder / "engine", encoder.image_size, "bfloat16")
    save_served(folder / "model", folder / "engine", build_head(spec), spec)
    return folder / "model"


def make_equal_videos(folder: Path, num: int, seconds: float) -> Path:
    """Write `num` files of one clip into `folder`, equal but for the number in a box at the end that players skip."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "0.mp4"
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_type = "FRAME"  # one slice a picture, as cameras write it; else as many as there are cores
        for i in range(round(seconds * FPS)):
            pixels = np.roll(scene, (i * 2, i * 5), (0, 1))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    for i in range(1, num):
        copy = folder / f"{i}.mp4"
        shutil.copyfile(clip, copy)
        with copy.open("ab") as end:  # ISO/IEC 14496-12, 8.1.2: a free space box
            end.write((16).to_bytes(4, "big") + b"free" + i.to_bytes(8, "big"))
    return folder


def hold_on_cores(client: Any, cores: Sequence[int]) -> list[str]:
    """Hold each worker on a core of its own, with all its threads and what they start; return their addresses."""
    addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
    for address, core in zip(addresses, cores, strict=True):
        client.run(_hold, core, workers=[address])
    return addresses


def _hold(core: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _score_all(client: Any, footage: Path, model: Path, folder: Path, workers: Sequence[str]) -> float:
    """Return the seconds that `workers` take for all of `footage`, in a ledger of its own."""
    out = Path(tempfile.mkdtemp(prefix="out-", dir=folder))
    identity = identify_model(model, "benchmark")
    num_videos = len(list(footage.iterdir()))
    options = LibraryOptions(workers=len(workers), num_batches=num_videos, num_threads=1)
    started = time.perf_counter()
    listing = list_library([footage], out)
    run = run_on(client, workers)
    report = score_library(listing, out, lambda: (model, identity), run, options)
    seconds = time.perf_counter() - started
    if report.counts()["scored"] != num_videos:
        raise DataError(f"dask_two_workers: {report.counts()} of {num_videos} videos; all must be scored anew")
    shutil.rmtree(out)
    return seconds


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Have `values` in the environment of what is started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: measure and write `benchmarks/results/scoring_dask.json`."""
    options = benchmark_parser(NAME, "Two Dask workers beside one.", "short clips, one round").parse_args(argv)
    commit = code_commit()
    with one_line_errors(NAME):
        figures = measure_dask(options.quick)
        print_figures(figures)
        name = f"{NAME}_quick" if options.quick else NAME
        params = {"quick": options.quick, "width": WIDTH, "height": HEIGHT, "fps": FPS, "sample_fps": SAMPLE_FPS}
        write_results(name, figures, params, commit=commit)


if __name__ == "__main__":
    main()
