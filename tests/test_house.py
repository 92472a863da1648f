"""Who may import whom, what may be loaded when, and how large functions, files and folders may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
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
    "runtime.devices": {"runtime.errors", "runtime.files"},
    "runtime.errors": set(),
    "runtime.files": set(),
    "runtime.memory": set(),
    "runtime.options": {"runtime.errors"},
    "runtime.processes": set(),
    "runtime.reporter": {"runtime.contract", "runtime.errors", "runtime.files", "runtime.memory"},
    "runtime.supervisor": {
        "runtime.contract",
        "runtime.devices",
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
        "compute.arrays",
        "compute.device",
        "geometry.cameras",
        "geometry.depth_curve",
        "geometry.frame",
        "geometry.image_ops",
        "geometry.pbr",
        "geometry.uv_mesh",
    },
    "compute": {"compute", "runtime.errors"},
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
            "runtime.devices",
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
# the same of `pipeline`, from the bottom to the top
ALLOWED_IN_PIPELINE = {
    "clients": {"clients"},
    "jobs": {"clients", "jobs"},
    "incluster": {"clients", "jobs", "incluster"},
    "workflow": {"clients.s3", "jobs", "workflow"},
    "local": {"local"},
    "gateway": {"clients", "jobs", "gateway"},
    "web": set(),
    "installation": {"clients", "jobs"},
    "doctor": {"clients", "jobs", "gateway.health", "installation"},
    "cli": {"clients", "jobs", "workflow", "local", "gateway", "doctor", "cli"},
}
LAYERS = [("steps", ALLOWED), ("pipeline", ALLOWED_IN_PIPELINE)]


def imports(path: Path, for_types: bool = True) -> set[str]:
    """What a module imports, wherever in it. for_types: also what only the type checker sees."""
    names = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if for_types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
    return names


def module_of(file: Path) -> str:
    """steps/io/png.py as `steps.io.png`, and steps/io/__init__.py as `steps.io`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def files_of(package: str) -> dict[str, Path]:
    """By module."""
    return {module_of(f): f for f in sorted((ROOT / package).rglob("*.py"))}


def layer_of(module: str, allowed: dict[str, set[str]]) -> str:
    """The longest entry of `allowed` that is a prefix of a module's name without its package; empty without one."""
    return max((a for a in allowed if f"{module}.".startswith(f"{a}.")), key=len, default="")


@pytest.mark.parametrize(
    ("package", "allowed", "layer"), [(package, allowed, layer) for package, allowed in LAYERS for layer in allowed]
)
def test_a_layer_imports_only_from_the_layers_it_may(package: str, allowed: dict[str, set[str]], layer: str) -> None:
    names = {m: m.removeprefix(f"{package}.") for m in files_of(package)}
    files = [file for m, file in files_of(package).items() if layer_of(names[m], allowed) == layer]
    assert files
    for file in files:
        inner = [n.removeprefix(f"{package}.") for n in imports(file) if n.startswith(f"{package}.")]
        wrong = [n for n in inner if not any(n == a or n.startswith(a + ".") for a in allowed[layer])]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
        assert package == "pipeline" or not [n for n in imports(file) if n.startswith("pipeline")]


@pytest.mark.parametrize(("package", "allowed"), LAYERS)
def test_every_module_is_of_a_layer(package: str, allowed: dict[str, set[str]]) -> None:
    names = [m.removeprefix(f"{package}.") for m in files_of(package) if m != package]
    assert not [name for name in names if not layer_of(name, allowed)]


def test_no_module_imports_itself_by_way_of_others() -> None:
    files = files_of("steps") | files_of("pipeline")
    waiting = {}
    for module, file in files.items():
        names = imports(file, for_types=False)
        waiting[module] = {n if n in files else n.rpartition(".")[0] for n in names} & set(files)
    while free := {module for module, needed in waiting.items() if not needed & set(waiting)}:
        waiting = {module: needed for module, needed in waiting.items() if module not in free}
    assert not waiting


def test_pipeline_imports_only_the_light_layers_of_steps() -> None:
    allowed = ("steps.runtime.", "steps.io.")
    for file in (ROOT / "pipeline").rglob("*.py"):
        wrong = [n for n in imports(file) if n.startswith("steps.") and not n.startswith(allowed)]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("file", sorted((ROOT / "steps" / "runtime").glob("*.py")), ids=lambda file: file.stem)
def test_what_every_pod_loads_first_needs_the_standard_library_alone(file: Path) -> None:
    names = {n.split(".")[0] for n in imports(file)}
    binding = {"pynvml"} if file.stem == "devices" else set()  # loaded where there is a driver to ask
    assert names <= set(sys.stdlib_module_names) | {"steps"} | binding


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_no_step_loads_the_driver_s_binding_by_beginning() -> None:
    assert "pynvml" not in loaded_by("import steps.runtime.supervisor, steps.package.run, steps.quality.run")


@pytest.mark.parametrize("module", ["steps.validate.run", "steps.package.run", "pipeline.cli.main"])
def test_validate_package_and_the_command_start_without_the_heavy_libraries(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "numba", "scipy", "skimage", "xatlas"}


@pytest.mark.parametrize(
    "module", ["reconviagen.run", "quality.run", "preview.run", "fusion.reconstruct", "raster.antialias"]
)
def test_only_the_differentiable_model_loads_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"import steps.{module}")


def test_a_job_on_one_machine_needs_nothing_of_the_cluster_s_or_the_gateway_s_extras() -> None:
    loaded = loaded_by("import pipeline.cli.main, pipeline.local.runner, steps.validate.run, steps.package.run")
    assert not loaded & {"boto3", "fastapi", "hera", "kubernetes", "minio", "pydantic", "pydantic_settings", "yaml"}


# what only these files may name: clients of S3, and environment variables (the last also the one that shows tracebacks)
NAMED_BY = {
    "boto3": {"clients/s3.py"},
    "minio": {"clients/bucket_setup.py"},
    "pydantic_settings": {"clients/environment.py"},
    "os.environ": {"cli/console.py"},
    "os.getenv": set(),
}


@pytest.mark.parametrize("name", NAMED_BY)
def test_one_module_talks_to_the_store_by_each_client_and_one_reads_settings(name: str) -> None:
    files = sources("pipeline", "steps") if name in ("boto3", "minio") else sources("pipeline")
    found = set()
    for file in files:
        attributes = {ast.unparse(n) for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Attribute)}
        if any(f"{n}.".startswith(f"{name}.") for n in imports(file) | attributes):
            found.add(str(file.relative_to(ROOT / "pipeline")))
    assert found == NAMED_BY[name]


def test_the_contract_and_the_rig_name_the_same_views() -> None:
    assert contract.VIEW_NAMES == cameras.VIEW_NAMES


def test_the_command_s_help_does_not_even_load_numpy() -> None:
    assert "numpy" not in loaded_by("import pipeline.cli.main")


MOST_PARAMETERS, MOST_LINES, MOST_FILES = 7, 400, 12
# decorators of what numba compiles: kernels take arrays and numbers one by one
KERNELS = {"kernel", "inlined", "per_device", "on_cuda", "njit", "cuda.jit"}


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = {ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in function.decorator_list}
    return bool({d.removeprefix("kernels.") for d in decorators} & KERNELS)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Of every kind, without self and cls."""
    given = function.args
    kinds = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in kinds if one and one.arg not in ("self", "cls")]


def test_no_function_has_more_than_seven_parameters() -> None:
    for file in sources("pipeline", "steps", "tests", "docs"):
        functions = [
            n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        wrong = [f.name for f in functions if not is_kernel(f) and len(parameters(f)) > MOST_PARAMETERS]
        assert not wrong, f"{file.relative_to(ROOT)}: {wrong}"


def test_no_file_is_longer_than_one_reads_in_one_go() -> None:
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in sources("pipeline", "steps", "tests", "docs")
    }
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_folder_has_more_files_than_one_sees_at_a_glance() -> None:
    folders = Counter(str(f.parent.relative_to(ROOT)) for f in sources("pipeline", "steps") if f.name != "__init__.py")
    assert not {name: count for name, count in folders.items() if count > MOST_FILES}


# -- docstrings ---------------------------------------------------------------------------------------------------------

# `name: what it is`, as docstrings explain parameters and fields
NAMED = re.compile(r"(?:^|[.;] )([a-z_][a-z_0-9]*(?:, [a-z_][a-z_0-9]*)*): ")


def names_of(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """A function's parameters, or all that a class has."""
    if isinstance(node, ast.FunctionDef):
        return {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    parts = [n for n in ast.walk(node) if isinstance(n, ast.Attribute | ast.arg | ast.Name | ast.FunctionDef)]
    return {getattr(n, "attr", None) or getattr(n, "arg", None) or getattr(n, "id", None) or n.name for n in parts}  # type: ignore[union-attr]


def test_what_a_docstring_explains_is_there() -> None:
    for file in sources("pipeline", "steps"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or is_kernel(node):
                continue
            text = " ".join((ast.get_docstring(node) or "").split())
            named = {name for words in NAMED.findall(text) for name in words.split(", ")}
            assert named <= names_of(node), f"{file.relative_to(ROOT)}, {node.name}: {named - names_of(node)}"
