"""nvdiffrec on a CUDA device: speed, memory per level against the prediction, a real out-of-memory and the level after it, and
the same losses as on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from steps.fusion import reconstruct
from steps.io import scene
from steps.nvdiffrec import memory_levels
from steps.nvdiffrec.memory_levels import SAMPLES, MemoryLevel
from steps.nvdiffrec.second_pass import SecondPass
from steps.nvdiffrec.targets import targets
from steps.runtime.attempts import Attempts
from tests.benchmarks.common import WORK, job_of, sample
from tests.benchmarks.records import Run

TOLERANCE = 0.02  # between the losses of CPU and GPU: sums come in another order


def main(run: Run) -> None:
    """Three tables; without a GPU a sentence that says so."""
    if not torch.cuda.is_available():
        run.note("torch finds no CUDA device: nothing was measured.")
        return
    iterations, sides = run.size(20, 2), run.size((512, 1024), (128,))
    speeds = [_speed(side, batch, iterations) for side in sides for batch in (6, 3, 1)]
    run.table("", ("px", "batch", "iterations a second", "most memory, MiB", "predicted, MiB"), speeds)
    worst = _difference(run.size(256, 128), iterations)
    said = "same" if worst < TOLERANCE else "DIFFERENT"
    run.table("Losses on CPU and GPU", ("largest difference, %", "verdict"), [[100 * worst, said]])
    run.table("Out of memory", ("batch", "px", "exit code", "ended"), _out_of_memory(sides[0]))


def _scene(side: int) -> Path:
    return job_of(sample("mug", side)) / ".sixview" / "scene"


def _second_pass(side: int, device: str, iterations: int) -> tuple[SecondPass, Any]:
    views = scene.load(_scene(side)).views
    mesh, metadata = reconstruct.reconstruct(views, reconstruct.Settings(resolution=side))
    seen = targets(views, side, metadata["voxel"], device)
    return SecondPass(mesh, 4 * iterations, seen, device), seen


def _speed(side: int, batch: int, iterations: int) -> list[object]:
    optimization, seen = _second_pass(side, "cuda", iterations)
    optimization.step(0, seen, SAMPLES, batch)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for i in range(iterations):
        optimization.step(i, seen, SAMPLES, batch)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() >> 20
    predicted = memory_levels.estimate(MemoryLevel(batch, side, 64), len(optimization.mesh.texture)) >> 20
    return [side, batch, iterations / (time.perf_counter() - began), peak, predicted]


def _difference(side: int, iterations: int) -> float:
    """The largest relative difference between a loss on the CPU and on the GPU."""
    curves = []
    for device in ("cpu", "cuda"):
        optimization, seen = _second_pass(side, device, iterations)
        curves.append([optimization.step(i, seen, SAMPLES, 6) for i in range(iterations)])
    return max(abs(a - b) / a for a, b in zip(*curves, strict=True))


def _out_of_memory(side: int) -> list[list[object]]:
    """The step's attempts under a limit on its share of the device that the first level breaks and a later one keeps."""
    rows: list[list[object]] = []
    folder = WORK / "gpu_oom"
    folder.mkdir(parents=True, exist_ok=True)
    attempts = folder / "attempts.json"
    attempts.unlink(missing_ok=True)
    total = torch.cuda.get_device_properties(0).total_memory
    share = 0.6 * memory_levels.estimate(MemoryLevel(6, side, 64), 1024) / total
    code = (
        f"import torch; torch.cuda.set_per_process_memory_fraction({share}); "
        "from steps.nvdiffrec import run; run.free_memory = lambda device: None; "  # the prediction must not prevent it
        "from steps.runtime.supervisor import main; raise SystemExit(main('nvdiffrec'))"
    )
    for _ in range(6):
        words = [
            "--scene",
            _scene(side),
            "--out",
            folder / "out",
            "--outputs",
            folder / "outputs",
            "--attempts",
            attempts,
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
        )
        record = folder / "outputs" / "failure.json"
        failed = json.loads(record.read_text()) if record.exists() else None
        last = Attempts(attempts).earlier[-1]
        said = f"{failed['code']} in {failed['details']['pipeline_stage']}" if failed else "completed"
        rows.append([last["batch"], last["resolution"], done.returncode, said])
        if not failed:
            break
    return rows
