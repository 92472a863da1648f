"""What the six views' colours say about a rig: first where they lie on the depth renders, then whether views agree where they
see the same surface."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from steps.geometry.cameras import Placement
from steps.geometry.rig_fit import PER_VIEW, SHARED, Coding, Sights, transfers

Array = NDArray[Any]
# each round of the placement: half widths from the outline to where colour is taken on both sides of it, how far it shifts, in
# how many steps, and by which scales: far for a wide catch, near since the contrast does not change until the outline is crossed
ROUNDS = (
    (0.02, 0.1, 11, (-0.04, -0.02, 0.0, 0.02, 0.04)),
    (0.01, 0.02, 7, (-0.02, -0.01, 0.0, 0.01, 0.02)),
    (0.005, 0.01, 7, (-0.008, -0.004, 0.0, 0.004, 0.008)),
    (0.003, 0.004, 5, (-0.004, -0.002, 0.0, 0.002, 0.004)),
)
STRONG = 0.25  # a difference from the background beyond which more says nothing
FACING = 0.3  # least cosine between normal and sight for a colour to be compared
LEAST = 12  # points that two views must share
DIFFERENT = 0.3  # colour differences count up to this
MAP = 256


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
    return best


def colour_map(colour: Array, placement: Placement) -> Array:
    """[MAP, MAP, 3]: the view's colours where the depth render has its pixels."""
    axis = (np.arange(MAP) + 0.5) * 2 / MAP - 1
    x, y = np.meshgrid(axis, -axis)
    soft = gaussian_filter(colour, (max(colour.shape) / MAP / 1.5,) * 2 + (0,))
    return sampled(soft, placement.scale * x + placement.x, placement.scale * y + placement.y)


def disagreement(sights: Sights, maps: list[Array], axes: Array, coding: Coding, theta: Array) -> tuple[float, int]:
    """Mean squared difference of colour where two views see the same point, light set apart, and of how many points."""
    places = np.empty((6, 6, sights.points.shape[1], 3))
    transfers(sights.points, sights.values, axes, theta, coding.inverse, coding.ray, places)
    own = [sampled(maps[i], sights.points[i, :, 0], sights.points[i, :, 1]) for i in range(6)]
    total, count = 0.0, 0
    for i, j in product(range(6), range(6)):
        both = places[i, j, :, 2] > FACING
        if both.sum() < LEAST:
            continue
        difference = own[i][both] - sampled(maps[j], places[i, j, both, 0], places[i, j, both, 1])
        difference -= np.median(difference, axis=0)
        total += float((np.minimum(np.abs(difference), DIFFERENT) ** 2).mean(axis=1).sum())
        count += int(both.sum())
    return total / max(count, 1), count


def likeness(maps: list[Array], masks: list[Array], one: Array, other: Array, theta: Array) -> float:
    """How differently two rigs of the same shape dress it: for each camera of `one`, its picture beside the one that `other` puts
    there; the mean squared difference on the object, light set apart, of the view where it is largest. one, other: (6, 3, 3)."""
    worst = 0.0
    axis = (np.arange(MAP // 2) + 0.5) * 4 / MAP - 1
    x, y = np.meshgrid(axis, -axis)
    for v in range(6):
        u = int(np.argmax(other[:, 2] @ one[v, 2]))
        right, up = other[u, :2] @ one[v, 0], other[u, :2] @ one[v, 1]
        a, inside = _ideal(maps[v], masks[v], theta, v, x, y)
        b, _ = _ideal(maps[u], masks[u], theta, u, x * right[0] + y * up[0], x * right[1] + y * up[1])
        difference = (a - b)[inside > 0]
        difference -= np.median(difference, axis=0)
        worst = max(worst, float((difference**2).mean()))
    return worst


def _ideal(colours: Array, mask: Array, theta: Array, view: int, x: Array, y: Array) -> tuple[Array, Array]:
    scale, dx, dy = np.exp(theta[SHARED + PER_VIEW * view]), *theta[SHARED + PER_VIEW * view + 1 :][:2]
    at = scale * x + dx, scale * y + dy
    return sampled(colours, *at), sampled(mask, *at) > 0.99
