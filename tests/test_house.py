"""Who may import whom, and what may be loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from steps.geometry import cameras
from steps.runtime import contract

ROOT = Path(__file__).parent.parent
STEPS = ["validate", "reconviagen", "nvdiffrec", "quality", "preview", "package", "sample"]
# layer of `steps`, or a module of one with rules of its own: what of `steps` it may import
ALLOWED = {
    "runtime.attempts": {"runtime.errors", "runtime.files"},
    "runtime.contract": {"runtime.errors", "runtime.options"},
    "runtime.errors": set(),
    "runtime.files": set(),
    "runtime.memory": set(),
    "runtime.options": {"runtime.errors"},
    "runtime.processes": set(),
    "runtime.reporter": {"runtime.contract", "runtime.errors", "runtime.files", "runtime.memory"},
    "runtime.supervisor": {
        "runtime.contract",
        "runtime.errors",
        "runtime.files",
        "runtime.memory",
        "runtime.options",
        "runtime.processes",
        "runtime.reporter",
    },
    "runtime": set(),
    "io": {
        "runtime.errors",
        "runtime.files",
        "io",
        "geometry.cameras",
        "geometry.depth_curve",
        "geometry.frame",
        "geometry.pbr",
    },
    "compute": {"compute"},
    "geometry": {"compute", "geometry"},
    "raster": {"compute", "geometry", "raster"},
    "calibration": {"compute", "geometry", "calibration"},
    "fusion": {"runtime.errors", "compute", "geometry", "raster", "fusion"},
    "fusion.reconstruct": {"runtime.errors", "io", "compute", "geometry", "fusion", "texturing"},
    "texturing": {"runtime.errors", "compute", "geometry", "raster", "texturing"},
    "registration": {"runtime.errors", "compute", "geometry", "registration"},
    **{
        step: {
            "runtime.attempts",
            "runtime.contract",
            "runtime.errors",
            "runtime.files",
            "runtime.reporter",
            "io",
            "compute",
            "geometry",
            "raster",
            "calibration",
            "fusion",
            "texturing",
            "registration",
            step,
        }
        for step in STEPS
    },
    **{f"{step}.__main__": {"runtime.supervisor"} for step in STEPS},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(module: str) -> str:
    """The most particular entry of ALLOWED that a module of `steps` stands under."""
    return max((a for a in ALLOWED if f"{module}.".startswith(f"{a}.")), key=len, default="")


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_of_steps_imports_only_from_the_layers_it_may(layer: str) -> None:
    files = [f for f in (ROOT / "steps").rglob("*.py") if layer_of(module_of(f)) == layer]
    assert files
    for file in files:
        inner = [n.removeprefix("steps.") for n in imports(file) if n.startswith("steps.")]
        wrong = [n for n in inner if not any(n == a or n.startswith(a + ".") for a in ALLOWED[layer])]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
        assert not [n for n in imports(file) if n.startswith("pipeline")]


def test_all_that_steps_hold_is_of_a_layer() -> None:
    files = [f for f in (ROOT / "steps").rglob("*.py") if f != ROOT / "steps" / "__init__.py"]
    assert not [f for f in files if not layer_of(module_of(f))]


def module_of(file: Path) -> str:
    """steps/io/png.py as `io.png`, and steps/io/__init__.py as `io`."""
    return ".".join(file.relative_to(ROOT / "steps").with_suffix("").parts).removesuffix(".__init__")


def test_pipeline_imports_only_the_light_layers_of_steps() -> None:
    allowed = ("steps.runtime.", "steps.io.")
    for file in (ROOT / "pipeline").rglob("*.py"):
        wrong = [n for n in imports(file) if n.startswith("steps.") and not n.startswith(allowed)]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("file", sorted((ROOT / "steps" / "runtime").glob("*.py")), ids=lambda file: file.stem)
def test_what_every_pod_loads_first_needs_the_standard_library_alone(file: Path) -> None:
    names = {n.split(".")[0] for n in imports(file)}
    assert names <= set(sys.stdlib_module_names) | {"steps"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["steps.validate.run", "steps.package.run", "pipeline.cli.main"])
def test_validate_package_and_the_command_start_without_the_heavy_libraries(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "numba", "scipy", "skimage", "xatlas"}


@pytest.mark.parametrize(
    "module", ["reconviagen.run", "quality.run", "preview.run", "fusion.reconstruct", "raster.antialias"]
)
def test_only_the_differentiable_model_loads_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"import steps.{module}")


def test_the_contract_and_the_rig_name_the_same_views() -> None:
    assert contract.VIEW_NAMES == cameras.VIEW_NAMES


def test_the_command_s_help_does_not_even_load_numpy() -> None:
    assert "numpy" not in loaded_by("import pipeline.cli.main")
