"""The rules of the house that a machine can hold: who imports whom, how long things are, what nobody does.

Each test is one rule and fails with the places that break it. They read the sources and run nothing; what an import
does is watched in test_imports.py.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# Which rooms each room may import from.
IMPORT_TABLE = {
    "models": {"models"},
    "tasks": {"models", "tasks"},
    "flows": {"models", "tasks", "flows"},
    "app": {"models", "tasks", "app"},
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# These load code or run it while they read.
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
UNSAFE_CALLS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.fromfile", "eval", "exec"}
UNSAFE_KEYWORDS = {("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True)}


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below `folders`, relative to the repository."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]
    return sorted(path.relative_to(ROOT) for path in found)


ROOM_FILES = python_files(*IMPORT_TABLE)
SOURCES = [*ROOM_FILES, *python_files("benchmarks")]


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


@cache
def tracked_files() -> list[Path]:
    """Return what git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(Path(name) for name in names if name and (ROOT / name).is_file())


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str) -> Path | None:
    """Return the file of a module of this repository, or None."""
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (ROOT / path).is_file():
            return path
    return None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of everything that `path` imports, at any depth of its code."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of a chain of attributes, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def assert_none(problems: Iterable[str], rule: str) -> None:
    found = list(dict.fromkeys(problems))
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


def test_imports_follow_the_table():
    assert_none(
        (
            f"{path}:{line} imports {name}"
            for path in ROOM_FILES
            for line, name in imports(path)
            if name.partition(".")[0] in {*IMPORT_TABLE, "benchmarks", "tests"} - IMPORT_TABLE[path.parts[0]]
        ),
        "models <- tasks <- {flows, app}; flows and app do not import each other, nobody imports tests or benchmarks",
    )


def test_only_flows_import_prefect():
    assert_none(
        (
            f"{path}:{line} imports {name}"
            for path in ROOM_FILES
            if path.parts[0] != "flows"
            for line, name in imports(path)
            if name.partition(".")[0] == "prefect"
        ),
        "Prefect is the business of flows/ alone",
    )


def stage_modules() -> dict[str, list[str]]:
    """Return for each stage of dvc.yaml the modules that its command runs."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: re.findall(r"python3? -m ([\w.]+)", stage["cmd"]) for name, stage in stages.items()}


def reached_from(start: Path) -> dict[Path, tuple[Path, ...]]:
    """Return every file of the rooms that `start` imports, directly or not, with the way to it."""
    ways: dict[Path, tuple[Path, ...]] = {start: (start,)}
    queue = [start]
    while queue:
        path = queue.pop()
        for _, name in imports(path):
            found = file_of(name)
            if found is not None and found not in ways and found.parts[0] in IMPORT_TABLE:
                ways[found] = (*ways[path], found)
                queue.append(found)
    return ways


def test_stages_never_reach_mlflow_or_prefect():
    def problems() -> Iterator[str]:
        for stage, modules in stage_modules().items():
            for start in filter(None, (file_of(f"{name}.__main__") or file_of(name) for name in modules)):
                for path, way in reached_from(start).items():
                    for _, name in imports(path):
                        if name.partition(".")[0] in ("mlflow", "prefect"):
                            yield f"stage {stage}: {' -> '.join(map(str, way))} imports {name.partition('.')[0]}"

    assert_none(problems(), "A stage writes files; the flow talks to MLflow")


def test_every_stage_of_dvc_yaml_runs_a_module_that_exists():
    assert_none(
        (
            f"stage {stage}: {modules or 'no python -m MODULE in its command'}"
            for stage, modules in stage_modules().items()
            if not modules or not all(file_of(f"{name}.__main__") or file_of(name) for name in modules)
        ),
        "dvc.yaml names modules that are not there",
    )


def test_every_source_that_a_stage_depends_on_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert_none(
        (
            f"stage {name}: {dep}"
            for name, stage in stages.items()
            for dep in stage.get("deps", ())
            if dep.partition("/")[0] in IMPORT_TABLE and not (ROOT / dep).exists()
        ),
        "dvc.yaml depends on sources that are not there",
    )


def test_nothing_shadows_the_package_mlflow():
    # A logged model keeps its code in mlflow/artifacts/: that is the store's content and no module of this folder.
    modules = (path for path in python_files("mlflow") if "artifacts" not in Path(path).parts)
    assert_none((str(path) for path in modules), "mlflow/ holds configuration and no .py, ever")
    assert not (ROOT / "tests" / "mlflow").exists(), "tests/mlflow would shadow the package mlflow"


def test_test_folders_are_no_packages():
    found = (ROOT / "tests").rglob("__init__.py")
    assert_none(
        (str(path.relative_to(ROOT)) for path in found), "pytest runs in importlib mode: no __init__.py in tests/"
    )


def test_no_file_is_too_long():
    files = [*SOURCES, *python_files("tests")]
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files}
    assert_none(
        (f"{path} has {length} lines" for path, length in lengths.items() if length > MAX_FILE_LINES),
        f"A file of more than {MAX_FILE_LINES} lines is a missing room",
    )


def test_no_function_is_too_long():
    def problems() -> Iterator[str]:
        for path in SOURCES:
            for node in ast.walk(parse(path)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                    length = node.end_lineno - node.lineno + 1
                    if length > MAX_FUNCTION_LINES:
                        yield f"{path}:{node.lineno} {node.name} has {length} lines"

    assert_none(problems(), f"Functions near 40 lines, none above {MAX_FUNCTION_LINES}")


def test_everything_public_has_a_docstring():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

    def problems() -> Iterator[str]:
        for path in SOURCES:
            if not ast.get_docstring(parse(path)):
                yield f"{path} (what the module knows, and what it does not)"
            for node in parse(path).body:
                if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node):
                    yield f"{path}:{node.lineno} {node.name}"

    assert_none(problems(), "Without a docstring")


def test_no_except_catches_everything():
    def caught(handler: ast.ExceptHandler) -> set[str]:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        return {dotted(kind) if kind is not None else "" for kind in kinds}

    assert_none(
        (
            f"{path}:{node.lineno}"
            for path in SOURCES
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ExceptHandler) and caught(node) & {"", "Exception", "BaseException"}
        ),
        "Catch what you can tell the user about, and nothing else",
    )


def test_nothing_unsafe_is_loaded():
    def problems() -> Iterator[str]:
        for path in SOURCES:
            for line, name in imports(path):
                if name.partition(".")[0] in UNSAFE_MODULES:
                    yield f"{path}:{line} imports {name}"
            for node in ast.walk(parse(path)):
                if not isinstance(node, ast.Call):
                    continue
                if dotted(node.func) in UNSAFE_CALLS:
                    yield f"{path}:{node.lineno} calls {dotted(node.func)}"
                for keyword in node.keywords:
                    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                    if any(keyword.arg == name and value is unsafe for name, unsafe in UNSAFE_KEYWORDS):
                        yield f"{path}:{node.lineno} passes {keyword.arg}={value}"

    assert_none(
        problems(), "Weights are safetensors and JSON, YAML is read with safe_load; nothing that loads runs code"
    )


def test_nobody_uses_pyplot():
    assert_none(
        (f"{path}:{line}" for path in SOURCES for line, name in imports(path) if name.startswith("matplotlib.pyplot")),
        "matplotlib's objects only: pyplot has global state",
    )


def params_classes() -> dict[str, set[str]]:
    """Return for each section of params the fields of its class: section `train` belongs to `TrainParams`."""
    classes = {
        node.name: node for path in ROOM_FILES for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)
    }

    def fields(name: str) -> set[str]:
        if name not in classes:
            return set()
        own = {
            item.target.id
            for item in classes[name].body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        return own.union(*(fields(dotted(base)) for base in classes[name].bases))

    return {name.removesuffix("Params").lower(): fields(name) for name in classes if name.endswith("Params")}


@pytest.mark.parametrize(
    "path", [Path("params.yaml"), *sorted((ROOT / "params").glob("*.yaml"))], ids=lambda path: path.stem
)
def test_every_key_of_the_params_is_a_field(path: Path):
    known = params_classes()
    sections = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))

    def problems() -> Iterator[str]:
        for section, values in sections.items():
            if section not in known:
                yield f"{section}: no class {section.capitalize()}Params in the tree"
                continue
            yield from (f"{section}.{key}: no such field" for key in values or () if key not in known[section])

    assert_none(problems(), f"{path.name}: unknown keys")


def test_every_field_of_the_params_is_documented():
    def problems() -> Iterator[str]:
        for path in ROOM_FILES:
            for node in ast.walk(parse(path)):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Params"):
                    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
                        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                        if isinstance(item, ast.AnnAssign) and not documented:
                            yield f"{path}:{item.lineno} {node.name}.{dotted(item.target)}"

    assert_none(problems(), "A hyper-parameter without a line that says what it is, with its unit")


def test_packaging_lists_exactly_the_packages():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {module_name(path) for path in ROOM_FILES if path.name == "__init__.py"}
    assert set(listed) == found, "pyproject.toml [tool.setuptools] packages"
    folders = {".".join(path.parent.parts) for path in ROOM_FILES}
    assert_none(sorted(folders - found), "A folder with Python files and no __init__.py is not installed")


def test_no_tracked_file_names_a_path_of_one_machine():
    pattern = re.compile(r"(?<![\w.~}/-])/(?:work|root|farm|home|Users)/[\w.-]+")

    def problems() -> Iterator[str]:
        for path in tracked_files():
            content = (ROOT / path).read_bytes()
            if b"\0" in content[:1024]:
                continue
            for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
                yield from (f"{path}:{number} {match}" for match in pattern.findall(line))

    assert_none(problems(), "Paths are relative to the repository, or arrive as arguments")


def test_data_and_results_are_not_tracked():
    rooms = {"data", "build", "inbox", "highlights"}
    assert_none(
        (str(path) for path in tracked_files() if path.parts[0] in rooms), "These folders are DVC's or nobody's"
    )
