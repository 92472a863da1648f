"""How well a rig explains six depth renders, and the numbers that explain them best.

Everything here is in half picture widths: a picture spans [-1, 1] from left to right (x right, y up), and a length of one is what
half the width shows at the object's middle, the point that all six cameras look at. The `height` of a point over that middle is
measured towards a camera. A camera of perspective k = tan(half the field of view) stands at distance 1 / k and draws the point
(x, y, height) at (x, y) / (1 - k height); k = 0 is an orthographic camera, and nothing is special about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry.kernels import for_bands, inlined, kernel

Array = NDArray[Any]
SHARED = 3  # perspective, height at the lowest stored value, height at the highest
PER_VIEW = 5  # logarithm of the scale, shift x, shift y, gain and offset of the height
SPREAD = np.array([0.025, 0.03, 0.03, 0.02, 0.02])  # how large the per-view numbers are expected to be
EVIDENCE = 500.0  # independent observations among all of them, which the expectations are weighed against
# how many times what independent errors would make of the perspective it is really off: a view's errors go together. Root of the
# mean square over a hundred of `python -m tests.benchmarks captures`
TOGETHER = 1.2
DIRECTIONS = 16
VISIBLE = 0.03  # half widths between a point and what a view sees there, up to which they are taken to be the same
REACHES = 3.0  # how much more the outline's reach in one direction counts than a point's error
RIM = 0.04  # half widths inside an outline over which depth begins to count: at the rim it is steep and means little
# of the numbers, for derivatives: small, since at a good fit the outermost points lie on the outlines, where errors begin
NUDGE = 1e-5
STEP = 2e-3  # half widths over which the slope of a surface is taken


@dataclass(frozen=True)
class Sights:
    """What is known of the six depth renders before any rig.

    points: (6, n, 5), x, y, the stored value as a share of the range from the lowest to the highest, and its slopes along x and
    y; values: (6, s, s), such shares, -1 where nothing is; slopes: (6, s, s), how steep those are; outside: (6, s, s), the signed
    distance to the outline, positive outside; reach: (6, DIRECTIONS), how far the outline reaches each way; shares: as the
    pictures have them, six [side, side]; level: between two stored values, as a share; furthest: (6, e, 5), more points, which
    are asked only how far they reach."""

    points: Array
    values: Array
    slopes: Array
    outside: Array
    reach: Array
    shares: list[Array]
    level: float
    furthest: Array = field(default_factory=lambda: np.empty((6, 0, 5)))


@dataclass(frozen=True)
class Tolerance:
    """close: a point this far behind what a view sees is taken to be hidden rather than wrong; wrong: beyond this an error counts
    no more; noise: of a good fit's errors. All in half widths. fades: whether what is far behind (1), and far in front, too (2),
    counts nothing at all. The first is fair to hollows; the second to depth's noise, which would else push the surfaces
    backwards, and the perspective after them; but both lead nowhere from afar."""

    close: float
    wrong: float
    noise: float
    fades: int = 0


ROUGH = Tolerance(0.05, 0.15, 0.02)
EXACT = Tolerance(0.03, 0.04, 0.008)
STRICT = Tolerance(0.008, 0.012, 0.003, 1)  # for numbers that are given, and may be far off
FINEST = Tolerance(0.008, 0.016, 0.003, 2)


@dataclass(frozen=True)
class Coding:
    """inverse: stored values are linear in 1 / depth; ray: depth is measured along the ray."""

    inverse: int = 0
    ray: int = 0


def compass() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@kernel
def height_of(value, x, y, k, low, high, inverse, ray):  # type: ignore[no-untyped-def]
    """The height that a stored share means at picture coordinates (x, y), by the heights at the shares 0 and 1."""
    if inverse:  # written so that it ends in the linear case as k goes to 0
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


@kernel
def _lookup(values, x, y):  # type: ignore[no-untyped-def]
    """The stored share at picture coordinates, bilinear where all four neighbours know one, else the nearest; -1 for none."""
    s = values.shape[0]
    px, py = (x + 1.0) * 0.5 * s - 0.5, (1.0 - y) * 0.5 * s - 0.5
    c, r = int(np.floor(px)), int(np.floor(py))
    if c < 0 or r < 0 or c + 1 >= s or r + 1 >= s:
        return -1.0
    a, b, d, e = values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1]
    u, v = px - c, py - r
    if a >= 0 and b >= 0 and d >= 0 and e >= 0:
        return (a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + e * u) * v
    return values[r + int(v >= 0.5), c + int(u >= 0.5)]


@kernel
def _outside(distances, x, y):  # type: ignore[no-untyped-def]
    s = distances.shape[0]
    cx, cy = min(max(x, -1.0), 1.0), min(max(y, -1.0), 1.0)
    px, py = min(max((cx + 1.0) * 0.5 * s - 0.5, 0.0), s - 1.001), min(max((1.0 - cy) * 0.5 * s - 0.5, 0.0), s - 1.001)
    c, r = int(px), int(py)
    u, v = px - c, py - r
    above = distances[r, c] * (1 - u) + distances[r, c + 1] * u
    below = distances[r + 1, c] * (1 - u) + distances[r + 1, c + 1] * u
    return above * (1 - v) + below * v + abs(x - cx) + abs(y - cy)


@kernel
def _bounded(error, limit):  # type: ignore[no-untyped-def]
    """Geman and McClure's: the error where it is small, never more than the limit."""
    return error / np.sqrt(1.0 + (error / limit) ** 2)


@kernel
def lifted(point, axes, theta, i, inverse, ray, place):  # type: ignore[no-untyped-def]
    """A point of view i in the world: its position and the surface's unit normal, into place (6,). axes: (3, 3), of view i."""
    k, low, high = theta[0], theta[1], theta[2]
    a = 3 + 5 * i
    shrink, gain = np.exp(-theta[a]), 1.0 + theta[a + 3]
    x, y, value = (point[0] - theta[a + 1]) * shrink, (point[1] - theta[a + 2]) * shrink, point[2]
    h = height_of(value, x, y, k, low, high, inverse, ray) * gain + theta[a + 4]
    dx, dy = STEP * point[3] / shrink, STEP * point[4] / shrink
    hx = (height_of(value + dx, x + STEP, y, k, low, high, inverse, ray) * gain + theta[a + 4] - h) / STEP
    hy = (height_of(value + dy, x, y + STEP, k, low, high, inverse, ray) * gain + theta[a + 4] - h) / STEP
    f = 1.0 - k * h
    nx, ny, nz = -hx, -hy, f - k * (hx * x + hy * y)  # the cross product of the derivatives of (x f, y f, h), over f
    size = np.sqrt(nx * nx + ny * ny + nz * nz)
    for q in range(3):
        place[q] = axes[0, q] * x * f + axes[1, q] * y * f + axes[2, q] * h
        place[3 + q] = (axes[0, q] * nx + axes[1, q] * ny + axes[2, q] * nz) / size


@kernel
def lift_all(points, axes, theta, i, inverse, ray, out):  # type: ignore[no-untyped-def]
    """`lifted` for points (n, 5) of view i, into out (n, 6)."""
    for n in range(len(points)):
        lifted(points[n], axes, theta, i, inverse, ray, out[n])


@kernel
def seen_from(place, axes, theta, j):  # type: ignore[no-untyped-def]
    """Where view j has a point of the world (6,): ideal picture coordinates x and y, height, the coordinates in the picture as it
    is, and the cosine between the point's normal and the direction to the camera. axes: (3, 3), of view j."""
    k, b = theta[0], 3 + 5 * j
    px, py, hj, nx, ny, nz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for q in range(3):
        px += axes[0, q] * place[q]
        py += axes[1, q] * place[q]
        hj += axes[2, q] * place[q]
        nx += axes[0, q] * place[3 + q]
        ny += axes[1, q] * place[3 + q]
        nz += axes[2, q] * place[3 + q]
    g = max(1.0 - k * hj, 0.05)
    facing = (g * nz - k * (px * nx + py * ny)) / np.sqrt(g * g + k * k * (px * px + py * py))
    px, py = px / g, py / g
    scale = np.exp(theta[b])
    return px, py, hj, px * scale + theta[b + 1], py * scale + theta[b + 2], facing


@kernel
def transfers(points, values, axes, theta, inverse, ray, place, normals, out):  # type: ignore[no-untyped-def]
    """Where each view's points lie in the others and whether they are seen there: out (6, 6, n, 3), x, y and the lesser of the
    two cosines between normal and sight, 0 for hidden; their normals in the world: normals (6, n, 3). place: (6,), scratch."""
    low, high = theta[1], theta[2]
    for i in range(6):
        for m in range(points.shape[1]):
            lifted(points[i, m], axes[i], theta, i, inverse, ray, place)
            _, _, _, _, _, own = seen_from(place, axes[i], theta, i)
            for q in range(3):
                normals[i, m, q] = place[3 + q]
            for j in range(6):
                out[i, j, m, 2] = 0.0
                if i == j:
                    continue
                px, py, hj, ox, oy, facing = seen_from(place, axes[j], theta, j)
                value = _lookup(values[j], ox, oy)
                if value < 0:
                    continue
                b = 3 + 5 * j
                seen = height_of(value, px, py, theta[0], low, high, inverse, ray) * (1.0 + theta[b + 3]) + theta[b + 4]
                if abs(hj - seen) * max(facing, 0.0) < VISIBLE:
                    out[i, j, m, 0] = ox
                    out[i, j, m, 1] = oy
                    out[i, j, m, 2] = max(0.0, min(facing, own))


@inlined
def _off_surface(higher, slope, facing, close, wrong, fades):  # type: ignore[no-untyped-def]
    """The error of a point that lies so much higher, towards a camera, than the surface it sees there, of so steep a slope."""
    # against steep surfaces the error along the axis is larger than that across the surface
    error = higher / np.sqrt(1.0 + min(slope * slope, 25.0))
    # behind what is seen there: hidden, or turned away; then nothing is wrong
    limit, believed = (wrong, 1.0) if error > 0 else (close, min(max(facing * 4.0, 0.0), 1.0))
    return believed * (error / (1.0 + (error / limit) ** 2) if fades > int(error > 0) else _bounded(error, limit))


@inlined
def _error_in(place, j, values, slopes, outside, axes, theta, inverse, ray, close, wrong, fades):  # type: ignore[no-untyped-def]
    """Where view j has a point of the world (6,) in its picture; and how far outside its outline, how far from the surface seen
    there. values, slopes, outside, axes: of view j."""
    low, high, b = theta[1], theta[2], 3 + 5 * j
    px, py, hj, ox, oy, facing = seen_from(place, axes, theta, j)
    error, away, value = 0.0, _outside(outside, ox, oy), _lookup(values, ox, oy)
    if value >= 0 and away < 0:
        seen = height_of(value, px, py, theta[0], low, high, inverse, ray) * (1.0 + theta[b + 3]) + theta[b + 4]
        slope = _outside(slopes, ox, oy) * (high - low)
        error = _off_surface(hj - seen, slope, facing, close, wrong, fades) * min(-away / RIM, 1.0)
    if away > 0:
        error = np.sqrt(error * error + _bounded(away, wrong) ** 2)
    return ox, oy, error


@inlined
def _widened(reached, ways, x, y):  # type: ignore[no-untyped-def]
    for d in range(len(ways)):
        reached[d] = max(reached[d], ways[d, 0] * x + ways[d, 1] * y)


@kernel
def _shortfalls(reached, reach, used, wrong, out):  # type: ignore[no-untyped-def]
    """How far the points of all others, (6, 6, DIRECTIONS), fall short of each view's outline (6, DIRECTIONS), into `out`."""
    n = 0
    for j in range(6):
        if used[j]:
            for d in range(reach.shape[1]):
                furthest = -9.0
                for i in range(6):
                    if used[i] and i != j:
                        furthest = max(furthest, reached[i, j, d])
                out[n] = REACHES * _bounded(reach[j, d] - furthest, wrong)
                n += 1


@kernel
def residuals(  # type: ignore[no-untyped-def]
    points,
    furthest,
    values,
    slopes,
    outside,
    reach,
    ways,
    axes,
    used,
    theta,
    inverse,
    ray,
    only,
    close,
    wrong,
    fades,
    place,
    reached,
    out,
):
    """All errors of one rig, in half widths, into `out`. axes: (6, 3, 3) rows right, up, back; used: views that take part. Per
    point and other view: how far it lies outside that view's outline, and how far from the surface seen there. Per view and
    compass direction: how far short of its outline the others' points stay (reached: (6, 6, DIRECTIONS), by each). only: a view
    whose own numbers alone have changed since `reached` and `out` were filled; -1 for all. place: (6,), scratch."""
    count, start, views = points.shape[1], 0, 0
    for taken in used:
        views += int(taken)
    for i in range(6):
        if not used[i]:
            continue
        for j in range(6):
            if only < 0 or i == only or j == only:
                reached[i, j, :] = -9.0
        for m in range(furthest.shape[1]):
            lifted(furthest[i, m], axes[i], theta, i, inverse, ray, place)
            for j in range(6):
                if j != i and used[j] and (only < 0 or i == only or j == only):
                    _, _, _, x, y, _ = seen_from(place, axes[j], theta, j)
                    _widened(reached[i, j], ways, x, y)
        for m in range(count):
            lifted(points[i, m], axes[i], theta, i, inverse, ray, place)
            n = start + m
            for j in range(6):
                if j == i or not used[j]:
                    continue
                if only < 0 or i == only or j == only:
                    x, y, out[n] = _error_in(
                        place, j, values[j], slopes[j], outside[j], axes[j], theta, inverse, ray, close, wrong, fades
                    )
                    _widened(reached[i, j], ways, x, y)
                n += count
        start += (views - 1) * count
    _shortfalls(reached, reach, used, wrong, out[start:])


@dataclass(frozen=True)
class Fit:
    """theta: (SHARED + 6 * PER_VIEW,); cost: mean squared error in units of the tolerance's noise, and what is expected; doubt:
    standard error of the perspective, 0 where it was held or not asked for."""

    theta: Array
    cost: float
    doubt: float = 0.0


class Problem:
    """Fits the numbers of one rig. axes: (6, 3, 3), each camera's right, up and back in the world."""

    def __init__(
        self,
        sights: Sights,
        axes: Array,
        coding: Coding,
        used: Array,
        free: Array,
        stride: int = 1,
        tolerance: Tolerance = ROUGH,
    ) -> None:
        self.sights, self.axes, self.coding, self.used = sights, np.ascontiguousarray(axes), coding, used
        self.tolerance = tolerance
        self.free = np.flatnonzero(free)
        self.points = np.ascontiguousarray(sights.points[:, ::stride])
        views = int(used.sum())
        self.count = views * (views - 1) * self.points.shape[1] + views * DIRECTIONS
        self.ways = compass()
        self.expected = np.concatenate([np.full(SHARED, np.inf), np.tile(SPREAD, 6)]) * np.sqrt(EVIDENCE)

    def errors(self, theta: Array, before: tuple[Array, Array] | None = None, only: int = -1) -> tuple[Array, Array]:
        """Everything that is squared and summed, scaled so that the sum is the cost; and what each view reached. before: the
        same for another theta that differs only in the numbers of the view `only`."""
        s = self.sights
        if before is None:
            out, reached = np.empty(self.count + len(theta)), np.empty((6, 6, DIRECTIONS))
        else:
            out, reached = before[0].copy(), before[1].copy()
            out[: self.count] *= self.tolerance.noise * np.sqrt(self.count)
        residuals(
            self.points, s.furthest, s.values, s.slopes, s.outside, s.reach, self.ways, self.axes, self.used, theta,
            self.coding.inverse, self.coding.ray, only,
            self.tolerance.close, self.tolerance.wrong, self.tolerance.fades, np.empty(6), reached, out,
        )  # fmt: skip
        out[: self.count] /= self.tolerance.noise * np.sqrt(self.count)
        out[self.count :] = theta / self.expected
        out[self.count] = max(0.0, abs(theta[0] - 0.4) - 0.4)  # fields of view from 0 to 77 degrees
        return out, reached

    def fitted(self, theta: Array, rounds: int) -> Fit:
        """Levenberg and Marquardt's method from `theta`."""
        theta = theta.copy()
        errors, reached = self.errors(theta)
        cost, damping = float(errors @ errors), 1e-3
        for _ in range(rounds):
            jacobian = self._jacobian(theta, (errors, reached))
            square, gradient = jacobian.T @ jacobian, jacobian.T @ errors
            before = cost
            for _ in range(7):
                step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -gradient)
                trial = theta.copy()
                trial[self.free] += np.clip(step, -0.15, 0.15)
                trial[0] = max(trial[0], 0.0)
                found, extent = self.errors(trial)
                if found @ found < cost:
                    theta, errors, reached = trial, found, extent
                    cost, damping = float(found @ found), damping / 4
                    break
                damping *= 6
            if cost > before * (1 - 1e-5):
                break
        return Fit(theta, cost)

    def doubt(self, theta: Array) -> float:
        """Standard error of the perspective, where all numbers are free."""
        jacobian = self._jacobian(theta, self.errors(theta))
        square = jacobian.T @ jacobian
        return TOGETHER * float(np.sqrt(np.linalg.inv(square + 1e-9 * np.eye(len(square)))[0, 0] / EVIDENCE))

    def _jacobian(self, theta: Array, before: tuple[Array, Array]) -> Array:
        columns = np.empty((len(self.free), len(before[0])))

        def fill(start: int, stop: int) -> None:
            for row in range(start, stop):
                index, moved = self.free[row], theta.copy()
                moved[index] += NUDGE
                only = -1 if index < SHARED else (index - SHARED) // PER_VIEW
                columns[row] = (self.errors(moved, before, int(only))[0] - before[0]) / NUDGE

        for_bands(fill, len(self.free))
        return columns.T
