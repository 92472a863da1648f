"""`python -m tests`: the whole suite, as `make test` runs it, with the minutes of each phase.

What needs no cluster runs on two processes while the cluster is built and started beside it. Then the cluster's tests run, three
files beside each other, since most of the time they wait for pods; and last, one after the other, those that take the cluster's
store or controller away. The last line is pytest's."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.cluster.conftest import begin

WITHOUT_CLUSTER = ("-n", "2", "--dist", "loadfile", "--ignore", "tests/cluster", "tests")
TOGETHER = ("-n", "3", "-m", "not alone", "tests/cluster")
# in a process that finds the cluster up, as those before; in the order of tests/conftest.py, for the last test ends the cluster
ALONE = ("-n", "1", "--no-loadscope-reorder", "-m", "alone", "tests/cluster")


def main() -> int:
    began = time.monotonic()
    begin()
    codes = [run("without a cluster", began, *WITHOUT_CLUSTER)]
    if hasattr(begin, "process"):
        begin.process.wait()
        print(f"the cluster is up after {minutes(began)}", flush=True)
    codes += [run("on the cluster, together", began, *TOGETHER), run("on the cluster, alone", began, *ALONE)]
    return next((code for code in codes if code), 0)  # negative where a signal ended one


def run(phase: str, began: float, *words: str) -> int:
    """pytest's exit code."""
    print(f"\n{phase}, from {minutes(began)} on", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


def minutes(began: float) -> str:
    return f"minute {(time.monotonic() - began) / 60:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
