"""`python -m tests`: the whole suite, as `make test` runs it, with the minutes of each phase.

What needs no cluster runs on two processes while the cluster is built and started. Once that is up, the tests that take its store
or controller away run beside them, one after the other: they mostly wait. Then follow the cluster's other tests, three files
beside each other, and last those that end the cluster. The output ends with every failure of every phase, in a line each, and
their sum, so that what failed in the first phase need not be looked for above the others' output."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.conftest import begin

LAST = "tests/cluster/test_node.py"
WITHOUT_CLUSTER = ("-n", "2", "--dist", "loadfile", "--ignore", "tests/cluster", "tests")
# the cluster's run in processes of xdist: these find it up, and leave it so
ALONE = ("-n", "1", "--no-loadscope-reorder", "-m", "alone", "--ignore", LAST, "tests/cluster")
TOGETHER = ("-n", "3", "-m", "not alone", "tests/cluster")
ENDING = ("-n", "1", "--no-loadscope-reorder", LAST)
PHASES = (WITHOUT_CLUSTER, ALONE, TOGETHER, ENDING)
LINE = 300  # characters of a failure's line


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        codes = run_phases(results, began)
        print(closing(results, began), flush=True)
    return next((code for code in codes if code), 0)  # negative where a signal ended one


def run_phases(results: Path, began: float) -> list[int]:
    begin()
    tell("without a cluster", began)
    with subprocess.Popen(pytest(WITHOUT_CLUSTER, results)) as without_cluster, tempfile.TemporaryFile("w+") as output:
        if hasattr(begin, "process"):
            begin.process.wait()
            print(f"\nthe cluster is up after {minutes(began)}", flush=True)
        with subprocess.Popen(pytest(ALONE, results), stdout=output, stderr=output) as alone:
            codes = [without_cluster.wait(), alone.wait()]
        tell("on the cluster, alone, beside the former and", began, "ended at")
        output.seek(0)
        print(output.read(), flush=True)
    for phase, words in (("on the cluster, together", TOGETHER), ("the cluster's end", ENDING)):
        tell(phase, began)
        codes.append(subprocess.run(pytest(words, results), check=False).returncode)
    return codes


def pytest(words: tuple[str, ...], results: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", f"--junit-xml={results / str(PHASES.index(words))}.xml", *words]


def closing(results: Path, began: float) -> str:
    """A line for each failure of the phases' results (JUnit's XML), and one with their sum, as pytest words it."""
    tests, lines = [], []
    for number, words in enumerate(PHASES):
        file = results / f"{number}.xml"
        if file.exists():
            tests += ElementTree.parse(file).getroot().iter("testcase")
        else:
            lines.append(f"ERROR pytest {' '.join(words)}: it ended without results")
    counts = dict.fromkeys(("failed", "passed", "skipped", "errors"), 0)
    for test in tests:
        outcome, said = outcome_of(test)
        counts[outcome] += 1
        if outcome in ("failed", "errors"):
            lines.append(f"{outcome.upper().rstrip('S')} {test.get('classname')}::{test.get('name')} - {said}"[:LINE])
    counts["errors"] += sum(1 for line in lines if line.startswith("ERROR pytest"))
    said = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number).replace(
        "1 errors", "1 error"
    )
    return "\n".join(["", *lines, f" {said} in {time.monotonic() - began:.2f}s ".center(80, "=")])


def outcome_of(test: ElementTree.Element) -> tuple[str, str]:
    """`(outcome, message)` of a test, the message on one line."""
    for tag, outcome in (("failure", "failed"), ("error", "errors"), ("skipped", "skipped")):
        if (found := test.find(tag)) is not None:
            return outcome, " ".join((found.get("message") or "").split())
    return "passed", ""


def tell(phase: str, began: float, when: str = "from") -> None:
    print(f"\n{phase}, {when} {minutes(began)}", flush=True)


def minutes(began: float) -> str:
    return f"minute {(time.monotonic() - began) / 60:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
