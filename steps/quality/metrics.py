"""Structural similarity and geometric error. Pictures are [H, W, 3] float32 in [0, 1], sRGB."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

from steps.compute.arrays import Array

WINDOW = 7  # pixels, of the structural similarity


def ssim(reference: Array, picture: Array, where: Array) -> tuple[float, float]:
    """Structural similarity (Wang et al. 2004; 7 x 7 window, mean over channels, as scikit-image): over the full frame, and
    over the pixels in `where` [H, W] bool.

    Computed only where the pictures differ: for equal windows it is 1."""
    pixels = np.ones(reference.shape, np.float32)
    part = _differing(reference, picture)
    if part is not None:
        _, pixels[part] = structural_similarity(
            reference[part], picture[part], channel_axis=-1, data_range=1.0, full=True
        )
    frame = slice(WINDOW // 2, -(WINDOW // 2))  # windows that reach over the picture's edge do not count
    return float(pixels[frame, frame].mean(dtype=np.float64)), float(pixels[where].mean(dtype=np.float64))


def _differing(a: Array, b: Array) -> tuple[slice, slice] | None:
    """Slices around all differences, with the window's margin; None where there are none."""
    rows, columns = np.nonzero((a != b).any(axis=2))
    if not len(rows):
        return None
    ranges = [
        (int(i.min()) - WINDOW, int(i.max()) + 1 + WINDOW, n) for i, n in zip((rows, columns), a.shape[:2], strict=True)
    ]
    first, second = (slice(max(0, low), min(n, high)) for low, high, n in ranges)
    return first, second


def depth_error(reference: Array, depth: Array) -> dict[str, float]:
    """Absolute differences where both depth maps [H, W] have the object."""
    both = (reference > 0) & (depth > 0)
    difference = np.abs(reference[both] - depth[both]) if both.any() else np.zeros(1)
    return {
        "mean": float(difference.mean()),
        "median": float(np.median(difference)),
        "p95": float(np.percentile(difference, 95)),
    }
