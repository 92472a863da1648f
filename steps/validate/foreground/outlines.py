"""A contact sheet of the six views with the segmented object's outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from steps.compute.arrays import Array
from steps.runtime.contract import VIEW_NAMES

TILE = 300  # pixels at the most, each way
LEFT_OUT = np.array([226, 60, 150])  # drawn over what is not the object
UNKNOWN = np.array([255, 150, 0])  # over the object where it has no depth
STRENGTH = 0.55


def sheet(scene: Path) -> Image.Image:
    """The contact sheet of a complete scene folder."""
    canvas = Image.new("RGB", (3 * TILE, 2 * TILE), "white")
    for index, name in enumerate(VIEW_NAMES):
        tile, x, y = _tile(scene, name), TILE * (index % 3), TILE * (index // 3)
        canvas.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        ImageDraw.Draw(canvas).text(
            (x + 6, y + 4), name, fill=(30, 30, 30), stroke_width=2, stroke_fill=(255, 255, 255)
        )
    return canvas


def _tile(scene: Path, name: str) -> Image.Image:
    with Image.open(scene / "views" / f"{name}.png") as view, Image.open(scene / "masks" / f"{name}.png") as mask:
        pixels = view.convert("RGBA")
        size = _fitting(*pixels.size)
        small = pixels.resize(size, Image.Resampling.BOX)
        over_white = Image.alpha_composite(Image.new("RGBA", size, "white"), small).convert("RGB")
        object_ = np.asarray(mask.resize(size, Image.Resampling.BOX)) >= 128
    depth = Image.fromarray((np.load(scene / "depth" / f"{name}.npy", mmap_mode="r") > 0).astype(np.uint8) * 255)
    known = np.asarray(depth.resize(size, Image.Resampling.BOX)) >= 128
    colours = _tinted(np.asarray(over_white, np.float32), ~object_, LEFT_OUT)
    return Image.fromarray(np.rint(_tinted(colours, object_ & ~known, UNKNOWN)).astype(np.uint8))


def _fitting(width: int, height: int) -> tuple[int, int]:
    scale = TILE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tinted(colours: Array, where: Array, tint: Array) -> Array:
    return np.where(where[..., None], colours * (1 - STRENGTH) + tint * STRENGTH, colours)
