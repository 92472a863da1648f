"""Views in which the object is thinner than a pixel, such as a sheet seen edge-on: their depth render has a single value.

This is valid where the other views show the object, unless the view's picture shows it, or the depth render from the
opposite side."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES
from steps.io.png import Picture
from steps.runtime.errors import BadInput, ValidationFailed

OPPOSITE = (1, 0, 3, 2, 5, 4)  # of each of VIEW_NAMES
CONTRAST = 0.1  # RGB, largest channel: from the colour around a picture, from which a pixel may be of the object
FULL = 0.95  # of a picture, that the object fills, for its depth render of one value to be of a face seen head-on
ONE_VALUE = 0.9  # of a depth render's pixels on the object, to call it of one value: the others are its soft rim
RECTANGLE = 0.9  # of its box that an upright rectangle fills, with a soft rim
ADVICE = (
    "Where an object is too thin to be seen, it helps to turn it by about 45 degrees, so that no view looks at its edge, to "
    "render more pixels, or to thicken it: two pixels in each view are enough."
)


def faults(pictures: dict[tuple[str, int], Picture]) -> dict[int, BadInput]:
    """Faults of depth renders of one value, by the view's index. pictures: by field and index, as far as readable; depth
    renders are [H, W, 1], or [H, W, 2] with alpha."""
    depths = {i: p for (field, i), p in pictures.items() if field == "depth_renders"}
    flat = {i for i, p in depths.items() if np.ptp(p.pixels[..., 0]) == 0}
    empty = set(empty_of(depths))
    errors: dict[int, BadInput] = {}
    for i in sorted(flat):
        view, behind = pictures.get(("multi_views", i)), depths.get(OPPOSITE[i])
        if len(flat) == len(depths) or (i in empty and view is not None and not _is_thin(view_mask(view))):
            errors[i] = ValidationFailed(
                "has the same value everywhere: it holds no depth", f"Render the depth again. {ADVICE}"
            )
        elif i not in empty and view is not None and not _is_full(view):
            errors[i] = ValidationFailed(
                "has the same value everywhere, while the object does not fill the view: it holds no depth",
                "Render the depth again, with a value of its own for what is not the object.",
            )
        elif i in empty and behind is not None and OPPOSITE[i] not in empty and not _is_thin(_depth_mask(behind)):
            errors[i] = ValidationFailed(
                f"shows nothing, while the object is seen in {VIEW_NAMES[OPPOSITE[i]]}, from the opposite side",
                f"Render this view and its depth again. {ADVICE}",
            )
    return errors


def empty_of(depths: dict[int, Picture]) -> list[int]:
    """Indices of the views whose depth renders are all background."""
    flat = [i for i, p in depths.items() if np.ptp(p.pixels[..., 0]) == 0]
    return [i for i in flat if _is_background(depths[i], [p for k, p in depths.items() if k not in flat])]


def unexpectedly_empty(masks: list[Array]) -> list[int]:
    """Indices of views with an empty mask whose opposite view shows more than a thin part; all where all are empty. masks: six
    [H, W] bool."""
    empty = [i for i, mask in enumerate(masks) if not mask.any()]
    if len(empty) == len(masks):
        return empty
    return [i for i in empty if not _is_thin(masks[OPPOSITE[i]])]


def notes(indices: list[int]) -> list[str]:
    """Notes about views that validly show nothing."""
    names = ", ".join(VIEW_NAMES[i] for i in indices)
    return [f"The object is too thin to be seen in {names}: it is known from the other views alone."] if indices else []


def only_masks(depths: list[Picture]) -> bool:
    """Whether six depth renders contain only masks: one value on the object, the same in all, and not those of a box seen
    face-on."""
    usual, upright = set(), 0
    for depth in depths:
        mask = _depth_mask(depth)
        if not mask.any():
            return False
        values, number = np.unique(depth.pixels[..., 0][mask], return_counts=True)
        if number.max() < ONE_VALUE * number.sum():
            return False
        usual.add(int(values[number.argmax()]))
        rows, columns = np.nonzero(mask)
        upright += mask.sum() > RECTANGLE * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return len(usual) == 1 and upright <= len(depths) // 2


def _is_background(depth: Picture, others: list[Picture]) -> bool:
    """Whether a depth render of one value is all background: transparent, of an extreme value, or of the others' frames."""
    if depth.alpha is not None and not (depth.alpha >= 0.5).any():
        return True
    value = int(depth.pixels[0, 0, 0])
    return value in {0, depth.maximum} | {_frame_value(p.pixels[..., 0]) for p in others}


def _frame_value(counts: Array) -> int:
    """The most frequent value of a depth render's frame."""
    frame = np.concatenate([counts[0], counts[-1], counts[:, 0], counts[:, -1]])
    values, number = np.unique(frame, return_counts=True)
    return int(values[number.argmax()])


def _depth_mask(depth: Picture) -> Array:
    """[H, W] bool: pixels of a depth render that are not background."""
    counts = depth.pixels[..., 0]
    mask = counts != _frame_value(counts)
    return mask if depth.alpha is None else mask & (depth.alpha >= 0.5)


def view_mask(view: Picture) -> Array:
    """[H, W] bool: pixels of a view that may be the object, by alpha or by difference from the frame's colour."""
    if view.alpha is not None and (view.alpha < 0.5).any():
        return np.asarray(view.alpha >= 0.5)
    colour = view.colour / np.float32(255)
    frame = np.concatenate([colour[0], colour[-1], colour[:, 0], colour[:, -1]])
    return np.asarray(np.abs(colour - np.median(frame, axis=0)).max(axis=2) > CONTRAST)


def _is_thin(mask: Array) -> bool:
    """Whether a mask [H, W] bool is nowhere three pixels wide."""
    rows = mask[:-2] & mask[1:-1] & mask[2:]
    return not (rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]).any()


def _is_full(view: Picture) -> bool:
    return view.alpha is None or bool((view.alpha >= 0.5).mean() > FULL)
