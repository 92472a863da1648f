"""A z-buffer rasterizer: perspective-correct, watertight along shared edges, deterministic. Its results can be differentiated
by the corners (`rasterize_backward`); `steps.raster.torch_ops` wraps both for torch.

Triangles are rasterized in 2D homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997): an edge function is the cross product of two projected corners, which needs no division, so that a
triangle crossing the near plane needs no clipping. Swapping an edge's ends negates its function exactly; two triangles
that share an edge therefore never both miss, nor both hit, a pixel centre.

Own code, since nvdiffrast runs on CUDA alone, and a job must give the same pictures and gradients without a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array
from steps.compute.device import beside
from steps.compute.kernels import check_indices, inlined, kernel
from steps.compute.launch import contiguous, full, is_cuda, launch, launch_sums, zeros
from steps.compute.per_device import add
from steps.geometry.cameras import Camera
from steps.raster.coverage import LEAST_W, draw_face, edge_function

NEAR = 1e-4  # of the farthest corner's depth: the near plane
# relative determinant below which a face is degenerate and has no gradient
DEGENERATE = 1e-12


@dataclass(frozen=True)
class Fragments:
    """The visible face of each pixel. face: [H, W] int32, -1 for none; bary: [H, W, 2] float32, perspective-correct barycentric
    weights of its first two corners; depth: [H, W] float32, 0 for none: along the viewing axis where a camera was given, z /
    w where homogeneous corners were."""

    face: Array
    bary: Array
    depth: Array


def rasterize(positions: Array, faces: Array, camera: Camera) -> Fragments:
    """Rasterizes positions (n, 3) and faces (m, 3) for `camera`, without backface culling, on the device of these arrays."""
    projection = beside(camera.projection, positions)
    projected = positions.astype(np.float64, copy=False) @ projection[:, :3].T + projection[:, 3]
    depth = projected[:, 2:]
    farthest = max(float(np.where(np.isfinite(depth), depth, 0.0).max()), 0.0) if len(depth) else 0.0
    # with z = -1 the buffer holds -1 / depth, which is linear on the screen as a z-buffer's values have to be
    corners = np.concatenate([projected[:, :2], np.full_like(depth, -1.0), depth], axis=1)
    lowest = -1.0 / (NEAR * farthest) if farthest > 0 else -np.inf
    fragments = rasterize_homogeneous(corners, faces, camera.width, camera.height, lowest)
    launch(_to_depth, fragments.face.shape, fragments.face, fragments.depth)
    return fragments


def rasterize_homogeneous(
    corners: Array, faces: Array, width: int, height: int, lowest: float = -1.0, highest: float = 1.0
) -> Fragments:
    """`rasterize` of projected corners (n, 4) float64: (column * w, row * w, z, w). The smallest z / w is nearest; z / w is
    clipped to [lowest, highest]; faces with a non-finite corner are dropped. Raises ValueError for a face index out of
    range."""
    fragments = Fragments(
        full((height, width), -1, np.int32, corners),
        zeros((height, width, 2), np.float32, corners),
        zeros((height, width), np.float32, corners),
    )
    check_indices(faces, len(corners))
    corners, faces = contiguous(corners, np.float64), contiguous(faces, np.int32)
    bounds = zeros((len(faces), 4), np.int32, corners)
    launch(_pixel_bounds, (len(faces),), corners, faces, width, height, bounds)
    if is_cuda(corners):
        from steps.raster.keys import draw

        draw(corners, faces, bounds, (lowest, highest), fragments)
    else:
        buffers = fragments.face, fragments.bary, fragments.depth
        launch(_draw_rows, (height,), corners, faces, bounds, lowest, highest, buffers)
    return fragments


def pack_fragments(fragments: Fragments) -> Array:
    """The fragments in one array, [H, W, 4] float32: both weights, z / w, and face + 1, 0 for none."""
    shape = fragments.face.shape
    out = zeros((*shape, 4), np.float32, fragments.face)
    launch(_pack, shape, fragments.face, fragments.bary, fragments.depth, out)
    return out


def rasterize_backward(corners: Array, faces: Array, rast: Array, gradient: Array) -> Array:
    """Gradient (n, 3) float64 of a loss by each corner's (column * w, row * w, w), given that by `rast`, of which only the
    weights' part counts. Visibility is taken as constant: its gradient comes from antialiasing."""
    check_indices(faces, len(corners))
    return launch_sums(_backward, rast.shape[:2], (len(corners), 3), corners, faces, rast, gradient)


@kernel
def _pack(rows, columns, face, bary, depth, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            out[row, column, 0], out[row, column, 1] = bary[row, column, 0], bary[row, column, 1]
            out[row, column, 2], out[row, column, 3] = depth[row, column], face[row, column] + 1


@kernel
def _to_depth(rows, columns, face, depth):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            if face[row, column] >= 0:
                depth[row, column] = np.float32(-1.0) / depth[row, column]


@kernel
def _pixel_bounds(items, corners, faces, width, height, bounds):  # type: ignore[no-untyped-def]
    for f in range(items[0], items[1], items[2]):
        _face_bounds(f, corners, faces, width, height, bounds)


@inlined
def _face_bounds(f, corners, faces, width, height, bounds):  # type: ignore[no-untyped-def]
    """Bounding box of the pixel centres that a face may cover: first column, last column, first row, last row (inclusive)."""
    left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
    behind, finite = 0, True
    for k in range(3):
        corner = faces[f, k]
        x, y, w = corners[corner, 0], corners[corner, 1], corners[corner, 3]
        finite = finite and math.isfinite(x) and math.isfinite(y) and math.isfinite(w)
        if w < LEAST_W:
            behind += 1
        else:
            left, right = min(left, x / w), max(right, x / w)
            top, bottom = min(top, y / w), max(bottom, y / w)
    if behind == 3 or not finite:
        left, right, top, bottom = 1.0, 0.0, 1.0, 0.0
    elif behind > 0:  # it crosses the camera plane: its projection is unbounded
        left, right, top, bottom = 0.0, float(width), 0.0, float(height)
    # clamped before the conversion to int, which would overflow
    bounds[f, 0] = int(math.ceil(min(max(left - 0.5, 0.0), float(width))))
    bounds[f, 1] = int(math.floor(min(max(right - 0.5, -1.0), width - 1.0)))
    bounds[f, 2] = int(math.ceil(min(max(top - 0.5, 0.0), float(height))))
    bounds[f, 3] = int(math.floor(min(max(bottom - 0.5, -1.0), height - 1.0)))


@kernel
def _draw_rows(rows, corners, faces, bounds, lowest, highest, buffers):  # type: ignore[no-untyped-def]
    for f in range(len(faces)):
        first, last = max(bounds[f, 2], rows[0]), min(bounds[f, 3], rows[1] - 1)
        if first <= last and bounds[f, 0] <= bounds[f, 1]:
            draw_face(f, corners, faces, lowest, highest, buffers, (first, last), (bounds[f, 0], bounds[f, 1]))


@kernel
def _backward(rows, columns, corners, faces, rast, gradient, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _backward_pixel(row, column, corners, faces, rast, gradient, out)


@inlined
def face_of(rast, row, column, count):  # type: ignore[no-untyped-def]
    """The face of a pixel of packed fragments, out of `count`; -1 for none, and for what is no valid index."""
    number = rast[row, column, 3]
    return int(number) - 1 if 1 <= number <= count else -1


@inlined
def _backward_pixel(row, column, corners, faces, rast, gradient, out):  # type: ignore[no-untyped-def]
    """With M = [p q r] the corners without Z, the weights are M^-1 (x, y, 1) over their sum, so that the gradient by corner k
    is -weight_k M^-T (g - g . weights). It needs neither the pixel's place nor its w."""
    f = face_of(rast, row, column, len(faces))
    if f < 0:
        return
    g0, g1 = gradient[row, column, 0], gradient[row, column, 1]
    if g0 == 0.0 and g1 == 0.0:
        return
    p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
    a0, b0, c0 = edge_function(q, r)
    a1, b1, c1 = edge_function(r, p)
    a2, b2, c2 = edge_function(p, q)
    determinant = a0 * p[0] + b0 * p[1] + c0 * p[3]
    if abs(determinant) <= DEGENERATE * (abs(a0 * p[0]) + abs(b0 * p[1]) + abs(c0 * p[3])):
        return
    u, v = rast[row, column, 0], rast[row, column, 1]
    mean = g0 * u + g1 * v
    s0, s1, s2 = (g0 - mean) / determinant, (g1 - mean) / determinant, -mean / determinant
    x, y, w = s0 * a0 + s1 * a1 + s2 * a2, s0 * b0 + s1 * b1 + s2 * b2, s0 * c0 + s1 * c1 + s2 * c2
    for k in range(3):
        weight = u if k == 0 else (v if k == 1 else 1.0 - u - v)
        add(out, (faces[f, k], 0), -weight * x)
        add(out, (faces[f, k], 1), -weight * y)
        add(out, (faces[f, k], 2), -weight * w)


def derivatives(corners: Array, faces: Array, rast: Array) -> Array:
    """Screen-space derivatives of the weights: [H, W, 4] float32, du/dx, du/dy, dv/dx, dv/dy per pixel, y down."""
    check_indices(faces, len(corners))
    out = zeros(rast.shape, np.float32, rast)
    launch(_derivatives, rast.shape[:2], corners, faces, rast, out)
    return out


@kernel
def _derivatives(rows, columns, corners, faces, rast, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _derivatives_pixel(row, column, corners, faces, rast, out)


@inlined
def _derivatives_pixel(row, column, corners, faces, rast, out):  # type: ignore[no-untyped-def]
    f = face_of(rast, row, column, len(faces))
    if f < 0:
        return
    p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
    a0, b0, c0 = edge_function(q, r)
    a1, b1, c1 = edge_function(r, p)
    a2, b2, c2 = edge_function(p, q)
    a, b, c = a0 + a1 + a2, b0 + b1 + b2, c0 + c1 + c2
    total = a * (column + 0.5) + b * (row + 0.5) + c
    if total == 0.0:
        return
    u, v = rast[row, column, 0], rast[row, column, 1]
    out[row, column, 0], out[row, column, 1] = (a0 - u * a) / total, (b0 - u * b) / total
    out[row, column, 2], out[row, column, 3] = (a1 - v * a) / total, (b1 - v * b) / total
