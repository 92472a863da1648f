"""What a face or an edge covers: the functions of `rasterize` and `antialias` that a CPU's threads call for bands of rows, and
CUDA's for parts of a picture (`keys`)."""

from __future__ import annotations

import math

from steps.compute.kernels import inlined
from steps.compute.per_device import per_device

LEAST_W = 1e-9  # w below which a corner counts as behind the camera


@inlined
def fill_rule(a, b, c):  # type: ignore[no-untyped-def]
    """Whether points on the directed edge a x + b y + c = 0 belong to the face to its left."""
    return a > 0 or (a == 0 and b > 0) or (a == 0 and b == 0 and c > 0)


@inlined
def edge_function(p, q):  # type: ignore[no-untyped-def]
    """Coefficients of the edge function of the line through two corners (X, Y, Z, W): the cross product without Z.

    The operands are in a fixed order: a fused multiply-add, as on CUDA, would break the exact antisymmetry under swapped ends on
    which watertight edges rest, so both faces of an edge compute the same one."""
    if p[0] < q[0] or (p[0] == q[0] and (p[1] < q[1] or (p[1] == q[1] and p[3] < q[3]))):
        return p[1] * q[3] - p[3] * q[1], p[3] * q[0] - p[0] * q[3], p[0] * q[1] - p[1] * q[0]
    return -(q[1] * p[3] - q[3] * p[1]), -(q[3] * p[0] - q[0] * p[3]), -(q[0] * p[1] - q[1] * p[0])


@per_device
def depth_test(buffers, row, column, f, z, u, v):  # type: ignore[no-untyped-def]
    """Z-buffer update: the nearest face wins, among equals the first. buffers: of `Fragments`; on CUDA see `keys`."""
    face, bary, depth = buffers
    if face[row, column] < 0 or z < depth[row, column]:
        face[row, column] = f
        depth[row, column] = z
        bary[row, column, 0] = u
        bary[row, column, 1] = v


@inlined
def draw_face(f, corners, faces, lowest, highest, buffers, rows, columns):  # type: ignore[no-untyped-def]
    """Rasterizes a face into a rectangle: first and last row, first and last column."""
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
    for row in range(rows[0], rows[1] + 1):
        y = row + 0.5
        # a x + (b y + c): for a neighbour's negated coefficients every rounding is negated too
        r0, r1, r2 = b0 * y + c0, b1 * y + c1, b2 * y + c2
        for column in range(columns[0], columns[1] + 1):
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
                depth_test(buffers, row, column, f, z, e0 * reciprocal, e1 * reciprocal)


@inlined
def side_of(line, p):  # type: ignore[no-untyped-def]
    return line[0] * p[0] + line[1] * p[1] + line[2] * p[3]


@inlined
def walk_edge(e, corners, edges, rast, axis, buffers, start, stop):  # type: ignore[no-untyped-def]
    """Follows an edge over the rows (axis 0: it is steep) or columns (axis 1) from start to stop - 1. Of two edges between the
    same pixels the nearer wins, among equals the first."""
    p, q = corners[edges[e, 0]], corners[edges[e, 1]]
    a, b, c = edge_function(p, q)
    if (abs(a) >= abs(b)) != (axis == 0):
        return
    along = 1 - axis  # the coordinate that is walked: y in rows, x in columns
    t0, z0, t1, z1 = _visible_part(p, q, along)
    if t0 > t1:
        t0, z0, t1, z1 = t1, z1, t0, z0
    if not t0 <= t1:  # not numbers: a corner at infinity, or at the camera
        return
    slope = (z1 - z0) / (t1 - t0) if t1 > t0 else 0.0
    lines, n_along = (rast.shape[0], rast.shape[1]) if axis == 0 else (rast.shape[1], rast.shape[0])
    inner_side = side_of((a, b, c), corners[edges[e, 2]])
    first, last = max(float(start), t0 - 0.5), min(float(stop), t1 - 0.5)
    for line in range(int(math.ceil(min(first, float(stop)))), int(math.ceil(max(last, float(start))))):
        middle = line + 0.5
        place = -(b * middle + c) / a if axis == 0 else -(a * middle + c) / b
        if not 0.5 <= place < n_along - 0.5:
            continue
        at = int(math.floor(place - 0.5))
        z = z0 + slope * (middle - t0)
        r0, c0 = (line, at) if axis == 0 else (at, line)
        r1, c1 = (line, at + 1) if axis == 0 else (at + 1, line)
        if ((a if axis == 0 else b) > 0) == (inner_side > 0):  # the face lies on the far side: that pixel is inside
            shown = _is_visible(rast, r1, c1, r0, c0, z)
        else:
            shown = _is_visible(rast, r0, c0, r1, c1, z)
        if shown and z == z:
            nearest_edge_test(buffers, r0, c0, e, z)


@per_device
def nearest_edge_test(buffers, row, column, e, z):  # type: ignore[no-untyped-def]
    """Keeps the nearest edge, among equals the first. buffers: edges and their z / w; on CUDA see `keys`."""
    edge_hits, depths = buffers
    if edge_hits[row, column] < 0 or z < depths[row, column]:
        edge_hits[row, column], depths[row, column] = e, z


@inlined
def _visible_part(p, q, along):  # type: ignore[no-untyped-def]
    """Screen coordinates of an edge's ends along one axis, and z / w there; clipped where it crosses the camera plane."""
    begin, end = 0.0, 1.0
    if p[3] < LEAST_W:
        begin = (LEAST_W - p[3]) / (q[3] - p[3])
    if q[3] < LEAST_W:
        end = (LEAST_W - p[3]) / (q[3] - p[3])
    w0, w1 = p[3] + begin * (q[3] - p[3]), p[3] + end * (q[3] - p[3])
    t0, t1 = p[along] + begin * (q[along] - p[along]), p[along] + end * (q[along] - p[along])
    z0, z1 = p[2] + begin * (q[2] - p[2]), p[2] + end * (q[2] - p[2])
    return t0 / w0, z0 / w0, t1 / w1, z1 / w1


@inlined
def _is_visible(rast, r_in, c_in, r_out, c_out, z):  # type: ignore[no-untyped-def]
    """Whether an edge at z is visible between the pixel inside its face and the one outside: the inside pixel has a face, and
    what the outside one has is farther than both the edge and the inside."""
    if rast[r_in, c_in, 3] == 0:
        return False
    return rast[r_out, c_out, 3] == 0 or (rast[r_out, c_out, 2] > z and rast[r_out, c_out, 2] > rast[r_in, c_in, 2])
