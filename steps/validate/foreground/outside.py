"""Depth beside the object: of a wall or a floor behind it, smeared over its rim, or a picture format's noise. The views' outlines
say where the object is, and depth elsewhere is none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.io.depth_encoding import DepthEncoding, MetricDepth, foreground
from steps.io.png import Picture
from steps.runtime.errors import ValidationFailed
from steps.runtime.reporter import WARNING
from steps.validate.consistency import exchanged
from steps.validate.foreground import masks

Array = NDArray[Any]
FULL, HALF = 0.996, 0.5  # the object's share of a pixel: all, and most of it
SMEARED = 2  # pixels inside the outline that may show what is beside it, too
SURELY = 0.25  # of the difference from what is inside
APART = 0.08  # of the object's range of depth
TOLD = 0.02  # of the object's pixels: more depth beside it is told
EVERYWHERE = 0.9  # of all pixels: with so much depth, opaque views are looked at for a wall
MOSTLY, LOST = (
    0.75,
    0.3,
)  # of the pixels beside the object, so much with depth is a wall; of its own, less without are holes
PLENTY, SEVERAL = 0.05, 3  # of the object's pixels, more depth beside it, in so many views: a floor
ALL_AROUND = 0.8  # of the pixels just outside the outlines, with depth
OTHER = 0.03  # of the object's pixels in a view, without depth: more, and it is another outline than the depth render's
BLOCK = 12  # pixels: how far from the outline a block of a JPEG, or a filter, smears depth
ALONG, MISSING = (
    0.99,
    0.1,
)  # of what lies beside the object: so much within that, and so much missing on the object at most
COARSE = 1e-3  # of the object's range of depth: levels of a picture that can have been a JPEG
RINGING = (
    3.0  # times the usual deviation from the depth around, and half of it times a level: from there a pixel stands out
)
WALL = "The depth renders show something behind the object, too, a wall or a floor: the views' outlines leave it out."
BESIDE = "depth renders lie beside the object, as the views show it"
UNTOLD = (
    "WARNING: the depth renders have something in nearly every pixel, such as a wall or a floor behind the object, and the "
    "views have neither transparency nor an even colour behind that tells the object from it: give views with transparency, "
    "or depth renders with nothing around the object."
)


def without_surroundings(
    depths: list[Picture], views: list[Picture], means_nothing: list[int | str | None]
) -> tuple[list[Picture], list[str]]:
    """The depth renders [H, W] without what they show of a wall behind the object or of a floor under it, as the views tell it
    from the object by transparency or by an even colour behind; and what was done. They are left as they are where they show as
    much as the views, or other things than these. means_nothing: the value of no depth in each."""
    known = [foreground(p, DepthEncoding(background=b)) for p, b in zip(depths, means_nothing, strict=True)]
    transparent = all(v.alpha is not None and v.alpha.min() < HALF for v in views)
    if not transparent and not _are_walls(known, [np.zeros(k.shape, bool) for k in known], EVERYWHERE):
        return depths, []  # depth itself tells the object of opaque views
    outlines = [v.alpha if transparent else _by_colour(v.colour) for v in views]
    if any(o is None for o in outlines):
        return depths, [UNTOLD]
    shares = [masks.resized(o, k.shape) for o, k in zip(outlines, known, strict=True) if o is not None]
    missing = [((s >= HALF) & ~k).sum() / max(1, (s >= HALF).sum()) for s, k in zip(shares, known, strict=True)]
    walls = _are_walls(known, [s > 0 for s in shares], MOSTLY) and max(missing) < LOST
    if not walls and (max(missing) > OTHER or not _are_floors(known, shares)):
        return depths, []
    return [_cut(*each) for each in zip(depths, known, shares, strict=True)], [WALL]


def _by_colour(colour: Array) -> Array | None:
    """[H, W] float32: 1 where an opaque picture [H, W, 3] uint8 is of another colour than its frame; None where that has many."""
    behind, even = masks.background_colour([colour], [np.zeros(colour.shape[:2])])
    return exchanged.against(colour, behind) if even else None


def _are_walls(known: list[Array], shown: list[Array], least: float) -> bool:
    """Whether more than the share `least` of what is not the object has depth. known, shown: [H, W] bool, what has depth and
    what is the object."""
    beside = sum(int((k & ~s).sum()) for k, s in zip(known, shown, strict=True))
    return beside > least * max(1, sum(int((~s).sum()) for s in shown))


def _are_floors(known: list[Array], shares: list[Array]) -> bool:
    """Whether several views have more depth than the object, on some sides of it and well beyond its outline: all around it is
    the object itself, larger, and along its outline what a JPEG or a filter smears."""
    from scipy.ndimage import binary_dilation  # only now: it loads slowly

    beside = [k & (s <= 0) for k, s in zip(known, shares, strict=True)]
    much = [int(b.sum()) > PLENTY * int((s > 0).sum()) for b, s in zip(beside, shares, strict=True)]
    if sum(more and not _is_near(b, s) for more, b, s in zip(much, beside, shares, strict=True)) < SEVERAL:
        return False
    rings = [binary_dilation(s > 0, np.ones((3, 3)), SMEARED) & (s <= 0) for s in shares]
    around = sum(int((b & r).sum()) for b, r in zip(beside, rings, strict=True))
    return around < ALL_AROUND * sum(int(r.sum()) for r in rings)


def _cut(picture: Picture, known: Array, coverage: Array) -> Picture:
    """The depth render with an alpha that leaves out what is not the object."""
    counts = picture.pixels[..., 0]
    inside, values = known & (coverage > 0), np.where(known, counts + 1.0, 0.0)
    if not (known & ~inside).any():
        return picture
    inside &= ~_stray(np.where(inside, values, 0), coverage, np.where(inside, 0, values))
    alpha = np.where(inside, picture.maximum, 0)
    return replace(picture, pixels=np.dstack([counts, alpha]).astype(picture.pixels.dtype))


def _stray(depth: Array, coverage: Array, beside: Array | None = None) -> Array:
    """[H, W] bool: what smears over the object's rim: values there that no pixel further inside has nearby, and where it is known
    what lies beside the object, those that are nearer to that. depth, beside: [H, W], of any monotone kind, 0 where nothing is;
    coverage: [H, W] in [0, 1]."""
    from scipy.ndimage import (
        binary_erosion,
        distance_transform_edt,
    )  # only now: few sets have such depth, and it loads slowly

    deep = binary_erosion(coverage >= FULL, np.ones((3, 3)), SMEARED) & (depth > 0)
    if not deep.any():
        return np.zeros(depth.shape, bool)
    depths = depth[deep]
    far = APART * float(np.percentile(depths, 99) - np.percentile(depths, 1))
    distance, nearest = distance_transform_edt(~deep, return_indices=True)
    rim = ~deep & (depth > 0) & (distance < SMEARED + 3)
    apart = np.abs(depth - depth[tuple(nearest)])
    stray = rim & (apart > far)
    if beside is not None and beside.any():
        around = beside[tuple(distance_transform_edt(beside <= 0, return_distances=False, return_indices=True))]
        away = np.abs(depth - around)
        thin = (
            ~deep & (depth > 0) & (coverage < FULL)
        )  # far from what is deep inside: only what is surely not the object's
        stray = (stray & (away < apart)) | (thin & (away < SURELY * apart))
    return np.asarray(stray)


SMEARS = (
    "The depth renders smear over the object's outline, as JPEG, scaling or a filter leave it: what lies beside the outline, and "
    "what stands out of the depth around it, was left out. Depth saved as PNG, without a filter, gives a better mesh."
)


def _is_smeared(depth: MetricDepth, share: Array) -> bool:
    """Whether all that a depth render has beside the object lies along its outline, all around. share: [H, W], the object's of
    each pixel."""
    stray = (share <= 0) & (depth.depth > 0)
    if not stray.any():
        return True
    missing = int(((share >= FULL) & (depth.depth <= 0)).sum())
    return bool(_is_near(stray, share) and missing < MISSING * stray.sum())


def _is_near(stray: Array, share: Array) -> bool:
    """Whether what is beside the object, [H, W] bool, lies along its outline. share: [H, W], the object's of each pixel."""
    from scipy.ndimage import distance_transform_edt

    return bool((distance_transform_edt(share <= 0)[stray] <= BLOCK).mean() > ALONG)


def _without_ringing(depth: MetricDepth, share: Array) -> MetricDepth:
    """Coarse depth without what stands out of the depth around it, as blocks of a JPEG do along edges."""
    from scipy.ndimage import binary_erosion

    from steps.validate.depth.steadied import deviation

    inner = binary_erosion(share >= FULL, np.ones((3, 3)), SMEARED) & (depth.depth > 0)
    if not inner.any():
        return depth
    span = float(np.ptp(np.percentile(depth.depth[inner], [1, 99])))
    level = float(np.median(depth.step[inner]))
    if level < COARSE * span:  # a JPEG has 8 bits
        return depth
    off = deviation(depth.depth.astype(np.float64), inner)
    stray = (depth.depth > 0) & (off > max(RINGING * float(np.median(off[inner])), RINGING / 2 * level))
    return _without(depth, stray)


def removed(depths: list[MetricDepth], coverages: list[Array]) -> tuple[list[MetricDepth], list[str]]:
    """The depth maps without what lies beside the object, and what was done. coverages: [H, W] uint8, of the views."""
    kept, beside, inside = [], 0, 0
    shares = [masks.resized(c / np.float32(255), d.depth.shape) for c, d in zip(coverages, depths, strict=True)]
    for depth, share in zip(depths, shares, strict=True):
        nothing = share <= 0
        stray = nothing & (depth.depth > 0)
        beside, inside = beside + int(stray.sum()), inside + int((~nothing).sum())
        kept.append(_without(depth, nothing) if stray.any() else depth)
    if beside <= TOLD * max(1, inside):
        return kept, []
    kept = [_without(d, _stray(d.depth, share)) for d, share in zip(kept, shares, strict=True)]
    if all(_is_smeared(d, share) for d, share in zip(depths, shares, strict=True)):
        return [_without_ringing(d, share) for d, share in zip(kept, shares, strict=True)], [SMEARS]
    return kept, [f"{beside} pixels of the {BESIDE}: they were left out."]


def explained(error: ValidationFailed, notes: list[str]) -> ValidationFailed:
    """The same error, with what was noted of depth beside the object: that may be why the views contradict each other."""
    more = [note.removeprefix(WARNING) for note in notes if note == UNTOLD or BESIDE in note]
    if not more:
        return error
    return ValidationFailed(error.message, " ".join([error.suggestion, "Also:", *more]), **error.details)


def _without(depth: MetricDepth, where: Array) -> MetricDepth:
    layers = (np.where(where, np.float32(0), layer) for layer in (depth.depth, depth.step))
    return MetricDepth(*layers)
