"""Pinhole cameras: a pose and intrinsics. Conventions: see `steps.geometry`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steps.compute.arrays import Array

# The canonical rig: six orthogonal cameras looking at the origin. `left` stands on the viewer's left (-x).
CANONICAL_DISTANCE = 2.5
CANONICAL_FOCAL_PER_WIDTH = 1111.0 / 1024.0
CANONICAL_AXES = {  # name: (direction from the origin to the camera, up in the picture)
    "front": ((0, 0, 1), (0, 1, 0)),
    "back": ((0, 0, -1), (0, 1, 0)),
    "left": ((-1, 0, 0), (0, 1, 0)),
    "right": ((1, 0, 0), (0, 1, 0)),
    "top": ((0, 1, 0), (0, 0, -1)),
    "bottom": ((0, -1, 0), (0, 0, 1)),
}
VIEW_NAMES = tuple(CANONICAL_AXES)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    name: the view's name; camera_to_world: (4, 4) float, OpenGL; fx, fy, cx, cy: pixels; width, height: pixels.
    """

    name: str
    camera_to_world: Array
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @property
    def position(self) -> Array:
        """The camera's centre in the world, (3,) float64."""
        return np.asarray(self.camera_to_world, dtype=np.float64)[:3, 3]

    @property
    def projection(self) -> Array:
        """(3, 4) float64: world (x, y, z, 1) to (column * depth, row * depth, depth), depth positive in front."""
        to_camera = np.diag([1.0, -1.0, -1.0]) @ np.linalg.inv(self.camera_to_world)[:3]
        intrinsics = np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])
        return intrinsics @ to_camera

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for a picture of another size of the same scene."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy, width=width, height=height
        )

    def subsampled(self, step: int) -> Camera:
        """The camera whose pixels are every step-th of this one's in both directions, from step // 2 on."""
        first = step // 2
        # the pixel with its centre at `first` + 0.5 has it at 0.5 now
        cx, cy = ((p - first - 0.5) / step + 0.5 for p in (self.cx, self.cy))
        width, height = (len(range(first, size, step)) for size in (self.width, self.height))
        return replace(self, fx=self.fx / step, fy=self.fy / step, cx=cx, cy=cy, width=width, height=height)


@dataclass(frozen=True)
class Placement:
    """Registration of a view to its depth render: the depth's point (x, y), half widths from the centre, x right and y up, is at
    scale (x, y) + (self.x, self.y) in the view."""

    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0


def look_at(name: str, position: Array, up: Array, size: int, focal: float) -> Camera:
    """A square camera of `size` pixels at `position` (3,) that looks at the origin; focal in pixels."""
    back = np.asarray(position, dtype=np.float64) / np.linalg.norm(position)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(back, right), back, position
    return Camera(name, pose, focal, focal, size / 2, size / 2, size, size)


def canonical_camera(name: str, width: int, height: int) -> Camera:
    """The camera that a view called `name` has in the canonical rig."""
    direction, up = CANONICAL_AXES[name]
    square = look_at(
        name, np.array(direction) * CANONICAL_DISTANCE, np.array(up), width, width * CANONICAL_FOCAL_PER_WIDTH
    )
    return replace(square, cy=height / 2, height=height)


def project(points: Array, camera: Camera) -> tuple[Array, Array]:
    """World points (n, 3) to pixel coordinates (n, 2), x right and y down, and depth (n,)."""
    homogeneous = points @ camera.projection[:, :3].T + camera.projection[:, 3]
    depth = homogeneous[:, 2]
    return homogeneous[:, :2] / depth[:, None], depth


def unproject(depth: Array, camera: Camera) -> Array:
    """World points (n, 3) float64 of the n pixels of `depth` [H, W] that are > 0."""
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns].astype(np.float64)
    x = (columns + 0.5 - camera.cx) / camera.fx * z
    y = (rows + 0.5 - camera.cy) / camera.fy * z
    local = np.stack([x, -y, -z], axis=1)
    pose = np.asarray(camera.camera_to_world)
    return local @ pose[:3, :3].T + pose[:3, 3]


def ray_to_z(camera: Camera, shape: tuple[int, int]) -> Array:
    """Factor [H, W] float32 that turns distance along the ray into distance along the viewing axis."""
    x = (np.arange(shape[1]) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(shape[0]) + 0.5 - camera.cy) / camera.fy
    return (1.0 / np.sqrt(1.0 + x[None, :] ** 2 + y[:, None] ** 2)).astype(np.float32)
