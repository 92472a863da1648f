"""Which part of each pixel the object covers, and what is behind it.

Where a view has transparency, that says it (see `alpha`, which judges it before). In opaque views depth says where the object is,
colour where depth has holes (see `holes`), and the pixels at the rim are split between the object and what is behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.contracts import VIEW_NAMES
from steps.formats import png
from steps.formats.png import Picture
from steps.geometry.images import filled
from steps.validate import holes

Array = NDArray[Any]
CONTRAST = 0.1  # least distance (in RGB, 0 to sqrt 3) between object and background by which an edge pixel can be split
EVEN = 0.04  # largest spread of a background that counts as even
WHITE = np.ones(3, np.float32)
AROUND = 3  # pixels beside the object that are not asked for the background's colour: they are mixed


@dataclass(frozen=True)
class Masks:
    """views: the pictures to go on with, where the background differs with transparency of their own; coverages: [H, W] float32
    each; background: (3,), what renders are compared over; source: what told the object; notes: what was decided."""

    views: list[Picture]
    coverages: list[Array]
    background: Array
    source: str
    notes: list[str] = field(default_factory=list)


def decided(views: list[Picture], insides: list[Array]) -> Masks:
    """The object in each view. insides: [H, W] float at the views' size, where there is depth."""
    opaque = [i for i, view in enumerate(views) if view.alpha is None]
    coverages = [np.asarray(i if v.alpha is None else v.alpha, np.float32) for v, i in zip(views, insides, strict=True)]
    if not opaque:
        return Masks(views, coverages, WHITE, "alpha")
    pictures, depths = [views[i].colour for i in opaque], [insides[i] for i in opaque]
    background, even = background_colour(pictures, depths)
    colours = [p / np.float32(255) for p in pictures]
    behind = [background if even else surroundings(c, i) for c, i in zip(colours, depths, strict=True)]
    outlines = holes.found(depths, colours, behind)
    notes = []
    if any(a is not b for a, b in zip(outlines, depths, strict=True)):
        notes.append("Holes in the depth renders that have the object's colours were taken for the object.")
    shown = list(views)
    for i, outline, colour, back in zip(opaque, outlines, colours, behind, strict=True):
        coverages[i] = sharpened(outline, colour, back)
        if not even:
            shown[i] = cut_out(colour, coverages[i], back)
    if not even:
        notes.append(
            f"What is behind the object is not of one colour ({_named(opaque, colours, depths)}): it was found for each view and "
            "taken away, and pictures and renders are compared over white."
        )
    return Masks(shown, coverages, background if even else WHITE, "depth and colour", notes)


def _named(indices: list[int], colours: list[Array], insides: list[Array]) -> str:
    """The colour that most of each view's frame has."""
    told = [background_colour([png.to_bytes(c)], [i])[0] for c, i in zip(colours, insides, strict=True)]
    codes = ["#" + "".join(f"{round(255 * float(v)):02x}" for v in colour) for colour in told]
    return ", ".join(f"{VIEW_NAMES[i]} {code}" for i, code in zip(indices, codes, strict=True))


def surroundings(colour: Array, inside: Array) -> Array:
    """What is behind the object, [H, W, 3]: the view itself, and within the object a smooth continuation of what is around it."""
    outside = inside < 0.5
    for _ in range(AROUND):
        outside = _shrunk(outside)
    return filled(colour.astype(np.float32), outside) if outside.any() else np.broadcast_to(WHITE, colour.shape)


def cut_out(colour: Array, coverage: Array, behind: Array) -> Picture:
    """An opaque view [H, W, 3] in [0, 1] as RGBA: the object's own colours, where they were mixed with what is behind."""
    share = np.maximum(coverage, 1e-3)[..., None]
    own = np.clip((colour - (1 - share) * behind) / share, 0, 1)
    return Picture(np.dstack([png.to_bytes(own), png.to_bytes(coverage)]), 255)


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
    colour next to it, and the mixing share is its coverage. Where the two look alike the mask stays as it was. background: (3,)
    or [H, W, 3]."""
    solid = _shrunk(inside >= 0.5)
    rim = _grown(inside >= 0.5) & ~solid
    near = neighbour_mean(colour, _shrunk(solid))
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


def neighbour_mean(colour: Array, known: Array) -> Array:
    """The mean of the known colours within three pixels, -1 where there is none."""
    total, weight = colour * known[..., None], known.astype(np.float32)
    for _ in range(3):
        total, weight = reduce(np.add, _shifts(total)), reduce(np.add, _shifts(weight))
    return np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-9)[..., None], -1.0)
