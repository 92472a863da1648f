"""`python -m tests`: the whole suite, as `make test` runs it, with the minutes of each phase.

What needs no cluster runs on two processes while the cluster is built and started. Once that is up, the tests that take its store
or controller away run beside them, one after the other: they mostly wait. Then follow the cluster's other tests, three files
beside each other, and last those that end the cluster. The last line is pytest's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from tests.cluster.conftest import begin

LAST = "tests/cluster/test_node.py"
WITHOUT_CLUSTER = ("-n", "2", "--dist", "loadfile", "--ignore", "tests/cluster", "tests")
# the cluster's run in processes of xdist: these find it up, and leave it so
ALONE = ("-n", "1", "--no-loadscope-reorder", "-m", "alone", "--ignore", LAST, "tests/cluster")
TOGETHER = ("-n", "3", "-m", "not alone", "tests/cluster")
ENDING = ("-n", "1", "--no-loadscope-reorder", LAST)


def main() -> int:
    began = time.monotonic()
    begin()
    tell("without a cluster", began)
    with subprocess.Popen(pytest(WITHOUT_CLUSTER)) as without_cluster, tempfile.TemporaryFile("w+") as output:
        if hasattr(begin, "process"):
            begin.process.wait()
            print(f"\nthe cluster is up after {minutes(began)}", flush=True)
        with subprocess.Popen(pytest(ALONE), stdout=output, stderr=output) as alone:
            codes = [without_cluster.wait(), alone.wait()]
        tell("on the cluster, alone, beside the former and", began, "ended at")
        output.seek(0)
        print(output.read(), flush=True)
    for phase, words in (("on the cluster, together", TOGETHER), ("the cluster's end", ENDING)):
        tell(phase, began)
        codes.append(subprocess.run(pytest(words), check=False).returncode)
    return next((code for code in codes if code), 0)  # negative where a signal ended one


def pytest(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "pytest", *words]


def tell(phase: str, began: float, when: str = "from") -> None:
    print(f"\n{phase}, {when} {minutes(began)}", flush=True)


def minutes(began: float) -> str:
    return f"minute {(time.monotonic() - began) / 60:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
