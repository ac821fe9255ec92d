"""What the parts of `benchmarks.scoring` share: the model under test, a folder to work in, and timing in turns.

The model is CLIP's ViT-B/32 with random weights behind a time-aware head: speed and memory do not depend on what the
weights are, and no trained ones are within reach. Its tower is served as an OpenVINO engine in bfloat16.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.encoder import EncoderParams, EncoderSpec, image_tower, untrained_encoder
from models.engines import build_engine
from models.highlighter import HighlighterSpec, build_head
from models.served import ServedModel, load_served, save_served
from models.tower import Tower
from models.video import Sampling

ENCODER, ENGINE, PRECISION = "ViT-B-32", "openvino", "bfloat16"
STRIDE = 5  # of the notebook, frames
HIDDEN_DIM, WINDOW = 512, 16


@dataclass(frozen=True, eq=False)
class Workbench:
    """What every part works with.

    folder: for footage and models, emptied at the end
    quick:  shorter footage and fewer rounds
    model:  the served model, sampling `STRIDE`-th frames of 30 a second
    served: its folder
    visual: its image tower in float32 PyTorch: normalised pixels to features
    """

    folder: Path
    quick: bool
    model: ServedModel
    served: Path
    visual: nn.Module


def set_up(folder: Path, *, quick: bool, fps: float) -> Workbench:
    """Build the model into `folder`; it samples `fps` frames a second."""
    torch.manual_seed(0)
    spec = highlighter_spec(fps)
    visual = image_tower(spec.encoder).eval().requires_grad_(False)
    build_engine(ENGINE, Tower(spec.encoder, 0, visual), folder / "engine", spec.encoder.image_size, PRECISION)
    save_served(folder / "model", folder / "engine", build_head(spec), spec)
    return Workbench(folder, quick, load_served(folder / "model"), folder / "model", visual)


def highlighter_spec(fps: float) -> HighlighterSpec:
    """Return the spec of the model under test, sampling `fps` frames a second, centre crops."""
    encoder: EncoderSpec = untrained_encoder(EncoderParams(name=ENCODER, pretrained=None), seed=0)[1]
    sampling = Sampling(fps, encoder.image_size, "crop")
    return HighlighterSpec(encoder, sampling, 0, "transformer", HIDDEN_DIM, WINDOW)


def time_in_turns(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the wall seconds of each of `works`, run in turn for `rounds` rounds: what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio_of(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Return how many times faster `fast` is than `slow`: the median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)), 3)


def rates(prefix: str, seconds: Mapping[str, list[float]], num_samples: int) -> dict[str, float | None]:
    """Return samples a second of each work, of the median round, with the slowest and fastest round beside it."""
    found: dict[str, float | None] = {}
    for name, values in seconds.items():
        found[f"{prefix}_{name}_samples_per_s"] = round(num_samples / statistics.median(values), 2)
        found[f"{prefix}_{name}_samples_per_s_min"] = round(num_samples / max(values), 2)
        found[f"{prefix}_{name}_samples_per_s_max"] = round(num_samples / min(values), 2)
    return found
