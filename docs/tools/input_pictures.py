"""Draws the pictures of docs/inputs.md from samples: `python -m docs.tools.input_pictures`. Green frames: right; red: wrong."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from steps.compute.arrays import Array
from steps.runtime.contract import VIEW_NAMES

FOLDER = Path(__file__).parent.parent / "images"
SIDE, GAP, FRAME = 150, 8, 4
RIGHT, WRONG = "#1b7f4b", "#b3261e"


def sample(folder: Path, name: str) -> Path:
    """A set of one of the project's own objects."""
    words = [sys.executable, "-m", "pipeline.cli.main", "sample", str(folder / name), "--object", name, "--size", "256"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return folder / name


def view(path: Path, behind: str = "") -> Image.Image:
    """A view over a colour, or over the squares that stand for transparency."""
    picture = Image.open(path).convert("RGBA")
    squares = (np.indices(picture.size[::-1]) // 16).sum(axis=0) % 2 > 0
    ground = Image.fromarray(np.where(squares, 225, 250).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, behind) if behind else ground, picture).convert("RGB")


def depth(path: Path) -> Array:
    """The values of a depth render of 16 bits, from 0 to 1."""
    return np.asarray(Image.open(path), dtype=np.float64) / 65535


def grey(values: Array) -> Image.Image:
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8)).convert("RGB")


def strip(rows: list[list[tuple[Image.Image, str]]], name: str) -> None:
    """Writes rows of framed pictures."""
    cell = SIDE + 2 * FRAME + GAP
    whole = Image.new("RGB", (cell * max(map(len, rows)) - GAP, cell * len(rows) - GAP), "white")
    for y, row in enumerate(rows):
        for x, (picture, colour) in enumerate(row):
            resized = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            whole.paste(ImageOps.expand(resized, FRAME, colour), (x * cell, y * cell))
    whole.quantize(192, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        whole_set(sample(Path(place), "mug"))
        depths(sample(Path(place), "duck"))
        views(sample(Path(place), "house"))


def whole_set(folder: Path) -> None:
    """The six views, and below each its depth render."""
    above = [(view(folder / "multi_views" / f"{name}.png"), RIGHT) for name in VIEW_NAMES]
    below = [(grey(depth(folder / "depth_renders" / f"{name}.png")), RIGHT) for name in VIEW_NAMES]
    strip([above, below], "inputs-set.png")


def depths(folder: Path) -> None:
    """Linear, inverse with nearer brighter; then drawn with colours, a mask, blurred, a shaded picture."""
    values = depth(folder / "depth_renders" / "front.png")
    there = values > 0
    metres = 1.5 + 2 * values
    disparity = np.where(there, (1 / metres - 1 / 3.5) / (1 / 1.5 - 1 / 3.5), 0)
    picked = np.stack([values, 1 - abs(2 * values - 1), 1 - values], axis=2) * there[..., None]
    coloured = Image.fromarray((255 * picked).astype(np.uint8))
    blurred = grey(values).filter(ImageFilter.GaussianBlur(5))
    shaded = view(folder / "multi_views" / "front.png", "black").convert("L").convert("RGB")
    wrong = [coloured, grey(there.astype(np.float64)), blurred, shaded]
    strip([[(grey(values), RIGHT), (grey(disparity), RIGHT), *((p, WRONG) for p in wrong)]], "inputs-depth.png")


def views(folder: Path) -> None:
    """Transparent, before white; then cut off, in perspective other than its depth's, mirrored, turned."""
    front = folder / "multi_views" / "right.png"
    clear = view(front)
    w, h = clear.size
    cut = clear.crop((w // 4, h // 4, 3 * w // 4, 3 * h // 4))
    small = Image.new("RGB", (w, h), "white")
    small.paste(view(front, "white").resize((w // 2, h // 2)), (w // 3, h // 2))
    wrong = [cut, small, ImageOps.mirror(clear), clear.rotate(90)]
    strip([[(clear, RIGHT), (view(front, "white"), RIGHT), *((p, WRONG) for p in wrong)]], "inputs-views.png")


if __name__ == "__main__":
    main()
