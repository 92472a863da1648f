"""How much the views of a set contradict each other under given cameras.

A view denies a point that another one has seen where it looks past it: where it shows nothing, or something farther, in a whole
window around the point. (Points in the free space of another view: the photo hull's consistency test, Kutulakos and Seitz, "A
theory of shape by space carving", 2000, with depth for colour.) The window is `TOLERANCE` of the object wide, so that neither a
pixel at an outline nor a part that another view sees from its edge, thinner than a pixel, counts as a contradiction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry.cameras import Camera, project

Array = NDArray[Any]
SIDE = 192  # pixels to which depth maps are pooled
POINTS = 800  # of each view
TOLERANCE = 0.03  # of the object's diagonal: how far before a surface, or beside an outline, a point may lie
EDGE_ON = 0.35  # cosine between surface normal and line of sight up to which a view sees a surface from its edge
OVERLAP = 0.3  # cosine from which two views see the same surface well enough to compare them there
FROM_BEHIND = -0.5  # cosine from which a view looks at the other side of a surface


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
        near = np.where(depth > 0, depth, np.inf)
        if unknown is not None:
            near[unknown] = 0.0
        some = np.isfinite(near)
        cut = bool(some[0].any() or some[-1].any() or some[:, 0].any() or some[:, -1].any())
        step = max(1, -(-max(depth.shape) // SIDE))
        return DepthView(camera, depth, _pooled(near, step), float(step), cut)

    def subsampled(self) -> DepthView:
        """Every so many'th pixel of a large depth map, for trials of many hypotheses."""
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
class Seen:
    """Points of a view. points: (n, 3) in the world, with normals (n, 3); pixels: where it sees them, (n, 2) column and row."""

    view: DepthView
    points: Array
    normals: Array
    pixels: Array

    @property
    def position(self) -> Array:
        return self.view.camera.position


@dataclass(frozen=True)
class Agreement:
    """pixels: of each view, where it sees the points that were asked about, (n, 2); wrong: (n,) bool, which of them another view
    denies; distance: median gap between two views' surfaces where both see one, as a share of the object's diagonal."""

    pixels: list[Array]
    wrong: list[Array]
    distance: float

    @property
    def share(self) -> float:
        """Of all points, those that another view denies."""
        every = np.concatenate(self.wrong)
        return float(every.mean()) if len(every) else 0.0

    @property
    def of_each(self) -> list[float]:
        """The same for each view."""
        return [float(wrong.mean()) if len(wrong) else 0.0 for wrong in self.wrong]


def seen(view: DepthView, points: int = POINTS, normals: bool = True) -> Seen:
    """Sampled points of a view, evenly over its pixels."""
    depth, camera = view.depth, view.camera
    rows, columns = np.nonzero(depth > 0)
    chosen = np.linspace(0, len(rows) - 1, min(points, len(rows))).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    pose = np.asarray(camera.camera_to_world, np.float64)
    world = _places(depth, camera, rows, columns) @ pose[:3, :3].T + pose[:3, 3]
    across = _normals(depth, camera, rows, columns) @ pose[:3, :3].T if normals else np.zeros((0, 3))
    return Seen(view, world, across, np.stack([columns, rows], 1))


def _places(depth: Array, camera: Camera, rows: Array, columns: Array) -> Array:
    """(n, 3) in the camera's axes: what these pixels see; the nearest pixel's for those outside."""
    rows, columns = np.clip(rows, 0, depth.shape[0] - 1), np.clip(columns, 0, depth.shape[1] - 1)
    z = depth[rows, columns].astype(np.float64)
    return np.stack([(columns + 0.5 - camera.cx) / camera.fx * z, -(rows + 0.5 - camera.cy) / camera.fy * z, -z], 1)


def _normals(depth: Array, camera: Camera, rows: Array, columns: Array) -> Array:
    """(n, 3) unit normals in the camera's axes, towards the camera, from differences over two pixels that stay on the surface:
    of the two on each side the smaller one."""
    middle = _places(depth, camera, rows, columns)

    def slope(dr: int, dc: int) -> Array:
        ahead = _places(depth, camera, rows + dr, columns + dc) - middle
        behind = middle - _places(depth, camera, rows - dr, columns - dc)
        nearer = np.abs(ahead[:, 2]) < np.abs(behind[:, 2])
        return np.where(nearer[:, None], ahead, behind)

    normal = np.cross(slope(0, 2), slope(-2, 0))
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30))


def _pooled(near: Array, step: int) -> Array:
    """The least of each block of step x step."""
    height, width = (-(-n // step) * step for n in near.shape)
    padded = np.full((height, width), np.inf)
    padded[: near.shape[0], : near.shape[1]] = near
    return np.asarray(padded.reshape(height // step, step, width // step, step).min(axis=(1, 3)))


def least_around(image: Array, reach: int) -> Array:
    """The least value within `reach` rows and columns of each pixel of `image` [H, W]."""
    for axis in (0, 1):
        pad = [(reach, reach) if k == axis else (0, 0) for k in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pad, mode="edge"), 2 * reach + 1, axis=axis)
        image = windows.min(axis=-1)
    return image


def diagonal(views: list[Seen]) -> float:
    """Of the box around what the median view sees: one view that stands elsewhere does not make the object large."""
    sizes = [float(np.linalg.norm(np.ptp(view.points, axis=0))) for view in views if len(view.points)]
    return float(np.median(sizes)) if sizes else 0.0


def compare(views: list[DepthView]) -> Agreement:
    """How far the views agree."""
    sights = [seen(view) for view in views]
    tolerance = TOLERANCE * diagonal(sights)
    wrong = [np.zeros(len(one.points), bool) for one in sights]
    gaps = [np.zeros(0)]
    for j, other in enumerate(sights):
        window = Window.of(other.view, tolerance)
        for i, one in enumerate(sights):
            if i == j or not len(one.points):
                continue
            no = window.denies(one.points)
            wrong[i] |= no & ~vanishing(one, j, sights, tolerance) if no.any() else no
            gaps.append(met(one, other, tolerance)[2])
    every = np.concatenate(gaps)
    distance = float(np.median(every)) / (tolerance / TOLERANCE) if len(every) and tolerance else 0.0
    return Agreement([one.pixels for one in sights], wrong, distance)


def denied_share(views: list[DepthView], points: int) -> float:
    """A quick estimate of `Agreement.share`, from a few points of each view; too high where parts are thin."""
    sights = [seen(view, points, normals=False) for view in views]
    tolerance = TOLERANCE * diagonal(sights)
    windows = [Window.of(view, tolerance) for view in views]
    wrong = [
        np.logical_or.reduce([w.denies(one.points) for j, w in enumerate(windows) if j != i])
        for i, one in enumerate(sights)
    ]
    return float(np.concatenate(wrong).mean())


def met(one: Seen, other: Seen, tolerance: float) -> tuple[Array, Array, Array]:
    """The points of a view that another one sees too, by their index (m,), where it sees them (m, 2: column and row), and how far
    the two surfaces are apart there, across the surface (m,). Only where both look at it rather than along it."""
    cosine = facing(one, other)
    index = np.flatnonzero((cosine > OVERLAP) & (facing(one, one) > OVERLAP))
    place, distance, depth = _looked_up(one.points[index], other.view, other.view.depth)
    gap = np.abs(depth - distance)
    both = (depth > 0) & (gap < tolerance)
    return index[both], place[both], (gap * cosine[index])[both]


def facing(one: Seen, other: Seen) -> Array:
    """(n,): cosine between the normals of a view's points and the direction to another view's camera."""
    sight = other.position - one.points
    return np.asarray(np.einsum("nk,nk->n", one.normals, sight) / np.maximum(np.linalg.norm(sight, axis=1), 1e-30))


def vanishing(one: Seen, j: int, sights: list[Seen], tolerance: float) -> Array:
    """(n,) bool: points of a thin part that view `j` sees from its edge, where less than a pixel of it may be left: another view,
    from the other side, has its back less than `tolerance` behind the point."""
    edge_on = np.abs(facing(one, sights[j])) < EDGE_ON
    thin = np.zeros(len(one.points), bool)
    for k, view in enumerate(sights):
        if k == j or view is one:
            continue
        behind = edge_on & (facing(one, view) < FROM_BEHIND)
        if behind.any():
            _, distance, depth = _looked_up(one.points[behind], view.view, view.view.nearest)
            thin[behind] |= (depth > 0) & (np.abs(depth - distance) < tolerance)
    return edge_on & thin


def _looked_up(points: Array, view: DepthView, depth: Array) -> tuple[Array, Array, Array]:
    """Where a view has points (n, 3) in its depth map, full or pooled, (n, 2); their distance along its axis (n,); and the depth
    there (n,), infinite outside of its picture."""
    pixels, distance = _projected(points, view)
    scale = 1.0 if depth is view.depth else view.block
    place = np.floor(pixels / scale)
    height, width = depth.shape
    inside = (distance > 0) & (place >= 0).all(axis=1) & (place[:, 0] < width) & (place[:, 1] < height)
    found = np.full(len(points), np.inf)
    column, row = place[inside].astype(np.int64).T
    found[inside] = depth[row, column]
    return place, distance, found


def _projected(points: Array, view: DepthView) -> tuple[Array, Array]:
    """As `project`, with places far outside for points in the camera's own plane."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        pixels, distance = project(points, view.camera)
    return np.nan_to_num(pixels, nan=-1e9, posinf=1e9, neginf=-1e9), distance


@dataclass(frozen=True)
class Window:
    """A view with the nearest depth within `tolerance` around each place. padding: blocks around its picture."""

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
        # what lies beyond the edge of a picture that cuts the object off is not known
        padded = np.pad(view.nearest, reach, constant_values=0.0 if view.cut else np.inf)
        return Window(view, least_around(padded, reach), reach, tolerance)

    def denies(self, points: Array) -> Array:
        """(n,) bool: which points (n, 3) this view says are not there."""
        pixels, distance = _projected(points, self.view)
        height, width = self.nearest.shape
        place = np.floor(pixels / self.view.block) + self.padding
        inside = (distance > 0) & (place >= 0).all(axis=1) & (place[:, 0] < width) & (place[:, 1] < height)
        nearest = np.full(len(points), 0.0 if self.view.cut else np.inf)
        column, row = place[inside].astype(np.int64).T
        nearest[inside] = self.nearest[row, column]
        return np.asarray(nearest > distance + self.tolerance)
