"""Similarity transforms, and all those in which one cloud lies about well on another.

All rotations are begun from, each with a few rounds of ICP (Besl and McKay 1992, scaled by Umeyama 1991) against grids of nearest
points. Everything here is in radii of the clouds: the root of the mean squared distance from their middles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from steps.registration.pointcloud import Cloud

Array = NDArray[Any]
ROTATIONS = 960  # to begin from: no rotation is further than about 17 degrees from one of them
COARSE, MIDDLE, CLOSE = 160, 700, 1500  # points of each side that are looked at: by all rotations, by some, by one
KEPT = 48  # of the rotations are looked at more closely
CELLS = 72  # to a side of the grids of nearest points
REACH = 2.0  # of these grids around the middle
SAME = np.radians(3.0), 0.03  # rotation and shift by which two poses are one
APART = np.radians(16.0)  # between two of the poses that are kept
# by which what is round may lie beside itself when it is turned (a part of it is the distance of two points), and the steps in
# which it is turned
ROUND, SWEEP = 0.04, np.radians(3.0)


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: Array
    shift: Array

    def __call__(self, points: Array) -> Array:
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    def turned(self, normals: Array) -> Array:
        return np.asarray(normals @ self.rotation.T)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.shift) / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """This one after another."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self(first.shift))


def onto_unit(cloud: Cloud) -> Similarity:
    """What puts a cloud's middle to the origin and its radius, the root of the mean squared distance, to one."""
    middle = cloud.points.mean(axis=0)
    radius = float(np.sqrt(((cloud.points - middle) ** 2).sum(axis=1).mean()))
    return Similarity(1 / radius, np.eye(3), -middle / radius)


def moved(cloud: Cloud, pose: Similarity) -> Cloud:
    return Cloud(pose(cloud.points), pose.turned(cloud.normals), cloud.colours)


# -- all rotations ------------------------------------------------------------------------------------------------------


def rotations(count: int) -> Array:
    """(count, 3, 3), spread evenly (Alexa, Super-Fibonacci spirals, CVPR 2022)."""
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = (2 * np.pi * s / ratio for ratio in (np.sqrt(2), 1.533751168755204288118041))
    quaternions = np.stack([near * np.sin(a), near * np.cos(a), far * np.sin(b), far * np.cos(b)], axis=1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


class Nearest:
    """The point of a cloud of radius one nearest to anywhere, to within a cell."""

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
        return np.clip((points + REACH) * (CELLS / (2 * REACH)), 0, CELLS - 1).astype(np.int32)

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

    def some(self, chosen: Array) -> Poses:
        return Poses(self.scale[chosen], self.rotation[chosen], self.shift[chosen])


def pursued(
    own: Cloud, other: Cloud, grids: tuple[Nearest, Nearest], poses: Poses, widths: tuple[float, ...]
) -> tuple[Poses, Array]:
    """Rounds of scaled ICP for all poses at once, one for each width of the error's bound; and each pose's cost in [0, 1]."""
    a, b = own.points.astype(np.float32), other.points.astype(np.float32)
    for width in (*widths, widths[-1]):
        s, r, t = poses.scale, poses.rotation, poses.shift
        there = s[:, None, None] * (a @ r.transpose(0, 2, 1)) + t[:, None]
        back = (b[None] - t[:, None]) @ r / s[:, None, None]
        to, source = grids[1].points[grids[1](there)], grids[0].points[grids[0](back)]
        x = np.concatenate([np.broadcast_to(a, there.shape), source], axis=1)
        y = np.concatenate([to, np.broadcast_to(b, back.shape)], axis=1)
        moved_there = s[:, None, None] * (source @ r.transpose(0, 2, 1)) + t[:, None]
        apart = np.concatenate([((there - to) ** 2).sum(axis=2), ((moved_there - b) ** 2).sum(axis=2)], axis=1)
        cost = (apart / (apart + width**2)).mean(axis=1)
        last, poses = poses, fitted(x, y, 1 / (1 + apart / width**2) ** 2)
    return last, cost


def fitted(x: Array, y: Array, weight: Array) -> Poses:
    """The similarity transforms that take points x (p, n, 3) closest to y, by weights (p, n)."""
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


def found(own: Cloud, other: Cloud) -> list[tuple[float, Similarity]]:
    """Poses that fit, different from each other, best first. Both clouds have radius one."""
    grids = Nearest(own.points), Nearest(other.points)
    start = Poses(
        np.ones(ROTATIONS, np.float32), rotations(ROTATIONS).astype(np.float32), np.zeros((ROTATIONS, 3), np.float32)
    )
    few, more = ((own.some(n, seed), other.some(n, seed)) for n, seed in ((COARSE, 0), (MIDDLE, 1)))
    poses, cost = pursued(*few, grids, start, (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.15, 0.15))
    poses = poses.some(spread(poses, cost, 3 * KEPT))
    poses, cost = pursued(*more, grids, poses, (0.15, 0.12, 0.1, 0.1))
    poses = poses.some(spread(poses, cost, KEPT))
    poses, cost = pursued(*more, grids, poses, (0.1, 0.08, 0.08, 0.06, 0.06, 0.06))
    return distinct([(float(cost[k]), poses.one(k)) for k in range(len(cost))])


def spread(poses: Poses, cost: Array, count: int) -> Array:
    """The best `count`, none of them APART or less from a better one, so that no way in which a symmetric shape fits is crowded
    out by many neighbours of another."""
    order = np.argsort(cost)
    flat = poses.rotation[order].reshape(-1, 9)
    near = flat @ flat.T > 1 + 2 * np.cos(APART)
    kept: list[int] = []
    for k in range(len(order)):
        if len(kept) < count and not near[k, kept].any():
            kept.append(k)
    return np.asarray(order[kept])


def distinct(fits: list[tuple[float, Similarity]]) -> list[tuple[float, Similarity]]:
    """The best first, without those that are alike to a better one."""
    return apart(fits, alike, len(fits))


def apart(
    fits: list[tuple[float, Similarity]], near: Callable[[Similarity, Similarity], bool], count: int
) -> list[tuple[float, Similarity]]:
    """At most `count`, by cost, none of them near to a better one."""
    kept: list[tuple[float, Similarity]] = []
    for cost, pose in sorted(fits, key=lambda f: f[0]):
        if len(kept) < count and not any(near(pose, other) for _, other in kept):
            kept.append((cost, pose))
    return kept


def alike(one: Similarity, other: Similarity) -> bool:
    return angle(one.rotation, other.rotation) < SAME[0] and bool(np.linalg.norm(one.shift - other.shift) < SAME[1])


def angle(one: Array, other: Array) -> float:
    """Between two rotations, in radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1)))


def round_axis(cloud: Cloud) -> Array:
    """The axis about which a cloud of radius one is round, (3,), zero if there is none: one of its principal axes, about which it
    may be turned and stays where it is."""
    tree, few = cKDTree(cloud.points), cloud.some(CLOSE).points
    axes = np.linalg.svd(cloud.points, full_matrices=False)[2]
    turns = [Rotation.from_rotvec(axes * angle).as_matrix() for angle in (0.6, 1.3, 2.0)]
    beside = [max(float(tree.query(few @ turn[k].T)[0].mean()) for turn in turns) for k in range(3)]
    return np.asarray(axes[int(np.argmin(beside))] if min(beside) < ROUND else np.zeros(3))


def over(axis: Array, pose: Similarity) -> Similarity:
    """The pose with what it places turned upside down, as seen from the axis."""
    across = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    turn = Rotation.from_rotvec(np.pi * across / np.linalg.norm(across)).as_matrix()
    return Similarity(pose.scale, turn @ pose.rotation, turn @ pose.shift)


def swept(axis: Array, bases: list[Similarity]) -> list[Similarity]:
    """The poses turned about the axis, all the way around."""
    turns = Rotation.from_rotvec(axis * np.arange(0, 2 * np.pi, SWEEP)[:, None]).as_matrix()
    return [Similarity(p.scale, turn @ p.rotation, turn @ p.shift) for p in bases for turn in turns]
