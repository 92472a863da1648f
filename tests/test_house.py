"""Who may import whom, and what may be loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from steps import contracts
from steps.geometry import cameras

ROOT = Path(__file__).parent.parent
STEPS = ["validate", "reconviagen", "nvdiffrec", "quality", "preview", "package", "sample"]
SHARED = {"contracts", "errors", "files", "memory", "options", "processes", "reporter", "runner"}
# room: the rooms of `steps` it may import from
ALLOWED = {
    "attempts": {"errors", "files"},
    "contracts": {"errors", "options"},
    "errors": set(),
    "files": set(),
    "memory": set(),
    "options": {"errors"},
    "processes": set(),
    "reporter": {"contracts", "errors", "files", "memory"},
    "runner": {"contracts", "errors", "files", "memory", "options", "processes", "reporter"},
    "formats": {
        "errors",
        "files",
        "formats",
        "geometry.cameras",
        "geometry.depth_curve",
        "geometry.frame",
        "geometry.shading",
    },
    "geometry": {"errors", "geometry"},
    "baseline": {"errors", "formats", "geometry"},
    **{
        step: {
            "attempts",
            "baseline",
            "contracts",
            "errors",
            "files",
            "formats",
            "geometry",
            "reporter",
            "runner",
            step,
        }
        for step in STEPS
    },
}
STANDARD_LIBRARY_ONLY = [
    "attempts",
    "contracts",
    "errors",
    "files",
    "memory",
    "options",
    "processes",
    "reporter",
    "runner",
]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_of_steps_imports_only_from_the_rooms_it_may(room: str) -> None:
    path = ROOT / "steps" / room
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        inner = [n.removeprefix("steps.") for n in imports(file) if n.startswith("steps.")]
        wrong = [n for n in inner if not any(n == a or n.startswith(a + ".") for a in ALLOWED[room])]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
        assert not [n for n in imports(file) if n.startswith("pipeline")]


def test_pipeline_imports_only_the_light_rooms_of_steps() -> None:
    allowed = (
        "steps.attempts",
        "steps.contracts",
        "steps.errors",
        "steps.files",
        "steps.formats",
        "steps.options",
        "steps.processes",
    )
    for file in (ROOT / "pipeline").rglob("*.py"):
        wrong = [n for n in imports(file) if n.startswith("steps.") and not n.startswith(allowed)]
        wrong = [n for n in wrong if n not in {f"steps.{room}" for room in SHARED}]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_what_every_pod_loads_first_needs_the_standard_library_alone(module: str) -> None:
    names = {n.split(".")[0] for n in imports(ROOT / "steps" / f"{module}.py")}
    assert names <= set(sys.stdlib_module_names) | {"steps"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["steps.validate.run", "steps.package.run", "pipeline.cli"])
def test_validate_package_and_the_command_start_without_the_heavy_libraries(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "numba", "scipy", "skimage", "xatlas"}


@pytest.mark.parametrize("module", ["reconviagen.run", "quality.run", "preview.run", "baseline", "geometry.antialias"])
def test_only_the_differentiable_model_loads_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"import steps.{module}")


def test_the_contract_and_the_rig_name_the_same_views() -> None:
    assert contracts.VIEW_NAMES == cameras.VIEW_NAMES


def test_the_command_s_help_does_not_even_load_numpy() -> None:
    assert "numpy" not in loaded_by("import pipeline.cli")
