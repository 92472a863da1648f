"""Structural similarity and geometric error, on the arrays' device. Pictures are [H, W, 3] float32 in [0, 1], sRGB."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

from steps.compute.arrays import Array
from steps.compute.device import is_on_host, ndimage_of

WINDOW = 7  # pixels, of the structural similarity


def ssim(reference: Array, picture: Array, where: Array) -> tuple[float, float]:
    """Structural similarity (Wang et al. 2004; 7 x 7 window, mean over channels, as scikit-image): over the full frame, and
    over the pixels in `where` [H, W] bool.

    Computed only where the pictures differ: for equal windows it is 1."""
    pixels = np.ones_like(reference, np.float32)
    part = _differing(reference, picture)
    if part is not None:
        pixels[part] = similarity(reference[part], picture[part])
    frame = slice(WINDOW // 2, -(WINDOW // 2))  # windows that reach over the picture's edge do not count
    return float(pixels[frame, frame].mean(dtype=np.float64)), float(pixels[where].mean(dtype=np.float64))


def similarity(reference: Array, picture: Array) -> Array:
    """Structural similarity around each pixel, [H, W, 3]: scikit-image's on a CPU, on a GPU the same formula."""
    if is_on_host(reference):
        _, pixels = structural_similarity(reference, picture, channel_axis=-1, data_range=1.0, full=True)
        return np.asarray(pixels)
    return similarity_by_filters(reference, picture)


def similarity_by_filters(reference: Array, picture: Array) -> Array:
    """`similarity` by means over windows, float64 as in scikit-image's result."""
    x, y = (image.astype(np.float64) for image in (reference, picture))
    uniform_filter, size = ndimage_of(x).uniform_filter, (WINDOW, WINDOW, 1)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (uniform_filter(image, size) for image in (x, y, x * x, y * y, x * y))
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance = unbiased * (mean_xx - mean_x**2 + mean_yy - mean_y**2)
    covariance = unbiased * (mean_xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similar: Array = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return similar / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))


def _differing(a: Array, b: Array) -> tuple[slice, slice] | None:
    """Slices around all differences, with the window's margin; None where there are none."""
    rows, columns = (a != b).any(axis=2).nonzero()
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
    difference = np.abs(reference[both] - depth[both]) if both.any() else np.zeros_like(reference[:1, 0])
    return {
        "mean": float(difference.mean()),
        "median": float(np.median(difference)),
        "p95": float(np.percentile(difference, 95)),
    }
