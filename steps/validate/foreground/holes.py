"""Holes in depth renders, as sensors leave them: speckles and blocks without a measurement.

A stored 0 (or the largest value) inside the object is no distance. In opaque views a gap in depth is background or a hole:
colour tells which. The depth of an object pixel in a hole is unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import (
    binary_dilation,
    distance_transform_edt,
    label,
    median_filter,
)

from steps.compute.arrays import Array
from steps.geometry.image_ops import inpaint
from steps.io.cameras_json import Given
from steps.io.depth_encoding import DepthEncoding, foreground
from steps.io.input_checks import Pictures
from steps.io.png import Picture

# of the object's range of values: an extreme value that differs by more from its surroundings is invalid
LEAST_JUMP = 0.1
MOSTLY = 0.8  # of the extreme values, that must differ so: a near plane cutting the object does not
UNKNOWN = 0.002  # of the object's pixels: more without depth give a note
DEEP = 2.5  # pixels from an outline, within which depth and view may differ by rasterization
LEAST_EVIDENCE = 0.002  # of the object's pixels: as many enclosed ones of its colour without depth are holes
SPECKLE = 2  # pixels: largest distance from the rim to the centre
MAX_OPENING = 0.12  # of the object's extent: how far a hole may extend outwards from known depth
LARGEST = 0.25  # of the object's pixels: a larger region beside it is not a hole
APART = 0.1  # RGB, largest channel: difference from the background from which a colour is foreground
CLOSER = 0.5  # of its distance from the background's colour, within which a pixel matches the object's colours
SHADE = 0.04  # RGB: largest deviation of a shadow from the darkened background


# -- values that are no distance ----------------------------------------------------------------------------------------


def backgrounds(pictures: Pictures, given: Given | None) -> list[int | str | None]:
    """The background value of each depth render, as the cameras say, else by majority of the frames."""
    stated = [view.depth.background if view.depth else "" for view in given] if isinstance(given, list) else [""] * 6
    frames = [_frame(p) for p in pictures.depths]
    votes = sum(float((f == p.maximum).mean() - (f == 0).mean()) for f, p in zip(frames, pictures.depths, strict=True))
    common: int | str = "max" if votes > 0 else 0
    return [common if t == "" else t for t in stated]


def _frame(picture: Picture) -> Array:
    counts = picture.pixels[..., 0]
    return np.concatenate([counts[0], counts[-1], counts[:, 0], counts[:, -1]])


def without_invalid(pictures: Pictures, means_nothing: list[int | str | None]) -> tuple[Pictures, list[str]]:
    """The set with invalid extreme values set to the background's, and notes."""
    both = [_without_invalid(p, b) for p, b in zip(pictures.depths, means_nothing, strict=True)]
    count = sum(number for _, number in both)
    note = (
        f"{count} pixels of the depth renders hold an extreme value amid the object, as sensors write where they measure "
        "nothing; their depth is unknown."
    )
    return replace(pictures, depths=[p for p, _ in both]), [note] if count else []


def _without_invalid(picture: Picture, background: int | str | None) -> tuple[Picture, int]:
    counts, known = picture.pixels[..., 0], foreground(picture, DepthEncoding(background=background))
    bad = np.zeros(counts.shape, bool)
    for extreme in (0, picture.maximum):
        here = known & (counts == extreme)
        usual = known & ~here
        if not here.any() or not usual.any():
            continue
        low, high = np.percentile(counts[usual], [0.5, 99.5])
        if here.sum() > 0.3 * usual.sum():
            continue
        around = median_filter(inpaint(counts[..., None].astype(np.float32), usual)[..., 0], 5)
        jumps = np.abs(around[here] - extreme) > LEAST_JUMP * max(high - low, 1)
        if jumps.mean() > MOSTLY:
            bad |= here
    if not bad.any():
        return picture, 0
    pixels = picture.pixels.copy()
    if background in (None, "alpha"):
        alpha = np.full(counts.shape, picture.maximum) if picture.alpha is None else pixels[..., -1]
        pixels = np.dstack([counts, np.where(bad, 0, alpha)]).astype(pixels.dtype)
    else:
        pixels[bad, 0] = picture.maximum if background == "max" else background
    return replace(picture, pixels=pixels), int(bad.sum())


# -- holes in the outline -----------------------------------------------------------------------------------------------


def complete_outlines(
    insides: list[Array], views: list[Picture], behind: Callable[[Array, Array], Array]
) -> list[Array] | None:
    """Masks of the object in opaque views, [H, W] float: depth, and holes in it with the object's colours; None where there are
    none. insides: [H, W] float, where there is depth; behind: maps a view's colours [H, W, 3] in [0, 1] and its inside to
    the background, (3,) or [H, W, 3]."""
    evidence, whole = 0, sum(int((i >= 0.5).sum()) for i in insides)
    for inside, view in zip(insides, views, strict=True):
        pieces, count = enclosed(inside >= 0.5)
        if count:  # colours matter only where something is enclosed
            like = _colour_likeness(inside, view, behind)
            evidence += int((_filled_pieces(pieces, count, like) & like.sure).sum())
    if evidence < max(12, LEAST_EVIDENCE * whole):
        return None
    return [_complete(inside, view, behind) for inside, view in zip(insides, views, strict=True)]


@dataclass(frozen=True)
class Likeness:
    """Pixels [H, W] bool. sure: of the nearest object pixels' colour; possible: also those that are neither background nor its
    shadow; behind: of the background's colour."""

    sure: Array
    possible: Array
    behind: Array


def _colour_likeness(inside: Array, view: Picture, behind: Callable[[Array, Array], Array]) -> Likeness:
    colour = view.colour / np.float32(255)
    back, own = behind(colour, inside), inpaint(colour, inside >= 0.5)
    away, from_own = np.abs(colour - back).max(axis=2), np.abs(colour - own).max(axis=2)
    sure = (away > APART) & (from_own < CLOSER * away)
    return Likeness(sure, sure | ((away > APART) & ~_shadow(colour, back)), away <= APART)


def _complete(inside: Array, view: Picture, behind: Callable[[Array, Array], Array]) -> Array:
    """The inside with object-coloured holes, and the speckles that remain filled."""
    like, solid = _colour_likeness(inside, view, behind), inside >= 0.5
    pieces, count = enclosed(solid)
    part = (
        _filled_pieces(pieces, count, like)
        | _regions(pieces > 0, like, solid)
        | _regions(~solid & (pieces == 0), like, solid)
    )
    remaining, count = enclosed(solid | part)
    return np.where(part | (_filled_pieces(remaining, count, None)), np.float32(1), inside)


def enclosed(solid: Array) -> tuple[Array, int]:
    """Holes of a shape [H, W] bool, labelled from 1, 0 elsewhere, and their number."""
    pieces, count = label(~solid)
    frame = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    outside = np.zeros(count + 1, bool)
    outside[frame] = True
    numbers = np.cumsum(~outside & (np.arange(count + 1) > 0))
    numbers[outside] = 0
    numbers[0] = 0
    return numbers[pieces], int(numbers.max())


def _filled_pieces(pieces: Array, count: int, like: Likeness | None) -> Array:
    """The pieces that belong to the object: speckles, and those mostly unlike the background. The others are openings."""
    thick = np.bincount(pieces[distance_transform_edt(pieces > 0) > SPECKLE], minlength=count + 1) > 0
    if like is not None:
        share = np.bincount(pieces.ravel(), like.behind.ravel(), count + 1) / np.bincount(
            pieces.ravel(), minlength=count + 1
        )
        thick &= share > 0.5
    thick[0] = True
    return ~thick[pieces]


def _shadow(colour: Array, behind: Array) -> Array:
    """Where a colour is the background's, only darker."""
    strength = colour.sum(axis=2) / np.maximum(np.broadcast_to(behind, colour.shape).sum(axis=2), 1e-3)
    return np.asarray((strength < 1) & (np.abs(colour - strength[..., None] * behind).max(axis=2) < SHADE))


def _regions(void: Array, like: Likeness, solid: Array) -> Array:
    """The part of `void` that is the object: pixels that are surely of its colours, and whole pieces of possible ones that touch
    it, lie close by, are not large, and are more than the soft rim around what is behind it."""
    if not solid.any():
        return np.zeros(void.shape, bool)
    distance = distance_transform_edt(~solid)
    rows, columns = np.nonzero(solid)
    possible = void & like.possible & (distance <= MAX_OPENING * max(int(np.ptp(rows)), int(np.ptp(columns)), 1))
    pieces, count = label(possible & (distance >= 2), np.ones((3, 3)))  # the mixed pixels of a rim would join them all
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    touches, inner = (np.bincount(pieces[d], minlength=count + 1) > 0 for d in (distance < 3, distance >= 3))
    whole = touches & inner & (size < LARGEST * solid.sum()) & (np.arange(count + 1) > 0)
    grown = binary_dilation(whole[pieces], np.ones((3, 3)), iterations=2) & possible
    return np.asarray(grown | (like.sure & possible & (distance < 2)))


# -- what is not known --------------------------------------------------------------------------------------------------


def unknown(coverages: list[Array], insides: list[Array]) -> list[str]:
    """A sentence about pixels that are the object's and have no depth, away from its outline, where there are many."""
    objects = [c >= 128 for c in coverages]
    deep = [distance_transform_edt(o) > DEEP for o in objects]
    missing = sum(int((d & (i < 0.5)).sum()) for d, i in zip(deep, insides, strict=True))
    share = missing / max(1, sum(int(o.sum()) for o in objects))
    return [f"{share:.1%} of the object's pixels have no depth; it is unknown there."] if share > UNKNOWN else []


def _at(coverage: Array, shape: tuple[int, ...]) -> Array:
    """A coverage at another size."""
    if coverage.shape == shape:
        return coverage
    return np.asarray(Image.fromarray(coverage).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
