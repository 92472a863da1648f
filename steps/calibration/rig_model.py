"""The model of six cameras and their depth encoding: its parameters, points from pictures to the world and back.

Everything here is in half picture widths: a picture spans [-1, 1] from left to right (x right, y up), and a length of one is what
half the width shows at the object's middle, the point that all six cameras look at. The `height` of a point over that middle is
measured towards a camera. A camera of perspective k = tan(half the field of view) stands at distance 1 / k and draws the point
(x, y, height) at (x, y) / (1 - k height); k = 0 is an orthographic camera, and nothing is special about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import inlined, kernel

END_HEIGHTS = slice(1, 3)  # of the shared parameters: height at the lowest stored value, height at the highest
CURVE = slice(3, 6)  # of the shared parameters: the curve of stored values, see `undo_curve`
SHARED = 6  # perspective, end heights, curve
PER_VIEW = 5  # logarithm of the scale, shift x, shift y, gain and offset of the height
SLOPE_STEP = 2e-3  # half widths over which the slope of a surface is taken


@dataclass(frozen=True)
class EncodingModel:
    """inverse: stored values are linear in 1 / depth; ray: depth is measured along the ray; curved: after a curve, see
    `undo_curve`."""

    inverse: int = 0
    ray: int = 0
    curved: int = 0


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
def to_world_all(points, axes, params, i, inverse, ray, out):  # type: ignore[no-untyped-def]
    for n in range(len(points)):
        _to_world(points[n], axes, params, i, inverse, ray, out[n])


def to_world(points: Array, axes: Array, encoding: EncodingModel, params: Array, i: int) -> Array:
    """Points (n, 5) of view i in the world: (n, 6), positions and unit normals of the surface. axes: (3, 3), of view i."""
    out = np.empty((len(points), 6))
    to_world_all(points, np.ascontiguousarray(axes), unpack_params(params), i, encoding.inverse, encoding.ray, out)
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
def height_in_view(value, x, y, params, j, inverse, ray):  # type: ignore[no-untyped-def]
    """Height of view j's normalized depth at ideal picture coordinates, and the derivative of height by normalized depth."""
    low, high = _end_heights(params, j)
    before, slope = undo_curve(value, params[3], params[4], params[5])
    return height_of(before, x, y, params[0], low, high, inverse, ray), slope * (high - low)
