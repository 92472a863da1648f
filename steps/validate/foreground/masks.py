"""The object's coverage of each pixel, and the background behind it.

From a view's transparency where it has any (`alpha` interprets it before). In opaque views from depth, in its holes from
colour (see `holes`); pixels at the rim are matted between object and background."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.geometry.image_ops import inpaint
from steps.io import png
from steps.io.png import Picture
from steps.runtime.contract import VIEW_NAMES
from steps.validate.foreground import holes

CONTRAST = 0.1  # least distance (in RGB, 0 to sqrt 3) between object and background by which an edge pixel can be split
UNIFORM_SPREAD = 0.04  # largest spread of a background that counts as even
WHITE = np.ones(3, np.float32)
RIM_PIXELS = 3  # pixels beside the object that are not asked for the background's colour: they are mixed


@dataclass(frozen=True)
class Masks:
    """coverages: [H, W] uint8 each; behind: the background of each view, [H, W, 3] uint8, None where that is `background`,
    (3,), or nothing; uniform: the one colour (3,) behind each opaque view, None where it has several; source: what the object
    was segmented by; notes: for the report."""

    coverages: list[Array]
    behind: list[Array | None]
    background: Array
    uniform: list[Array | None]
    source: str
    notes: list[str] = field(default_factory=list)


def segment(views: list[Picture], insides: list[Array]) -> Masks:
    """The object in each view. insides: [H, W] float at the views' size, where there is depth."""
    opaque = [i for i, view in enumerate(views) if view.alpha is None]
    if not opaque:
        nothing: list[Array | None] = [None] * len(views)
        return Masks([_stored(view) for view in views], nothing, WHITE, nothing, "alpha")
    depths = [insides[i] for i in opaque]
    background, even = background_colour([views[i].colour for i in opaque], depths)
    outlines, notes = depths, []
    completed = holes.complete_outlines(
        depths, [views[i] for i in opaque], lambda c, i: background if even else background_polynomial(c, i)
    )
    if completed is not None:
        outlines = completed
        notes.append("Holes in the depth renders that have the object's colours were taken for the object.")
    own = {i: (background, True) if even else background_colour([views[i].colour], [insides[i]]) for i in opaque}
    if not even:
        names = ", ".join(f"{VIEW_NAMES[i]} {_in_hex(colour)}" for i, (colour, _) in own.items())
        notes.append(f"What is behind the object is not of one colour: it was found for each view ({names}).")
    outline = dict(zip(opaque, outlines, strict=True))
    results: list[tuple[Array, Array | None]] = []
    for i, view in enumerate(views):  # one at a time: six large views as numbers would fill the memory
        if view.alpha is not None:
            results.append((_stored(view), None))
            continue
        colour = view.colour / np.float32(255)
        behind = background if even else inpaint_background(colour, outline[i])
        coverage = refine_rim(outline[i], colour, behind)
        results.append((png.to_bytes(coverage), None if even else png.to_bytes(behind)))
    coverages, behinds = zip(*results, strict=True)
    uniform = [own[i][0] if i in own and own[i][1] else None for i in range(len(views))]
    return Masks(list(coverages), list(behinds), background if even else WHITE, uniform, "depth and colour", notes)


def _stored(view: Picture) -> Array:
    """The view's alpha channel, [H, W] uint8."""
    assert view.alpha is not None
    return png.to_bytes(view.alpha)


def _in_hex(colour: Array) -> str:
    """A colour (3,) in [0, 1] as #rrggbb."""
    return f"#{''.join(f'{round(255 * float(v)):02x}' for v in colour)}"


def background_polynomial(colour: Array, inside: Array) -> Array:
    """Background [H, W, 3] as a cubic polynomial fitted to the pixels around the object (iteratively reweighted least squares,
    Cauchy's weights), robust to parts of the object without depth."""
    height, width = inside.shape
    x, y = (np.linspace(-0.5, 0.5, n) for n in (width, height))
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    rows, columns = np.nonzero(inside < 0.5)
    step = max(1, len(rows) // 5_000)
    rows, columns = rows[::step], columns[::step]
    terms = np.stack([x[columns] ** i * y[rows] ** j for i, j in powers], axis=-1)
    values, weight = colour[rows, columns].astype(np.float64), np.ones(len(rows))
    for _ in range(10):
        weighted = terms * weight[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=None)[0]
        weight = 1 / (1 + (np.abs(values - terms @ coefficients).max(axis=1) / UNIFORM_SPREAD) ** 2)
    background = np.zeros(colour.shape, np.float32)
    for (i, j), coefficient in zip(powers, coefficients.astype(np.float32), strict=True):
        background += (y[:, None] ** j * x**i).astype(np.float32)[..., None] * coefficient
    return np.clip(background, 0, 1)


def inpaint_background(colour: Array, inside: Array) -> Array:
    """Background [H, W, 3]: the view, inpainted within the object."""
    outside = inside < 0.5
    for _ in range(RIM_PIXELS):
        outside = _erode(outside)
    return inpaint(colour.astype(np.float32), outside) if outside.any() else np.broadcast_to(WHITE, colour.shape)


def resize_mask(mask: Array, shape: tuple[int, int]) -> Array:
    """A mask [h, w] float in [0, 1] at another size, bilinear."""
    if mask.shape == shape:
        return mask.astype(np.float32)
    image = Image.fromarray(mask.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def background_colour(pictures: list[Array], insides: list[Array]) -> tuple[Array, bool]:
    """Median colour (3,) in [0, 1] of the frames of opaque pictures [H, W, 3] uint8, and whether it is uniform. insides: [H,
    W], the object."""
    frames = [p[_border(p.shape[:2]) & (i < 0.5)] for p, i in zip(pictures, insides, strict=True)]
    pixels = np.concatenate(frames) / np.float32(255)
    if not len(pixels):
        return WHITE, False
    colour = np.median(pixels, axis=0)
    return colour.astype(np.float32), bool(np.percentile(np.abs(pixels - colour).max(axis=1), 95) <= UNIFORM_SPREAD)


def _border(shape: tuple[int, ...]) -> Array:
    frame = np.ones(shape, bool)
    depth = max(1, min(shape) // 32)
    frame[depth:-depth, depth:-depth] = False
    return frame


def refine_rim(inside: Array, colour: Array, background: Array) -> Array:
    """Mattes the rim of a hard mask [H, W] by colour: a rim pixel mixes the background and the object's colour beside it, by
    its coverage. Unchanged where the two look alike. background: (3,) or [H, W, 3]."""
    solid = _erode(inside >= 0.5)
    rim = _dilate(inside >= 0.5) & ~solid
    near = neighbour_mean(colour, _erode(solid))
    direction = near - background
    contrast = np.maximum((direction**2).sum(axis=-1), 1e-9)
    coverage = np.clip(((colour - background) * direction).sum(axis=-1) / contrast, 0.0, 1.0)
    usable = rim & (contrast > CONTRAST**2) & (near.sum(axis=-1) >= 0)
    return np.where(usable, coverage, inside).astype(np.float32)


def _shifts(mask: Array) -> list[Array]:
    padded = np.pad(mask, [(1, 1), (1, 1)] + [(0, 0)] * (mask.ndim - 2), mode="edge")
    h, w = mask.shape[:2]
    return [padded[1 + r : 1 + r + h, 1 + c : 1 + c + w] for r in (-1, 0, 1) for c in (-1, 0, 1)]


def _dilate(mask: Array) -> Array:
    return np.asarray(np.logical_or.reduce(_shifts(mask)))


def _erode(mask: Array) -> Array:
    return np.asarray(np.logical_and.reduce(_shifts(mask)))


def neighbour_mean(colour: Array, known: Array) -> Array:
    """The mean of the known colours within three pixels, -1 where there is none."""
    total, weight = colour * known[..., None], known.astype(np.float32)
    for _ in range(3):
        total, weight = reduce(np.add, _shifts(total)), reduce(np.add, _shifts(weight))
    return np.where(weight[..., None] > 0, total / np.maximum(weight, 1e-9)[..., None], -1.0)
