"""The cascade against the exact mode: how much faster, and which of its highlights are found.

    cascade_vs_exact      time of the exact mode over that of the cascade, one after the other on the same film
    cascade_recall        share of the seconds of the exact mode's highlights that lie in the cascade's
    cascade_decoded_share share of the film that the cascade decodes in full
    cascade_…_real        the same for real videos, all together

An hour of 720p is put together from the sample's test clips so that the exact mode marks a twentieth of it: clips with
highlights, and between them clips in which it marks nothing. The same is measured, without any such choice, on the
real videos in ../shared where they are there; the model was not made for those, so that its highlights there are
whatever it takes for one, many and uncertain, which is the harder case.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.long_footage import Packets, encode_clips, write_film
from benchmarks.results_file import ROOT
from models.cascade import CascadeParams, covered
from models.errors import DataError, VideoError
from models.served import ServedModel, load_served
from models.spans import ScoreTrack, Span, spans_above, total_duration_s
from models.video import Sampling, frames_of, probe
from tasks.score_cascade import CascadeResult, Looker, cascade_track
from tasks.score_stream import stream_track

FPS = 2.0
_HIGHLIGHT_SHARE = 0.05
_HOUR_S, _QUICK_S = 3600.0, 120.0
_ROUNDS = 1  # of the hour, which takes minutes: the machine's noise averages out within it
_REAL = ("wildlife/*.*", "general/*.mp4", "camera_trap/*.*", "tvsum/video_3fps/*.mp4")


@dataclass(frozen=True)
class Comparison:
    """Both modes on one video, seconds; `found` and `truth` are their highlights."""

    duration_s: float
    exact_s: float
    cascade_s: float
    found: Sequence[Span]
    truth: Sequence[Span]
    decoded_s: float


def compare_modes(model: ServedModel, path: Path, params: CascadeParams) -> Comparison:
    """Return what both modes take and find on a video. Raises VideoError where it cannot be read."""
    sampling = dataclasses.replace(model.spec.sampling, fps=FPS)
    duration_s = probe(path).duration_s
    started = time.monotonic()
    track = _exact(model, path, sampling, duration_s)
    between = time.monotonic()
    result: CascadeResult = cascade_track(Looker(model, path, sampling, duration_s), model.spec.threshold, params)
    cascade_s = time.monotonic() - between
    found, truth = _highlights(model, result.track), _highlights(model, track)
    return Comparison(duration_s, between - started, cascade_s, found, truth, result.decoded_s)


class Bench(Protocol):
    """What this part reads of the workbench of `benchmarks.scoring`."""

    @property
    def quick(self) -> bool: ...


def measure(bench: Bench) -> dict[str, float | None]:
    """Return the figures of this part."""
    return measure_cascade(ROOT.parent / "shared", bench.quick)


def measure_cascade(shared: Path, quick: bool) -> dict[str, float | None]:
    """Return the figures. Raises DataError where the sample or its model is missing."""
    folder, clips = ROOT / "build" / "compile" / "model", ROOT / "data" / "videos" / "test"
    if not (folder / "model.json").is_file() or not clips.is_dir():
        raise DataError("cascade skipped: needs data/ and build/compile/model; run `make run` first")
    model, params = load_served(folder), CascadeParams()
    paths = sorted(path for path in clips.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="herdlight-cascade-") as scratch:
        film, share = make_film(model, paths[:: 4 if quick else 1], _QUICK_S if quick else _HOUR_S, Path(scratch))
        rounds = [compare_modes(model, film, params) for _ in range(1 if quick else _ROUNDS)]
    ratios = [found.exact_s / found.cascade_s for found in rounds]
    figures: dict[str, float | None] = {
        "cascade_vs_exact": float(np.median(ratios)),
        "cascade_recall": covered(rounds[0].found, rounds[0].truth),
        "cascade_precision": covered(rounds[0].truth, rounds[0].found),
        "cascade_decoded_share": rounds[0].decoded_s / rounds[0].duration_s,
        "cascade_film_s": rounds[0].duration_s,
        "cascade_film_highlight_share": share,
        "cascade_realtime": rounds[0].duration_s / float(np.median([found.cascade_s for found in rounds])),
    }
    return figures | _real_figures(model, shared / "data", params, quick)


def _real_figures(model: ServedModel, data: Path, params: CascadeParams, quick: bool) -> dict[str, float | None]:
    paths = [path for pattern in _REAL for path in sorted(data.glob(pattern)) if path.suffix not in (".csv", ".npz")]
    found = []
    for path in paths[:: 16 if quick else 1]:
        try:
            found.append(compare_modes(model, path, params))
        except VideoError:
            continue  # counted below by its absence
    if not found:
        return {}
    truth_s = sum(total_duration_s(one.truth) for one in found)
    shared_s = sum(covered(one.found, one.truth) * total_duration_s(one.truth) for one in found if one.truth)
    return {
        "cascade_vs_exact_real": sum(one.exact_s for one in found) / sum(one.cascade_s for one in found),
        "cascade_recall_real": shared_s / truth_s if truth_s else None,
        "cascade_decoded_share_real": sum(one.decoded_s for one in found) / sum(one.duration_s for one in found),
        "cascade_num_real": len(found),
    }


def make_film(model: ServedModel, paths: Sequence[Path], length_s: float, scratch: Path) -> tuple[Path, float]:
    """Return a film of about `length_s` and the share of it that the exact mode marked in the clips it is made of."""
    template, clips = encode_clips(paths, scratch)
    duration_s = sum(clip.duration_s for clip in clips)
    marked = _highlights(model, _exact(model, template, dataclasses.replace(model.spec.sampling, fps=FPS), duration_s))
    start_s = 0.0
    good: list[tuple[Packets, float]] = []
    quiet: list[tuple[Packets, float]] = []
    for clip in clips:
        inside = [Span(start_s, start_s + clip.duration_s)]
        marked_s = covered(marked, inside) * clip.duration_s
        (good if marked_s else quiet).append((clip, marked_s))
        start_s += clip.duration_s
    if not good or not quiet:
        raise DataError("cascade skipped: the model marks all of the test clips, or none")
    film = scratch / "film.mp4"
    chosen, share = _arrange(good, quiet, length_s)
    write_film(template, chosen, film)
    return film, share


def _arrange(
    good: Sequence[tuple[Packets, float]], quiet: Sequence[tuple[Packets, float]], length_s: float
) -> tuple[list[Packets], float]:
    """Return clips in a drawn order, a good one whenever less than the wanted share was marked so far."""
    draw = np.random.default_rng(0)
    chosen: list[Packets] = []
    total_s = total_marked_s = 0.0
    while total_s < length_s:
        pool = good if total_marked_s < _HIGHLIGHT_SHARE * total_s else quiet
        clip, marked_s = pool[int(draw.integers(len(pool)))]
        chosen.append(clip)
        total_s, total_marked_s = total_s + clip.duration_s, total_marked_s + marked_s
    return chosen, total_marked_s / total_s


def _exact(model: ServedModel, path: Path, sampling: Sampling, duration_s: float) -> ScoreTrack:
    return stream_track(model, frames_of(path, sampling), name=path.name, duration_s=lambda: duration_s)


def _highlights(model: ServedModel, track: ScoreTrack) -> list[Span]:
    spec = model.spec
    return spans_above(track, spec.threshold, min_duration_s=spec.min_duration_s, merge_gap_s=spec.merge_gap_s)
