"""How long `sixview run` takes, where the time goes, and what the very first run adds."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from steps.runtime.files import read_json
from tests.benchmarks.common import WORK, job, sample, table

HEADER = ["step", "seconds", "of that: start", "compiling", "peak RAM MiB", "stages"]
VALUES = ("seconds", "startup-seconds", "compile-seconds", "peak-ram-mib")


def main() -> None:
    first_run(sample("mug"))
    for size, bits in ((512, 16), (512, 8), (2048, 16)):
        out = WORK / f"speed_{size}_{bits}"
        summary = job(sample("mug", size, bits), out)
        print(f"\nmug, {size} px, {bits}-bit depth: {summary['seconds']} s")
        print_steps(steps_of(out), summary)


def first_run(source: Path) -> None:
    """With an empty kernel cache, then with the one this leaves."""
    out = WORK / "speed_first"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache
        cold = job(source, out)["seconds"]
        compiling = sum(float(step["compile-seconds"]) for step in steps_of(out).values())
        warm = job(source, out)["seconds"]
        del os.environ["NUMBA_CACHE_DIR"]
    shutil.rmtree(out)
    print(
        f"first run {cold} s, second {warm} s: the first adds {cold - warm:.1f} s; it spent {compiling:.1f} s compiling"
    )


def steps_of(out: Path) -> dict[str, Any]:
    """run.json's steps, and the package step, which cannot describe itself there."""
    outputs = out / ".sixview" / "outputs" / "package"
    package = {name: (outputs / name).read_text() for name in VALUES} | {"stages": read_json(outputs / "stages.json")}
    return {**read_json(out / ".sixview" / "package" / "run.json")["steps"], "package": package}


def print_steps(steps: dict[str, Any], summary: dict[str, Any]) -> None:
    """A row per step, and the time that is neither arithmetic nor writing."""
    table(HEADER, [row(name, step) for name, step in steps.items()])
    # the model's first stage does nothing but load its engine
    stages = [stage for step in steps.values() for stage in step["stages"] if stage["stage"] != "weight_loading"]
    imports = sum(float(step["startup-seconds"]) for name, step in steps.items() if name != "reconviagen")
    beyond = summary["seconds"] - sum(stage["seconds"] for stage in stages) + imports
    print(f"beyond the arithmetic: {beyond:.1f} s (process starts, imports, checking and linking results)")


def row(name: str, step: dict[str, Any]) -> list[object]:
    stages = ", ".join(f"{stage['stage']} {stage['seconds']:.1f}" for stage in step["stages"])
    return [name, *(float(step[value]) for value in VALUES[:3]), int(step["peak-ram-mib"]), stages]
