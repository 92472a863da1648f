"""Which picture belongs to which depth render: by outlines, and by the colours of what two views both see.

All 720 orders of six pictures are scored from two small tables, so that this costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.validate.consistency.agreement import DepthView, Seen, least_around, met

Array = NDArray[Any]
SIDE = 96  # pixels to which pictures are reduced: finer detail does not lie alike in two views
ALIKE = 0.35  # colour difference (0 to sqrt 3) from which it does not matter how unlike two colours are
CONTRAST = 0.12  # of a channel, from which a pixel is not the background
FAINT, DOUBTFUL = (
    0.03,
    0.4,
)  # of a channel, from which it may be none; so many such pixels for each that is none, and nothing is told
LEAST_SIZE = 40  # pixels of two outlines together, below which they tell nothing
DARK = 0.1  # brightness below which a pixel has hardly a colour
LEAST = 12  # points that two views must both see for their colours to count


@dataclass(frozen=True)
class Look:
    """One picture. colour: [SIDE, SIDE, 3] in [0, 1]; object: [SIDE, SIDE] in [0, 1], its share of each pixel by the picture
    itself, None where the picture does not tell."""

    colour: Array
    object: Array | None


@dataclass(frozen=True)
class Fits:
    """outlines: (6, 6), the IoU of each picture's object (row) with each depth render's (column), NaN where it is not known;
    colours: (6, 6, 6, 6), [a, b, p, q]: how unlike, from 0 to 1, picture p at depth render a and picture q at b show what both
    see; hues: the same without brightness; weights: (6, 6), how many points that were."""

    outlines: Array
    colours: Array
    hues: Array
    weights: Array

    def cost(self, order: tuple[int, ...]) -> float:
        """How badly the pictures fit where picture order[a] lies on depth render a, 0 to 2."""
        return self.outline_cost(order) + self.colour_cost(order)

    def outline_cost(self, order: tuple[int, ...]) -> float:
        found = 1 - np.array([self.outlines[p, a] for a, p in enumerate(order)])
        return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0

    def colour_cost(self, order: tuple[int, ...]) -> float:
        """The mean over all points that two views see."""
        return self._mean(self.colours, order)

    def hue_cost(self, order: tuple[int, ...]) -> float:
        return self._mean(self.hues, order)

    def _mean(self, unlike: Array, order: tuple[int, ...]) -> float:
        a, b = np.nonzero(self.weights)
        p = np.array(order)
        total = float(self.weights.sum())
        return float((self.weights[a, b] * unlike[a, b, p[a], p[b]]).sum()) / total if total else 0.0

    def best(self) -> tuple[int, ...]:
        """The order that fits best; the given one where no other fits better."""
        given = tuple(range(6))
        return min([given, *permutations(range(6))], key=self.cost)


def look(colour: Array, object_share: Array | None) -> Look:
    """Of a picture [H, W, 3] uint8 and its object's share of each pixel [H, W] in [0, 1], None where it does not tell."""
    if object_share is None:
        return Look(_reduced(colour.astype(np.float32) / 255), None)
    share = _reduced(object_share[..., None])
    straight = _reduced(colour.astype(np.float32) / 255 * object_share[..., None]) / np.maximum(share, 1e-3)
    return Look(np.where(share > 0.02, straight, 1.0), share[..., 0])


def outline(view: DepthView) -> Array:
    """[SIDE, SIDE]: the share of each pixel in which a depth map has something."""
    return _reduced((view.depth > 0).astype(np.float32)[..., None])[..., 0]


def mismatch(object_share: Array | None, shape: Array) -> float:
    """How much of two outlines [SIDE, SIDE] lies where the other one has nothing, even nearby; 0 where there is only one. Parts
    thinner than three pixels do not count: of those a depth render that is sampled at pixel centres may lack any."""
    if object_share is None:
        return 0.0
    a, b = (_opened(mask >= 0.5) for mask in (object_share, shape))
    near_a, near_b = (~least_around(mask <= 0.02, 2) for mask in (object_share, shape))
    total = int(a.sum() + b.sum())
    return float((a & ~near_b).sum() + (b & ~near_a).sum()) / total if total > LEAST_SIZE else 0.0


def is_thin(object_share: Array | None) -> bool:
    """Whether less than half of an outline is in parts of three pixels or more."""
    if object_share is None:
        return False
    mask = object_share >= 0.5
    return bool(2 * _opened(mask).sum() < max(mask.sum(), (object_share > 0.1).sum() / 2))


def _opened(mask: Array) -> Array:
    """A mask [H, W] bool without parts thinner than three pixels (erosion, then dilation)."""
    return ~least_around(~least_around(mask, 1), 1)


def against(colour: Array, background: Array) -> Array:
    """[H, W] of an opaque picture [H, W, 3] uint8: 1 where it is clearly another colour than what is behind, (3,) in [0, 1]."""
    apart = np.abs(colour.astype(np.float32) / 255 - background.astype(np.float32)).max(axis=2)
    return np.asarray(apart > CONTRAST, np.float32)


def told_by_colour(colour: Array, background: Array) -> Array | None:
    """`against`, or None where too much is hardly another colour than what is behind, as of a white object over white."""
    clear = against(colour, background)
    apart = np.abs(colour.astype(np.float32) / 255 - background.astype(np.float32)).max(axis=2)
    faint = (apart > FAINT) & (clear == 0)
    return clear if faint.sum() <= DOUBTFUL * clear.sum() else None


def _reduced(image: Array) -> Array:
    """[SIDE, SIDE, C]: means over what each pixel covers of `image` [H, W, C]."""
    layers = [Image.fromarray(np.ascontiguousarray(layer, np.float32)) for layer in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(layer.resize((SIDE, SIDE), Image.Resampling.BOX)) for layer in layers], axis=-1)


def fits(looks: list[Look], sights: list[Seen], tolerance: float) -> Fits:
    """How each picture would fit each depth render. tolerance: up to which two surfaces are the same one, scene units. Where a
    picture does not tell its outline, colours are compared without their brightness: of a white carton over white another light
    in each view would be all that they say."""
    shapes = [outline(one.view) for one in sights]
    outlines = np.array([[_overlap(view.object, shape) for shape in shapes] for view in looks])
    colours, hues, weights = np.zeros((6, 6, 6, 6)), np.zeros((6, 6, 6, 6)), np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            if a == b:
                continue
            index, place, _ = met(sights[a], sights[b], tolerance)
            if len(index) < LEAST:
                continue
            here = _colours(looks, sights[a].pixels[index], sights[a].view.depth.shape)
            there = _colours(looks, place, sights[b].view.depth.shape)
            colours[a, b] = _unlike(here, there)
            hues[a, b] = _unlike(_without_brightness(here), _without_brightness(there))
            weights[a, b] = len(index)
    untold = any(one.object is None for one in looks)
    return Fits(outlines, hues if untold else colours, hues, weights)


def _unlike(here: Array, there: Array) -> Array:
    """(6, 6), 0 to 1: how unlike colours (6, n, 3) and (6, n, 3) are in the mean, each picture's with each picture's."""
    apart = np.linalg.norm(here[:, None] - there[None], axis=-1)
    return np.asarray(np.minimum(apart / ALIKE, 1).mean(axis=-1))


def _without_brightness(colour: Array) -> Array:
    """[..., 3]: colours in [0, 1] as shares of their mean; dark ones, which have none, as grey."""
    return np.asarray(colour + DARK) / (colour.mean(axis=-1, keepdims=True) + DARK)


def _overlap(object_share: Array | None, shape: Array) -> float:
    """IoU of two soft masks, NaN where there is only one."""
    if object_share is None:
        return float("nan")
    return float(np.minimum(object_share, shape).sum() / max(np.maximum(object_share, shape).sum(), 1e-9))


def _colours(looks: list[Look], pixels: Array, shape: tuple[int, ...]) -> Array:
    """(6, n, 3): what each picture shows at places (n, 2) of a depth map of this shape."""
    row = ((pixels[:, 1] + 0.5) / shape[0] * SIDE).astype(int).clip(0, SIDE - 1)
    column = ((pixels[:, 0] + 0.5) / shape[1] * SIDE).astype(int).clip(0, SIDE - 1)
    return np.stack([one.colour[row, column] for one in looks])
