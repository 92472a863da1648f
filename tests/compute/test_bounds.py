"""No kernel reads or writes beyond its arrays, whatever it is given: all are run with numba's bounds check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_kernel_stays_within_bounds_over_degenerate_meshes_and_cameras(pytestconfig: pytest.Config) -> None:
    """In a process of its own, whose compiled kernels, slower by the check, lie in a cache of their own."""
    cache = pytestconfig.cache.mkdir("bounded") if pytestconfig.cache else ROOT / ".pytest_cache"
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "ignore", "-c", "from tests.compute import bounded; bounded.main()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "checked" and len(lines) > 8
    assert not [line for line in lines if line.startswith("failed")], done.stderr
    assert not [line for line in lines if line.startswith("missed")], "kernels without a case in bounded.py"


COMPILERS = ("compute/kernels.py", "compute/per_device.py", "compute/cuda.py")


def test_kernels_are_compiled_only_where_that_test_looks_for_them() -> None:
    for path in (ROOT / "steps").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "numba" for name in names):
                assert path.relative_to(ROOT / "steps").as_posix() in COMPILERS, path
