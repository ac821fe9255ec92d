"""A real served model, tiny and untrained, in a folder: what a process that scores loads."""

from pathlib import Path

import torch

from models.engines import build_engine
from models.highlighter import Highlighter
from models.served import save_served
from tests.tiny_model import SIDE, TINY_WITHOUT_TIME


def make_served(folder: Path) -> Path:
    """Write a served model into `folder` and return its folder."""
    torch.manual_seed(3)
    highlighter = Highlighter(TINY_WITHOUT_TIME).eval()
    build_engine("eager", highlighter.tower, folder / "engine", SIDE, "float32")
    save_served(folder / "model", folder / "engine", highlighter.head, TINY_WITHOUT_TIME)
    return folder / "model"
