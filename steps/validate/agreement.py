"""Whether six depth maps are of one object, as their cameras have it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry.cameras import Camera, project, unproject

Array = NDArray[Any]
POINTS = 2000  # of each view
FAR = 0.03  # of the object's diagonal: a point so far outside an outline, or before a surface, is denied by that view
SUSPICIOUS = (
    0.1  # the share of such points from which something is wrong with cameras or encoding; exact renders have none
)


def contradicted(depths: list[Array], cameras: list[Camera]) -> float:
    """The share of the points seen by one view that another view says are not there. depths: [H, W], 0 where nothing is; cameras:
    of the depth maps."""
    clouds = [_thinned(unproject(depth, camera)) for depth, camera in zip(depths, cameras, strict=True)]
    everything = np.concatenate(clouds)
    far = FAR * float(np.linalg.norm(np.ptp(everything, axis=0)))
    wrong = np.zeros(len(everything), bool)
    for index, (depth, camera) in enumerate(zip(depths, cameras, strict=True)):
        other = np.concatenate([np.full(len(cloud), i != index) for i, cloud in enumerate(clouds)])
        wrong |= other & _denied(everything, depth, camera, far)
    return float(wrong.mean()) if len(wrong) else 0.0


def _thinned(points: Array) -> Array:
    return points[:: max(1, len(points) // POINTS)]


def _denied(points: Array, depth: Array, camera: Camera, far: float) -> Array:
    """Which points (n, 3) this view says are not there: it looks past them, and past all that is `far` around them."""
    pixels, distance = project(points, camera)
    height, width = depth.shape
    denied = distance > 0
    reach = far * camera.fx / np.maximum(distance, 1e-9)  # pixels
    for x, y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        column = np.floor(pixels[:, 0] + x * reach).astype(np.int64)
        row = np.floor(pixels[:, 1] + y * reach).astype(np.int64)
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        seen = np.zeros(len(points))
        seen[inside] = depth[row[inside], column[inside]]
        # beyond the picture's edge nothing is known, and nothing is denied
        denied &= inside & ((seen == 0) | (seen > distance + far))
    return np.asarray(denied)
