"""How long `sixview run` takes, where the time goes, and what the very first run adds."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from steps.runtime.files import read_json
from tests.benchmarks.common import COARSE, WORK, job, sample
from tests.benchmarks.records import Run

INPUTS = ((512, 16), (512, 8), (2048, 16))  # pixels per side, bits of depth
HEADER = (
    "input",
    "whole run, s",
    "model, s",
    "quality, s",
    "preview, s",
    "beyond the arithmetic, s",
    "most memory in a step, MiB",
)
STEPS = ("step", "seconds, s", "of that start, s", "of that compiling, s", "most memory, MiB", "stages")
OF_MODEL = ("reconviagen", "reconviagen.quality", "reconviagen.preview")
VALUES = ("seconds", "startup-seconds", "compile-seconds", "peak-ram-mib")


def main(run: Run) -> None:
    inputs = run.size(INPUTS, ((64, 16),))
    flags = run.size((), COARSE)
    first = first_run(sample("mug", *inputs[0]), flags)
    rows, steps = [], {}
    for size, bits in inputs:
        out, name = WORK / f"speed_{size}_{bits}", f"{size} px, {bits}-bit"
        summary = job(sample("mug", size, bits), out, *flags)
        steps[name] = steps_of(out)
        rows.append([name, *whole(steps[name], summary["seconds"])])
    run.table("", HEADER, rows)
    run.table("", ("very first run, s", "second run, s", "the first spent compiling, s"), [first])
    for name, of_run in steps.items():
        run.table(f"Steps, {name}", STEPS, [row(*step) for step in of_run.items()])


def first_run(source: Path, flags: tuple[str, ...]) -> list[float]:
    """Seconds with an empty kernel cache, then with the one this leaves, and what the first spent compiling."""
    out, before = WORK / "speed_first", os.environ.get("NUMBA_CACHE_DIR")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache
        cold = job(source, out, *flags)["seconds"]
        compiling = sum(float(step["compile-seconds"]) for step in steps_of(out).values())
        warm = job(source, out, *flags)["seconds"]
        del os.environ["NUMBA_CACHE_DIR"]
    os.environ.update({"NUMBA_CACHE_DIR": before} if before else {})
    shutil.rmtree(out)
    return [cold, warm, compiling]


def steps_of(out: Path) -> dict[str, Any]:
    """run.json's steps, and the package step, which cannot describe itself there."""
    outputs = out / ".sixview" / "outputs" / "package"
    package = {name: (outputs / name).read_text() for name in VALUES} | {"stages": read_json(outputs / "stages.json")}
    return {**read_json(out / ".sixview" / "package" / "run.json")["steps"], "package": package}


def whole(steps: dict[str, Any], seconds: float) -> list[float]:
    """A run's row in the first table. Beyond the arithmetic: process starts, imports, checking and linking results."""
    # the model's first stage does nothing but load its engine
    stages = [stage for step in steps.values() for stage in step["stages"] if stage["stage"] != "weight_loading"]
    imports = sum(float(step["startup-seconds"]) for name, step in steps.items() if name != "reconviagen")
    beyond = seconds - sum(stage["seconds"] for stage in stages) + imports
    of_steps = [float(steps[name]["seconds"]) for name in OF_MODEL]
    return [seconds, *of_steps, beyond, max(int(step["peak-ram-mib"]) for step in steps.values())]


def row(name: str, step: dict[str, Any]) -> list[object]:
    stages = ", ".join(f"{stage['stage']} {stage['seconds']:.1f}" for stage in step["stages"])
    return [name, *(float(step[value]) for value in VALUES[:3]), int(step["peak-ram-mib"]), stages]
