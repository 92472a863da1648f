"""Image operations: PSNR, intersection over union, box filter, inpainting, on the arrays' device; bilinear samples."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array

BEST_PSNR = 100.0  # written for identical pictures, whose PSNR has no end


def psnr(reference: Array, picture: Array, where: Array | None = None) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels or those in `where` [H, W] bool."""
    squared = (reference - picture) ** 2
    mean = float((squared if where is None else squared[where]).mean(dtype=np.float64))
    return BEST_PSNR if mean <= 10 ** (-BEST_PSNR / 10) else float(-10.0 * np.log10(mean))


def iou(a: Array, b: Array) -> float:
    """Intersection over union of two masks [H, W] bool; 0 where both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def box_down(image: Array, factor: int) -> Array:
    """The mean over factor x factor blocks of `image` [H, W] or [H, W, C]; H and W must be multiples of factor."""
    height, width = (n // factor * factor for n in image.shape[:2])
    total = np.zeros_like(image[:height:factor, :width:factor], order="C")
    for row in range(factor):  # adding whole layers is several times faster than a mean over two axes of length two
        for column in range(factor):
            total += image[row::factor, column::factor]
    return total / image.dtype.type(factor * factor)


def inpaint(image: Array, known: Array) -> Array:
    """`image` [H, W, C] with the pixels outside `known` [H, W] bool filled smoothly (push-pull: Gortler et al., "The
    lumigraph", 1996). Known pixels keep their values."""
    if known.all() or min(known.shape) < 2:
        return image
    weight = known.astype(np.float32)[..., None]
    h, w = (n + n % 2 for n in known.shape)
    pad = ((0, h - known.shape[0]), (0, w - known.shape[1]), (0, 0))
    coarse_weight = box_down(np.pad(weight, pad), 2)
    coarse = box_down(np.pad(image * weight, pad), 2) / np.maximum(coarse_weight, 1e-6)
    coarse = inpaint(coarse.astype(np.float32), coarse_weight[..., 0] > 0)
    pulled = coarse.repeat(2, axis=0).repeat(2, axis=1)[: known.shape[0], : known.shape[1]]
    return np.where(known[..., None], image, pulled)


def sample_bilinear(image: Array, x: Array, y: Array, repeated: bool = False) -> Array:
    """`image` [H, W] or [H, W, C] at pixel coordinates, bilinear: in the shape of `x` and `y`, with C. Outside of the outermost
    pixels' centres: these pixels, or those of the opposite side where the image is repeated. `compute.kernels.blend` is the same
    within kernels, `raster.texture` has the boundary modes and gradients of a renderer."""
    from scipy.ndimage import map_coordinates  # only here: steps that need the rest of this module do without scipy

    mode = "grid-wrap" if repeated else "nearest"
    layers = image[..., None] if image.ndim == 2 else image
    at = y - 0.5, x - 0.5
    channels = [map_coordinates(layers[..., k], at, order=1, mode=mode) for k in range(layers.shape[2])]
    return np.asarray(channels[0] if image.ndim == 2 else np.stack(channels, axis=-1))
