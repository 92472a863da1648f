"""Six depth renders and what each of them says about points that the others see.

Everything is measured in radii of the object around its middle, so that no unit and no place in the world matters. A depth model
(see `depth_models`) turns stored values into depth; here is what does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from steps.geometry.cameras import Camera, project, ray_to_z

Array = NDArray[Any]
WIDEST = 512  # pixels to a side that are looked at
HULL, FINE = 48, 96  # points to a side of the grids that outlines are carved from
DIRECTIONS = 24  # in which an outline's reach is measured
JUMP = 0.5  # of two neighbouring slopes' sum, by how much they may differ where the surface is one


@dataclass(frozen=True)
class DepthView:
    """One depth render. value: [H, W] float64, stored value over the largest possible, -1 where nothing is; slopes: [H, W, 2],
    its change per column and per row; smooth: [H, W] bool, where it has no edge; outside: [H, W], pixels to the outline, negative
    inside; away: [H, W, 2], the unit direction in which that grows; reach: (DIRECTIONS,), how far the outline reaches, pixels;
    to_z: [H, W], from distance along the ray to depth; rows, columns: of the pixels on the object; level: between two stored
    values, as a share of the largest."""

    camera: Camera
    value: Array
    slopes: Array
    smooth: Array
    outside: Array
    away: Array
    reach: Array
    to_z: Array
    rows: Array
    columns: Array
    level: float = 0.0

    @property
    def fx(self) -> float:
        return self.camera.fx

    def rays(self, x: Array, y: Array) -> Array:
        """World directions (n, 3) of pixel coordinates, of depth 1."""
        c = self.camera
        local = np.stack([(x - c.cx) / c.fx, -(y - c.cy) / c.fy, -np.ones(len(x))], axis=1)
        return np.asarray(local @ np.asarray(c.camera_to_world)[:3, :3].T)


def directions() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def depth_view(camera: Camera, value: Array, outline: Array, level: float, smooth_stairs: bool = True) -> DepthView:
    """camera: at the picture's size; value: as DepthView has it, of any size; outline: [H, W] bool, where the object is, which is
    where `value` is known but for holes; level: between two stored values; smooth_stairs: where there are few of these."""
    _, inside = _thinned(camera, outline)
    camera, value = _thinned(camera, value)
    known = value >= 0
    smoothed = _smoothed(value, level) if smooth_stairs else value
    slopes, smooth = _slopes(smoothed, known, level)
    outside = np.where(inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5)
    gradient = np.stack(np.gradient(outside)[::-1], axis=-1)
    away = gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    rows, columns = np.nonzero(inside)
    ways = directions()
    # an outline lies half a pixel beyond the middles of its outermost pixels, in the mean
    reach = np.array([(columns * a + rows * b).max() + 0.5 * (a + b) for a, b in ways]) + 0.5 * np.abs(ways).max(axis=1)
    rows, columns = np.nonzero(known)
    to_z = ray_to_z(camera, value.shape).astype(np.float64)
    return DepthView(camera, smoothed, slopes, smooth, outside, away, reach, to_z, rows, columns, level)


def _thinned(camera: Camera, value: Array) -> tuple[Camera, Array]:
    step = max(1, max(value.shape) // WIDEST)
    if step == 1:
        return camera, value
    first = step // 2
    thin = value[first::step, first::step]
    cx, cy = ((c - first - 0.5) / step + 0.5 for c in (camera.cx, camera.cy))
    height, width = thin.shape
    return replace(camera, fx=camera.fx / step, fy=camera.fy / step, cx=cx, cy=cy, width=width, height=height), thin


def _smoothed(value: Array, level: float) -> Array:
    """Without the staircase of few levels."""
    if level < 1e-4:
        return value
    from steps.geometry.depth_ops import dequantized  # only now: it loads kernels

    shifted = np.where(value >= 0, value + 1, 0).astype(np.float32)  # zero means nothing there
    smooth = dequantized(shifted, np.full_like(shifted, level)).astype(np.float64) - 1
    return np.where(value >= 0, np.maximum(smooth, 0), -1.0)


def _slopes(value: Array, known: Array, level: float) -> tuple[Array, Array]:
    """Change per column and per row, and where both sides agree on it."""
    slopes, smooth = np.zeros((*value.shape, 2)), known.copy()
    for axis, way in ((1, 0), (0, 1)):
        before = value - np.roll(value, 1, axis)
        after = np.roll(value, -1, axis) - value
        both = known & np.roll(known, 1, axis) & np.roll(known, -1, axis)
        apart = np.abs(before - after)
        smooth &= both & (apart <= JUMP * (np.abs(before) + np.abs(after)) + max(2 * level, 1e-4))
        slopes[..., way] = np.where(both, (before + after) / 2, 0)
    smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1] = False, False, False, False
    return slopes, smooth


class NothingSeen(Exception):
    """The six outlines have nothing in common: these are not the cameras that saw them."""


@dataclass(frozen=True)
class Frame:
    """What the outlines say of the object. middle (3,), radius: scene units; nearest, furthest: (6,), the hull's depth from each
    camera, radii."""

    middle: Array
    radius: float
    nearest: Array
    furthest: Array


def normalised(cameras: list[Camera], known: list[Array]) -> tuple[list[Camera], Frame]:
    """The cameras as seen from the object's middle, in its radii, and that frame. known: six [H, W] bool, where the object is;
    cameras: at these sizes. Raises NothingSeen where no place lies inside all six outlines."""
    middle, radius = _around(cameras, known)
    if not np.isfinite(radius) or radius <= 0:
        raise NothingSeen
    for _ in range(2):  # the second time with the hull's own size
        hull = _hull(cameras, known, middle, radius)
        if not len(hull):
            raise NothingSeen
        low, high = hull.min(axis=0), hull.max(axis=0)
        middle, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, radius / HULL)
    depths = [project(hull, c)[1] / radius for c in cameras]
    frame = Frame(middle, radius, np.array([d.min() for d in depths]), np.array([d.max() for d in depths]))
    return [_moved(c, middle, radius) for c in cameras], frame


def _moved(camera: Camera, middle: Array, radius: float) -> Camera:
    pose = np.array(camera.camera_to_world, np.float64)
    pose[:3, 3] = (pose[:3, 3] - middle) / radius
    return replace(camera, camera_to_world=pose)


def _around(cameras: list[Camera], known: list[Array]) -> tuple[Array, float]:
    """Where the axes through the outlines' middles meet (least squares), and how far the outlines reach around it."""
    square, right, reach = np.zeros((3, 3)), np.zeros(3), []
    for camera, inside in zip(cameras, known, strict=True):
        rows, columns = np.nonzero(inside)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        local = np.array([(x - camera.cx) / camera.fx, -(y - camera.cy) / camera.fy, -1.0])
        ray = np.asarray(camera.camera_to_world)[:3, :3] @ local
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        square += across
        right += across @ camera.position
        reach.append(max(float(np.ptp(columns)), float(np.ptp(rows))) + 1)
    middle = np.linalg.lstsq(square, right, rcond=None)[0]
    away = [float(np.linalg.norm(c.position - middle)) for c in cameras]
    sizes = [r / 2 / c.fx * a for r, c, a in zip(reach, cameras, away, strict=True)]
    return middle, 1.3 * float(np.max(sizes))


def unfilled(cameras: list[Camera], known: list[Array]) -> float:
    """By how much outlines stay empty of what all six have in common, radii: in four of five directions it is less. Cameras that
    did not see these outlines leave more than a few hundredths. Raises NothingSeen."""
    placed, _ = normalised(cameras, known)
    hull = _hull(placed, known, np.zeros(3), 1.0, FINE)
    if not len(hull):
        raise NothingSeen
    ways, short = directions(), []
    for camera, inside in zip(placed, known, strict=True):
        pixels = project(hull, camera)[0]
        rows, columns = np.nonzero(inside)
        reach = np.stack([columns + 0.5, rows + 0.5], axis=1) @ ways.T
        unit = float(np.linalg.norm(camera.position)) / camera.fx
        short.append((reach.max(axis=0) - (pixels @ ways.T).max(axis=0)) * unit)
    return float(np.quantile(short, 0.8))


def _hull(cameras: list[Camera], known: list[Array], middle: Array, radius: float, side: int = HULL) -> Array:
    """(n, 3): grid points inside all six outlines."""
    axis = np.linspace(-1.05, 1.05, side)
    points = middle + radius * np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    for camera, inside in zip(cameras, known, strict=True):
        pixels, depth = project(points, camera)
        column, row = (np.floor(np.nan_to_num(p)).astype(np.int64) for p in pixels.T)
        height, width = inside.shape
        within = (depth > 0) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
        within[within] = inside[row[within], column[within]]
        points = points[within]
    return np.asarray(points)
