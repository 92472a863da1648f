"""The benchmarks run rarely, and some need libraries that only `make benchmark` installs: what they take from the project's own
modules is looked up here each time, so that code that moves cannot break one unseen."""

from __future__ import annotations

import ast
import importlib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import benchmarks
from tests.benchmarks.__main__ import NAMES

FOLDER = Path(benchmarks.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
OWN = ("steps", "pipeline", "tests")
UNSEEN = "tests.benchmarks."  # such a module may need what is not installed: of it the source is read


def own(module: str) -> bool:
    return module.split(".")[0] in OWN


def unknown(path: Path) -> Iterator[str]:
    """What a file takes from the project's own modules and is not there: imported names, and attributes of imported modules."""
    tree = ast.parse(path.read_text())
    modules: dict[str, types.ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if own(alias.name):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and own(node.module):
            for alias in node.names:
                found = taken(node.module, alias.name)
                if found is None:
                    yield f"{path.name}:{node.lineno}: {node.module} has no {alias.name}"
                elif isinstance(found, types.ModuleType):
                    modules[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if not hasattr(module, node.attr):
                yield f"{path.name}:{node.lineno}: {module.__name__} has no {node.attr}"


def taken(module: str, name: str) -> object:
    """`from module import name`; None where there is no such thing."""
    if module.startswith(UNSEEN):
        return name if name in defined(FOLDER / f"{module.removeprefix(UNSEEN)}.py") else None
    try:
        found: object = getattr(importlib.import_module(module), name, None)
        return found if found is not None else importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return None


def defined(path: Path) -> set[str]:
    """The names that a module has at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_project_is_there(path: Path) -> None:
    assert list(unknown(path)) == []


def test_every_benchmark_can_be_asked_for_and_has_a_main() -> None:
    assert {f"{name}_benchmark" for name in NAMES} == {p.stem for p in FOLDER.glob("*_benchmark.py")}
    assert all("main" in defined(FOLDER / f"{name}_benchmark.py") for name in NAMES)


def test_a_name_that_has_moved_is_noticed(tmp_path: Path) -> None:
    source = "from steps.fusion import reconstruct\nfrom steps.runtime.files import gone\nfrom steps.reconviagen import fusion\n"
    (tmp_path / "some_benchmark.py").write_text(
        source + "from tests.benchmarks.common import nobody\nreconstruct.moved()\nreconstruct.fuse()\n"
    )
    assert [line.split(": ", 1)[1] for line in unknown(tmp_path / "some_benchmark.py")] == [
        "steps.runtime.files has no gone",
        "steps.reconviagen has no fusion",
        "tests.benchmarks.common has no nobody",
        "steps.fusion.reconstruct has no moved",
    ]
