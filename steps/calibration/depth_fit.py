"""Fits a model of stored depth, where the cameras are known.

The points of one view project into the silhouettes of the others, reach their outlines, and lie on their surfaces unless
occluded. With exact cameras this determines any monotone curve. Point-to-plane least squares (Chen and Medioni
1992) over pixels of all pairs of views, in the parameters of a depth model rather than poses; robust by Geman and McClure's
weights with a width that shrinks. Lengths are in radii of the object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.calibration.depth_models import Model, depth_is_monotone
from steps.calibration.depth_views import DepthView, unit_directions
from steps.compute.arrays import Array
from steps.geometry.cameras import project
from steps.geometry.depth_ops import surface_normals
from steps.geometry.image_ops import sample_bilinear

SAMPLES = 1500  # pixels of each view
WIDTHS = (0.2, 0.1, 0.05, 0.025)  # radii: of the robust loss; the last iterations take it from the noise
ITERATIONS = 5  # of each width
EXTREME_CANDIDATES = 4000  # pixels of each view among which extreme points are searched
NOISE_ROUNDS = 2  # re-estimations of the noise
LEAST_WIDTH = 3.0  # pixels: the smallest width of outlines, and of surfaces until their noise is known
SIGMAS = 6.0  # of the surfaces' noise: the width of their loss
SILHOUETTE_STD = 0.4  # pixels: standard deviation of an outline
LEAST_SURFACE_STD, MOST_SURFACE_STD = 0.02, 2.0  # pixels: bounds of the surfaces' standard deviation
NOISE_POINTS = 50  # fewest points to estimate noise from
PIXEL_BIAS = 0.25  # mean distance from an edge to the centre of the outermost pixel, beyond half a pixel
EXTENT_WEIGHT = 30.0  # weight of one direction of a silhouette, in points
LEAST_COSINE = 0.15  # least cosine between normal and viewing ray of a surface that is compared
SAME_SURFACE_COSINE = 0.6  # least cosine between the normals of two views' points on one surface


@dataclass(frozen=True)
class Rows:
    """Residuals (n,) in radii; their jacobian [n, P]; kind (n,), 1 surface, 2 silhouette; pixel (n,), radii in a pixel there;
    hidden (n,) bool: large residuals mean occlusion, so the loss redescends; weight (n,)."""

    error: Array
    jacobian: Array
    kind: Array
    pixel: Array
    hidden: Array
    weight: Array


@dataclass(frozen=True)
class Sample:
    """Pixels of one view: coordinates of their centres, stored values and their slopes, whether the surface is smooth there,
    and the factor from ray distance to depth."""

    x: Array
    y: Array
    value: Array
    slopes: Array
    smooth: Array
    to_z: Array


def sample(view: DepthView, count: int, seed: int = 0) -> Sample:
    n = len(view.rows)
    chosen = np.arange(n) if n <= count else np.random.default_rng(seed).choice(n, count, replace=False)
    return _sample_of(view, view.rows[chosen], view.columns[chosen])


def _sample_of(view: DepthView, r: Array, c: Array) -> Sample:
    return Sample(c + 0.5, r + 0.5, view.value[r, c], view.slopes[r, c], view.smooth[r, c], view.to_z[r, c])


@dataclass(frozen=True)
class WorldPoints:
    """Pixels of all views in the world: points (n, 3), their jacobian by the model's parameters [n, 3, P], unit normals towards
    the camera (n, 3), zero where unknown, and the view of each (n,)."""

    points: Array
    jacobian: Array
    normals: Array
    owner: Array


def _world_points(
    views: list[DepthView], samples: list[Sample], model: Model, params: Array, jacobian: bool
) -> WorldPoints:
    parts = []
    for i, (view, s) in enumerate(zip(views, samples, strict=True)):
        z, dv, dt = model.depth(s.value, model.view_params(params, i))
        rays = view.rays(s.x, s.y) * (s.to_z if model.ray else np.ones_like(z))[:, None]
        by_params = _embed_view_params(model, len(views), i, dt) if jacobian else np.zeros((len(z), 0))
        slopes = rays[:, :, None] * by_params[:, None, :]
        points = view.camera.position + rays * z[:, None]
        parts.append((points, slopes, _normals(view, s, model, z, dv), np.full(len(z), i)))
    return WorldPoints(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _embed_view_params(model: Model, views: int, i: int, slope: Array) -> Array:
    """Derivatives by one view's parameters [n, K], in the columns of all parameters."""
    if not model.per_view:
        return slope
    out = np.zeros((len(slope), views * model.size))
    out[:, model.size * i : model.size * (i + 1)] = slope
    return out


def _normals(view: DepthView, s: Sample, model: Model, z: Array, dv: Array) -> Array:
    """World normals of the surface z(x, y) in a view; 0 beside edges. dv: dz by the stored value."""
    c = view.camera
    x, y = (s.x - c.cx) / c.fx, (s.y - c.cy) / c.fy
    dx, dy = dv * s.slopes[:, 0], dv * s.slopes[:, 1]
    if model.ray:  # z here is along the ray: depth = z t(x, y)
        t = s.to_z
        dx, dy = dx * t - z * t**3 * x / c.fx, dy * t - z * t**3 * y / c.fy
        z = z * t
    return surface_normals(x, y, z, (dx, dy), c) * s.smooth[:, None]


def rows_of(views: list[DepthView], samples: list[Sample], model: Model, params: Array, jacobian: bool = True) -> Rows:
    """All residuals of a model."""
    points = _world_points(views, samples, model, params, jacobian)
    parts: list[Rows] = []
    for j, view in enumerate(views):
        others = np.flatnonzero(points.owner != j)
        others_points = WorldPoints(
            points.points[others], points.jacobian[others], points.normals[others], points.owner[others]
        )
        parts += _view_rows(view, j, others_points, model, params, len(views))
    return Rows(*(np.concatenate([getattr(p, f) for p in parts]) for f in Rows.__annotations__))


@dataclass(frozen=True)
class ProjectedPoints:
    """World points in a view: pixel coordinates (n, 2), depth (n,), and the derivatives of the former by the points [n, 2, 3]."""

    world: WorldPoints
    pixels: Array
    z: Array
    jacobian: Array


def _project_with_jacobian(view: DepthView, world: WorldPoints) -> ProjectedPoints:
    pixels, z = project(world.points, view.camera)
    safe = np.where(z > 1e-6, z, 1e-6)
    p = view.camera.projection[:, :3]
    return ProjectedPoints(world, pixels, z, (p[None, :2] - pixels[:, :, None] * p[None, 2:]) / safe[:, None, None])


def _view_rows(view: DepthView, j: int, others: WorldPoints, model: Model, params: Array, views: int) -> list[Rows]:
    """Residuals in view j of the other views' points: outside its silhouette, off its surface, and short of its extent."""
    projected = _project_with_jacobian(view, others)
    pixels, z, pixel_jacobian = projected.pixels, projected.z, projected.jacobian
    height, width = view.value.shape
    c = np.clip(np.floor(np.nan_to_num(pixels[:, 0])), 0, width - 1).astype(int)
    r = np.clip(np.floor(np.nan_to_num(pixels[:, 1])), 0, height - 1).astype(int)
    beyond = np.abs(pixels - np.stack([c + 0.5, r + 0.5], axis=1)).max(axis=1) - 0.5
    distance = view.silhouette_distance[r, c] + np.maximum(beyond, 0)
    unit = np.maximum(z, 1e-6) / view.fx  # radii in a pixel
    off = np.flatnonzero(distance > 0.5)  # an outline lies up to a pixel beyond the middles that are inside
    silhouette = _silhouette_rows(
        (distance[off] - 0.5) * unit[off],
        view.outward[r[off], c[off]],
        unit[off],
        pixel_jacobian[off],
        others.jacobian[off],
    )
    directions = unit_directions()
    along = pixels @ directions.T
    first = along.argmax(axis=0)
    shortfall = (along[first, np.arange(len(directions))] - view.silhouette_extent + PIXEL_BIAS) * unit[first]
    extent = _silhouette_rows(
        shortfall, directions, unit[first], pixel_jacobian[first], others.jacobian[first], EXTENT_WEIGHT
    )
    inside = np.flatnonzero((distance <= 0.5) & view.smooth[r, c])
    return [silhouette, extent, _surface_rows(view, j, projected, inside, model, params, views)]


def _silhouette_rows(error: Array, way: Array, unit: Array, moves: Array, slopes: Array, weight: float = 1.0) -> Rows:
    """Residuals (n,) across a silhouette. way: (n, 2), their gradient in the picture; moves, slopes: jacobians, pixels by
    points and points by parameters."""
    n = len(error)
    slope = np.einsum("nk,nkq,nqp->np", way, moves, slopes) * unit[:, None]
    return Rows(error, slope, np.full(n, 2), unit, np.zeros(n, bool), np.full(n, weight))


def _surface_rows(
    view: DepthView, j: int, projected: ProjectedPoints, n: Array, model: Model, params: Array, views: int
) -> Rows:
    """Point-to-plane distances between the points `n` of other views and the surface that view j sees."""
    others, z = projected.world, projected.z
    s, known = _sample_at(view, projected.pixels[n])
    n = n[known]
    depth, dv, dt = model.depth(s.value, model.view_params(params, j))
    factor = s.to_z if model.ray else np.ones_like(depth)
    normal = _normals(view, s, model, depth, dv)
    rays = view.rays(s.x, s.y)
    towards = -(normal * rays).sum(axis=1)
    sight = view.camera.position - others.points[n]
    facing = (others.normals[n] * sight).sum(axis=1) / np.maximum(np.linalg.norm(sight, axis=1), 1e-9)
    distance = (z[n] - depth * factor) * towards  # positive: behind
    has_normal = (others.normals[n] ** 2).sum(axis=1) > 0
    same_surface = has_normal & ((others.normals[n] * normal).sum(axis=1) > SAME_SURFACE_COSINE)
    # a point behind the surface counts only if it may be the same surface; one in front always does
    keep = (towards > LEAST_COSINE * np.linalg.norm(rays, axis=1)) & (
        (distance < 0) | (same_surface & (facing > LEAST_COSINE))
    )
    n, distance = n[keep], distance[keep]
    slope = np.einsum("nq,nqp->np", -normal[keep], others.jacobian[n])
    if slope.shape[1]:
        slope = slope - _embed_view_params(model, views, j, (towards * factor)[keep, None] * dt[keep])
    unit = np.maximum(z[n], 1e-6) / view.fx
    return Rows(
        distance, slope, np.ones(len(distance), int), unit, distance > 0, np.where(same_surface[keep], 1.0, 0.3)
    )


def _sample_at(view: DepthView, pixels: Array) -> tuple[Sample, Array]:
    """The view at pixel coordinates (n, 2), bilinear, for those whose four neighbours are smooth; and which these are."""
    height, width = view.value.shape
    c, r = (np.clip(np.floor(pixels[:, k] - 0.5), 0, n - 2).astype(int) for k, n in ((0, width), (1, height)))
    is_smooth = view.smooth[r, c] & view.smooth[r, c + 1] & view.smooth[r + 1, c] & view.smooth[r + 1, c + 1]
    x, y = pixels[is_smooth, 0], pixels[is_smooth, 1]
    value, slopes, to_z = (sample_bilinear(layer, x, y) for layer in (view.value, view.slopes, view.to_z))
    return Sample(x, y, value, slopes, np.ones(len(x), bool), to_z), is_smooth


def with_extreme_points(p: Problem, model: Model, params: Array) -> Problem:
    """Adds those pixels of each view that by these parameters are extreme in the others: a random sample falls short of the
    silhouettes, and depth would grow to compensate."""
    samples = []
    for i, (view, s) in enumerate(zip(p.views, p.samples, strict=True)):
        stride = max(1, len(view.rows) // EXTREME_CANDIDATES)
        rows, columns = view.rows[::stride], view.columns[::stride]
        candidates = _sample_of(view, rows, columns)
        z, _, _ = model.depth(candidates.value, model.view_params(params, i))
        points = (
            view.camera.position
            + view.rays(candidates.x, candidates.y) * (z * (candidates.to_z if model.ray else 1))[:, None]
        )
        others = [v for j, v in enumerate(p.views) if j != i]
        chosen = np.unique([((project(points, o.camera)[0]) @ unit_directions().T).argmax(axis=0) for o in others])
        extra = _sample_of(view, rows[chosen], columns[chosen])
        samples.append(Sample(*(np.concatenate([getattr(s, f), getattr(extra, f)]) for f in Sample.__annotations__)))
    return Problem(p.views, samples, p.spans)


# -- least squares ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Noise model. surface, outline: standard deviations, pixels; surface_width, outline_width: of the robust loss, radii."""

    surface: float
    outline: float
    surface_width: float
    outline_width: float

    def sigma_and_width(self, rows: Rows) -> tuple[Array, Array]:
        """Standard deviation and width (n,) of each error, radii."""
        surface = rows.kind == 1
        sigma = rows.pixel * np.where(surface, self.surface, self.outline)
        return sigma, np.where(surface, self.surface_width, self.outline_width)


def cost(rows: Rows, scale: Scale) -> float:
    """Robust mean of squared residuals over their variances."""
    sigma, width = scale.sigma_and_width(rows)
    e2, limit = (rows.error / sigma) ** 2, (width / sigma) ** 2
    rho = e2 / (1 + e2 / limit) ** np.where(rows.hidden, 2, 1)
    return float((rows.weight * rho).sum() / rows.weight.sum())


def surface_std(rows: Rows, width: float) -> float:
    """Robust standard deviation (1.4826 MAD) of point-to-plane distances within the width, pixels."""
    near = (rows.kind == 1) & (np.abs(rows.error) < width) & (rows.weight == 1)
    if near.sum() < NOISE_POINTS:
        return SILHOUETTE_STD
    return float(
        np.clip(1.4826 * np.median(np.abs(rows.error[near] / rows.pixel[near])), LEAST_SURFACE_STD, MOST_SURFACE_STD)
    )


def gauss_newton_step(rows: Rows, scale: Scale, prior: Array, damping: float) -> Array:
    """One damped Gauss-Newton step. prior: [P, P], added to the normal equations."""
    sigma, width = scale.sigma_and_width(rows)
    weight = rows.weight / (1 + (rows.error / width) ** 2) ** np.where(rows.hidden, 3, 2) / sigma**2
    normal_matrix = rows.jacobian.T @ (rows.jacobian * weight[:, None]) + prior
    gradient = rows.jacobian.T @ (rows.error * weight)
    normal_matrix += damping * np.diag(np.diag(normal_matrix) + 1e-12)
    return np.asarray(-np.linalg.solve(normal_matrix, gradient))


@dataclass(frozen=True)
class Fit:
    """A model with its parameters; cost: robust mean of squared residuals over the variance of a silhouette, about 1 where it
    is right; noise: standard deviation of point-to-plane distances, pixels; rows: the residuals."""

    model: Model
    params: Array
    cost: float = np.inf
    noise: float = SILHOUETTE_STD
    rows: Rows | None = None


@dataclass(frozen=True)
class Problem:
    """Six views, a sample of their pixels, and each view's lowest and highest stored value."""

    views: list[DepthView]
    samples: list[Sample]
    spans: list[tuple[float, float]]

    def rows(self, model: Model, params: Array, jacobian: bool = True) -> Rows:
        return rows_of(self.views, self.samples, model, params, jacobian)

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest stored value of all views."""
        return min(low for low, _ in self.spans), max(high for _, high in self.spans)

    @property
    def pixel(self) -> float:
        """Radii in a pixel at the object, median over the views."""
        return float(np.median([np.linalg.norm(v.camera.position) / v.fx for v in self.views]))


def problem(views: list[DepthView], count: int = SAMPLES) -> Problem:
    spans = [(float(v.value[v.rows, v.columns].min()), float(v.value[v.rows, v.columns].max())) for v in views]
    return Problem(views, [sample(v, count, i) for i, v in enumerate(views)], spans)


def solve(p: Problem, model: Model, params: Array, widths: tuple[float, ...] = WIDTHS) -> Fit:
    """Levenberg-Marquardt from `params`, with robust losses that narrow."""
    least_width = LEAST_WIDTH * p.pixel
    for width in (w for w in widths if w > least_width):
        params = _levenberg_marquardt(p, model, params, Scale(SILHOUETTE_STD, SILHOUETTE_STD, width, width), 1e-2)
    for _ in range(NOISE_ROUNDS):
        extended = with_extreme_points(p, model, params)
        noise = surface_std(extended.rows(model, params, False), least_width)
        params = _levenberg_marquardt(
            extended,
            model,
            params,
            Scale(noise, SILHOUETTE_STD, min(SIGMAS * noise * p.pixel, least_width), least_width),
            1e-3,
        )
    return evaluate(p, model, params)


def evaluate(p: Problem, model: Model, params: Array) -> Fit:
    """The Fit (cost, noise, residuals) at these parameters, without optimization."""
    rows = with_extreme_points(p, model, params).rows(model, params, False)
    least_width = LEAST_WIDTH * p.pixel
    return Fit(
        model,
        params,
        cost(rows, Scale(SILHOUETTE_STD, SILHOUETTE_STD, least_width, least_width)),
        surface_std(rows, least_width),
        rows,
    )


def _levenberg_marquardt(p: Problem, model: Model, params: Array, scale: Scale, min_gain: float) -> Array:
    """The parameters where a step lowers the cost by less than the fraction min_gain."""
    spans = p.spans if model.per_view else [p.span]
    prior = model.prior(len(p.views))
    rows, damping = p.rows(model, params), 1e-4
    current_cost = cost(rows, scale)
    for _ in range(ITERATIONS):
        for _ in range(4):
            trial = params + gauss_newton_step(rows, scale, prior, damping)
            if depth_is_monotone(model, trial, spans):
                trial_rows = p.rows(model, trial)
                trial_cost = cost(trial_rows, scale)
                if trial_cost < current_cost:
                    break
            damping = max(damping, 1e-3) * 10
        else:
            break
        gain, change = current_cost - trial_cost, float(np.abs(trial - params).max())
        params, rows, current_cost, damping = trial, trial_rows, trial_cost, damping / 10
        if gain < min_gain * current_cost or change < 1e-7:
            break
    return params
