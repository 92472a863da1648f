"""Against Open3D: the same depth, its TSDF and marching cubes; then the same decimation, atlas and bake for both.

The smallest form measures sixview alone where Open3D is not installed: its wheel unpacks to 310 MB, brings forty packages and
needs Debian's libusb, libX11 and libGL, all for a comparison."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steps.fusion import reconstruct
from steps.fusion.isosurface import extract, quadric_decimation, vertex_normals
from steps.fusion.signed_field import DepthView, grid_around
from steps.geometry.soundness import is_closed
from steps.geometry.uv_mesh import UvMesh
from steps.io import scene
from steps.io.mesh_files import Mesh
from steps.texturing.atlas import unwrap
from steps.texturing.bake import bake
from tests.benchmarks.common import (
    COARSE,
    FEW_POINTS,
    NAMES,
    POINTS,
    Array,
    between,
    in_users_frame,
    inputs,
    job_of,
    psnr,
    render,
    sample,
    surface_error,
)
from tests.benchmarks.records import Run

HEADER = (
    "object",
    "method",
    "surface, s",
    "depth to textured mesh, s",
    "PSNR, dB",
    "between, dB",
    "Chamfer-L1, %",
    "F at 0.5 %",
    "closed",
)
SETTINGS = reconstruct.Settings()
TRUNCATION = 4.0  # voxels, as ours
Surface = Callable[[scene.Scene], tuple[Array, Array]]  # vertices and faces


def main(run: Run) -> None:
    methods: dict[str, Surface] = {"sixview": ours, "Open3D": theirs}
    if run.smallest and not importlib.util.find_spec("open3d"):
        run.note("Open3D is not installed: sixview was measured alone.")
        del methods["Open3D"]
    names, size = run.size(NAMES, NAMES[:1]), run.size(512, 64)
    if not run.smallest:
        compared(NAMES[0], size, methods)  # once for the caches
    rows = [row for name in names for row in compared(name, size, methods)]
    for method in methods:
        mean = np.array([row[2:8] for row in rows if row[1] == method], float).mean(axis=0).tolist()
        rows.append(["mean", method, *mean, ""])
    run.table("", HEADER, rows)


def compared(name: str, size: int, methods: dict[str, Surface]) -> list[list[object]]:
    """The methods on one object, in one process, one after the other."""
    source = sample(name, size)
    small = size < 512
    out = job_of(source, COARSE if small else ())
    loaded = scene.load(out / ".sixview" / "scene")
    rows: list[list[object]] = []
    for method, surface in methods.items():
        began = time.perf_counter()
        vertices, faces = surface(loaded)
        surface_seconds = time.perf_counter() - began
        mesh = textured(loaded, vertices, faces)
        seconds = time.perf_counter() - began
        rows.append(
            [
                name,
                method,
                surface_seconds,
                seconds,
                *score(mesh, source, loaded, out, FEW_POINTS if small else POINTS),
                "yes" if is_closed(faces) else "no",
            ]
        )
    return rows


def ours(loaded: scene.Scene) -> tuple[Array, Array]:
    """Our field, marching cubes, smoothing and decimation."""
    field, grid = reconstruct.fuse(loaded.views, SETTINGS)
    return extract(field, grid, SETTINGS.faces)


def theirs(loaded: scene.Scene) -> tuple[Array, Array]:
    """Open3D's TSDF on a voxel block grid with the same voxel and truncation, its marching cubes, and the same decimation."""
    raw = [reconstruct.depth_view(view, 1 << 30) for view in loaded.views]
    volume = _volume(grid_around(raw, SETTINGS.grid).voxel)
    for view in raw:
        _integrate(volume, view)
    mesh = volume.extract_triangle_mesh(weight_threshold=0.5)
    vertices, faces = mesh.vertex.positions.numpy(), mesh.triangle.indices.numpy().astype(np.int32)
    return quadric_decimation(vertices, faces, SETTINGS.faces)


def _volume(voxel: float) -> Any:
    import open3d as o3d  # here: sixview alone is measured without it

    kind = o3d.core.float32
    return o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight"), (kind, kind), ((1), (1)), voxel, 16, 20000)


def _integrate(volume: Any, view: DepthView) -> None:
    import open3d as o3d

    camera = view.camera
    depth = o3d.t.geometry.Image(o3d.core.Tensor(view.depth))
    # Open3D's pixel centres lie on whole numbers, its camera looks along +z with y down
    k = o3d.core.Tensor(np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]]))
    pose = o3d.core.Tensor(np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(camera.camera_to_world))
    blocks = volume.compute_unique_block_coordinates(depth, k, pose, 1.0, 100.0, TRUNCATION)
    volume.integrate(blocks, depth, k, pose, 1.0, 100.0, TRUNCATION)


def textured(loaded: scene.Scene, vertices: Array, faces: Array) -> Mesh:
    """The same atlas and bake for both."""
    size = reconstruct.texture_size(loaded.views, 0)
    index, cut, uv = unwrap(vertices, faces, size)
    normals = vertex_normals(vertices, faces)[index]
    photos = [reconstruct.photo(view, 0) for view in loaded.views]
    baked = bake(UvMesh(vertices[index], cut, uv, normals), photos, size)
    return Mesh(baked.vertices.astype(np.float32), cut, uv, normals.astype(np.float32), baked.texture)


def score(mesh: Mesh, source: Path, loaded: scene.Scene, out: Path, points: int) -> list[float]:
    """PSNR at the input views, between them, Chamfer and F-score."""
    scores = []
    for view in loaded.views:
        rgba = render(mesh.geometry, mesh.texture, view.camera, 4)
        scores.append(psnr(view.picture(), np.clip(scene.over_premultiplied(rgba, loaded.background), 0, 1)))
    seen = inputs(out / ".sixview" / "scene")
    in_frame = in_users_frame(mesh, loaded)
    return [
        float(np.mean(scores)),
        between(in_frame, source, seen)[0],
        *surface_error(in_frame.vertices, in_frame.faces, source, seen, points),
    ]
