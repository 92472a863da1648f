"""The few packages that a machine with torch, numba-cuda and CuPy lacks: as wheels in a folder, used without being installed.

Standard library only: it runs before there are any packages."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "run.txt"
VARIABLE = "SIXVIEW_GPU_WHEELS"
CARRIED = (
    "attrs",
    "fast-simplification",
    "jsonschema",
    "jsonschema-specifications",
    "markupsafe",
    "nvidia-ml-py",
    "referencing",
    "rpds-py",
    "trimesh",
    "xatlas",
)
MOST_MIB = 60
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# what the kit and the steps import; of these the machine has all but CARRIED
NEEDED = (
    *("click", "cupy", "fast_simplification", "jinja2", "jsonschema", "markupsafe", "numba", "numba_cuda", "numpy"),
    *("PIL", "pynvml", "rich", "scipy", "skimage", "torch", "trimesh", "xatlas"),
)


def carry(folder: Path) -> int:
    """Downloads the wheels for Python 3.12 on x86-64, of the lock's versions and hashes. Returns pip's exit code, or 1 where they
    are larger than such a machine is given."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        chosen = Path(work) / "carried.txt"
        chosen.write_text("".join(locked(name) for name in CARRIED))
        platforms = [word for one in PLATFORMS for word in ("--platform", one)]
        words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(chosen)]
        where = ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
        done = subprocess.run([*pip(), *words, *where], check=False)
    if done.returncode:
        return done.returncode
    wheels = sorted(folder.glob("*.whl"))
    total = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print("\n".join(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}" for wheel in wheels))
    print(f"{total:6.2f} MiB together, of at most {MOST_MIB}")
    return int(total > MOST_MIB)


def locked(name: str) -> str:
    """A package's lines in the lock: its version and the hashes of its files."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", LOCK.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{name} is not in {LOCK.name}"
    lines = [line for line in found[0].splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines) + "\n"


def pip() -> list[str]:
    """The command of pip: this Python's, or uv's."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")]))
    assert uv, "There is neither pip nor uv."
    return [uv, "tool", "run", "pip"]


@contextlib.contextmanager
def unpacked(folder: Path | None) -> Iterator[Path]:
    """A temporary folder on sys.path with those of the wheels in `folder` that this Python has not installed."""
    with tempfile.TemporaryDirectory(prefix="sixview-wheels-") as work:
        for wheel in sorted(Path(folder).glob("*.whl")) if folder else []:
            if not is_installed(wheel.name.split("-")[0]):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(work)
        name_project(Path(work))
        sys.path.append(work)
        yield Path(work)
        sys.path.remove(work)


def name_project(folder: Path) -> None:
    """Says the project's version where it is not installed: its command asks for it."""
    if is_installed("sixview"):
        return
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    described = folder / f"sixview-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sixview\nVersion: {version}\n")


def is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def missing(names: Sequence[str] = NEEDED) -> list[str]:
    """Of the packages those that Python does not find."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def give_to_children(folder: Path) -> None:
    """From now on this process's children find the project and the unpacked wheels."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", ""), str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
