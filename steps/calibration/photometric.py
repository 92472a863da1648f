"""What the six views' colours say about a rig: first where they lie on the depth renders, then whether views agree where they
see the same surface."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from steps.calibration.solver import Coding, Sights, lifted, transfers
from steps.compute.kernels import parallel_map
from steps.geometry.cameras import Placement

Array = NDArray[Any]
# each round of the placement: half widths from the outline to where colour is taken on both sides of it, how far it shifts, in
# how many steps, and by which scales: far for a wide catch, near since the contrast does not change until the outline is crossed
ROUNDS = (
    (0.02, 0.1, 11, (-0.04, -0.02, 0.0, 0.02, 0.04)),
    (0.01, 0.02, 7, (-0.02, -0.01, 0.0, 0.01, 0.02)),
    (0.005, 0.01, 7, (-0.008, -0.004, 0.0, 0.004, 0.008)),
    (0.003, 0.004, 5, (-0.004, -0.002, 0.0, 0.002, 0.004)),
)
EXACT_ROUNDS = 3
ACROSS = 6.0  # pixels of the view on both sides of the outline
LEAST_CONTRAST = 0.1  # distance in RGB between both sides from which an edge can be placed
STRONG = 0.25  # a difference from the background beyond which more says nothing
FACING = 0.3  # least cosine between normal and sight for a colour to be compared
LEAST = 30  # points that two views must share
SHARED_POINTS = 200  # that all pairs of views must share before their colours decide anything
BESIDE = 0.01, 0.04  # half widths inside an outline where the colour beside it is taken
ACROSS_EDGE = 0.05  # half widths between two such places, up to which they lie on both sides of one edge
DIFFERENT = 0.3  # colour differences count up to this
MAP = 256
PLACE = 2.0  # cells of half a map: the size of what is a place of its own on the object
REACHED = 2.0  # square roots of the outline's area in half widths, of what is compared around its middle


def sampled(image: Array, x: Array, y: Array) -> Array:
    """`image` [H, W, C] (or [H, W]) at coordinates in half widths, bilinear, the edge's value beyond it."""
    h, w = image.shape[:2]
    half = max(h, w) / 2
    places = [h / 2 - y * half - 0.5, w / 2 + x * half - 0.5]
    layers = image[..., None] if image.ndim == 2 else image
    found = [map_coordinates(layers[..., k], places, order=1, mode="nearest") for k in range(layers.shape[2])]
    return found[0] if image.ndim == 2 else np.stack(found, axis=-1)


def outline(distance: Array, count: int = 400) -> tuple[Array, Array]:
    """Points (n, 2) of the zero level of a signed distance map [s, s] and the outward normals there, in half widths."""
    side = len(distance)
    smooth = gaussian_filter(distance.astype(np.float64), 1.0)
    down, right = np.gradient(smooth)
    rows, columns = np.nonzero(np.abs(distance) < 1.0 / side)
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    r, c = rows[chosen], columns[chosen]
    normal = np.stack([right[r, c], -down[r, c]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    points = np.stack([(c + 0.5) * 2 / side - 1, 1 - (r + 0.5) * 2 / side], axis=1)
    return points - normal * distance[r, c, None], normal


def placed(colour: Array, background: Array, distance: Array) -> Placement:
    """Finds the depth's outline in the view: shifts and scales it to where inside differs most from the background and outside
    least. colour: [H, W, 3] in [0, 1]; background: (3,); distance: [s, s] signed, of the depth's outline."""
    points, normal = outline(distance)
    strange = np.minimum(np.abs(colour - background).max(axis=2), STRONG)
    best = Placement()
    for inward, reach, steps, scales in ROUNDS:
        around = best
        shifts = np.linspace(-reach, reach, steps)
        options = [(around.scale + s, around.x + dx, around.y + dy) for s, dx, dy in product(scales, shifts, shifts)]
        scale, dx, dy = (np.array(v)[:, None] for v in zip(*options, strict=True))
        sides = [
            sampled(
                strange, scale * (points[:, 0] + a * normal[:, 0]) + dx, scale * (points[:, 1] + a * normal[:, 1]) + dy
            )
            for a in (-inward, inward)
        ]
        contrast = (sides[0] - sides[1]).mean(axis=1)
        k = int(contrast.argmax())
        best = Placement(*(float(v) for v in options[k]))
    for _ in range(EXACT_ROUNDS):
        best = _exactly(colour, points, normal, best)
    return best


def _exactly(colour: Array, points: Array, normal: Array, around: Placement) -> Placement:
    """Moves the outline to where the colours along its normals are half the object's, half what is behind it just there, which
    neither a shadow nor blurred edges move. Least squares, in which what disagrees counts ever less."""
    step = 2 / max(colour.shape[:2])
    away = np.arange(-ACROSS, ACROSS + 0.25, 0.5)
    x = around.scale * points[:, :1] + around.x + away * step * normal[:, :1]
    y = around.scale * points[:, 1:] + around.y + away * step * normal[:, 1:]
    profile = sampled(colour, x, y)
    inside, outside = profile[:, :4].mean(axis=1), profile[:, -4:].mean(axis=1)
    contrast = inside - outside
    size = (contrast**2).sum(axis=1)
    share = ((profile - outside[:, None]) * contrast[:, None]).sum(axis=2) / np.maximum(size, 1e-9)[:, None]
    offset = (np.clip(share, 0, 1).sum(axis=1) * 0.5 - ACROSS - 0.25) * step
    system = np.column_stack([(points * normal).sum(axis=1), normal])
    weight = (size > LEAST_CONTRAST**2).astype(np.float64)
    if weight.sum() < len(points) / 4:
        return around
    found = np.zeros(3)
    for _ in range(8):
        scaled = system * weight[:, None]
        found = np.linalg.lstsq(scaled.T @ system + 1e-9 * np.eye(3), scaled.T @ offset, rcond=None)[0]
        weight = (size > LEAST_CONTRAST**2) / (1 + ((offset - system @ found) / (0.7 * step)) ** 2)
    return Placement(around.scale + float(found[0]), around.x + float(found[1]), around.y + float(found[2]))


def colour_map(colour: Array, placement: Placement) -> Array:
    """[MAP, MAP, 3]: the view's colours where the depth render has its pixels."""
    axis = (np.arange(MAP) + 0.5) * 2 / MAP - 1
    x, y = np.meshgrid(axis, -axis)
    soft = gaussian_filter(colour, (max(colour.shape) / MAP / 1.5,) * 2 + (0,))
    return sampled(soft, placement.scale * x + placement.x, placement.scale * y + placement.y)


@dataclass(frozen=True)
class Disagreement:
    """Of what each view shows with what each other view shows of the same points: squared differences of colour, light set apart,
    total (6, 6) and of how many points, count (6, 6)."""

    total: Array
    count: Array

    def mean(self, pairs: Array) -> float:
        """Over the pairs (6, 6) bool; nan where these share too little."""
        count = int(self.count[pairs].sum())
        return float(self.total[pairs].sum()) / count if count >= SHARED_POINTS else float("nan")


def disagreement(sights: Sights, maps: list[Array], axes: Array, coding: Coding, theta: Array) -> Disagreement:
    places, normals = transfers(sights, axes, coding, theta)
    own = [sampled(maps[i], sights.points[i, :, 0], sights.points[i, :, 1]) for i in range(6)]
    total, shared = np.zeros((6, 6)), np.zeros((6, 6), int)
    for i, j in product(range(6), range(6)):
        both = places[i, j, :, 2] > FACING
        if both.sum() < LEAST:
            continue
        other = sampled(maps[j], places[i, j, both, 0], places[i, j, both, 1])
        total[i, j] = _unlike(own[i][both], other, normals[i, both])
        shared[i, j] = int(both.sum())
    return Disagreement(total, shared)


@dataclass(frozen=True)
class Edges(Disagreement):
    """The same of what two views at right angles to each other show on both sides of the edges between their faces, and how their
    colours correlate along these, alike (6, 6). On most things paint goes on around an edge, and boxes have no other way to tell
    how their lid is turned."""

    alike: Array

    def correlation(self, pairs: Array) -> float:
        """Over the pairs (6, 6) bool; nan where these share too little."""
        count = self.count[pairs]
        return float((self.alike[pairs] * count).sum()) / count.sum() if count.sum() >= SHARED_POINTS else float("nan")


def edges(sights: Sights, maps: list[Array], axes: Array, coding: Coding, theta: Array) -> Edges:
    beside = [_beside(v, o) for v, o in zip(sights.values, sights.outside, strict=True)]
    own = [sampled(m, p[:, 0], p[:, 1]) for m, p in zip(maps, beside, strict=True)]
    places = [lifted(p, axes[i], coding, theta, i) for i, p in enumerate(beside)]
    trees = [cKDTree(p[:, :3]) for p in places]
    total, shared, alike = np.zeros((6, 6)), np.zeros((6, 6), int), np.zeros((6, 6))
    for i, j in product(range(6), range(6)):
        if i == j or abs(axes[i, 2] @ axes[j, 2]) > 0.5:
            continue
        distance, nearest = trees[j].query(places[i][:, :3], distance_upper_bound=ACROSS_EDGE)
        near = np.isfinite(distance)
        if near.sum() < LEAST:
            continue
        one, other = own[i][near], own[j][nearest[near]]
        total[i, j] = _unlike(one, other, np.zeros_like(one))
        shared[i, j] = int(near.sum())
        alike[i, j] = _correlation(one, other)
    return Edges(total, shared, alike)


def _correlation(one: Array, other: Array) -> float:
    """Of all channels at once, each around its own mean."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12))


def _beside(values: Array, outside: Array) -> Array:
    """(n, 5): the cells just inside an outline, as Sights has its points, but without slopes."""
    side = len(values)
    r, c = np.nonzero((values >= 0) & (outside < -BESIDE[0]) & (outside > -BESIDE[1]))
    flat = np.zeros(len(r))
    return np.stack([(c + 0.5) * 2 / side - 1, 1 - (r + 0.5) * 2 / side, values[r, c], flat, flat], axis=1)


def _unlike(one: Array, other: Array, normals: Array) -> float:
    """The sum over all points of their squared, bounded differences of colour, light set apart."""
    difference = np.minimum(np.abs(_unlit(one, other, normals)), DIFFERENT)
    return float((difference**2).mean(axis=1).sum())


def _unlit(one: Array, other: Array, normals: Array) -> Array:
    """The difference of two views' colours (n, 3) of the same points, without what another exposure and light from another side
    make of them: a factor that is linear in the normal (n, 3)."""
    light = np.column_stack([np.ones(len(normals)), normals])
    system = (((one + other) / 2)[:, :, None] * light[:, None]).reshape(-1, 4)
    difference = one - other
    square = system.T @ system + 1e-3 * len(system) * np.eye(4)
    factor = np.linalg.solve(square, system.T @ difference.ravel())
    return np.asarray(difference - (system @ factor).reshape(difference.shape))


def unlike_pairs(one: Array, other: Array) -> Array:
    """(6, 6) bool: the pairs of views that stand to each other in another way in two rigs (6, 3, 3). What the other pairs show
    decides nothing between these."""
    turned = [np.einsum("iab,jcb->ijac", rig, rig) for rig in (one, other)]
    return np.asarray(np.abs(turned[0] - turned[1]).max(axis=(2, 3)) > 1e-6)


@dataclass(frozen=True)
class Unlikeness:
    """How differently two rigs dress one shape: mean squared difference of colour on the object, exposure and light from another
    side set apart, of the view where it is largest; overall, and in the place where it is largest."""

    overall: float
    local: float


def unlikenesses(
    maps: list[Array], masks: list[Array], normals: Array, one: Array, others: list[Array]
) -> list[Unlikeness]:
    """How differently each of `others` dresses the shape than `one`, all (6, 3, 3). normals: (6, s, s, 3) of what the views show
    where `one` has put them. Most pairs of pictures are the same in many rigs: each is compared once."""
    wanted = [[(v, *_instead(one, other, v)) for v in range(6)] for other in others]
    pairs = list({pair for pairs in wanted for pair in pairs})
    found = dict(zip(pairs, parallel_map(lambda p: _unlikeness(maps, masks, normals, *p), pairs), strict=True))
    return [Unlikeness(max(found[p].overall for p in pairs), max(found[p].local for p in pairs)) for pairs in wanted]


def _instead(one: Array, other: Array, v: int) -> tuple[int, tuple[float, ...]]:
    """Which picture `other` has where `one` has that of v, and how it lies on it: the right and up of v, in its own."""
    u = int(np.argmax(other[:, 2] @ one[v, 2]))
    return u, tuple(float(x) for x in (one[v, :2] @ other[u, :2].T).round(9).ravel())


def _unlikeness(
    maps: list[Array], masks: list[Array], normals: Array, v: int, u: int, lying: tuple[float, ...]
) -> Unlikeness:
    """Of the picture of v and that of u, one outline laid on the other."""
    axis = (np.arange(MAP // 2) + 0.5) * 4 / MAP - 1
    x, y = np.meshgrid(axis, -axis)
    a, inside = _centred(maps[v], masks[v], x, y)
    b, within = _centred(maps[u], masks[u], x * lying[0] + y * lying[2], x * lying[1] + y * lying[3])
    both = binary_erosion(inside & within, iterations=2)
    if not both.any():
        return Unlikeness(0.0, 0.0)
    turned = _centred(normals[v], masks[v], x, y)[0][both]
    difference = np.zeros_like(a)
    difference[both] = _unlit(a[both], b[both], turned)
    local = (_soft(difference, both)[both] ** 2).mean(axis=1).max()
    return Unlikeness(float((difference[both] ** 2).mean()), float(local))


def _soft(image: Array, where: Array) -> Array:
    """[H, W, 3], means over the surroundings as far as these lie in `where` [H, W], so that single pixels say nothing."""
    weight = gaussian_filter(where.astype(np.float64), PLACE)
    layers = [gaussian_filter(np.where(where, image[..., k], 0.0), PLACE) for k in range(3)]
    return np.stack(layers, axis=-1) / np.maximum(weight, 0.3)[..., None]


def _centred(colours: Array, mask: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Colours around the outline's centroid, in lengths at which the outline has the same area in every view; and what lies well
    inside."""
    axis = (np.arange(len(mask)) + 0.5) * 2 / len(mask) - 1
    share = mask / max(float(mask.sum()), 1e-9)
    middle = float((share.sum(axis=0) * axis).sum()), -float((share.sum(axis=1) * axis).sum())
    length = REACHED * float(np.sqrt(mask.mean()))
    at = middle[0] + length * x, middle[1] + length * y
    return sampled(colours, *at), sampled(mask, *at) > 0.99
