"""Interprets a view's alpha channel: whether it shows the object, and what its values mean.

Alpha is compared with the depth render's outline, since programs write it in many ways: constant, inverted, slightly below
full inside the object as matting leaves it, with a haze around it; and with colours at soft edges blended with black
(premultiplied) or another colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

from steps.compute.arrays import Array
from steps.geometry.image_ops import iou
from steps.io import png
from steps.io.png import Picture
from steps.runtime.contract import VIEW_NAMES
from steps.validate.foreground import holes, masks

# share of pixels with depth from which depth has no outline to compare with
EVERYWHERE = 0.9
LEAST_IOU = 0.7  # intersection over union from which alpha and depth show one outline
# share of opaque pixels without depth and of one colour from which alpha includes the background
TOO_WIDE = 0.15
DEEP = 2.5  # pixels from an outline, beyond which a surface covers pixels whole
MATTED = 0.02  # share of deep pixels that are not opaque
NEARLY = 0.96  # of the level inside the object, from which alpha counts as full
RIM = 1.5  # pixels from the object, within which a pixel may be covered in part
HAZE = 0.002  # of all pixels
LEAST_MIXING = 0.05  # RGB, root mean square: how far soft edges must differ from the colours beside them
MAX_REMAINING = 0.4  # of that, squared, that may remain after unmixing
SOFT = (0.1, 0.9)  # alpha of the pixels from which mixtures are estimated
ENOUGH = 5000  # such pixels of a view
AROUND = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
SNAP = 0.06  # a mixing colour within this of black or white is set to it


def interpret_alpha(views: list[Picture], insides: list[Array]) -> tuple[list[Picture], list[str]]:
    """The views with alpha that is coverage, or without alpha where it is meaningless; and notes. insides: [H, W] float, the
    depth render's object at the view's size."""
    notes = Notes()
    interpreted = [
        _without_useless_alpha(v, i, name, notes) for v, i, name in zip(views, insides, VIEW_NAMES, strict=True)
    ]
    interpreted = unpremultiply(interpreted, notes)
    interpreted = [
        v if v.alpha is None else _clean_alpha(v, i, name, notes)
        for v, i, name in zip(interpreted, insides, VIEW_NAMES, strict=True)
    ]
    return interpreted, notes.sentences()


class Notes:
    """What was decided, each with the views it holds for."""

    def __init__(self) -> None:
        self.by_reason: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.by_reason.setdefault(reason, []).append(name)

    def sentences(self) -> list[str]:
        every = len(VIEW_NAMES)
        return [f"{r} ({'all views' if len(n) == every else ', '.join(n)})." for r, n in self.by_reason.items()]


# -- does it say anything? ----------------------------------------------------------------------------------------------


def _without_useless_alpha(view: Picture, inside: Array, name: str, notes: Notes) -> Picture:
    """The view, without alpha that does not separate the object from the background."""
    alpha = view.alpha
    if alpha is None:
        return view
    if alpha.min() >= 0.5 or (np.ptp(alpha) < 0.02 and np.ptp(view.colour.reshape(-1, 3), axis=0).max() > 12):
        notes.add("Alpha is the same everywhere and says nothing: the object is told by depth and colour", name)
        return Picture(view.colour, 255)
    solid, object_ = alpha >= 0.5, inside >= 0.5
    if object_.mean() < EVERYWHERE and iou(~solid, object_) > LEAST_IOU > iou(solid, object_):
        notes.add("Alpha is full outside the object and was turned round", name)
        return _with(view, 1 - alpha)
    behind = solid & ~object_
    if behind.sum() > TOO_WIDE * solid.sum():
        behind &= distance_transform_edt(~object_) > 0.03 * max(solid.shape)
    if behind.sum() > TOO_WIDE * solid.sum():
        colours = view.colour[behind] / np.float32(255)
        colour = np.median(colours, axis=0)
        if np.percentile(np.abs(colours - colour).max(axis=1), 90) <= 2 * masks.UNIFORM_SPREAD:
            notes.add(
                "Alpha is full behind the object, too, and says little: the object is told by depth and colour", name
            )
            mixed = view.colour * alpha[..., None] + 255 * colour * (1 - alpha[..., None])
            return Picture(np.rint(mixed).astype(np.uint8), 255)
        share = behind.sum() / solid.sum()
        notes.add(
            f"WARNING: {share:.0%} of the opaque pixels are where the depth render shows nothing; alpha was believed",
            name,
        )
    return view


def _with(view: Picture, alpha: Array, colour: Array | None = None) -> Picture:
    """The view with another alpha, [H, W] in [0, 1], and other colours, [H, W, 3] in [0, 1]."""
    colours = view.colour if colour is None else png.to_bytes(colour)
    return replace(view, pixels=np.dstack([colours, png.to_bytes(alpha)]), maximum=255)


# -- colours at soft edges ----------------------------------------------------------------------------------------------


def unpremultiply(views: list[Picture], notes: Notes) -> list[Picture]:
    """The views with straight colours, where those at soft edges were blended with one colour: c = a * own + (1 - a) * behind,
    with `own` from the opaque pixels beside. One colour for all views, since they come from one program."""
    edges = [_soft_edges(v) for v in views if v.alpha is not None]
    if not edges or sum(len(e[0]) for e in edges) < 50:
        return views
    alpha, colour, own = (np.concatenate(part) for part in zip(*edges, strict=True))
    clear = 1 - alpha[:, None]
    behind = np.clip((clear * (colour - alpha[:, None] * own)).sum(axis=0) / (clear**2).sum(), 0, 1)
    behind = np.zeros(3) if behind.max() < SNAP else np.ones(3) if behind.min() > 1 - SNAP else behind
    as_stored = float(((colour - own) ** 2).sum(axis=1).mean())
    as_mixed = float(((colour - alpha[:, None] * own - clear * behind) ** 2).sum(axis=1).mean())
    if as_stored < LEAST_MIXING**2 or as_mixed > MAX_REMAINING * as_stored:
        return views
    what = "black (premultiplied alpha)" if not behind.any() else "#" + "".join(f"{round(255 * c):02x}" for c in behind)
    views_with_alpha = [name for view, name in zip(views, VIEW_NAMES, strict=True) if view.alpha is not None]
    for name in views_with_alpha:
        notes.add(f"Colours at soft edges were mixed with {what}, which was undone", name)
    return [v if v.alpha is None else _unmix(v, behind) for v in views]


def _soft_edges(view: Picture) -> tuple[Array, Array, Array]:
    """Sampled pixels at soft edges: alpha (n,), colour (n, 3), and mean colour of opaque neighbours (n, 3)."""
    assert view.alpha is not None
    alpha, colour = view.alpha, view.colour
    rows, columns = np.nonzero((alpha > SOFT[0]) & (alpha < SOFT[1]))
    step = max(1, len(rows) // ENOUGH)
    rows, columns = rows[::step], columns[::step]
    total, count = np.zeros((len(rows), 3)), np.zeros(len(rows))
    for dy, dx in AROUND:
        r, c = rows + dy, columns + dx
        inside = (r >= 0) & (c >= 0) & (r < alpha.shape[0]) & (c < alpha.shape[1])
        r, c = np.where(inside, r, 0), np.where(inside, c, 0)
        opaque = inside & (alpha[r, c] > SOFT[1])
        total += np.where(opaque[:, None], colour[r, c], 0)
        count += opaque
    has_opaque = count > 0
    neighbour_colour = total[has_opaque] / count[has_opaque][:, None] / 255
    return alpha[rows, columns][has_opaque], colour[rows, columns][has_opaque] / 255, neighbour_colour


def _unmix(view: Picture, behind: Array) -> Picture:
    alpha = view.alpha
    assert alpha is not None
    safe_alpha = np.maximum(alpha, 1e-3)[..., None]
    return _with(view, alpha, np.clip((view.colour / np.float32(255) - (1 - safe_alpha) * behind) / safe_alpha, 0, 1))


# -- numbers that mean coverage -----------------------------------------------------------------------------------------


def _clean_alpha(view: Picture, inside: Array, name: str, notes: Notes) -> Picture:
    """The view with alpha that is full inside the object and zero away from it."""
    given = view.alpha
    assert given is not None
    alpha = _without_gaps(given, inside, name, notes)
    deep = minimum_filter(alpha >= 0.5, 5)
    below = maximum_filter(alpha, 3) < 0.999  # a pixel that is covered in part by the rim of a slit has full neighbours
    if deep.any() and below[deep].mean() > MATTED:
        lowest = float(alpha[deep].min())
        notes.add("Alpha inside the object is below full, as matting leaves it, and was taken for full", name)
        if lowest < 0.6:
            notes.add("WARNING: parts of the object are half transparent (glass?) and were taken for opaque", name)
        alpha = np.where(deep, 1, _normalize_level(alpha, deep))
    if ((alpha > 0) & (alpha < 0.5) & (inside < 0.5)).sum() > HAZE * alpha.size:
        outside = distance_transform_edt((alpha < 0.5) & (inside < 0.5))
        if ((outside > 1 + DEEP) & (alpha > 0)).sum() > HAZE * alpha.size:
            notes.add("A haze of low alpha away from the object, such as a shadow, was left out", name)
            alpha = np.where(outside > RIM, 0, alpha)
    return view if alpha is given else _with(view, alpha)


def _normalize_level(alpha: Array, deep: Array) -> Array:
    """Alpha over its level inside the object, that of the nearest deep pixel; for thin parts the local maximum."""
    distance, (rows, columns) = distance_transform_edt(~deep, return_indices=True)
    level = np.where(distance <= 2 * DEEP, alpha[rows, columns], maximum_filter(alpha, 7))
    normalized = alpha / np.clip(level, 0.5, 1)
    return np.where(normalized > NEARLY, 1, normalized)


def _without_gaps(alpha: Array, inside: Array, name: str, notes: Notes) -> Array:
    """Alpha with holes filled where the depth render has a surface."""
    solid = alpha >= 0.5
    if iou(solid, inside >= 0.5) < LEAST_IOU:
        return alpha
    gaps, count = holes.enclosed(solid)
    mostly_depth = np.bincount(gaps.ravel(), inside.ravel(), count + 1) > 0.9 * np.bincount(
        gaps.ravel(), minlength=count + 1
    )
    gap = mostly_depth[gaps] & (gaps > 0)
    if gap.sum() < max(8, HAZE * solid.sum()):
        return alpha
    notes.add("Holes in alpha, in which the depth render shows a surface, were taken for the object", name)
    return np.where(gap, np.float32(1), alpha)
