"""A z-buffer rasterizer: perspective-correct, watertight along shared edges, deterministic. Its results can be differentiated
by the corners (`rasterize_backward`); `steps.raster.torch_ops` wraps both for torch.

Triangles are rasterized in 2D homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997): an edge function is the cross product of two projected corners, which needs no division, so that a
triangle crossing the near plane needs no clipping. Swapping an edge's ends negates its function exactly; two triangles
that share an edge therefore never both miss, nor both hit, a pixel centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.compute.kernels import add, check_indices, for_bands, inlined, kernel, summed_bands
from steps.geometry.cameras import Camera

Array = NDArray[Any]
NEAR = 1e-4  # of the furthest corner's depth; what is closer to the camera than this is not drawn
SLIVER = (
    1e-12  # of the terms that a face's homogeneous area is summed from: below that it is rounding, and has no gradient
)
TINY = 1e-9  # w below which a corner counts as behind the camera


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees. face: [H, W] int32, -1 for nothing; bary: [H, W, 2] float32, the perspective-correct weights
    of the face's first two corners; depth: [H, W] float32, 0 for nothing: along the viewing axis where a camera was given, z / w
    where homogeneous corners were."""

    face: Array
    bary: Array
    depth: Array


def rasterize(positions: Array, faces: Array, camera: Camera) -> Fragments:
    """Draws positions (n, 3) and faces (m, 3) as `camera` sees them, both sides of every face."""
    seen = np.asarray(positions, np.float64) @ camera.projection[:, :3].T + camera.projection[:, 3]
    furthest = float(np.max(seen[:, 2], where=np.isfinite(seen[:, 2]), initial=0.0))
    # with z = -1 the buffer holds -1 / depth, which is linear on the screen as a z-buffer's values have to be
    corners = np.concatenate([seen[:, :2], np.full((len(seen), 1), -1.0), seen[:, 2:]], axis=1)
    lowest = -1.0 / (NEAR * furthest) if furthest > 0 else -np.inf
    found = rasterize_homogeneous(corners, faces, camera.width, camera.height, lowest)
    for_bands(lambda a, b: _to_depth(found.face, found.depth, a, b), camera.height)
    return found


def rasterize_homogeneous(
    corners: Array, faces: Array, width: int, height: int, lowest: float = -1.0, highest: float = 1.0
) -> Fragments:
    """As `rasterize`, with corners (n, 4) float64 already projected: (column * w, row * w, z, w). What is nearest has the
    smallest z / w; outside lowest <= z / w <= highest nothing is drawn, nor is a face with a corner that is not a number. Raises
    ValueError where a face names a corner that is not there."""
    face = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 2), np.float32)
    depth = np.zeros((height, width), np.float32)
    check_indices(faces, len(corners))
    corners = np.ascontiguousarray(corners, np.float64)
    faces = np.ascontiguousarray(faces, np.int32)
    spans = np.empty((len(faces), 4), np.int32)
    for_bands(lambda a, b: _pixel_spans(corners, faces, width, height, spans, a, b), len(faces))
    for_bands(lambda a, b: _rasterize_band(corners, faces, spans, lowest, highest, face, bary, depth, a, b), height)
    return Fragments(face, bary, depth)


def packed(fragments: Fragments) -> Array:
    """The fragments in one array for what follows, [H, W, 4] float32: the two weights, z / w, and face + 1, 0 for nothing."""
    out = np.empty((*fragments.face.shape, 4), np.float32)
    for_bands(lambda a, b: _pack(fragments.face, fragments.bary, fragments.depth, out, a, b), len(out))
    return out


def rasterize_backward(corners: Array, faces: Array, rast: Array, gradient: Array) -> Array:
    """The gradient (n, 3) float64 of a loss by each corner's (column * w, row * w, w), given that by `rast`, of which only
    the weights' counts. Which face a pixel sees is taken as constant: visibility's share of the gradient comes from
    antialiasing."""
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
def _pixel_spans(corners, faces, width, height, spans, start, stop):  # type: ignore[no-untyped-def]
    for f in range(start, stop):
        span_face(f, corners, faces, width, height, spans)


@inlined
def span_face(f, corners, faces, width, height, spans):  # type: ignore[no-untyped-def]
    """The pixels whose centres a face may cover: first column, last column, first row, last row (inclusive)."""
    left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
    behind, finite = 0, True
    for k in range(3):
        corner = faces[f, k]
        x, y, w = corners[corner, 0], corners[corner, 1], corners[corner, 3]
        finite = finite and math.isfinite(x) and math.isfinite(y) and math.isfinite(w)
        if w < TINY:
            behind += 1
        else:
            left, right = min(left, x / w), max(right, x / w)
            top, bottom = min(top, y / w), max(bottom, y / w)
    if behind == 3 or not finite:
        left, right, top, bottom = 1.0, 0.0, 1.0, 0.0
    elif behind > 0:  # it passes behind the camera: its outline may reach anywhere
        left, right, top, bottom = 0.0, float(width), 0.0, float(height)
    # held to the picture before they become whole numbers, which far away they could not
    spans[f, 0] = int(math.ceil(min(max(left - 0.5, 0.0), float(width))))
    spans[f, 1] = int(math.floor(min(max(right - 0.5, -1.0), width - 1.0)))
    spans[f, 2] = int(math.ceil(min(max(top - 0.5, 0.0), float(height))))
    spans[f, 3] = int(math.floor(min(max(bottom - 0.5, -1.0), height - 1.0)))


@inlined
def _owns(a, b, c):  # type: ignore[no-untyped-def]
    """Whether the face to the left of the directed edge a x + b y + c = 0 owns the points on it (a fill rule)."""
    return a > 0 or (a == 0 and b > 0) or (a == 0 and b == 0 and c > 0)


@inlined
def cross(p, q):  # type: ignore[no-untyped-def]
    """The edge function's coefficients of the line through two corners (X, Y, Z, W): the cross product without Z."""
    return p[1] * q[3] - p[3] * q[1], p[3] * q[0] - p[0] * q[3], p[0] * q[1] - p[1] * q[0]


@kernel
def _rasterize_band(corners, faces, spans, lowest, highest, face, bary, depth, start, stop):  # type: ignore[no-untyped-def]
    for f in range(len(faces)):
        draw_face(f, corners, faces, spans, lowest, highest, face, bary, depth, start, stop)


@inlined
def put(face, bary, depth, row, column, f, z, u, v):  # type: ignore[no-untyped-def]
    """Keeps what is nearest, and of two that are as near the first face. Many threads at once need another way: see `cuda`."""
    if face[row, column] < 0 or z < depth[row, column]:
        face[row, column] = f
        depth[row, column] = z
        bary[row, column, 0] = u
        bary[row, column, 1] = v


@inlined
def draw_face(f, corners, faces, spans, lowest, highest, face, bary, depth, start, stop):  # type: ignore[no-untyped-def]
    """Puts a face into the rows from start to stop - 1."""
    first, last = max(spans[f, 2], start), min(spans[f, 3], stop - 1)
    if first > last or spans[f, 0] > spans[f, 1]:
        return
    p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
    a0, b0, c0 = cross(q, r)
    a1, b1, c1 = cross(r, p)
    a2, b2, c2 = cross(p, q)
    determinant = a0 * p[0] + b0 * p[1] + c0 * p[3]
    if determinant == 0.0:
        return
    if determinant < 0.0:
        a0, b0, c0, a1, b1, c1, a2, b2, c2 = -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2
        determinant = -determinant
    own0, own1, own2 = _owns(a0, b0, c0), _owns(a1, b1, c1), _owns(a2, b2, c2)
    scale = 1.0 / determinant
    for row in range(first, last + 1):
        y = row + 0.5
        # a x + (b y + c): for a neighbour's negated coefficients every rounding is negated too
        r0, r1, r2 = b0 * y + c0, b1 * y + c1, b2 * y + c2
        for column in range(spans[f, 0], spans[f, 1] + 1):
            x = column + 0.5
            e0, e1, e2 = a0 * x + r0, a1 * x + r1, a2 * x + r2
            if e0 < 0 or e1 < 0 or e2 < 0:
                continue
            if (e0 == 0 and not own0) or (e1 == 0 and not own1) or (e2 == 0 and not own2):
                continue
            total = e0 + e1 + e2  # determinant / w
            z = (e0 * p[2] + e1 * q[2] + e2 * r[2]) * scale  # z / w
            if total > 0.0 and lowest <= z <= highest:
                share = 1.0 / total
                put(face, bary, depth, row, column, f, z, e0 * share, e1 * share)


@kernel
def _backward_band(corners, faces, rast, gradient, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(rast.shape[1]):
            backward_pixel(row, column, corners, faces, rast, gradient, out)


@inlined
def face_of(rast, row, column, count):  # type: ignore[no-untyped-def]
    """The face that a pixel of `packed` fragments sees, of `count`; -1 for none, and for what is no face's number."""
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
    a0, b0, c0 = cross(q, r)
    a1, b1, c1 = cross(r, p)
    a2, b2, c2 = cross(p, q)
    determinant = a0 * p[0] + b0 * p[1] + c0 * p[3]
    if abs(determinant) <= SLIVER * (abs(a0 * p[0]) + abs(b0 * p[1]) + abs(c0 * p[3])):
        return
    u, v = rast[row, column, 0], rast[row, column, 1]
    mean = g0 * u + g1 * v
    s0, s1, s2 = (g0 - mean) / determinant, (g1 - mean) / determinant, -mean / determinant
    x, y, w = s0 * a0 + s1 * a1 + s2 * a2, s0 * b0 + s1 * b1 + s2 * b2, s0 * c0 + s1 * c1 + s2 * c2
    for k in range(3):
        share = u if k == 0 else (v if k == 1 else 1.0 - u - v)
        add(out, (faces[f, k], 0), -share * x)
        add(out, (faces[f, k], 1), -share * y)
        add(out, (faces[f, k], 2), -share * w)


def derivatives(corners: Array, faces: Array, rast: Array) -> Array:
    """How the weights change across the screen: [H, W, 4] float32, du/dx, du/dy, dv/dx, dv/dy per pixel, y down."""
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
    a0, b0, c0 = cross(q, r)
    a1, b1, c1 = cross(r, p)
    a2, b2, c2 = cross(p, q)
    a, b, c = a0 + a1 + a2, b0 + b1 + b2, c0 + c1 + c2
    total = a * (column + 0.5) + b * (row + 0.5) + c
    if total == 0.0:
        return
    u, v = rast[row, column, 0], rast[row, column, 1]
    out[row, column, 0], out[row, column, 1] = (a0 - u * a) / total, (b0 - u * b) / total
    out[row, column, 2], out[row, column, 3] = (a1 - v * a) / total, (b1 - v * b) / total
