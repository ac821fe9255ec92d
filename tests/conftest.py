"""Shared by all tests: quiet libraries, pickle loading switched off, small data that is made and never fetched."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from tasks.shell import quiet_environment

# The same examples in every run, however slow the machine: what turns red is then the change at hand. New examples are
# drawn by `HYPOTHESIS_PROFILE=search make test`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

quiet_environment()
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in its background so, and its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put flows last, and before them the file that takes as long as they do, so that processes end together.

    Prefect's threads outlive the flows that they served: they draw random numbers, which Hypothesis sees, and what they
    have for the end of their process fails in each process that is forked from it (Prefect 3.8).
    """
    items.sort(key=lambda item: (item.path.parent.name == "flows", item.path.name == "test_whole_dag.py"))


@pytest.fixture(autouse=True)
def no_pickle_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every way of loading a pickle that a model or an array could take an error."""
    import pickle

    import torch

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("something loads a pickle")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.serialization, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(np.lib.format, "pickle", None, raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real footage beside the repository, or skip."""
    if not SHARED.is_dir():
        pytest.skip("../shared is missing")
    return SHARED


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Any]:
    """Return a function that makes a manifest row, with what a test cares about replaced."""
    from models.manifest import VideoRow
    from models.spans import Span

    def make(video_id: str, **changes: Any) -> VideoRow:
        values: dict[str, Any] = {
            "video_id": video_id, "path": f"train/good/{video_id}.mp4", "split": "train", "folder": "good",
            "group": video_id, "content": "bathing", "caption": "an elephant bathes", "captions": (),
            "segments": (Span(1.0, 2.0),), "duration_s": 4.0, "start_pts_s": 0.0, "num_frames": 100, "mean_fps": 25.0,
            "nominal_fps": 25.0, "is_vfr": False, "width": 64, "height": 48, "rotation_deg": 0, "codec": "h264",
            "pix_fmt": "yuv420p", "container": "mov,mp4,m4a,3gp,3g2,mj2", "has_audio": False, "num_bytes": 1000,
        }  # fmt: skip
        return VideoRow(**{**values, **changes})

    return make
