"""The benchmarks run rarely: their smallest forms run here each time (those on a cluster in tests/cluster/test_figures.py), and
what they take from the project's own modules is looked up, so that no code that moves or changes can break one unseen."""

from __future__ import annotations

import ast
import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests import benchmarks
from tests.benchmarks import common, records, shapes

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
    assert {f"{name}_benchmark" for name in records.BENCHMARKS} == {p.stem for p in FOLDER.glob("*_benchmark.py")}
    assert all("main" in defined(FOLDER / f"{name}_benchmark.py") for name in records.BENCHMARKS)


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


# -- smallest forms -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.mark.slow
@pytest.mark.parametrize("name", shapes.WITHOUT)
def test_its_smallest_form_leaves_a_record_as_documented(name: str, folder: Path) -> None:
    assert list(shapes.complaints(shapes.run(name, folder))) == []


def foreign(*numbers: object) -> dict[str, object]:
    """A record of the smallest form of `foreign`, with the numbers of its first row."""
    made = records.Run("foreign", smallest=True, began=-1.0)
    rows = [["mug", *numbers], ["mean", 37.0, 36.9, -0.1], ["largest", "", "", -0.1]]
    made.table("", shapes.SHAPES["foreign"][0].header, rows)
    return {**made.record(), "seconds": 7.0}


def test_a_record_that_is_not_as_documented_is_noticed() -> None:
    good = foreign(37.0, 36.9, -0.1)
    (table,) = good["tables"]  # type: ignore[misc]
    assert list(shapes.complaints(good)) == []
    assert list(shapes.complaints(foreign(37.0, 370.0, -0.1))) == [
        "Mitsuba 3, dB: 370.0, which is not within (10.0, 60.0)"
    ]
    assert list(shapes.complaints(foreign(37.0, float("nan"), -0.1))) == ["Mitsuba 3, dB: nothing"]
    assert len(list(shapes.complaints({**good, "tables": []}))) == 1
    assert len(list(shapes.complaints({**good, "smallest": False}))) == 1
    assert len(list(shapes.complaints({**good, "source_digest": "0" * 64}))) == 1
    assert len(list(shapes.complaints({**good, "tables": [{**table, "rows": table["rows"][:2]}]}))) == 1
    assert len(list(shapes.complaints({**good, "tables": [{**table, "header": ["object"]}]}))) == 1


# -- records ------------------------------------------------------------------------------------------------------------


def test_only_a_full_run_that_measured_something_becomes_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(records, "OTHERS", tmp_path / "others")
    monkeypatch.setenv("SIXVIEW_CAPTURES", "5")
    full, nothing, smallest, chosen = (records.Run("captures", smallest) for smallest in (False, False, True, False))
    for run in (full, smallest, chosen):
        run.table("", ("number",), [[np.float32(0.1)], [np.int64(3)], [float("nan")], [float("inf")]])
    assert (chosen.variable("SIXVIEW_CAPTURES", 300), full.variable("SIXVIEW_MESHES", 80)) == ("5", "80")
    kept = full.save()
    assert kept.parent == tmp_path / "kept"
    assert {run.save().parent for run in (nothing, smallest, chosen)} == {tmp_path / "others"}
    found = json.loads(kept.read_text())
    assert found["tables"][0]["rows"] == [[0.1], [3], [None], [None]]
    assert found["command"] == "python -m tests.benchmarks captures"
    assert chosen.record()["command"] == "SIXVIEW_CAPTURES=5 python -m tests.benchmarks captures"


def test_a_digest_changes_with_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ROOT", tmp_path)
    file = tmp_path / "steps" / "a.py"
    file.parent.mkdir()
    file.write_text("a = 1")
    one = records.digest_of(*records.sources("steps"))
    file.write_text("a = 2")
    other = records.digest_of(*records.sources("steps"))
    file.rename(file.with_name("b.py"))
    assert len({one, other, records.digest_of(*records.sources("steps"))}) == 3


def test_what_other_code_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    for code in ("one", "one", "other"):
        monkeypatch.setattr(common, "_code", lambda code=code: code)
        common.once(tmp_path / "sample", lambda folder: (times.append(folder), folder.mkdir()))
    assert len(times) == 2


def test_distances_to_a_surface_are_those_of_geometry() -> None:
    """A box of few large faces, and a ball of many small ones."""
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (2000, 3))
    box = trimesh.creation.box((2, 2, 2))
    out, inside = np.maximum(np.abs(points) - 1, 0), np.abs(points).max(axis=1) < 1
    true = np.where(inside, 1 - np.abs(points).max(axis=1), np.linalg.norm(out, axis=1))
    assert np.allclose(common.distances(points, box), true, atol=1e-9)
    ball = trimesh.creation.icosphere(5)
    assert np.abs(common.distances(points, ball) - np.abs(np.linalg.norm(points, axis=1) - 1)).max() < 2e-3
