"""Any mesh into the frame of the six cameras: the similarity transform that lays it on what their depth shows.

First all rotations, each with a few rounds of ICP (Besl and McKay 1992, scaled by Umeyama 1991) against grids of nearest points;
then the best by point-to-plane ICP with everything; then, since symmetric shapes fit in several ways, by the views' colours,
which also turn a round thing about its axis. Distances go both ways, from the mesh to the depth and back, so that neither a
shrunken nor a swollen mesh fits well, and large ones count no more than middling ones (Geman and McClure), so that parts which
only one of the two has do not pull. Mirroring is never tried: a model that made the mirror image made another object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from steps.compute.kernels import kernel, parallel_map
from steps.geometry.image_ops import filled
from steps.registration.global_icp import (
    CLOSE,
    MIDDLE,
    Similarity,
    angle,
    apart,
    distinct,
    found,
    moved,
    onto_unit,
    over,
    round_axis,
    swept,
)
from steps.registration.pointcloud import Cloud, Sight, of_sights

Array = NDArray[Any]
COLOURED, FULL = 2500, 6000  # points of each side that a round looks at with colours, and at the end
# of a pose that fits as well as the best: its cost at most so many times that one's, and this more
TIE, NOISE = 1.25, 0.02
# poses whose colours are looked at closely, and to the end, and the angle within which they would end at the same
PROMISING, FINALISTS, NEIGHBOURS = 96, 8, np.radians(7.0)
DOUBTFUL = 1.15  # of the least cost, up to which finalists are looked at to the end
# of a mesh of this object: shares of both sides that lie on the other, multiplied, at least; residual at most (2 % noise: 0.01)
FITS, LOOSE = 0.7, 0.014
WIDTH = 0.1  # radii: an error of this size counts half of what it could
CLOSING = (2 * WIDTH, 1.2 * WIDTH, WIDTH, WIDTH, WIDTH, WIDTH)
NEAR = 0.15  # radii between a point of the mesh and the depth, up to which their colours are compared
LEAST = 50  # points whose colours can be compared, that colours say anything
# pixels of the longest side of the pictures that colours are compared on, and by how many they are blurred: for a wide catch, for
# the pose, and for what tells the two ends of a lemon apart
SOFT, SHARP, SPECKLED = (256, 3.0), (256, 1.0), (512, 0.7)


# -- one pose, exactly --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Met:
    """Points of the mesh where a pose puts them (n, 3): all, then again those nearest to each of the depth's; with each goes the
    nearest of the depth. normals: (n, 3) of the depth there; gap: (n,) distance from its plane; apart: (n,) squared distance."""

    points: Array
    normals: Array
    gap: Array
    apart: Array


@dataclass(frozen=True)
class Pair:
    """A mesh's cloud and that of the depth, both with radius one, and their trees."""

    own: Cloud
    other: Cloud
    own_tree: cKDTree
    other_tree: cKDTree

    @staticmethod
    def of(own: Cloud, other: Cloud) -> Pair:
        return Pair(own, other, cKDTree(own.points), cKDTree(other.points))

    def met(self, pose: Similarity) -> Met:
        there, back = pose(self.own.points), pose.inverse()(self.other.points)
        to, of = self.other_tree.query(there)[1], self.own_tree.query(back)[1]
        points = np.concatenate([there, there[of]])
        off = points - np.concatenate([self.other.points[to], self.other.points])
        normals = np.concatenate([self.other.normals[to], self.other.normals])
        return Met(points, normals, (off * normals).sum(axis=1), (off**2).sum(axis=1))


class Pull:
    """The least squares problem of how to turn, grow and move points about a middle (seven unknowns), summed up from errors that
    change by slopes (n, 3) where points (n, 3) move, with weights (n,)."""

    def __init__(self, middle: Array, least: float) -> None:
        self.middle, self.square, self.gradient = middle, np.eye(7) * least, np.zeros(7)

    def add(self, points: Array, slopes: Array, errors: Array, weights: Array) -> None:
        _summed(points, slopes, errors, weights, self.middle, self.square, self.gradient, np.empty(7))

    def moved(self, pose: Similarity) -> Similarity:
        return stepped(pose, -np.linalg.solve(self.square, self.gradient), self.middle)


@kernel
def _summed(points, slopes, errors, weights, middle, square, gradient, row):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        x, y, z = points[i, 0] - middle[0], points[i, 1] - middle[1], points[i, 2] - middle[2]
        u, v, w = slopes[i, 0], slopes[i, 1], slopes[i, 2]
        row[0], row[1], row[2] = y * w - z * v, z * u - x * w, x * v - y * u
        row[3], row[4], row[5], row[6] = u, v, w, x * u + y * v + z * w
        for j in range(7):
            scaled = weights[i] * row[j]
            gradient[j] += scaled * errors[i]
            for k in range(7):
                square[j, k] += scaled * row[k]


def stepped(pose: Similarity, change: Array, middle: Array) -> Similarity:
    turn, growth = Rotation.from_rotvec(change[:3]).as_matrix(), float(np.exp(np.clip(change[6], -0.2, 0.2)))
    step = Similarity(growth, turn, middle + change[3:6] - growth * turn @ middle)
    return step.after(pose)


def closer(pair: Pair, pose: Similarity, widths: tuple[float, ...]) -> tuple[float, Similarity]:
    """Rounds of point-to-plane ICP, one for each width of the error's bound; the pose and its cost, in [0, 1]."""
    for width in widths:
        met = pair.met(pose)
        pull = Pull(pose.shift, 1e-6 * len(met.points))
        pull.add(met.points, met.normals, met.gap, 1 / (1 + met.apart / width**2) ** 2)
        pose = pull.moved(pose)
    return shape_cost(pair, pose), pose


def shape_cost(pair: Pair, pose: Similarity) -> float:
    """How far the two surfaces are apart: 0 not at all, 1 everywhere by much more than WIDTH."""
    apart = pair.met(pose).apart
    return float((apart / (apart + WIDTH**2)).mean())


# -- colours ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """What the views show of some points: colours of the mesh and of the views (n, 3), and how the latter change as the points
    move (n, 3 channels, 3). near: share of the mesh that lies where the depth is."""

    points: Array
    own: Array
    views: Array
    slopes: Array
    near: float


def looks(pair: Pair, pose: Similarity, sights: list[Sight]) -> Looks:
    """Of the mesh's points that lie where the depth is and are turned to a view; by the depth's normals, since a noisy mesh has
    none worth the name."""
    points = pose(pair.own.points)
    distance, nearest = pair.other_tree.query(points, distance_upper_bound=NEAR)
    near = np.isfinite(distance)
    assert pair.own.colours is not None
    points, colours, normals = points[near], pair.own.colours[near], pair.other.normals[nearest[near]]
    parts = []
    for sight in sights:
        seen, views, slopes = sight.look(points, normals, NEAR)
        parts.append((points[seen], colours[seen], views, slopes))
    own_points, own, views, slopes = (np.concatenate([p[k] for p in parts]) for k in range(4))
    return Looks(own_points, own, views, slopes, float(near.mean()))


def toned(look: Looks) -> tuple[Array, float]:
    """How the views' colours differ from the mesh's (n, 3), with the contrast and brightness of each channel of the mesh set to
    those of the views, as most points have them; and the variance of the views' colours."""
    variance = float(look.views.var(axis=0).mean()) + 1e-6
    weight = np.ones((len(look.points), 1))
    for _ in range(3):
        share = weight / weight.sum()
        own, views = (a - (share * a).sum(axis=0) for a in (look.own, look.views))
        gain = (share * own * views).sum(axis=0) / np.maximum((share * own * own).sum(axis=0), 1e-9)
        difference = views - np.clip(gain, 0.0, 2.0) * own
        weight = 1 / (1 + (difference**2).mean(axis=1, keepdims=True) / variance) ** 2
    return difference, variance


def colour_cost(pair: Pair, pose: Similarity, sights: list[Sight]) -> float:
    """What the mesh's colours leave unexplained of the views': 0 all is explained, 1 nothing is. What lies off the depth explains
    nothing; what only the mesh has, or only the views, counts no more than twice what is unlike."""
    look = looks(pair, pose, sights)
    if len(look.points) < LEAST:
        return 1.0
    difference, variance = toned(look)
    square = (difference**2).mean(axis=1)
    return 1 - look.near + look.near * float((square / (square + variance)).mean() * 2)


def together(pair: Pair, pose: Similarity, sights: list[Sight], rounds: int, exact: bool = False) -> Similarity:
    """Rounds in which surfaces and colours pull, each by how far it is off as a whole (its median absolute deviation). exact: the
    views' own depth pulls too, and of the colours only what fits already."""
    for _ in range(rounds):
        look = looks(pair, pose, sights)
        met = pair.met(pose)
        pull = Pull(pose.shift, 1e-6 * len(met.points))
        pull.add(met.points, met.normals, met.gap, trusted(met.gap) / (1 + met.apart / NEAR**2) ** 2)
        if exact:
            points, normals, gap = on_depth(pair, pose, sights)
            pull.add(points, normals, gap, trusted(gap))
        if len(look.points) >= LEAST:
            difference, variance = toned(look)
            for k, error in enumerate(difference.T):
                pull.add(look.points, look.slopes[:, k], error, trusted(error, 0.0 if exact else np.sqrt(variance)))
        pose = pull.moved(pose)
    return pose


def on_depth(pair: Pair, pose: Similarity, sights: list[Sight]) -> tuple[Array, Array, Array]:
    """Points of the mesh (n, 3) where views have depth, its normals there (n, 3) and how far they are from it (n,)."""
    points, parts = pose(pair.own.points), []
    for sight in sights:
        known, gap, normals = sight.behind(points, NEAR)
        parts.append((points[known], normals, gap))
    points, normals, gap = (np.concatenate([p[k] for p in parts]) for k in range(3))
    return points, normals, gap


def trusted(errors: Array, usual: float = 0.0) -> Array:
    """The weights of errors (n,), by how far they are off as a whole: small for those that are off by much more, and by more than
    is usual. (Where most of a picture is even, most errors are small, and an edge that is off must not count for nothing.)"""
    deviation = 1.4826 * float(np.median(np.abs(errors))) + 1e-5
    return np.asarray(1 / (1 + (errors / max(3 * deviation, usual)) ** 2) ** 2 / deviation**2)


# -- all of it ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """pose: from the mesh's frame to the views'. residual: median distance across the surface, as a share of the diagonal of what
    the views show; explained: share of the mesh that lies on that; covered: share of that which the mesh lies on; colour: what
    the mesh's colours leave unexplained of the views', 1 where it has none; margin: how much worse the best other pose is, 0 as
    good, by colours where shapes tie."""

    pose: Similarity
    residual: float
    explained: float
    covered: float
    colour: float
    margin: float

    @property
    def fits(self) -> bool:
        return self.explained * self.covered >= FITS and self.residual <= LOOSE


def register(own: Cloud, sights: list[Sight]) -> Registration:
    """Lays a mesh's cloud, with colours or without, on what the views show."""
    shown = of_sights(sights, FULL)
    to_unit, of_unit = onto_unit(own), onto_unit(shown)
    mesh, depth = moved(own, to_unit), moved(shown, of_unit)
    pictures = parallel_map(lambda s: _prepared(s, of_unit), sights)
    soft, sharp, speckled = (list(each) for each in zip(*pictures, strict=True))
    tied = by_shape(mesh, depth)
    coloured = mesh.colours is not None
    if coloured:
        tied = by_colours(mesh, depth, [p for _, p in tied], soft)
    full = Pair.of(mesh.some(FULL, 2), depth)
    close = [p for cost, p in tied if cost <= DOUBTFUL * tied[0][0]][: FINALISTS // 2]
    ends = fitting(parallel_map(lambda p: _last(full, p, sharp, speckled), close))
    last = distinct([(colour_cost(full, p, speckled) if coloured else cost, p) for cost, p in ends])
    pose = last[0][1]
    costs = sorted(cost for cost, _ in last + tied[len(close) :])
    margin = 1 - costs[0] / costs[1] if len(costs) > 1 else 1.0
    return _verdict(full, pose, speckled, margin, of_unit.inverse().after(pose).after(to_unit))


def by_shape(mesh: Cloud, depth: Cloud) -> list[tuple[float, Similarity]]:
    """Costs and poses, all in which the shapes fit about as well as in the best, which comes first."""
    pair = Pair.of(mesh.some(CLOSE), depth.some(CLOSE))
    return fitting(distinct(parallel_map(lambda p: closer(pair, p[1], CLOSING[:3]), found(mesh, depth))))


def fitting(fits: list[tuple[float, Similarity]]) -> list[tuple[float, Similarity]]:
    """Those of costs and poses in which the shapes fit about as well as in the best."""
    least = min(cost for cost, _ in fits)
    return [f for f in fits if f[0] <= TIE * least + NOISE]


def by_colours(
    mesh: Cloud, depth: Cloud, options: list[Similarity], soft: list[Sight]
) -> list[tuple[float, Similarity]]:
    """Costs and poses by colours of such poses, and of what is round in all ways it may be turned; the best first."""
    few, many = (Pair.of(mesh.some(n), depth.some(n)) for n in (MIDDLE, COLOURED))
    axis = round_axis(depth)
    if axis.any():
        bases = parallel_map(lambda p: closer(many, p, CLOSING)[1], (options[0], over(axis, options[0])))
        options = options + swept(axis, bases)
    rough = sorted(parallel_map(lambda p: (colour_cost(few, p, soft), p), options), key=lambda f: f[0])
    seen = parallel_map(lambda f: (colour_cost(many, f[1], soft), f[1]), rough[:PROMISING])
    best = apart(seen, lambda p, q: angle(p.rotation, q.rotation) < NEIGHBOURS, FINALISTS)
    poses = parallel_map(lambda f: together(many, f[1], soft, 8), best)
    return distinct(parallel_map(lambda p: (colour_cost(many, p, soft), p), poses))


def _last(pair: Pair, pose: Similarity, sharp: list[Sight], speckled: list[Sight]) -> tuple[float, Similarity]:
    """The pose to the end, and how badly the shapes fit there, which tells more than it did before."""
    if pair.own.colours is None:
        return closer(pair, pose, CLOSING)
    pose = together(pair, together(pair, pose, sharp, 8), speckled, 8, exact=True)
    return shape_cost(pair, pose), pose


def _verdict(pair: Pair, pose: Similarity, sights: list[Sight], margin: float, whole: Similarity) -> Registration:
    there, back = pose(pair.own.points), pose.inverse()(pair.other.points)
    to, far = pair.other_tree.query(there)[1], pair.own_tree.query(back)[0]
    across = ((there - pair.other.points[to]) * pair.other.normals[to]).sum(axis=1)
    diagonal = float(np.linalg.norm(np.ptp(pair.other.points, axis=0)))
    near = np.linalg.norm(there - pair.other.points[to], axis=1) < NEAR
    return Registration(
        whole,
        residual=float(np.median(np.abs(across))) / diagonal,
        explained=float(near.mean()),
        covered=float((far * pose.scale < NEAR).mean()),
        colour=1.0 if pair.own.colours is None else colour_cost(pair, pose, sights),
        margin=margin,
    )


def _prepared(sight: Sight, to: Similarity) -> tuple[Sight, Sight, Sight]:
    """A view in the frame of radius one, SOFT, SHARP and SPECKLED."""
    pose = sight.camera.camera_to_world.copy()
    pose[:3, 3] = to(pose[:3, 3])
    camera = replace(sight.camera, camera_to_world=pose)
    whole = Sight(camera, sight.depth * to.scale, filled(sight.colour, sight.depth > 0))
    return _blurred(whole, *SOFT), _blurred(whole, *SHARP), _blurred(whole, *SPECKLED)


def _blurred(sight: Sight, side: int, blur: float) -> Sight:
    """A view made smaller, and its colours blurred, beyond the outline too."""
    step = max(1, max(sight.depth.shape) // side)
    return replace(sight, colour=gaussian_filter(sight.colour, (blur * step, blur * step, 0))).thinned(step)
