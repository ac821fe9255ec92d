"""Exact scoring beside the notebook's seek loop, a sequential loop, and the bound of its own two halves.

    exact_vs_seek_720p, _1080p     exact scoring over the notebook's loop (OpenCV seeks, float32 PyTorch)
    exact_vs_seek                  the smaller of the two
    exact_vs_seek_engine_720p …    the same with the loop's network replaced by our engine: what extraction alone gains
    exact_vs_sequential            over a loop that decodes once, in order (PyAV, PIL, batches of 128 in float32)
    pipeline_efficiency            exact scoring over 1 / (1 / decoding alone + 1 / encoding alone), each with all cores

Same network, same files, same sampled times, which is checked. "Exact" is all that a user's call does, thumbnails
included, except in `pipeline_efficiency`, whose three works make no pictures.
"""

import statistics
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.scoring_bench import STRIDE, Workbench, rates, ratio_of, time_in_turns
from benchmarks.scoring_footage import FPS, make_clip, repeat_clip
from benchmarks.scoring_loops import eager_embed, engine_embed, seek_loop, sequential_loop
from models.errors import DataError
from models.video import frames_of, probe
from tasks.score import score_track_of_file, score_video_file
from tasks.score_stream import BATCH_SIZE

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
Figures = dict[str, float | None]


def measure(bench: Workbench) -> Figures:
    """Return all figures of speed."""
    figures: Figures = {}
    for name, (width, height) in SIZES.items():
        path = _footage(bench, name, width, height)
        figures |= _beside_loops(bench, name, path)
    figures["exact_vs_seek"] = min(figures[f"exact_vs_seek_{name}"] or 0.0 for name in SIZES)
    figures["exact_vs_sequential"] = min(figures[f"exact_vs_sequential_{name}"] or 0.0 for name in SIZES)
    return figures | _efficiency(bench, bench.folder / "720p.mp4")


def _footage(bench: Workbench, name: str, width: int, height: int) -> Path:
    """Make the file: a group of pictures is 8.3 s, so that a seek costs what it costs in a long one."""
    clip_s, num = (3, 1) if bench.quick else (20, 2) if name == "720p" else (10, 4)
    clip = make_clip(bench.folder / f"{name}-clip.mp4", width, height, clip_s)
    return repeat_clip(clip, bench.folder / f"{name}.mp4", num)


def _beside_loops(bench: Workbench, name: str, path: Path) -> Figures:
    model, info = bench.model, probe(path)
    eager = eager_embed(bench.visual, model.spec.encoder)
    engine = engine_embed(model.embed, model.spec.sampling.image_size)
    times_s = np.arange(0, info.num_frames, STRIDE) / FPS

    def score(features_ND: npt.NDArray[np.float32]) -> None:
        if len(features_ND) != len(times_s):
            raise DataError(f"{path.name}: a loop took {len(features_ND)} samples, exact scoring {len(times_s)}")
        model.score_track(features_ND, times_s, info.duration_s)

    track = score_video_file(model, path).track  # a warm-up, and the check that the samples are the same
    if not np.allclose(track.times_s, times_s, atol=1e-3):
        raise DataError(f"{path.name}: exact scoring takes other samples than every {STRIDE}th frame")

    def exact() -> None:
        score_video_file(model, path)

    seconds = time_in_turns(
        {"exact": exact, "sequential": lambda: score(sequential_loop(path, STRIDE, eager))}, 1 if bench.quick else 5
    )
    # The seek loop takes minutes, so that it runs once; noise averages out within it.
    beside = time_in_turns({"exact": exact, "seek": lambda: score(seek_loop(path, STRIDE, eager))}, 1)
    figures: Figures = {
        f"exact_vs_seek_{name}": ratio_of(beside, "seek", "exact"),
        f"exact_vs_sequential_{name}": ratio_of(seconds, "sequential", "exact"),
    }
    seconds["seek"] = beside["seek"]
    if bench.quick:
        return figures | rates(name, seconds, len(times_s))
    beside = time_in_turns(
        {
            "exact": exact,
            "seek_engine": lambda: score(seek_loop(path, STRIDE, engine)),
            "sequential_engine": lambda: score(sequential_loop(path, STRIDE, engine)),
        },
        1,
    )
    figures |= {
        f"exact_vs_seek_engine_{name}": ratio_of(beside, "seek_engine", "exact"),
        f"exact_vs_sequential_engine_{name}": ratio_of(beside, "sequential_engine", "exact"),
    }
    del beside["exact"]
    return figures | rates(name, seconds | beside, len(times_s))


def _efficiency(bench: Workbench, path: Path) -> Figures:
    """Return the share of the work-conserving bound that decoding and encoding reach together."""
    model, info = bench.model, probe(path)
    sampling = model.spec.sampling
    num = sum(1 for _ in frames_of(path, sampling))
    frames = np.random.default_rng(0).integers(
        0, 256, (BATCH_SIZE, sampling.image_size, sampling.image_size, 3), dtype=np.uint8
    )

    def encode() -> None:
        for first in range(0, num, BATCH_SIZE):
            model.embed(frames[: min(BATCH_SIZE, num - first)])

    seconds = time_in_turns(
        {
            "decode_only": lambda: sum(1 for _ in frames_of(path, sampling)),
            "encode_only": encode,
            "both": lambda: score_track_of_file(model, path, duration_s=info.duration_s),
        },
        2 if bench.quick else 5,
    )
    rounds = zip(seconds["decode_only"], seconds["encode_only"], seconds["both"], strict=True)
    efficiency = statistics.median((decode_s + encode_s) / both_s for decode_s, encode_s, both_s in rounds)
    return {"pipeline_efficiency": round(efficiency, 3), **rates("pipeline", seconds, num)}
