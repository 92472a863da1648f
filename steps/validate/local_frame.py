"""From the user's unit and origin into the local frame that the scene is in."""

from __future__ import annotations

from dataclasses import replace

from steps.formats.cameras_json import View
from steps.formats.depth_encoding import MetricDepth, metric_depth
from steps.formats.png import Picture
from steps.geometry.cameras import ray_to_z
from steps.geometry.frame import Frame, around

SIDE = 128  # pixels: more would measure the object no better


def found(pictures: list[Picture], views: list[View]) -> Frame:
    """The local frame around what the depth renders show under the user's cameras."""
    cameras, depths = [], []
    for picture, view in zip(pictures, views, strict=True):
        height, width = picture.pixels.shape[:2]
        step = max(1, max(height, width) // SIDE)
        pixels = picture.pixels[step // 2 :: step, step // 2 :: step]
        camera = view.camera.resized(width, height).thinned(step)
        assert view.depth is not None
        depth = metric_depth(replace(picture, pixels=pixels), view.depth, ray_to_z(camera, pixels.shape[:2]))
        cameras.append(camera)
        depths.append(depth.depth)
    return around(cameras, depths)


def moved(depth: MetricDepth, frame: Frame) -> MetricDepth:
    """Depth in the frame's units, float32."""
    return MetricDepth(frame.lengths_in(depth.depth), frame.lengths_in(depth.step))


def notes(frame: Frame) -> list[str]:
    """What users of the mesh have to know of where it lies."""
    if not frame.is_far:
        return []
    x, y, z = (f"{c:.15g}" for c in frame.origin)
    return [
        "The object lies far from the origin for its size. mesh.glb, which holds 32-bit numbers, has its vertices relative to "
        f"({x}, {y}, {z}), which its node's translation adds; mesh.obj and mesh.ply (doubles) have full coordinates, which "
        "programs that read them as 32-bit numbers will round."
    ]
