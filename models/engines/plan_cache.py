"""Plans that were built before, and TensorRT's timings of kernels, kept for the next build on the same GPU.

Only a build for the GPU that is there takes minutes, so only those are kept, in the folder HERDLIGHT_CACHE or else in
the user's cache. A plan is found by what it was made of: the graph, TensorRT and its version, the GPU's capability. A
file that is damaged is built again. Knows bytes and their hashes; knows nothing of TensorRT.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from models.files import hash_file, write_bytes

_log = logging.getLogger(__name__)
_DIGEST_BYTES = hashlib.sha256().digest_size


def plan_key(graph: Path, *facts: str) -> str:
    """Return the key of a plan: of the files that begin with the graph's name, and what else it depends on."""
    files = sorted(graph.parent.glob(f"{graph.name}*"))
    parts = [*(f"{file.name}={hash_file(file)}" for file in files), *facts]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cached_plan(key: str, make: Callable[[], bytes]) -> bytes:
    """Return the plan that is kept under `key`, or what `make` gives, which is kept from then on."""
    path = _folder() / "plans" / f"{key}.plan"
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    plan = content[_DIGEST_BYTES:]
    if plan and hashlib.sha256(plan).digest() == content[:_DIGEST_BYTES]:
        return plan
    if content:
        _log.warning("%s: damaged; the engine is built again", path.name)
    plan = make()
    try:
        write_bytes(path, hashlib.sha256(plan).digest() + plan)
    except OSError as error:
        _log.warning("%s: not kept for the next time: %s", path.name, error.strerror)
    return plan


def timing_cache(package: str, version: str, capability: str) -> Path:
    """Return where TensorRT's timings are kept, one file for each TensorRT and GPU."""
    return _folder() / "timings" / f"{package}-{version}-{capability}.bin"


def _folder() -> Path:
    given = os.environ.get("HERDLIGHT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "herdlight"
