"""Depth beside the object: of a wall or a floor behind it, smeared over its rim, or a picture format's noise. The views' outlines
say where the object is, and depth elsewhere is none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.formats.depth_encoding import MetricDepth
from steps.validate import masks

Array = NDArray[Any]
FULL = 254  # of 255: a pixel that the object covers whole
SMEARED = 2  # pixels inside the outline that may show what is beside it, too
APART = 0.08  # of the object's range of depth
TOLD = 0.02  # of the object's pixels: more depth beside it is told
BLOCK = 12  # pixels: how far from the outline a block of a JPEG, or a filter, smears depth
ALONG, MISSING = (
    0.99,
    0.1,
)  # of what lies beside the object: so much within that, and so much missing on the object at most
COARSE = 1e-3  # of the object's range of depth: levels of a picture that can have been a JPEG
RINGING = (
    3.0  # times the usual deviation from the depth around, and half of it times a level: from there a pixel stands out
)
EVERYWHERE = 0.9  # of the pixels beside the object: so much depth is of something behind it


def _without_rim(depth: MetricDepth, coverage: Array) -> MetricDepth:
    """Without what smears over the object's rim: depth there that no pixel further inside has nearby."""
    from scipy.ndimage import (
        binary_erosion,
        distance_transform_edt,
    )  # only now: few sets have such depth, and it loads slowly

    deep = binary_erosion(coverage >= FULL, np.ones((3, 3)), SMEARED) & (depth.depth > 0)
    if not deep.any():
        return depth
    depths = depth.depth[deep]
    far = APART * float(np.percentile(depths, 99) - np.percentile(depths, 1))
    distance, nearest = distance_transform_edt(~deep, return_indices=True)
    rim = ~deep & (depth.depth > 0) & (distance < SMEARED + 3)
    stray = rim & (np.abs(depth.depth - depth.depth[tuple(nearest)]) > far)
    return replace(
        depth, depth=np.where(stray, np.float32(0), depth.depth), step=np.where(stray, np.float32(0), depth.step)
    )


WALL = "The depth renders show something behind the object, too, a wall or a floor: the views' outlines leave it out."


SMEARS = (
    "The depth renders smear over the object's outline, as JPEG, scaling or a filter leave it: what lies beside the outline, and "
    "what stands out of the depth around it, was left out. Depth saved as PNG, without a filter, gives a better mesh."
)


def _is_smeared(depth: MetricDepth, coverage: Array) -> bool:
    """Whether all that a depth render has beside the object lies along its outline, all around. coverage: [H, W] uint8."""
    from scipy.ndimage import distance_transform_edt

    share = masks.resized(coverage.astype(np.float32), depth.depth.shape)
    stray = (share <= 0) & (depth.depth > 0)
    if not stray.any():
        return True
    near = distance_transform_edt(share <= 0)[stray] <= BLOCK
    missing = int(((share >= FULL) & (depth.depth <= 0)).sum())
    return bool(near.mean() > ALONG and missing < MISSING * stray.sum())


def _without_ringing(depth: MetricDepth, coverage: Array) -> MetricDepth:
    """Coarse depth without what stands out of the depth around it, as blocks of a JPEG do along edges."""
    from scipy.ndimage import binary_erosion

    from steps.validate.steadied import deviation

    inner = binary_erosion(coverage >= FULL, np.ones((3, 3)), SMEARED) & (depth.depth > 0)
    if not inner.any():
        return depth
    span = float(np.ptp(np.percentile(depth.depth[inner], [1, 99])))
    level = float(np.median(depth.step[inner]))
    if level < COARSE * span:  # a JPEG has 8 bits
        return depth
    off = deviation(depth.depth.astype(np.float64), inner)
    stray = (depth.depth > 0) & (off > max(RINGING * float(np.median(off[inner])), RINGING / 2 * level))
    kept = (np.where(stray, np.float32(0), layer) for layer in (depth.depth, depth.step))
    return replace(depth, **dict(zip(("depth", "step"), kept, strict=True)))


def removed(depths: list[MetricDepth], coverages: list[Array]) -> tuple[list[MetricDepth], list[str]]:
    """The depth maps without what lies beside the object, and what was done: WALL, or another sentence. coverages: [H, W] uint8,
    of the views."""
    kept, beside, empty, inside = [], 0, 0, 0
    for depth, coverage in zip(depths, coverages, strict=True):
        nothing = masks.resized(coverage.astype(np.float32), depth.depth.shape) <= 0
        stray = nothing & (depth.depth > 0)
        beside, empty, inside = beside + int(stray.sum()), empty + int(nothing.sum()), inside + int((~nothing).sum())
        clean = (np.where(nothing, np.float32(0), layer) for layer in (depth.depth, depth.step))
        kept.append(replace(depth, **dict(zip(("depth", "step"), clean, strict=True))) if stray.any() else depth)
    if beside <= TOLD * max(1, inside):
        return kept, []
    kept = [
        _without_rim(d, masks.resized(c.astype(np.float32), d.depth.shape))
        for d, c in zip(kept, coverages, strict=True)
    ]
    if beside > EVERYWHERE * empty:
        return kept, [WALL]
    if all(_is_smeared(d, c) for d, c in zip(depths, coverages, strict=True)):
        shares = [masks.resized(c.astype(np.float32), d.depth.shape) for d, c in zip(kept, coverages, strict=True)]
        return [_without_ringing(d, c) for d, c in zip(kept, shares, strict=True)], [SMEARS]
    return kept, [
        f"{beside} pixels of the depth renders lie beside the object, as the views show it: they were left out."
    ]
