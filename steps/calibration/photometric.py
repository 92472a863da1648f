"""Photometric evidence for a rig: registration of the views to their depth renders, and colour consistency across views."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import cKDTree

from steps.calibration.observations import Observations
from steps.calibration.rig_model import EncodingModel, to_world
from steps.calibration.rig_residuals import cross_view_projections
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map
from steps.geometry.cameras import Placement
from steps.geometry.image_ops import sample_bilinear

# grids of the alignment, coarse to fine: distance from the outline at which both sides are sampled, largest shift, steps of it
# (half widths), and changes of scale. Far samples give a wide basin; near ones precision
ALIGNMENT_GRIDS = (
    (0.02, 0.1, 11, (-0.04, -0.02, 0.0, 0.02, 0.04)),
    (0.01, 0.02, 7, (-0.02, -0.01, 0.0, 0.01, 0.02)),
    (0.005, 0.01, 7, (-0.008, -0.004, 0.0, 0.004, 0.008)),
    (0.003, 0.004, 5, (-0.004, -0.002, 0.0, 0.002, 0.004)),
)
REFINEMENTS = 3
PROFILE_PIXELS = 6.0  # pixels of the colour profile on each side of the outline
LEAST_CONTRAST = 0.1  # distance in RGB between both sides from which an edge can be located
MAX_CONTRAST = 0.25  # differences from the background are clipped here
LEAST_COSINE = 0.3  # least cosine between normal and viewing ray for a colour to be compared
LEAST_POINTS = 30  # that two views must share for their colours to be compared
SHARED_POINTS = 200  # that all pairs together must share before colours decide anything
RIM_BAND = 0.01, 0.04  # half widths inside an outline between which the colour at the rim is sampled
EDGE_DISTANCE = 0.05  # half widths between rim points of two views, up to which they lie on both sides of one edge
MAX_COLOUR_DIFFERENCE = 0.3  # colour differences are clipped here
MAP_SIDE = 256
BLUR_SIGMA = 2.0  # cells of half a map: standard deviation of the blur before the largest local difference is taken
NORMALIZED_EXTENT = 2.0  # half side of what is compared around the silhouette's centroid, in square roots of its area


def sample_half_widths(image: Array, x: Array, y: Array) -> Array:
    """`image` [H, W, C] or [H, W] at coordinates in half widths, bilinear, clamped to the edge."""
    h, w = image.shape[:2]
    half = max(h, w) / 2
    return sample_bilinear(image, w / 2 + x * half, h / 2 - y * half)


def silhouette_points(distance: Array, count: int = 400) -> tuple[Array, Array]:
    """Points (n, 2) on the zero level of a signed distance map [s, s] and the outward unit normals there, half widths."""
    side = len(distance)
    smooth = gaussian_filter(distance.astype(np.float64), 1.0)
    down, right = np.gradient(smooth)
    rows, columns = np.nonzero(np.abs(distance) < 1.0 / side)
    picked = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    r, c = rows[picked], columns[picked]
    normal = np.stack([right[r, c], -down[r, c]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    points = np.stack([(c + 0.5) * 2 / side - 1, 1 - (r + 0.5) * 2 / side], axis=1)
    return points - normal * distance[r, c, None], normal


def align_to_silhouette(colour: Array, background: Array, distance: Array) -> Placement:
    """Scale and shift that lay the depth's silhouette onto the object in the view: the largest contrast between inside and
    outside. colour: [H, W, 3] in [0, 1]; background: (3,); distance: [s, s], signed distance to the depth's silhouette."""
    points, normal = silhouette_points(distance)
    contrast_map = np.minimum(np.abs(colour - background).max(axis=2), MAX_CONTRAST)
    best = Placement()
    for offset, max_shift, steps, scales in ALIGNMENT_GRIDS:
        around = best
        shifts = np.linspace(-max_shift, max_shift, steps)
        options = [(around.scale + s, around.x + dx, around.y + dy) for s, dx, dy in product(scales, shifts, shifts)]
        scale, dx, dy = (np.array(v)[:, None] for v in zip(*options, strict=True))
        sides = [
            sample_half_widths(
                contrast_map,
                scale * (points[:, 0] + a * normal[:, 0]) + dx,
                scale * (points[:, 1] + a * normal[:, 1]) + dy,
            )
            for a in (-offset, offset)
        ]
        contrast = (sides[0] - sides[1]).mean(axis=1)
        k = int(contrast.argmax())
        best = Placement(*(float(v) for v in options[k]))
    for _ in range(REFINEMENTS):
        best = _refine_placement(colour, points, normal, best)
    return best


def _refine_placement(colour: Array, points: Array, normal: Array, around: Placement) -> Placement:
    """Sub-pixel alignment: edges are located where the colour profile along the normal is half object, half local background,
    which neither shadows nor blur shift. Iteratively reweighted least squares."""
    step = 2 / max(colour.shape[:2])
    offsets = np.arange(-PROFILE_PIXELS, PROFILE_PIXELS + 0.25, 0.5)
    x = around.scale * points[:, :1] + around.x + offsets * step * normal[:, :1]
    y = around.scale * points[:, 1:] + around.y + offsets * step * normal[:, 1:]
    profile = sample_half_widths(colour, x, y)
    inside, outside = profile[:, :4].mean(axis=1), profile[:, -4:].mean(axis=1)
    contrast = inside - outside
    squared_contrast = (contrast**2).sum(axis=1)
    object_fraction = ((profile - outside[:, None]) * contrast[:, None]).sum(axis=2) / np.maximum(
        squared_contrast, 1e-9
    )[:, None]
    offset = (np.clip(object_fraction, 0, 1).sum(axis=1) * 0.5 - PROFILE_PIXELS - 0.25) * step
    system = np.column_stack([(points * normal).sum(axis=1), normal])
    weight = (squared_contrast > LEAST_CONTRAST**2).astype(np.float64)
    if weight.sum() < len(points) / 4:
        return around
    solution = np.zeros(3)
    for _ in range(8):
        scaled = system * weight[:, None]
        solution = np.linalg.lstsq(scaled.T @ system + 1e-9 * np.eye(3), scaled.T @ offset, rcond=None)[0]
        weight = (squared_contrast > LEAST_CONTRAST**2) / (1 + ((offset - system @ solution) / (0.7 * step)) ** 2)
    return Placement(around.scale + float(solution[0]), around.x + float(solution[1]), around.y + float(solution[2]))


def colour_map(colour: Array, placement: Placement) -> Array:
    """[MAP_SIDE, MAP_SIDE, 3]: the view's colours resampled to the depth render's frame."""
    axis = (np.arange(MAP_SIDE) + 0.5) * 2 / MAP_SIDE - 1
    x, y = np.meshgrid(axis, -axis)
    soft = gaussian_filter(colour, (max(colour.shape) / MAP_SIDE / 1.5,) * 2 + (0,))
    return sample_half_widths(soft, placement.scale * x + placement.x, placement.scale * y + placement.y)


@dataclass(frozen=True)
class ColourDifference:
    """Squared colour differences between each view and each other at shared points, lighting removed: total (6, 6), number of
    points count (6, 6)."""

    total: Array
    count: Array

    def mean(self, pairs: Array) -> float:
        """Mean over the pairs (6, 6) bool; nan where these share too few points."""
        count = int(self.count[pairs].sum())
        return float(self.total[pairs].sum()) / count if count >= SHARED_POINTS else float("nan")


def colour_difference(
    observations: Observations, maps: list[Array], axes: Array, encoding: EncodingModel, params: Array
) -> ColourDifference:
    projections, normals = cross_view_projections(observations, axes, encoding, params)
    colours = [
        sample_half_widths(maps[i], observations.points[i, :, 0], observations.points[i, :, 1]) for i in range(6)
    ]
    total, shared = np.zeros((6, 6)), np.zeros((6, 6), int)
    for i, j in product(range(6), range(6)):
        visible = projections[i, j, :, 2] > LEAST_COSINE
        if visible.sum() < LEAST_POINTS:
            continue
        other = sample_half_widths(maps[j], projections[i, j, visible, 0], projections[i, j, visible, 1])
        total[i, j] = _sum_colour_difference(colours[i][visible], other, normals[i, visible])
        shared[i, j] = int(visible.sum())
    return ColourDifference(total, shared)


@dataclass(frozen=True)
class EdgeDifference(ColourDifference):
    """The same at points of two perpendicular views on both sides of the edges between their faces, with the correlation of the
    colours along these, correlations (6, 6). Paint usually continues around an edge, and a box shows in no other way how its
    lid is turned."""

    correlations: Array

    def correlation(self, pairs: Array) -> float:
        """Mean over the pairs (6, 6) bool; nan where these share too few points."""
        count = self.count[pairs]
        return (
            float((self.correlations[pairs] * count).sum()) / count.sum()
            if count.sum() >= SHARED_POINTS
            else float("nan")
        )


def edge_difference(
    observations: Observations, maps: list[Array], axes: Array, encoding: EncodingModel, params: Array
) -> EdgeDifference:
    rim_points = [
        _points_inside_silhouette(v, o)
        for v, o in zip(observations.values, observations.silhouette_distance, strict=True)
    ]
    colours = [sample_half_widths(m, p[:, 0], p[:, 1]) for m, p in zip(maps, rim_points, strict=True)]
    world_points = [to_world(p, axes[i], encoding, params, i) for i, p in enumerate(rim_points)]
    trees = [cKDTree(p[:, :3]) for p in world_points]
    total, shared, correlations = np.zeros((6, 6)), np.zeros((6, 6), int), np.zeros((6, 6))
    for i, j in product(range(6), range(6)):
        if i == j or abs(axes[i, 2] @ axes[j, 2]) > 0.5:
            continue
        distance, nearest = trees[j].query(world_points[i][:, :3], distance_upper_bound=EDGE_DISTANCE)
        near = np.isfinite(distance)
        if near.sum() < LEAST_POINTS:
            continue
        one, other = colours[i][near], colours[j][nearest[near]]
        total[i, j] = _sum_colour_difference(one, other, np.zeros_like(one))
        shared[i, j] = int(near.sum())
        correlations[i, j] = _correlation(one, other)
    return EdgeDifference(total, shared, correlations)


def _correlation(one: Array, other: Array) -> float:
    """Pearson correlation over all channels, each centred on its own mean."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12))


def _points_inside_silhouette(values: Array, outside: Array) -> Array:
    """(n, 5): cells just inside the silhouette in the layout of `Observations.points`, with zero slopes."""
    side = len(values)
    r, c = np.nonzero((values >= 0) & (outside < -RIM_BAND[0]) & (outside > -RIM_BAND[1]))
    flat = np.zeros(len(r))
    return np.stack([(c + 0.5) * 2 / side - 1, 1 - (r + 0.5) * 2 / side, values[r, c], flat, flat], axis=1)


def _sum_colour_difference(one: Array, other: Array, normals: Array) -> float:
    """Sum over all points of squared, clipped colour differences, lighting removed."""
    difference = np.minimum(np.abs(_colour_residuals(one, other, normals)), MAX_COLOUR_DIFFERENCE)
    return float((difference**2).mean(axis=1).sum())


def _colour_residuals(one: Array, other: Array, normals: Array) -> Array:
    """Differences (n, 3) between two views' colours of the same points after the best fitting change of exposure and light
    direction: a factor linear in the normal (n, 3)."""
    light = np.column_stack([np.ones(len(normals)), normals])
    system = (((one + other) / 2)[:, :, None] * light[:, None]).reshape(-1, 4)
    difference = one - other
    normal_matrix = system.T @ system + 1e-3 * len(system) * np.eye(4)
    coefficients = np.linalg.solve(normal_matrix, system.T @ difference.ravel())
    return np.asarray(difference - (system @ coefficients).reshape(difference.shape))


def differing_pairs(one: Array, other: Array) -> Array:
    """(6, 6) bool: pairs of views whose relative pose differs between two rigs (6, 3, 3). Only these can tell the rigs apart."""
    relative_poses = [np.einsum("iab,jcb->ijac", rig, rig) for rig in (one, other)]
    return np.asarray(np.abs(relative_poses[0] - relative_poses[1]).max(axis=(2, 3)) > 1e-6)


@dataclass(frozen=True)
class AppearanceDifference:
    """Mean squared colour difference of the object as two rigs texture it, lighting removed, of the view where it is largest:
    overall, and at the place where it is largest."""

    overall: float
    local: float


def appearance_differences(
    maps: list[Array], masks: list[Array], normals: Array, one: Array, others: list[Array]
) -> list[AppearanceDifference]:
    """Appearance difference between rig `one` and each of `others`, all (6, 3, 3). normals: (6, s, s, 3), world normals of the
    views in `one`. Most pairs of pictures recur in many rigs: each is compared once."""
    pairs_of = [[(v, *_corresponding_view(one, other, v)) for v in range(6)] for other in others]
    pairs = list({pair for pairs in pairs_of for pair in pairs})
    by_pair = dict(
        zip(pairs, parallel_map(lambda p: _appearance_difference(maps, masks, normals, *p), pairs), strict=True)
    )
    return [
        AppearanceDifference(max(by_pair[p].overall for p in pairs), max(by_pair[p].local for p in pairs))
        for pairs in pairs_of
    ]


def _corresponding_view(one: Array, other: Array, v: int) -> tuple[int, tuple[float, ...]]:
    """The view that `other` has in the direction of view v of `one`, and the in-plane rotation between the two, 2 x 2 by rows."""
    u = int(np.argmax(other[:, 2] @ one[v, 2]))
    return u, tuple(float(x) for x in (one[v, :2] @ other[u, :2].T).round(9).ravel())


def _appearance_difference(
    maps: list[Array], masks: list[Array], normals: Array, v: int, u: int, orientation: tuple[float, ...]
) -> AppearanceDifference:
    """Difference between pictures v and u, aligned by silhouette centroid and area."""
    axis = (np.arange(MAP_SIDE // 2) + 0.5) * 4 / MAP_SIDE - 1
    x, y = np.meshgrid(axis, -axis)
    a, inside = _sample_normalized(maps[v], masks[v], x, y)
    b, within = _sample_normalized(
        maps[u], masks[u], x * orientation[0] + y * orientation[2], x * orientation[1] + y * orientation[3]
    )
    both = binary_erosion(inside & within, iterations=2)
    if not both.any():
        return AppearanceDifference(0.0, 0.0)
    mapped_normals = _sample_normalized(normals[v], masks[v], x, y)[0][both]
    difference = np.zeros_like(a)
    difference[both] = _colour_residuals(a[both], b[both], mapped_normals)
    local = (_masked_blur(difference, both)[both] ** 2).mean(axis=1).max()
    return AppearanceDifference(float((difference[both] ** 2).mean()), float(local))


def _masked_blur(image: Array, where: Array) -> Array:
    """[H, W, 3]: Gaussian blur normalized by the mask `where` [H, W], so that single pixels do not count."""
    weight = gaussian_filter(where.astype(np.float64), BLUR_SIGMA)
    layers = [gaussian_filter(np.where(where, image[..., k], 0.0), BLUR_SIGMA) for k in range(3)]
    return np.stack(layers, axis=-1) / np.maximum(weight, 0.3)[..., None]


def _sample_normalized(colours: Array, mask: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Colours around the silhouette's centroid, scaled to equal silhouette area in all views; and which samples lie well
    inside."""
    axis = (np.arange(len(mask)) + 0.5) * 2 / len(mask) - 1
    weights = mask / max(float(mask.sum()), 1e-9)
    middle = float((weights.sum(axis=0) * axis).sum()), -float((weights.sum(axis=1) * axis).sum())
    length = NORMALIZED_EXTENT * float(np.sqrt(mask.mean()))
    at = middle[0] + length * x, middle[1] + length * y
    return sample_half_widths(colours, *at), sample_half_widths(mask, *at) > 0.99
