"""Removes depth outside the object: of a wall or floor behind it, smeared over its rim, or noise of a picture format. The
views' outlines say where the object is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steps.compute.arrays import Array
from steps.io.depth_encoding import DepthEncoding, MetricDepth, foreground
from steps.io.png import Picture
from steps.runtime.errors import ValidationFailed
from steps.runtime.reporter import WARNING
from steps.validate.consistency import exchanged
from steps.validate.foreground import masks

FULL, HALF = 0.996, 0.5  # the object's share of a pixel: all, and most of it
SMEAR_PIXELS = 2  # pixels inside the outline that may be mixed with the surroundings
SURELY = 0.25  # of the difference from the inside: what is closer to the surroundings than this is surely theirs
APART = 0.08  # of the object's range of depth
NOTE_SHARE = 0.02  # of the object's pixels: more depth outside it gives a note
EVERYWHERE = 0.9  # of all pixels: with so much depth, opaque views are tested for a wall
# share of the background with depth from which it is a wall; share of the object without depth up to which it has holes
MOSTLY, MAX_MISSING = 0.75, 0.3
FLOOR_SHARE, FLOOR_VIEWS = 0.05, 3  # of the object's pixels: more depth outside it, in so many views, is a floor
ALL_AROUND = 0.8  # of the pixels just outside the outlines, with depth
OTHER = (
    0.03  # of the object's pixels in a view, without depth: with more, view and depth render show different outlines
)
BLOCK = 12  # pixels: how far from the outline a block of a JPEG, or a filter, smears depth
# A floor is a surface, even where margins are narrower than BLOCK. Pixels from the outline from which it begins; second
# difference of neighbours, of the object's range of depth; least share of such pixels in depth beside the object (smears: up to
# 0.03, a small plinth under a house: 0.36)
CLEAR, FLAT, SURFACE_SHARE = 3, 0.05, 0.1
# least share of outside depth within BLOCK, and largest share missing on the object, of smeared depth
ALONG, MISSING = 0.99, 0.1
COARSE = 1e-3  # of the object's range of depth: least level of a picture that may have been a JPEG
# times the median deviation from the surrounding depth, and half as many levels, from which a pixel is an outlier
RINGING = 3.0
WALL = "The depth renders show something behind the object, too, a wall or a floor: the views' outlines leave it out."
BESIDE = "depth renders lie beside the object, as the views show it"
UNKNOWN_OBJECT = (
    "WARNING: the depth renders have something in nearly every pixel, such as a wall or a floor behind the object, and the "
    "views have neither transparency nor an even colour behind that tells the object from it: give views with transparency, "
    "or depth renders with nothing around the object."
)


def without_surroundings(
    depths: list[Picture], views: list[Picture], means_nothing: list[int | str | None]
) -> tuple[list[Picture], list[str]]:
    """The depth renders [H, W] without walls and floors, as the views' transparency or uniform background tells them from the
    object; and notes. Unchanged where depth and views show equally much, or different things. means_nothing: the value of no
    depth in each."""
    known = [foreground(p, DepthEncoding(background=b)) for p, b in zip(depths, means_nothing, strict=True)]
    transparent = all(v.alpha is not None and v.alpha.min() < HALF for v in views)
    if not transparent and not _are_walls(known, [np.zeros(k.shape, bool) for k in known], EVERYWHERE):
        return depths, []  # depth itself tells the object of opaque views
    outlines = [v.alpha if transparent else _by_colour(v.colour) for v in views]
    if any(o is None for o in outlines):
        return depths, [UNKNOWN_OBJECT]
    coverages = [masks.resize_mask(o, k.shape) for o, k in zip(outlines, known, strict=True) if o is not None]
    missing = [((s >= HALF) & ~k).sum() / max(1, (s >= HALF).sum()) for s, k in zip(coverages, known, strict=True)]
    walls = _are_walls(known, [s > 0 for s in coverages], MOSTLY) and max(missing) < MAX_MISSING
    if not walls and (max(missing) > OTHER or not _are_floors(depths, known, coverages)):
        return depths, []
    return [_mask_out(*each) for each in zip(depths, known, coverages, strict=True)], [WALL]


def _by_colour(colour: Array) -> Array | None:
    """[H, W] float32: 1 where an opaque picture [H, W, 3] uint8 differs from its frame's colour; None where that is not
    uniform."""
    behind, even = masks.background_colour([colour], [np.zeros(colour.shape[:2])])
    return exchanged.differs_from_background(colour, behind) if even else None


def _are_walls(known: list[Array], shown: list[Array], least: float) -> bool:
    """Whether more than the share `least` of the background has depth. known, shown: [H, W] bool, depth and object."""
    beside = sum(int((k & ~s).sum()) for k, s in zip(known, shown, strict=True))
    return beside > least * max(1, sum(int((~s).sum()) for s in shown))


def _are_floors(depths: list[Picture], known: list[Array], coverages: list[Array]) -> bool:
    """Whether several views have more depth than the object, on some sides of it and well beyond its outline. All around it, it
    would be a larger object; along its outline, smearing by JPEG or a filter."""
    from scipy.ndimage import binary_dilation  # only now: it loads slowly

    beside = [k & (s <= 0) for k, s in zip(known, coverages, strict=True)]
    counts = [p.pixels[..., 0].astype(np.float64) for p in depths]
    much = [int(b.sum()) > FLOOR_SHARE * int((s > 0).sum()) for b, s in zip(beside, coverages, strict=True)]
    floors = (
        more and not _is_smear(b, s, values) for more, b, s, values in zip(much, beside, coverages, counts, strict=True)
    )
    if sum(floors) < FLOOR_VIEWS:
        return False
    rings = [binary_dilation(s > 0, np.ones((3, 3)), SMEAR_PIXELS) & (s <= 0) for s in coverages]
    around = sum(int((b & r).sum()) for b, r in zip(beside, rings, strict=True))
    return around < ALL_AROUND * sum(int(r.sum()) for r in rings)


def _mask_out(picture: Picture, known: Array, coverage: Array) -> Picture:
    """The depth render with an alpha channel that leaves out the surroundings."""
    counts = picture.pixels[..., 0]
    inside, values = known & (coverage > 0), np.where(known, counts + 1.0, 0.0)
    if not (known & ~inside).any():
        return picture
    inside &= ~_stray_pixels(np.where(inside, values, 0), coverage, np.where(inside, 0, values))
    alpha = np.where(inside, picture.maximum, 0)
    return replace(picture, pixels=np.dstack([counts, alpha]).astype(picture.pixels.dtype))


def _stray_pixels(depth: Array, coverage: Array, beside: Array | None = None) -> Array:
    """[H, W] bool: values smeared over the object's rim: unlike any pixel further inside, and where the surroundings' depth is
    known, closer to that. depth, beside: [H, W], of any monotone kind, 0 where nothing is; coverage: [H, W] in [0, 1]."""
    from scipy.ndimage import (
        binary_erosion,
        distance_transform_edt,
    )  # only now: few sets have such depth, and it loads slowly

    deep = binary_erosion(coverage >= FULL, np.ones((3, 3)), SMEAR_PIXELS) & (depth > 0)
    if not deep.any():
        return np.zeros(depth.shape, bool)
    depths = depth[deep]
    far = APART * float(np.percentile(depths, 99) - np.percentile(depths, 1))
    distance, nearest = distance_transform_edt(~deep, return_indices=True)
    rim = ~deep & (depth > 0) & (distance < SMEAR_PIXELS + 3)
    apart = np.abs(depth - depth[tuple(nearest)])
    stray = rim & (apart > far)
    if beside is not None and beside.any():
        around = beside[tuple(distance_transform_edt(beside <= 0, return_distances=False, return_indices=True))]
        away = np.abs(depth - around)
        thin = (
            ~deep & (depth > 0) & (coverage < FULL)
        )  # far from what is deep inside: only what is surely not the object's
        stray = (stray & (away < apart)) | (thin & (away < SURELY * apart))
    return np.asarray(stray)


SMEARS = (
    "The depth renders smear over the object's outline, as JPEG, scaling or a filter leave it: what lies beside the outline, and "
    "what stands out of the depth around it, was left out. Depth saved as PNG, without a filter, gives a better mesh."
)


def _is_smeared(depth: MetricDepth, coverage: Array) -> bool:
    """Whether all that a depth render has beside the object lies along its outline, all around. coverage: [H, W], how much of
    each pixel the object covers."""
    stray = (coverage <= 0) & (depth.depth > 0)
    if not stray.any():
        return True
    missing = int(((coverage >= FULL) & (depth.depth <= 0)).sum())
    return bool(_is_smear(stray, coverage, depth.depth) and missing < MISSING * stray.sum())


def _is_smear(stray: Array, coverage: Array, depth: Array) -> bool:
    """Whether what is beside the object, [H, W] bool, lies along its outline and is no surface. coverage: [H, W], the object's of
    each pixel; depth: [H, W], of any monotone kind."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(coverage <= 0)
    if (distance[stray] <= BLOCK).mean() <= ALONG:
        return False
    inside = depth[(coverage >= FULL) & (depth > 0)]
    span = float(np.ptp(np.percentile(inside, [1, 99]))) if len(inside) else 0.0
    return bool(_surface(stray & (distance > CLEAR), depth, FLAT * span).sum() < SURFACE_SHARE * stray.sum())


def _surface(known: Array, depth: Array, flat: float) -> Array:
    """[H, W] bool: pixels whose eight neighbours are known, with second differences of depth of at most `flat` along row and
    column. What a JPEG leaves around an outline is ripples with gaps between."""
    from scipy.ndimage import binary_erosion

    bend = np.zeros(depth.shape)
    for axis in (0, 1):
        beside = np.roll(depth, 1, axis) + np.roll(depth, -1, axis)
        bend = np.maximum(bend, np.abs(beside - 2 * depth.astype(np.float64)))
    return np.asarray(binary_erosion(known, np.ones((3, 3))) & (bend <= flat))


def _without_ringing(depth: MetricDepth, coverage: Array) -> MetricDepth:
    """Coarse depth without outliers against the surrounding median, as JPEG blocks leave them along edges."""
    from scipy.ndimage import binary_erosion

    from steps.validate.depth.steadied import deviation

    inner = binary_erosion(coverage >= FULL, np.ones((3, 3)), SMEAR_PIXELS) & (depth.depth > 0)
    if not inner.any():
        return depth
    span = float(np.ptp(np.percentile(depth.depth[inner], [1, 99])))
    level = float(np.median(depth.step[inner]))
    if level < COARSE * span:  # a JPEG has 8 bits
        return depth
    off = deviation(depth.depth.astype(np.float64), inner)
    stray = (depth.depth > 0) & (off > max(RINGING * float(np.median(off[inner])), RINGING / 2 * level))
    return _without(depth, stray)


def remove_outside(depths: list[MetricDepth], coverages: list[Array]) -> tuple[list[MetricDepth], list[str]]:
    """The depth maps without depth outside the object, and notes. coverages: [H, W] uint8, of the views."""
    cleaned, beside, inside = [], 0, 0
    resampled = [masks.resize_mask(c / np.float32(255), d.depth.shape) for c, d in zip(coverages, depths, strict=True)]
    for depth, coverage in zip(depths, resampled, strict=True):
        nothing = coverage <= 0
        stray = nothing & (depth.depth > 0)
        beside, inside = beside + int(stray.sum()), inside + int((~nothing).sum())
        cleaned.append(_without(depth, nothing) if stray.any() else depth)
    if beside <= NOTE_SHARE * max(1, inside):
        return cleaned, []
    cleaned = [_without(d, _stray_pixels(d.depth, coverage)) for d, coverage in zip(cleaned, resampled, strict=True)]
    if all(_is_smeared(d, coverage) for d, coverage in zip(depths, resampled, strict=True)):
        return [_without_ringing(d, coverage) for d, coverage in zip(cleaned, resampled, strict=True)], [SMEARS]
    return cleaned, [f"{beside} pixels of the {BESIDE}: they were left out."]


def with_notes(error: ValidationFailed, notes: list[str]) -> ValidationFailed:
    """The error with notes on depth outside the object, which may be why the views contradict each other."""
    more = [note.removeprefix(WARNING) for note in notes if note == UNKNOWN_OBJECT or BESIDE in note]
    if not more:
        return error
    return ValidationFailed(error.message, " ".join([error.suggestion, "Also:", *more]), **error.details)


def _without(depth: MetricDepth, where: Array) -> MetricDepth:
    layers = (np.where(where, np.float32(0), layer) for layer in (depth.depth, depth.step))
    return MetricDepth(*layers)
