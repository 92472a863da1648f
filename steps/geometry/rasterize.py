"""A z-buffer rasterizer: perspective-correct, watertight along shared edges, deterministic.

Triangles are rasterized in 2D homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997): an edge function is the cross product of two projected corners, which needs no division, so that a
triangle crossing the near plane needs no clipping. Swapping an edge's ends negates its function exactly; two triangles
that share an edge therefore never both miss, nor both hit, a pixel centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry.cameras import Camera
from steps.geometry.kernels import for_bands, kernel

Array = NDArray[Any]
NEAR = 1e-4  # scene units; what is closer to the camera than this is not drawn


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees. face: [H, W] int32, -1 for nothing; bary: [H, W, 2] float32, the perspective-correct weights
    of the face's first two corners; depth: [H, W] float32, 0 for nothing."""

    face: Array
    bary: Array
    depth: Array


def rasterize(positions: Array, faces: Array, camera: Camera) -> Fragments:
    """Draws positions (n, 3) and faces (m, 3) as `camera` sees them, both sides of every face."""
    corners = np.asarray(positions, np.float64) @ camera.projection[:, :3].T + camera.projection[:, 3]
    return rasterize_homogeneous(corners, faces, camera.width, camera.height)


def rasterize_homogeneous(corners: Array, faces: Array, width: int, height: int) -> Fragments:
    """As `rasterize`, with corners (n, 3) float64 already projected: (column * w, row * w, w)."""
    face = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 2), np.float32)
    depth = np.zeros((height, width), np.float32)
    corners = np.ascontiguousarray(corners, np.float64)
    faces = np.ascontiguousarray(faces, np.int32)
    spans = np.empty((len(faces), 4), np.int32)
    for_bands(lambda a, b: _pixel_spans(corners, faces, width, height, spans, a, b), len(faces))
    for_bands(lambda a, b: _rasterize_band(corners, faces, spans, face, bary, depth, a, b), height)
    return Fragments(face, bary, depth)


@kernel
def _pixel_spans(corners, faces, width, height, spans, start, stop):  # type: ignore[no-untyped-def]
    """The pixels whose centres a face may cover: first column, last column, first row, last row (inclusive)."""
    for f in range(start, stop):
        left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
        behind = 0
        for k in range(3):
            x, y, w = corners[faces[f, k]]
            if w < NEAR:
                behind += 1
                continue
            left, right = min(left, x / w), max(right, x / w)
            top, bottom = min(top, y / w), max(bottom, y / w)
        if behind == 3:
            spans[f] = (0, -1, 0, -1)
        elif behind > 0:  # it crosses the near plane: its outline may reach anywhere
            spans[f] = (0, width - 1, 0, height - 1)
        else:
            spans[f, 0] = int(max(0.0, np.ceil(left - 0.5)))
            spans[f, 1] = int(min(width - 1.0, np.floor(right - 0.5)))
            spans[f, 2] = int(max(0.0, np.ceil(top - 0.5)))
            spans[f, 3] = int(min(height - 1.0, np.floor(bottom - 0.5)))


@kernel
def _owns(a, b, c):  # type: ignore[no-untyped-def]
    """Whether the face to the left of the directed edge a x + b y + c = 0 owns the points on it (a fill rule)."""
    return a > 0 or (a == 0 and b > 0) or (a == 0 and b == 0 and c > 0)


@kernel
def _cross(p, q):  # type: ignore[no-untyped-def]
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@kernel
def _rasterize_band(corners, faces, spans, face, bary, depth, start, stop):  # type: ignore[no-untyped-def]
    for f in range(len(faces)):
        first, last = max(spans[f, 2], start), min(spans[f, 3], stop - 1)
        if first > last or spans[f, 0] > spans[f, 1]:
            continue
        p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
        a0, b0, c0 = _cross(q, r)
        a1, b1, c1 = _cross(r, p)
        a2, b2, c2 = _cross(p, q)
        determinant = a0 * p[0] + b0 * p[1] + c0 * p[2]
        if determinant == 0.0:
            continue
        if determinant < 0.0:
            a0, b0, c0, a1, b1, c1, a2, b2, c2 = -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2
            determinant = -determinant
        own0, own1, own2 = _owns(a0, b0, c0), _owns(a1, b1, c1), _owns(a2, b2, c2)
        for row in range(first, last + 1):
            y = row + 0.5
            for column in range(spans[f, 0], spans[f, 1] + 1):
                x = column + 0.5
                e0, e1, e2 = a0 * x + b0 * y + c0, a1 * x + b1 * y + c1, a2 * x + b2 * y + c2
                if e0 < 0 or e1 < 0 or e2 < 0:
                    continue
                if (e0 == 0 and not own0) or (e1 == 0 and not own1) or (e2 == 0 and not own2):
                    continue
                total = e0 + e1 + e2  # determinant / w
                w = determinant / total
                if w >= NEAR and (face[row, column] < 0 or w < depth[row, column]):
                    face[row, column] = f
                    depth[row, column] = w
                    bary[row, column, 0] = e0 / total
                    bary[row, column, 1] = e1 / total
