"""Views: alpha, background, orientation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steps.runtime.contract import VIEW_NAMES
from tests.cases.kit import (
    Array,
    Case,
    cameras,
    depth,
    each_view,
    metres,
    view,
    write_cameras,
    write_depth,
    write_png,
    write_view,
)
from tests.damage import chunk

SHADES = ((40, 200, 60), (200, 60, 40), (60, 40, 200), (250, 250, 250), (128, 128, 128), (0, 0, 0))


# -- transparency -------------------------------------------------------------------------------------------------------


def over(rgba: Array, behind: Any) -> Array:
    """[H, W, 4] uint8 over a colour (3,) or a picture [H, W, 3]: [H, W, 3] uint8."""
    share = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * share + np.asarray(behind) * (1 - share)).astype(np.uint8)


def full_alpha(folder: Path, level: int = 255, behind: Any = (255, 255, 255)) -> Path:
    return each_view(folder, lambda v: np.dstack([over(v, behind), np.full(v.shape[:2], level, np.uint8)]))


def rounded_corners(folder: Path) -> Path:
    """A picture of a window: opaque but for its corners."""

    def change(v: Array) -> Array:
        h, w = v.shape[:2]
        y, x = np.mgrid[0:h, 0:w]
        corner = np.hypot(np.maximum(np.abs(x - w / 2) - 0.42 * w, 0), np.maximum(np.abs(y - h / 2) - 0.42 * h, 0))
        alpha = np.clip(0.08 * w - corner, 0, 1) * 255
        return np.dstack([over(v, (255, 255, 255)), alpha.astype(np.uint8)])

    return each_view(folder, change)


def alpha_changed(folder: Path, change: Callable[[Array, int], Array]) -> Path:
    """change: from alpha [H, W] in 0 to 255 and the view's number to another."""
    for index, name in enumerate(VIEW_NAMES):
        pixels = view(folder, name).copy()
        pixels[..., 3] = np.rint(np.clip(change(pixels[..., 3].astype(float), index), 0, 255))
        write_view(folder, name, pixels)
    return folder


def matte(alpha: Array, index: int) -> Array:
    y, x = np.mgrid[0 : alpha.shape[0], 0 : alpha.shape[1]]
    return alpha * (0.89 + 0.11 * np.sin(x / 17 + index) * np.sin(y / 23))


def shadowed(alpha: Array, index: int) -> Array:
    """With a soft shadow below the object, as a shadow catcher leaves it."""
    y, x = np.mgrid[0 : alpha.shape[0], 0 : alpha.shape[1]] / max(alpha.shape)
    return np.maximum(alpha, 90 * np.exp(-(((x - 0.5) / 0.25) ** 2) - ((y - 0.93) / 0.04) ** 2))


def mixed_edges(folder: Path, behind: tuple[int, int, int]) -> Path:
    """Colours over one colour, and alpha kept beside."""
    return each_view(folder, lambda v: np.dstack([over(v, behind), v[..., 3]]))


# -- what is behind -----------------------------------------------------------------------------------------------------


def screens(folder: Path) -> Path:
    """Another even colour in each view, darker towards the top."""
    for name, shade in zip(VIEW_NAMES, SHADES, strict=True):
        pixels = view(folder, name)
        write_view(folder, name, over(pixels, np.array(shade) * np.linspace(0.6, 1, len(pixels))[:, None, None]))
    return folder


def vignettes(folder: Path) -> Path:
    """Two colours over each view, that run into each other aslant, and darker corners."""
    for index, name in enumerate(VIEW_NAMES):
        pixels = view(folder, name)
        y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]] / max(pixels.shape) - 0.5
        turn = (x * np.cos(index) + y * np.sin(index) + 0.5)[..., None]
        mixed = turn * np.array(SHADES[index]) + (1 - turn) * np.array(SHADES[(index + 1) % 3]) + 30
        write_view(folder, name, over(pixels, np.clip(mixed * (1.1 - np.hypot(x, y)[..., None]), 0, 255)))
    return folder


def over_white(folder: Path) -> Path:
    return each_view(folder, lambda v: over(v, (255, 255, 255)))


# -- holes in depth, behind which colour tells ---------------------------------------------------------------------------


def sensor_holes(folder: Path, seed: int = 1, share: float = 0.08, block: int = 20) -> Path:
    """Depth of 0 in speckles, and in a few blocks (pixels of 256) that may open outwards."""
    rng = np.random.default_rng(seed)
    for name in VIEW_NAMES:
        pixels = depth(folder, name).copy()
        half = block * len(pixels) // 512
        rows, columns = np.nonzero(pixels)
        pixels[rng.random(pixels.shape) < share] = 0
        for i in rng.integers(0, len(rows), 3):
            at = tuple(slice(max(0, middle - half), middle + half) for middle in (rows[i], columns[i]))
            pixels[at] = 0
        write_depth(folder, name, pixels)
    return folder


def invalid_values(folder: Path, value: int, background: int | str) -> Path:
    """2 % of the object's depth has a value that is no distance."""
    rng, document = np.random.default_rng(5), cameras(folder)
    for name, entry in zip(VIEW_NAMES, document["views"], strict=True):
        pixels = depth(folder, name).copy()
        known = pixels > 0
        pixels[~known] = 65535 if background == "max" else 0
        pixels[known & (rng.random(pixels.shape) < 0.02)] = value
        entry["depth"]["background"] = background
        write_depth(folder, name, pixels)
    write_cameras(folder, document)
    return folder


# -- kinds of PNG -------------------------------------------------------------------------------------------------------


def exif(orientation: int, order: str = ">") -> bytes:
    """A whole eXIf chunk."""
    mark = b"MM" if order == ">" else b"II"
    ifd = struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    return chunk(b"eXIf", mark + struct.pack(f"{order}HI", 42, 8) + ifd)


STORED: dict[int, Callable[[Array], Array]] = {  # how a picture lies in the file that each orientation makes upright
    1: lambda v: v,
    2: lambda v: v[:, ::-1],
    3: lambda v: v[::-1, ::-1],
    4: lambda v: v[::-1],
    5: lambda v: np.swapaxes(v, 0, 1),
    6: lambda v: np.rot90(v, 1),
    7: lambda v: np.swapaxes(v, 0, 1)[::-1, ::-1],
    8: lambda v: np.rot90(v, -1),
}


def lying(folder: Path, orientation: int, order: str = ">") -> Path:
    for name in VIEW_NAMES:
        stored = np.ascontiguousarray(STORED[orientation](view(folder, name)))
        write_png(folder / "multi_views" / f"{name}.png", stored, 8, 6, (exif(orientation, order),))
    return folder


def stale_note(folder: Path) -> Path:
    """Turned upright already, with the note left as it was."""
    for name in VIEW_NAMES:
        write_png(folder / "multi_views" / f"{name}.png", view(folder, name), 8, 6, (exif(6),))
    return folder


def deep_depth(folder: Path, colour: int) -> Path:
    """16-bit depth as grey with alpha (4), RGB (2) or RGBA (6)."""
    for name in VIEW_NAMES:
        counts = depth(folder, name)
        solid = np.where(counts > 0, 65535, 0)
        layers = {2: [counts] * 3, 4: [counts, solid], 6: [counts] * 3 + [solid]}[colour]
        write_png(folder / "depth_renders" / f"{name}.png", np.dstack(layers), 16, colour)
    return folder


def deep_colour(folder: Path, linear: bool = False) -> Path:
    """Views of 16 bits with alpha; linear: as light, with gAMA 1.0."""
    for name in VIEW_NAMES:
        pixels = view(folder, name) / 255
        if linear:
            s = pixels[..., :3]
            pixels[..., :3] = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
        extra = (chunk(b"gAMA", struct.pack(">I", 100000)),) if linear else ()
        write_png(folder / "multi_views" / f"{name}.png", np.rint(pixels * 65535).astype(np.uint16), 16, 6, extra)
    return folder


def metric_in_alpha(folder: Path) -> Path:
    """Millimetre-like counts in 16-bit RGBA whose alpha is full everywhere."""
    for name in VIEW_NAMES:
        counts = np.rint(metres(depth(folder, name)) * 10000).astype(np.uint16)
        write_png(
            folder / "depth_renders" / f"{name}.png", np.dstack([counts] * 3 + [np.full_like(counts, 65535)]), 16, 6
        )
    document = cameras(folder)
    for entry in document["views"]:
        entry["depth"] = {"encoding": "metric", "scale": 0.0001}
    write_cameras(folder, document)
    return folder


WHITE_LOSS = 0.6  # dB of object PSNR that the clean mug loses where it stands over white in place of nothing

CASES: list[Case] = [
    Case("rgba_opaque", full_alpha, loss=WHITE_LOSS, says=("says nothing",)),
    Case(
        "rgba_opaque level 254 over grey",
        lambda f: full_alpha(f, 254, (190, 190, 190)),
        loss=1.0,
        says=("says nothing",),
    ),
    Case("rgba_opaque level 0", lambda f: full_alpha(f, 0), loss=WHITE_LOSS, says=("says nothing",)),
    Case("rgba_opaque rounded corners", rounded_corners, loss=WHITE_LOSS, says=("says little",)),
    Case("view_alpha inverted", lambda f: alpha_changed(f, lambda a, _: 255 - a), loss=0.5, says=("turned round",)),
    Case(
        "view_alpha_not_full 250", lambda f: alpha_changed(f, lambda a, _: a * 250 / 255), loss=0.5, says=("matting",)
    ),
    Case(
        "view_alpha_not_full 254", lambda f: alpha_changed(f, lambda a, _: a * 254 / 255), loss=0.5, says=("matting",)
    ),
    Case("view_alpha_not_full matte", lambda f: alpha_changed(f, matte), loss=0.5, says=("matting",)),
    Case("view_alpha shadow", lambda f: alpha_changed(f, shadowed), loss=0.5, says=("haze",)),
    Case("view_premultiplied", lambda f: mixed_edges(f, (0, 0, 0)), loss=0.5, says=("premultiplied",)),
    Case("view_premultiplied white matte", lambda f: mixed_edges(f, (255, 255, 255)), loss=0.5, says=("mixed with",)),
    Case("view_exif_rotated", lambda f: lying(f, 6), loss=0.1, says=("Turned upright",)),
    Case("view_exif_rotated 3, little-endian", lambda f: lying(f, 3, "<"), loss=0.1, says=("Turned upright",)),
    Case("view_exif_rotated stale", stale_note, loss=0.1, says=("Taken as stored",)),
    # pixels that the rim covers in part count as the object's, and differ more where a strong colour is behind them
    Case("green_screen", screens, loss=1.5, says=("found for each view",)),
    Case("green_screen vignettes", vignettes, loss=1.5, says=("found for each view",)),
    Case("depth_holes over white", lambda f: sensor_holes(over_white(f)), loss=3.0, says=("Holes in the depth",)),
    Case(
        "depth_holes over screens",
        lambda f: sensor_holes(screens(f), 3, 0.04, 28),
        loss=3.0,
        says=("Holes in the depth",),
    ),
    Case("invalid_zero", lambda f: invalid_values(f, 0, "max"), loss=2.0, says=("extreme value",)),
    Case(
        "invalid_max over white", lambda f: invalid_values(over_white(f), 65535, 0), loss=2.0, says=("extreme value",)
    ),
    Case("depth_la16", lambda f: deep_depth(f, 4), loss=0.1),
    Case("depth_rgb16", lambda f: deep_depth(f, 2), loss=0.1),
    Case("depth_rgba16", lambda f: deep_depth(f, 6), loss=0.1),
    Case("depth_rgba16 metric, alpha full", metric_in_alpha, loss=0.2),
    Case("view_16bit", deep_colour, loss=0.1),
    Case("view_16bit gAMA 1.0", lambda f: deep_colour(f, linear=True), loss=0.3, says=("gAMA",)),
]
