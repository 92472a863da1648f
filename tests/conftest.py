"""What the tests share: small sample sets, made once per session by the project's own commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.runtime.supervisor import limit_blas_threads

limit_blas_threads()
CI = bool(os.environ.get("CI"))
SIZE = 128  # small: proves the wiring; the benchmarks run the full size


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's tests come last; of them those that read jobs which have run since the first one, then those that restart its
    store, and last of all its end."""
    order = (
        "tests/cluster/",
        "test_success.py",
        "test_failures.py",
        "test_retries.py",
        "test_drops.py",
        "test_node.py",
    )
    items.sort(key=lambda item: [part in item.nodeid for part in reversed(order)])


def pytest_collection_finish(session: pytest.Session) -> None:
    """The cluster is begun with the first test, where one of the chosen tests will need it."""
    from tests.cluster.conftest import begin

    if any("tests/cluster/" in item.nodeid for item in session.items) and not session.config.option.collectonly:
        begin()


def need(condition: bool, what: str) -> None:
    """Skips on a laptop what it lacks; in CI its absence is a failure."""
    if condition:
        return
    if CI:
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


def sixview(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does."""
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """sample_set("mug", "--depth-bits", 8) -> folder; each kind is made once."""
    made: dict[tuple[object, ...], Path] = {}

    def make(name: str, *flags: object) -> Path:
        key = (name, *flags)
        if key not in made:
            folder = tmp_path_factory.mktemp("sample") / Path(name).stem
            size = () if "--size" in flags else ("--size", SIZE)
            done = sixview("sample", folder, "--object", name, *size, *flags)
            assert done.returncode == 0, done.stderr
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def duck(sample_set: Callable[..., Path]) -> Path:
    return sample_set("duck")


@pytest.fixture
def set_copy(duck: Path, tmp_path: Path) -> Path:
    """An input set that a test may damage."""
    for field in ("multi_views", "depth_renders"):
        shutil.copytree(duck / field, tmp_path / "set" / field)
    shutil.copy(duck / "cameras.json", tmp_path / "set")
    return tmp_path / "set"


class Finished:
    """A finished job: the folder, and what the command printed with --json."""

    def __init__(self, out: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.out, self.code = out, done.returncode
        self.summary = json.loads(done.stdout)


@pytest.fixture(scope="session")
def job(duck: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole job on the small duck."""
    out = tmp_path_factory.mktemp("job") / "out"
    done = sixview("run", duck, "--out", out, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(out, done)
