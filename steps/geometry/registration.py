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
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from steps.geometry.clouds import Cloud, Sight, of_sights
from steps.geometry.images import filled
from steps.geometry.kernels import parallel_map

Array = NDArray[Any]
ROTATIONS = 960  # to begin from: no rotation is further than about 17 degrees from one of them
COARSE, MIDDLE, CLOSE, COLOURED, FULL = 160, 700, 1500, 2500, 6000  # points of each side that a round looks at
KEPT = 48  # of the rotations are looked at more closely
CELLS = 72  # to a side of the grids of nearest points
REACH = 2.0  # of these grids around the middle, in radii
SAME = np.radians(3.0), 0.03  # rotation and shift, in radii, by which two poses are one
# of a pose that fits as well as the best: its cost at most so many times that one's, and this more
TIE, NOISE = 1.25, 0.02
# radii by which what is round may lie beside itself when it is turned (a part of it is the distance of two points), and the steps
# in which it is turned
ROUND, SWEEP = 0.04, np.radians(3.0)
APART = np.radians(16.0)  # between two of the poses that are kept
FINALISTS, NEIGHBOURS = 8, np.radians(7.0)
DOUBTFUL = 1.15  # of the least cost, up to which finalists are looked at to the end
FITS = 0.7  # of the shares of both sides that lie on the other, multiplied, from which a mesh is one of this object
WIDTH = 0.1  # radii: an error of this size counts half of what it could
NEAR = 0.15  # radii between a point of the mesh and the depth, up to which their colours are compared
LEAST = 50  # points whose colours can be compared, that colours say anything
# pixels of the longest side of the pictures that colours are compared on, and by how many they are blurred: for a wide catch, for
# the pose, and for what tells the two ends of a lemon apart
SOFT, SHARP, SPECKLED = (256, 3.0), (256, 1.0), (512, 0.7)


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: Array
    shift: Array

    def __call__(self, points: Array) -> Array:
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    def turned(self, normals: Array) -> Array:
        return np.asarray(normals @ self.rotation.T)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.shift) / self.scale)

    def after(self, first: Similarity) -> Similarity:
        """This one after another."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self(first.shift))


def onto_unit(cloud: Cloud) -> Similarity:
    """What puts a cloud's middle to the origin and its radius, the root of the mean squared distance, to one."""
    middle = cloud.points.mean(axis=0)
    radius = float(np.sqrt(((cloud.points - middle) ** 2).sum(axis=1).mean()))
    return Similarity(1 / radius, np.eye(3), -middle / radius)


def moved(cloud: Cloud, pose: Similarity) -> Cloud:
    return Cloud(pose(cloud.points), pose.turned(cloud.normals), cloud.colours)


# -- all rotations ------------------------------------------------------------------------------------------------------


def rotations(count: int) -> Array:
    """(count, 3, 3), spread evenly (Alexa, Super-Fibonacci spirals, CVPR 2022)."""
    s = np.arange(count) + 0.5
    near, far = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = (2 * np.pi * s / ratio for ratio in (np.sqrt(2), 1.533751168755204288118041))
    quaternions = np.stack([near * np.sin(a), near * np.cos(a), far * np.sin(b), far * np.cos(b)], axis=1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


class Nearest:
    """The point of a cloud of radius one nearest to anywhere, to within a cell."""

    def __init__(self, points: Array) -> None:
        self.points = np.asarray(points, np.float32)
        cells = self._cell(self.points)
        owner = np.zeros((CELLS,) * 3, np.int32)
        owner[tuple(cells.T)] = np.arange(len(points))
        empty = np.ones((CELLS,) * 3, bool)
        empty[tuple(cells.T)] = False
        at = distance_transform_edt(empty, return_distances=False, return_indices=True)
        self.owner = owner[tuple(at)]

    def _cell(self, points: Array) -> Array:
        return np.clip((points + REACH) * (CELLS / (2 * REACH)), 0, CELLS - 1).astype(np.int32)

    def __call__(self, points: Array) -> Array:
        """(..., 3) -> the indices (...) of the nearest points."""
        c = self._cell(points)
        return np.asarray(self.owner[c[..., 0], c[..., 1], c[..., 2]])


@dataclass(frozen=True)
class Poses:
    """Many similarity transforms. scale: (p,); rotation: (p, 3, 3); shift: (p, 3)."""

    scale: Array
    rotation: Array
    shift: Array

    def one(self, index: int) -> Similarity:
        return Similarity(
            float(self.scale[index]), self.rotation[index].astype(np.float64), self.shift[index].astype(np.float64)
        )

    def some(self, chosen: Array) -> Poses:
        return Poses(self.scale[chosen], self.rotation[chosen], self.shift[chosen])


def pursued(
    own: Cloud, other: Cloud, grids: tuple[Nearest, Nearest], poses: Poses, widths: tuple[float, ...]
) -> tuple[Poses, Array]:
    """Rounds of scaled ICP for all poses at once, one for each width of the error's bound; and each pose's cost in [0, 1]."""
    a, b = own.points.astype(np.float32), other.points.astype(np.float32)
    for width in (*widths, widths[-1]):
        s, r, t = poses.scale, poses.rotation, poses.shift
        there = s[:, None, None] * (a @ r.transpose(0, 2, 1)) + t[:, None]
        back = (b[None] - t[:, None]) @ r / s[:, None, None]
        to, source = grids[1].points[grids[1](there)], grids[0].points[grids[0](back)]
        x = np.concatenate([np.broadcast_to(a, there.shape), source], axis=1)
        y = np.concatenate([to, np.broadcast_to(b, back.shape)], axis=1)
        moved_there = s[:, None, None] * (source @ r.transpose(0, 2, 1)) + t[:, None]
        apart = np.concatenate([((there - to) ** 2).sum(axis=2), ((moved_there - b) ** 2).sum(axis=2)], axis=1)
        cost = (apart / (apart + width**2)).mean(axis=1)
        last, poses = poses, fitted(x, y, 1 / (1 + apart / width**2) ** 2)
    return last, cost


def fitted(x: Array, y: Array, weight: Array) -> Poses:
    """The similarity transforms that take points x (p, n, 3) closest to y, by weights (p, n)."""
    w = weight / weight.sum(axis=1, keepdims=True)
    mx, my = (np.einsum("pn,pni->pi", w, v) for v in (x, y))
    dx, dy = x - mx[:, None], y - my[:, None]
    u, d, vt = np.linalg.svd(np.einsum("pn,pni,pnj->pij", w, dy, dx).astype(np.float64))
    sign = np.ones_like(d)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    r = (u * sign[:, None]) @ vt
    s = np.clip((d * sign).sum(axis=1) / np.einsum("pn,pni,pni->p", w, dx, dx), 0.3, 3.0)
    t = my - s[:, None] * np.einsum("pij,pj->pi", r, mx)
    return Poses(*(v.astype(np.float32) for v in (s, r, t)))


def found(own: Cloud, other: Cloud) -> list[tuple[float, Similarity]]:
    """Poses that fit, different from each other, best first. Both clouds have radius one."""
    grids = Nearest(own.points), Nearest(other.points)
    start = Poses(
        np.ones(ROTATIONS, np.float32), rotations(ROTATIONS).astype(np.float32), np.zeros((ROTATIONS, 3), np.float32)
    )
    few, more = ((own.some(n, seed), other.some(n, seed)) for n, seed in ((COARSE, 0), (MIDDLE, 1)))
    poses, cost = pursued(*few, grids, start, (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.15, 0.15))
    poses = poses.some(spread(poses, cost, 3 * KEPT))
    poses, cost = pursued(*more, grids, poses, (0.15, 0.12, 0.1, 0.1))
    poses = poses.some(spread(poses, cost, KEPT))
    poses, cost = pursued(*more, grids, poses, (0.1, 0.08, 0.08, 0.06, 0.06, 0.06))
    return distinct([(float(cost[k]), poses.one(int(k))) for k in np.argsort(cost)])


def spread(poses: Poses, cost: Array, count: int) -> Array:
    """The best `count`, none of them APART or less from a better one, so that no way in which a symmetric shape fits is crowded
    out by many neighbours of another."""
    order = np.argsort(cost)
    flat = poses.rotation[order].reshape(-1, 9)
    near = flat @ flat.T > 1 + 2 * np.cos(APART)
    kept: list[int] = []
    for k in range(len(order)):
        if len(kept) < count and not near[k, kept].any():
            kept.append(k)
    return np.asarray(order[kept])


def distinct(fits: list[tuple[float, Similarity]]) -> list[tuple[float, Similarity]]:
    """Without those that are alike to an earlier one."""
    kept: list[tuple[float, Similarity]] = []
    for cost, pose in fits:
        if not any(alike(pose, other) for _, other in kept):
            kept.append((cost, pose))
    return kept


def alike(one: Similarity, other: Similarity) -> bool:
    return angle(one.rotation, other.rotation) < SAME[0] and bool(np.linalg.norm(one.shift - other.shift) < SAME[1])


def angle(one: Array, other: Array) -> float:
    """Between two rotations, in radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1)))


def round_axis(cloud: Cloud) -> Array:
    """The axis about which a cloud of radius one is round, (3,), zero if there is none: one of its principal axes, about which it
    may be turned and stays where it is."""
    tree = cKDTree(cloud.points)
    axes = np.linalg.svd(cloud.points, full_matrices=False)[2]
    turns = [Rotation.from_rotvec(axes * angle).as_matrix() for angle in (0.6, 1.3, 2.0)]
    apart = [max(float(tree.query(cloud.points @ turn[k].T)[0].mean()) for turn in turns) for k in range(3)]
    return np.asarray(axes[int(np.argmin(apart))] if min(apart) < ROUND else np.zeros(3))


def over(axis: Array, pose: Similarity) -> Similarity:
    """The pose with what it places turned upside down, as seen from the axis."""
    across = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    turn = Rotation.from_rotvec(np.pi * across / np.linalg.norm(across)).as_matrix()
    return Similarity(pose.scale, turn @ pose.rotation, turn @ pose.shift)


def swept(axis: Array, bases: list[Similarity]) -> list[Similarity]:
    """The poses turned about the axis, all the way around."""
    turns = Rotation.from_rotvec(axis * np.arange(0, 2 * np.pi, SWEEP)[:, None]).as_matrix()
    return [Similarity(p.scale, turn @ p.rotation, turn @ p.shift) for p in bases for turn in turns]


# -- one pose, exactly --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A mesh's cloud and that of the depth, both with radius one, and their trees; sights: the views in that frame."""

    own: Cloud
    other: Cloud
    own_tree: cKDTree
    other_tree: cKDTree

    @staticmethod
    def of(own: Cloud, other: Cloud) -> Pair:
        return Pair(own, other, cKDTree(own.points), cKDTree(other.points))

    def met(self, pose: Similarity) -> tuple[Array, Array, Array]:
        """Points of the mesh where the pose puts them (n, 3), those of the depth that they lie on and the normals there: the
        nearest to each point of either side."""
        there, back = pose(self.own.points), pose.inverse()(self.other.points)
        to, of = self.other_tree.query(there)[1], self.own_tree.query(back)[1]
        return (
            np.concatenate([there, there[of]]),
            np.concatenate([self.other.points[to], self.other.points]),
            np.concatenate([self.other.normals[to], self.other.normals]),
        )


def rows(points: Array, slopes: Array, middle: Array) -> Array:
    """(n, 7): how something that changes by `slopes` (n, 3) where points (n, 3) move changes as all turn about the middle, move
    and grow."""
    arm = points - middle
    return np.column_stack([np.cross(arm, slopes), slopes, (arm * slopes).sum(axis=1)])


def stepped(pose: Similarity, change: Array, middle: Array) -> Similarity:
    turn, growth = Rotation.from_rotvec(change[:3]).as_matrix(), float(np.exp(np.clip(change[6], -0.2, 0.2)))
    step = Similarity(growth, turn, middle + change[3:6] - growth * turn @ middle)
    return step.after(pose)


def closer(pair: Pair, pose: Similarity) -> tuple[float, Similarity]:
    """Rounds of point-to-plane ICP; the pose and its cost, in [0, 1]."""
    for width in (2 * WIDTH, 1.5 * WIDTH, 1.2 * WIDTH, WIDTH, WIDTH, WIDTH, WIDTH):
        points, on, normals = pair.met(pose)
        gap, apart, middle = ((points - on) * normals).sum(axis=1), ((points - on) ** 2).sum(axis=1), pose.shift
        system = rows(points, normals, middle)
        scaled = system / (1 + apart / width**2)[:, None] ** 2
        change = -np.linalg.solve(scaled.T @ system + 1e-6 * len(system) * np.eye(7), scaled.T @ gap)
        pose = stepped(pose, change, middle)
    points, on, _ = pair.met(pose)
    apart = ((points - on) ** 2).sum(axis=1)
    return float((apart / (apart + WIDTH**2)).mean()), pose


# -- colours ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """What the views show of some points: colours of the mesh and of the views (n, 3), and how the latter change as the points
    move (n, 3 channels, 3)."""

    points: Array
    own: Array
    views: Array
    slopes: Array


def looks(pair: Pair, pose: Similarity, sights: list[Sight]) -> Looks:
    """Of the mesh's points that lie where the depth is and are turned to a view; by the depth's normals, since a noisy mesh has
    none worth the name."""
    points = pose(pair.own.points)
    distance, nearest = pair.other_tree.query(points)
    near = distance < NEAR
    assert pair.own.colours is not None
    points, colours, normals = points[near], pair.own.colours[near], pair.other.normals[nearest[near]]
    parts = []
    for sight in sights:
        seen = sight.seen(points, normals, NEAR)
        if seen.any():
            parts.append((points[seen], colours[seen], *sight.changes(points[seen])))
    if not parts:
        return Looks(*(np.empty((0, 3)),) * 3, np.empty((0, 3, 3)))
    return Looks(*(np.concatenate([p[k] for p in parts]) for k in range(4)))


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
    """What the mesh's colours leave unexplained of the views': 0 all is explained, 1 nothing is. What only the mesh has, or only
    the views, counts no more than twice what is unlike."""
    look = looks(pair, pose, sights)
    if len(look.points) < LEAST:
        return 1.0
    difference, variance = toned(look)
    square = (difference**2).mean(axis=1)
    return float((square / (square + variance)).mean() * 2)


def together(pair: Pair, pose: Similarity, sights: list[Sight], rounds: int) -> Similarity:
    """Rounds in which surfaces and colours pull, each by how far it is off as a whole (its median absolute deviation)."""
    for _ in range(rounds):
        points, on, normals = pair.met(pose)
        gap, apart, middle = ((points - on) * normals).sum(axis=1), ((points - on) ** 2).sum(axis=1), pose.shift
        systems = [(rows(points, normals, middle), gap, 1 / (1 + apart / NEAR**2) ** 2)]
        look = looks(pair, pose, sights)
        if len(look.points) >= LEAST:
            difference = toned(look)[0]
            systems += [(rows(look.points, look.slopes[:, k], middle), difference[:, k], 1.0) for k in range(3)]
        square, gradient = np.eye(7) * 1e-6 * len(points), np.zeros(7)
        for system, error, weight in systems:
            deviation = 1.4826 * float(np.median(np.abs(error))) + 1e-4
            scaled = system * (weight / (1 + (error / (3 * deviation)) ** 2) ** 2 / deviation**2)[:, None]
            square, gradient = square + scaled.T @ system, gradient + scaled.T @ error
        pose = stepped(pose, -np.linalg.solve(square, gradient), middle)
    return pose


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
        return self.explained * self.covered >= FITS


def register(own: Cloud, sights: list[Sight]) -> Registration:
    """Lays a mesh's cloud, with colours or without, on what the views show."""
    shown = of_sights(sights, FULL)
    to_unit, of_unit = onto_unit(own), onto_unit(shown)
    mesh, depth = moved(own, to_unit), moved(shown, of_unit)
    soft, sharp, speckled = ([_prepared(s, of_unit, *how) for s in sights] for how in (SOFT, SHARP, SPECKLED))
    some = Pair.of(mesh.some(CLOSE), depth.some(CLOSE))
    fits = sorted(parallel_map(lambda p: closer(some, p[1]), found(mesh, depth)), key=lambda f: f[0])
    limit = TIE * fits[0][0] + NOISE
    tied = distinct([f for f in fits if f[0] <= limit])
    if mesh.colours is not None:
        options = [p for _, p in tied]
        axis = round_axis(depth)
        if axis.any():
            options += swept(axis, [options[0], closer(some, over(axis, options[0]))[1]])
        many = Pair.of(mesh.some(COLOURED), depth.some(COLOURED))
        seen = parallel_map(lambda p: (colour_cost(many, p, soft), p), options)
        best = finalists(seen)
        poses = parallel_map(lambda p: together(many, p, soft, 8), best)
        tied = distinct(sorted(parallel_map(lambda p: (colour_cost(many, p, soft), p), poses), key=lambda f: f[0]))
    full = Pair.of(mesh.some(FULL, 2), depth)
    close = [p for cost, p in tied if cost <= DOUBTFUL * tied[0][0]][: FINALISTS // 2]
    last = parallel_map(lambda p: _last(full, p, sharp, speckled), close)
    pose = min(last, key=lambda f: f[0])[1]
    costs = sorted([cost for cost, _ in last] + [cost for cost, _ in tied[len(last) :]])
    margin = 1 - costs[0] / costs[1] if len(costs) > 1 else 1.0
    return _verdict(full, pose, speckled, margin, of_unit.inverse().after(pose).after(to_unit))


def finalists(seen: list[tuple[float, Similarity]]) -> list[Similarity]:
    """The best by colours, each turned well away from the better ones, whose neighbours would only end where these do."""
    kept: list[Similarity] = []
    for _, pose in sorted(seen, key=lambda f: f[0]):
        if len(kept) < FINALISTS and all(angle(pose.rotation, other.rotation) > NEIGHBOURS for other in kept):
            kept.append(pose)
    return kept


def _last(pair: Pair, pose: Similarity, sharp: list[Sight], speckled: list[Sight]) -> tuple[float, Similarity]:
    if pair.own.colours is None:
        return closer(pair, pose)
    pose = together(pair, together(pair, pose, sharp, 8), speckled, 3)
    return colour_cost(pair, pose, speckled), pose


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


def _prepared(sight: Sight, to: Similarity, side: int, blur: float) -> Sight:
    """A view in the frame of radius one: smaller, and its colours blurred, beyond the outline too."""
    step = max(1, max(sight.depth.shape) // side)
    colour = filled(sight.colour, sight.depth > 0)
    colour = gaussian_filter(colour, (blur * step, blur * step, 0))[step // 2 :: step, step // 2 :: step]
    depth = sight.depth[step // 2 :: step, step // 2 :: step] * to.scale
    pose = sight.camera.camera_to_world.copy()
    pose[:3, 3] = to(pose[:3, 3])
    camera = replace(sight.camera, camera_to_world=pose).resized(depth.shape[1], depth.shape[0])
    return Sight(camera, depth, colour)
