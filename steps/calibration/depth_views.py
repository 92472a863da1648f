"""Six depth renders under known cameras, normalized: the object's centre is the origin and its radius the unit of length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, project, ray_to_z

MAX_SIDE = 512  # pixels to a side, larger pictures are subsampled
HULL_GRID, FINE_HULL_GRID = 48, 96  # grid points to a side of the visual hull
DIRECTIONS = 24  # of a silhouette's support function
SLOPE_JUMP = 0.5  # of the sum of both one-sided slopes, by how much they may differ on one surface


@dataclass(frozen=True)
class DepthView:
    """One depth render. value: [H, W] float64, stored value over the largest possible, -1 where nothing is; slopes: [H, W, 2],
    its derivatives per column and per row; smooth: [H, W] bool, no discontinuity; silhouette_distance: [H, W], pixels,
    negative inside; outward: [H, W, 2], unit gradient of that; silhouette_extent: (DIRECTIONS,), support function, pixels;
    to_z: [H, W], factor from ray distance to depth; rows, columns: of the object's pixels; level: step between two stored
    values."""

    camera: Camera
    value: Array
    slopes: Array
    smooth: Array
    silhouette_distance: Array
    outward: Array
    silhouette_extent: Array
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


def unit_directions() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def depth_view(camera: Camera, value: Array, outline: Array, level: float, smooth_stairs: bool = True) -> DepthView:
    """camera: at the picture's size; value: as DepthView has it, of any size; outline: [H, W] bool, the object, also where
    `value` has holes; level: step between two stored values; smooth_stairs: dequantize where there are few of these."""
    _, inside = _downsample(camera, outline)
    camera, value = _downsample(camera, value)
    known = value >= 0
    smoothed = _dequantize(value, level) if smooth_stairs else value
    slopes, smooth = _gradients(smoothed, known, level)
    silhouette_distance = np.where(inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5)
    gradient = np.stack(np.gradient(silhouette_distance)[::-1], axis=-1)
    outward = gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    rows, columns = np.nonzero(inside)
    directions = unit_directions()
    # an outline lies half a pixel beyond the middles of its outermost pixels, in the mean
    silhouette_extent = np.array(
        [(columns * a + rows * b).max() + 0.5 * (a + b) for a, b in directions]
    ) + 0.5 * np.abs(directions).max(axis=1)
    rows, columns = np.nonzero(known)
    to_z = ray_to_z(camera, value.shape).astype(np.float64)
    return DepthView(
        camera, smoothed, slopes, smooth, silhouette_distance, outward, silhouette_extent, to_z, rows, columns, level
    )


def _downsample(camera: Camera, value: Array) -> tuple[Camera, Array]:
    step = max(1, max(value.shape) // MAX_SIDE)
    if step == 1:
        return camera, value
    first = step // 2
    sampled = value[first::step, first::step]
    cx, cy = ((c - first - 0.5) / step + 0.5 for c in (camera.cx, camera.cy))
    height, width = sampled.shape
    return replace(camera, fx=camera.fx / step, fy=camera.fy / step, cx=cx, cy=cy, width=width, height=height), sampled


def _dequantize(value: Array, level: float) -> Array:
    """Removes the stairs of quantization."""
    if level < 1e-4:
        return value
    from steps.geometry.depth_ops import dequantize  # only now: it loads kernels

    shifted = np.where(value >= 0, value + 1, 0).astype(np.float32)  # zero means nothing there
    smooth = dequantize(shifted, np.full_like(shifted, level)).astype(np.float64) - 1
    return np.where(value >= 0, np.maximum(smooth, 0), -1.0)


def _gradients(value: Array, known: Array, level: float) -> tuple[Array, Array]:
    """Derivatives per column and per row, central differences; and where both one-sided differences agree."""
    slopes, smooth = np.zeros((*value.shape, 2)), known.copy()
    for axis, channel in ((1, 0), (0, 1)):
        before = value - np.roll(value, 1, axis)
        after = np.roll(value, -1, axis) - value
        both = known & np.roll(known, 1, axis) & np.roll(known, -1, axis)
        difference = np.abs(before - after)
        smooth &= both & (difference <= SLOPE_JUMP * (np.abs(before) + np.abs(after)) + max(2 * level, 1e-4))
        slopes[..., channel] = np.where(both, (before + after) / 2, 0)
    smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1] = False, False, False, False
    return slopes, smooth


class EmptyVisualHull(Exception):
    """The visual hull of the six silhouettes is empty: the cameras are wrong."""


@dataclass(frozen=True)
class Frame:
    """The visual hull. middle (3,), radius: scene units; nearest, furthest: (6,), its depth range from each camera, radii."""

    middle: Array
    radius: float
    nearest: Array
    furthest: Array


def normalize_cameras(cameras: list[Camera], known: list[Array]) -> tuple[list[Camera], Frame]:
    """The cameras with the visual hull's centre as origin and its radius as unit, and that frame. known: six [H, W] bool, the
    object; cameras: at these sizes. Raises EmptyVisualHull."""
    middle, radius = _bounding_sphere(cameras, known)
    if not np.isfinite(radius) or radius <= 0:
        raise EmptyVisualHull
    for _ in range(2):  # the second time with the hull's own size
        hull = _visual_hull(cameras, known, middle, radius)
        if not len(hull):
            raise EmptyVisualHull
        low, high = hull.min(axis=0), hull.max(axis=0)
        middle, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, radius / HULL_GRID)
    depths = [project(hull, c)[1] / radius for c in cameras]
    frame = Frame(middle, radius, np.array([d.min() for d in depths]), np.array([d.max() for d in depths]))
    return [_normalize_camera(c, middle, radius) for c in cameras], frame


def _normalize_camera(camera: Camera, middle: Array, radius: float) -> Camera:
    pose = np.array(camera.camera_to_world, np.float64)
    pose[:3, 3] = (pose[:3, 3] - middle) / radius
    return replace(camera, camera_to_world=pose)


def _bounding_sphere(cameras: list[Camera], known: list[Array]) -> tuple[Array, float]:
    """Least-squares intersection of the rays through the silhouettes' centres, and a radius that bounds the silhouettes around
    it."""
    normal_matrix, right_hand_side, extents = np.zeros((3, 3)), np.zeros(3), []
    for camera, inside in zip(cameras, known, strict=True):
        rows, columns = np.nonzero(inside)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        local = np.array([(x - camera.cx) / camera.fx, -(y - camera.cy) / camera.fy, -1.0])
        ray = np.asarray(camera.camera_to_world)[:3, :3] @ local
        ray /= np.linalg.norm(ray)
        projector = np.eye(3) - np.outer(ray, ray)
        normal_matrix += projector
        right_hand_side += projector @ camera.position
        extents.append(max(float(np.ptp(columns)), float(np.ptp(rows))) + 1)
    middle = np.linalg.lstsq(normal_matrix, right_hand_side, rcond=None)[0]
    distances = [float(np.linalg.norm(c.position - middle)) for c in cameras]
    sizes = [r / 2 / c.fx * a for r, c, a in zip(extents, cameras, distances, strict=True)]
    return middle, 1.3 * float(np.max(sizes))


def silhouette_shortfall(cameras: list[Camera], known: list[Array]) -> float:
    """80th percentile over directions of how far the visual hull stays short of the silhouettes, radii. Cameras that did not
    take these silhouettes give more than a few hundredths. Raises EmptyVisualHull."""
    normalized, _ = normalize_cameras(cameras, known)
    hull = _visual_hull(normalized, known, np.zeros(3), 1.0, FINE_HULL_GRID)
    if not len(hull):
        raise EmptyVisualHull
    directions, shortfalls = unit_directions(), []
    for camera, inside in zip(normalized, known, strict=True):
        pixels = project(hull, camera)[0]
        rows, columns = np.nonzero(inside)
        extents = np.stack([columns + 0.5, rows + 0.5], axis=1) @ directions.T
        unit = float(np.linalg.norm(camera.position)) / camera.fx
        shortfalls.append((extents.max(axis=0) - (pixels @ directions.T).max(axis=0)) * unit)
    return float(np.quantile(shortfalls, 0.8))


def _visual_hull(
    cameras: list[Camera], known: list[Array], middle: Array, radius: float, side: int = HULL_GRID
) -> Array:
    """(n, 3): grid points inside all six silhouettes."""
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
