"""What stored depth means where the cameras are known.

Six depth renders of one object agree: what one view sees lies inside the outlines of the others and reaches them, and lies on
the surface that they see there, unless that hides it. With exact cameras this determines any monotone curve. Point-to-plane
least squares (Chen and Medioni 1992) over pixels of all pairs of views, in which not the poses are sought but the parameters of
a depth model; robust by Geman and McClure's weights with a width that shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.calibration.depth_models import Model, rises
from steps.calibration.depth_views import DepthView, directions
from steps.geometry.cameras import project

Array = NDArray[Any]
SAMPLES = 1500  # pixels of each view
WIDTHS = (0.2, 0.1, 0.05, 0.025)  # radii: errors well beyond count little; the last steps have that of the noise
ROUNDS = 5  # of each width
MOST = 4000  # pixels of each view are asked how far they reach
SHARPENED = 2  # times that the noise is measured anew
LEAST = 3.0  # pixels: the smallest width of outlines, and of surfaces until their noise is known
SIGMAS = 6.0  # of the surfaces' noise: their width
OUTLINE = 0.4  # pixels: standard deviation of an outline
FLOOR, COARSEST = 0.02, 2.0  # pixels: bounds of the surfaces' standard deviation
FEW = 50  # points with which noise cannot be measured
SHY = 0.25  # pixels that the middles of pixels fall short of an edge, in the mean
REACHES = 30.0  # how many points one direction of an outline counts as
FACING = 0.15  # cosine from which a surface is seen well enough to be compared
ALIKE = 0.6  # cosine between two normals of what may be one surface


@dataclass(frozen=True)
class Rows:
    """Errors (n,) in radii, their derivatives [n, P], their standard deviation's unit (n,) (1 surface, 2 outline), and whether an
    error beyond the width means nothing (hidden) rather than that something is wrong."""

    error: Array
    slope: Array
    kind: Array
    pixel: Array
    hidden: Array
    weight: Array


@dataclass(frozen=True)
class Sample:
    """Pixels of one view: coordinates of their middles, stored values and their slopes, and which may be compared."""

    x: Array
    y: Array
    value: Array
    slopes: Array
    smooth: Array
    to_z: Array


def sample(view: DepthView, count: int, seed: int = 0) -> Sample:
    n = len(view.rows)
    chosen = np.arange(n) if n <= count else np.random.default_rng(seed).choice(n, count, replace=False)
    return _at(view, view.rows[chosen], view.columns[chosen])


def _at(view: DepthView, r: Array, c: Array) -> Sample:
    return Sample(c + 0.5, r + 0.5, view.value[r, c], view.slopes[r, c], view.smooth[r, c], view.to_z[r, c])


@dataclass(frozen=True)
class Placed:
    """Pixels of all views in the world by a model: points (n, 3), their derivatives by its parameters [n, 3, P], unit normals
    towards their camera (n, 3), zero where there is none, and whose they are (n,)."""

    points: Array
    slopes: Array
    normals: Array
    owner: Array


def _placed(views: list[DepthView], samples: list[Sample], model: Model, theta: Array, jacobian: bool) -> Placed:
    parts = []
    for i, (view, s) in enumerate(zip(views, samples, strict=True)):
        z, dv, dt = model.depth(s.value, model.own(theta, i))
        rays = view.rays(s.x, s.y) * (s.to_z if model.ray else np.ones_like(z))[:, None]
        slopes = (
            rays[:, :, None] * _spread(model, len(views), i, dt)[:, None, :] if jacobian else np.zeros((len(z), 3, 0))
        )
        points = view.camera.position + rays * z[:, None]
        parts.append((points, slopes, _normals(view, s, model, z, dv), np.full(len(z), i)))
    return Placed(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _spread(model: Model, views: int, i: int, slope: Array) -> Array:
    """Derivatives by one view's parameters [n, K] among those of all."""
    if not model.per_view:
        return slope
    out = np.zeros((len(slope), views * model.size))
    out[:, model.size * i : model.size * (i + 1)] = slope
    return out


def _normals(view: DepthView, s: Sample, model: Model, z: Array, dv: Array) -> Array:
    """Of the surface z(x, y) that a view sees: the cross product of its derivatives. dv: of z by the stored value."""
    c = view.camera
    x, y = (s.x - c.cx) / c.fx, (s.y - c.cy) / c.fy
    dx, dy = dv * s.slopes[:, 0], dv * s.slopes[:, 1]
    if model.ray:  # z here is along the ray: depth = z t(x, y)
        t = s.to_z
        dx, dy = dx * t - z * t**3 * x / c.fx, dy * t - z * t**3 * y / c.fy
        z = z * t
    u = np.stack([dx * x + z / c.fx, dx * y, dx], axis=1)
    v = np.stack([dy * x, dy * y + z / c.fy, dy], axis=1)
    normal = np.cross(v, u)  # towards the camera, in OpenCV's axes
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    world = (normal * [1, -1, -1]) @ np.asarray(c.camera_to_world)[:3, :3].T
    return np.asarray(world * s.smooth[:, None])


def rows_of(views: list[DepthView], samples: list[Sample], model: Model, theta: Array, jacobian: bool = True) -> Rows:
    """All errors of a model."""
    placed = _placed(views, samples, model, theta, jacobian)
    parts: list[Rows] = []
    for j, view in enumerate(views):
        others = np.flatnonzero(placed.owner != j)
        own = Placed(placed.points[others], placed.slopes[others], placed.normals[others], placed.owner[others])
        parts += _seen(view, j, own, model, theta, len(views))
    return Rows(*(np.concatenate([getattr(p, f) for p in parts]) for f in Rows.__annotations__))


def _drawn(view: DepthView, points: Array) -> tuple[Array, Array, Array]:
    """Pixel coordinates (n, 2) of world points, their depth, and the derivatives of the former by the points [n, 2, 3]."""
    pixels, z = project(points, view.camera)
    safe = np.where(z > 1e-6, z, 1e-6)
    p = view.camera.projection[:, :3]
    return pixels, z, (p[None, :2] - pixels[:, :, None] * p[None, 2:]) / safe[:, None, None]


def _seen(view: DepthView, j: int, placed: Placed, model: Model, theta: Array, views: int) -> list[Rows]:
    """The errors in view j of the points of others: beside its outline, before or behind its surface, and short of its reach."""
    pixels, z, moves = _drawn(view, placed.points)
    height, width = view.value.shape
    c = np.clip(np.floor(np.nan_to_num(pixels[:, 0])), 0, width - 1).astype(int)
    r = np.clip(np.floor(np.nan_to_num(pixels[:, 1])), 0, height - 1).astype(int)
    beyond = np.abs(pixels - np.stack([c + 0.5, r + 0.5], axis=1)).max(axis=1) - 0.5
    outside = view.outside[r, c] + np.maximum(beyond, 0)
    unit = np.maximum(z, 1e-6) / view.fx  # radii in a pixel
    off = np.flatnonzero(outside > 0.5)  # an outline lies up to a pixel beyond the middles that are inside
    beside = _outlines(
        (outside[off] - 0.5) * unit[off], view.away[r[off], c[off]], unit[off], moves[off], placed.slopes[off]
    )
    ways = directions()
    along = pixels @ ways.T
    first = along.argmax(axis=0)
    short = (along[first, np.arange(len(ways))] - view.reach + SHY) * unit[first]
    reach = _outlines(short, ways, unit[first], moves[first], placed.slopes[first], REACHES)
    inside = np.flatnonzero((outside <= 0.5) & view.smooth[r, c])
    return [beside, reach, _between(view, j, placed, inside, (pixels, z), model, theta, views)]


def _outlines(error: Array, way: Array, unit: Array, moves: Array, slopes: Array, weight: float = 1.0) -> Rows:
    """Errors (n,) across an outline. way: (n, 2), the direction in the picture in which they grow; the others: of the points."""
    n = len(error)
    slope = np.einsum("nk,nkq,nqp->np", way, moves, slopes) * unit[:, None]
    return Rows(error, slope, np.full(n, 2), unit, np.zeros(n, bool), np.full(n, weight))


def _between(
    view: DepthView, j: int, placed: Placed, n: Array, at: tuple[Array, Array], model: Model, theta: Array, views: int
) -> Rows:
    """Distances between points `n` of others and the surface that view j sees there. at: pixel coordinates and depth of all."""
    pixels, z = at
    s, found = _looked_up(view, pixels[n])
    n = n[found]
    depth, dv, dt = model.depth(s.value, model.own(theta, j))
    factor = s.to_z if model.ray else np.ones_like(depth)
    normal = _normals(view, s, model, depth, dv)
    rays = view.rays(s.x, s.y)
    towards = -(normal * rays).sum(axis=1)
    sight = view.camera.position - placed.points[n]
    facing = (placed.normals[n] * sight).sum(axis=1) / np.maximum(np.linalg.norm(sight, axis=1), 1e-9)
    e = (z[n] - depth * factor) * towards  # positive: behind
    own = (placed.normals[n] ** 2).sum(axis=1) > 0
    one = own & ((placed.normals[n] * normal).sum(axis=1) > ALIKE)
    # behind, turned away or without a normal of its own says nothing; before the surface all do
    keep = (towards > FACING * np.linalg.norm(rays, axis=1)) & ((e < 0) | (one & (facing > FACING)))
    n, e = n[keep], e[keep]
    slope = np.einsum("nq,nqp->np", -normal[keep], placed.slopes[n])
    if slope.shape[1]:
        slope = slope - _spread(model, views, j, (towards * factor)[keep, None] * dt[keep])
    unit = np.maximum(z[n], 1e-6) / view.fx
    return Rows(e, slope, np.ones(len(e), int), unit, e > 0, np.where(one[keep], 1.0, 0.3))


def _looked_up(view: DepthView, pixels: Array) -> tuple[Sample, Array]:
    """What a view has at pixel coordinates (n, 2), bilinear, of those where all four neighbours are smooth; and which."""
    height, width = view.value.shape
    x, y = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
    c, r = np.clip(np.floor(x), 0, width - 2).astype(int), np.clip(np.floor(y), 0, height - 2).astype(int)
    found = view.smooth[r, c] & view.smooth[r, c + 1] & view.smooth[r + 1, c] & view.smooth[r + 1, c + 1]
    r, c, x, y = r[found], c[found], x[found], y[found]
    u, v = np.clip(x - c, 0, 1), np.clip(y - r, 0, 1)
    four = [(r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)]
    weights = [(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v]

    def blended(layer: Array) -> Array:
        return np.asarray(sum(layer[q].T * w for w, q in zip(weights, four, strict=True))).T

    return Sample(
        x + 0.5, y + 0.5, blended(view.value), blended(view.slopes), np.ones(len(x), bool), blended(view.to_z)
    ), found


def with_furthest(p: Problem, model: Model, theta: Array) -> Problem:
    """Also asks those pixels of each view that by these parameters reach furthest in the others, of all: a sample falls short
    of the outlines, and all depth would grow to make up for it."""
    found = []
    for i, (view, s) in enumerate(zip(p.views, p.samples, strict=True)):
        thin = max(1, len(view.rows) // MOST)
        rows, columns = view.rows[::thin], view.columns[::thin]
        every = _at(view, rows, columns)
        z, _, _ = model.depth(every.value, model.own(theta, i))
        points = view.camera.position + view.rays(every.x, every.y) * (z * (every.to_z if model.ray else 1))[:, None]
        others = [v for j, v in enumerate(p.views) if j != i]
        chosen = np.unique([((project(points, o.camera)[0]) @ directions().T).argmax(axis=0) for o in others])
        extra = _at(view, rows[chosen], columns[chosen])
        found.append(Sample(*(np.concatenate([getattr(s, f), getattr(extra, f)]) for f in Sample.__annotations__)))
    return Problem(p.views, found, p.spans)


# -- least squares ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How errors are judged. surface, outline: standard deviations in pixels; widths of either: radii, beyond which an error
    counts little."""

    surface: float
    outline: float
    surface_width: float
    outline_width: float

    def of(self, rows: Rows) -> tuple[Array, Array]:
        """Standard deviation and width (n,) of each error, radii."""
        surface = rows.kind == 1
        sigma = rows.pixel * np.where(surface, self.surface, self.outline)
        return sigma, np.where(surface, self.surface_width, self.outline_width)


def cost(rows: Rows, scale: Scale) -> float:
    """Robust mean of squared errors, in variances."""
    sigma, width = scale.of(rows)
    e2, limit = (rows.error / sigma) ** 2, (width / sigma) ** 2
    rho = e2 / (1 + e2 / limit) ** np.where(rows.hidden, 2, 1)
    return float((rows.weight * rho).sum() / rows.weight.sum())


def surface_noise(rows: Rows, width: float) -> float:
    """Robust standard deviation (1.4826 MAD) of surfaces that meet within the width, pixels."""
    near = (rows.kind == 1) & (np.abs(rows.error) < width) & (rows.weight == 1)
    if near.sum() < FEW:
        return OUTLINE
    return float(np.clip(1.4826 * np.median(np.abs(rows.error[near] / rows.pixel[near])), FLOOR, COARSEST))


def step(rows: Rows, scale: Scale, prior: Array, damping: float) -> Array:
    """One Gauss-Newton step. prior: [P, P], added to the normal equations."""
    sigma, width = scale.of(rows)
    weight = rows.weight / (1 + (rows.error / width) ** 2) ** np.where(rows.hidden, 3, 2) / sigma**2
    square = rows.slope.T @ (rows.slope * weight[:, None]) + prior
    gradient = rows.slope.T @ (rows.error * weight)
    square += damping * np.diag(np.diag(square) + 1e-12)
    return np.asarray(-np.linalg.solve(square, gradient))


@dataclass(frozen=True)
class Fit:
    """A model with its parameters; cost: robust mean of squared errors in variances of an outline, about 1 where it is right;
    noise: standard deviation of surfaces that meet, pixels; rows: the errors."""

    model: Model
    theta: Array
    cost: float = np.inf
    noise: float = OUTLINE
    rows: Rows | None = None


@dataclass(frozen=True)
class Problem:
    """Six views, a few of their pixels, and each view's lowest and highest stored value."""

    views: list[DepthView]
    samples: list[Sample]
    spans: list[tuple[float, float]]

    def rows(self, model: Model, theta: Array, jacobian: bool = True) -> Rows:
        return rows_of(self.views, self.samples, model, theta, jacobian)

    @property
    def span(self) -> tuple[float, float]:
        """Of all values."""
        return min(low for low, _ in self.spans), max(high for _, high in self.spans)

    @property
    def pixel(self) -> float:
        """Radii in a pixel, about."""
        return float(np.median([np.linalg.norm(v.camera.position) / v.fx for v in self.views]))


def problem(views: list[DepthView], count: int = SAMPLES) -> Problem:
    spans = [(float(v.value[v.rows, v.columns].min()), float(v.value[v.rows, v.columns].max())) for v in views]
    return Problem(views, [sample(v, count, i) for i, v in enumerate(views)], spans)


def solved(p: Problem, model: Model, theta: Array, widths: tuple[float, ...] = WIDTHS) -> Fit:
    """Levenberg and Marquardt's method from `theta`, with patience for ever smaller errors."""
    least = LEAST * p.pixel
    for width in (w for w in widths if w > least):
        theta = _descended(p, model, theta, Scale(OUTLINE, OUTLINE, width, width), 1e-2)
    for _ in range(SHARPENED):
        asked = with_furthest(p, model, theta)
        noise = surface_noise(asked.rows(model, theta, False), least)
        theta = _descended(
            asked, model, theta, Scale(noise, OUTLINE, min(SIGMAS * noise * p.pixel, least), least), 1e-3
        )
    return judged(p, model, theta)


def judged(p: Problem, model: Model, theta: Array) -> Fit:
    """A model as it stands."""
    rows = with_furthest(p, model, theta).rows(model, theta, False)
    least = LEAST * p.pixel
    return Fit(model, theta, cost(rows, Scale(OUTLINE, OUTLINE, least, least)), surface_noise(rows, least), rows)


def _descended(p: Problem, model: Model, theta: Array, scale: Scale, enough: float) -> Array:
    """The parameters where the cost sinks no more, but for the share `enough`."""
    spans = p.spans if model.per_view else [p.span]
    prior = model.prior(len(p.views))
    rows, damping = p.rows(model, theta), 1e-4
    before = cost(rows, scale)
    for _ in range(ROUNDS):
        for _ in range(4):
            trial = theta + step(rows, scale, prior, damping)
            if rises(model, trial, spans):
                found = p.rows(model, trial)
                now = cost(found, scale)
                if now < before:
                    break
            damping = max(damping, 1e-3) * 10
        else:
            break
        gained, moved = before - now, float(np.abs(trial - theta).max())
        theta, rows, before, damping = trial, found, now, damping / 10
        if gained < enough * before or moved < 1e-7:
            break
    return theta
