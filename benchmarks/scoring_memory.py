"""Memory of scoring: a ten-hour file beside a one-minute file, each in a process of its own.

    memory_ratio   most memory resident over the long file, over that of the short one, by the same call
    peak_gib       the largest of all processes, GiB; one of them scores at a higher rate in full batches

`python -m benchmarks.scoring_memory MODEL FILE OUT BATCH` is such a process: it scores FILE as `herdlight score` does,
results written, and prints the most memory that it has had resident, in MB. The model under test samples so sparsely
that ten hours take minutes, in batches so small that the minute fills one too. What grows with the length of a file is
the index of its packets and the track, so the footage is small pictures: the decoder's own need is measured by
the process at the higher rate, on the 720p file.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.results_file import ROOT
from benchmarks.scoring_bench import Workbench, highlighter_spec
from benchmarks.scoring_footage import make_clip, repeat_clip
from models.errors import DataError
from models.highlighter import build_head
from models.served import save_served
from tasks.footage import list_footage
from tasks.resident import peak_mb
from tasks.score import score_video_file
from tasks.scored_files import ModelIdentity, write_video

WIDTH, HEIGHT, CLIP_S, CLIP_FPS = 160, 120, 60, 10
SPARSE_FPS, SMALL_BATCH, FULL_BATCH = 0.2, 4, 32
LONG_CLIPS, QUICK_CLIPS = 600, 5  # of a minute each: ten hours, or five minutes
Figures = dict[str, float | None]


def measure(bench: Workbench) -> Figures:
    """Return the figures of memory, and the length of the long file."""
    clip = make_clip(bench.folder / "minute.mp4", WIDTH, HEIGHT, CLIP_S, CLIP_FPS)
    num = QUICK_CLIPS if bench.quick else LONG_CLIPS
    long = repeat_clip(clip, bench.folder / "long.mp4", num)
    sparse = bench.folder / "sparse"
    spec = highlighter_spec(SPARSE_FPS)
    save_served(sparse, bench.served, build_head(spec), spec)
    full = bench.folder / "720p.mp4"
    if not full.is_file():
        full = make_clip(full, 1280, 720, 4)
    short_mb = _peak_mb(bench, sparse, clip, SMALL_BATCH)
    long_mb = _peak_mb(bench, sparse, long, SMALL_BATCH)
    full_mb = _peak_mb(bench, bench.served, full, FULL_BATCH)
    return {
        "memory_ratio": round(long_mb / short_mb, 4),
        "peak_gib": round(max(short_mb, long_mb, full_mb) * 1e6 / 2**30, 4),
        "memory_short_mb": short_mb,
        "memory_long_mb": long_mb,
        "memory_full_batches_mb": full_mb,
        "memory_long_hours": round(num * CLIP_S / 3600, 4),
    }


def _peak_mb(bench: Workbench, model: Path, video: Path, batch_size: int) -> float:
    out = bench.folder / f"out-{video.stem}"
    command = [sys.executable, "-m", "benchmarks.scoring_memory", str(model), str(video), str(out), str(batch_size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{video.name}: the measured process failed: {done.stderr.strip().splitlines()[-1:]}")
    return round(float(done.stdout.split()[-1]), 1)


def main(argv: list[str]) -> None:
    """Score one file and print the memory."""
    from models.ensemble import load_scorer

    folder, video, out, batch_size = Path(argv[0]), Path(argv[1]), Path(argv[2]), int(argv[3])
    out.mkdir()
    scored = score_video_file(load_scorer(folder), video, batch_size=batch_size)
    [item] = list_footage([video])
    write_video(item, "0" * 16, video.stem, out, scored, ModelIdentity("benchmark", "", ""))
    print(peak_mb() or "nan")


if __name__ == "__main__":
    main(sys.argv[1:])
