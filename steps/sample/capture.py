"""Simulated real captures: nominal cameras only, coarse depth of unknown encoding, light and framing that differ between views,
colour and depth misregistered. Everything is random by seed and recorded as ground truth."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from steps.compute.arrays import Array
from steps.geometry.cameras import CANONICAL_AXES, VIEW_NAMES, Camera, look_at
from steps.io import png
from steps.raster.rasterize import rasterize
from steps.sample import capture_depth
from steps.sample.render import GroundTruth, barycentric, render

FAR_AWAY = 400.0  # half picture widths to the camera where it stands for an orthographic one
FULLEST = 0.93  # of the half picture that the object may reach
SIDES = ((512, 512), (640, 512), (512, 384), (768, 512), (512, 640))  # of colour and depth


@dataclass(frozen=True)
class ViewNoise:
    """Errors of one view. scale, shift: of the picture, in half widths; apart: scale and shift of colour against depth; gain,
    offset: of depth around the object's centre; light: direction and strength of additional light; exposure: factor."""

    scale: float
    shift: tuple[float, float]
    apart: tuple[float, float, float]
    gain: float
    offset: float
    light: tuple[float, float, float]
    exposure: float


@dataclass(frozen=True)
class Capture:
    """One draw. field_of_view: degrees, 0 for orthographic; left_is: whose left the name means; rolls: quarter turns of the top
    and bottom view, counter-clockwise; levels: distinct depth values, of 255; side: of colour and of depth;
    curve: what the depth's values went through, of `capture_depth.CURVES`; own: each view's factor and offset, where they have
    their own; behind: the object, a shop's white with a shadow, nothing (alpha), or screens of so many colours."""

    field_of_view: float
    fullness: float
    left_is: str
    front_is: str
    rolls: tuple[int, int]
    encoding: str
    distance: str
    nearer_is: str
    background: str
    levels: int
    lowest: int
    side: tuple[int, int]
    white: float
    shadow: float
    jpeg: int
    noises: tuple[ViewNoise, ...]
    curve: str = "linear"
    bits: int = 8
    own: tuple[tuple[float, float], ...] = ()
    behind: str = "shop"
    screens: tuple[tuple[float, float, float], ...] = ()


def random_capture(seed: int) -> Capture:
    """The capture of a seed."""
    r = np.random.default_rng(seed)
    levels = int(r.integers(20, 151))
    return Capture(
        field_of_view=0.0 if r.random() < 0.15 else float(r.uniform(20, 70)),
        fullness=float(r.uniform(0.6, 0.95)),
        left_is=str(r.choice(["viewer", "object"])),
        front_is=str(r.choice(["viewer", "object"])),
        rolls=(int(r.integers(4)), int(r.integers(4))),
        encoding=str(r.choice(["linear", "inverse"], p=[0.7, 0.3])),
        distance=str(r.choice(["z", "ray"], p=[0.75, 0.25])),
        nearer_is=str(r.choice(["smaller", "larger"])),
        background=str(r.choice(["0", "255", "alpha"], p=[0.5, 0.25, 0.25])),
        levels=levels,
        lowest=int(r.integers(2, 254 - levels)),
        side=SIDES[int(r.integers(len(SIDES)))],
        white=float(r.uniform(0.94, 1.0)),
        shadow=float(r.uniform(0.05, 0.25)),
        jpeg=int(r.integers(85, 97)),
        noises=tuple(_random_noise(r) for _ in VIEW_NAMES),
    )


def varied_capture(seed: int, curve: str) -> Capture:
    """The capture of a seed, with depth stored through a curve, in 8 or 16 bits, and other backgrounds."""
    r, capture = np.random.default_rng((seed, capture_depth.CURVES.index(curve))), random_capture(seed)
    own = tuple((float(r.uniform(0.7, 0.95)), float(r.uniform(0, 0.05))) for _ in VIEW_NAMES)
    screens = tuple(tuple(float(x) for x in r.uniform(0.05, 0.95, 3)) for _ in VIEW_NAMES)
    capture = replace(
        capture, curve=curve, bits=int(r.choice([8, 16])), own=own, screens=screens,  # type: ignore[arg-type]
        behind=str(r.choice(["shop", "alpha", "screens"], p=[0.5, 0.25, 0.25])),
        encoding="inverse" if curve in capture_depth.INVERSE else "linear",
    )  # fmt: skip
    if capture.bits == 16 and capture.background == "alpha":  # which Pillow cannot write
        capture = replace(capture, background="0")
    if curve in capture_depth.LARGER_NEARER:  # what z-buffers and estimators mean by a value
        capture = replace(capture, nearer_is="larger", distance="z")
    return capture


def _random_noise(r: np.random.Generator) -> ViewNoise:
    shift = r.uniform(-1, 1, 2) * 15 / 512
    angle, size = r.uniform(0, 2 * np.pi), r.uniform(5, 20) / 512
    return ViewNoise(
        scale=float(r.uniform(0.97, 1.03)),
        shift=(float(shift[0]), float(shift[1])),
        apart=(float(r.uniform(0.985, 1.015)), float(size * np.cos(angle)), float(size * np.sin(angle))),
        gain=float(r.uniform(0.985, 1.015)),
        offset=float(r.uniform(-0.01, 0.01)),
        light=tuple(float(x) for x in r.normal(0, 0.06, 3)),  # type: ignore[arg-type]
        exposure=float(r.uniform(0.93, 1.05)),
    )


# -- cameras ------------------------------------------------------------------------------------------------------------


def cameras(truth: GroundTruth, capture: Capture) -> list[Camera]:
    """The six ideal cameras with the depth's size: what each name means here, before any view's own faults."""
    tangent = np.tan(np.radians(capture.field_of_view / 2)) if capture.field_of_view else 1 / FAR_AWAY
    half = 1.0
    for _ in range(20):  # half the picture's width at the object's middle, until the fullest view is as full as wanted
        views = [_camera(name, capture, half / tangent, capture.side[1], tangent) for name in VIEW_NAMES]
        fullest = max(_fullness(truth, view) for view in views)
        half *= fullest / (FULLEST * capture.fullness)
    return views


def _camera(name: str, capture: Capture, distance: float, side: int, tangent: float) -> Camera:
    direction, up = (np.array(v, float) for v in CANONICAL_AXES[meaning(name, capture)])
    turn = {"top": capture.rolls[0], "bottom": capture.rolls[1]}.get(name, 0)
    for _ in range(turn):
        up = np.cross(up, direction)
    return look_at(name, direction * distance, up, side, side / 2 / tangent)


def meaning(name: str, capture: Capture) -> str:
    """The canonical camera that took the view called `name`."""
    swapped: dict[str, str] = {}
    if capture.left_is == "object":
        swapped |= {"left": "right", "right": "left"}
    if capture.front_is == "object":
        swapped |= {"front": "back", "back": "front"}
    return swapped.get(name, name)


def _fullness(truth: GroundTruth, camera: Camera) -> float:
    points = truth.vertices @ camera.projection[:, :3].T + camera.projection[:, 3]
    pixels = points[:, :2] / points[:, 2:]
    return float(np.abs(pixels / (camera.width / 2) - 1).max())


def misaligned(camera: Camera, scale: float, x: float, y: float) -> Camera:
    """The camera with its picture scaled about the centre and shifted by (x right, y up) half widths."""
    half = camera.width / 2
    return replace(camera, fx=camera.fx * scale, fy=camera.fy * scale, cx=camera.cx + x * half, cy=camera.cy - y * half)


def depth_camera(camera: Camera, noise: ViewNoise) -> Camera:
    """The true camera of the depth render."""
    return misaligned(camera, noise.scale, *noise.shift)


def colour_camera(camera: Camera, noise: ViewNoise, side: int) -> Camera:
    """The true camera of the view."""
    scale, x, y = noise.apart
    return misaligned(depth_camera(camera, noise).resized(side, side), scale, x, y)


# -- pictures -----------------------------------------------------------------------------------------------------------


def depth_counts(truth: GroundTruth, views: list[Camera], capture: Capture) -> list[Array]:
    """The six depth renders as they are stored, see `capture_depth`."""
    cameras = [(v, depth_camera(v, n), n) for v, n in zip(views, capture.noises, strict=True)]
    return capture_depth.counts_of(truth, cameras, capture)


def picture(truth: GroundTruth, view: Camera, noise: ViewNoise, capture: Capture) -> Array:
    """The view as a shop's camera would store it: [H, W, 3] uint8, or [H, W, 4] with nothing behind."""
    camera = colour_camera(view, noise, capture.side[0])
    rgba, _ = render(truth, camera, 4)  # what JPEG leaves of finer edges is nothing
    lit = rgba[..., :3] * (1 + _normals(truth, camera) @ np.array(noise.light))[..., None] * noise.exposure
    alpha = rgba[..., 3:]
    if capture.behind == "alpha":
        return png.to_bytes(np.dstack([np.clip(lit, 0, 1), alpha]))
    behind: Array = capture.white * (1 - capture.shadow * _shadow(alpha[..., 0]))[..., None]
    if capture.behind == "screens":
        behind = np.broadcast_to(capture.screens[VIEW_NAMES.index(view.name)], lit.shape)
    return _as_jpeg(png.to_bytes(np.clip(lit, 0, 1) * alpha + behind * (1 - alpha)), capture.jpeg)


def _normals(truth: GroundTruth, camera: Camera) -> Array:
    fragments = rasterize(truth.vertices, truth.faces, camera)
    normals = (truth.normals[truth.faces[fragments.face]] * barycentric(fragments.bary)[..., None]).sum(axis=2)
    return np.asarray(np.where(fragments.face[..., None] >= 0, normals, 0))


def _shadow(alpha: Array) -> Array:
    """Opacity [H, W] in [0, 1] of a soft shadow on the ground below the object. alpha: [H, W], the object's."""
    side = len(alpha)
    wide = gaussian_filter(alpha, side / 40)
    lower = np.roll(gaussian_filter(alpha, (side / 60, side / 25)), side // 40, axis=0)
    return np.clip(0.4 * wide + 0.8 * lower, 0, 1)


def _as_jpeg(pixels: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
