"""A real served model, tiny and untrained, and small videos to score with it."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a served model: eager engine, 32 px, random weights, threshold 0.5."""
    from models.encoder import EncoderSpec
    from models.engines import build_engine
    from models.highlighter import HighlighterSpec, build_head
    from models.served import save_served
    from models.tower import Tower
    from models.video import Sampling

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    }
    torch.manual_seed(0)
    encoder = EncoderSpec("tiny", None, config, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    spec = HighlighterSpec(encoder, Sampling(4.0, 32), 1, "none", 8, 16, threshold=0.5)
    folder = tmp_path_factory.mktemp("served")
    build_engine("eager", Tower(encoder, 1), folder / "engine", 32, "float32")
    save_served(folder / "model", folder / "engine", build_head(spec), spec)
    return folder / "model"


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Return a function that writes a short H.264 video of one colour that slowly changes."""

    def make(path: Path, *, seconds: float = 2.0, fps: int = 10, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(round(seconds * fps)):
                pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make
