"""nvdiffrec on a CUDA device: speed, memory per rung against the prediction, a real out-of-memory and the rung after it, and the
same losses as on the CPU."""

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
from steps.nvdiffrec import ladder
from steps.nvdiffrec.ladder import SAMPLES, MemoryLevel
from steps.nvdiffrec.second_pass import SecondPass
from steps.nvdiffrec.targets import targets
from steps.runtime.attempts import Attempts
from steps.runtime.files import write_json
from tests.benchmarks.common import WORK, job, sample, table

ITERATIONS = 20
TOLERANCE = 0.02  # between the losses of CPU and GPU: sums come in another order


def main() -> None:
    """Prints tables; without a GPU says so."""
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: nothing was measured.")
        return
    print(torch.cuda.get_device_name())
    table(
        ["px", "batch", "iterations/s", "peak MiB", "predicted MiB"],
        [_speed(s, b) for s in (512, 1024) for b in (6, 3, 1)],
    )
    _same_losses()
    _out_of_memory()


def _scene(side: int) -> Path:
    source, out = sample("mug", side), WORK / "jobs" / f"mug_{side}"
    if not (out / "outputs.json").exists():
        job(source, out)
    return out / ".sixview" / "scene"


def _second_pass(side: int, device: str) -> tuple[SecondPass, Any]:
    views = scene.load(_scene(side)).views
    mesh, metadata = reconstruct.reconstruct(views, reconstruct.Settings(resolution=side))
    seen = targets(views, side, metadata["voxel"], device)
    return SecondPass(mesh, 4 * ITERATIONS, seen, device), seen


def _speed(side: int, batch: int) -> list[object]:
    optimization, seen = _second_pass(side, "cuda")
    optimization.step(0, seen, SAMPLES, batch)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for i in range(ITERATIONS):
        optimization.step(i, seen, SAMPLES, batch)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() >> 20
    predicted = ladder.estimate(MemoryLevel(batch, side, 64), len(optimization.mesh.texture)) >> 20
    return [side, batch, ITERATIONS / (time.perf_counter() - began), peak, predicted]


def _same_losses() -> None:
    curves = []
    for device in ("cpu", "cuda"):
        optimization, seen = _second_pass(256, device)
        curves.append([optimization.step(i, seen, SAMPLES, 6) for i in range(ITERATIONS)])
    worst = max(abs(a - b) / a for a, b in zip(*curves, strict=True))
    print(
        f"losses on CPU and GPU differ by at most {100 * worst:.3f} %: {'same' if worst < TOLERANCE else 'DIFFERENT'}"
    )


def _out_of_memory() -> None:
    """The step under a limit on its share of the device that the first rung breaks and a later one keeps."""
    folder = WORK / "gpu_oom"
    folder.mkdir(parents=True, exist_ok=True)
    attempts = folder / "attempts.json"
    attempts.unlink(missing_ok=True)
    total = torch.cuda.get_device_properties(0).total_memory
    share = 0.6 * ladder.estimate(MemoryLevel(6, 512, 64), 1024) / total
    code = (
        f"import torch; torch.cuda.set_per_process_memory_fraction({share}); "
        "from steps.nvdiffrec import run; run.free_memory = lambda device: None; "  # the prediction must not prevent it
        "from steps.runtime.supervisor import main; raise SystemExit(main('nvdiffrec'))"
    )
    for _ in range(6):
        words = [
            "--scene",
            _scene(512),
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
        print(f"batch {last['batch']}, {last['resolution']} px: exit {done.returncode}, {said}")
        if not failed:
            break
    write_json(folder / "summary.json", Attempts(attempts).earlier)
