"""Point clouds of a mesh and of the six views, for registration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import blend, cell, kernel, project_point, within
from steps.geometry.cameras import Camera, unproject
from steps.geometry.depth_ops import surface_normals, tangent_planes
from steps.runtime.errors import ModelConvergenceFailed

LEAST_COSINE = 0.25  # least cosine between normal and viewing ray


@dataclass(frozen=True)
class PointCloud:
    """points, normals: (n, 3) float64, normals of unit length; colours: (n, 3) in [0, 1], None where there are none."""

    points: Array
    normals: Array
    colours: Array | None = None

    def subsample(self, count: int, seed: int = 0) -> PointCloud:
        """At most `count` points, at random."""
        if len(self.points) <= count:
            return self
        chosen = np.random.default_rng(seed).permutation(len(self.points))[:count]
        return PointCloud(
            self.points[chosen], self.normals[chosen], None if self.colours is None else self.colours[chosen]
        )


@dataclass(frozen=True)
class RegistrationView:
    """One view. depth: [H, W], 0 where nothing is; colour: [H, W, 3] straight. Both have the camera's size."""

    camera: Camera
    depth: Array
    colour: Array

    def sample_colours(self, points: Array, normals: Array, max_distance: float) -> tuple[Array, Array, Array]:
        """(n,) bool, which points (n, 3) are visible: within max_distance of the view's depth, and facing it; for these k the
        view's colours (k, 3) and their jacobian by the point (k, 3 channels, 3)."""
        seen, colours, slopes = np.zeros(len(points), bool), np.empty((len(points), 3)), np.empty((len(points), 3, 3))
        eye = self.camera.position
        _sample_colours(
            points, normals, self.camera.projection, eye, self.depth, self.layers, max_distance, seen, colours, slopes
        )
        return seen, colours[seen], slopes[seen]

    def point_to_plane(self, points: Array, max_distance: float) -> tuple[Array, Array, Array]:
        """(n,) bool, which points (n, 3) lie within max_distance of the view's depth along its axis; for these k the signed
        distance behind the local plane (k,) and its normal (k, 3)."""
        known, gap, normals = np.zeros(len(points), bool), np.empty(len(points)), np.empty((len(points), 3))
        _point_to_plane(points, self.camera.projection, self.depth, max_distance, known, gap, normals)
        return known, gap[known], normals[known]

    def subsampled(self, step: int) -> RegistrationView:
        """Every step-th pixel, with the matching camera."""
        first = step // 2
        depth, colour = (np.ascontiguousarray(a[first::step, first::step]) for a in (self.depth, self.colour))
        return RegistrationView(self.camera.subsampled(step), depth, colour)

    @cached_property
    def layers(self) -> Array:
        """[H, W, 9] float32: colour, and its derivatives by row and by column."""
        down, right = np.gradient(self.colour, axis=(0, 1))
        return np.concatenate([self.colour, down, right], axis=2).astype(np.float32)


@kernel
def _sample_colours(points, normals, m, eye, depth, layers, max_distance, seen, colours, slopes):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for i in range(len(points)):
        far, across, down = project_point(points[i], m)
        if not within(across, down, width, height):
            continue
        there = depth[int(down), int(across)]
        u, v, w = eye[0] - points[i, 0], eye[1] - points[i, 1], eye[2] - points[i, 2]
        faces_camera = u * normals[i, 0] + v * normals[i, 1] + w * normals[i, 2] > LEAST_COSINE * math.sqrt(
            u * u + v * v + w * w
        )
        if not (there > 0 and abs(far - there) < max_distance and faces_camera):
            continue
        seen[i] = True
        r, r1, lower = cell(down - 0.5, height)
        c, c1, right = cell(across - 0.5, width)
        at, beside, below, diagonal = layers[r, c], layers[r, c1], layers[r1, c], layers[r1, c1]
        for k in range(3):
            colours[i, k] = blend(at[k], beside[k], below[k], diagonal[k], right, lower)
            by_row = blend(at[k + 3], beside[k + 3], below[k + 3], diagonal[k + 3], right, lower)
            by_column = blend(at[k + 6], beside[k + 6], below[k + 6], diagonal[k + 6], right, lower)
            for axis in range(3):
                slopes[i, k, axis] = (
                    by_column * (m[0, axis] - across * m[2, axis]) + by_row * (m[1, axis] - down * m[2, axis])
                ) / far


@kernel
def _point_to_plane(points, m, depth, max_distance, known, gap, normals):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for i in range(len(points)):
        far, across, down = project_point(points[i], m)
        if not within(across - 0.5, down - 0.5, width - 1, height - 1):
            continue
        row, column = int(down - 0.5), int(across - 0.5)
        fr, fc = down - 0.5 - row, across - 0.5 - column
        a, b, c, d = depth[row, column], depth[row, column + 1], depth[row + 1, column], depth[row + 1, column + 1]
        if min(min(a, b), min(c, d)) <= 0 or max(max(a, b), max(c, d)) - min(min(a, b), min(c, d)) > max_distance:
            continue
        by_column, by_row = (1 - fr) * (b - a) + fr * (d - c), (1 - fc) * (c - a) + fc * (d - b)
        off = far - blend(a, b, c, d, fc, fr)
        square = 0.0
        for axis in range(3):
            normals[i, axis] = (
                m[2, axis]
                - (by_column * (m[0, axis] - across * m[2, axis]) + by_row * (m[1, axis] - down * m[2, axis])) / far
            )
            square += normals[i, axis] ** 2
        if abs(off) > max_distance or square * LEAST_COSINE**2 > 1:
            continue
        known[i] = True
        gap[i] = off / math.sqrt(square)
        for axis in range(3):
            normals[i, axis] /= math.sqrt(square)


def sample_mesh(vertices: Array, faces: Array, count: int, seed: int = 0) -> tuple[PointCloud, Array, Array]:
    """`count` points distributed uniformly over a mesh, without colours; the face of each (n,) and its barycentric weights (n,
    3). Raises ModelConvergenceFailed where the mesh has no area, or a non-finite one."""
    corners = np.asarray(vertices, np.float64)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(cross, axis=1)
    if not 0 < size.sum() < np.inf:
        raise ModelConvergenceFailed(f"The mesh has {len(faces)} faces and no area.")
    random = np.random.default_rng(seed)
    face = random.choice(len(faces), count, p=size / size.sum())
    u, v = random.random((2, count))
    u, v = np.where(u + v > 1, (1 - u, 1 - v), (u, v))
    weights = np.stack([1 - u - v, u, v], axis=1)
    points = (corners[face] * weights[..., None]).sum(axis=1)
    return PointCloud(points, cross[face] / size[face, None]), face, weights


def pointcloud_of_views(views: list[RegistrationView], count: int) -> PointCloud:
    """Point cloud of the views' depth, about `count` points, by voxel downsampling."""
    parts = [_points_and_normals(s) for s in views]
    stride = max(1, sum(len(p[0]) for p in parts) // (20 * count))  # more of them only fill the same cubes
    points, normals = (np.concatenate([p[k][::stride] for p in parts]) for k in (0, 1))
    size = np.linalg.norm(np.ptp(points, axis=0)) / np.sqrt(count) / 1.2
    cube = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(points))
    _, first = np.unique(np.ravel_multi_index(tuple(cube[order].T), cube.max(axis=0) + 1), return_index=True)
    return PointCloud(points[order[first]], normals[order[first]])


def _points_and_normals(view: RegistrationView) -> tuple[Array, Array]:
    """Points (n, 3) of a view's pixels and normals (n, 3) of their tangent planes."""
    camera, depth = view.camera, view.depth
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns].astype(np.float64)
    across, down = tangent_planes(depth, camera)[rows, columns, :2].astype(np.float64).T
    x, y = (columns + 0.5 - camera.cx) / camera.fx, (rows + 0.5 - camera.cy) / camera.fy
    return unproject(depth, camera), surface_normals(x, y, z, (across, down), camera)
