"""From the user's unit and origin into the local frame that the scene is in."""

from __future__ import annotations

from dataclasses import replace

from steps.formats.cameras_json import View
from steps.formats.depth_encoding import MetricDepth, metric_depth
from steps.formats.png import Picture
from steps.geometry.cameras import Camera, ray_to_z
from steps.geometry.frame import FURTHEST, Frame, around

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


def moved(depth: MetricDepth, camera: Camera, frame: Frame) -> MetricDepth:
    """What the user's camera sees, in the frame, float32."""
    return MetricDepth(frame.depth_in(depth.depth, camera), frame.lengths_in(depth.step))


def notes(frame: Frame, views: list[View]) -> list[str]:
    """What has to be said of where the object and the user's cameras are."""
    return [*_of_origin(frame), *_of_cameras(frame, views)]


def _of_cameras(frame: Frame, views: list[View]) -> list[str]:
    far = [view.camera.name for view in views if frame.brought(view.camera)]
    if not far:
        return []
    return [
        f"The cameras of {', '.join(far)} are very far away: they were brought to {FURTHEST / 2:.0f} times the object's size "
        "along their axes, with their focal lengths. Nothing in a picture of 1000 pixels moves by more than a tenth; "
        "32-bit depth from further away would be coarse."
    ]


def _of_origin(frame: Frame) -> list[str]:
    if not frame.is_far:
        return []
    x, y, z = (f"{c:.15g}" for c in frame.origin)
    return [
        "The object lies far from the origin for its size. mesh.glb, which holds 32-bit numbers, has its vertices relative to "
        f"({x}, {y}, {z}), which its node's translation adds; mesh.obj and mesh.ply (doubles) have full coordinates, which "
        "programs that read them as 32-bit numbers will round."
    ]
