"""A tiny model with footage of one val and three test videos, for the ladder and what comes of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.engines import store
from models.highlighter import Highlighter
from models.manifest import VideoRow
from models.spans import Span
from models.video import SampledVideo
from tasks.ladder import LadderParams
from tasks.rungs import Footage, Model
from tests.tiny_model import SIDE, TINY

QUICK = LadderParams(
    rungs=("torchscript", "bfloat16"), batch_sizes=(4,), num_rounds=3, num_latency_runs=2, latency_budget_s=0.01,
    energy_budget_s=0, num_bootstrap=50,
)  # fmt: skip


def make_model(seed: int = 5) -> Model:
    """Return a model whose scores spread over [0, 1]."""
    torch.manual_seed(seed)
    highlighter = Highlighter(TINY).eval()
    with torch.no_grad():
        highlighter.head.classifier[2].weight.mul_(30)
    return highlighter, TINY


def make_video(seed: int, num_frames: int = 12) -> SampledVideo:
    """Return noisy frames of one light, four a second."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0, 255, (num_frames, 1, 1, 3))
    frames = np.clip(light + rng.normal(0, 30, (num_frames, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    return SampledVideo(frames, np.arange(num_frames) / 4, num_frames / 4)


def make_footage(make_row: Callable[..., VideoRow]) -> Footage:
    """Return videos of 3 s of which the first half is a highlight."""
    splits = {"b": "val", "c": "test", "d": "test", "e": "test"}
    rows = [make_row(name, split=split, duration_s=3.0, segments=(Span(0.0, 1.5),)) for name, split in splits.items()]
    videos = {name: make_video(seed) for seed, name in enumerate(splits)}
    return Footage(rows, videos.__getitem__)


def break_engine(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let engine `name` fail when it is built."""
    build = store._module_of

    class Broken:
        @staticmethod
        def build(*_arguments: object) -> None:
            raise error

    monkeypatch.setattr(store, "_module_of", lambda asked: Broken if asked == name else build(asked))
