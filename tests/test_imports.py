"""Importing is free of work: what is light stays light, and no import writes, prints or contacts anything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each of these costs a second or more.
HEAVY = (
    *("torch", "mlflow", "prefect", "lightning", "open_clip"),
    *("matplotlib", "pandas", "great_expectations", "openvino"),
)
LIGHT_MODULES = ("app.cli", "models.files", "models.spans", "models.errors", "models.energy", "models.metrics.frames")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("models", "tasks", "flows", "app")
    for path in (ROOT / room).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def run_python(code: str, cwd: Path, *arguments: str) -> str:
    """Run `code` in a process of its own with the repository on its path, and return what it prints."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}",
        *arguments,
    ]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_what_is_light_stays_light(tmp_path: Path):
    code = """
for name in sys.argv[1].split():
    before = set(sys.modules)
    __import__(name)
    heavy = sorted(set(sys.argv[2].split()) & (set(sys.modules) - before))
    if heavy: print(f"importing {name} imports {', '.join(heavy)}")
"""
    there = [name for name in LIGHT_MODULES if name in MODULES]
    output = run_python(code, tmp_path, " ".join(there), " ".join(HEAVY))
    assert not output, f"Import inside the function that needs it:\n{output}"


def test_importing_does_no_work(tmp_path: Path):
    code = """
import contextlib, importlib, io, os
def watch(event, arguments):
    if event == "socket.connect":
        print(f"{importing} connects to {arguments[1]}", file=sys.__stdout__)
    if event == "os.mkdir" or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")):
        if isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith((os.getcwd(), root)) and "__pycache__" not in path:
                print(f"{importing} writes {path}", file=sys.__stdout__)
root, importing = sys.path[0] + os.sep, ""
sys.addaudithook(watch)
for importing in sys.argv[1].split():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        importlib.import_module(importing)
    if said.getvalue():
        print(f"{importing} prints {said.getvalue()!r}")
"""
    output = run_python(code, tmp_path, " ".join(MODULES))
    assert not output, f"No folder, file, server or banner at import:\n{output}"
    assert not list(tmp_path.rglob("*"))
