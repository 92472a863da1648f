"""`python -m tests.benchmarks [--smallest] [NAME ...]`, names as in records.BENCHMARKS; without any, all of them.

Each prints its tables and leaves a record of them (records.py). The smallest form proves in seconds that a benchmark runs; its
figures say nothing."""

from __future__ import annotations

import argparse
import importlib

from steps.runtime.supervisor import limit_blas_threads
from tests.benchmarks.records import BENCHMARKS, Run, machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--smallest", action="store_true", help="one small object, few iterations")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    limit_blas_threads()  # as the steps have it
    for name in given.names or BENCHMARKS:
        print(f"\n## {name}", flush=True)
        run = Run(name, given.smallest)
        importlib.import_module(f"tests.benchmarks.{name}_benchmark").main(run)
        print(f"\nrecord: {run.save()}", flush=True)


if __name__ == "__main__":
    main()
