"""The bundle for a GPU host: cut, joined and installed again, and nothing of a bundle that is not what it says."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu import assemble
from benchmarks.gpu.assemble import MANIFEST, BundleError, join_parts, read_manifest
from benchmarks.gpu.bundle import PART_BYTES, requirements, split_wheels

ROOT = Path(__file__).resolve().parents[1]


def make_wheel(folder: Path, name: str = "herd_of_one") -> Path:
    """Return the smallest wheel that pip installs."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "ELEPHANTS = 1\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    wheels = [make_wheel(tmp_path / "wheels"), make_wheel(tmp_path / "wheels", "a_second")]
    split_wheels(wheels, tmp_path / "bundle", 100)
    return tmp_path / "bundle"


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=400), part_bytes=st.integers(1, 500))
def test_joined_is_what_was_cut(content: bytes, part_bytes: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "x.whl").write_bytes(content)
    (wheel,) = split_wheels([folder / "x.whl"], folder / "parts", part_bytes)
    assert all(part.num_bytes <= part_bytes for part in wheel.parts)
    assert len(wheel.parts) == max(1, -(-len(content) // part_bytes))
    (joined,) = join_parts(folder / "parts", folder / "joined")
    assert joined.read_bytes() == content


def test_it_installs_without_herdlight_and_without_a_network(bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "assemble.py"
    script.write_bytes(Path(assemble.__file__).read_bytes())
    command = [sys.executable, "-I", str(script), str(bundle), "--into", str(tmp_path / "site")]
    environment = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 wheels installed" in done.stdout
    assert (tmp_path / "site" / "herd_of_one.py").read_text() == "ELEPHANTS = 1\n"
    assert (tmp_path / "site" / "a_second.py").is_file()


@pytest.mark.parametrize("harm", ["remove", "shorten", "flip", "swap"])
def test_a_part_that_is_missing_or_damaged_is_named(harm: str, bundle: Path, tmp_path: Path) -> None:
    part, other = sorted(bundle.glob("herd*.00[12]"))
    content = part.read_bytes()
    if harm == "remove":
        part.unlink()
    else:
        harmed = {"shorten": content[:-1], "flip": content[:-1] + bytes([content[-1] ^ 1]), "swap": other.read_bytes()}
        part.write_bytes(harmed[harm])
    with pytest.raises(BundleError, match=f"{part.name}: .*copy it again") as told:
        join_parts(bundle, tmp_path / "joined")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "joined").exists()


def test_parts_of_two_bundles_are_not_mixed(bundle: Path, tmp_path: Path) -> None:
    """Every part is sound, and the wheel is not: the manifest's own order was changed."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["wheels"][0]["parts"].reverse()
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not of one bundle"):
        join_parts(bundle, tmp_path / "joined")
    assert not list((tmp_path / "joined").iterdir())


@pytest.mark.parametrize("name", ["../../secret.whl", "/etc/x.whl", "a/b.whl", "..\\x.whl", ".hidden.whl", "", ".."])
@pytest.mark.parametrize("what", ["wheel", "part"])
def test_a_path_that_leaves_the_folder_is_refused(name: str, what: str, bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    place = manifest["wheels"][0] if what == "wheel" else manifest["wheels"][0]["parts"][0]
    place["name"] = name
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside the bundle's folder"):
        join_parts(bundle, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "wheels": []}', "\x00"])
def test_another_manifest_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match="bundle again"):
        read_manifest(tmp_path)
    assert assemble.main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wheel_that_is_half_there_is_written_again(bundle: Path, tmp_path: Path) -> None:
    first, _ = join_parts(bundle, tmp_path / "joined")
    content, made = first.read_bytes(), first.stat().st_mtime_ns
    join_parts(bundle, tmp_path / "joined")
    assert first.stat().st_mtime_ns == made, "a sound wheel is left as it is"
    first.write_bytes(content[:20])
    join_parts(bundle, tmp_path / "joined")
    assert first.read_bytes() == content


def test_what_is_bundled_is_pinned() -> None:
    wheels, sources = requirements((ROOT / "constraints.txt").read_text())
    assert all("==" in name for name in (*wheels, *sources))
    assert {"torch-tensorrt-rtx==2.11.0"} <= set(wheels)
    assert len({name.partition("==")[2] for name in (*wheels, *sources) if name.startswith("tensorrt_rtx")}) == 1
    assert PART_BYTES <= 48 * 1024 * 1024
    with pytest.raises(BundleError, match=r"constraints\.txt: no version of open_clip_torch"):
        requirements("numpy==2.0\n")
