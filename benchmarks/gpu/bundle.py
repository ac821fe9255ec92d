"""Gathers the wheels for a GPU host without a network: `python -m benchmarks.gpu.bundle FOLDER`.

The host brings Python 3.12 and torch 2.11 for CUDA with what such installations hold (numpy, onnx, onnxscript,
onnxruntime, timm, safetensors). What is missing there comes from the package registry, pinned by constraints.txt, and
is cut into parts small enough to be carried. `assemble.py` puts it together again. Run again, it finishes to the same.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.assemble import FORMAT, MANIFEST, BundleError, Part, Wheel
from benchmarks.results_file import ROOT
from models.files import hash_file, write_bytes, write_json

PART_BYTES = 48 << 20
PYTHON = "3.12"
# torch_tensorrt goes with torch 2.11, which herdlight itself does not pin.
_OWN_PINS = {"torch-tensorrt-rtx": "2.11.0", "dllist": "2.0.0"}
_PINNED = ("open_clip_torch", "ftfy", "wcwidth", "pydantic", "pydantic_core", "annotated-types", "typing-inspection")
_TENSORRT = ("tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu13_libs")
_SOURCE_ONLY = ("tensorrt_rtx", "tensorrt_rtx_cu13")  # the registry holds no wheel: a few lines of Python
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def requirements(constraints: str) -> tuple[list[str], list[str]]:
    """Return what is downloaded as wheels and what is built from source, pinned as `constraints` (a file's text) say.

    Raises BundleError for a package without a pin.
    """
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", constraints, re.MULTILINE))
    by_name = {_plain(name): version for name, version in {**pins, **_OWN_PINS}.items()}
    missing = [name for name in (*_PINNED, *_TENSORRT, *_SOURCE_ONLY) if _plain(name) not in by_name]
    if missing:
        raise BundleError(f"constraints.txt: no version of {missing[0]}")
    wheels, sources = (
        [f"{name}=={by_name[_plain(name)]}" for name in names]
        for names in ((*_PINNED, *_OWN_PINS, *_TENSORRT), _SOURCE_ONLY)
    )
    return wheels, sources


def split_wheels(wheels: list[Path], folder: Path, part_bytes: int = PART_BYTES) -> tuple[Wheel, ...]:
    """Write the parts of `wheels` and, last, the manifest into `folder`; other files there stay.

    part_bytes: largest size of a part, at least 1
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # until all parts are there it is no bundle
    found = tuple(_split(wheel, folder, part_bytes) for wheel in sorted(wheels, key=lambda path: path.name))
    values = [
        {
            "name": wheel.name,
            "num_bytes": wheel.num_bytes,
            "sha256": wheel.sha256,
            "parts": [vars(part) for part in wheel.parts],
        }
        for wheel in found
    ]
    write_json(folder / MANIFEST, {"format": FORMAT, "python": PYTHON, "wheels": values})
    return found


def download(target: Path) -> list[Path]:
    """Fetch or build the wheels into `target` and return them. Raises BundleError where pip cannot."""
    wheels, sources = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    pip = [sys.executable, "-m", "pip"]
    for_host = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
    platforms = [argument for name in _PLATFORMS for argument in ("--platform", name)]
    for command in (
        [*pip, "download", "--quiet", "--no-deps", *for_host, *platforms, "--dest", str(target), *wheels],
        [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), *sources],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise BundleError(f"pip {command[3]}: {lines[-1] if lines else done.stderr.strip()[-300:]}")
    return sorted(target.glob("*.whl"))


def main(argv: list[str] | None = None) -> int:
    """Download, cut, and tell the size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.bundle", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the parts go")
    folder = parser.parse_args(argv).folder
    try:
        with tempfile.TemporaryDirectory(prefix="herdlight-") as scratch:
            wheels = split_wheels(download(Path(scratch)), folder)
        write_bytes(folder / "assemble.py", Path(__file__).with_name("assemble.py").read_bytes())
    except (BundleError, OSError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    total = sum(wheel.num_bytes for wheel in wheels)
    num_parts = sum(len(wheel.parts) for wheel in wheels)
    print(f"{len(wheels)} wheels, {total / 1e6:.1f} MB, in {num_parts} parts of at most {PART_BYTES >> 20} MiB")
    return 0


def _split(wheel: Path, folder: Path, part_bytes: int) -> Wheel:
    parts: list[Part] = []
    with wheel.open("rb") as file:
        while (content := file.read(part_bytes)) or not parts:
            name = f"{wheel.name}.{len(parts):03d}"
            write_bytes(folder / name, content)
            parts.append(Part(name, len(content), hashlib.sha256(content).hexdigest()))
    return Wheel(wheel.name, wheel.stat().st_size, hash_file(wheel), tuple(parts))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
