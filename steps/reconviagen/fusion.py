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
from steps.geometry.fusion import DepthView, Grid, grid_around, signed_field, thinned
from steps.geometry.kernels import parallel_map
from steps.geometry.surface import extract, vertex_normals
from steps.reporter import Reporter

Array = NDArray[Any]
FINE = 0.05  # voxels: depth levels finer than this need no smoothing
LARGEST_TEXTURE = 2048  # by default; more on request
SAMPLES_PER_VOXEL = 4  # pixels of depth per voxel and axis: more cost memory and change nothing
PARTS = 5  # of the work, for the progress


def reconstruct(scene: Scene, parameters: Reconviagen, reporter: Reporter) -> tuple[Mesh, dict[str, Any]]:
    """The textured mesh, and the facts about it that go into model.json."""
    views = scene.views
    reporter.stage("inference")
    field, grid = fused(views, parameters)
    reporter.progress(1, PARTS)
    vertices, faces = extract(field, grid, parameters.faces)
    _check(vertices, faces)
    reporter.progress(2, PARTS)
    size = parameters.texture_size or texture_size(views, parameters.resolution)
    index, cut, uv = unwrap(vertices, faces, size)
    reporter.progress(3, PARTS)
    normals = vertex_normals(vertices, faces)[index]
    photos = [photo(view, parameters.resolution) for view in views]
    baked = bake(vertices[index], cut, uv, normals, photos, size)
    reporter.progress(4, PARTS)
    mesh = Mesh(baked.vertices.astype(np.float32), cut, uv, normals.astype(np.float32), baked.texture)
    facts = {
        "resolution": [photos[0].camera.width, photos[0].camera.height],
        "grid": list(grid.shape),
        "voxel": grid.voxel,
        "texture_size": size,
        "seen": round(baked.seen, 6),
    }
    return mesh, facts


def working_size(view: SceneView, side: int) -> tuple[int, int]:
    """Width and height of the view with its longest side at most `side` pixels, 0 for as it is."""
    width, height = view.camera.width, view.camera.height
    share = min(1.0, side / max(width, height)) if side else 1.0
    return max(1, round(width * share)), max(1, round(height * share))


def photo(view: SceneView, side: int) -> Photo:
    """The view as the bake wants it, averaged down to `side`."""
    width, height = working_size(view, side)
    colour, coverage = view.colour(), view.coverage()
    if (width, height) == (view.camera.width, view.camera.height):
        return Photo(view.camera, colour, coverage)
    share = _averaged(coverage[..., None], width, height)
    premultiplied = _averaged(colour * coverage[..., None], width, height)
    return Photo(view.camera.resized(width, height), premultiplied / np.maximum(share, 1e-3), share[..., 0])


def _averaged(image: Array, width: int, height: int) -> Array:
    """Every channel of [H, W, C] at another size."""
    layers = [Image.fromarray(np.ascontiguousarray(image[..., k])) for k in range(image.shape[2])]
    box = Image.Resampling.BOX
    return np.stack([np.asarray(layer.resize((width, height), box), np.float32) for layer in layers], axis=-1)


def fused(views: list[SceneView], parameters: Reconviagen) -> tuple[Array, Grid]:
    """The carved field on a grid around the object."""
    side = min(parameters.resolution or SAMPLES_PER_VOXEL * parameters.grid, SAMPLES_PER_VOXEL * parameters.grid)
    raw = parallel_map(lambda view: depth_view(view, side), views)
    grid = grid_around(raw, parameters.grid)
    smooth = parallel_map(lambda view: _smoothed(view, grid.voxel), raw)
    return signed_field(smooth, grid), grid


def depth_view(view: SceneView, side: int) -> DepthView:
    """The view as fusion wants it: coverage at the depth map's size, both thinned out to about `side` pixels."""
    camera = view.depth_camera
    coverage = view.coverage()
    if coverage.shape != (camera.height, camera.width):
        size = camera.width, camera.height
        coverage = np.asarray(Image.fromarray(coverage).resize(size, Image.Resampling.BOX), np.float32)
    return thinned(DepthView(camera, view.depth(), coverage, view.step()), side)


def _smoothed(view: DepthView, voxel: float) -> DepthView:
    if float(np.median(view.step[view.depth > 0])) < FINE * voxel:
        return view
    return replace(view, depth=dequantized(view.depth, view.step))


def texture_size(views: list[SceneView], side: int) -> int:
    """The power of two at or above twice the views' longest side, so that resampling loses nothing; at most LARGEST_TEXTURE."""
    longest = max(max(working_size(view, side)) for view in views)
    return int(min(LARGEST_TEXTURE, 1 << int(np.ceil(np.log2(2 * longest)))))


def _check(vertices: Array, faces: Array) -> None:
    if len(faces) < 4 or not np.isfinite(vertices).all():
        raise ModelConvergenceFailed(
            f"The fused surface has only {len(faces)} faces: the views do not agree on any solid."
        )
