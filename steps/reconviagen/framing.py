"""Converts views and cameras to the published model's input conventions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.io import png
from steps.io.scene import SceneView
from steps.registration.global_icp import Similarity

SIDE = 518  # pixels: 37 patches of DINOv2
MARGIN = 1.1  # of the object's own extent in the picture, as the model was trained


@dataclass(frozen=True)
class FramedPicture:
    """file: the picture, SIDE x SIDE, RGB over black; left, top, side: the square of the view that it shows, in pixels."""

    file: Path
    left: float
    top: float
    side: float


def frame_object(view: SceneView, folder: Path) -> FramedPicture:
    """The masked object, centred in a square, as the model's own preprocessing frames what it has segmented itself."""
    colour, coverage = view.colour(), view.coverage()
    rows, columns = np.nonzero(coverage > 0.8)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    side = float((high - low).max()) * MARGIN
    left, top = (low + high) / 2 - side / 2
    premultiplied = Image.fromarray(png.to_bytes(colour * coverage[..., None]))
    box = (left, top, left + side, top + side)
    # beyond the picture's edge there is black, as beyond the mask
    square = premultiplied.transform((SIDE, SIDE), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    file = folder / f"{view.camera.name}.png"
    square.save(file)
    return FramedPicture(file, float(left), float(top), side)


def cameras(views: list[SceneView], pictures: list[FramedPicture], to_scene: Similarity) -> dict[str, Any]:
    """The exact cameras in the model's object frame: `extrinsics` (6, 4, 4), world to camera, x right, y down, z forward;
    `intrinsics` (6, 3, 3), as shares of the framed picture's side. to_scene: from the model's frame to the scene's."""
    return {
        "extrinsics": [_extrinsic(view, to_scene).tolist() for view in views],
        "intrinsics": [_intrinsic(view, picture).tolist() for view, picture in zip(views, pictures, strict=True)],
    }


def _extrinsic(view: SceneView, to_scene: Similarity) -> Array:
    """World-to-camera pose in the model's frame: lengths scale by the similarity."""
    pose = np.asarray(view.camera.camera_to_world, np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0])
    to_model = to_scene.inverse()
    pose_in_model = np.eye(4)
    pose_in_model[:3, :3], pose_in_model[:3, 3] = to_model.rotation @ pose[:3, :3], to_model(pose[:3, 3])
    return np.linalg.inv(pose_in_model)


def _intrinsic(view: SceneView, picture: FramedPicture) -> Array:
    c = view.camera
    return np.array(
        [
            [c.fx / picture.side, 0, (c.cx - picture.left) / picture.side],
            [0, c.fy / picture.side, (c.cy - picture.top) / picture.side],
            [0, 0, 1.0],
        ]
    )
