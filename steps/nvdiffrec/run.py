"""nvdiffrec: a scene in, a textured mesh with material out, by differentiable rendering."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from steps.compute.device import choose
from steps.io import mesh_files, scene
from steps.nvdiffrec import memory_levels
from steps.nvdiffrec.memory_levels import LevelChoice, MemoryLevel
from steps.runtime.attempts import Attempts
from steps.runtime.contract import START_MESH, Nvdiffrec
from steps.runtime.errors import GpuUnavailable, ModelFailed
from steps.runtime.files import program, tree_digests, write_json
from steps.runtime.reporter import Reporter


def run(parameters: Nvdiffrec, out: Path, reporter: Reporter) -> None:
    """Writes mesh.obj, .mtl, .ply, .glb, texture.png, texture_orm.png, texture_normal.png, START_MESH and model.json to `out`."""
    reporter.value("engine", "nvdiffrec")
    keep_freed_memory()
    device = device_for(parameters.device, reporter.note)
    set_up_torch(device)
    reporter.value("device", device)
    loaded = scene.load(parameters.scene)
    requested = requested_level(parameters, loaded, device)
    size = parameters.texture_size or _texture_size(loaded, parameters)
    attempts = Attempts(parameters.attempts)
    if attempts.note:
        reporter.note(attempts.note)
    levels = memory_levels.levels_of(requested.batch, requested.resolution, requested.grid)
    index, reason = memory_levels.choose(levels, attempts, size, free_memory(device))
    reporter.value("rungs-left", len(levels) - 1 - index)  # levels below: a public name
    choice = LevelChoice(levels[index], requested, reason)
    with _record_attempt(attempts, choice.level, device, reporter):
        _run_level(parameters, loaded, choice, device, reporter, out)


def _run_level(
    parameters: Nvdiffrec, loaded: scene.Scene, choice: LevelChoice, device: str, reporter: Reporter, out: Path
) -> None:
    from steps.nvdiffrec import reconstruct
    from steps.nvdiffrec.checkpoint import Checkpoint
    from steps.nvdiffrec.clock import Clock

    key = checkpoint_key(parameters, choice.level)
    checkpoint = Checkpoint(parameters.checkpoint, key, parameters.checkpoint_seconds)
    saved = checkpoint.load()
    if checkpoint.note:
        reporter.note(checkpoint.note)
    if saved:
        print(f"going on from the checkpoint {parameters.checkpoint}", file=sys.stderr)
    clock = Clock(reporter, 2 * parameters.iterations)
    job = reconstruct.Job(loaded, loaded.views, parameters, choice.level, device, checkpoint, clock, saved)
    first, start_metadata = reconstruct.start(job)
    for note in start_metadata.get("notes", []):
        reporter.note(note)
    reporter.stage("inference")
    mesh, metadata = reconstruct.optimize(job, first, start_metadata["voxel"])
    reporter.stage("export")
    mesh_files.save(out, mesh, loaded.frame)
    mesh_files.save_glb(out / START_MESH, first, loaded.frame)
    summary = {
        "model": "nvdiffrec",
        "engine": "nvdiffrec",
        "engine_reason": "the model has one engine",
        "device": device,
        "device_name": device_name(device),
        "seed": parameters.seed,
        "rung": reconstruct.level_metadata(choice),  # the memory level: a public name
        **start_metadata,
        "voxel": loaded.frame.length_out(start_metadata["voxel"]),
        **metadata,
        "texture_size": len(mesh.texture),
        "specular": mesh.material.specular if mesh.material else 0.0,
        "light": mesh.material.light.tolist() if mesh.material else None,
    }
    write_json(out / "model.json", {**summary, "faces": len(mesh.faces), "vertices": len(mesh.vertices)})
    checkpoint.clear()


def device_for(wanted: str, note: Callable[[str], None] = lambda sentence: None) -> str:
    """cpu or cuda. note: see `compute.device.choose`. Raises GpuUnavailable where cuda was wanted and is not there, ModelFailed
    where torch is not installed."""
    try:
        import torch
    except ImportError:
        raise ModelFailed(
            "The model nvdiffrec needs torch, which is not installed.", "Install it: make run MODEL=nvdiffrec does."
        ) from None
    if wanted != "cpu" and not torch.cuda.is_available():
        if wanted == "cuda":
            raise GpuUnavailable("A GPU was asked for, and torch finds none.")
        return "cpu"
    return choose(wanted, note)


def set_up_torch(device: str) -> None:
    """Limits torch to the container's cores (by default it counts the machine's), and makes its results on a CPU the same every
    time: its threads would add up the gradient of an index in the order in which they come. On CUDA, where our own kernels'
    sums come in no fixed order, that would cost time for nothing."""
    import torch

    from steps.compute.cores import core_count

    torch.set_num_threads(min(torch.get_num_threads(), core_count()))
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all is written before it is read


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def requested_level(parameters: Nvdiffrec, loaded: scene.Scene, device: str) -> MemoryLevel:
    """The highest memory level: the options, or the views as given, all in one batch on a GPU."""
    longest = max(max(view.camera.width, view.camera.height) for view in loaded.views)
    resolution = min(parameters.resolution or longest, longest)
    return MemoryLevel(parameters.batch or (len(loaded.views) if device == "cuda" else 1), resolution, parameters.grid)


def _texture_size(loaded: scene.Scene, parameters: Nvdiffrec) -> int:
    from steps.fusion import reconstruct as fusion

    return fusion.texture_size(loaded.views, parameters.resolution)


def free_memory(device: str) -> int | None:
    """Bytes free on the GPU, None for a CPU: the supervisor's guard watches over main memory."""
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.mem_get_info()[0])


def peak_vram_mib(device: str) -> int:
    if device == "cpu":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated()) >> 20


@contextlib.contextmanager
def _record_attempt(attempts: Attempts, level: MemoryLevel, device: str, reporter: Reporter) -> Iterator[None]:
    """Records whether the device's memory sufficed at this level, and its peak."""
    try:
        with attempts.recorded(level, lambda: peak_vram_mib(device)):
            yield
    finally:
        reporter.value("peak-vram-mib", peak_vram_mib(device))


def checkpoint_key(parameters: Nvdiffrec, level: MemoryLevel) -> str:
    """Digest of all a checkpoint depends on: the scene, options that change the result, the memory level, program and library
    versions."""
    import torch

    irrelevant = {
        "out",
        "outputs",
        "scene",
        "attempts",
        "checkpoint",
        "checkpoint_seconds",
        "deadline_seconds",
        "memory_limit_mib",
        "earlier_attempts",
    }
    relevant = {name: str(value) for name, value in asdict(parameters).items() if name not in irrelevant}
    versions = program(), np.__version__, str(torch.__version__)
    content = json.dumps([relevant, asdict(level), tree_digests(parameters.scene), versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory: fresh pages from the kernel for every array cost more than filling them."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the most it takes
        libc.mallopt(-2, 64 << 20)  # M_TOP_PAD
