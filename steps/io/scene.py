"""The scene: files that the step validate writes and every later step reads.

scene.json          cameras, background, where they came from, notes, and the local frame that the scene is in
views/<name>.png    the view as given, 8-bit RGB, or RGBA where it had transparency (straight alpha)
masks/<name>.png    8-bit grey: the share of each pixel that the object covers
backgrounds/<name>.png  8-bit RGB: what is behind the object, where that is not one colour for all views
depth/<name>.npy    [H, W] float32: depth along the viewing axis in local units, 0 where nothing is
steps/<name>.npy    [H, W] float32: the size of one stored depth level at each pixel

Cameras and depth are in the local frame (`steps.geometry.frame`); what users get is in theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES, Camera
from steps.geometry.frame import Frame
from steps.io.cameras_json import camera_json
from steps.runtime.files import read_json

FORMAT = "sixview-scene/1"


@dataclass(frozen=True)
class SceneView:
    """One view. camera: of the picture; depth_camera: the same at the depth render's size. Arrays are read when asked for, since
    six large views together would fill the memory."""

    folder: Path
    camera: Camera
    depth_camera: Camera
    background: Array

    def _pixels(self) -> Array:
        return np.asarray(Image.open(self.folder / "views" / f"{self.camera.name}.png"), np.float32) / np.float32(255)

    def colour(self) -> Array:
        """[H, W, 3] float32, straight."""
        return np.ascontiguousarray(self._pixels()[..., :3])

    def coverage(self) -> Array:
        """[H, W] float32: the object's share of each pixel."""
        return np.asarray(Image.open(self.folder / "masks" / f"{self.camera.name}.png"), np.float32) / np.float32(255)

    def picture(self) -> Array:
        """[H, W, 3] float32: the view over the scene's background."""
        pixels = self._pixels()
        return over(pixels[..., :3], pixels[..., 3], self.background) if pixels.shape[2] == 4 else pixels

    def behind(self) -> Array:
        """Background over which renders are composited for comparison with the picture: (3,), or [H, W, 3] float32."""
        path = self.folder / "backgrounds" / f"{self.camera.name}.png"
        return np.asarray(Image.open(path), np.float32) / np.float32(255) if path.is_file() else self.background

    def depth(self) -> Array:
        """[h, w] float32, 0 where nothing is."""
        return np.load(self.folder / "depth" / f"{self.camera.name}.npy")

    def step(self) -> Array:
        """[h, w] float32: the size of one stored depth level."""
        return np.load(self.folder / "steps" / f"{self.camera.name}.npy")


@dataclass(frozen=True)
class Scene:
    """background: (3,) sRGB in [0, 1], behind every picture; metadata: scene.json."""

    views: list[SceneView]
    background: Array
    metadata: dict[str, Any]

    @property
    def rig(self) -> dict[str, Any]:
        """Source of the cameras, notes, and where they were estimated, every estimated number."""
        origin = {"source": self.metadata.get("rig", ""), "notes": self.metadata.get("notes", [])}
        return {**origin, "background": self.metadata["background"], **self.metadata.get("found", {})}

    @property
    def frame(self) -> Frame:
        """From this scene's local frame to the user's."""
        return Frame.from_json(self.metadata["frame"]) if "frame" in self.metadata else Frame()

    @property
    def exact(self) -> bool:
        """Whether the views are known to be registered and lit alike."""
        return bool(self.metadata.get("exact", True))


def load(folder: Path) -> Scene:
    """The scene in a folder that validate wrote."""
    metadata = read_json(folder / "scene.json")
    background = np.array(metadata["background"], np.float32)
    return Scene([_view(folder, item, background) for item in metadata["views"]], background, metadata)


def _view(folder: Path, item: dict[str, Any], background: Array) -> SceneView:
    camera = Camera(item["name"], np.array(item["camera_to_world"]), **item["intrinsics"])
    height, width = np.load(folder / "depth" / f"{camera.name}.npy", mmap_mode="r").shape
    return SceneView(folder, camera, camera.resized(width, height), background)


def over(colour: Array, alpha: Array, background: Array) -> Array:
    """Straight colour [H, W, 3] with alpha [H, W] over a background (3,)."""
    return colour * alpha[..., None] + background * (1.0 - alpha[..., None])


def describe(cameras: list[Camera], background: Array, frame: Frame, **metadata: Any) -> dict[str, Any]:
    """scene.json. cameras: in the local frame."""
    if [camera.name for camera in cameras] != list(VIEW_NAMES):
        raise ValueError("cameras must be in the order of VIEW_NAMES")
    colour = [round(float(c), 6) for c in background]
    views = [camera_json(c) for c in cameras]
    return {"format": FORMAT, **metadata, "frame": frame.to_json(), "background": colour, "views": views}


def as_stored(rgba: Array, background: Array) -> Array:
    """Premultiplied RGBA [H, W, 4] over a background (3,) or [H, W, 3], rounded to 8 bits: what scores are computed on."""
    return np.rint(over_premultiplied(rgba, background) * 255) / np.float32(255)


def over_premultiplied(rgba: Array, background: Array) -> Array:
    """Premultiplied RGBA [H, W, 4] over a background (3,) or [H, W, 3]."""
    over: Array = rgba[..., :3] + background * (1.0 - rgba[..., 3:])
    return over.astype(np.float32, copy=False)
