"""Depth beside the object: of a wall or a floor behind it, smeared over its rim, or a picture format's noise. The views' outlines
say where the object is, and depth elsewhere is none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.formats.depth_encoding import DepthEncoding, MetricDepth, foreground
from steps.formats.png import Picture
from steps.validate import masks

Array = NDArray[Any]
FULL, HALF = 0.996, 0.5  # the object's share of a pixel: all, and most of it
SMEARED = 2  # pixels inside the outline that may show what is beside it, too
APART = 0.08  # of the object's range of depth
TOLD = 0.02  # of the object's pixels: more depth beside it is told
EVERYWHERE = 0.9  # of the pixels beside the object: so much depth is of something behind it
FRAMED = 0.05  # of the pictures' frames: so much depth is of a floor
OTHER = 0.03  # of the object's pixels, without depth: more, and it is another outline than the depth renders'
WALL = "The depth renders show something behind the object, too, a wall or a floor: the views' outlines leave it out."
UNTOLD = (
    "WARNING: the depth renders have something in nearly every pixel, such as a wall or a floor behind the object, and the views "
    "have no transparency that tells the object from it: give views with transparency, or depth renders with nothing around the "
    "object."
)


def without_surroundings(
    depths: list[Picture], views: list[Picture], means_nothing: list[int | str | None]
) -> tuple[list[Picture], list[str]]:
    """The depth renders [H, W] without what they show of a wall behind the object or of a floor under it, as the transparency of
    the views tells it from the object; and what was done. They are left as they are where they show as much as the views, or
    other things than these. means_nothing: the value of no depth in each."""
    known = [foreground(p, DepthEncoding(background=b)) for p, b in zip(depths, means_nothing, strict=True)]
    if any(view.alpha is None for view in views):
        return depths, [UNTOLD] if _are_walls(known, [np.zeros(k.shape, bool) for k in known]) else []
    coverages = [masks.resized(v.alpha, k.shape) for v, k in zip(views, known, strict=True) if v.alpha is not None]
    if not _are_walls(known, [c > 0 for c in coverages]) and not _are_floors(known, coverages):
        return depths, []
    missing = sum(int(((c >= HALF) & ~k).sum()) for c, k in zip(coverages, known, strict=True))
    if missing > OTHER * sum(int((c >= HALF).sum()) for c in coverages):
        return depths, []  # the outlines are not those of what the depth renders show
    return [_cut(*each) for each in zip(depths, known, coverages, strict=True)], [WALL]


def _are_walls(known: list[Array], shown: list[Array]) -> bool:
    """Whether nearly all that is not the object has depth. known, shown: [H, W] bool, what has depth and what is the object."""
    beside = sum(int((k & ~s).sum()) for k, s in zip(known, shown, strict=True))
    return beside > EVERYWHERE * max(1, sum(int((~s).sum()) for s in shown))


def _are_floors(known: list[Array], coverages: list[Array]) -> bool:
    """Whether depth that is not the object's reaches the frames of the pictures."""
    beside = [k & (c <= 0) for k, c in zip(known, coverages, strict=True)]
    edges = np.concatenate([np.concatenate([b[0], b[-1], b[:, 0], b[:, -1]]) for b in beside])
    return float(edges.mean()) > FRAMED


def _cut(picture: Picture, known: Array, coverage: Array) -> Picture:
    """The depth render with an alpha that leaves out what is not the object."""
    counts = picture.pixels[..., 0]
    inside = known & (coverage > 0)
    inside &= ~_stray(np.where(inside, counts + 1.0, 0.0), coverage)
    alpha = np.where(inside, picture.maximum, 0)
    return replace(picture, pixels=np.dstack([counts, alpha]).astype(picture.pixels.dtype))


def _stray(depth: Array, coverage: Array) -> Array:
    """[H, W] bool: what smears over the object's rim: values there that no pixel further inside has nearby. depth: [H, W], of any
    monotone kind, 0 where nothing is; coverage: [H, W] in [0, 1]."""
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
    return np.asarray(rim & (np.abs(depth - depth[tuple(nearest)]) > far))


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
    return kept, [
        f"{beside} pixels of the depth renders lie beside the object, as the views show it: they were left out."
    ]


def _without(depth: MetricDepth, where: Array) -> MetricDepth:
    layers = (np.where(where, np.float32(0), layer) for layer in (depth.depth, depth.step))
    return MetricDepth(*layers)
