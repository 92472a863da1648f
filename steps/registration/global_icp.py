"""Similarity transforms, and global registration of two point clouds by batched ICP.

Starts from all rotations, each with a few rounds of ICP (Besl and McKay 1992, scaled by Umeyama 1991) against grids of
nearest points. Lengths are in radii of the clouds: root mean squared distance from the centroid. Own code: see `refine`; ICP of
trimesh and Open3D runs from one start at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from steps.compute.arrays import Array
from steps.registration.pointcloud import PointCloud

ROTATIONS = 960  # starts: every rotation is within about 17 degrees of one of them
COARSE, MIDDLE, FINE = 160, 700, 1500  # points of each side: for all rotations, for some, for one
N_KEPT = 48  # rotations that are refined
CELLS = 72  # to a side of the grids of nearest points
GRID_HALF_SIDE = 2.0  # of these grids, from the centroid
SAME_POSE = np.radians(3.0), 0.03  # rotation and shift up to which two poses are the same
MIN_ANGLE = np.radians(16.0)  # between any two poses that non-maximum suppression keeps
# largest residual of a solid of revolution against itself rotated (part of it is the spacing of points), and the step of angles
SYMMETRY_TOLERANCE, SYMMETRY_STEP = 0.04, np.radians(3.0)


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: Array
    shift: Array

    def __call__(self, points: Array) -> Array:
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    def rotate(self, normals: Array) -> Array:
        return np.asarray(normals @ self.rotation.T)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.shift) / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """The composition: `first`, then this one."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self(first.shift))


def unit_normalization(cloud: PointCloud) -> Similarity:
    """The transform of a cloud's centroid to the origin and its radius, root mean squared distance, to one."""
    middle = cloud.points.mean(axis=0)
    radius = float(np.sqrt(((cloud.points - middle) ** 2).sum(axis=1).mean()))
    return Similarity(1 / radius, np.eye(3), -middle / radius)


def transform(cloud: PointCloud, pose: Similarity) -> PointCloud:
    return PointCloud(pose(cloud.points), pose.rotate(cloud.normals), cloud.colours)


# -- all rotations ------------------------------------------------------------------------------------------------------


def rotations(count: int) -> Array:
    """(count, 3, 3), spread evenly (Alexa, Super-Fibonacci spirals, CVPR 2022)."""
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = (2 * np.pi * s / ratio for ratio in (np.sqrt(2), 1.533751168755204288118041))
    quaternions = np.stack([near * np.sin(a), near * np.cos(a), far * np.sin(b), far * np.cos(b)], axis=1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


class Nearest:
    """Nearest point of a cloud of radius one, to within a cell of a grid."""

    def __init__(self, points: Array) -> None:
        self.points = np.asarray(points, np.float32)
        cells = self._cell(self.points)
        owner = np.zeros((CELLS,) * 3, np.int32)
        owner[tuple(cells.T)] = np.arange(len(points))
        empty = np.ones((CELLS,) * 3, bool)
        empty[tuple(cells.T)] = False
        at = distance_transform_edt(empty, return_distances=False, return_indices=True)
        self.owner = owner[tuple(at)]

    def _cell(self, points: Array) -> Array:
        return np.clip((points + GRID_HALF_SIDE) * (CELLS / (2 * GRID_HALF_SIDE)), 0, CELLS - 1).astype(np.int32)

    def __call__(self, points: Array) -> Array:
        """(..., 3) -> the indices (...) of the nearest points."""
        c = self._cell(points)
        return np.asarray(self.owner[c[..., 0], c[..., 1], c[..., 2]])


@dataclass(frozen=True)
class Poses:
    """Many similarity transforms. scale: (p,); rotation: (p, 3, 3); shift: (p, 3)."""

    scale: Array
    rotation: Array
    shift: Array

    def one(self, index: int) -> Similarity:
        return Similarity(
            float(self.scale[index]), self.rotation[index].astype(np.float64), self.shift[index].astype(np.float64)
        )

    def subsample(self, chosen: Array) -> Poses:
        return Poses(self.scale[chosen], self.rotation[chosen], self.shift[chosen])


def batched_icp(
    source_cloud: PointCloud,
    target_cloud: PointCloud,
    grids: tuple[Nearest, Nearest],
    poses: Poses,
    widths: tuple[float, ...],
) -> tuple[Poses, Array]:
    """Robust scaled ICP for all poses at once, one round for each width of the loss; and each pose's cost in [0, 1]."""
    a, b = source_cloud.points.astype(np.float32), target_cloud.points.astype(np.float32)
    for width in (*widths, widths[-1]):
        s, r, t = poses.scale, poses.rotation, poses.shift
        forward = s[:, None, None] * (a @ r.transpose(0, 2, 1)) + t[:, None]
        backward = (b[None] - t[:, None]) @ r / s[:, None, None]
        nearest_target, nearest_source = grids[1].points[grids[1](forward)], grids[0].points[grids[0](backward)]
        x = np.concatenate([np.broadcast_to(a, forward.shape), nearest_source], axis=1)
        y = np.concatenate([nearest_target, np.broadcast_to(b, backward.shape)], axis=1)
        forward_source = s[:, None, None] * (nearest_source @ r.transpose(0, 2, 1)) + t[:, None]
        squared_distance = np.concatenate(
            [((forward - nearest_target) ** 2).sum(axis=2), ((forward_source - b) ** 2).sum(axis=2)], axis=1
        )
        cost = (squared_distance / (squared_distance + width**2)).mean(axis=1)
        last, poses = poses, weighted_similarities(x, y, 1 / (1 + squared_distance / width**2) ** 2)
    return last, cost


def weighted_similarities(x: Array, y: Array, weight: Array) -> Poses:
    """Weighted least-squares similarity transforms from points x (p, n, 3) to y (Umeyama 1991), by weights (p, n)."""
    w = weight / weight.sum(axis=1, keepdims=True)
    mx, my = (np.einsum("pn,pni->pi", w, v) for v in (x, y))
    dx, dy = x - mx[:, None], y - my[:, None]
    u, d, vt = np.linalg.svd(np.einsum("pn,pni,pnj->pij", w, dy, dx).astype(np.float64))
    sign = np.ones_like(d)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    r = (u * sign[:, None]) @ vt
    s = np.clip((d * sign).sum(axis=1) / np.einsum("pn,pni,pni->p", w, dx, dx), 0.3, 3.0)
    t = my - s[:, None] * np.einsum("pij,pj->pi", r, mx)
    return Poses(*(v.astype(np.float32) for v in (s, r, t)))


def global_poses(source: PointCloud, target: PointCloud) -> list[tuple[float, Similarity]]:
    """Distinct poses that fit, best first. Both clouds have radius one."""
    grids = Nearest(source.points), Nearest(target.points)
    start = Poses(
        np.ones(ROTATIONS, np.float32), rotations(ROTATIONS).astype(np.float32), np.zeros((ROTATIONS, 3), np.float32)
    )
    coarse, medium = ((source.subsample(n, seed), target.subsample(n, seed)) for n, seed in ((COARSE, 0), (MIDDLE, 1)))
    poses, cost = batched_icp(*coarse, grids, start, (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.15, 0.15))
    poses = poses.subsample(non_max_suppression(poses, cost, 3 * N_KEPT))
    poses, cost = batched_icp(*medium, grids, poses, (0.15, 0.12, 0.1, 0.1))
    poses = poses.subsample(non_max_suppression(poses, cost, N_KEPT))
    poses, cost = batched_icp(*medium, grids, poses, (0.1, 0.08, 0.08, 0.06, 0.06, 0.06))
    return without_duplicates([(float(cost[k]), poses.one(k)) for k in range(len(cost))])


def non_max_suppression(poses: Poses, cost: Array, count: int) -> Array:
    """Indices of the best `count` rotations, none within MIN_ANGLE of a better one, so that neighbours of one symmetric fit do
    not crowd out the others."""
    order = np.argsort(cost)
    flat = poses.rotation[order].reshape(-1, 9)
    near = flat @ flat.T > 1 + 2 * np.cos(MIN_ANGLE)
    selected: list[int] = []
    for k in range(len(order)):
        if len(selected) < count and not near[k, selected].any():
            selected.append(k)
    return np.asarray(order[selected])


def without_duplicates(fits: list[tuple[float, Similarity]]) -> list[tuple[float, Similarity]]:
    """Sorted by cost, without those that equal a better one."""
    return greedy_suppression(fits, same_pose, len(fits))


def greedy_suppression(
    fits: list[tuple[float, Similarity]], near: Callable[[Similarity, Similarity], bool], count: int
) -> list[tuple[float, Similarity]]:
    """At most `count`, by cost, none of them near a better one."""
    selected: list[tuple[float, Similarity]] = []
    for cost, pose in sorted(fits, key=lambda f: f[0]):
        if len(selected) < count and not any(near(pose, other) for _, other in selected):
            selected.append((cost, pose))
    return selected


def same_pose(one: Similarity, other: Similarity) -> bool:
    return angle(one.rotation, other.rotation) < SAME_POSE[0] and bool(
        np.linalg.norm(one.shift - other.shift) < SAME_POSE[1]
    )


def angle(one: Array, other: Array) -> float:
    """Angle between two rotations (3, 3), radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1)))


def symmetry_axis(cloud: PointCloud) -> Array:
    """Axis of revolution of a cloud of radius one, (3,), zero if there is none: a principal axis about which rotations map it
    to itself."""
    tree, sample = cKDTree(cloud.points), cloud.subsample(FINE).points
    axes = np.linalg.svd(cloud.points, full_matrices=False)[2]
    turns = [Rotation.from_rotvec(axes * angle).as_matrix() for angle in (0.6, 1.3, 2.0)]
    residuals = [max(float(tree.query(sample @ turn[k].T)[0].mean()) for turn in turns) for k in range(3)]
    return np.asarray(axes[int(np.argmin(residuals))] if min(residuals) < SYMMETRY_TOLERANCE else np.zeros(3))


def flipped(axis: Array, pose: Similarity) -> Similarity:
    """The pose followed by half a turn that reverses the axis."""
    across = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    turn = Rotation.from_rotvec(np.pi * across / np.linalg.norm(across)).as_matrix()
    return Similarity(pose.scale, turn @ pose.rotation, turn @ pose.shift)


def rotated_about(axis: Array, bases: list[Similarity]) -> list[Similarity]:
    """The poses followed by all rotations about the axis, in steps of SYMMETRY_STEP."""
    turns = Rotation.from_rotvec(axis * np.arange(0, 2 * np.pi, SYMMETRY_STEP)[:, None]).as_matrix()
    return [Similarity(p.scale, turn @ p.rotation, turn @ p.shift) for p in bases for turn in turns]
