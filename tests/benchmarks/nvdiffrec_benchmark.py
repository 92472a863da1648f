"""nvdiffrec against what it starts from: at the input views, between them, and the surface; on clean data and from noisy
starts."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import grey_erosion

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera
from steps.io import scene
from steps.io.mesh_files import Mesh
from steps.io.scene import Scene, SceneView
from steps.nvdiffrec import reconstruct
from steps.nvdiffrec.checkpoint import Checkpoint
from steps.nvdiffrec.clock import Clock
from steps.nvdiffrec.memory_levels import MemoryLevel
from steps.nvdiffrec.run import keep_freed_memory
from steps.runtime.contract import Nvdiffrec
from steps.runtime.reporter import Reporter
from tests.benchmarks.common import (
    COARSE,
    FEW_POINTS,
    NAMES,
    POINTS,
    Inputs,
    between,
    in_users_frame,
    inputs,
    job_of,
    sample,
    surface_error,
)
from tests.benchmarks.records import Run

DEPTH_NOISE, MASK_PIXELS, DEGREES = 0.01, 2, 0.5
NOISY = ("mug",)
HEADER = (
    "PSNR before, dB",
    "between before, dB",
    "Chamfer-L1 before, %",
    "PSNR, dB",
    "between, dB",
    "Chamfer-L1, %",
    "gain, dB",
    "gain between, dB",
    "time, s",
)


@dataclass(frozen=True)
class Spoiled:
    """A view with noisy depth (a share of it, normal), an outline eaten away by some pixels, and a camera turned about the
    object."""

    view: SceneView
    seed: int
    depth_noise: float = DEPTH_NOISE
    eaten: int = MASK_PIXELS
    degrees: float = DEGREES

    @property
    def camera(self) -> Camera:
        return self._turned(self.view.camera)

    @property
    def depth_camera(self) -> Camera:
        return self._turned(self.view.depth_camera)

    @property
    def folder(self) -> Path:
        return self.view.folder

    @property
    def background(self) -> Array:
        return self.view.background

    def _turned(self, camera: Camera) -> Camera:
        axis = np.random.default_rng(self.seed).normal(size=3)
        x, y, z = axis / np.linalg.norm(axis)
        cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(self.degrees)
        turn = np.eye(4)
        turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        return replace(camera, camera_to_world=turn @ np.asarray(camera.camera_to_world))

    def colour(self) -> Array:
        return self.view.colour()

    def picture(self) -> Array:
        return self.view.picture()

    def behind(self) -> Array:
        return self.view.behind()

    def coverage(self) -> Array:
        reach = np.arange(-self.eaten, self.eaten + 1)
        disc = np.hypot(*np.meshgrid(reach, reach)) <= self.eaten + 0.1
        return grey_erosion(self.view.coverage(), footprint=disc) if self.eaten else self.view.coverage()

    def depth(self) -> Array:
        depth = self.view.depth()
        noise = np.random.default_rng(self.seed + 100).normal(size=depth.shape)
        return (depth * (1 + self.depth_noise * noise)).astype(np.float32)

    def step(self) -> Array:
        return self.view.step()


def optimised(loaded: Scene, start_views: Any, smallest: bool) -> tuple[Mesh, Mesh, float]:
    """Start, result and seconds, with the step's own defaults at 512 px; or in few iterations at 64 px."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        p = Nvdiffrec(out=here, outputs=here, scene=here)
        p = replace(p, iterations=2, grid=32, fusion_grid=32, faces=1000) if smallest else p
        clock = Clock(Reporter(here, "weight_loading"), 2 * p.iterations)
        level, nowhere = MemoryLevel(1, 64 if smallest else 512, p.grid), Checkpoint(None, "", 30.0)
        job = reconstruct.Job(loaded, start_views, p, level, "cpu", nowhere, clock, {})
        began = time.monotonic()
        first, metadata = reconstruct.start(job)
        mesh, _ = reconstruct.optimize(job, first, metadata["voxel"])
        return first, mesh, time.monotonic() - began


def row(
    name: str, made: tuple[Mesh, Mesh, float], loaded: Scene, source: Path, seen: Inputs, points: int
) -> list[object]:
    """Before and after, side by side. made: what `optimised` returned."""
    start, mesh, seconds = made
    cells: list[object] = [name]
    for found in (start, mesh):
        in_frame = in_users_frame(found, loaded)
        chamfer, _ = surface_error(in_frame.vertices, in_frame.faces, source, seen, points)
        cells += [reconstruct.psnr(found, loaded, "cpu"), between(in_frame, source, seen)[0], chamfer]
    print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in cells), f"{seconds:.0f} s", flush=True)
    return [*cells, cells[4] - cells[1], cells[5] - cells[2], seconds]  # type: ignore[operator]


def main(run: Run) -> None:
    """Two tables."""
    keep_freed_memory()
    points = run.size(POINTS, FEW_POINTS)
    clean, noisy = [], []
    for name in run.size(NAMES, NOISY):
        source = sample(name, run.size(512, 64))
        folder = job_of(source, run.size((), COARSE)) / ".sixview" / "scene"
        loaded, seen = scene.load(folder), inputs(folder)
        clean.append(row(name, optimised(loaded, loaded.views, run.smallest), loaded, source, seen, points))
        if name in NOISY:
            start = [Spoiled(view, i) for i, view in enumerate(loaded.views)]
            made = optimised(loaded, start, run.smallest)
            noisy.append(row(f"{name}, noisy start", made, loaded, source, seen, points))
            # the depth that the optimisation itself is given is noisy too
            spoiled: Any = [Spoiled(view, i, eaten=0, degrees=0) for i, view in enumerate(loaded.views)]
            made = optimised(replace(loaded, views=spoiled), spoiled, run.smallest)
            noisy.append(row(f"{name}, noisy depth", made, loaded, source, seen, points))
    means = [float(np.mean([line[k] for line in clean])) for k in range(1, 10)]
    run.table("Clean", ("object", *HEADER), [*clean, ["mean", *means]])
    run.table("Noisy", ("object", *HEADER), noisy)
