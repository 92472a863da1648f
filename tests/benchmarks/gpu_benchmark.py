"""The GPU kit (tests/gpu): kernels, whole jobs, times, and nvdiffrec's memory on a GPU. Its smallest form is the rehearsal."""

from __future__ import annotations

from tests.benchmarks.records import Run
from tests.gpu import kit


def main(run: Run) -> None:
    kit.as_benchmark(run)
