"""`python -m tests`: the whole suite, as `make test` runs it, with the minutes of each phase.

What needs no cluster runs on two processes while the cluster is built and started beside it; then the cluster's tests run, one
after the other. The last line is pytest's."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.cluster.conftest import begin

WITHOUT_CLUSTER = ("-n", "2", "--dist", "loadfile", "--ignore", "tests/cluster", "tests")


def main() -> int:
    started = time.monotonic()
    begin()
    fast = subprocess.run([sys.executable, "-m", "pytest", *WITHOUT_CLUSTER], check=False).returncode
    print(f"\nwithout a cluster: {(time.monotonic() - started) / 60:.1f} minutes, exit code {fast}", flush=True)
    if hasattr(begin, "process"):
        begin.process.wait()
        print(f"the cluster is up after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    return int(fast or pytest.main(["tests/cluster"]))


if __name__ == "__main__":
    raise SystemExit(main())
