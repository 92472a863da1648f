"""Applies the eXIf orientation of pictures stored on their side.

The tag can be stale: programs rotate pixels and keep it. View and depth render of one camera have the same outline, so both
orientations are compared, and the tag is applied unless the outlines match clearly better without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES
from steps.geometry.image_ops import iou
from steps.io import png_chunks
from steps.io.png import Picture

Pictures = dict[tuple[str, int], Picture]
SIDE = 96  # pixels at which outlines are compared
STALE_GAIN = 0.05  # of the outlines' intersection over union: better than that as stored, the note is not believed
FRAME_DIFFERENCE = 0.1  # of the range: a pixel that differs so much from the frame is the object's


def upright(pictures: Pictures) -> tuple[Pictures, list[str]]:
    """The pictures by field and index, upright, and notes. Those without the tag are unchanged."""
    result = dict(pictures)
    turned_names: list[str] = []
    stale: list[str] = []
    for (field, index), picture in pictures.items():
        if picture.orientation == 1:
            continue
        other = pictures.get(("depth_renders" if field == "multi_views" else "multi_views", index))
        place = f"{field}/{VIEW_NAMES[index]} (orientation {picture.orientation})"
        candidate = replace(picture, pixels=png_chunks.upright(picture.pixels, picture.orientation), orientation=1)
        believed = (
            other is None
            or _outline_iou(picture, _turned_upright(other))
            <= _outline_iou(candidate, _turned_upright(other)) + STALE_GAIN
        )
        result[field, index] = candidate if believed else replace(picture, orientation=1)
        (turned_names if believed else stale).append(place)
    notes = [f"Turned upright as the files' eXIf orientation says: {', '.join(turned_names)}."] if turned_names else []
    if stale:
        notes.append(f"Taken as stored, since turned by their eXIf orientation they fit less: {', '.join(stale)}.")
    return result, notes


def _turned_upright(picture: Picture) -> Picture:
    return replace(picture, pixels=png_chunks.upright(picture.pixels, picture.orientation))


def _outline_iou(a: Picture, b: Picture) -> float:
    """Intersection over union of the outlines; less than none where the proportions differ."""
    (ha, wa), (hb, wb) = a.pixels.shape[:2], b.pixels.shape[:2]
    if abs(wa * hb - ha * wb) > 0.01 * wa * hb:
        return -1.0
    return iou(_outline(a), _outline(b))


def _outline(picture: Picture) -> Array:
    """[SIDE, SIDE] bool: what is not transparent, else what differs from the picture's frame."""
    height, width = picture.pixels.shape[:2]
    rows, columns = (np.linspace(0, n - 1, SIDE).round().astype(int) for n in (height, width))
    small = picture.pixels[rows][:, columns].astype(np.float64) / picture.maximum
    if picture.alpha is not None and small[..., -1].min() < 0.5:
        return np.asarray(small[..., -1] >= 0.5)
    frame = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return np.asarray(np.abs(small - np.median(frame, axis=0)).max(axis=2) > FRAME_DIFFERENCE)
