"""Joins the parts that `bundle` wrote and installs the wheels: `python assemble.py PARTS --into FOLDER`.

For a host without a network and without herdlight: the standard library alone. Nothing is installed unless every part
and every wheel is what the manifest says. Knows the manifest's form, which `bundle` shares.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
_CHUNK_BYTES = 1 << 20


class BundleError(Exception):
    """A bundle is not what its manifest says; the message names the file and the remedy."""


@dataclass(frozen=True)
class Part:
    """A piece of a wheel: its file's name beside the manifest, its size in bytes and its SHA-256."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A wheel: its file's name, its size in bytes, its SHA-256, and its parts in order."""

    name: str
    num_bytes: int
    sha256: str
    parts: tuple[Part, ...]


def read_manifest(folder: Path) -> tuple[Wheel, ...]:
    """Return what a bundle should hold. Raises BundleError for a manifest that is none or leaves `folder`."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BundleError(f"{path}: format {content['format']!r}, this script reads {FORMAT}; bundle again")
        wheels = tuple(_wheel_of(value) for value in content["wheels"])
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; give the folder that holds the parts") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not a bundle's manifest ({error!r}); bundle again") from None
    for name in [name for wheel in wheels for name in (wheel.name, *(part.name for part in wheel.parts))]:
        if not name or Path(name).name != name or name.startswith(".") or "\\" in name:
            raise BundleError(f"{path}: {name!r} lies outside the bundle's folder; bundle again")
    for wheel in wheels:
        if not wheel.name.endswith(".whl"):
            raise BundleError(f"{path}: {wheel.name!r} is no wheel; bundle again")
    return wheels


def join_parts(folder: Path, target: Path) -> tuple[Path, ...]:
    """Write the wheels of the bundle in `folder` into `target`; a wheel that is there and sound is left.

    Raises BundleError, with nothing half written, where a part is missing or not the one of the manifest.
    """
    wheels = read_manifest(folder)
    for part in (part for wheel in wheels for part in wheel.parts):
        _check(folder / part.name, part.num_bytes, part.sha256, "copy it again")
    target.mkdir(parents=True, exist_ok=True)
    return tuple(_join(folder, wheel, target / wheel.name) for wheel in wheels)


def install(wheels: tuple[Path, ...], into: Path | None, python: str) -> None:
    """Install wheels, with nothing fetched: into a folder for PYTHONPATH, or where `python` keeps its packages."""
    command = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--disable-pip-version-check", "--quiet"]
    target = [] if into is None else ["--upgrade", "--target", str(into)]
    done = subprocess.run([*command, *target, *map(str, wheels)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
        raise BundleError(f"pip of {python} ended with {done.returncode}: {lines[-1]}")


def main(argv: list[str] | None = None) -> int:
    """Join, check and install."""
    parser = argparse.ArgumentParser(prog="assemble.py", description=__doc__.splitlines()[0])
    parser.add_argument("parts", type=Path, help="folder with the parts and manifest.json")
    parser.add_argument("--into", type=Path, help="folder to install into, for PYTHONPATH; default: the environment")
    parser.add_argument("--wheels", type=Path, help="where the joined wheels go; default: PARTS/wheels")
    parser.add_argument("--python", default=sys.executable, help="interpreter whose pip installs")
    options = parser.parse_args(argv)
    try:
        wheels = join_parts(options.parts, options.wheels or options.parts / "wheels")
        install(wheels, options.into, options.python)
    except (BundleError, OSError) as error:
        print(f"assemble: {error}", file=sys.stderr)
        return 1
    print(f"{len(wheels)} wheels installed{f' into {options.into}' if options.into else ''}")
    return 0


def _wheel_of(value: Any) -> Wheel:
    parts = tuple(Part(str(part["name"]), int(part["num_bytes"]), str(part["sha256"])) for part in value["parts"])
    return Wheel(str(value["name"]), int(value["num_bytes"]), str(value["sha256"]), parts)


def _check(path: Path, num_bytes: int, sha256: str, remedy: str) -> None:
    digest = hashlib.sha256()
    try:
        found = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; {remedy}") from None
    if found != num_bytes or digest.hexdigest() != sha256:
        raise BundleError(f"{path}: damaged ({found} bytes, {num_bytes} expected); {remedy}")


def _join(folder: Path, wheel: Wheel, path: Path) -> Path:
    if path.is_file():
        try:
            _check(path, wheel.num_bytes, wheel.sha256, "")
            return path
        except BundleError:
            path.unlink()
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as joined:
            for part in wheel.parts:
                with (folder / part.name).open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        joined.write(chunk)
        _check(temporary, wheel.num_bytes, wheel.sha256, "the parts are not of one bundle; bundle again")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
