"""nvdiffrec: a scene in, a textured mesh with material out, by differentiable rendering."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from steps.io import mesh_files, scene
from steps.nvdiffrec import ladder
from steps.nvdiffrec.ladder import Rung
from steps.runtime.attempts import Attempts
from steps.runtime.contract import Nvdiffrec
from steps.runtime.errors import GpuUnavailable, ModelFailed
from steps.runtime.files import program, tree_digests, write_json
from steps.runtime.reporter import Reporter

START = "start.glb"  # the fused mesh, for the quality step to compare with


def run(parameters: Nvdiffrec, out: Path, reporter: Reporter) -> None:
    """Writes mesh.obj, .mtl, .ply, .glb, texture.png, texture_orm.png, texture_normal.png, start.glb and model.json to `out`."""
    reporter.value("engine", "nvdiffrec")
    keep_freed_memory()
    device = device_for(parameters.device)
    limit_threads()
    reporter.value("device", device)
    taken = scene.load(parameters.scene)
    asked = as_asked(parameters, taken, device)
    size = parameters.texture_size or _texture_size(taken, parameters)
    attempts = Attempts(parameters.attempts)
    if attempts.note:
        reporter.note(attempts.note)
    steps = ladder.rungs(asked.batch, asked.resolution, asked.grid)
    index, reason = ladder.choose(steps, attempts, size, free_memory(device))
    reporter.value("rungs-left", len(steps) - 1 - index)
    with _recorded(attempts, steps[index], device, reporter):
        _work(parameters, taken, steps[index], asked, reason, device, reporter, out)


def _work(
    parameters: Nvdiffrec,
    taken: scene.Scene,
    rung: Rung,
    asked: Rung,
    reason: str,
    device: str,
    reporter: Reporter,
    out: Path,
) -> None:
    from steps.nvdiffrec import reconstruct
    from steps.nvdiffrec.checkpoint import Checkpoint
    from steps.nvdiffrec.clock import Clock

    checkpoint = Checkpoint(parameters.checkpoint, key(parameters, rung), parameters.checkpoint_seconds)
    saved = checkpoint.load()
    if checkpoint.note:
        reporter.note(checkpoint.note)
    if saved:
        print(f"going on from the checkpoint {parameters.checkpoint}", file=sys.stderr)
    clock = Clock(reporter, 2 * parameters.iterations)
    work = reconstruct.Work(taken, taken.views, parameters, rung, device, checkpoint, clock, saved)
    first, facts = reconstruct.start(work)
    for note in facts.get("notes", []):
        reporter.note(note)
    reporter.stage("inference")
    mesh, found = reconstruct.optimised(work, first, facts["voxel"])
    reporter.stage("export")
    mesh_files.save(out, mesh, taken.frame)
    mesh_files.save_glb(out / START, first, taken.frame)
    about = {
        "model": "nvdiffrec",
        "engine": "nvdiffrec",
        "engine_reason": "the model has one engine",
        "device": device,
        "device_name": device_name(device),
        "seed": parameters.seed,
        "rung": reconstruct.described(rung, asked, reason),
        **facts,
        "voxel": taken.frame.length_out(facts["voxel"]),
        **found,
        "texture_size": len(mesh.texture),
        "specular": mesh.material.specular if mesh.material else 0.0,
        "light": mesh.material.light.tolist() if mesh.material else None,
    }
    write_json(out / "model.json", {**about, "faces": len(mesh.faces), "vertices": len(mesh.vertices)})
    checkpoint.clear()


def device_for(wanted: str) -> str:
    """cpu or cuda. Raises GpuUnavailable where cuda was wanted and is not there, ModelFailed where torch is not installed."""
    try:
        import torch
    except ImportError:
        raise ModelFailed(
            "The model nvdiffrec needs torch, which is not installed.", "Install it: make run MODEL=nvdiffrec does."
        ) from None
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise GpuUnavailable("A GPU was asked for, and torch finds none.")
    return "cuda" if found and wanted != "cpu" else "cpu"


def limit_threads() -> None:
    """Has torch use no more threads than the container may: it counts the machine's cores."""
    import torch

    from steps.compute.cores import core_count

    torch.set_num_threads(min(torch.get_num_threads(), core_count()))


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def as_asked(parameters: Nvdiffrec, taken: scene.Scene, device: str) -> Rung:
    """The ladder's top: what the options say, or the views as given, all at a time where there is a GPU."""
    longest = max(max(view.camera.width, view.camera.height) for view in taken.views)
    resolution = min(parameters.resolution or longest, longest)
    return Rung(parameters.batch or (len(taken.views) if device == "cuda" else 1), resolution, parameters.grid)


def _texture_size(taken: scene.Scene, parameters: Nvdiffrec) -> int:
    from steps.fusion import reconstruct as fusion

    return fusion.texture_size(taken.views, parameters.resolution)


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
def _recorded(attempts: Attempts, rung: Rung, device: str, reporter: Reporter) -> Iterator[None]:
    """Writes down whether the device's memory sufficed on this rung, and how much of it was taken."""
    import torch

    try:
        with attempts.recorded(rung, torch.OutOfMemoryError, lambda: peak_vram_mib(device)):
            yield
    finally:
        reporter.value("peak-vram-mib", peak_vram_mib(device))


def key(parameters: Nvdiffrec, rung: Rung) -> str:
    """What a checkpoint depends on: the scene, the options that change the result, the rung, and what computes it."""
    import torch

    aside = {
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
    chosen = {name: str(value) for name, value in asdict(parameters).items() if name not in aside}
    versions = program(), np.__version__, str(torch.__version__)
    told = json.dumps([chosen, asdict(rung), tree_digests(parameters.scene), versions], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next picture: getting fresh pages from the kernel for every array takes
    longer than filling them."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the most it takes
        libc.mallopt(-2, 64 << 20)  # M_TOP_PAD
