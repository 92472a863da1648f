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

from steps.compute.kernels import cell, for_bands, inlined, kernel

Array = NDArray[Any]
ENDS = slice(1, 3)  # of the shared numbers: height at the lowest stored value, height at the highest
BENDS = slice(3, 6)  # of the shared numbers: the curve of stored values, see `bent`
SHARED = 6  # perspective, ends, bends
PER_VIEW = 5  # logarithm of the scale, shift x, shift y, gain and offset of the height
SPREAD = np.array([0.025, 0.03, 0.03, 0.02, 0.02])  # how large the per-view numbers are expected to be
OWN_SPREAD = np.array([0.025, 0.03, 0.03, 0.5, 0.5])  # the same where each view stretched its values for itself
BENT = np.array([2.5, 0.3, 0.15])  # the same for the bends
EVIDENCE = 500.0  # independent observations among all of them, which the expectations are weighed against
# how many times what independent errors would make of the perspective it is really off: a view's errors go together. Root of the
# mean square over a hundred of `python -m tests.benchmarks captures`
TOGETHER = 1.2
DIRECTIONS = 16
VISIBLE = 0.03  # half widths between a point and what a view sees there, up to which they are taken to be the same
REACHES = 3.0  # how much more the outline's reach in one direction counts than a point's error
UNSEEN = -9.0  # how far nothing reaches
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
    pictures have them, six [side, side]; level: between two stored values, as a share; own: whether each view's shares are of
    its own range; furthest: (6, e, 5), more points, which are asked only how far they reach."""

    points: Array
    values: Array
    slopes: Array
    outside: Array
    reach: Array
    shares: list[Array]
    level: float
    own: bool = False
    furthest: Array = field(default_factory=lambda: np.empty((6, 0, 5)))

    def __post_init__(self) -> None:
        if self.values.shape[1] < 2 or not self.values.shape == self.slopes.shape == self.outside.shape:
            raise ValueError(f"Maps of {self.values.shape[1:]} cells cannot be interpolated in.")


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
# for numbers with which a view could be pushed back until what it hides counts nothing
FINE = Tolerance(0.008, 0.016, 0.003, 1)


@dataclass(frozen=True)
class Coding:
    """inverse: stored values are linear in 1 / depth; ray: depth is measured along the ray; bends: after a curve, see `bent`."""

    inverse: int = 0
    ray: int = 0
    bends: int = 0


def compass() -> Array:
    """(DIRECTIONS, 2) unit vectors."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@kernel
def bent(value, a, c, d):  # type: ignore[no-untyped-def]
    """What a share was before it went through a monotone curve that stays at 0 and at 1, and the slope of that: an exponential of
    rate a, as gammas and logarithms nearly are, and a cubic of c and d for what it leaves."""
    if a == 0.0 and c == 0.0 and d == 0.0:
        return value, 1.0
    if abs(a) < 1e-4:
        u, slope = value + 0.5 * a * value * (value - 1.0), 1.0 + a * (value - 0.5)
    else:
        whole = np.expm1(a)
        u, slope = np.expm1(a * value) / whole, a * np.exp(a * value) / whole
    lean = c + d * (2.0 * u - 1.0)
    return u + u * (1.0 - u) * lean, slope * (1.0 + (1.0 - 2.0 * u) * lean + 2.0 * u * (1.0 - u) * d)


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


@inlined
def _cell(s, x, y):  # type: ignore[no-untyped-def]
    """Row, column and shares of the four cells around picture coordinates, which are taken to the picture's rim from beyond."""
    c, _, u = cell((x + 1.0) * 0.5 * s - 0.5, s)
    r, _, v = cell((1.0 - y) * 0.5 * s - 0.5, s)
    return r, c, u, v


@inlined
def _interpolated(values, r, c, u, v):  # type: ignore[no-untyped-def]
    above = values[r, c] * (1 - u) + values[r, c + 1] * u
    below = values[r + 1, c] * (1 - u) + values[r + 1, c + 1] * u
    return above * (1 - v) + below * v


@inlined
def _lookup(values, r, c, u, v):  # type: ignore[no-untyped-def]
    """The stored share, bilinear where all four neighbours know one, else the nearest; -1 for none."""
    if min(values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1]) >= 0:
        return _interpolated(values, r, c, u, v)
    return values[r + int(v >= 0.5), c + int(u >= 0.5)]


@kernel
def _bounded(error, limit):  # type: ignore[no-untyped-def]
    """Geman and McClure's: the error where it is small, never more than the limit."""
    return error / np.sqrt(1.0 + (error / limit) ** 2)


def numbers(perspective: float, low: float, high: float) -> Array:
    """(SHARED + 6 * PER_VIEW,): these shared numbers, no curve, and views without faults."""
    theta = np.zeros(SHARED + 6 * PER_VIEW)
    theta[0], theta[ENDS] = perspective, (low, high)
    return theta


def rises(theta: Array) -> bool:
    """Whether the curve of these numbers is monotone."""
    if not theta[BENDS].any():
        return True
    return all(bent(share, *theta[BENDS])[1] > 0 for share in np.linspace(0.0, 1.0, 17))


def spelled(theta: Array) -> Array:
    """The numbers as the kernels take them: with the views' scales in place of their logarithms."""
    numbers = np.array(theta, np.float64)
    numbers[SHARED::PER_VIEW] = np.exp(numbers[SHARED::PER_VIEW])
    return numbers


@inlined
def _ends(numbers, i):  # type: ignore[no-untyped-def]
    """The heights that view i means by the shares 0 and 1."""
    b = SHARED + PER_VIEW * i
    gain, offset = 1.0 + numbers[b + 3], numbers[b + 4]
    return numbers[1] * gain + offset, numbers[2] * gain + offset


@kernel
def _lifted(point, axes, numbers, i, inverse, ray, place):  # type: ignore[no-untyped-def]
    """A point of view i in the world: its position and the surface's unit normal, into place (6,). axes: (3, 3), of view i."""
    k, a = numbers[0], SHARED + PER_VIEW * i
    low, high = _ends(numbers, i)
    scale = numbers[a]
    x, y = (point[0] - numbers[a + 1]) / scale, (point[1] - numbers[a + 2]) / scale
    value, slope = bent(point[2], numbers[3], numbers[4], numbers[5])
    h = height_of(value, x, y, k, low, high, inverse, ray)
    dx, dy = STEP * slope * point[3] * scale, STEP * slope * point[4] * scale
    hx = (height_of(value + dx, x + STEP, y, k, low, high, inverse, ray) - h) / STEP
    hy = (height_of(value + dy, x, y + STEP, k, low, high, inverse, ray) - h) / STEP
    f = 1.0 - k * h
    nx, ny, nz = -hx, -hy, f - k * (hx * x + hy * y)  # the cross product of the derivatives of (x f, y f, h), over f
    size = np.sqrt(nx * nx + ny * ny + nz * nz)
    for q in range(3):
        place[q] = axes[0, q] * x * f + axes[1, q] * y * f + axes[2, q] * h
        place[3 + q] = (axes[0, q] * nx + axes[1, q] * ny + axes[2, q] * nz) / size


@kernel
def _lift_all(points, axes, numbers, i, inverse, ray, out):  # type: ignore[no-untyped-def]
    for n in range(len(points)):
        _lifted(points[n], axes, numbers, i, inverse, ray, out[n])


def lifted(points: Array, axes: Array, coding: Coding, theta: Array, i: int) -> Array:
    """Points (n, 5) of view i in the world: (n, 6), their positions and the surface's unit normals. axes: (3, 3), of view i."""
    out = np.empty((len(points), 6))
    _lift_all(points, np.ascontiguousarray(axes), spelled(theta), i, coding.inverse, coding.ray, out)
    return out


@kernel
def seen_from(place, axes, numbers, j):  # type: ignore[no-untyped-def]
    """Where view j has a point of the world (6,): ideal picture coordinates x and y, height, the coordinates in the picture as it
    is, and the cosine between the point's normal and the direction to the camera. axes: (3, 3), of view j; numbers: `spelled`."""
    k, b = numbers[0], SHARED + PER_VIEW * j
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
    return px, py, hj, px * numbers[b] + numbers[b + 1], py * numbers[b] + numbers[b + 2], facing


@kernel
def _seen_height(value, x, y, numbers, j, inverse, ray):  # type: ignore[no-untyped-def]
    """The height that view j means by a stored share at ideal picture coordinates, and the slope of the curve there."""
    low, high = _ends(numbers, j)
    before, slope = bent(value, numbers[3], numbers[4], numbers[5])
    return height_of(before, x, y, numbers[0], low, high, inverse, ray), slope * (high - low)


@kernel
def _transfers(places, values, axes, numbers, inverse, ray, out):  # type: ignore[no-untyped-def]
    for i in range(6):
        for m in range(places.shape[1]):
            _, _, _, _, _, own = seen_from(places[i, m], axes[i], numbers, i)
            for j in range(6):
                out[i, j, m, 2] = 0.0
                if i == j:
                    continue
                px, py, hj, ox, oy, facing = seen_from(places[i, m], axes[j], numbers, j)
                value = _lookup(values[j], *_cell(values.shape[1], ox, oy))
                if value < 0 or max(abs(ox), abs(oy)) > 1:
                    continue
                seen, _ = _seen_height(value, px, py, numbers, j, inverse, ray)
                if abs(hj - seen) * max(facing, 0.0) < VISIBLE:
                    out[i, j, m, 0] = ox
                    out[i, j, m, 1] = oy
                    out[i, j, m, 2] = max(0.0, min(facing, own))


def transfers(sights: Sights, axes: Array, coding: Coding, theta: Array) -> tuple[Array, Array]:
    """Where each view's points lie in the others and whether they are seen there: (6, 6, n, 3), x, y and the lesser of the two
    cosines between normal and sight, 0 for hidden; and their normals in the world: (6, n, 3)."""
    axes = np.ascontiguousarray(axes)
    places = np.stack([lifted(sights.points[i], axes[i], coding, theta, i) for i in range(6)])
    out = np.empty((6, 6, sights.points.shape[1], 3))
    _transfers(places, sights.values, axes, spelled(theta), coding.inverse, coding.ray, out)
    return out, places[..., 3:]


@inlined
def _off_surface(higher, slope, facing, close, wrong, fades):  # type: ignore[no-untyped-def]
    """The error of a point that lies so much higher, towards a camera, than the surface it sees there, of so steep a slope."""
    # against steep surfaces the error along the axis is larger than that across the surface
    error = higher / np.sqrt(1.0 + min(slope * slope, 25.0))
    # behind what is seen there: hidden, or turned away; then nothing is wrong
    limit, believed = (wrong, 1.0) if error > 0 else (close, min(max(facing * 4.0, 0.0), 1.0))
    return believed * (error / (1.0 + (error / limit) ** 2) if fades > int(error > 0) else _bounded(error, limit))


@inlined
def _error_in(place, j, values, slopes, outside, axes, numbers, inverse, ray, close, wrong, fades):  # type: ignore[no-untyped-def]
    """Where view j has a point of the world (6,) in its picture; and how far outside its outline, how far from the surface seen
    there. values, slopes, outside, axes: of view j."""
    px, py, hj, ox, oy, facing = seen_from(place, axes, numbers, j)
    r, c, u, v = _cell(values.shape[0], ox, oy)
    away = _interpolated(outside, r, c, u, v) + max(abs(ox) - 1.0, 0.0) + max(abs(oy) - 1.0, 0.0)
    value = _lookup(values, r, c, u, v)
    error = 0.0
    if value >= 0 and away < 0:
        seen, rise = _seen_height(value, px, py, numbers, j, inverse, ray)
        slope = _interpolated(slopes, r, c, u, v) * rise
        error = _off_surface(hj - seen, slope, facing, close, wrong, fades) * min(-away / RIM, 1.0)
    if away > 0:
        error = np.sqrt(error * error + _bounded(away, wrong) ** 2)
    return ox, oy, error


@inlined
def _widened(reached, ways, x, y, least):  # type: ignore[no-untyped-def]
    """reached, by the point (x, y). least: of all in `reached`, which it returns; nothing nearer to the middle adds to it."""
    if least > 0.0 and x * x + y * y < least * least:
        return least
    least = 9.0
    for d in range(len(ways)):
        reached[d] = max(reached[d], ways[d, 0] * x + ways[d, 1] * y)
        least = min(least, reached[d])
    return least


@kernel
def _between(  # type: ignore[no-untyped-def]
    places, j, values, slopes, outside, ways, axes, numbers, inverse, ray, close, wrong, fades, unit, reached, out
):  # fmt: skip
    """The errors in view j of as many of another's points in the world (n, 6) as `out` holds, in units; and how far all of them
    reach there, into reached (DIRECTIONS,)."""
    least = UNSEEN
    reached[:] = least
    for m in range(len(out), len(places)):
        _, _, _, x, y, _ = seen_from(places[m], axes, numbers, j)
        least = _widened(reached, ways, x, y, least)
    for m in range(len(out)):
        x, y, error = _error_in(
            places[m], j, values, slopes, outside, axes, numbers, inverse, ray, close, wrong, fades
        )  # fmt: skip
        out[m] = error * unit
        least = _widened(reached, ways, x, y, least)


@kernel
def _shortfalls(reached, reach, used, wrong, unit, out):  # type: ignore[no-untyped-def]
    """How far the points of all others, (6, 6, DIRECTIONS), fall short of each view's outline (6, DIRECTIONS), into `out`."""
    n = 0
    for j in range(6):
        if used[j]:
            for d in range(reach.shape[1]):
                furthest = UNSEEN
                for i in range(6):
                    if used[i] and i != j:
                        furthest = max(furthest, reached[i, j, d])
                out[n] = REACHES * _bounded(reach[j, d] - furthest, wrong) * unit
                n += 1


@kernel
def _residuals(  # type: ignore[no-untyped-def]
    places, moved, count, values, slopes, outside, reach, ways, axes, used, numbers, inverse, ray, only, close, wrong, fades,
    unit, reached, out,
):  # fmt: skip
    """All errors of one rig, into `out`, in units. places: (6, n, 6), all points in the world, the first `count` of which are
    asked for errors, and all how far they reach. axes: (6, 3, 3) rows right, up, back; used: views that take part. Per other view
    and point: how far it lies outside that view's outline, and how far from the surface seen there. Per view and compass
    direction: how far short of its outline the others' points stay (reached: (6, 6, DIRECTIONS), by each). only: a view whose own
    numbers alone have changed since `places`, `reached` and `out` were filled, and whose points lie at moved (n, 6); -1: none."""
    n = 0
    for i in range(6):
        for j in range(6):
            if i == j or not used[i] or not used[j]:
                continue
            if only < 0 or i == only or j == only:
                _between(
                    moved if i == only else places[i], j, values[j], slopes[j], outside[j], ways, axes[j], numbers, inverse, ray,
                    close, wrong, fades, unit, reached[i, j], out[n : n + count],
                )  # fmt: skip
            n += count
    _shortfalls(reached, reach, used, wrong, unit, out[n:])


@inlined
def _copied(source, target):  # type: ignore[no-untyped-def]
    for n in range(len(source)):
        target[n] = source[n]


@kernel
def _nudged(  # type: ignore[no-untyped-def]
    points, places, before, count, values, slopes, outside, reach, ways, axes, used, theta, inverse, ray, close, wrong, fades,
    unit, reached, indices, numbers, moved, extent, rows,
):  # fmt: skip
    """How every error changes with each of the numbers `indices`, into rows (indices, errors and more). points: (6, n, 5);
    before: the errors as they are; the others as in `_residuals`. numbers, moved, extent: scratch, like theta, places and
    reached."""
    for row in range(len(indices)):
        _copied(theta, numbers)
        numbers[indices[row]] += NUDGE
        for i in range(6):
            numbers[SHARED + PER_VIEW * i] = np.exp(numbers[SHARED + PER_VIEW * i])
        only = (indices[row] - SHARED) // PER_VIEW if indices[row] >= SHARED else -1
        for i in range(6):
            if only < 0 or i == only:
                _lift_all(points[i], axes[i], numbers, i, inverse, ray, moved[i])
        out = rows[row][: len(before)]
        _copied(before, out)
        for pair in range(36):
            _copied(reached[pair // 6, pair % 6], extent[pair // 6, pair % 6])
        _residuals(
            moved if only < 0 else places, moved[max(only, 0)], count, values, slopes, outside, reach, ways, axes, used, numbers,
            inverse, ray, only, close, wrong, fades, unit, extent, out,
        )  # fmt: skip
        for m in range(len(out)):
            out[m] = (out[m] - before[m]) / NUDGE


@dataclass(frozen=True)
class Fit:
    """theta: (SHARED + 6 * PER_VIEW,); cost: mean squared error in units of the tolerance's noise, and what is expected; doubt:
    standard error of the perspective, 0 where it was held or not asked for; left: the cost by FINEST, where it was sharpened."""

    theta: Array
    cost: float
    doubt: float = 0.0
    left: float = np.inf


@dataclass(frozen=True)
class State:
    """errors: everything that is squared and summed, scaled so that the squares' sum is the cost; reached: (6, 6, DIRECTIONS),
    how far each view's points reach in each other; places: (6, n, 6), these points in the world."""

    errors: Array
    reached: Array
    places: Array

    @property
    def cost(self) -> float:
        return float(self.errors @ self.errors)


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
        self.furthest = np.where(self.free == BENDS.start, 1.0, 0.15)  # in one step
        asked = sights.points[:, ::stride]
        self.asked = asked.shape[1]
        self.points = np.concatenate([asked, sights.furthest], axis=1)
        views = int(used.sum())
        self.count = views * (views - 1) * self.asked + views * DIRECTIONS
        self.unit = 1 / (tolerance.noise * np.sqrt(self.count))
        self.ways = compass()
        spread = OWN_SPREAD if sights.own else SPREAD
        self.expected = np.concatenate([np.full(BENDS.start, np.inf), BENT, np.tile(spread, 6)]) * np.sqrt(EVIDENCE)

    def state(self, theta: Array) -> State:
        """Of numbers whose curve rises; else one that no fit goes to."""
        if not rises(theta):
            return State(np.full(1, np.inf), np.empty(0), np.empty(0))
        s, t, c = self.sights, self.tolerance, self.coding
        numbers, places = spelled(theta), np.empty((*self.points.shape[:2], 6))
        for i in range(6):
            _lift_all(self.points[i], self.axes[i], numbers, i, c.inverse, c.ray, places[i])
        reached, errors = np.full((6, 6, DIRECTIONS), UNSEEN), np.empty(self.count + len(theta))
        _residuals(
            places, places[0], self.asked, s.values, s.slopes, s.outside, s.reach, self.ways, self.axes, self.used,
            numbers, c.inverse, c.ray, -1, t.close, t.wrong, t.fades, self.unit, reached, errors,
        )  # fmt: skip
        errors[self.count :] = theta / self.expected
        errors[self.count] = max(0.0, abs(theta[0] - 0.4) - 0.4)  # fields of view from 0 to 77 degrees
        return State(errors, reached, places)

    def fitted(self, theta: Array, rounds: int) -> Fit:
        """Levenberg and Marquardt's method from `theta`."""
        theta, state, damping = theta.copy(), self.state(theta), 1e-3
        if not np.isfinite(state.cost):
            return Fit(theta, np.inf)
        for _ in range(rounds):
            jacobian = self.jacobian(theta, state)
            square, gradient = jacobian @ jacobian.T, jacobian @ state.errors
            before = state.cost
            for _ in range(7):
                step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -gradient)
                trial = theta.copy()
                trial[self.free] += np.clip(step, -self.furthest, self.furthest)
                trial[0] = max(trial[0], 0.0)
                found = self.state(trial)
                if found.cost < state.cost:
                    theta, state, damping = trial, found, damping / 4
                    break
                damping *= 6
            if state.cost > before * (1 - 1e-5):
                break
        return Fit(theta, state.cost)

    def doubt(self, theta: Array) -> float:
        """Standard error of the perspective, where all numbers are free."""
        jacobian = self.jacobian(theta, self.state(theta))
        square = jacobian @ jacobian.T
        return TOGETHER * float(np.sqrt(np.linalg.inv(square + 1e-9 * np.eye(len(square)))[0, 0] / EVIDENCE))

    def jacobian(self, theta: Array, before: State) -> Array:
        """(free numbers, errors): how every error changes with every number."""
        s, t, c = self.sights, self.tolerance, self.coding
        rows = np.empty((len(self.free), len(before.errors)))

        def fill(start: int, stop: int) -> None:
            _nudged(
                self.points, before.places, before.errors[: self.count], self.asked, s.values, s.slopes, s.outside, s.reach,
                self.ways, self.axes, self.used, theta, c.inverse, c.ray, t.close, t.wrong, t.fades, self.unit, before.reached,
                self.free[start:stop], np.empty_like(theta), np.empty_like(before.places), np.empty_like(before.reached),
                rows[start:stop],
            )  # fmt: skip

        for_bands(fill, len(self.free))
        rows[:, self.count :] = (np.eye(len(theta)) / self.expected)[self.free]
        rows[self.free == 0, self.count] = np.sign(theta[0] - 0.4) * (abs(theta[0] - 0.4) > 0.4)
        return rows
