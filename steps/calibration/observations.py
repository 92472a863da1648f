"""What six depth renders show, as the search for a rig wants it: points, outlines, and what reaches furthest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, map_coordinates

from steps.calibration.solver import PER_VIEW, SHARED, Coding, Sights, compass, lifted
from steps.compute.kernels import parallel_map
from steps.geometry.depth_ops import dequantized

Array = NDArray[Any]
CELLS = 128  # to a side of the maps that rigs are compared by
POINTS = 1000  # of each view
PASSES = 30  # in which the staircase of levels is smoothed along outlines, where stairs are narrow


def sights_of(counts: list[Array], known: list[Array], own: bool = False, seed: int = 0) -> Sights:
    """counts: six [H, W] stored values; known: six [H, W] bool, where the object is; own: whether each view's values are taken as
    shares of its own range."""
    spans = spans_of(counts, known, own)
    shares = [
        np.where(k, (c - low) / max(high - low, 1e-9), -1.0)
        for c, k, (low, high) in zip(counts, known, spans, strict=True)
    ]
    random = np.random.default_rng(seed)
    squares = [_square(s) for s in shares]
    cells = min(CELLS, *(len(s) for s in squares))
    levels = np.unique(np.concatenate([c[k] for c, k in zip(counts, known, strict=True)]))
    widest = max(high - low for low, high in spans)
    step = float(np.diff(levels).min()) / widest if len(levels) > 1 else 0.0
    values = np.stack([_smooth(_small(s, cells), step) for s in squares])
    outlines = np.stack([_signed(s >= 0, cells) for s in squares])
    points = np.stack([_sampled(s, v, random) for s, v in zip(squares, values, strict=True)])
    reach = np.stack([_reach(s >= 0) for s in squares])
    slopes = np.stack([_steepness(v) for v in values])
    return Sights(points, values, slopes, outlines, reach, squares, step, own)


def spans_of(counts: list[Array], known: list[Array], own: bool = False) -> list[tuple[float, float]]:
    """The lowest and highest stored value of each view, or of all of them, six times."""
    spans = [(float(c[k].min()), float(c[k].max())) for c, k in zip(counts, known, strict=True)]
    return spans if own else [(min(low for low, _ in spans), max(high for _, high in spans))] * len(spans)


def _square(share: Array) -> Array:
    """Padded to a square around its middle."""
    h, w = share.shape
    side = max(h, w)
    out = np.full((side, side), -1.0)
    out[(side - h) // 2 : (side - h) // 2 + h, (side - w) // 2 : (side - w) // 2 + w] = share
    return out


def _small(share: Array, cells: int) -> Array:
    """[cells, cells] float32: means of the known pixels of each cell, where at least half are known."""
    side = len(share)
    rows = np.arange(side) * cells // side
    cell = rows[:, None] * cells + rows[None]
    known = share >= 0
    count = np.bincount(cell[known], minlength=cells**2)
    total = np.bincount(cell[known], share[known], cells**2)
    every = np.bincount(cell.ravel(), minlength=cells**2)
    mean = np.where(2 * count >= np.maximum(every, 1), total / np.maximum(count, 1), -1.0)
    return mean.reshape(cells, cells).astype(np.float32)


def _smooth(values: Array, step: float, passes: int = 120) -> Array:
    """Without the staircase of few levels."""
    shifted = np.where(values >= 0, values + 1, 0).astype(np.float32)  # zero means nothing there
    return dequantized(shifted, np.full_like(shifted, step), passes) - 1


def _signed(inside: Array, cells: int) -> Array:
    """[cells, cells] float32, signed distance to the outline in half widths."""
    side = len(inside)
    distance = np.where(inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5)
    centre = (np.arange(cells) + 0.5) * side / cells - 0.5
    places = np.meshgrid(centre, centre, indexing="ij")
    return np.asarray(map_coordinates(distance, places, order=1) * 2 / side, np.float32)


def _places(share: Array) -> tuple[Array, Array, Array]:
    side = len(share)
    rows, columns = np.nonzero(share >= 0)
    return (columns + 0.5) * 2 / side - 1, 1 - (rows + 0.5) * 2 / side, share[rows, columns]


def _sampled(share: Array, values: Array, random: np.random.Generator) -> Array:
    """(POINTS, 5): random cells, and the pixels that reach furthest in each direction."""
    x, y, value = _places(share)
    way = compass()
    extreme = np.array([np.argmax(x * a + y * b) for a, b in way])
    dx, dy = _slopes(values)
    cells = len(values)
    er, ec = (((1 - y[extreme]) / 2 * cells).astype(int), ((x[extreme] + 1) / 2 * cells).astype(int))
    outer = np.stack([x[extreme], y[extreme], value[extreme], dx[er, ec], dy[er, ec]], axis=1)
    rows, columns = np.nonzero(values >= 0)
    if not len(rows):  # too thin to fill half of any cell
        return np.resize(outer, (POINTS, outer.shape[1]))
    chosen = random.integers(0, len(rows), POINTS - len(extreme))
    return np.concatenate([outer, points_of(values, rows[chosen], columns[chosen])])


def points_of(values: Array, r: Array, c: Array) -> Array:
    """(n, 5): cells as Sights has its points."""
    dx, dy = _slopes(values)
    cells = len(values)
    return np.stack([(c + 0.5) * 2 / cells - 1, 1 - (r + 0.5) * 2 / cells, values[r, c], dx[r, c], dy[r, c]], axis=1)


EDGE_SLOPE = 3.0  # taken for what is too close to an outline to be measured: there surfaces turn away


def _steepness(values: Array) -> Array:
    """[cells, cells] float32: how steep the values are."""
    dx, dy = _slopes(values)
    steep = np.where((dx == 0) & (dy == 0) & _edge(values), EDGE_SLOPE, np.hypot(dx, dy))
    return steep.astype(np.float32)


def _edge(values: Array) -> Array:
    return np.asarray(gaussian_filter((values >= 0).astype(np.float64), 1.5) < 0.6)


def _slopes(values: Array) -> tuple[Array, Array]:
    """Change of the value per unit of x and of y, over what is known around each cell."""
    known = (values >= 0).astype(np.float64)
    weight = gaussian_filter(known, 1.5)
    mean = gaussian_filter(np.where(values >= 0, values, 0.0), 1.5) / np.maximum(weight, 1e-6)
    filled = np.where(weight > 0.05, mean, 0)
    dy, dx = np.gradient(filled)
    flat = weight < 0.6  # too near the outline for a slope
    half = len(values) / 2
    return np.where(flat, 0, dx * half), np.where(flat, 0, -dy * half)


def _reach(inside: Array) -> Array:
    x, y, _ = _places(np.where(inside, 0.0, -1.0))
    return np.array([(x * a + y * b).max() for a, b in compass()])


# -- what reaches furthest ----------------------------------------------------------------------------------------------


def shown(sights: Sights) -> list[Array]:
    """All points of each view, six (n, 5): its cells, and its outermost pixels."""
    views = zip(sights.values, sights.shares, strict=True)
    return parallel_map(
        lambda v: np.concatenate([points_of(v[0], *np.nonzero(v[0] >= 0)), _rim(*v, sights.level)]), views
    )


def with_furthest(sights: Sights, points: list[Array], axes: Array, coding: Coding, theta: Array) -> Sights:
    """Asks those points of each view, too, that by these numbers reach furthest in the others, of all that are `shown`: random
    ones fall short of the outlines, by more the fewer they are, and the perspective would make up for it. The outlines reach half
    a pixel beyond the middles of their outermost pixels; the furthest of many noisy points are about as much too far."""
    furthest = parallel_map(lambda i: _furthest(points[i], axes, coding, theta, i), range(len(axes)))
    half_pixels = 1 / np.array([[len(share)] for share in sights.shares])
    reach = sights.reach + half_pixels * np.abs(compass()).max(axis=1)
    return replace(sights, furthest=np.stack(furthest), reach=reach)


def _furthest(points: Array, axes: Array, coding: Coding, theta: Array, i: int) -> Array:
    """(5 * DIRECTIONS, 5): of the points (n, 5) of view i, for each other view those that reach furthest each way there."""
    places = lifted(points, axes[i], coding, theta, i)[:, :3]
    chosen = [_extreme(places @ axes[j].T, theta, j) for j in range(len(axes)) if j != i]
    return np.asarray(points[np.concatenate(chosen)])


def _extreme(local: Array, theta: Array, j: int) -> Array:
    """(DIRECTIONS,): the indices of those points (n, 3), in view j's own axes, that it has furthest each way."""
    scale, x, y = theta[SHARED + PER_VIEW * j :][:3]
    drawn = local[:, :2] / np.maximum(1 - theta[0] * local[:, 2:], 0.05) * np.exp(scale) + (x, y)
    return np.asarray(np.argmax(drawn @ compass().T, axis=0))


def _rim(values: Array, share: Array, level: float) -> Array:
    """(n, 5): the outermost pixels."""
    known = share >= 0
    rim = known & ~binary_erosion(known)
    rows, columns = (n * len(values) // len(share) for n in np.nonzero(rim))
    points = points_of(values, rows, columns)
    points[:, 0], points[:, 1], _ = _places(np.where(rim, share, -1.0))
    points[:, 2] = _smooth(share, level, PASSES)[rim]
    return points
