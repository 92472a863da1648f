"""Measurements from the six depth renders for the search for a rig: points, silhouettes, extreme points."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, map_coordinates

from steps.calibration.rig_model import PER_VIEW, SHARED, EncodingModel, to_world
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map
from steps.geometry.depth_ops import dequantize

MAX_CELLS = 128  # side of the maps that residuals are looked up in
POINTS = 1000  # of each view
RIM_PASSES = 30  # of dequantization along the silhouette, where levels are narrow
DIRECTIONS = 16  # in which the extent of a silhouette is taken


@dataclass(frozen=True)
class Observations:
    """Measurements from six depth renders, before any camera is known. Lengths in half picture widths; maps have s cells a side.

    points: (6, n, 5), x, y, normalized depth (0 at the lowest stored value, 1 at the highest) and its slopes along x and y;
    values: (6, s, s), normalized depth, -1 where nothing is; slopes: (6, s, s), the length of its gradient;
    silhouette_distance: (6, s, s), signed, positive outside; silhouette_extent: (6, DIRECTIONS), the silhouette's support
    function; normalized_depths: at the pictures' size, six [side, side]; level: step between two stored values, normalized;
    per_view_range: whether each view is normalized by its own range; extreme_points: (6, e, 5), more points, used in the
    silhouette residuals alone."""

    points: Array
    values: Array
    slopes: Array
    silhouette_distance: Array
    silhouette_extent: Array
    normalized_depths: list[Array]
    level: float
    per_view_range: bool = False
    extreme_points: Array = field(default_factory=lambda: np.empty((6, 0, 5)))

    def __post_init__(self) -> None:
        if self.values.shape[1] < 2 or not self.values.shape == self.slopes.shape == self.silhouette_distance.shape:
            raise ValueError(f"Maps of {self.values.shape[1:]} cells cannot be interpolated in.")


def unit_directions() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def observations_of(
    counts: list[Array], known: list[Array], per_view_range: bool = False, seed: int = 0
) -> Observations:
    """Observations of six depth renders. counts: six [H, W] stored values; known: six [H, W] bool, the object's pixels;
    per_view_range: normalize each view by its own range."""
    ranges = value_ranges(counts, known, per_view_range)
    normalized = [
        np.where(k, (c - low) / max(high - low, 1e-9), -1.0)
        for c, k, (low, high) in zip(counts, known, ranges, strict=True)
    ]
    random = np.random.default_rng(seed)
    squares = [_pad_to_square(s) for s in normalized]
    cells = min(MAX_CELLS, *(len(s) for s in squares))
    levels = np.unique(np.concatenate([c[k] for c, k in zip(counts, known, strict=True)]))
    widest_range = max(high - low for low, high in ranges)
    level = float(np.diff(levels).min()) / widest_range if len(levels) > 1 else 0.0
    values = np.stack([_dequantize(_downsample(s, cells), level) for s in squares])
    silhouette_distance = np.stack([_signed_distance(s >= 0, cells) for s in squares])
    points = np.stack([_sample_points(s, v, random) for s, v in zip(squares, values, strict=True)])
    extent = np.stack([_silhouette_extent(s >= 0) for s in squares])
    slopes = np.stack([_slope_magnitude(v) for v in values])
    return Observations(points, values, slopes, silhouette_distance, extent, squares, level, per_view_range)


def value_ranges(counts: list[Array], known: list[Array], per_view: bool = False) -> list[tuple[float, float]]:
    """(lowest, highest) stored value on the object of each view; or of all views, six times."""
    ranges = [(float(c[k].min()), float(c[k].max())) for c, k in zip(counts, known, strict=True)]
    return ranges if per_view else [(min(low for low, _ in ranges), max(high for _, high in ranges))] * len(ranges)


def _pad_to_square(image: Array) -> Array:
    """Padded symmetrically to a square, with -1."""
    h, w = image.shape
    side = max(h, w)
    out = np.full((side, side), -1.0)
    out[(side - h) // 2 : (side - h) // 2 + h, (side - w) // 2 : (side - w) // 2 + w] = image
    return out


def _downsample(normalized_depth: Array, cells: int) -> Array:
    """[cells, cells] float32: means of the known pixels of each cell, -1 where less than half are known."""
    side = len(normalized_depth)
    rows = np.arange(side) * cells // side
    cell = rows[:, None] * cells + rows[None]
    known = normalized_depth >= 0
    count = np.bincount(cell[known], minlength=cells**2)
    total = np.bincount(cell[known], normalized_depth[known], cells**2)
    every = np.bincount(cell.ravel(), minlength=cells**2)
    mean = np.where(2 * count >= np.maximum(every, 1), total / np.maximum(count, 1), -1.0)
    return mean.reshape(cells, cells).astype(np.float32)


def _dequantize(values: Array, level: float, passes: int = 120) -> Array:
    """Removes the stairs of quantization."""
    shifted = np.where(values >= 0, values + 1, 0).astype(np.float32)  # zero means nothing there
    return dequantize(shifted, np.full_like(shifted, level), passes) - 1


def _signed_distance(inside: Array, cells: int) -> Array:
    """[cells, cells] float32: signed distance to the silhouette, half widths, positive outside."""
    side = len(inside)
    distance = np.where(inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5)
    centre = (np.arange(cells) + 0.5) * side / cells - 0.5
    world_points = np.meshgrid(centre, centre, indexing="ij")
    return np.asarray(map_coordinates(distance, world_points, order=1) * 2 / side, np.float32)


def _pixel_coordinates(normalized_depth: Array) -> tuple[Array, Array, Array]:
    """x, y (half widths) and normalized depth of the known pixels."""
    side = len(normalized_depth)
    rows, columns = np.nonzero(normalized_depth >= 0)
    return (columns + 0.5) * 2 / side - 1, 1 - (rows + 0.5) * 2 / side, normalized_depth[rows, columns]


def _sample_points(normalized_depth: Array, values: Array, random: np.random.Generator) -> Array:
    """(POINTS, 5): random cells, and the extreme pixel in each direction."""
    x, y, value = _pixel_coordinates(normalized_depth)
    directions = unit_directions()
    extreme = np.array([np.argmax(x * a + y * b) for a, b in directions])
    dx, dy = _gradients(values)
    cells = len(values)
    er, ec = (((1 - y[extreme]) / 2 * cells).astype(int), ((x[extreme] + 1) / 2 * cells).astype(int))
    outer = np.stack([x[extreme], y[extreme], value[extreme], dx[er, ec], dy[er, ec]], axis=1)
    rows, columns = np.nonzero(values >= 0)
    if not len(rows):  # too thin to fill half of any cell
        return np.resize(outer, (POINTS, outer.shape[1]))
    chosen = random.integers(0, len(rows), POINTS - len(extreme))
    return np.concatenate([outer, points_of(values, rows[chosen], columns[chosen])])


def points_of(values: Array, r: Array, c: Array) -> Array:
    """(n, 5): cells in the layout of `Observations.points`."""
    dx, dy = _gradients(values)
    cells = len(values)
    return np.stack([(c + 0.5) * 2 / cells - 1, 1 - (r + 0.5) * 2 / cells, values[r, c], dx[r, c], dy[r, c]], axis=1)


EDGE_SLOPE = 3.0  # where the slope cannot be measured, close to the silhouette: there surfaces turn away


def _slope_magnitude(values: Array) -> Array:
    """[cells, cells] float32: length of the gradient."""
    dx, dy = _gradients(values)
    steep = np.where((dx == 0) & (dy == 0) & _near_silhouette(values), EDGE_SLOPE, np.hypot(dx, dy))
    return steep.astype(np.float32)


def _near_silhouette(values: Array) -> Array:
    """[cells, cells] bool: where less than 0.6 of the surroundings are known."""
    return np.asarray(gaussian_filter((values >= 0).astype(np.float64), 1.5) < 0.6)


def _gradients(values: Array) -> tuple[Array, Array]:
    """Derivatives of normalized depth by x and by y, by normalized convolution over the known cells."""
    known = (values >= 0).astype(np.float64)
    weight = gaussian_filter(known, 1.5)
    mean = gaussian_filter(np.where(values >= 0, values, 0.0), 1.5) / np.maximum(weight, 1e-6)
    smoothed = np.where(weight > 0.05, mean, 0)
    dy, dx = np.gradient(smoothed)
    flat = weight < 0.6  # too near the outline for a slope
    half = len(values) / 2
    return np.where(flat, 0, dx * half), np.where(flat, 0, -dy * half)


def _silhouette_extent(inside: Array) -> Array:
    """(DIRECTIONS,): support function of the silhouette's pixel centres."""
    x, y, _ = _pixel_coordinates(np.where(inside, 0.0, -1.0))
    return np.array([(x * a + y * b).max() for a, b in unit_directions()])


# -- extreme points -----------------------------------------------------------------------------------------------------


def all_points(observations: Observations) -> list[Array]:
    """All points of each view, six (n, 5): its cells and its outermost pixels."""
    views = zip(observations.values, observations.normalized_depths, strict=True)
    return parallel_map(
        lambda v: np.concatenate([points_of(v[0], *np.nonzero(v[0] >= 0)), _rim(*v, observations.level)]), views
    )


def with_extreme_points(
    observations: Observations, points: list[Array], axes: Array, encoding: EncodingModel, params: Array
) -> Observations:
    """Adds those of `points` (see `all_points`) that by these parameters are extreme in the other views.

    Random points fall short of the silhouettes, the more so the fewer they are, and the perspective would compensate for it.
    The extents grow by half a pixel, from the centre of the outermost pixel to its edge; the extreme one of many noisy
    points is about as much too far out."""
    extreme = parallel_map(lambda i: _extreme_points(points[i], axes, encoding, params, i), range(len(axes)))
    half_pixels = 1 / np.array([[len(depth)] for depth in observations.normalized_depths])
    extent = observations.silhouette_extent + half_pixels * np.abs(unit_directions()).max(axis=1)
    return replace(observations, extreme_points=np.stack(extreme), silhouette_extent=extent)


def _extreme_points(points: Array, axes: Array, encoding: EncodingModel, params: Array, i: int) -> Array:
    """(5 * DIRECTIONS, 5): the points of view i that are extreme in each other view, in each direction."""
    world_points = to_world(points, axes[i], encoding, params, i)[:, :3]
    chosen = [_extreme_indices(world_points @ axes[j].T, params, j) for j in range(len(axes)) if j != i]
    return np.asarray(points[np.concatenate(chosen)])


def _extreme_indices(local: Array, params: Array, j: int) -> Array:
    """(DIRECTIONS,): indices of the points (n, 3), in view j's axes, that are extreme there in each direction."""
    scale, x, y = params[SHARED + PER_VIEW * j :][:3]
    projected = local[:, :2] / np.maximum(1 - params[0] * local[:, 2:], 0.05) * np.exp(scale) + (x, y)
    return np.asarray(np.argmax(projected @ unit_directions().T, axis=0))


def _rim(values: Array, normalized_depth: Array, level: float) -> Array:
    """(n, 5): the outermost pixels of the silhouette."""
    known = normalized_depth >= 0
    rim = known & ~binary_erosion(known)
    rows, columns = (n * len(values) // len(normalized_depth) for n in np.nonzero(rim))
    points = points_of(values, rows, columns)
    points[:, 0], points[:, 1], _ = _pixel_coordinates(np.where(rim, normalized_depth, -1.0))
    points[:, 2] = _dequantize(normalized_depth, level, RIM_PASSES)[rim]
    return points
