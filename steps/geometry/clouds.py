"""Surfaces as points: what a mesh and what six views show, so that one can be laid on the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.depth import tangent_planes

Array = NDArray[Any]
FACING = 0.25  # least cosine between normal and sight for a colour to be compared


@dataclass(frozen=True)
class Cloud:
    """points, normals: (n, 3) float64, normals of unit length; colours: (n, 3) in [0, 1], None where there are none."""

    points: Array
    normals: Array
    colours: Array | None = None

    def some(self, count: int, seed: int = 0) -> Cloud:
        """At most `count` of them, at random."""
        if len(self.points) <= count:
            return self
        chosen = np.random.default_rng(seed).permutation(len(self.points))[:count]
        return Cloud(self.points[chosen], self.normals[chosen], None if self.colours is None else self.colours[chosen])


@dataclass(frozen=True)
class Sight:
    """One view. depth: [H, W], 0 where nothing is; colour: [H, W, 3] straight. Both have the camera's size."""

    camera: Camera
    depth: Array
    colour: Array

    def seen(self, points: Array, normals: Array, thick: float) -> Array:
        """(n,) bool: which points (n, 3) this view shows: those on the surface that its depth has, and turned to it."""
        pixels, z = project(points, self.camera)
        column, row = (
            np.clip(pixels[:, k], 0, s - 1).astype(int) for k, s in ((0, self.depth.shape[1]), (1, len(self.depth)))
        )
        there = self.depth[row, column]
        way = self.camera.position - points
        cosine = (way * normals).sum(axis=1) / np.maximum(np.linalg.norm(way, axis=1), 1e-12)
        return np.asarray((there > 0) & (np.abs(z - there) < thick) & (cosine > FACING))

    def changes(self, points: Array) -> tuple[Array, Array]:
        """The view's colours at points (n, 3), and how they change as these move, (n, 3 channels, 3)."""
        pixels, z = project(points, self.camera)
        at = [pixels[:, 1] - 0.5, pixels[:, 0] - 0.5]
        look = [_sampled(layer, at) for layer in (self.colour, self.down, self.right)]
        m = self.camera.projection
        x, y = ((m[k, :3] - pixels[:, k : k + 1] * m[2, :3]) / z[:, None] for k in (0, 1))
        return look[0], look[2][:, :, None] * x[:, None] + look[1][:, :, None] * y[:, None]

    @cached_property
    def down(self) -> Array:
        return np.asarray(np.gradient(self.colour, axis=0))

    @cached_property
    def right(self) -> Array:
        return np.asarray(np.gradient(self.colour, axis=1))


def _sampled(image: Array, at: list[Array]) -> Array:
    """(n, C): bilinear, at rows and columns."""
    layers = [map_coordinates(image[..., k], at, order=1, mode="nearest") for k in range(image.shape[2])]
    return np.stack(layers, axis=1)


def of_mesh(vertices: Array, faces: Array, count: int, seed: int = 0) -> tuple[Cloud, Array, Array]:
    """`count` points spread evenly over a mesh, without colours; the face that each lies on (n,) and its weights there (n, 3)."""
    corners = np.asarray(vertices, np.float64)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(cross, axis=1)
    random = np.random.default_rng(seed)
    face = random.choice(len(faces), count, p=size / size.sum())
    u, v = random.random((2, count))
    u, v = np.where(u + v > 1, (1 - u, 1 - v), (u, v))
    weights = np.stack([1 - u - v, u, v], axis=1)
    points = (corners[face] * weights[..., None]).sum(axis=1)
    return Cloud(points, cross[face] / size[face, None]), face, weights


def of_sights(sights: list[Sight], count: int) -> Cloud:
    """What the views' depth shows, about `count` points spread evenly: one for each small cube that any view has a point in."""
    parts = [_shown(s) for s in sights]
    every = max(1, sum(len(p[0]) for p in parts) // (20 * count))  # more of them only fill the same cubes
    points, normals = (np.concatenate([p[k][::every] for p in parts]) for k in (0, 1))
    size = np.linalg.norm(np.ptp(points, axis=0)) / np.sqrt(count) / 1.2
    _, cube = np.unique(np.floor(points / size).astype(np.int64), axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(points))
    _, first = np.unique(cube.ravel()[order], return_index=True)
    return Cloud(points[order[first]], normals[order[first]])


def _shown(sight: Sight) -> tuple[Array, Array]:
    """Points (n, 3) of a view's pixels and the normals of the planes that these see (n, 3)."""
    camera, depth = sight.camera, sight.depth
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns].astype(np.float64)
    across, down = tangent_planes(depth, camera)[rows, columns, :2].astype(np.float64).T
    x, y = (columns + 0.5 - camera.cx) / camera.fx, (rows + 0.5 - camera.cy) / camera.fy
    u = np.stack([across * x + z / camera.fx, across * y, across], axis=1)
    v = np.stack([down * x, down * y + z / camera.fy, down], axis=1)
    normal = np.cross(v, u)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    to_world = np.asarray(camera.camera_to_world)[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    return unproject(depth, camera), normal @ to_world.T
