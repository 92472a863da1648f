"""Which part of each pixel the object covers, and what is behind it."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
CONTRAST = 0.1  # least distance (in RGB, 0 to sqrt 3) between object and background by which an edge pixel can be split
EVEN = 0.04  # largest spread of a background that counts as even
WHITE = np.ones(3, np.float32)


def resized(mask: Array, shape: tuple[int, int]) -> Array:
    """A mask [h, w] float in [0, 1] at another size, bilinear."""
    if mask.shape == shape:
        return mask.astype(np.float32)
    image = Image.fromarray(mask.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def background_colour(pictures: list[Array], insides: list[Array]) -> tuple[Array, bool]:
    """The colour (3,) in [0, 1] behind opaque pictures [H, W, 3] uint8, and whether it is even. insides: [H, W], the object."""
    frames = [p[_border(p.shape[:2]) & (i < 0.5)] for p, i in zip(pictures, insides, strict=True)]
    pixels = np.concatenate(frames) / np.float32(255)
    if not len(pixels):
        return WHITE, False
    colour = np.median(pixels, axis=0)
    return colour.astype(np.float32), bool(np.percentile(np.abs(pixels - colour).max(axis=1), 95) <= EVEN)


def _border(shape: tuple[int, ...]) -> Array:
    frame = np.ones(shape, bool)
    depth = max(1, min(shape) // 32)
    frame[depth:-depth, depth:-depth] = False
    return frame


def sharpened(inside: Array, colour: Array, background: Array) -> Array:
    """A hard mask [H, W] with its rim pixels split by colour: a rim pixel is a mixture of the background and of the object's
    colour next to it, and the mixing share is its coverage. Where the two look alike the mask stays as it was."""
    solid = _shrunk(inside >= 0.5)
    rim = _grown(inside >= 0.5) & ~solid
    near = _neighbour_mean(colour, _shrunk(solid))
    direction = near - background
    contrast = np.maximum((direction**2).sum(axis=-1), 1e-9)
    share = np.clip(((colour - background) * direction).sum(axis=-1) / contrast, 0.0, 1.0)
    usable = rim & (contrast > CONTRAST**2) & (near.sum(axis=-1) >= 0)
    return np.where(usable, share, inside).astype(np.float32)


def _shifts(mask: Array) -> list[Array]:
    padded = np.pad(mask, [(1, 1), (1, 1)] + [(0, 0)] * (mask.ndim - 2), mode="edge")
    h, w = mask.shape[:2]
    return [padded[1 + r : 1 + r + h, 1 + c : 1 + c + w] for r in (-1, 0, 1) for c in (-1, 0, 1)]


def _grown(mask: Array) -> Array:
    return np.asarray(np.logical_or.reduce(_shifts(mask)))


def _shrunk(mask: Array) -> Array:
    return np.asarray(np.logical_and.reduce(_shifts(mask)))


def _neighbour_mean(colour: Array, known: Array) -> Array:
    """The mean of the known colours within three pixels, -1 where there is none."""
    total, weight = colour * known[..., None], known.astype(np.float32)
    for _ in range(3):
        total, weight = reduce(np.add, _shifts(total)), reduce(np.add, _shifts(weight))
    return np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-9)[..., None], -1.0)
