"""Shards: what was computed of one video, in one safetensors file named by the video's id.

A shard carries the fingerprint of everything that it was computed from, so a stage that was stopped goes on where it
was and one whose inputs changed starts anew. Knows names and fingerprints; knows nothing of what the tensors mean,
except for the two readers at the end.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.errors import ModelError
from models.files import replacing
from models.video import SampledVideo

_SUFFIX = ".safetensors"
_ENTRY = "herdlight"


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that stand for `parts` (anything that JSON can hold)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def shard_path(folder: Path, video_id: str) -> Path:
    """Return where the shard of a video lies."""
    return folder / f"{video_id}{_SUFFIX}"


def write_shard(
    folder: Path, video_id: str, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write the shard of one video atomically."""
    with replacing(shard_path(folder, video_id)) as temporary:
        # safetensors writes metadata in no fixed order; one entry has only one, so that equal content is equal bytes
        entry = {_ENTRY: json.dumps(dict(metadata), sort_keys=True)}
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary, entry)


def _metadata(shard: Any) -> dict[str, str]:
    content: dict[str, str] = json.loads((shard.metadata() or {})[_ENTRY])
    return content


def read_metadata(folder: Path, video_id: str) -> dict[str, str] | None:
    """Return a shard's metadata, or None where there is no readable shard."""
    try:
        with safe_open(shard_path(folder, video_id), "numpy") as shard:
            return _metadata(shard)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def keep_only(folder: Path, fingerprints: Mapping[str, str]) -> set[str]:
    """Remove shards that are not wanted or are stale, and the traces of a kill; return the ids that are up to date.

    fingerprints: the wanted fingerprint of each video id
    """
    folder.mkdir(parents=True, exist_ok=True)
    current = set()
    for path in folder.iterdir():
        metadata = read_metadata(folder, path.stem) if path.suffix == _SUFFIX and path.stem in fingerprints else None
        if metadata is not None and metadata.get("fingerprint") == fingerprints[path.stem]:
            current.add(path.stem)
        else:
            path.unlink()
    return current


def read_tensors(
    folder: Path, video_id: str, names: Iterable[str]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the named tensors of a shard and its metadata. Raises ModelError where it is missing or damaged."""
    path = shard_path(folder, video_id)
    try:
        with safe_open(path, "numpy") as shard:
            return {name: shard.get_tensor(name) for name in names}, _metadata(shard)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: shard is missing or damaged ({error}); run `dvc repro` again") from None


def read_frames_shard(folder: Path, video_id: str) -> SampledVideo:
    """Return the sampled frames of a video as stage `frames` stored them."""
    tensors, metadata = read_tensors(folder, video_id, ("frames", "times_s"))
    return SampledVideo(tensors["frames"], tensors["times_s"], float(metadata["duration_s"]))
