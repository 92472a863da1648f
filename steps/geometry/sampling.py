"""Interpolation of whole arrays of samples. Loads scipy, which `image_ops` does without; `compute.kernels.blend` is the same
within kernels, `raster.texture` has the boundary modes and gradients of a renderer."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from steps.compute.arrays import Array


def sample_bilinear(image: Array, x: Array, y: Array, repeated: bool = False) -> Array:
    """`image` [H, W] or [H, W, C] at pixel coordinates, bilinear: in the shape of `x` and `y`, with C. Outside of the outermost
    pixels' centres: these pixels, or those of the opposite side where the image is repeated."""
    mode = "grid-wrap" if repeated else "nearest"
    layers = image[..., None] if image.ndim == 2 else image
    at = y - 0.5, x - 0.5
    channels = [map_coordinates(layers[..., k], at, order=1, mode=mode) for k in range(layers.shape[2])]
    return np.asarray(channels[0] if image.ndim == 2 else np.stack(channels, axis=-1))
