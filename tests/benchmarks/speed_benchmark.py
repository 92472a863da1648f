"""How long `sixview run` takes, where the time goes, and what the very first run adds."""

from __future__ import annotations

import cProfile
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from steps.fusion import reconstruct
from steps.io import mesh_files, scene
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
# of a fusion: function, what it does, and what can compute it
PARTS = (
    ("signed_field", "signed field", "CPU, CUDA"),
    ("consensus_band", "of that: how far the views disagree", "CPU"),
    ("marching_cubes", "marching cubes (scikit-image)", "CPU"),
    ("without_specks", "components (SciPy)", "CPU"),
    ("taubin", "smoothing", "CPU, CUDA"),
    ("resolve_crossings", "faces that cross", "CPU"),
    ("decimate_safely", "decimation (fast-simplification, own collapse)", "CPU"),
    ("unwrap", "atlas (xatlas)", "CPU"),
    ("bake", "texture", "CPU, CUDA"),
    ("_inpaint_unseen", "of that: texels that no view saw (SciPy's k-d tree)", "CPU"),
    ("save", "files", "CPU"),
)
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
    parts = [parts_of_fusion(WORK / f"speed_{size}_{bits}") for size, bits in inputs]
    header = ("part of fusion", "computed on", *(f"{name}, s" for name in steps))
    seconds = zip(*parts, strict=True)
    run.table("Parts of fusion", header, [[what, on, *s] for (_, what, on), s in zip(PARTS, seconds, strict=True)])


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


def parts_of_fusion(out: Path) -> list[float]:
    """Seconds of each of PARTS, on the CPU, with all that it calls. out: of a run."""
    loaded, profile = scene.load(out / ".sixview" / "scene"), cProfile.Profile()
    reconstruct.reconstruct(loaded.views, reconstruct.Settings(grid=64))  # loads the kernels
    with tempfile.TemporaryDirectory() as folder:
        profile.enable()
        mesh, _ = reconstruct.reconstruct(loaded.views, reconstruct.Settings(exact=loaded.exact))
        mesh_files.save(Path(folder), mesh, loaded.frame)
        profile.disable()
    seconds: dict[str, float] = {}
    for function in profile.getstats():
        name = getattr(function.code, "co_name", "")
        seconds[name] = seconds.get(name, 0.0) + function.totaltime
    return [seconds.get(name, 0.0) for name, _, _ in PARTS]


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
