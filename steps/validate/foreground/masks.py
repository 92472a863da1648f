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

from steps.geometry.image_ops import inpaint
from steps.io import png
from steps.io.png import Picture
from steps.runtime.contract import VIEW_NAMES
from steps.validate.foreground import holes

Array = NDArray[Any]
CONTRAST = 0.1  # least distance (in RGB, 0 to sqrt 3) between object and background by which an edge pixel can be split
EVEN = 0.04  # largest spread of a background that counts as even
WHITE = np.ones(3, np.float32)
AROUND = 3  # pixels beside the object that are not asked for the background's colour: they are mixed


@dataclass(frozen=True)
class Masks:
    """coverages: [H, W] uint8 each, the object's share; behind: what is behind the object in each view, [H, W, 3] uint8, None
    where that is `background`, (3,), or nothing; source: what told the object; notes: what was decided."""

    coverages: list[Array]
    behind: list[Array | None]
    background: Array
    source: str
    notes: list[str] = field(default_factory=list)


def decided(views: list[Picture], insides: list[Array]) -> Masks:
    """The object in each view. insides: [H, W] float at the views' size, where there is depth."""
    opaque = [i for i, view in enumerate(views) if view.alpha is None]
    if not opaque:
        return Masks([_stored(view) for view in views], [None] * len(views), WHITE, "alpha")
    depths = [insides[i] for i in opaque]
    background, even = background_colour([views[i].colour for i in opaque], depths)
    outlines, notes = depths, []
    told = holes.found(depths, [views[i] for i in opaque], lambda c, i: background if even else trend(c, i))
    if told is not None:
        outlines = told
        notes.append("Holes in the depth renders that have the object's colours were taken for the object.")
    if not even:
        names = _named([(VIEW_NAMES[i], views[i].colour, insides[i]) for i in opaque])
        notes.append(f"What is behind the object is not of one colour: it was found for each view ({names}).")
    outline = dict(zip(opaque, outlines, strict=True))
    found: list[tuple[Array, Array | None]] = []
    for i, view in enumerate(views):  # one at a time: six large views as numbers would fill the memory
        if view.alpha is not None:
            found.append((_stored(view), None))
            continue
        colour = view.colour / np.float32(255)
        behind = background if even else surroundings(colour, outline[i])
        coverage = sharpened(outline[i], colour, behind)
        found.append((png.to_bytes(coverage), None if even else png.to_bytes(behind)))
    coverages, behinds = zip(*found, strict=True)
    return Masks(list(coverages), list(behinds), background if even else WHITE, "depth and colour", notes)


def _stored(view: Picture) -> Array:
    """The view's alpha, [H, W] uint8."""
    assert view.alpha is not None
    return png.to_bytes(view.alpha)


def _named(views: list[tuple[str, Array, Array]]) -> str:
    """The colour that most of each view's frame has."""
    told = [(name, background_colour([colour], [inside])[0]) for name, colour, inside in views]
    return ", ".join(f"{name} #{''.join(f'{round(255 * float(v)):02x}' for v in colour)}" for name, colour in told)


def trend(colour: Array, inside: Array) -> Array:
    """What is behind the object, [H, W, 3], as a cubic polynomial over the picture that most of the pixels around it follow
    (iteratively reweighted least squares, Cauchy's weights): parts of the object that depth leaves out do not bend it."""
    height, width = inside.shape
    x, y = (np.linspace(-0.5, 0.5, n) for n in (width, height))
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    rows, columns = np.nonzero(inside < 0.5)
    step = max(1, len(rows) // 5_000)
    rows, columns = rows[::step], columns[::step]
    terms = np.stack([x[columns] ** i * y[rows] ** j for i, j in powers], axis=-1)
    values, weight = colour[rows, columns].astype(np.float64), np.ones(len(rows))
    for _ in range(10):
        weighed = terms * weight[:, None]
        fitted = np.linalg.lstsq(weighed.T @ terms, weighed.T @ values, rcond=None)[0]
        weight = 1 / (1 + (np.abs(values - terms @ fitted).max(axis=1) / EVEN) ** 2)
    whole = np.zeros(colour.shape, np.float32)
    for (i, j), share in zip(powers, fitted.astype(np.float32), strict=True):
        whole += (y[:, None] ** j * x**i).astype(np.float32)[..., None] * share
    return np.clip(whole, 0, 1)


def surroundings(colour: Array, inside: Array) -> Array:
    """What is behind the object, [H, W, 3]: the view itself, and within the object a smooth continuation of what is around it."""
    outside = inside < 0.5
    for _ in range(AROUND):
        outside = _shrunk(outside)
    return inpaint(colour.astype(np.float32), outside) if outside.any() else np.broadcast_to(WHITE, colour.shape)


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
