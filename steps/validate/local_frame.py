"""The local frame of the scene, from the user's unit and origin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steps.geometry.cameras import VIEW_NAMES, ray_to_z
from steps.geometry.frame import MAX_DISTANCE, Frame, frame_around
from steps.io.cameras_json import View
from steps.io.depth_encoding import MetricDepth, metric_depth
from steps.io.png import Picture

SIDE = 128  # pixels: more would measure the object no better


@dataclass(frozen=True)
class LocalFrame:
    """frame: the local frame; distances: of each view's object along its axis, user units, independent of the poses."""

    frame: Frame
    distances: list[float]

    def cameras(self, views: list[View]) -> list[View]:
        """The views with their cameras in the frame; encodings stay in the user's unit."""
        cameras = [self.frame.camera_in(v.camera, d) for v, d in zip(views, self.distances, strict=True)]
        return [replace(view, camera=camera) for view, camera in zip(views, cameras, strict=True)]

    def depth(self, index: int, depth: MetricDepth) -> MetricDepth:
        """A view's depth in the frame, float32."""
        near = self.frame.depth_in(depth.depth, self.distances[index])
        return MetricDepth(near, self.frame.lengths_in(depth.step))


def local_frame_of(pictures: list[Picture], views: list[View]) -> LocalFrame:
    """The local frame around the depth renders under the user's cameras."""
    cameras, depths = [], []
    for picture, view in zip(pictures, views, strict=True):
        height, width = picture.pixels.shape[:2]
        step = max(1, max(height, width) // SIDE)
        pixels = picture.pixels[step // 2 :: step, step // 2 :: step]
        camera = view.camera.resized(width, height).subsampled(step)
        assert view.depth is not None
        depth = metric_depth(replace(picture, pixels=pixels), view.depth, ray_to_z(camera, pixels.shape[:2]))
        cameras.append(camera)
        depths.append(depth.depth)
    return LocalFrame(
        frame_around(cameras, depths), [float(np.median(d[d > 0])) if (d > 0).any() else 0.0 for d in depths]
    )


def notes(local: LocalFrame) -> list[str]:
    """Notes about an object far from the origin, and about cameras very far away."""
    return [*_of_origin(local.frame), *_of_cameras(local)]


def _of_cameras(local: LocalFrame) -> list[str]:
    far = [
        name for name, distance in zip(VIEW_NAMES, local.distances, strict=True) if local.frame.camera_shift(distance)
    ]
    if not far:
        return []
    return [
        f"The cameras of {', '.join(far)} are very far away: they were brought to {MAX_DISTANCE / 2:.0f} times the object's size "
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
