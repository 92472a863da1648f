"""`python -m tests.benchmarks [NAME ...]`, names as in NAMES below; without any, all of them."""

from __future__ import annotations

import importlib
import os
import platform
import sys

from steps.runtime.supervisor import limit_blas_threads

NAMES = (
    "quality",
    "captures",
    "inputs",
    "registration",
    "foreign",
    "open3d",
    "nvdiffrec",
    "rasterizer",
    "gpu",
    "speed",
    "damage",
    "kill",
    "cluster",
    "gateway",
    "faults",
)


def main(names: list[str]) -> None:
    unknown = set(names) - set(NAMES)
    if unknown:
        raise SystemExit(f"There is no benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}.")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    limit_blas_threads()  # as the steps have it
    for name in names or NAMES:
        print(f"\n## {name}", flush=True)
        importlib.import_module(f"tests.benchmarks.{name}_benchmark").main()


if __name__ == "__main__":
    main(sys.argv[1:])
