"""What the whole suite prints last (tests/__main__.py): every phase's failures, in a line each, and their sum."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import __main__ as suite

TESTS = """
import pytest

def test_well(): pass

def test_wrong():
    value = 1
    assert value == 2, "two\\nlines"

@pytest.fixture
def broken(): raise OSError("no disk")

def test_without_a_disk(broken): pass

@pytest.mark.skip(reason="no display")
def test_of_a_display(): pass
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of two runs of pytest itself: with failures, and without."""
    folder = tmp_path_factory.mktemp("phases")
    for name, tests in (("test_first.py", TESTS), ("test_later.py", "def test_well(): pass")):
        (folder / name).write_text(tests)
        words = ["-p", "no:cacheprovider", "-p", "no:schemathesis", f"--junit-xml={folder / name}.xml", name]
        subprocess.run([sys.executable, "-m", "pytest", *words], cwd=folder, capture_output=True, check=False)
    return folder / "test_first.py.xml", folder / "test_later.py.xml"


def test_the_failures_of_every_phase_stand_in_the_last_lines(results: tuple[Path, Path], tmp_path: Path) -> None:
    for number in range(len(suite.PHASES)):
        shutil.copy(results[number > 0], tmp_path / f"{number}.xml")
    _, wrong, broken, last = suite.closing(tmp_path, time.monotonic()).splitlines()
    assert wrong == "FAILED test_first::test_wrong - AssertionError: two lines assert 1 == 2"
    assert broken == 'ERROR test_first::test_without_a_disk - failed on setup with "OSError: no disk"'
    assert " 1 failed, 4 passed, 1 skipped, 1 error in " in last


def test_a_phase_that_ends_without_results_is_an_error(results: tuple[Path, Path], tmp_path: Path) -> None:
    for number in range(len(suite.PHASES) - 1):
        shutil.copy(results[1], tmp_path / f"{number}.xml")
    _, line, last = suite.closing(tmp_path, time.monotonic()).splitlines()
    assert line == f"ERROR pytest {' '.join(suite.ENDING)}: it ended without results"
    assert " 3 passed, 1 error in " in last
