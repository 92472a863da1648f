"""Renders a sample object: exact geometry, its paint evaluated where it is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.measure import marching_cubes

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import box_down
from steps.raster.rasterize import rasterize
from steps.sample.objects import Field, SampleObject, shaded

RADIUS = 0.95  # every object is scaled into this sphere around the origin


@dataclass(frozen=True)
class GroundTruth:
    """The object as a fine mesh within RADIUS. about: what it is good for; vertices: (n, 3) float64 in the world; faces: (m, 3)
    int32; normals: (n, 3) float64; paint: faces (k,) and weights (k, 3) of their corners to colours (k, 3) in [0, 1]."""

    about: str
    vertices: Array
    faces: Array
    normals: Array
    paint: Callable[[Array, Array], Array]

    @property
    def colours(self) -> Array:
        """(n, 3): the colour of each vertex."""
        order = np.argsort(self.faces.ravel(), kind="stable")
        first = order[np.searchsorted(self.faces.ravel()[order], np.arange(len(self.vertices)))]
        return self.paint(first // 3, np.eye(3)[first % 3])


def build(item: SampleObject, cells: int = 200) -> GroundTruth:
    """Meshes the shape on a grid of `cells` per axis, pulls the vertices onto the surface and scales it into RADIUS."""
    axis = np.linspace(-1.3, 1.3, cells)
    planes = [item.shape(np.stack(np.meshgrid([x], axis, axis, indexing="ij"), -1).reshape(-1, 3)) for x in axis]
    volume = np.concatenate(planes).reshape(cells, cells, cells)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(axis[1] - axis[0],) * 3)
    points, faces = _project_to_surface(item.shape, vertices.astype(np.float64) - 1.3), faces.astype(np.int32)
    normals = _gradient(item.shape, points)

    def paint(face: Array, weights: Array) -> Array:
        place, normal = (interpolate_vertices(layer, faces, face, weights) for layer in (points, normals))
        return shaded(item.paint(place), unit(normal))

    return GroundTruth(item.about, fit_to_radius(points), faces, normals, paint)


def fit_to_radius(points: Array) -> Array:
    """Points (n, 3) around the origin and scaled into RADIUS."""
    centred = points - (points.min(axis=0) + points.max(axis=0)) / 2
    return centred * RADIUS / float(np.linalg.norm(centred, axis=1).max())


def interpolate_vertices(layer: Array, faces: Array, face: Array, weights: Array) -> Array:
    """What is known per vertex, `layer` (n, c), at the points with weights (k, 3) on faces (k,)."""
    return np.asarray((layer[faces[face]] * weights[:, :, None]).sum(axis=1))


def unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _gradient(shape: Field, points: Array, h: float = 1e-4) -> Array:
    gradient = np.stack([shape(points + h * e) - shape(points - h * e) for e in np.eye(3)], axis=1)
    return unit(gradient)


def _project_to_surface(shape: Field, points: Array) -> Array:
    """Newton steps onto the zero level; short ones, since the distance is not exact at creases."""
    for _ in range(3):
        points = points - 0.7 * shape(points)[:, None] * _gradient(shape, points)
    return points


def render(truth: GroundTruth, camera: Camera, samples: int = 0) -> tuple[Array, Array]:
    """The picture [H, W, 4] float, RGBA with straight alpha, and the depth [H, W] float32 at the pixel centres.

    Coverage comes from samples x samples per pixel, by default 8 x 8, 4 x 4 in large pictures, finer than what judges it later;
    the paint is evaluated once in each quarter of a pixel."""
    samples = samples or (8 if max(camera.width, camera.height) <= 1024 else 4)
    fragments = rasterize(truth.vertices, truth.faces, camera.resized(camera.width * samples, camera.height * samples))
    face, bary = (_by_block(layer, samples // 2) for layer in (fragments.face, fragments.bary))
    first = (face >= 0).argmax(axis=2)[..., None]
    chosen = np.take_along_axis(face, first, axis=2)[..., 0]
    hit = chosen >= 0
    weights = barycentric(np.take_along_axis(bary, first[..., None], axis=2)[:, :, 0][hit])
    quarters = np.zeros((*hit.shape, 4), np.float32)
    quarters[..., 3] = (face >= 0).mean(axis=2)
    quarters[hit, :3] = truth.paint(chosen[hit], weights) * quarters[hit, 3:]
    pixels = box_down(quarters, 2)
    pixels[..., :3] /= np.maximum(pixels[..., 3:], 1e-6)
    return pixels, rasterize(truth.vertices, truth.faces, camera).depth


def barycentric(bary: Array) -> Array:
    """All three weights (..., 3) from the first two."""
    return np.concatenate([bary, 1 - bary.sum(axis=-1, keepdims=True)], axis=-1)


def _by_block(layer: Array, side: int) -> Array:
    """[side * h, side * w, ...] to [h, w, side * side, ...]: the samples of each block side by side."""
    h, w, *rest = layer.shape
    blocks = layer.reshape(h // side, side, w // side, side, *rest).swapaxes(1, 2)
    return blocks.reshape(h // side, w // side, side * side, *rest)
