"""Renders a sample object: exact geometry, solid texture evaluated where it is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from steps.geometry.cameras import Camera
from steps.geometry.images import box_down
from steps.geometry.rasterize import rasterize
from steps.sample.objects import Field, SampleObject, shaded

Array = NDArray[Any]
RADIUS = 0.95  # every object is scaled into this sphere around the origin


@dataclass(frozen=True)
class GroundTruth:
    """The object as a fine mesh. vertices: (n, 3) float64 in the world; faces: (m, 3) int32; colours: (n, 3) float."""

    item: SampleObject
    vertices: Array
    faces: Array
    normals: Array
    colours: Array
    offset: Array
    scale: float


def build(item: SampleObject, cells: int = 200) -> GroundTruth:
    """Meshes the shape on a grid of `cells` per axis, pulls the vertices onto the surface and scales it into RADIUS."""
    axis = np.linspace(-1.3, 1.3, cells)
    planes = [item.shape(np.stack(np.meshgrid([x], axis, axis, indexing="ij"), -1).reshape(-1, 3)) for x in axis]
    volume = np.concatenate(planes).reshape(cells, cells, cells)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(axis[1] - axis[0],) * 3)
    points = _pulled(item.shape, vertices.astype(np.float64) - 1.3)
    normals = _gradient(item.shape, points)
    offset = (points.min(axis=0) + points.max(axis=0)) / 2
    scale = RADIUS / float(np.linalg.norm(points - offset, axis=1).max())
    colours = shaded(item, points, normals)
    return GroundTruth(item, (points - offset) * scale, faces.astype(np.int32), normals, colours, offset, scale)


def _gradient(shape: Field, points: Array, h: float = 1e-4) -> Array:
    gradient = np.stack([shape(points + h * e) - shape(points - h * e) for e in np.eye(3)], axis=1)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)


def _pulled(shape: Field, points: Array) -> Array:
    """Newton steps onto the zero level; short ones, since the distance is not exact at creases."""
    for _ in range(3):
        points = points - 0.7 * shape(points)[:, None] * _gradient(shape, points)
    return points


def render(truth: GroundTruth, camera: Camera) -> tuple[Array, Array]:
    """The picture [H, W, 4] float, RGBA with straight alpha, and the depth [H, W] float32 at the pixel centres.

    Coverage comes from 8 x 8 samples per pixel, 4 x 4 in large pictures, finer than what judges it later; the paint is
    evaluated once in each quarter of a pixel."""
    samples = 8 if max(camera.width, camera.height) <= 1024 else 4
    fragments = rasterize(truth.vertices, truth.faces, camera.resized(camera.width * samples, camera.height * samples))
    face, bary = (_by_block(layer, samples // 2) for layer in (fragments.face, fragments.bary))
    first = (face >= 0).argmax(axis=2)[..., None]
    chosen = np.take_along_axis(face, first, axis=2)[..., 0]
    hit = chosen >= 0
    weights = np.take_along_axis(bary, first[..., None], axis=2)[:, :, 0][hit]
    quarters = np.zeros((*hit.shape, 4), np.float32)
    quarters[..., 3] = (face >= 0).mean(axis=2)
    quarters[hit, :3] = _shade(truth, chosen[hit], weights) * quarters[hit, 3:]
    pixels = box_down(quarters, 2)
    pixels[..., :3] /= np.maximum(pixels[..., 3:], 1e-6)
    return pixels, rasterize(truth.vertices, truth.faces, camera).depth


def _by_block(layer: Array, side: int) -> Array:
    """[side * h, side * w, ...] to [h, w, side * side, ...]: the samples of each block side by side."""
    h, w, *rest = layer.shape
    blocks = layer.reshape(h // side, side, w // side, side, *rest).swapaxes(1, 2)
    return blocks.reshape(h // side, w // side, side * side, *rest)


def _shade(truth: GroundTruth, face: Array, bary: Array) -> Array:
    """Colours (n, 3) at the points with weights (n, 2) on faces (n,)."""
    corners = truth.faces[face]
    weights = np.concatenate([bary, 1 - bary.sum(axis=1, keepdims=True)], axis=1)[:, :, None]
    points = (truth.vertices[corners] * weights).sum(axis=1) / truth.scale + truth.offset
    normals = (truth.normals[corners] * weights).sum(axis=1)
    return shaded(truth.item, points, normals / np.linalg.norm(normals, axis=1, keepdims=True))
