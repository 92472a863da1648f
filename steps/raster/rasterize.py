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
from steps.compute.kernels import add, check_indices, for_bands, inlined, kernel, summed_bands
from steps.geometry.cameras import Camera

NEAR = 1e-4  # of the farthest corner's depth: the near plane
# relative determinant below which a face is degenerate and has no gradient
DEGENERATE = 1e-12
LEAST_W = 1e-9  # w below which a corner counts as behind the camera


@dataclass(frozen=True)
class Fragments:
    """The visible face of each pixel. face: [H, W] int32, -1 for none; bary: [H, W, 2] float32, perspective-correct barycentric
    weights of its first two corners; depth: [H, W] float32, 0 for none: along the viewing axis where a camera was given, z /
    w where homogeneous corners were."""

    face: Array
    bary: Array
    depth: Array


def rasterize(positions: Array, faces: Array, camera: Camera) -> Fragments:
    """Rasterizes positions (n, 3) and faces (m, 3) for `camera`, without backface culling."""
    projected = np.asarray(positions, np.float64) @ camera.projection[:, :3].T + camera.projection[:, 3]
    farthest = float(np.max(projected[:, 2], where=np.isfinite(projected[:, 2]), initial=0.0))
    # with z = -1 the buffer holds -1 / depth, which is linear on the screen as a z-buffer's values have to be
    corners = np.concatenate([projected[:, :2], np.full((len(projected), 1), -1.0), projected[:, 2:]], axis=1)
    lowest = -1.0 / (NEAR * farthest) if farthest > 0 else -np.inf
    fragments = rasterize_homogeneous(corners, faces, camera.width, camera.height, lowest)
    for_bands(lambda a, b: _to_depth(fragments.face, fragments.depth, a, b), camera.height)
    return fragments


def rasterize_homogeneous(
    corners: Array, faces: Array, width: int, height: int, lowest: float = -1.0, highest: float = 1.0
) -> Fragments:
    """`rasterize` of projected corners (n, 4) float64: (column * w, row * w, z, w). The smallest z / w is nearest; z / w is
    clipped to [lowest, highest]; faces with a non-finite corner are dropped. Raises ValueError for a face index out of
    range."""
    face = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 2), np.float32)
    depth = np.zeros((height, width), np.float32)
    check_indices(faces, len(corners))
    corners = np.ascontiguousarray(corners, np.float64)
    faces = np.ascontiguousarray(faces, np.int32)
    bounds = np.empty((len(faces), 4), np.int32)
    for_bands(lambda a, b: _pixel_bounds(corners, faces, width, height, bounds, a, b), len(faces))
    for_bands(lambda a, b: _rasterize_band(corners, faces, bounds, lowest, highest, face, bary, depth, a, b), height)
    return Fragments(face, bary, depth)


def pack_fragments(fragments: Fragments) -> Array:
    """The fragments in one array, [H, W, 4] float32: both weights, z / w, and face + 1, 0 for none."""
    out = np.empty((*fragments.face.shape, 4), np.float32)
    for_bands(lambda a, b: _pack(fragments.face, fragments.bary, fragments.depth, out, a, b), len(out))
    return out


def rasterize_backward(corners: Array, faces: Array, rast: Array, gradient: Array) -> Array:
    """Gradient (n, 3) float64 of a loss by each corner's (column * w, row * w, w), given that by `rast`, of which only the
    weights' part counts. Visibility is taken as constant: its gradient comes from antialiasing."""
    check_indices(faces, len(corners))
    shape = (len(corners), 3)
    return summed_bands(lambda out, a, b: _backward_band(corners, faces, rast, gradient, out, a, b), len(rast), shape)


@kernel
def _pack(face, bary, depth, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(face.shape[1]):
            out[row, column, 0], out[row, column, 1] = bary[row, column, 0], bary[row, column, 1]
            out[row, column, 2], out[row, column, 3] = depth[row, column], face[row, column] + 1


@kernel
def _to_depth(face, depth, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(face.shape[1]):
            if face[row, column] >= 0:
                depth[row, column] = np.float32(-1.0) / depth[row, column]


@kernel
def _pixel_bounds(corners, faces, width, height, bounds, start, stop):  # type: ignore[no-untyped-def]
    for f in range(start, stop):
        face_bounds(f, corners, faces, width, height, bounds)


@inlined
def face_bounds(f, corners, faces, width, height, bounds):  # type: ignore[no-untyped-def]
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


@inlined
def fill_rule(a, b, c):  # type: ignore[no-untyped-def]
    """Whether points on the directed edge a x + b y + c = 0 belong to the face to its left."""
    return a > 0 or (a == 0 and b > 0) or (a == 0 and b == 0 and c > 0)


@inlined
def edge_function(p, q):  # type: ignore[no-untyped-def]
    """Coefficients of the edge function of the line through two corners (X, Y, Z, W): the cross product without Z."""
    return p[1] * q[3] - p[3] * q[1], p[3] * q[0] - p[0] * q[3], p[0] * q[1] - p[1] * q[0]


@kernel
def _rasterize_band(corners, faces, bounds, lowest, highest, face, bary, depth, start, stop):  # type: ignore[no-untyped-def]
    for f in range(len(faces)):
        draw_face(f, corners, faces, bounds, lowest, highest, face, bary, depth, start, stop)


@inlined
def depth_test(face, bary, depth, row, column, f, z, u, v):  # type: ignore[no-untyped-def]
    """Z-buffer update: the nearest face wins, among equals the first. Not atomic: `cuda` has another."""
    if face[row, column] < 0 or z < depth[row, column]:
        face[row, column] = f
        depth[row, column] = z
        bary[row, column, 0] = u
        bary[row, column, 1] = v


@inlined
def draw_face(f, corners, faces, bounds, lowest, highest, face, bary, depth, start, stop):  # type: ignore[no-untyped-def]
    """Rasterizes a face into the rows from start to stop - 1."""
    first, last = max(bounds[f, 2], start), min(bounds[f, 3], stop - 1)
    if first > last or bounds[f, 0] > bounds[f, 1]:
        return
    p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
    a0, b0, c0 = edge_function(q, r)
    a1, b1, c1 = edge_function(r, p)
    a2, b2, c2 = edge_function(p, q)
    determinant = a0 * p[0] + b0 * p[1] + c0 * p[3]
    if determinant == 0.0:
        return
    if determinant < 0.0:
        a0, b0, c0, a1, b1, c1, a2, b2, c2 = -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2
        determinant = -determinant
    inclusive0, inclusive1, inclusive2 = fill_rule(a0, b0, c0), fill_rule(a1, b1, c1), fill_rule(a2, b2, c2)
    scale = 1.0 / determinant
    for row in range(first, last + 1):
        y = row + 0.5
        # a x + (b y + c): for a neighbour's negated coefficients every rounding is negated too
        r0, r1, r2 = b0 * y + c0, b1 * y + c1, b2 * y + c2
        for column in range(bounds[f, 0], bounds[f, 1] + 1):
            x = column + 0.5
            e0, e1, e2 = a0 * x + r0, a1 * x + r1, a2 * x + r2
            if e0 < 0 or e1 < 0 or e2 < 0:
                continue
            if (e0 == 0 and not inclusive0) or (e1 == 0 and not inclusive1) or (e2 == 0 and not inclusive2):
                continue
            total = e0 + e1 + e2  # determinant / w
            z = (e0 * p[2] + e1 * q[2] + e2 * r[2]) * scale  # z / w
            if total > 0.0 and lowest <= z <= highest:
                reciprocal = 1.0 / total
                depth_test(face, bary, depth, row, column, f, z, e0 * reciprocal, e1 * reciprocal)


@kernel
def _backward_band(corners, faces, rast, gradient, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(rast.shape[1]):
            backward_pixel(row, column, corners, faces, rast, gradient, out)


@inlined
def face_of(rast, row, column, count):  # type: ignore[no-untyped-def]
    """The face of a pixel of packed fragments, out of `count`; -1 for none, and for what is no valid index."""
    number = rast[row, column, 3]
    return int(number) - 1 if 1 <= number <= count else -1


@inlined
def backward_pixel(row, column, corners, faces, rast, gradient, out):  # type: ignore[no-untyped-def]
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
    out = np.zeros_like(rast)
    for_bands(lambda a, b: _derivatives_band(corners, faces, rast, out, a, b), len(out))
    return out


@kernel
def _derivatives_band(corners, faces, rast, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(rast.shape[1]):
            derivatives_pixel(row, column, corners, faces, rast, out)


@inlined
def derivatives_pixel(row, column, corners, faces, rast, out):  # type: ignore[no-untyped-def]
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
