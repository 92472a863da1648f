"""Multi-view consistency of depth maps under given cameras.

A view denies a point of another view that lies in its free space: in a whole window around the point it shows nothing, or
something farther (the photo hull's consistency test, Kutulakos and Seitz, "A theory of shape by space carving", 2000, with
depth for colour). The window is `TOLERANCE` of the object wide, so that neither a pixel at an outline nor a part that
another view sees edge-on, thinner than a pixel, counts as a contradiction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, project

SIDE = 192  # pixels to which depth maps are pooled
POINTS = 800  # of each view
TOLERANCE = 0.03  # of the object's diagonal: tolerance in front of a surface and outside an outline
EDGE_ON_COSINE = 0.35  # cosine between normal and viewing ray up to which a surface is edge-on
OVERLAP_COSINE = 0.3  # cosine from which two views see the same surface well enough to compare them there
OPPOSITE = -0.5  # cosine from which a view looks at the other side of a surface


@dataclass(frozen=True)
class DepthView:
    """camera: of the depth map; depth: [H, W] float, along the viewing axis, 0 where nothing is; nearest: [h, w], the nearest
    depth in each block of it, infinite where nothing is, 0 where nothing is known; block: pixels to its side; cut: whether the
    object reaches the picture's edge."""

    camera: Camera
    depth: Array
    nearest: Array
    block: float
    cut: bool

    @staticmethod
    def of(camera: Camera, depth: Array, unknown: Array | None = None) -> DepthView:
        """unknown: [H, W] bool, pixels of which nothing is known: nothing is denied there."""
        masked_depth = np.where(depth > 0, depth, np.inf)
        if unknown is not None:
            masked_depth[unknown] = 0.0
        finite = np.isfinite(masked_depth)
        cut = bool(finite[0].any() or finite[-1].any() or finite[:, 0].any() or finite[:, -1].any())
        step = max(1, -(-max(depth.shape) // SIDE))
        return DepthView(camera, depth, _min_pool(masked_depth, step), float(step), cut)

    def subsampled(self) -> DepthView:
        """Subsampled, for trials of many hypotheses."""
        step = max(1, max(self.depth.shape) // (2 * SIDE))
        depth = self.depth[step // 2 :: step, step // 2 :: step]
        camera = self.camera.resized(depth.shape[1], depth.shape[0])
        return replace(self, camera=camera, depth=depth, block=self.block / step)

    def turned(self, turn: Callable[[Array], Array]) -> DepthView:
        """The same camera with the depth map turned or mirrored."""
        return replace(self, depth=turn(self.depth), nearest=turn(self.nearest))

    def with_camera(self, camera: Camera) -> DepthView:
        """The same depth map under another camera."""
        return replace(self, camera=camera.resized(self.camera.width, self.camera.height))


@dataclass(frozen=True)
class ViewPoints:
    """Sampled points of a view: (n, 3) in the world, with normals (n, 3); pixels: (n, 2), column and row."""

    view: DepthView
    points: Array
    normals: Array
    pixels: Array

    @property
    def position(self) -> Array:
        return self.view.camera.position


@dataclass(frozen=True)
class Agreement:
    """pixels: of each view's sampled points, (n, 2); denied: (n,) bool, which of them another view denies; distance: median
    distance between two views' surfaces where they overlap, in diagonals of the object."""

    pixels: list[Array]
    denied: list[Array]
    distance: float

    @property
    def denied_share(self) -> float:
        """Share of all points that another view denies."""
        every = np.concatenate(self.denied)
        return float(every.mean()) if len(every) else 0.0

    @property
    def denied_share_of_each(self) -> list[float]:
        """The same for each view."""
        return [float(wrong.mean()) if len(wrong) else 0.0 for wrong in self.denied]


def sample_points(view: DepthView, points: int = POINTS, normals: bool = True) -> ViewPoints:
    """Points of a view, sampled evenly over its pixels."""
    depth, camera = view.depth, view.camera
    rows, columns = np.nonzero(depth > 0)
    picked = np.linspace(0, len(rows) - 1, min(points, len(rows))).astype(int)
    rows, columns = rows[picked], columns[picked]
    pose = np.asarray(camera.camera_to_world, np.float64)
    world = _unproject_pixels(depth, camera, rows, columns) @ pose[:3, :3].T + pose[:3, 3]
    world_normals = _normals(depth, camera, rows, columns) @ pose[:3, :3].T if normals else np.zeros((0, 3))
    return ViewPoints(view, world, world_normals, np.stack([columns, rows], 1))


def _unproject_pixels(depth: Array, camera: Camera, rows: Array, columns: Array) -> Array:
    """(n, 3) in the camera's axes: the points of these pixels, clamped to the picture."""
    rows, columns = np.clip(rows, 0, depth.shape[0] - 1), np.clip(columns, 0, depth.shape[1] - 1)
    z = depth[rows, columns].astype(np.float64)
    return np.stack([(columns + 0.5 - camera.cx) / camera.fx * z, -(rows + 0.5 - camera.cy) / camera.fy * z, -z], 1)


def _normals(depth: Array, camera: Camera, rows: Array, columns: Array) -> Array:
    """(n, 3) unit normals in the camera's axes, towards the camera, from one-sided differences over two pixels, the flatter
    side of each."""
    middle = _unproject_pixels(depth, camera, rows, columns)

    def slope(dr: int, dc: int) -> Array:
        ahead = _unproject_pixels(depth, camera, rows + dr, columns + dc) - middle
        behind = middle - _unproject_pixels(depth, camera, rows - dr, columns - dc)
        nearer = np.abs(ahead[:, 2]) < np.abs(behind[:, 2])
        return np.where(nearer[:, None], ahead, behind)

    normal = np.cross(slope(0, 2), slope(-2, 0))
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30))


def _min_pool(near: Array, step: int) -> Array:
    """Minimum of each block of step x step."""
    height, width = (-(-n // step) * step for n in near.shape)
    padded = np.full((height, width), np.inf)
    padded[: near.shape[0], : near.shape[1]] = near
    return np.asarray(padded.reshape(height // step, step, width // step, step).min(axis=(1, 3)))


def minimum_filter(image: Array, reach: int) -> Array:
    """Minimum within `reach` rows and columns of each pixel of `image` [H, W]."""
    for axis in (0, 1):
        pad = [(reach, reach) if k == axis else (0, 0) for k in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pad, mode="edge"), 2 * reach + 1, axis=axis)
        image = windows.min(axis=-1)
    return image


def diagonal(views: list[ViewPoints]) -> float:
    """Diagonal of the median view's bounding box: robust to a view with a wrong camera."""
    sizes = [float(np.linalg.norm(np.ptp(view.points, axis=0))) for view in views if len(view.points)]
    return float(np.median(sizes)) if sizes else 0.0


def compare(views: list[DepthView]) -> Agreement:
    """Every view's points tested against every other view."""
    samples = [sample_points(view) for view in views]
    tolerance = TOLERANCE * diagonal(samples)
    denied = [np.zeros(len(one.points), bool) for one in samples]
    distances = [np.zeros(0)]
    for j, other in enumerate(samples):
        window = Window.of(other.view, tolerance)
        for i, one in enumerate(samples):
            if i == j or not len(one.points):
                continue
            denied_here = window.denies(one.points)
            denied[i] |= (
                denied_here & ~edge_on_thin_parts(one, j, samples, tolerance) if denied_here.any() else denied_here
            )
            distances.append(overlapping_points(one, other, tolerance)[2])
    every = np.concatenate(distances)
    distance = float(np.median(every)) / (tolerance / TOLERANCE) if len(every) and tolerance else 0.0
    return Agreement([one.pixels for one in samples], denied, distance)


def denied_share(views: list[DepthView], points: int) -> float:
    """Quick estimate of `Agreement.denied_share`, from few points of each view; too high where parts are thin."""
    samples = [sample_points(view, points, normals=False) for view in views]
    tolerance = TOLERANCE * diagonal(samples)
    windows = [Window.of(view, tolerance) for view in views]
    denied = [
        np.logical_or.reduce([w.denies(one.points) for j, w in enumerate(windows) if j != i])
        for i, one in enumerate(samples)
    ]
    return float(np.concatenate(denied).mean())


def overlapping_points(one: ViewPoints, other: ViewPoints, tolerance: float) -> tuple[Array, Array, Array]:
    """Points of a view that another one sees too: index (m,), cell there (m, 2: column and row), and distance between both
    surfaces across the surface (m,). Only where both see the surface at more than grazing angles."""
    cosine = facing(one, other)
    index = np.flatnonzero((cosine > OVERLAP_COSINE) & (facing(one, one) > OVERLAP_COSINE))
    cells, distance, depth = _look_up_depth(one.points[index], other.view, other.view.depth)
    distance_along_axis = np.abs(depth - distance)
    same_surface = (depth > 0) & (distance_along_axis < tolerance)
    return index[same_surface], cells[same_surface], (distance_along_axis * cosine[index])[same_surface]


def facing(one: ViewPoints, other: ViewPoints) -> Array:
    """(n,): cosine between the normals of a view's points and the direction to another view's camera."""
    towards = other.position - one.points
    return np.asarray(np.einsum("nk,nk->n", one.normals, towards) / np.maximum(np.linalg.norm(towards, axis=1), 1e-30))


def edge_on_thin_parts(one: ViewPoints, j: int, samples: list[ViewPoints], tolerance: float) -> Array:
    """(n,) bool: points of a thin part that view `j` sees edge-on, where less than a pixel of it may remain: another view sees
    its back less than `tolerance` behind the point."""
    edge_on = np.abs(facing(one, samples[j])) < EDGE_ON_COSINE
    is_thin = np.zeros(len(one.points), bool)
    for k, view in enumerate(samples):
        if k == j or view is one:
            continue
        candidates = edge_on & (facing(one, view) < OPPOSITE)
        if candidates.any():
            _, distance, depth = _look_up_depth(one.points[candidates], view.view, view.view.nearest)
            is_thin[candidates] |= (depth > 0) & (np.abs(depth - distance) < tolerance)
    return edge_on & is_thin


def _look_up_depth(points: Array, view: DepthView, depth: Array) -> tuple[Array, Array, Array]:
    """Cells (n, 2) of points (n, 3) in a view's depth map, full or pooled; their distance along its axis (n,); and the depth
    there (n,), infinite outside the picture."""
    pixels, distance = _projected(points, view)
    scale = 1.0 if depth is view.depth else view.block
    cells = np.floor(pixels / scale)
    height, width = depth.shape
    inside = (distance > 0) & (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
    depths = np.full(len(points), np.inf)
    column, row = cells[inside].astype(np.int64).T
    depths[inside] = depth[row, column]
    return cells, distance, depths


def _projected(points: Array, view: DepthView) -> tuple[Array, Array]:
    """As `project`, with coordinates far outside for points in the camera plane."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        pixels, distance = project(points, view.camera)
    return np.nan_to_num(pixels, nan=-1e9, posinf=1e9, neginf=-1e9), distance


@dataclass(frozen=True)
class Window:
    """A view with the minimum depth within `tolerance` around each cell. padding: cells around its picture."""

    view: DepthView
    nearest: Array
    padding: int
    tolerance: float

    @staticmethod
    def of(view: DepthView, tolerance: float) -> Window:
        known = view.nearest[np.isfinite(view.nearest) & (view.nearest > 0)]
        distance = float(np.median(known)) if len(known) else 1.0
        blocks = tolerance * view.camera.fx / max(distance, 1e-30) / view.block
        reach = int(np.ceil(np.clip(blocks, 1, SIDE / 8)))
        # beyond the edge of a picture that crops the object depth is unknown
        padded = np.pad(view.nearest, reach, constant_values=0.0 if view.cut else np.inf)
        return Window(view, minimum_filter(padded, reach), reach, tolerance)

    def denies(self, points: Array) -> Array:
        """(n,) bool: which points (n, 3) lie in this view's free space."""
        pixels, distance = _projected(points, self.view)
        height, width = self.nearest.shape
        cells = np.floor(pixels / self.view.block) + self.padding
        inside = (distance > 0) & (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
        nearest = np.full(len(points), 0.0 if self.view.cut else np.inf)
        column, row = cells[inside].astype(np.int64).T
        nearest[inside] = self.nearest[row, column]
        return np.asarray(nearest > distance + self.tolerance)
