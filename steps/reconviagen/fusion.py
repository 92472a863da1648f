"""The engine `fusion`: depth fusion to a closed mesh, UV atlas, texture from the six views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.contracts import Reconviagen
from steps.errors import ModelConvergenceFailed
from steps.formats.meshes import Mesh
from steps.formats.scene import Scene, SceneView
from steps.geometry.atlas import unwrap
from steps.geometry.bake import Photo, bake
from steps.geometry.depth import dequantized
from steps.geometry.fusion import DepthView, Grid, grid_around, signed_field
from steps.geometry.kernels import parallel_map
from steps.geometry.surface import extract, vertex_normals
from steps.reporter import Reporter

Array = NDArray[Any]
FINE = 0.05  # voxels: depth levels finer than this need no smoothing
LARGEST_TEXTURE = 4096
PARTS = 5  # of the work, for the progress


def reconstruct(scene: Scene, parameters: Reconviagen, reporter: Reporter) -> tuple[Mesh, dict[str, Any]]:
    """The textured mesh, and the facts about it that go into model.json."""
    views = [limited(view, parameters.resolution) for view in scene.views]
    reporter.stage("inference")
    field, grid = fused(views, parameters.grid)
    reporter.progress(1, PARTS)
    vertices, faces = extract(field, grid, parameters.faces)
    _check(vertices, faces)
    reporter.progress(2, PARTS)
    size = parameters.texture_size or texture_size(views)
    index, faces, uv = unwrap(vertices, faces, size)
    reporter.progress(3, PARTS)
    normals = vertex_normals(vertices, faces_of(index, faces))[index]
    photos = [Photo(v.camera, v.colour, v.coverage) for v in views]
    baked = bake(vertices[index], faces, uv, normals, photos, size)
    reporter.progress(4, PARTS)
    mesh = Mesh(baked.vertices.astype(np.float32), faces, uv, normals.astype(np.float32), baked.texture)
    facts = {
        "resolution": [views[0].camera.width, views[0].camera.height],
        "grid": list(grid.shape),
        "voxel": grid.voxel,
        "texture_size": size,
        "seen": round(baked.seen, 6),
    }
    return mesh, facts


def faces_of(index: Array, faces: Array) -> Array:
    """Faces over the vertices before they were cut at the seams."""
    return np.asarray(index)[faces]


def limited(view: SceneView, side: int) -> SceneView:
    """The view with its longest side at most `side` pixels, 0 for as it is."""
    camera, longest = view.camera, max(view.camera.width, view.camera.height)
    if not side or side >= longest:
        return view
    small = camera.resized(round(camera.width * side / longest), round(camera.height * side / longest))
    coverage = _shrunk(view.coverage[..., None], small.width, small.height)
    premultiplied = _shrunk(view.colour * view.coverage[..., None], small.width, small.height)
    return replace(view, camera=small, colour=premultiplied / np.maximum(coverage, 1e-3), coverage=coverage[..., 0])


def _shrunk(image: Array, width: int, height: int) -> Array:
    """Every channel of [H, W, C] averaged down."""
    layers = [
        Image.fromarray(np.ascontiguousarray(image[..., k])).resize((width, height), Image.Resampling.BOX)
        for k in range(image.shape[2])
    ]
    return np.stack([np.asarray(layer, np.float32) for layer in layers], axis=-1)


def fused(views: list[SceneView], cells: int) -> tuple[Array, Grid]:
    """The carved field on a grid around the object."""
    raw = [DepthView(v.depth_camera, v.depth, _at_depth_size(v), v.step) for v in views]
    grid = grid_around(raw, cells)
    smooth = parallel_map(lambda view: _smoothed(view, grid.voxel), raw)
    return signed_field(smooth, grid), grid


def _at_depth_size(view: SceneView) -> Array:
    camera = view.depth_camera
    if view.coverage.shape == (camera.height, camera.width):
        return view.coverage
    image = Image.fromarray(view.coverage)
    return np.asarray(image.resize((camera.width, camera.height), Image.Resampling.BILINEAR), np.float32)


def _smoothed(view: DepthView, voxel: float) -> DepthView:
    if float(np.median(view.step[view.depth > 0])) < FINE * voxel:
        return view
    return replace(view, depth=dequantized(view.depth, view.step))


def texture_size(views: list[SceneView]) -> int:
    """The power of two at or above twice the views' longest side, so that resampling loses nothing."""
    longest = max(max(v.camera.width, v.camera.height) for v in views)
    return int(min(LARGEST_TEXTURE, 1 << int(np.ceil(np.log2(2 * longest)))))


def _check(vertices: Array, faces: Array) -> None:
    if len(faces) < 4 or not np.isfinite(vertices).all():
        raise ModelConvergenceFailed(
            f"The fused surface has only {len(faces)} faces: the views do not agree on any solid."
        )
