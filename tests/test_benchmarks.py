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
from tests.benchmarks import common, inputs_benchmark, rasterizer_benchmark, records, shapes
from tests.cases.kit import Case

FOLDER = Path(benchmarks.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
OWN = ("steps", "pipeline", "tests")
NAN = float("nan")
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


def of_cases(*cells: object) -> dict[str, object]:
    """A record of the smallest form of `inputs`: a refusal, and a case that ended well, with the last of its cells."""
    made = records.Run("inputs", smallest=True, began=-1.0)
    refusal = ["a refusal", NAN, NAN, 31.0, NAN, 0.2, "no", 0, "VALIDATION_FAILED", "right"]
    good = ["a mesh", 30.0, 31.0, 31.0, 0.2, 0.2, "yes", 0, "completed", "right"]
    made.table("", shapes.SHAPES["inputs"][0].header, [refusal, [*good[: len(good) - len(cells)], *cells]])
    made.note("2 cases, 2 right; not right: none.")
    return {**made.record(), "seconds": 7.0}


def beside_mitsuba(ours: float, theirs: float, note: str) -> dict[str, object]:
    """A record of the smallest form of `rasterizer`."""
    made = records.Run("rasterizer", smallest=True, began=-1.0)
    first, faces, sides = (shape.header for shape in shapes.SHAPES["rasterizer"])
    made.table("", first, [[2, 32, ours, theirs, theirs / ours, theirs, theirs / ours]])
    made.table("", faces, [[5000, 3.0], [20000, 4.0]])
    made.table("", sides, [[32, 3.0], [64, 4.0]])
    made.note(note)
    return {**made.record(), "seconds": 7.0}


def test_a_record_that_is_not_as_documented_is_noticed() -> None:
    good = foreign(37.0, 36.9, -0.1)
    (table,) = good["tables"]  # type: ignore[misc]
    assert list(shapes.complaints(good)) == []
    assert list(shapes.complaints(foreign(37.0, 370.0, -0.1))) == [
        "Mitsuba 3, dB: 370.0, which is not within (10.0, 60.0)"
    ]
    assert list(shapes.complaints(foreign(37.0, NAN, -0.1))) == ["Mitsuba 3, dB: nothing"]
    for no_number in ("37.0", "", True):
        said = [f"Mitsuba 3, dB: {no_number}, which is no number"]
        assert list(shapes.complaints(foreign(37.0, no_number, -0.1))) == said
    assert len(list(shapes.complaints({**good, "tables": []}))) == 1
    assert len(list(shapes.complaints({**good, "smallest": False}))) == 1
    assert len(list(shapes.complaints({**good, "source_digest": "0" * 64}))) == 1
    assert len(list(shapes.complaints({**good, "tables": [{**table, "rows": table["rows"][:2]}]}))) == 1
    assert len(list(shapes.complaints({**good, "tables": [{**table, "header": ["object"]}]}))) == 1


def test_only_a_refusal_may_lack_its_numbers() -> None:
    assert list(shapes.complaints(of_cases())) == []
    assert list(shapes.complaints(of_cases(0.2, NAN, "yes", 0, "completed", "right"))) == [
        "clean Chamfer-L1, %: nothing"
    ]
    assert list(shapes.complaints(of_cases("not closed"))) == ["is: not closed instead of right"]


def test_only_the_times_of_mitsuba_may_be_missing_and_only_where_it_is_said() -> None:
    said = "No LLVM library that Mitsuba can use is installed: sixview was measured alone."
    assert list(shapes.complaints(beside_mitsuba(3.0, NAN, said))) == []
    assert len(list(shapes.complaints(beside_mitsuba(3.0, NAN, "")))) == 4
    assert list(shapes.complaints(beside_mitsuba(NAN, NAN, said))) == ["sixview, ms: nothing"]
    assert list(shapes.complaints(beside_mitsuba(3000.0, 9.0, ""))) == []


@pytest.mark.parametrize(
    ("result", "clean"),
    [
        (inputs_benchmark.Result("", 30.0, NAN, 0.2, True), inputs_benchmark.Result("", 30.0, 30.0, 0.2, True)),
        (inputs_benchmark.Result("", 30.0, 30.0, NAN, True), inputs_benchmark.Result("", 30.0, 30.0, 0.2, True)),
        (inputs_benchmark.Result("", 30.0, 30.0, 0.2, True), inputs_benchmark.Result("", 30.0, NAN, 0.2, True)),
        (inputs_benchmark.Result("", 30.0, 30.0, 0.2, True), inputs_benchmark.Result("", 30.0, 30.0, NAN, True)),
    ],
    ids=("its PSNR", "its Chamfer", "the clean PSNR", "the clean Chamfer"),
)
def test_a_case_that_was_not_measured_is_not_right(
    result: inputs_benchmark.Result, clean: inputs_benchmark.Result
) -> None:
    case = Case("any", lambda folder: folder, loss=1.0, ratio=2.0)
    good = inputs_benchmark.Result("", 30.0, 30.0, 0.2, True)
    assert inputs_benchmark.judge_case(case, good, good) == "right"
    assert inputs_benchmark.judge_case(case, result, clean) != "right"


def test_a_smallest_form_is_run_without_what_would_change_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*records.VARIABLES, "SIXVIEW_TAG"):
        monkeypatch.setenv(name, "3")
    assert not set(records.VARIABLES) & set(shapes.environment())
    assert shapes.environment()["SIXVIEW_TAG"] == "3"


def test_the_plot_of_the_rasterizer_finds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rasterizer_benchmark, "llvm_works", lambda: False)
    monkeypatch.setattr(rasterizer_benchmark, "_measured", lambda what, size, cores: 0.003)
    rasterizer_benchmark.main(records.Run("rasterizer", smallest=True))
    assert (common.WORK / "scaling.svg").is_file()


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


@pytest.mark.parametrize("name", records.BENCHMARKS)
def test_a_digest_has_all_that_a_benchmark_takes_from_the_project(name: str) -> None:
    found = set(records.sources(*records.BENCHMARKS[name], records.OWN))
    assert not {path for path in taken_files(FOLDER / f"{name}_benchmark.py") - found if "tests" in path.parts}


def taken_files(path: Path) -> set[Path]:
    """The tests' modules that a file imports, and that these import."""
    seen, left = set(), [path]
    while left:
        file = left.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                folder = records.ROOT.joinpath(*str(node.module).split("."))
                left += [
                    p
                    for p in (folder.with_suffix(".py"), *(folder / f"{a.name}.py" for a in node.names))
                    if p.is_file()
                ]
    return seen


def test_samples_are_made_anew_where_the_steps_the_command_or_the_benchmarks_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "ROOT", tmp_path)
    files = [tmp_path / part for part in ("steps/a.py", "pipeline/b.py", "tests/benchmarks/common.py")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("HELD_OUT = 12")
    codes = {common._code.__wrapped__()}
    for file in files:
        file.write_text("HELD_OUT = 13")
        codes.add(common._code.__wrapped__())
    assert len(codes) == 4


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
