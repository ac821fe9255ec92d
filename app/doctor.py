"""What this machine can do: checks that look and change nothing, each with what to do about what is missing.

A check contacts only servers that the environment names (and Prefect's local default), with a short timeout, and
creates no file. Knows nothing of how a check is shown but the table at the end.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.check import Check, http_problem
from models.cores import usable_cores

MIN_FREE_GB = 2.0
MIN_MEMORY_GB = 4.0
SUPPORTED_PYTHON = ((3, 11), (3, 12))
CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mpeg4": "mpeg4"}
_GB = 1e9


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Return whether this Python is one that herdlight supports."""
    found = f"{platform.python_version()} at {sys.prefix}"
    if running in SUPPORTED_PYTHON:
        return Check("Python", True, found, required=True)
    wanted = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHON)
    return Check("Python", False, found, f"use Python {wanted}, then run make again", required=True)


def check_cores() -> Check:
    """Return how many cores this process may use."""
    return Check("cores", True, f"{usable_cores()} of {os.cpu_count()}, {platform.machine()}")


def check_memory(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> Check:
    """Return how much memory there is: the machine's, or the limit of its container."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file outside containers, "max" without a limit
        size = min(size, int(cgroup.read_text()))
    remedy = "" if size / _GB >= MIN_MEMORY_GB else f"training wants {MIN_MEMORY_GB:.0f} GB; lower embed.views"
    return Check("memory", not remedy, f"{size / _GB:.1f} GB", remedy)


def check_disk(root: Path) -> Check:
    """Return how much room there is beside `root`."""
    free_gb = shutil.disk_usage(root).free / _GB
    remedy = "" if free_gb >= MIN_FREE_GB else f"free {MIN_FREE_GB:.0f} GB: `dvc gc -w` drops old results"
    return Check("disk", not remedy, f"{free_gb:.1f} GB free", remedy)


def check_gpu(devices: Path = Path("/dev")) -> Check:
    """Return whether torch sees a GPU, and if not, why that may be."""
    torch, why = _import("torch")
    if torch is None:
        return Check("GPU", False, why, "run make to install the pinned packages")
    if torch.cuda.is_available():
        return Check("GPU", True, f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    if any(devices.glob("nvidia[0-9]*")) or shutil.which("nvidia-smi"):
        kind = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        detail = f"a GPU is here, but torch {torch.__version__} is {kind}"
        return Check("GPU", False, detail, "install the torch that fits its driver")
    return Check("GPU", False, "none; everything runs on the processor", "none needed for the sample data")


def check_torch() -> Check:
    """Return whether torch can be imported."""
    torch, why = _import("torch")
    if torch is None:
        return Check("torch", False, why, "run make to install the pinned packages", required=True)
    return Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads", required=True)


def check_engines() -> list[Check]:
    """Return a check for every engine that stage compile knows."""
    checks = []
    torch, why = _import("torch")
    for name in ("eager-bf16", "torchscript"):
        detail = why if torch is None else f"runs, torch {torch.__version__}"
        checks.append(_engine(name, torch is not None, detail, "run make to install the pinned packages"))
    for name, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        module, why = _import(package)
        detail = why if module is None else f"runs, {package} {version(package)}"
        checks.append(_engine(name, module is not None, detail, f"pip install -c constraints.txt {package}"))
    checks.append(_check_tensorrt(bool(torch and torch.cuda.is_available())))
    return checks


def _engine(name: str, ok: bool, detail: str, remedy: str) -> Check:
    return Check(f"engine {name}", ok, detail, "" if ok else remedy)


def _check_tensorrt(has_gpu: bool) -> Check:
    if has_gpu and importlib.util.find_spec("torch_tensorrt"):
        return _engine("tensorrt", True, "runs, torch_tensorrt", "")
    module, why = _import("tensorrt_rtx")
    if module is None:
        extra = "cuda" if has_gpu else "tensorrt"
        return _engine("tensorrt", False, why, f"pip install -c constraints.txt 'herdlight[{extra}]'")
    runs = "runs" if has_gpu else "builds ahead of time; it runs only where there is an NVIDIA GPU"
    return _engine("tensorrt", True, f"{runs}, tensorrt_rtx {version('tensorrt_rtx')}", "")


def check_ffmpeg() -> list[Check]:
    """Return the FFmpeg inside PyAV, and for every codec of interest what decodes and encodes it."""
    av, why = _import("av")
    if av is None:
        return [Check("FFmpeg", False, why, "run make to install the pinned packages", required=True)]
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    checks = [Check("FFmpeg", True, f"libavcodec {library} inside PyAV {av.__version__}", required=True)]
    for name, encoder in CODECS.items():
        decodes, encodes = _codec(av, name, "r"), _codec(av, encoder, "w")
        detail = f"decodes with {decodes or 'nothing'}, encodes with {encodes or 'nothing'}"
        remedy = "" if decodes else "pip install -c constraints.txt --only-binary av av"
        checks.append(Check(f"codec {name}", bool(decodes), detail, remedy, required=True))
    return checks


def _codec(av: Any, name: str, mode: str) -> str:
    try:
        return str(av.Codec(name, mode).name)
    except av.codec.codec.UnknownCodecError:
        return ""


def check_data(root: Path) -> Check:
    """Return whether the data that data.dvc tracks has been pulled, by the number of its files."""
    pointer, folder = root / "data.dvc", root / "data"
    try:
        out = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]
        wanted = int(out.get("nfiles", 1))
    except FileNotFoundError:
        has_videos = (folder / "videos").is_dir()
        detail = "data/ is here, but not tracked" if has_videos else "no data.dvc here"
        return Check("data", False, detail, "dvc add data" if has_videos else "run herdlight in its repository")
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        return Check(
            "data", False, f"data.dvc is not readable: {' '.join(str(error).split())}", "git checkout data.dvc"
        )
    found = sum(len(files) for _, _, files in os.walk(folder))
    detail = f"{found} of {wanted} files in data/"
    if found == wanted:
        return Check("data", True, detail)
    return Check("data", False, detail, "dvc pull" if found < wanted else "dvc add data, or dvc checkout to go back")


def check_prefect(environ: Mapping[str, str]) -> Check:
    """Return whether a Prefect server answers at $PREFECT_API_URL, or at its local default."""
    url = environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    problem = http_problem(f"{url.rstrip('/')}/health")
    if not problem:
        return Check("Prefect server", True, url)
    needed = "needed only for schedules: prefect server start"
    return Check("Prefect server", False, f"{url}: {problem}", needed)


def check_energy(powercap: Path = Path("/sys/class/powercap")) -> Check:
    """Return whether energy can be read from the processor's counters (RAPL) or will be estimated."""
    counters = sorted(powercap.glob("*/energy_uj"))
    if not counters:
        return Check("energy counters", False, "no RAPL here", "none: energy is estimated from load, and marked so")
    if not any(os.access(counter, os.R_OK) for counter in counters):
        return Check("energy counters", False, "RAPL is not readable", f"sudo chmod a+r {powercap}/*/energy_uj")
    return Check("energy counters", True, f"RAPL, {len(counters)} counters")


def _import(name: str) -> tuple[ModuleType | Any, str]:
    """Return the module, or None and why it cannot be imported: absent, or its libraries do not load."""
    if importlib.util.find_spec(name) is None:
        return None, f"{name} is not installed"
    try:
        return importlib.import_module(name), ""
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"{name} cannot be imported: {' '.join(str(error).split())}"


def all_checks(root: Path, environ: Mapping[str, str]) -> list[Check]:
    """Return every check, for the repository at `root`."""
    from app.doctor_registry import check_champion, check_tracking

    tracking = check_tracking(root)
    return [
        check_python(),
        check_cores(),
        check_memory(),
        check_disk(root),
        check_torch(),
        check_gpu(),
        *check_engines(),
        *check_ffmpeg(),
        check_data(root),
        tracking,
        check_champion(root, tracking),
        check_prefect(environ),
        check_energy(),
    ]


def print_checks(checks: list[Check], console: Console, *, as_json: bool) -> None:
    """Print the checks as a table for people, or as a JSON list."""
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2, ensure_ascii=False))
        return
    table = Table(show_edge=False)
    for name in ("what", "", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("missing", "bold red" if check.required else "yellow")
        table.add_row(Text(check.name), mark, Text(check.detail), Text(check.remedy))
    console.print(table)
    missing = [check.name for check in checks if check.required and not check.ok]
    console.print(Text(f"required and missing: {', '.join(missing)}" if missing else "everything required is here"))
