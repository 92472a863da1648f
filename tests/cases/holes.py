"""Cases: depth with holes, speckles, noise, and surfaces that are not the object."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from steps.compute.arrays import Array
from steps.runtime.contract import VIEW_NAMES
from tests.cases import kit
from tests.cases.kit import Case
from tests.cases.pictures import over_white, vignettes

Spoil = Callable[[Array, np.random.Generator], Array]  # counts [H, W] uint16 to what is stored


def spoilt(change: Spoil, seed: int = 1) -> Callable[[Path], Path]:
    """The set with each depth render changed by `change`, with a seeded random generator."""
    rng = np.random.default_rng(seed)
    return lambda folder: kit.each_depth(folder, lambda counts: change(counts, rng))


def with_depth(change: Callable[[Path], Path], **entries: object) -> Callable[[Path], Path]:
    """The same, with entries of every view's depth in cameras.json."""

    def make(folder: Path) -> Path:
        document = kit.cameras(folder)
        for view in document["views"]:
            view["depth"] = {**view["depth"], **entries}
        kit.write_cameras(folder, document)
        return change(folder)

    return make


# -- holes --------------------------------------------------------------------------------------------------------------


def speckles_and_blocks(counts: Array, rng: np.random.Generator) -> Array:
    """A sensor's: 8 % of the pixels and three blocks of 20 pixels are missing."""
    counts = counts.copy()
    counts[rng.random(counts.shape) < 0.08] = 0
    rows, columns = np.nonzero(counts)
    for i in rng.integers(0, len(rows), 3):
        counts[max(0, rows[i] - 10) : rows[i] + 10, max(0, columns[i] - 10) : columns[i] + 10] = 0
    return counts


def stripes(counts: Array, rng: np.random.Generator) -> Array:
    """Every ninth row and a slanted band are missing, as behind a pattern of light that was not decoded."""
    rows, columns = np.mgrid[: counts.shape[0], : counts.shape[1]]
    gone = (rows % 9 == int(rng.integers(9))) | (np.abs(rows + columns - counts.shape[0]) < 4)
    return np.where(gone, 0, counts)


def rim(counts: Array, rng: np.random.Generator) -> Array:
    """Nothing within three pixels of the outline, where light grazes."""
    inside = Image.fromarray((counts > 0).astype(np.uint8) * 255).filter(ImageFilter.MinFilter(7))
    return np.where(np.asarray(inside) > 0, counts, 0)


def some(value: int, background: int) -> Spoil:
    """2 % of the object's pixels have a value that means nothing was measured, other than the background's."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        object_ = counts > 0
        stored = np.where(object_, counts, background).astype(np.uint16)
        stored[object_ & (rng.random(counts.shape) < 0.02)] = value
        return stored

    return change


def salt_and_pepper(share: float) -> Spoil:
    """So many of the object's pixels are the nearest or the farthest."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        at, uniform = counts > 0, rng.random(counts.shape)
        return np.where(at & (uniform < share / 2), 65535, np.where(at & (uniform > 1 - share / 2), 1, counts)).astype(
            np.uint16
        )

    return change


def speckles(share: float) -> Spoil:
    """So many of the object's pixels have any value."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        hit = (counts > 0) & (rng.random(counts.shape) < share)
        return np.where(hit, rng.integers(1, 65536, counts.shape), counts).astype(np.uint16)

    return change


# -- noise --------------------------------------------------------------------------------------------------------------


def as_jpeg(quality: int) -> Spoil:
    """8-bit depth that was a JPEG once: the background is nearly 0 beside the object."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        file = io.BytesIO()
        Image.fromarray(np.rint(counts / 257).astype(np.uint8)).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file).convert("L"))

    return change


def millimetres(noise: float) -> Spoil:
    """One count a millimetre, with a sensor's noise in millimetres."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        depth = 1000 * kit.metres(counts) + rng.normal(0, noise, counts.shape)
        return np.where(counts > 0, np.rint(depth), 0).astype(np.uint16)

    return change


def growing_noise(counts: Array, rng: np.random.Generator) -> Array:
    """Noise that grows with the square of the distance, as a stereo camera's does, in steps of 2 mm."""
    depth = kit.metres(counts)
    depth = depth + rng.normal(0, 1e-3, counts.shape) * depth**2
    return np.where(counts > 0, np.rint(500 * depth), 0).astype(np.uint16)


# -- more than the object -----------------------------------------------------------------------------------------------


def wall(counts: Array, rng: np.random.Generator) -> Array:
    """A wall behind the object, a little slanted."""
    rows = np.linspace(60000, 64000, counts.shape[0]).astype(np.uint16)[:, None]
    return np.where(counts > 0, counts, rows).astype(np.uint16)


def corner(counts: Array, rng: np.random.Generator) -> Array:
    """The corner of a room behind the object, farthest in the middle."""
    columns = np.abs(np.linspace(-1, 1, counts.shape[1]))[None, :] + np.zeros(counts.shape)
    return np.where(counts > 0, counts, np.rint(64500 - 9000 * columns)).astype(np.uint16)


def floor(folder: Path, radius: float = 1.5) -> Path:
    """A round table under the object, which reaches the frames of the pictures unless it is small; the view from below does not
    see it."""
    for item in kit.cameras(folder)["views"]:
        if item["name"] == "bottom":
            continue
        counts = kit.depth(folder, item["name"])
        pose, lens = np.array(item["camera_to_world"]), item["intrinsics"]
        rows, columns = np.mgrid[: counts.shape[0], : counts.shape[1]] + 0.5
        x, y = (columns - lens["cx"]) / lens["fx"], -(rows - lens["cy"]) / lens["fy"]
        rays = np.stack([x, y, -np.ones_like(x)], axis=-1) @ pose[:3, :3].T  # of depth 1
        down = np.where(np.abs(rays[..., 1]) < 1e-9, 1e-9, rays[..., 1])
        depth = (TABLE - pose[1, 3]) / down
        place = pose[:3, 3] + rays * depth[..., None]
        seen = (depth > 1.5) & (depth < 3.5) & (np.hypot(place[..., 0], place[..., 2]) < radius)
        stored = np.clip(np.rint((np.where(seen, depth, 3.5) - 1.5) / 2 * 65535), 1, 65535)
        kit.write_depth(folder, item["name"], np.where((counts > 0) | ~seen, counts, stored).astype(np.uint16))
    return folder


def bleeding(counts: Array, rng: np.random.Generator) -> Array:
    """Depth two pixels wider than the object, with values between it and the background."""
    inside = counts > 0
    grown = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))) > 0
    return np.where(grown & ~inside, rng.integers(40000, 65000, counts.shape), counts).astype(np.uint16)


def halved(folder: Path) -> Path:
    """Views and depth rendered with anti-aliasing: rim pixels of the depth are a mean of object and background."""
    for name in VIEW_NAMES:
        fine = kit.depth(folder, name).astype(float)
        height, width = fine.shape
        mean = fine.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        kit.write_depth(folder, name, np.rint(mean).astype(np.uint16))
        small = Image.fromarray(kit.view(folder, name)).resize((width // 2, height // 2), Image.Resampling.BOX)
        kit.write_view(folder, name, np.asarray(small))
    return folder


TABLE = -0.75  # the height of the table
MM = {"encoding": "metric", "scale": 0.001}
CASES: list[Case] = [
    Case("depth_holes", spoilt(speckles_and_blocks), loss=3.0),
    Case("depth_holes stripes", spoilt(stripes), loss=1.5),
    Case("depth_holes rim", spoilt(rim), loss=3.0),
    Case(
        "depth_flaws invalid_zero", with_depth(spoilt(some(0, 65535), 5), background="max"), loss=1.0, says=("unknown",)
    ),
    Case("depth_flaws invalid_max", spoilt(some(65535, 0), 5), loss=1.0, says=("unknown",)),
    Case("depth_flaws bleed", spoilt(bleeding, 5), loss=1.0),
    Case("depth_jpeg 75", spoilt(as_jpeg(75)), loss=8.0, says=("as JPEG",)),
    Case("depth_jpeg 90", spoilt(as_jpeg(90)), loss=4.0, says=("as JPEG",)),
    Case("depth_jpeg 97", spoilt(as_jpeg(97)), loss=4.0),
    # half the pixels of its base: a mug rendered with 256 is 5.3 dB below one with 512
    Case("depth_antialiased", halved, base=("--object", "mug", "--size", "512"), loss=4.5, ratio=1.05),
    Case("depth_metric_mm of a sensor", with_depth(spoilt(millimetres(0), 2), **MM), loss=0.5),
    Case("depth_metric_mm noise", with_depth(spoilt(millimetres(5), 2), **MM), loss=3.5),
    Case("depth_metric_mm noise of 1 cm", with_depth(spoilt(millimetres(10), 3), **MM), loss=8.0),
    Case("depth_metric_mm stereo", with_depth(spoilt(growing_noise, 2), encoding="metric", scale=0.002), loss=6.0),
    Case("depth_wall", with_depth(spoilt(wall), background=None), loss=0.5, says=("behind the object",)),
    Case("depth_wall corner", with_depth(spoilt(corner), background=None), loss=0.5, says=("behind the object",)),
    Case(
        "depth_wall of a sensor",
        with_depth(spoilt(lambda counts, rng: speckles_and_blocks(wall(counts, rng), rng)), background=0),
        loss=3.0,
        says=("behind the object",),
    ),
    Case("depth_wall floor", floor, loss=0.5, says=("behind the object",)),
    Case("depth_wall plinth", lambda f: floor(f, 0.6), loss=0.5, says=("behind the object",)),
    Case(
        "depth_wall over white",
        with_depth(lambda f: spoilt(wall)(over_white(f)), background=None),
        loss=1.0,
        says=("behind the object",),
    ),
    Case(
        "depth_wall over a picture",  # nothing tells the object from what is behind it: that is said
        with_depth(lambda f: spoilt(wall)(vignettes(f)), background=None),
        or_code="VALIDATION_FAILED",
        says=("neither transparency nor an even colour",),
        closed=False,
    ),
]
