"""Lightning checkpoints without pickle: every tensor in one safetensors file, everything else as JSON beside it.

A checkpoint `NAME` is the folder NAME with `tensors.safetensors` and `state.json`. Knows nested dictionaries, lists,
tuples, numbers, strings, None and tensors; anything else is refused when it is written, not when it is needed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import models.torchvision_operators  # noqa: F401  # isort: skip  (before lightning)
from lightning.fabric.plugins import CheckpointIO

from models.errors import ModelError
from models.files import read_json, replacing_folder, write_json

_TENSORS, _STATE = "tensors.safetensors", "state.json"


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, its tensors moved into `tensors`. Raises ModelError for what neither can hold."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    raise ModelError(f"checkpoint: a {type(value).__name__} cannot be stored without pickle")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `pack` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


class SafeCheckpointIO(CheckpointIO):
    """Lightning's way to disk, with nothing on it that runs when it is read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` as the folder `path`, atomically."""
        tensors: dict[str, Tensor] = {}
        with replacing_folder(Path(path)) as folder:
            write_json(folder / _STATE, pack(checkpoint, tensors))
            save_file(tensors, folder / _TENSORS)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint in folder `path`. Raises ModelError where it is missing or damaged."""
        try:
            tensors = load_file(Path(path) / _TENSORS)
            checkpoint: dict[str, Any] = unpack(read_json(Path(path) / _STATE), tensors)
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError, ValueError) as error:
            raise ModelError(f"{path}: checkpoint is missing or damaged ({error}); remove it to start anew") from None
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the folder `path`."""
        shutil.rmtree(path, ignore_errors=True)
