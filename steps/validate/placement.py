"""Depth renders moved onto their views, where a rig has views and depth renders with different frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steps.geometry.cameras import Camera, Placement
from steps.io import png
from steps.io.cameras_json import View
from steps.io.input_checks import Pictures


def aligned(pictures: Pictures, views: list[View]) -> tuple[Pictures, list[View]]:
    """The set with depth renders resampled into the views' frames, and the cameras of both."""
    depths, aligned_views = [], []
    for view, picture, depth in zip(views, pictures.views, pictures.depths, strict=True):
        height, width = picture.pixels.shape[:2]
        placement = view.colour or Placement()
        background = view.depth.background if view.depth else 0
        depths.append(move_depth(depth, placement, background) if view.colour else depth)
        camera = placed_camera(view.camera, placement, width, height) if view.colour else view.camera
        aligned_views.append(View(camera, view.depth))
    return Pictures(pictures.views, depths), aligned_views


def placed_camera(camera: Camera, placement: Placement, width: int, height: int) -> Camera:
    """The camera of a view whose colours lie at `placement` on its depth render."""
    own = camera.resized(width, height)
    half, s = max(width, height) / 2, placement.scale
    x = width / 2 + s * (own.cx - width / 2) + placement.x * half
    y = height / 2 + s * (own.cy - height / 2) - placement.y * half
    return replace(own, fx=own.fx * s, fy=own.fy * s, cx=x, cy=y)


def move_depth(depth: png.Picture, placement: Placement, background: int | str | None) -> png.Picture:
    """The depth render resampled to the view's camera, nearest neighbour, with background outside; through alpha where no value
    means background."""
    height, width = depth.pixels.shape[:2]
    half, s = max(width, height) / 2, placement.scale
    columns = np.floor((np.arange(width) + 0.5 - width / 2 - placement.x * half) / s + width / 2).astype(int)
    rows = np.floor((np.arange(height) + 0.5 - height / 2 + placement.y * half) / s + height / 2).astype(int)
    pixels = depth.pixels[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)].copy()
    beyond = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))[None]
    pixels[beyond] = 0
    pixels[beyond, 0] = depth.maximum if background == "max" else background if isinstance(background, int) else 0
    if background in (None, "alpha") and depth.alpha is None:
        alpha = np.where(beyond, 0, depth.maximum).astype(pixels.dtype)
        pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    return replace(depth, pixels=pixels)
