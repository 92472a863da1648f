"""The local frame that a scene is worked on in: origin near the object, unit about its size. Thresholds and 32-bit numbers then
mean the same whatever the user's unit is and wherever the user's origin lies, and the same set in another unit, or moved, is the
same in it to the last bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry.cameras import Camera, unproject

Array = NDArray[Any]
Place = tuple[float, float, float]
DIAGONAL = 2.25  # local units of the diagonal around the object's outline, in the median of the views
INNER = (1.0, 99.0)  # percentiles between which the object's points are measured: single depths may be anything
FAR = 8.0  # local units from the user's origin beyond which 32 bits move a vertex by more than a millionth of a local unit
# local units to the object beyond which depth in 32 bits is too coarse. A camera further away, as orthographic ones stand for, is
# brought there along its axis, with its focal length: in a picture of 1000 pixels nothing moves by more than a tenth
FURTHEST = 4096.0
# local units to which depth and cameras' places are rounded: no rounding in the user's unit is left in them
FINEST = 2.0**-18


@dataclass(frozen=True)
class Frame:
    """user = local * scale + offset. scale: user units per local one; offset: (3,) user units."""

    scale: float = 1.0
    offset: Place = (0.0, 0.0, 0.0)

    @property
    def is_far(self) -> bool:
        """Whether 32-bit numbers are too coarse for the object's points in the user's frame."""
        return max(map(abs, self.offset)) > FAR * self.scale

    @property
    def origin(self) -> Place:
        """What files of 32-bit numbers leave out of the user's coordinates: a round place near the object; 0 where nothing."""
        if not self.is_far:
            return (0.0, 0.0, 0.0)
        digits = -int(np.ceil(np.log10(self.scale)))
        x, y, z = (round(c, digits) for c in self.offset)
        return (x, y, z)

    def less(self, origin: Place) -> Frame:
        """From the same local frame to the user's coordinates less `origin`."""
        x, y, z = (a - b for a, b in zip(self.offset, origin, strict=True))
        return Frame(self.scale, (x, y, z))

    def points_in(self, points: Array) -> Array:
        """The user's points (n, 3) in the local frame, float64."""
        return np.asarray((np.asarray(points, np.float64) - self.offset) / self.scale)

    def points_out(self, points: Array) -> Array:
        """Local points (n, 3) in the user's frame, float64."""
        return np.asarray(np.asarray(points, np.float64) * self.scale + self.offset)

    def lengths_in(self, lengths: Array) -> Array:
        """The user's lengths in local units, float32."""
        return np.asarray(lengths / self.scale, np.float32)

    def depth_in(self, depth: Array, distance: float) -> Array:
        """The depth [H, W] that a user's camera sees, 0 where nothing, from where `camera_in` puts it; local units, float32."""
        nearer = np.round((depth / self.scale - self.brought(distance)) / FINEST) * FINEST
        return np.where(depth > 0, np.maximum(nearer, 0), 0).astype(np.float32)

    def brought(self, distance: float) -> float:
        """Local units by which a user's `distance` is larger than FURTHEST, 0 where it is not."""
        return max(0.0, distance / self.scale - FURTHEST)

    def distance(self, camera: Camera) -> float:
        """User units from the user's camera along its axis to the frame's origin."""
        pose = np.asarray(camera.camera_to_world, np.float64)
        return float((pose[:3, 3] - self.offset) @ pose[:3, 2])

    def length_out(self, length: float) -> float:
        """A local length in the user's units, rounded."""
        return self.rounded(length * self.scale)

    def rounded(self, length: float) -> float:
        """A length or coordinate in the user's units, to a millionth of a local unit."""
        return round(float(length), 6 - round(np.log10(self.scale)))

    def stored(self, points: Array) -> Array:
        """Local points (n, 3) as files of 32-bit numbers have them, in the user's unit and relative to `origin`."""
        return self.less(self.origin).points_out(points).astype(np.float32)

    def read(self, points: Array, origin: Place) -> Array:
        """The local points (n, 3), float32, that such a file holds relative to `origin`."""
        return self.less(origin).points_in(points).astype(np.float32)

    def camera_in(self, camera: Camera, distance: float | None = None) -> Camera:
        """The user's camera in the local frame, no further away than FURTHEST. distance: user units along its axis to what it
        shows, where that is known from depth; else to the frame's origin."""
        brought = self.brought(self.distance(camera) if distance is None else distance)
        pose = np.array(camera.camera_to_world, np.float64)
        place = self.points_in(pose[:3, 3]) - brought * pose[:3, 2]
        pose[:3, 3] = np.round(place / FINEST) * FINEST
        share = FURTHEST / (FURTHEST + brought) if brought else 1.0
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


def around(cameras: list[Camera], depths: list[Array]) -> Frame:
    """The local frame of the object that views show. cameras: the user's; depths: [h, w] float64, of their sizes, 0 where nothing
    is. The user's own frame where there is no extent."""
    own = [_seen(camera, depth) for camera, depth in zip(cameras, depths, strict=True)]
    spans = [float(np.hypot(*np.ptp(_box(points)[:, :2], axis=0))) for points in own if len(points)]
    scale = float(np.median(spans)) / DIAGONAL if spans else 0.0
    if not 0 < scale < np.inf:
        return Frame()
    first = cameras[0].position  # the user's origin may be so far away that places relative to it have few digits left
    places = [
        points @ np.asarray(camera.camera_to_world)[:3, :3].T + (camera.position - first)
        for points, camera in zip(own, cameras, strict=True)
    ]
    middle = first + _box(np.concatenate(places)).mean(axis=0)
    x, y, z = map(float, middle)
    return Frame(scale, (x, y, z))


def _seen(camera: Camera, depth: Array) -> Array:
    """The points (n, 3) that a view shows, seen from its own camera: they do not depend on where that stands."""
    return unproject(np.where(np.isfinite(depth), depth, 0.0), replace(camera, camera_to_world=np.eye(4)))


def _box(points: Array) -> Array:
    """(2, 3): the ends of what most of the points fill."""
    return np.asarray(np.percentile(points, INNER, axis=0))
