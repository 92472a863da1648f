"""What stored depth means where the cameras are known: the distances at its lowest and highest value.

Six depth renders of one object agree: what one view sees lies inside the outlines of the others, and not before what they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.optimize import minimize

from steps.geometry.cameras import Camera, project, ray_to_z
from steps.geometry.kernels import parallel_map
from steps.geometry.rig_fit import Coding

Array = NDArray[Any]
POINTS = 400  # of each view
ENDS = (1.2, 0.8, 0.4, 0.0, -0.4, -0.8, -1.2)  # radii before and behind the object's middle where the search begins
BEGUN = 4  # of the starts are followed to their end
WRONG = 0.08  # radii: a larger error counts no more
NEXT = 3  # pixels to the neighbours that a point's normal is taken from
SIMPLER = 1.02  # how much better inverse depth, or depth along rays, must fit
FITS = 0.4  # of WRONG: the root mean square error up to which the views agree; where they do not it is about twice that


@dataclass(frozen=True)
class Sight:
    """One depth render. share: [H, W], 0 for the lowest stored value of all six, 1 for the highest, -1 for nothing; outside:
    [H, W] pixels to the object, 0 on it; to_z: [H, W], from distance along the ray to depth; x, y: pixels (n,) to judge by."""

    camera: Camera
    share: Array
    outside: Array
    to_z: Array
    x: Array
    y: Array


@dataclass(frozen=True)
class Ends:
    """Depth at the shares 0 and 1; error: root mean square, as a share of WRONG."""

    coding: Coding
    low: float
    high: float
    error: float


def sight(camera: Camera, share: Array, seed: int = 0) -> Sight:
    rows, columns = np.nonzero(share >= 0)
    chosen = np.random.default_rng(seed).integers(0, len(rows), POINTS)
    outside = distance_transform_edt(share < 0)
    return Sight(camera, share, outside, ray_to_z(camera, share.shape), columns[chosen], rows[chosen])


def fitted(sights: list[Sight]) -> Ends:
    """The best reading of six sights. Linear depth along the axis is near enough to the others to begin from."""
    middle, radius = _object(sights)
    distance = float(np.mean([np.linalg.norm(s.camera.position - middle) for s in sights]))
    starts = [distance - radius * np.array(pair) for pair in product(ENDS, ENDS) if pair[0] != pair[1]]

    def polished(coding: Coding, start: Array) -> Ends:
        found = minimize(lambda p: _cost(sights, coding, p, radius), start, method="Nelder-Mead", options=_PRECISE)
        return Ends(coding, float(found.x[0]), float(found.x[1]), float(np.sqrt(found.fun)))

    costs = parallel_map(lambda start: _cost(sights, Coding(), start, radius), starts)
    first = [starts[i] for i in np.argsort(costs)[:BEGUN]]
    best = min(parallel_map(lambda start: polished(Coding(), start), first), key=lambda e: e.error)
    codings = [Coding(inverse, ray) for inverse, ray in product((0, 1), (0, 1))]
    tried = parallel_map(lambda coding: polished(coding, np.array([best.low, best.high])), codings)
    return min(tried, key=lambda e: e.error * SIMPLER ** (e.coding.inverse + e.coding.ray))


_PRECISE = {"maxiter": 150, "xatol": 1e-4, "fatol": 1e-7}


def _object(sights: list[Sight]) -> tuple[Array, float]:
    """Where the axes through the outlines' middles meet (least squares), and how far the outlines reach around it."""
    square, right, reach = np.zeros((3, 3)), np.zeros(3), []
    for s in sights:
        ray = _rays(s, np.array([s.x.mean()]), np.array([s.y.mean()]))[0]
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        square += across
        right += across @ s.camera.position
        reach.append(max(float(np.ptp(s.x)), float(np.ptp(s.y))) / 2 / s.camera.fx)
    middle = np.linalg.solve(square, right)
    distances = [float(np.linalg.norm(s.camera.position - middle)) for s in sights]
    return middle, float(np.max(np.array(reach) * distances))


def _rays(s: Sight, x: Array, y: Array) -> Array:
    """World directions (n, 3) of pixels, of depth 1."""
    local = np.stack(
        [(x + 0.5 - s.camera.cx) / s.camera.fx, -(y + 0.5 - s.camera.cy) / s.camera.fy, -np.ones(len(x))], 1
    )
    return np.asarray(local @ np.asarray(s.camera.camera_to_world)[:3, :3].T)


def _depth(s: Sight, coding: Coding, ends: Array, x: Array, y: Array) -> Array:
    """At pixels (n,) on the object."""
    share = s.share[y, x]
    low, high = ends
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1 / (1 / low + share * (1 / high - 1 / low)) if coding.inverse else low + share * (high - low)
    return np.asarray(depth * s.to_z[y, x] if coding.ray else depth)


def _cost(sights: list[Sight], coding: Coding, ends: Array, radius: float) -> float:
    """The mean squared error in units of WRONG, each at most 1."""
    if min(ends) <= 0:
        return 1.0
    points, normals = (np.concatenate(part) for part in zip(*(_surface(s, coding, ends) for s in sights), strict=True))
    owner = np.repeat(np.arange(len(sights)), POINTS)
    total, count = 0.0, 0
    for index, s in enumerate(sights):
        others = owner != index
        error = _errors(s, coding, ends, points[others], normals[others]) / (WRONG * radius)
        total += float((error**2 / (1 + error**2)).sum())
        count += len(error)
    return total / count


def _surface(s: Sight, coding: Coding, ends: Array) -> tuple[Array, Array]:
    """World points (n, 3) and their unit normals, zero at the outline."""
    places = [(s.x, s.y), (np.minimum(s.x + NEXT, s.share.shape[1] - 1), s.y), (s.x, np.maximum(s.y - NEXT, 0))]
    here, right, up = (s.camera.position + _rays(s, x, y) * _depth(s, coding, ends, x, y)[:, None] for x, y in places)
    normal = np.cross(right - here, up - here)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    known = np.all([s.share[y, x] >= 0 for x, y in places], axis=0)
    return here, normal * known[:, None]


def _errors(s: Sight, coding: Coding, ends: Array, points: Array, normals: Array) -> Array:
    """How far points (n, 3) of other views lie beside the outline, or from what is seen there. What lies behind that may be
    hidden, and what is turned away must be."""
    pixels, z = project(points, s.camera)
    height, width = s.share.shape
    x = np.clip(np.nan_to_num(np.floor(pixels[:, 0])), 0, width - 1).astype(int)
    y = np.clip(np.nan_to_num(np.floor(pixels[:, 1])), 0, height - 1).astype(int)
    beyond = np.abs(pixels - np.stack([x + 0.5, y + 0.5], axis=1)).max(axis=1)
    beside = (s.outside[y, x] + np.maximum(beyond - 0.5, 0)) / s.camera.fx * np.abs(z)
    sight = s.camera.position - points
    facing = (normals * sight).sum(axis=1) / np.linalg.norm(sight, axis=1)
    gap = z - _depth(s, coding, ends, x, y)
    behind = gap * np.clip(4 * facing, 0, 1)
    return np.where(s.outside[y, x] > 0, beside, np.where(gap > 0, behind, gap))
