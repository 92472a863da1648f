"""Depth renders with holes, speckles and the noise of a picture format, made fit to judge an encoding by.

What is stored is judged by its extremes, and one bad pixel in a hundred is enough to spoil these. So outlines come from the
views where those tell them, values from the median around each pixel, and a pixel that is far from that is not asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_erosion, binary_fill_holes, distance_transform_edt, median_filter

from steps.io.png import Picture
from steps.validate.foreground import masks

Array = NDArray[Any]
WINDOW = 5  # pixels, of the median
RIM = 2  # pixels inside an outline where depth may be mixed with what is beside
USUAL, LEAST = (
    3.0,
    0.004,
)  # times the median deviation, and of the range of values: a pixel that deviates more is not asked
SOUND = 0.6  # of the pixels at the outline that have to go on as those within do, for any of them to be asked
FEW = 0.2  # of the pixels with depth: if fewer are left, all are asked
ALIKE = 0.8  # IoU of a view's outline and its depth render's, from which the view's is taken


def steadied(value: Array, view: Picture) -> tuple[Array, Array]:
    """A depth render [H, W] float, -1 where nothing is, as the median around each pixel that may be asked, -1 elsewhere; and
    where the object is, [H, W] bool. view: the picture of the same camera."""
    known = value >= 0
    outline = _outline(known, view)
    inner = known & binary_erosion(outline, np.ones((3, 3)), RIM)
    if not inner.any():
        return value, outline
    smooth = median_filter(_continued(value, inner), WINDOW)
    off = np.abs(value - smooth)
    span = float(np.ptp(np.percentile(value[inner], [1, 99])))
    asked = known & outline & (off <= max(USUAL * float(np.median(off[inner])), LEAST * span))
    rim = known & outline & ~inner
    if (rim & asked).sum() < SOUND * rim.sum():
        asked &= inner
    if asked.sum() < FEW * known.sum():
        return value, outline
    return np.where(asked, smooth, -1.0), outline


def deviation(value: Array, inner: Array) -> Array:
    """[H, W]: how far each value is from the median around it, where those beyond the pixels `inner` go on as these do."""
    return np.abs(value - median_filter(_continued(value, inner), WINDOW))


def _continued(value: Array, inner: Array) -> Array:
    """Values [H, W] beyond the pixels `inner` [H, W] bool as these go on there: mirrored in the nearest of them, place and
    value, so that planes stay planes."""
    rows, columns = distance_transform_edt(~inner, return_distances=False, return_indices=True)
    r, c = np.indices(inner.shape)
    mirrored = np.clip(2 * rows - r, 0, inner.shape[0] - 1), np.clip(2 * columns - c, 0, inner.shape[1] - 1)
    edge = value[rows, columns]
    return np.where(inner, value, np.where(inner[mirrored], 2 * edge - value[mirrored], edge))


def _outline(known: Array, view: Picture) -> Array:
    """By the view's transparency, where that fits the depth render; else by that with its holes filled."""
    closed = (
        known
        | binary_fill_holes(binary_closing(np.pad(known, WINDOW), np.ones((WINDOW, WINDOW))))[
            WINDOW:-WINDOW, WINDOW:-WINDOW
        ]
    )
    if view.alpha is None or view.alpha.min() >= 0.5:
        return np.asarray(closed)
    seen = masks.resized(view.alpha, known.shape) >= 0.5
    return seen if (seen & closed).sum() > ALIKE * (seen | closed).sum() else np.asarray(closed)
