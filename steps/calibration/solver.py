"""Least squares for the cameras and the depth encoding of six depth renders.

Everything here is in half picture widths: a picture spans [-1, 1] from left to right (x right, y up), and a length of one is what
half the width shows at the object's middle, the point that all six cameras look at. The `height` of a point over that middle is
measured towards a camera. A camera of perspective k = tan(half the field of view) stands at distance 1 / k and draws the point
(x, y, height) at (x, y) / (1 - k height); k = 0 is an orthographic camera, and nothing is special about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import blend, cell, for_bands, inlined, kernel

END_HEIGHTS = slice(1, 3)  # of the shared parameters: height at the lowest stored value, height at the highest
CURVE = slice(3, 6)  # of the shared parameters: the curve of stored values, see `undo_curve`
SHARED = 6  # perspective, end heights, curve
PER_VIEW = 5  # logarithm of the scale, shift x, shift y, gain and offset of the height
PARAM_STD = np.array([0.025, 0.03, 0.03, 0.02, 0.02])  # prior standard deviations of the per-view parameters
PER_VIEW_RANGE_STD = np.array([0.025, 0.03, 0.03, 0.5, 0.5])  # the same where each view stretched its values for itself
CURVE_STD = np.array([2.5, 0.3, 0.15])  # prior standard deviations of the curve's parameters
N_INDEPENDENT = 500.0  # independent observations among all of them, which the prior is weighed against
# true error of the perspective over the standard error for independent residuals: those of one view are correlated. Root mean
# square over a hundred captures of `python -m tests.benchmarks captures`
STD_ERROR_FACTOR = 1.2
DIRECTIONS = 16
VISIBLE = 0.03  # half widths between a point and the surface in a view, up to which the point counts as visible there
SILHOUETTE_WEIGHT = 3.0  # weight of a silhouette residual against a point's
NO_EXTENT = -9.0  # extent of an empty set of points
# half widths inside an outline over which the weight of depth rises to one: at the rim it is steep and unreliable
RIM_WIDTH = 0.04
# of a parameter, for derivatives: small, since at a good fit the outermost points lie on the outlines, where residuals
# have a kink
DIFFERENCE_STEP = 1e-5
SLOPE_STEP = 2e-3  # half widths over which the slope of a surface is taken


@dataclass(frozen=True)
class Observations:
    """What is measured in the six depth renders, before any camera is known. Half widths; s cells to a side.

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


@dataclass(frozen=True)
class Tolerance:
    """Scales of the robust loss, half widths. occlusion_limit: of points behind the surface, which may be hidden; error_limit:
    of all others, where Geman and McClure's loss levels off; noise: standard deviation of a good fit's residuals.

    redescending: 1 for points behind the surface, 2 also for those in front: a loss whose pull goes back to zero. 1 spares
    concave shapes; 2 also noisy depth, which would push the surfaces backwards and the perspective after them. Redescending
    losses have no gradient far from the solution: use for the final fit only."""

    occlusion_limit: float
    error_limit: float
    noise: float
    redescending: int = 0


ROUGH = Tolerance(0.05, 0.15, 0.02)
EXACT = Tolerance(0.03, 0.04, 0.008)
STRICT = Tolerance(0.008, 0.012, 0.003, 1)  # for parameters that are given, and may be far off
FINEST = Tolerance(0.008, 0.016, 0.003, 2)
# where per-view ranges are free: FINEST would let a view recede until its points are all hidden
FINE = Tolerance(0.008, 0.016, 0.003, 1)


@dataclass(frozen=True)
class EncodingModel:
    """inverse: stored values are linear in 1 / depth; ray: depth is measured along the ray; curved: after a curve, see
    `undo_curve`."""

    inverse: int = 0
    ray: int = 0
    curved: int = 0


def unit_directions() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@kernel
def undo_curve(value, a, c, d):  # type: ignore[no-untyped-def]
    """Normalized depth before a monotone curve that maps 0 to 0 and 1 to 1, and the derivative. An exponential of rate a, close
    to gammas and logarithms, plus a cubic of c and d for the remainder."""
    if a == 0.0 and c == 0.0 and d == 0.0:
        return value, 1.0
    if abs(a) < 1e-4:
        u, slope = value + 0.5 * a * value * (value - 1.0), 1.0 + a * (value - 0.5)
    else:
        range_of_exponential = np.expm1(a)
        u, slope = np.expm1(a * value) / range_of_exponential, a * np.exp(a * value) / range_of_exponential
    cubic = c + d * (2.0 * u - 1.0)
    return u + u * (1.0 - u) * cubic, slope * (1.0 + (1.0 - 2.0 * u) * cubic + 2.0 * u * (1.0 - u) * d)


@kernel
def height_of(value, x, y, k, low, high, inverse, ray):  # type: ignore[no-untyped-def]
    """Height of a normalized depth at picture coordinates (x, y). low, high: the heights of 0 and of 1."""
    if inverse:  # written so that its limit for k -> 0 is the linear case
        a, b = 1.0 - k * low, 1.0 - k * high
        height = (low * b + value * (high * a - low * b)) / (b + value * (a - b))
    else:
        height = low + value * (high - low)
    if ray:  # 1 / k - height was measured along the ray; -> along the axis
        q = k * k * (x * x + y * y)
        s = np.sqrt(1.0 + q)
        # (1 - cos) / k without dividing by k
        shorter = k * (x * x + y * y) / (s * (1.0 + s))
        height = shorter + height / s
    return height


@inlined
def _cell(s, x, y):  # type: ignore[no-untyped-def]
    """Row, column and bilinear weights of the four cells around picture coordinates, clamped to the map."""
    c, _, u = cell((x + 1.0) * 0.5 * s - 0.5, s)
    r, _, v = cell((1.0 - y) * 0.5 * s - 0.5, s)
    return r, c, u, v


@inlined
def _interpolated(values, r, c, u, v):  # type: ignore[no-untyped-def]
    return blend(values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1], u, v)


@inlined
def _lookup_or_nearest(values, r, c, u, v):  # type: ignore[no-untyped-def]
    """Normalized depth, bilinear where all four neighbours have one, else the nearest; -1 for none."""
    if min(values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1]) >= 0:
        return _interpolated(values, r, c, u, v)
    return values[r + int(v >= 0.5), c + int(u >= 0.5)]


@kernel
def _geman_mcclure(error, limit):  # type: ignore[no-untyped-def]
    """Square root of Geman and McClure's loss: the error where it is small, at most the limit."""
    return error / np.sqrt(1.0 + (error / limit) ** 2)


def initial_params(perspective: float, low: float, high: float) -> Array:
    """(SHARED + 6 * PER_VIEW,): these shared parameters, no curve, no per-view corrections."""
    params = np.zeros(SHARED + 6 * PER_VIEW)
    params[0], params[END_HEIGHTS] = perspective, (low, high)
    return params


def curve_is_monotone(params: Array) -> bool:
    """Whether the curve of these parameters is monotone."""
    if not params[CURVE].any():
        return True
    return all(undo_curve(normalized_depth, *params[CURVE])[1] > 0 for normalized_depth in np.linspace(0.0, 1.0, 17))


def unpack_params(params: Array) -> Array:
    """The parameters as the kernels take them: the views' scales in place of their logarithms."""
    unpacked = np.array(params, np.float64)
    unpacked[SHARED::PER_VIEW] = np.exp(unpacked[SHARED::PER_VIEW])
    return unpacked


@inlined
def _end_heights(params, i):  # type: ignore[no-untyped-def]
    """Heights of the normalized depths 0 and 1 in view i."""
    b = SHARED + PER_VIEW * i
    gain, offset = 1.0 + params[b + 3], params[b + 4]
    return params[1] * gain + offset, params[2] * gain + offset


@kernel
def _to_world(point, axes, params, i, inverse, ray, world_point):  # type: ignore[no-untyped-def]
    """A point of view i in the world: position and unit normal of the surface, into world_point (6,). axes: (3, 3), of view i."""
    k, a = params[0], SHARED + PER_VIEW * i
    low, high = _end_heights(params, i)
    scale = params[a]
    x, y = (point[0] - params[a + 1]) / scale, (point[1] - params[a + 2]) / scale
    value, slope = undo_curve(point[2], params[3], params[4], params[5])
    h = height_of(value, x, y, k, low, high, inverse, ray)
    dx, dy = SLOPE_STEP * slope * point[3] * scale, SLOPE_STEP * slope * point[4] * scale
    hx = (height_of(value + dx, x + SLOPE_STEP, y, k, low, high, inverse, ray) - h) / SLOPE_STEP
    hy = (height_of(value + dy, x, y + SLOPE_STEP, k, low, high, inverse, ray) - h) / SLOPE_STEP
    f = 1.0 - k * h
    nx, ny, nz = -hx, -hy, f - k * (hx * x + hy * y)  # the cross product of the derivatives of (x f, y f, h), over f
    size = np.sqrt(nx * nx + ny * ny + nz * nz)
    for q in range(3):
        world_point[q] = axes[0, q] * x * f + axes[1, q] * y * f + axes[2, q] * h
        world_point[3 + q] = (axes[0, q] * nx + axes[1, q] * ny + axes[2, q] * nz) / size


@kernel
def _to_world_all(points, axes, params, i, inverse, ray, out):  # type: ignore[no-untyped-def]
    for n in range(len(points)):
        _to_world(points[n], axes, params, i, inverse, ray, out[n])


def to_world(points: Array, axes: Array, encoding: EncodingModel, params: Array, i: int) -> Array:
    """Points (n, 5) of view i in the world: (n, 6), positions and unit normals of the surface. axes: (3, 3), of view i."""
    out = np.empty((len(points), 6))
    _to_world_all(points, np.ascontiguousarray(axes), unpack_params(params), i, encoding.inverse, encoding.ray, out)
    return out


@kernel
def project_to_view(world_point, axes, params, j):  # type: ignore[no-untyped-def]
    """Projection of a world point (6,) into view j: ideal picture coordinates x and y, height, the coordinates in the picture
    with the view's scale and shift, and the cosine between the point's normal and the direction to the camera. axes: (3, 3),
    of view j; params: unpacked."""
    k, b = params[0], SHARED + PER_VIEW * j
    px, py, hj, nx, ny, nz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for q in range(3):
        px += axes[0, q] * world_point[q]
        py += axes[1, q] * world_point[q]
        hj += axes[2, q] * world_point[q]
        nx += axes[0, q] * world_point[3 + q]
        ny += axes[1, q] * world_point[3 + q]
        nz += axes[2, q] * world_point[3 + q]
    g = max(1.0 - k * hj, 0.05)
    facing = (g * nz - k * (px * nx + py * ny)) / np.sqrt(g * g + k * k * (px * px + py * py))
    px, py = px / g, py / g
    return (
        px,
        py,
        hj,
        px * params[b] + params[b + 1],
        py * params[b] + params[b + 2],
        facing,
    )


@kernel
def _height_in_view(value, x, y, params, j, inverse, ray):  # type: ignore[no-untyped-def]
    """Height of view j's normalized depth at ideal picture coordinates, and the derivative of height by normalized depth."""
    low, high = _end_heights(params, j)
    before, slope = undo_curve(value, params[3], params[4], params[5])
    return height_of(before, x, y, params[0], low, high, inverse, ray), slope * (high - low)


@kernel
def _cross_view_projections(world_points, values, axes, params, inverse, ray, out):  # type: ignore[no-untyped-def]
    for i in range(6):
        for m in range(world_points.shape[1]):
            _, _, _, _, _, own = project_to_view(world_points[i, m], axes[i], params, i)
            for j in range(6):
                out[i, j, m, 2] = 0.0
                if i == j:
                    continue
                px, py, hj, ox, oy, facing = project_to_view(world_points[i, m], axes[j], params, j)
                value = _lookup_or_nearest(values[j], *_cell(values.shape[1], ox, oy))
                if value < 0 or max(abs(ox), abs(oy)) > 1:
                    continue
                seen, _ = _height_in_view(value, px, py, params, j, inverse, ray)
                if abs(hj - seen) * max(facing, 0.0) < VISIBLE:
                    out[i, j, m, 0] = ox
                    out[i, j, m, 1] = oy
                    out[i, j, m, 2] = max(0.0, min(facing, own))


def cross_view_projections(
    observations: Observations, axes: Array, encoding: EncodingModel, params: Array
) -> tuple[Array, Array]:
    """Projections of each view's points into the others, (6, 6, n, 3): x, y and the lesser of the two cosines between normal
    and viewing ray, 0 where hidden; and the points' world normals (6, n, 3)."""
    axes = np.ascontiguousarray(axes)
    world_points = np.stack([to_world(observations.points[i], axes[i], encoding, params, i) for i in range(6)])
    out = np.empty((6, 6, observations.points.shape[1], 3))
    _cross_view_projections(
        world_points, observations.values, axes, unpack_params(params), encoding.inverse, encoding.ray, out
    )
    return out, world_points[..., 3:]


@inlined
def _surface_residual(height_difference, slope, facing, occlusion_limit, error_limit, redescending):  # type: ignore[no-untyped-def]
    """Robust distance across the surface of a point that lies `height_difference` above it, towards the camera. slope: the
    surface's."""
    # against steep surfaces the error along the axis is larger than that across the surface
    error = height_difference / np.sqrt(1.0 + min(slope * slope, 25.0))
    # a point behind the surface is hidden, or turned away: its residual is bounded by the smaller limit
    limit, weight = (error_limit, 1.0) if error > 0 else (occlusion_limit, min(max(facing * 4.0, 0.0), 1.0))
    return weight * (
        error / (1.0 + (error / limit) ** 2) if redescending > int(error > 0) else _geman_mcclure(error, limit)
    )


@inlined
def _view_residual(  # type: ignore[no-untyped-def]
    world_point, j, values, slopes, distances, axes, params, inverse, ray, occlusion_limit, error_limit, redescending
):
    """Picture coordinates of a world point (6,) in view j, and its residual there: distance outside the silhouette and from the
    visible surface, in one. values, slopes, distances, axes: of view j."""
    px, py, hj, ox, oy, facing = project_to_view(world_point, axes, params, j)
    r, c, u, v = _cell(values.shape[0], ox, oy)
    distance = _interpolated(distances, r, c, u, v) + max(abs(ox) - 1.0, 0.0) + max(abs(oy) - 1.0, 0.0)
    value = _lookup_or_nearest(values, r, c, u, v)
    error = 0.0
    if value >= 0 and distance < 0:
        seen, slope_of_height = _height_in_view(value, px, py, params, j, inverse, ray)
        slope = _interpolated(slopes, r, c, u, v) * slope_of_height
        error = _surface_residual(hj - seen, slope, facing, occlusion_limit, error_limit, redescending) * min(
            -distance / RIM_WIDTH, 1.0
        )
    if distance > 0:
        error = np.sqrt(error * error + _geman_mcclure(distance, error_limit) ** 2)
    return ox, oy, error


@inlined
def _update_extent(extents, directions, x, y, least):  # type: ignore[no-untyped-def]
    """Updates the support function `extents` (DIRECTIONS,) by the point (x, y); returns its minimum. least: the minimum so far:
    a point nearer to the centre changes nothing."""
    if least > 0.0 and x * x + y * y < least * least:
        return least
    least = 9.0
    for d in range(len(directions)):
        extents[d] = max(extents[d], directions[d, 0] * x + directions[d, 1] * y)
        least = min(least, extents[d])
    return least


@kernel
def _pair_residuals(  # type: ignore[no-untyped-def]
    world_points, j, values, slopes, distances, directions, axes, params, inverse, ray,
    occlusion_limit, error_limit, redescending, unit, extents, out,
):  # fmt: skip
    """Residuals in view j of the first len(out) of another view's world points (n, 6), in units; and the support function of
    all of them there, into extents (DIRECTIONS,)."""
    least = NO_EXTENT
    extents[:] = least
    for m in range(len(out), len(world_points)):
        _, _, _, x, y, _ = project_to_view(world_points[m], axes, params, j)
        least = _update_extent(extents, directions, x, y, least)
    for m in range(len(out)):
        x, y, error = _view_residual(
            world_points[m], j, values, slopes, distances, axes, params, inverse, ray, occlusion_limit, error_limit, redescending
        )  # fmt: skip
        out[m] = error * unit
        least = _update_extent(extents, directions, x, y, least)


@kernel
def _silhouette_residuals(extents, reach, used, error_limit, unit, out):  # type: ignore[no-untyped-def]
    """How far the projected points of the other views, extents (6, 6, DIRECTIONS), fall short of each silhouette (6,
    DIRECTIONS)."""
    n = 0
    for j in range(6):
        if used[j]:
            for d in range(reach.shape[1]):
                furthest = NO_EXTENT
                for i in range(6):
                    if used[i] and i != j:
                        furthest = max(furthest, extents[i, j, d])
                out[n] = SILHOUETTE_WEIGHT * _geman_mcclure(reach[j, d] - furthest, error_limit) * unit
                n += 1


@kernel
def _rig_residuals(  # type: ignore[no-untyped-def]
    world_points, changed_points, count, values, slopes, distances, reach, directions, axes, used, params, inverse, ray,
    changed_view, occlusion_limit, error_limit, redescending, unit, extents, out,
):  # fmt: skip
    """All residuals of one rig, into `out`, in units: per pair of views and point, and per view and direction of its
    silhouette.

    world_points: (6, n, 6), the first `count` of which have a residual, while all count for the silhouettes. axes: (6, 3,
    3), rows right, up, back; used: the views that take part; extents: (6, 6, DIRECTIONS), support functions of view i's
    points in view j. changed_view: the view whose own parameters alone have changed since world_points, extents and out were
    filled, with its points now at changed_points (n, 6); -1: compute everything."""
    n = 0
    for i in range(6):
        for j in range(6):
            if i == j or not used[i] or not used[j]:
                continue
            if changed_view < 0 or i == changed_view or j == changed_view:
                _pair_residuals(
                    changed_points if i == changed_view else world_points[i], j, values[j], slopes[j], distances[j],
                    directions, axes[j], params, inverse, ray, occlusion_limit, error_limit, redescending, unit,
                    extents[i, j], out[n : n + count],
                )  # fmt: skip
            n += count
    _silhouette_residuals(extents, reach, used, error_limit, unit, out[n:])


@inlined
def _copy_into(source, target):  # type: ignore[no-untyped-def]
    for n in range(len(source)):
        target[n] = source[n]


@kernel
def _finite_difference_jacobian(  # type: ignore[no-untyped-def]
    points, world_points, before, count, values, slopes, distances, reach, directions, axes, used, params, inverse, ray,
    occlusion_limit, error_limit, redescending, unit, extents, indices, perturbed, changed_points, scratch_extents, rows,
):  # fmt: skip
    """Forward differences of all residuals by the parameters `indices`, into rows (indices, residuals and more).

    points: (6, n, 5); before: the residuals at params; the others as in `_rig_residuals`. perturbed, changed_points,
    scratch_extents: scratch, shaped like params, world_points and extents."""
    for row in range(len(indices)):
        _copy_into(params, perturbed)
        perturbed[indices[row]] += DIFFERENCE_STEP
        for i in range(6):
            perturbed[SHARED + PER_VIEW * i] = np.exp(perturbed[SHARED + PER_VIEW * i])
        changed_view = (indices[row] - SHARED) // PER_VIEW if indices[row] >= SHARED else -1
        for i in range(6):
            if changed_view < 0 or i == changed_view:
                _to_world_all(points[i], axes[i], perturbed, i, inverse, ray, changed_points[i])
        out = rows[row][: len(before)]
        _copy_into(before, out)
        for pair in range(36):
            _copy_into(extents[pair // 6, pair % 6], scratch_extents[pair // 6, pair % 6])
        _rig_residuals(
            changed_points if changed_view < 0 else world_points, changed_points[max(changed_view, 0)], count, values,
            slopes, distances, reach, directions, axes, used, perturbed, inverse, ray, changed_view, occlusion_limit,
            error_limit, redescending, unit, scratch_extents, out,
        )  # fmt: skip
        for m in range(len(out)):
            out[m] = (out[m] - before[m]) / DIFFERENCE_STEP


@dataclass(frozen=True)
class Fit:
    """params: (SHARED + 6 * PER_VIEW,); cost: mean squared residual in units of the tolerance's noise, plus the prior;
    std_error: of the perspective, 0 where it was fixed or not computed; final_cost: the cost by FINEST, where the fit was
    refined."""

    params: Array
    cost: float
    std_error: float = 0.0
    final_cost: float = np.inf


@dataclass(frozen=True)
class State:
    """errors: residuals and prior, scaled so that the sum of their squares is the cost; extents: (6, 6, DIRECTIONS), support
    functions of each view's points in each other; world_points: (6, n, 6)."""

    errors: Array
    extents: Array
    world_points: Array

    @property
    def cost(self) -> float:
        return float(self.errors @ self.errors)


class Problem:
    """Robust nonlinear least squares over one rig's parameters. axes: (6, 3, 3), each camera's right, up and back in the world;
    used: (6,) bool, views that take part; free: bool per parameter; stride: every so many'th point."""

    def __init__(
        self,
        observations: Observations,
        axes: Array,
        encoding: EncodingModel,
        used: Array,
        free: Array,
        stride: int = 1,
        tolerance: Tolerance = ROUGH,
    ) -> None:
        self.observations, self.axes, self.encoding, self.used = (
            observations,
            np.ascontiguousarray(axes),
            encoding,
            used,
        )
        self.tolerance = tolerance
        self.free = np.flatnonzero(free)
        self.max_step = np.where(self.free == CURVE.start, 1.0, 0.15)
        sampled = observations.points[:, ::stride]
        self.n_points = sampled.shape[1]
        self.points = np.concatenate([sampled, observations.extreme_points], axis=1)
        n_views = int(used.sum())
        self.n_residuals = n_views * (n_views - 1) * self.n_points + n_views * DIRECTIONS
        self.unit = 1 / (tolerance.noise * np.sqrt(self.n_residuals))
        self.directions = unit_directions()
        spread = PER_VIEW_RANGE_STD if observations.per_view_range else PARAM_STD
        self.prior_std = np.concatenate([np.full(CURVE.start, np.inf), CURVE_STD, np.tile(spread, 6)]) * np.sqrt(
            N_INDEPENDENT
        )

    def evaluate(self, params: Array) -> State:
        """Residuals at these parameters; infinite where the curve is not monotone."""
        if not curve_is_monotone(params):
            return State(np.full(1, np.inf), np.empty(0), np.empty(0))
        s, t, c = self.observations, self.tolerance, self.encoding
        unpacked, world_points = unpack_params(params), np.empty((*self.points.shape[:2], 6))
        for i in range(6):
            _to_world_all(self.points[i], self.axes[i], unpacked, i, c.inverse, c.ray, world_points[i])
        extents, errors = np.full((6, 6, DIRECTIONS), NO_EXTENT), np.empty(self.n_residuals + len(params))
        _rig_residuals(
            world_points, world_points[0], self.n_points, s.values, s.slopes, s.silhouette_distance, s.silhouette_extent,
            self.directions, self.axes, self.used, unpacked, c.inverse, c.ray, -1, t.occlusion_limit, t.error_limit,
            t.redescending, self.unit, extents, errors,
        )  # fmt: skip
        errors[self.n_residuals :] = params / self.prior_std
        errors[self.n_residuals] = max(0.0, abs(params[0] - 0.4) - 0.4)  # fields of view from 0 to 77 degrees
        return State(errors, extents, world_points)

    def minimize(self, params: Array, rounds: int) -> Fit:
        """Levenberg-Marquardt from `params`."""
        params, state, damping = params.copy(), self.evaluate(params), 1e-3
        if not np.isfinite(state.cost):
            return Fit(params, np.inf)
        for _ in range(rounds):
            jacobian = self.jacobian(params, state)
            square, gradient = jacobian @ jacobian.T, jacobian @ state.errors
            before = state.cost
            for _ in range(7):
                step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -gradient)
                trial = params.copy()
                trial[self.free] += np.clip(step, -self.max_step, self.max_step)
                trial[0] = max(trial[0], 0.0)
                trial_state = self.evaluate(trial)
                if trial_state.cost < state.cost:
                    params, state, damping = trial, trial_state, damping / 4
                    break
                damping *= 6
            if state.cost > before * (1 - 1e-5):
                break
        return Fit(params, state.cost)

    def std_error(self, params: Array) -> float:
        """Standard error of the perspective, with all parameters free."""
        jacobian = self.jacobian(params, self.evaluate(params))
        square = jacobian @ jacobian.T
        return STD_ERROR_FACTOR * float(
            np.sqrt(np.linalg.inv(square + 1e-9 * np.eye(len(square)))[0, 0] / N_INDEPENDENT)
        )

    def jacobian(self, params: Array, before: State) -> Array:
        """(free parameters, residuals): finite differences."""
        s, t, c = self.observations, self.tolerance, self.encoding
        rows = np.empty((len(self.free), len(before.errors)))

        def fill(start: int, stop: int) -> None:
            _finite_difference_jacobian(
                self.points, before.world_points, before.errors[: self.n_residuals], self.n_points, s.values, s.slopes,
                s.silhouette_distance, s.silhouette_extent, self.directions, self.axes, self.used, params, c.inverse, c.ray,
                t.occlusion_limit, t.error_limit, t.redescending, self.unit, before.extents, self.free[start:stop],
                np.empty_like(params), np.empty_like(before.world_points), np.empty_like(before.extents), rows[start:stop],
            )  # fmt: skip

        for_bands(fill, len(self.free))
        rows[:, self.n_residuals :] = (np.eye(len(params)) / self.prior_std)[self.free]
        rows[self.free == 0, self.n_residuals] = np.sign(params[0] - 0.4) * (abs(params[0] - 0.4) > 0.4)
        return rows
