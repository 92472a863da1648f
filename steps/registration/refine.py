"""Registration of any mesh to the six views: the similarity transform that lays it on their depth.

First all rotations by batched ICP (Besl and McKay 1992, scaled by Umeyama 1991) against grids of nearest points; then the
best by point-to-plane ICP with all points; then, since symmetric shapes fit in several poses, by the views' colours, which
also fix the rotation of a solid of revolution about its axis. Correspondences go both ways, mesh to depth and back, so that
neither a shrunken nor an enlarged mesh fits well. The loss is Geman and McClure's, so that parts that only one of the two
has do not bias the pose. Reflections are never tried: a mirrored model is another object.

Own code, since trimesh and Open3D find a scale point to point only, and Open3D's ICP with colours is rigid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from steps.compute.arrays import Array
from steps.compute.kernels import kernel, parallel_map
from steps.geometry.image_ops import inpaint
from steps.registration.global_icp import (
    FINE,
    MIDDLE,
    Similarity,
    angle,
    flipped,
    global_poses,
    greedy_suppression,
    rotated_about,
    symmetry_axis,
    transform,
    unit_normalization,
    without_duplicates,
)
from steps.registration.pointcloud import PointCloud, RegistrationView, pointcloud_of_views

COLOUR_POINTS, FULL_POINTS = 2500, 6000  # points of each side that a round looks at with colours, and at the end
# a pose ties with the best up to so many times its cost, plus this
TIE, NOISE = 1.25, 0.02
# poses refined by colour, and refined fully, and the angle within which two would converge to the same
N_PROMISING, N_FINALISTS, NEIGHBOUR_ANGLE = 96, 8, np.radians(7.0)
FINALIST_COST = 1.15  # of the least cost, up to which candidates are refined fully
# of a mesh of this object: least product of precision and recall; largest residual (2 % noise: 0.01)
LEAST_OVERLAP, MAX_RESIDUAL = 0.7, 0.014
WIDTH = 0.1  # radii: scale of the loss
ICP_WIDTHS = (2 * WIDTH, 1.2 * WIDTH, WIDTH, WIDTH, WIDTH, WIDTH)
MAX_COLOUR_DISTANCE = 0.15  # radii between a point of the mesh and the depth, up to which their colours are compared
LEAST_COLOUR_POINTS = 50  # points whose colours can be compared, that colours say anything
# pixels of the longest side of the pictures that colours are compared on, and by how many they are blurred: for a wide catch, for
# the pose, and for what tells the two ends of a lemon apart
SOFT, SHARP, SPECKLED = (256, 3.0), (256, 1.0), (512, 0.7)


# -- one pose, exactly --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correspondences:
    """Nearest-neighbour correspondences of a pose, both ways: transformed points of the mesh (n, 3), first all, then again the
    nearest to each depth point. normals: (n, 3), of the depth there; residual: (n,), point-to-plane distance;
    squared_distance: (n,)."""

    points: Array
    normals: Array
    residual: Array
    squared_distance: Array


@dataclass(frozen=True)
class Pair:
    """Point clouds of the mesh (source) and of the depth (target), both of radius one, with their k-d trees."""

    source: PointCloud
    target: PointCloud
    source_tree: cKDTree
    target_tree: cKDTree

    @staticmethod
    def of(source: PointCloud, target: PointCloud) -> Pair:
        return Pair(source, target, cKDTree(source.points), cKDTree(target.points))

    def correspondences(self, pose: Similarity) -> Correspondences:
        forward, backward = pose(self.source.points), pose.inverse()(self.target.points)
        nearest_target, nearest_source = self.target_tree.query(forward)[1], self.source_tree.query(backward)[1]
        points = np.concatenate([forward, forward[nearest_source]])
        difference = points - np.concatenate([self.target.points[nearest_target], self.target.points])
        normals = np.concatenate([self.target.normals[nearest_target], self.target.normals])
        return Correspondences(points, normals, (difference * normals).sum(axis=1), (difference**2).sum(axis=1))


class NormalEquations:
    """Gauss-Newton normal equations for rotation, translation and scale about a centre (7 unknowns), accumulated from residuals
    (n,) with gradients `slopes` (n, 3) by points (n, 3) and weights (n,)."""

    def __init__(self, middle: Array, least: float) -> None:
        self.middle, self.matrix, self.gradient = middle, np.eye(7) * least, np.zeros(7)

    def add(self, points: Array, slopes: Array, errors: Array, weights: Array) -> None:
        _accumulate(points, slopes, errors, weights, self.middle, self.matrix, self.gradient, np.empty(7))

    def solve(self, pose: Similarity) -> Similarity:
        return apply_update(pose, -np.linalg.solve(self.matrix, self.gradient), self.middle)


@kernel
def _accumulate(points, slopes, errors, weights, middle, matrix, gradient, row):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        x, y, z = points[i, 0] - middle[0], points[i, 1] - middle[1], points[i, 2] - middle[2]
        u, v, w = slopes[i, 0], slopes[i, 1], slopes[i, 2]
        row[0], row[1], row[2] = y * w - z * v, z * u - x * w, x * v - y * u
        row[3], row[4], row[5], row[6] = u, v, w, x * u + y * v + z * w
        for j in range(7):
            scaled = weights[i] * row[j]
            gradient[j] += scaled * errors[i]
            for k in range(7):
                matrix[j, k] += scaled * row[k]


def apply_update(pose: Similarity, change: Array, middle: Array) -> Similarity:
    turn, growth = Rotation.from_rotvec(change[:3]).as_matrix(), float(np.exp(np.clip(change[6], -0.2, 0.2)))
    step = Similarity(growth, turn, middle + change[3:6] - growth * turn @ middle)
    return step.after(pose)


def point_to_plane_equations(correspondences: Correspondences, pose: Similarity, weights: Array) -> NormalEquations:
    """The normal equations of the point-to-plane distances under these weights (n,), about the pose's position."""
    equations = NormalEquations(pose.shift, 1e-6 * len(correspondences.points))
    equations.add(correspondences.points, correspondences.normals, correspondences.residual, weights)
    return equations


def point_to_plane_icp(pair: Pair, pose: Similarity, widths: tuple[float, ...]) -> tuple[float, Similarity]:
    """Point-to-plane ICP, one round for each width of the robust loss. Returns cost, in [0, 1], and pose."""
    for width in widths:
        correspondences = pair.correspondences(pose)
        weights = 1 / (1 + correspondences.squared_distance / width**2) ** 2
        pose = point_to_plane_equations(correspondences, pose, weights).solve(pose)
    return shape_cost(pair, pose), pose


def shape_cost(pair: Pair, pose: Similarity) -> float:
    """Robust mean distance between the two surfaces: 0 for none, 1 for much more than WIDTH everywhere."""
    squared_distance = pair.correspondences(pose).squared_distance
    return float((squared_distance / (squared_distance + WIDTH**2)).mean())


# -- colours ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColourSamples:
    """Colours at points of the mesh that views see: the mesh's and the views' (n, 3), and the latter's jacobian by the point
    (n, 3 channels, 3). near: share of the mesh's points that lie on the depth."""

    points: Array
    mesh_colours: Array
    view_colours: Array
    slopes: Array
    near: float


def colour_samples(pair: Pair, pose: Similarity, registration_views: list[RegistrationView]) -> ColourSamples:
    """Of the mesh's points on the depth that face a view; by the depth's normals, since those of a noisy mesh are unreliable."""
    points = pose(pair.source.points)
    distance, nearest = pair.target_tree.query(points, distance_upper_bound=MAX_COLOUR_DISTANCE)
    near = np.isfinite(distance)
    assert pair.source.colours is not None
    points, colours, normals = points[near], pair.source.colours[near], pair.target.normals[nearest[near]]
    parts = []
    for view in registration_views:
        seen, views, slopes = view.sample_colours(points, normals, MAX_COLOUR_DISTANCE)
        parts.append((points[seen], colours[seen], views, slopes))
    sampled_points, mesh_colours, views, slopes = (np.concatenate([p[k] for p in parts]) for k in range(4))
    return ColourSamples(sampled_points, mesh_colours, views, slopes, float(near.mean()))


def colour_residuals(samples: ColourSamples) -> tuple[Array, float]:
    """Differences (n, 3) between the views' and the mesh's colours after a robust fit of gain and offset per channel; and the
    variance of the views' colours."""
    variance = float(samples.view_colours.var(axis=0).mean()) + 1e-6
    weight = np.ones((len(samples.points), 1))
    for _ in range(3):
        normalized_weight = weight / weight.sum()
        mesh_colours, view_colours = (
            a - (normalized_weight * a).sum(axis=0) for a in (samples.mesh_colours, samples.view_colours)
        )
        gain = (normalized_weight * mesh_colours * view_colours).sum(axis=0) / np.maximum(
            (normalized_weight * mesh_colours * mesh_colours).sum(axis=0), 1e-9
        )
        difference = view_colours - np.clip(gain, 0.0, 2.0) * mesh_colours
        weight = 1 / (1 + (difference**2).mean(axis=1, keepdims=True) / variance) ** 2
    return difference, variance


def colour_cost(pair: Pair, pose: Similarity, views: list[RegistrationView]) -> float:
    """Unexplained colour variance: 0 none, 1 all. Points off the depth count as unexplained; a robust loss bounds the cost of
    parts that only one side has."""
    samples = colour_samples(pair, pose, views)
    if len(samples.points) < LEAST_COLOUR_POINTS:
        return 1.0
    difference, variance = colour_residuals(samples)
    square = (difference**2).mean(axis=1)
    return 1 - samples.near + samples.near * float((square / (square + variance)).mean() * 2)


def colored_icp(
    pair: Pair, pose: Similarity, views: list[RegistrationView], rounds: int, exact: bool = False
) -> Similarity:
    """ICP by geometry and colour jointly (cf. Park et al., "Colored point cloud registration
    revisited", 2017), each weighted by its
    median absolute deviation. exact: also point-to-plane distances to the views' full depth, and only colours that fit
    already."""
    for _ in range(rounds):
        samples = colour_samples(pair, pose, views)
        correspondences = pair.correspondences(pose)
        weights = (
            robust_weights(correspondences.residual)
            / (1 + correspondences.squared_distance / MAX_COLOUR_DISTANCE**2) ** 2
        )
        equations = point_to_plane_equations(correspondences, pose, weights)
        if exact:
            points, normals, gap = depth_correspondences(pair, pose, views)
            equations.add(points, normals, gap, robust_weights(gap))
        if len(samples.points) >= LEAST_COLOUR_POINTS:
            difference, variance = colour_residuals(samples)
            for k, error in enumerate(difference.T):
                equations.add(
                    samples.points,
                    samples.slopes[:, k],
                    error,
                    robust_weights(error, 0.0 if exact else np.sqrt(variance)),
                )
        pose = equations.solve(pose)
    return pose


def depth_correspondences(pair: Pair, pose: Similarity, views: list[RegistrationView]) -> tuple[Array, Array, Array]:
    """Points of the mesh (n, 3) at the views' depth, the depth's normals there (n, 3) and point-to-plane distances (n,)."""
    points, parts = pose(pair.source.points), []
    for view in views:
        known, distances, normals = view.point_to_plane(points, MAX_COLOUR_DISTANCE)
        parts.append((points[known], normals, distances))
    points, normals, distances = (np.concatenate([p[k] for p in parts]) for k in range(3))
    return points, normals, distances


def robust_weights(errors: Array, least_scale: float = 0.0) -> Array:
    """Robust weights of errors (n,), scaled by their median absolute deviation, at least `least_scale`: where most of a picture
    is uniform, most errors are small, and a misaligned edge must still count."""
    deviation = 1.4826 * float(np.median(np.abs(errors))) + 1e-5
    return np.asarray(1 / (1 + (errors / max(3 * deviation, least_scale)) ** 2) ** 2 / deviation**2)


# -- all of it ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """pose: from the mesh's frame to the views'; residual: median point-to-plane distance, in diagonals of the depth points;
    precision: share of the mesh that lies on the depth; recall: share of the depth that lies on the mesh; colour:
    unexplained colour variance, 1 where the mesh has no colours; margin: relative cost gap to the best other pose, by colour
    where shapes tie."""

    pose: Similarity
    residual: float
    precision: float
    recall: float
    colour: float
    margin: float

    @property
    def fits(self) -> bool:
        return self.precision * self.recall >= LEAST_OVERLAP and self.residual <= MAX_RESIDUAL


def register(source: PointCloud, views: list[RegistrationView]) -> Registration:
    """Registers a mesh's point cloud, with colours or without, to the views."""
    target = pointcloud_of_views(views, FULL_POINTS)
    to_unit, of_unit = unit_normalization(source), unit_normalization(target)
    mesh, depth = transform(source, to_unit), transform(target, of_unit)
    pictures = parallel_map(lambda s: _blurred_copies(s, of_unit), views)
    soft, sharp, speckled = (list(each) for each in zip(*pictures, strict=True))
    candidates = by_shape(mesh, depth)
    coloured = mesh.colours is not None
    if coloured:
        candidates = by_colours(mesh, depth, [p for _, p in candidates], soft)
    pair = Pair.of(mesh.subsample(FULL_POINTS, 2), depth)
    promising = [p for cost, p in candidates if cost <= FINALIST_COST * candidates[0][0]][: N_FINALISTS // 2]
    refined = tied_with_best(parallel_map(lambda p: _refine_fully(pair, p, sharp, speckled), promising))
    finalists = without_duplicates([(colour_cost(pair, p, speckled) if coloured else cost, p) for cost, p in refined])
    pose = finalists[0][1]
    costs = sorted(cost for cost, _ in finalists + candidates[len(promising) :])
    margin = 1 - costs[0] / costs[1] if len(costs) > 1 else 1.0
    return _evaluate(pair, pose, speckled, margin, of_unit.inverse().after(pose).after(to_unit))


def by_shape(mesh: PointCloud, depth: PointCloud) -> list[tuple[float, Similarity]]:
    """(cost, pose) of all poses that tie with the best by shape, sorted."""
    pair = Pair.of(mesh.subsample(FINE), depth.subsample(FINE))
    return tied_with_best(
        without_duplicates(
            parallel_map(lambda p: point_to_plane_icp(pair, p[1], ICP_WIDTHS[:3]), global_poses(mesh, depth))
        )
    )


def tied_with_best(fits: list[tuple[float, Similarity]]) -> list[tuple[float, Similarity]]:
    """Those whose cost ties with the lowest."""
    least = min(cost for cost, _ in fits)
    return [f for f in fits if f[0] <= TIE * least + NOISE]


def by_colours(
    mesh: PointCloud, depth: PointCloud, options: list[Similarity], soft: list[RegistrationView]
) -> list[tuple[float, Similarity]]:
    """(cost, pose) sorted by colour cost, of these poses and, for a solid of revolution, of all rotations about its axis."""
    coarse, fine = (Pair.of(mesh.subsample(n), depth.subsample(n)) for n in (MIDDLE, COLOUR_POINTS))
    axis = symmetry_axis(depth)
    if axis.any():
        bases = parallel_map(
            lambda p: point_to_plane_icp(fine, p, ICP_WIDTHS)[1], (options[0], flipped(axis, options[0]))
        )
        options = options + rotated_about(axis, bases)
    rough = sorted(parallel_map(lambda p: (colour_cost(coarse, p, soft), p), options), key=lambda f: f[0])
    scored = parallel_map(lambda f: (colour_cost(fine, f[1], soft), f[1]), rough[:N_PROMISING])
    best = greedy_suppression(scored, lambda p, q: angle(p.rotation, q.rotation) < NEIGHBOUR_ANGLE, N_FINALISTS)
    poses = parallel_map(lambda f: colored_icp(fine, f[1], soft, 8), best)
    return without_duplicates(parallel_map(lambda p: (colour_cost(fine, p, soft), p), poses))


def _refine_fully(
    pair: Pair, pose: Similarity, sharp: list[RegistrationView], speckled: list[RegistrationView]
) -> tuple[float, Similarity]:
    """The fully refined pose and its shape cost."""
    if pair.source.colours is None:
        return point_to_plane_icp(pair, pose, ICP_WIDTHS)
    pose = colored_icp(pair, colored_icp(pair, pose, sharp, 8), speckled, 8, exact=True)
    return shape_cost(pair, pose), pose


def _evaluate(
    pair: Pair, pose: Similarity, views: list[RegistrationView], margin: float, full_transform: Similarity
) -> Registration:
    forward, backward = pose(pair.source.points), pose.inverse()(pair.target.points)
    nearest_target, distances_back = pair.target_tree.query(forward)[1], pair.source_tree.query(backward)[0]
    residuals = ((forward - pair.target.points[nearest_target]) * pair.target.normals[nearest_target]).sum(axis=1)
    diagonal = float(np.linalg.norm(np.ptp(pair.target.points, axis=0)))
    near = np.linalg.norm(forward - pair.target.points[nearest_target], axis=1) < MAX_COLOUR_DISTANCE
    return Registration(
        full_transform,
        residual=float(np.median(np.abs(residuals))) / diagonal,
        precision=float(near.mean()),
        recall=float((distances_back * pose.scale < MAX_COLOUR_DISTANCE).mean()),
        colour=1.0 if pair.source.colours is None else colour_cost(pair, pose, views),
        margin=margin,
    )


def _blurred_copies(
    view: RegistrationView, to: Similarity
) -> tuple[RegistrationView, RegistrationView, RegistrationView]:
    """A view in the normalized frame, at the three levels SOFT, SHARP and SPECKLED."""
    pose = view.camera.camera_to_world.copy()
    pose[:3, 3] = to(pose[:3, 3])
    camera = replace(view.camera, camera_to_world=pose)
    whole = RegistrationView(camera, view.depth * to.scale, inpaint(view.colour, view.depth > 0))
    return _blurred(whole, *SOFT), _blurred(whole, *SHARP), _blurred(whole, *SPECKLED)


def _blurred(view: RegistrationView, side: int, blur: float) -> RegistrationView:
    """A view subsampled, its colours blurred, extended beyond the outline."""
    step = max(1, max(view.depth.shape) // side)
    return replace(view, colour=gaussian_filter(view.colour, (blur * step, blur * step, 0))).subsampled(step)
