"""The scene: what validate writes and every later step reads.

scene.json          cameras, background, where they came from, notes
views/<name>.png    the view as given, 8-bit RGB, or RGBA where it had transparency (straight alpha)
masks/<name>.png    8-bit grey: the share of each pixel that the object covers
depth/<name>.npy    [H, W] float32: depth along the viewing axis in scene units, 0 where nothing is
steps/<name>.npy    [H, W] float32: the size of one stored depth level at each pixel
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.files import read_json
from steps.formats.cameras_json import camera_json
from steps.geometry.cameras import VIEW_NAMES, Camera

Array = NDArray[Any]
FORMAT = "sixview-scene/1"


@dataclass(frozen=True)
class SceneView:
    """camera: of the picture; depth_camera: the same camera at the depth render's size; colour: [H, W, 3] float32, straight;
    coverage: [H, W] float32; picture: [H, W, 3] float32, the view over the scene's background, as a person sees it;
    depth, step: [h, w] float32."""

    camera: Camera
    depth_camera: Camera
    colour: Array
    coverage: Array
    picture: Array
    depth: Array
    step: Array


@dataclass(frozen=True)
class Scene:
    """background: (3,) sRGB in [0, 1], behind every picture; about: scene.json."""

    views: list[SceneView]
    background: Array
    about: dict[str, Any]


def load(folder: Path) -> Scene:
    """Reads a scene that validate wrote."""
    about = read_json(folder / "scene.json")
    background = np.array(about["background"], np.float32)
    return Scene([_load_view(folder, item, background) for item in about["views"]], background, about)


def _load_view(folder: Path, item: dict[str, Any], background: Array) -> SceneView:
    name = item["name"]
    camera = Camera(name, np.array(item["camera_to_world"]), **item["intrinsics"])
    pixels = np.asarray(Image.open(folder / "views" / f"{name}.png"), np.float32) / 255.0
    coverage = np.asarray(Image.open(folder / "masks" / f"{name}.png"), np.float32) / 255.0
    depth = np.load(folder / "depth" / f"{name}.npy")
    colour = np.ascontiguousarray(pixels[..., :3])
    picture = over(colour, pixels[..., 3], background) if pixels.shape[2] == 4 else colour
    depth_camera = camera.resized(depth.shape[1], depth.shape[0])
    return SceneView(camera, depth_camera, colour, coverage, picture, depth, np.load(folder / "steps" / f"{name}.npy"))


def over(colour: Array, alpha: Array, background: Array) -> Array:
    """Straight colour [H, W, 3] with alpha [H, W] over a background (3,)."""
    return colour * alpha[..., None] + background * (1.0 - alpha[..., None])


def describe(cameras: list[Camera], background: Array, **about: Any) -> dict[str, Any]:
    """scene.json."""
    if [camera.name for camera in cameras] != list(VIEW_NAMES):
        raise ValueError("cameras must be in the order of VIEW_NAMES")
    colour = [round(float(c), 6) for c in background]
    return {"format": FORMAT, **about, "background": colour, "views": [camera_json(c) for c in cameras]}


def over_premultiplied(rgba: Array, background: Array) -> Array:
    """Premultiplied RGBA [H, W, 4] over a background (3,)."""
    return np.asarray(rgba[..., :3] + background * (1.0 - rgba[..., 3:]), np.float32)
