"""Denoised depth renders, to estimate an encoding from.

The fit depends on extremes, and one bad pixel in a hundred can spoil these. So outlines come from the views where these have
any, values from a median filter, and outliers against it are left out."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_closing, binary_erosion, binary_fill_holes, distance_transform_edt, median_filter

from steps.compute.arrays import Array
from steps.io.png import Picture
from steps.validate.foreground import masks

WINDOW = 5  # pixels, of the median
RIM = 2  # pixels inside an outline where depth may be mixed with what is beside
# times the median deviation, and of the range of values: a pixel that deviates more is not asked
USUAL, LEAST = 3.0, 0.004
SOUND = 0.6  # of the pixels at the outline that have to go on as those within do, for any of them to be asked
FEW = 0.2  # of the pixels with depth: if fewer are left, all are asked
ALIKE = 0.8  # IoU of a view's outline and its depth render's, from which the view's is taken


def denoise(value: Array, view: Picture) -> tuple[Array, Array]:
    """A depth render [H, W] float, -1 where nothing is, median-filtered, -1 also at outliers; and the object's mask, [H, W]
    bool. view: the picture of the same camera."""
    known = value >= 0
    outline = _outline(known, view)
    inner = known & binary_erosion(outline, np.ones((3, 3)), RIM)
    if not inner.any():
        return value, outline
    smooth = median_filter(_extrapolate(value, inner), WINDOW)
    deviations = np.abs(value - smooth)
    value_range = float(np.ptp(np.percentile(value[inner], [1, 99])))
    reliable = known & outline & (deviations <= max(USUAL * float(np.median(deviations[inner])), LEAST * value_range))
    rim = known & outline & ~inner
    if (rim & reliable).sum() < SOUND * rim.sum():
        reliable &= inner
    if reliable.sum() < FEW * known.sum():
        return value, outline
    return np.where(reliable, smooth, -1.0), outline


def deviation(value: Array, inner: Array) -> Array:
    """[H, W]: deviation from the local median, with values beyond the pixels `inner` extrapolated from these."""
    return np.abs(value - median_filter(_extrapolate(value, inner), WINDOW))


def _extrapolate(value: Array, inner: Array) -> Array:
    """Values [H, W] extrapolated beyond the pixels `inner` [H, W] bool by point reflection at the nearest of them, which
    preserves planes."""
    rows, columns = distance_transform_edt(~inner, return_distances=False, return_indices=True)
    r, c = np.indices(inner.shape)
    mirrored = np.clip(2 * rows - r, 0, inner.shape[0] - 1), np.clip(2 * columns - c, 0, inner.shape[1] - 1)
    edge = value[rows, columns]
    return np.where(inner, value, np.where(inner[mirrored], 2 * edge - value[mirrored], edge))


def _outline(known: Array, view: Picture) -> Array:
    """From the view's transparency, where that matches the depth render; else the depth render's with holes filled."""
    closed = (
        known
        | binary_fill_holes(binary_closing(np.pad(known, WINDOW), np.ones((WINDOW, WINDOW))))[
            WINDOW:-WINDOW, WINDOW:-WINDOW
        ]
    )
    if view.alpha is None or view.alpha.min() >= 0.5:
        return np.asarray(closed)
    seen = masks.resize_mask(view.alpha, known.shape) >= 0.5
    return seen if (seen & closed).sum() > ALIKE * (seen | closed).sum() else np.asarray(closed)
