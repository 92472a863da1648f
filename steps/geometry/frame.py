"""The local frame of a scene: origin near the object, unit about its size.

Thresholds and float32 then mean the same for every unit and origin of the user, and the same set in another unit, or
translated, gives bit-identical results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, unproject

Position = tuple[float, float, float]
DIAGONAL = 2.25  # local units of the diagonal around the object's outline, in the median of the views
PERCENTILES = (1.0, 99.0)  # percentiles between which the object's points are measured: single depths may be anything
# local units from the user's origin beyond which 32 bits move a vertex by more than a millionth of a local unit
MAX_ORIGIN_DISTANCE = 8.0
# local units to the object beyond which depth in 32 bits is too coarse. A camera further away, as orthographic ones stand for, is
# brought there along its axis, with its focal length: in a picture of 1000 pixels nothing moves by more than a tenth
MAX_DISTANCE = 4096.0
# local units to which depth and cameras' places are rounded: no rounding in the user's unit is left in them
PRECISION = 2.0**-18


@dataclass(frozen=True)
class Frame:
    """user = local * scale + offset. scale: user units per local one; offset: (3,) user units."""

    scale: float = 1.0
    offset: Position = (0.0, 0.0, 0.0)

    @property
    def is_far(self) -> bool:
        """Whether float32 is too coarse for the object's points in the user's frame."""
        return max(map(abs, self.offset)) > MAX_ORIGIN_DISTANCE * self.scale

    @property
    def origin(self) -> Position:
        """The offset that float32 files subtract from the user's coordinates: a round position near the object; 0 where not
        needed."""
        if not self.is_far:
            return (0.0, 0.0, 0.0)
        digits = -int(np.ceil(np.log10(self.scale)))
        x, y, z = (round(c, digits) for c in self.offset)
        return (x, y, z)

    def relative_to(self, origin: Position) -> Frame:
        """The frame whose user coordinates are relative to `origin`; local coordinates are the same."""
        x, y, z = (a - b for a, b in zip(self.offset, origin, strict=True))
        return Frame(self.scale, (x, y, z))

    def points_in(self, points: Array) -> Array:
        """User points (n, 3) to local coordinates, float64."""
        return np.asarray((np.asarray(points, np.float64) - self.offset) / self.scale)

    def points_out(self, points: Array) -> Array:
        """Local points (n, 3) to user coordinates, float64."""
        return np.asarray(np.asarray(points, np.float64) * self.scale + self.offset)

    def lengths_in(self, lengths: Array) -> Array:
        """Lengths in user units to local units, float32."""
        return np.asarray(lengths / self.scale, np.float32)

    def depth_in(self, depth: Array, distance: float) -> Array:
        """The user's depth [H, W], 0 where nothing is, from where `camera_in` puts the camera; local units, float32."""
        nearer = np.round((depth / self.scale - self.camera_shift(distance)) / PRECISION) * PRECISION
        return np.where(depth > 0, np.maximum(nearer, 0), 0).astype(np.float32)

    def camera_shift(self, distance: float) -> float:
        """Local units by which a camera at `distance` (user units) is moved closer: the excess over MAX_DISTANCE, else 0."""
        return max(0.0, distance / self.scale - MAX_DISTANCE)

    def distance(self, camera: Camera) -> float:
        """User units from the user's camera along its axis to the frame's origin."""
        pose = np.asarray(camera.camera_to_world, np.float64)
        return float((pose[:3, 3] - self.offset) @ pose[:3, 2])

    def length_out(self, length: float) -> float:
        """A local length in user units, rounded as by `rounded`."""
        return self.rounded(length * self.scale)

    def rounded(self, length: float) -> float:
        """A length or coordinate in the user's units, to a millionth of a local unit."""
        return round(float(length), 6 - round(np.log10(self.scale)))

    def to_stored(self, points: Array) -> Array:
        """Local points (n, 3) as float32 files hold them: user units, relative to `origin`."""
        return self.relative_to(self.origin).points_out(points).astype(np.float32)

    def from_stored(self, points: Array, origin: Position) -> Array:
        """Inverse of `to_stored`: local points (n, 3) float32 from user coordinates relative to `origin`."""
        return self.relative_to(origin).points_in(points).astype(np.float32)

    def camera_in(self, camera: Camera, distance: float | None = None) -> Camera:
        """The user's camera in the local frame, at most MAX_DISTANCE away. distance: user units along its axis to the object,
        where known from depth; else to the frame's origin."""
        camera_shift = self.camera_shift(self.distance(camera) if distance is None else distance)
        pose = np.array(camera.camera_to_world, np.float64)
        place = self.points_in(pose[:3, 3]) - camera_shift * pose[:3, 2]
        pose[:3, 3] = np.round(place / PRECISION) * PRECISION
        share = MAX_DISTANCE / (MAX_DISTANCE + camera_shift) if camera_shift else 1.0
        return replace(camera, camera_to_world=pose, fx=camera.fx * share, fy=camera.fy * share)

    def camera_out(self, camera: Camera) -> Camera:
        """A local camera in the user's frame."""
        pose = np.array(camera.camera_to_world, np.float64)
        pose[:3, 3] = self.points_out(pose[:3, 3])
        return replace(camera, camera_to_world=pose)

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "offset": list(self.offset)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Frame:
        x, y, z = map(float, value["offset"])
        return Frame(float(value["scale"]), (x, y, z))


def frame_around(cameras: list[Camera], depths: list[Array]) -> Frame:
    """The local frame of the views' object. cameras: the user's; depths: [h, w] float64, of their sizes, 0 where nothing is.
    The user's own frame where there is no extent."""
    in_camera = [_points_in_camera(camera, depth) for camera, depth in zip(cameras, depths, strict=True)]
    diagonals = [float(np.hypot(*np.ptp(_bounding_box(points)[:, :2], axis=0))) for points in in_camera if len(points)]
    scale = float(np.median(diagonals)) / DIAGONAL if diagonals else 0.0
    if not 0 < scale < np.inf:
        return Frame()
    reference = cameras[
        0
    ].position  # the user's origin may be so far away that places relative to it have few digits left
    in_world = [
        points @ np.asarray(camera.camera_to_world)[:3, :3].T + (camera.position - reference)
        for points, camera in zip(in_camera, cameras, strict=True)
    ]
    middle = reference + _bounding_box(np.concatenate(in_world)).mean(axis=0)
    x, y, z = map(float, middle)
    return Frame(scale, (x, y, z))


def _points_in_camera(camera: Camera, depth: Array) -> Array:
    """(n, 3): a depth map's points in the camera's frame."""
    return unproject(np.where(np.isfinite(depth), depth, 0.0), replace(camera, camera_to_world=np.eye(4)))


def _bounding_box(points: Array) -> Array:
    """(2, 3): robust bounding box, by percentiles."""
    return np.asarray(np.percentile(points, PERCENTILES, axis=0))
