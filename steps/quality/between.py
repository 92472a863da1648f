"""Held-out views between the input views: whether a mesh generalizes or only fits its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.compute.device import to_device
from steps.compute.kernels import parallel_map
from steps.compute.launch import map_on
from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.image_ops import psnr
from steps.io.mesh_files import Mesh
from steps.io.scene import Scene, over, over_premultiplied
from steps.raster.render import render_mesh
from steps.runtime.errors import ValidationFailed
from steps.runtime.files import read_json

VISIBLE = 2.0  # pixels: a point this close to what an input view saw was seen by it


@dataclass(frozen=True)
class HeldOut:
    """A held-out view. picture: [H, W, 3] over the scene's background; counts: [H, W] bool, pixels whose surface an input view
    saw."""

    camera: Camera
    picture: Array
    counts: Array


def load(folder: Path, loaded: Scene) -> list[HeldOut]:
    """The views listed in held_out.json, as `sixview sample --held-out` writes them to ground_truth/: <name>.png, and where there
    is one <name>_depth.npy; in the scene's frame. Raises ValidationFailed where a file is missing."""
    listing = read_json(folder / "held_out.json")
    if not isinstance(listing, dict) or not listing.get("views"):
        raise ValidationFailed(f"There is no held_out.json with views in {folder}.", "Name the folder that has it.")
    return parallel_map(lambda item: _view(folder, item, loaded), listing["views"])


def _view(folder: Path, item: dict[str, Any], loaded: Scene) -> HeldOut:
    given = Camera(item["name"], np.array(item["camera_to_world"]), **item["intrinsics"])
    frame = loaded.frame
    camera = frame.camera_in(given)
    path = folder / f"{camera.name}.png"
    if not path.is_file():
        raise ValidationFailed(f"held_out.json names {path.name}, which is not there.", f"Put it into {folder}.")
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32) / np.float32(255)
    picture = over(rgba[..., :3], rgba[..., 3], loaded.background)
    counts = np.ones(picture.shape[:2], bool)
    if (depth_file := folder / f"{camera.name}_depth.npy").is_file():
        depth = frame.depth_in(np.load(depth_file), frame.distance(given))
        counts[depth > 0] = _visible(unproject(depth, camera), loaded)
    return HeldOut(camera, picture, counts)


def _visible(points: Array, loaded: Scene) -> Array:
    """(n,) bool: world points (n, 3) that at least one input view sees."""
    visible = np.zeros(len(points), bool)
    for view in loaded.views:
        depth = view.depth()
        pixel, z = project(points, view.depth_camera)
        column, row = (np.clip(pixel[:, k].astype(int), 0, depth.shape[1 - k] - 1) for k in (0, 1))
        visible |= np.abs(depth[row, column] - z) < VISIBLE * z / view.depth_camera.fx
    return visible


def score(mesh: Mesh, views: list[HeldOut], background: Array, device: str = "cpu") -> float:
    """Mean PSNR in dB over the views, computed on the device."""
    placed = mesh.on(device)

    def one(view: HeldOut) -> float:
        picture, behind, counts = (to_device(a, device) for a in (view.picture, background, view.counts))
        return psnr(picture, np.clip(over_premultiplied(render_mesh(placed, view.camera), behind), 0, 1), counts)

    return float(np.mean(map_on(device, one, views)))
