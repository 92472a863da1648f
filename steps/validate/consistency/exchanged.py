"""Assignment of the six pictures to the six depth renders: scored by outlines, and by colour consistency where views overlap.

All 720 permutations are scored from two small tables (`AssignmentScores`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.validate.consistency.agreement import DepthView, ViewPoints, minimum_filter, overlapping_points

SIDE = 96  # pixels to which pictures are reduced: two views do not agree in finer detail
MAX_DIFFERENCE = 0.35  # colour differences (0 to sqrt 3) are clipped here
CONTRAST = 0.12  # of a channel, from which a pixel is not the background
# of a channel, from which a pixel may differ from the background; with more of these per clear pixel the outline is unknown
FAINT_CONTRAST, MAX_FAINT_SHARE = 0.03, 0.4
LEAST_SIZE = 40  # pixels of two outlines together, below which they are not compared
DARK = 0.1  # brightness below which a pixel has hardly a colour
LEAST_POINTS = 12  # points that two views must both see for their colours to count
# difference of a pixel's channels, 0 to 1, up to which it has no hue; share of a picture's pixels that may have more
MAX_CHROMA, MAX_COLOURED_SHARE = 0.02, 0.005
# A picture and its copy that was a JPEG have nearly the same means of blocks, and differ in detail. Mean square of the means'
# difference over their variance: copies of 128 pixels have up to 0.0004, two sides of a bowl or a carton 0.0015 or more.
SAME_MEANS = 8e-4
# RMS difference of the means over that of all pixels: of copies up to 0.41, of two sides under lights of their own from 0.54
DETAIL = 0.45
EQUAL_MEANS = 0.3 / 255  # RMS difference of the means up to which the latter does not count
BLOCKS = 12  # to a side of a picture, whose means are compared


@dataclass(frozen=True)
class PictureSample:
    """A downsampled picture. colour: [SIDE, SIDE, 3] in [0, 1]; object: [SIDE, SIDE] in [0, 1], the object's coverage by the
    picture alone, None where colour does not tell it from the background."""

    colour: Array
    object: Array | None

    @property
    def is_grey(self) -> bool:
        """Whether the object has no hue in the picture."""
        chroma = np.ptp(self.colour, axis=-1)
        inside = np.full(chroma.shape, True) if self.object is None else self.object > 0.5
        return bool((chroma[inside] > MAX_CHROMA).sum() <= MAX_COLOURED_SHARE * inside.sum())


@dataclass(frozen=True)
class AssignmentScores:
    """Tables from which the cost of every assignment of pictures to depth renders follows.

    outlines: (6, 6), IoU of each picture's object (row) with each depth render's (column), NaN where unknown; colours: (6,
    6, 6, 6), [a, b, p, q]: colour difference, 0 to 1, of picture p at depth render a and picture q at b, at points that both
    see; unlit: the same of what a view's own light leaves as it is, chromaticity or, among grey pictures, contrast; weights: (6,
    6), number of these points; is_grey: whether no picture has any hue."""

    outlines: Array
    colours: Array
    unlit: Array
    weights: Array
    is_grey: bool = False

    def cost(self, order: tuple[int, ...]) -> float:
        """Mean outline mismatch plus mean colour difference, 0 to 2, of picture order[a] at depth render a."""
        return self.outline_cost(order) + self.colour_cost(order)

    def outline_cost(self, order: tuple[int, ...]) -> float:
        mismatches = 1 - np.array([self.outlines[p, a] for a, p in enumerate(order)])
        return float(np.nanmean(mismatches)) if np.isfinite(mismatches).any() else 0.0

    def colour_cost(self, order: tuple[int, ...]) -> float:
        """Mean colour difference, 0 to 1, over all points that two views see."""
        return self._mean(self.colours, order)

    def unlit_cost(self, order: tuple[int, ...]) -> float:
        return self._mean(self.unlit, order)

    def _mean(self, differences: Array, order: tuple[int, ...]) -> float:
        a, b = np.nonzero(self.weights)
        p = np.array(order)
        total = float(self.weights.sum())
        return float((self.weights[a, b] * differences[a, b, p[a], p[b]]).sum()) / total if total else 0.0

    def best(self) -> tuple[int, ...]:
        """The permutation of lowest cost; among equals the identity."""
        given = tuple(range(6))
        return min([given, *permutations(range(6))], key=self.cost)


def sample_picture(colour: Array, object_share: Array | None) -> PictureSample:
    """The sample of a picture [H, W, 3] uint8. object_share: [H, W] in [0, 1], the object's coverage, None where unknown."""
    if object_share is None:
        return PictureSample(_resize(colour.astype(np.float32) / 255), None)
    object_coverage = _resize(object_share[..., None])
    straight = _resize(colour.astype(np.float32) / 255 * object_share[..., None]) / np.maximum(object_coverage, 1e-3)
    return PictureSample(np.where(object_coverage > 0.02, straight, 1.0), object_coverage[..., 0])


def is_copy(one: PictureSample, other: PictureSample) -> bool:
    """Whether two pictures are the same up to JPEG compression."""
    difference = one.colour - other.colour
    means = _block_means(difference)
    off = float((means**2).mean())
    contrast = float(np.mean([_block_means(each.colour).var(axis=(0, 1)).mean() for each in (one, other)]))
    if off > SAME_MEANS * 2 * contrast:
        return False
    return off <= max(EQUAL_MEANS**2, DETAIL**2 * float((difference**2).mean()))


def _block_means(image: Array) -> Array:
    """Block means [BLOCKS, BLOCKS, C] of an image [SIDE, SIDE, C]."""
    step = SIDE // BLOCKS
    return np.asarray(image.reshape(BLOCKS, step, BLOCKS, step, -1).mean(axis=(1, 3)))


def outline(view: DepthView) -> Array:
    """Coverage [SIDE, SIDE] of a depth map's object: the share of each pixel that has depth."""
    return _resize((view.depth > 0).astype(np.float32)[..., None])[..., 0]


def outline_mismatch(object_share: Array | None, shape: Array) -> float:
    """Share of two outlines [SIDE, SIDE] that lies where the other has nothing nearby; 0 where there is only one. Parts thinner
    than three pixels do not count: a depth render sampled at pixel centres may lack them."""
    if object_share is None:
        return 0.0
    a, b = (_morphological_opening(mask >= 0.5) for mask in (object_share, shape))
    near_a, near_b = (~minimum_filter(mask <= 0.02, 2) for mask in (object_share, shape))
    total = int(a.sum() + b.sum())
    return float((a & ~near_b).sum() + (b & ~near_a).sum()) / total if total > LEAST_SIZE else 0.0


def is_thin(object_share: Array | None) -> bool:
    """Whether less than half of an outline is in parts of three pixels or more."""
    if object_share is None:
        return False
    mask = object_share >= 0.5
    return bool(2 * _morphological_opening(mask).sum() < max(mask.sum(), (object_share > 0.1).sum() / 2))


def _morphological_opening(mask: Array) -> Array:
    """A mask [H, W] bool without parts thinner than three pixels (erosion, then dilation)."""
    return ~minimum_filter(~minimum_filter(mask, 1), 1)


def differs_from_background(colour: Array, background: Array) -> Array:
    """[H, W] float32: 1 where an opaque picture [H, W, 3] uint8 clearly differs from the background, (3,) in [0, 1], else 0."""
    difference = np.abs(colour.astype(np.float32) / 255 - background.astype(np.float32)).max(axis=2)
    return np.asarray(difference > CONTRAST, np.float32)


def object_by_colour(colour: Array, background: Array) -> Array | None:
    """`differs_from_background`, or None where too many pixels differ only slightly, as of a white object over white."""
    clear = differs_from_background(colour, background)
    difference = np.abs(colour.astype(np.float32) / 255 - background.astype(np.float32)).max(axis=2)
    faint = (difference > FAINT_CONTRAST) & (clear == 0)
    return clear if faint.sum() <= MAX_FAINT_SHARE * clear.sum() else None


def _resize(image: Array) -> Array:
    """`image` [H, W, C] box-filtered to [SIDE, SIDE, C]."""
    layers = [Image.fromarray(np.ascontiguousarray(layer, np.float32)) for layer in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(layer.resize((SIDE, SIDE), Image.Resampling.BOX)) for layer in layers], axis=-1)


def assignment_scores(pictures: list[PictureSample], samples: list[ViewPoints], tolerance: float) -> AssignmentScores:
    """The tables for six pictures and depth renders. tolerance: distance up to which two surfaces are the same, scene units.
    Where a picture does not show its outline, only chromaticity is compared: for a white object over white, brightness would
    only show lighting. Grey pictures all have one chromaticity: of these, contrasts are compared."""
    shapes = [outline(one.view) for one in samples]
    outlines = np.array([[_soft_iou(view.object, shape) for shape in shapes] for view in pictures])
    is_grey = all(one.is_grey for one in pictures)
    normalized = _contrast if is_grey else _chromaticity
    colours, unlit, weights = np.zeros((6, 6, 6, 6)), np.zeros((6, 6, 6, 6)), np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            if a == b:
                continue
            index, cells, _ = overlapping_points(samples[a], samples[b], tolerance)
            if len(index) < LEAST_POINTS:
                continue
            here = _colours(pictures, samples[a].pixels[index], samples[a].view.depth.shape)
            there = _colours(pictures, cells, samples[b].view.depth.shape)
            colours[a, b] = _colour_difference(here, there)
            unlit[a, b] = _colour_difference(normalized(here), normalized(there))
            weights[a, b] = len(index)
    without_outline = any(one.object is None for one in pictures)
    return AssignmentScores(outlines, unlit if without_outline else colours, unlit, weights, is_grey)


def _colour_difference(here: Array, there: Array) -> Array:
    """(6, 6), 0 to 1: mean clipped difference between colours (6, n, 3) and (6, n, 3), of each picture with each."""
    difference = np.linalg.norm(here[:, None] - there[None], axis=-1)
    return np.asarray(np.minimum(difference / MAX_DIFFERENCE, 1).mean(axis=-1))


def _chromaticity(colour: Array) -> Array:
    """[..., 3]: colours in [0, 1] over their mean; grey for dark ones, whose hue is noise."""
    return np.asarray(colour + DARK) / (colour.mean(axis=-1, keepdims=True) + DARK)


def _contrast(colour: Array) -> Array:
    """[6, n, 3]: colours in [0, 1] over the mean of each picture's, which its exposure does not change."""
    return np.asarray(colour / np.maximum(colour.mean(axis=(1, 2), keepdims=True), DARK))


def _soft_iou(object_share: Array | None, shape: Array) -> float:
    """IoU of two soft masks, NaN where there is only one."""
    if object_share is None:
        return float("nan")
    return float(np.minimum(object_share, shape).sum() / max(np.maximum(object_share, shape).sum(), 1e-9))


def _colours(pictures: list[PictureSample], pixels: Array, shape: tuple[int, ...]) -> Array:
    """(6, n, 3): each picture's colours at cells (n, 2) of a depth map of this shape."""
    row = ((pixels[:, 1] + 0.5) / shape[0] * SIDE).astype(int).clip(0, SIDE - 1)
    column = ((pixels[:, 0] + 0.5) / shape[1] * SIDE).astype(int).clip(0, SIDE - 1)
    return np.stack([one.colour[row, column] for one in pictures])
