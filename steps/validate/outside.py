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
    return kept, [
        f"{beside} pixels of the depth renders lie beside the object, as the views show it: they were left out."
    ]
