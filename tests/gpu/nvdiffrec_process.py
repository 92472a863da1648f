"""The parts of the section nvdiffrec that compute, each in a process of its own, which prints a JSON value a line:

speed SCENE PX ITERATIONS DEVICE BATCH ...     a dictionary for each batch
losses SCENE PX ITERATIONS DEVICE ...          a list for each device
step SCENE MIB|double FLAG ...                 the step itself, with so much memory of the device"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steps.fusion import reconstruct
from steps.io import scene
from steps.nvdiffrec import run
from steps.nvdiffrec.memory_levels import SAMPLES
from steps.nvdiffrec.second_pass import SecondPass
from steps.nvdiffrec.targets import targets
from steps.runtime import supervisor

ALL_VIEWS = 6


@functools.cache
def start(folder: str, side: int) -> tuple[Any, Any, float]:
    """The views, the mesh of depth fusion, and the size of its voxels."""
    views = scene.load(Path(folder)).views
    settings = reconstruct.Settings(resolution=side, grid=min(256, side), faces=min(20000, 40 * side))
    mesh, metadata = reconstruct.reconstruct(views, settings)
    return views, mesh, metadata["voxel"]


def second_pass(folder: str, side: int, device: str, iterations: int) -> tuple[SecondPass, Any]:
    views, mesh, voxel = start(folder, side)
    seen = targets(views, side, voxel, device)
    return SecondPass(mesh, 4 * iterations, seen, device), seen


def speed(folder: str, side: str, iterations: str, device: str, *batches: str) -> None:
    for batch in map(int, batches):
        optimization, seen = second_pass(folder, int(side), device, int(iterations))
        optimization.step(0, seen, SAMPLES, batch)  # compiles
        on_gpu = device == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for i in range(int(iterations)):
            optimization.step(i, seen, SAMPLES, batch)
        if on_gpu:
            torch.cuda.synchronize()
        told = {
            "batch": batch,
            "iterations_per_second": int(iterations) / (time.perf_counter() - began),
            "peak_mib": torch.cuda.max_memory_allocated() >> 20 if on_gpu else None,
            "texture_size": len(optimization.mesh.texture),
        }
        print(json.dumps(told), flush=True)


def losses(folder: str, side: str, iterations: str, *devices: str) -> None:
    for device in devices:
        optimization, seen = second_pass(folder, int(side), device, int(iterations))
        print(json.dumps([optimization.step(i, seen, SAMPLES, ALL_VIEWS) for i in range(int(iterations))]), flush=True)


def step(_folder: str, memory: str, *_flags: str) -> None:
    """The step as a pod runs it, but for its free memory, which is not asked: the prediction must not prevent what is to be
    seen."""
    changed: Any = run
    changed.free_memory = lambda _device: None
    if memory == "double":
        changed._run_level = full_with_several_views(run._run_level)
    else:
        changed.device_for = limited_to(int(memory) << 20, run.device_for)
    sys.argv[1:] = sys.argv[4:]
    raise SystemExit(supervisor.main("nvdiffrec"))


def limited_to(most: int, device_for: Callable[..., str]) -> Callable[..., str]:
    """The choice of the device, after which this process may allocate so many bytes of it. It is made in the step's child: CUDA
    that its parent had begun with would not work there."""

    def chosen(*words: Any) -> str:
        device = device_for(*words)
        torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
        return device

    return chosen


def full_with_several_views(run_level: Callable[..., None]) -> Callable[..., None]:
    """A double of a device whose memory has room for one view at a time."""

    def limited(parameters: Any, loaded: Any, choice: Any, *rest: Any) -> None:
        if choice.level.batch > 1:
            raise torch.OutOfMemoryError("A double of a GPU says that its memory is full.")
        run_level(parameters, loaded, choice, *rest)

    return limited


if __name__ == "__main__":
    parts: dict[str, Callable[..., None]] = {"speed": speed, "losses": losses, "step": step}
    parts[sys.argv[1]](*sys.argv[2:])
