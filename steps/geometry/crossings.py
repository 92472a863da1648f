"""Self-intersections: triangles of a mesh with more in common than the corners and edges that they share.

Two triangles intersect where an edge of one meets the other (Moeller, "A fast triangle-triangle intersection test", 1997,
does the same with intervals; the signs of tetrahedra's volumes are those of Guigue and Devillers, 2003). Shared corners
are recognized by index, not by coordinates: neighbours would otherwise always touch. Candidates come from a uniform grid.

Own code, since trimesh tests no mesh against itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import check_indices, for_bands, inlined, kernel

ROUNDING = 1e-14  # of the cube of a pair's size: rounding error of a volume in float64
COPLANAR = 1e-9  # likewise: flatter pairs count as coplanar, since coordinates are rounded, too
PER_FACE = 16  # cells that a face may cover on average, before they are made larger
MAX_CELLS = 1 << 22
FULL_RESET_ROUND = 4  # rounds after which what still crosses goes back all the way


class Cells(NamedTuple):
    """Faces by the cells of a uniform grid that their bounding boxes touch. origin: (3,) float64; side: of a cell; size: (3,)
    int64, cells per axis; first: (cells + 1,) int64 and face: (k,) int32: those of cell i are face[first[i]:first[i + 1]]."""

    origin: Array
    side: float
    size: Array
    first: Array
    face: Array


def crossing_faces(vertices: Array, faces: Array) -> Array:
    """Which faces intersect another, (m,) bool. vertices: (n, 3); faces: (m, 3), which share a corner where they share an
    index. Raises ValueError for an index out of range or a coordinate that is not finite."""
    check_indices(faces, len(vertices))
    points = np.ascontiguousarray(vertices, np.float64)
    if not np.isfinite(points).all():
        raise ValueError("A mesh has vertices that are no numbers.")
    corners = np.ascontiguousarray(faces, np.int32)
    crossing = np.zeros(len(faces), bool)
    if len(faces) < 2:
        return crossing
    low, high = bounding_boxes(points, corners)
    cells = grid_of_boxes(low, high)
    for_bands(lambda a, b: _search(points, corners, low, high, cells, crossing, a, b), len(cells.first) - 1, 16)
    return crossing


def resolve_crossings(wanted: Array, faces: Array, safe: Array) -> tuple[Array, int]:
    """Vertices close to `wanted` (n, 3) without self-intersections, and the number of those moved back: vertices of
    intersecting faces are blended towards `safe` (n, 3), where there are none, by halves, then fully, in growing rings of
    neighbours."""
    blend = np.ones(len(wanted))
    points = wanted
    for i in range(64):
        crossing = crossing_faces(points, faces)
        if not crossing.any():
            return points, int((blend < 1).sum())
        marked = np.zeros(len(wanted), bool)
        marked[faces[crossing]] = True
        for _ in range(max(0, i - FULL_RESET_ROUND)):
            marked[faces[marked[faces].any(axis=1)]] = True
        blend[marked] = blend[marked] / 2 if i < FULL_RESET_ROUND else 0.0
        points = (safe + blend[:, None] * (wanted - safe)).astype(wanted.dtype)
    return safe, len(safe)


def bounding_boxes(points: Array, faces: Array) -> tuple[Array, Array]:
    """Minimum and maximum coordinates of each face, (m, 3) float64 each."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)


def grid_of_boxes(low: Array, high: Array, side: float = 0.0) -> Cells:
    """A grid with cells of `side`, by default 1.5 times the mean bounding box; larger where there would be too many."""
    origin = low.min(axis=0)
    extent = high.max(axis=0) - origin
    side = side or 1.5 * float((high - low).mean())
    side = max(side, 1e-6 * float(extent.max()), 1e-30)
    while True:
        size = np.floor(extent / side).astype(np.int64) + 1
        first_cell, last_cell = (np.floor((corner - origin) / side).astype(np.int32) for corner in (low, high))
        total = int((last_cell - first_cell + 1).astype(np.int64).prod(axis=1).sum())
        if size.prod() <= MAX_CELLS and total <= PER_FACE * len(low):
            break
        side *= 1.5
    first = np.zeros(int(size.prod()) + 2, np.int64)
    _count(first_cell, last_cell, size, first)
    np.cumsum(first, out=first)
    face = np.empty(total, np.int32)
    _fill(first_cell, last_cell, size, first, face)
    return Cells(origin, side, size, first[:-1], face)


@kernel
def _count(low, high, size, first):  # type: ignore[no-untyped-def]
    for f in range(len(low)):
        for i in range(low[f, 0], high[f, 0] + 1):
            for j in range(low[f, 1], high[f, 1] + 1):
                for k in range(low[f, 2], high[f, 2] + 1):
                    first[(i * size[1] + j) * size[2] + k + 2] += 1


@kernel
def _fill(low, high, size, first, face):  # type: ignore[no-untyped-def]
    """Counting sort; leaves `first` shifted by one."""
    for f in range(len(low)):
        for i in range(low[f, 0], high[f, 0] + 1):
            for j in range(low[f, 1], high[f, 1] + 1):
                for k in range(low[f, 2], high[f, 2] + 1):
                    c = (i * size[1] + j) * size[2] + k + 1
                    face[first[c]] = f
                    first[c] += 1


@kernel
def _search(points, faces, low, high, cells, crossing, start, stop):  # type: ignore[no-untyped-def]
    for c in range(start, stop):
        for i in range(cells.first[c], cells.first[c + 1]):
            f = cells.face[i]
            for j in range(i + 1, cells.first[c + 1]):
                g = cells.face[j]
                if crossing[f] and crossing[g]:
                    continue
                disjoint = False
                for axis in range(3):
                    disjoint |= low[f, axis] > high[g, axis] or low[g, axis] > high[f, axis]
                if not disjoint and triangles_cross(
                    points, faces[f, 0], faces[f, 1], faces[f, 2], faces[g, 0], faces[g, 1], faces[g, 2]
                ):
                    crossing[f] = True
                    crossing[g] = True


# -- one pair -----------------------------------------------------------------------------------------------------------


@inlined
def _volume(p, a, b, c, d):  # type: ignore[no-untyped-def]
    """Six times the signed volume of a tetrahedron of the points' rows."""
    ux, uy, uz = p[b, 0] - p[a, 0], p[b, 1] - p[a, 1], p[b, 2] - p[a, 2]
    vx, vy, vz = p[c, 0] - p[a, 0], p[c, 1] - p[a, 1], p[c, 2] - p[a, 2]
    wx, wy, wz = p[d, 0] - p[a, 0], p[d, 1] - p[a, 1], p[d, 2] - p[a, 2]
    return ux * (vy * wz - vz * wy) + uy * (vz * wx - vx * wz) + uz * (vx * wy - vy * wx)


@inlined
def _max_norm(p, a, b):  # type: ignore[no-untyped-def]
    return max(abs(p[a, 0] - p[b, 0]), max(abs(p[a, 1] - p[b, 1]), abs(p[a, 2] - p[b, 2])))


@kernel
def triangles_cross(p, a0, a1, a2, b0, b1, b2):  # type: ignore[no-untyped-def]
    """Whether two triangles, by rows of the points, have more in common than shared corners."""
    size = max(
        max(_max_norm(p, a0, a1), _max_norm(p, a0, a2)),
        max(_max_norm(p, a0, b0), max(_max_norm(p, a0, b1), _max_norm(p, a0, b2))),
    )
    tiny = ROUNDING * size * size * size
    flat = COPLANAR * size * size
    plane = flat * size
    # turned so that shared corners come first
    for _ in range(2):
        if a0 != b0 and a0 != b1 and a0 != b2:  # not `in`: the indices may be of several kinds
            a0, a1, a2 = a1, a2, a0
    shared = 0
    if a0 == b1:
        b0, b1, b2 = b1, b2, b0
    elif a0 == b2:
        b0, b1, b2 = b2, b0, b1
    if a0 == b0:
        shared = 1
        if not (a2 != b1 and a2 != b2):
            a1, a2 = a2, a1
        if a1 == b2:
            b1, b2 = b2, b1
        if a1 == b1:
            shared = 3 if a2 == b2 else 2
    if shared == 3:
        return True
    if shared == 2:
        return abs(_volume(p, a0, a1, a2, b2)) <= plane and _folded(p, a0, a1, a2, b2)
    if _on_one_side(p, a0, a1, a2, b0, b1, b2, shared, tiny) or _on_one_side(p, b0, b1, b2, a0, a1, a2, shared, tiny):
        return False
    if _segment_meets(p, a1, a2, b0, b1, b2, tiny, plane, flat) or _segment_meets(
        p, b1, b2, a0, a1, a2, tiny, plane, flat
    ):
        return True
    if shared == 1:
        return False
    return (
        _segment_meets(p, a0, a1, b0, b1, b2, tiny, plane, flat)
        or _segment_meets(p, a0, a2, b0, b1, b2, tiny, plane, flat)
        or _segment_meets(p, b0, b1, a0, a1, a2, tiny, plane, flat)
        or _segment_meets(p, b0, b2, a0, a1, a2, tiny, plane, flat)
    )


@inlined
def _on_one_side(p, a0, a1, a2, b0, b1, b2, shared, tiny):  # type: ignore[no-untyped-def]
    """Whether b's corners, but for a shared first one, lie on one side of a's plane."""
    u, v = _volume(p, a0, a1, a2, b1), _volume(p, a0, a1, a2, b2)
    w = u if shared else _volume(p, a0, a1, a2, b0)
    return (u > tiny and v > tiny and w > tiny) or (u < -tiny and v < -tiny and w < -tiny)


@inlined
def _folded(p, u, v, a, b):  # type: ignore[no-untyped-def]
    """Whether the triangles u v a and u v b of one plane lie on the same side of the edge that they share."""
    total = 0.0
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        x, y = p[v, i] - p[u, i], p[v, j] - p[u, j]
        total += (x * (p[a, j] - p[u, j]) - y * (p[a, i] - p[u, i])) * (
            x * (p[b, j] - p[u, j]) - y * (p[b, i] - p[u, i])
        )
    return total >= 0.0


@kernel
def _segment_meets(p, s, t, a, b, c, tiny, plane, flat):  # type: ignore[no-untyped-def]
    """Whether the segment s t intersects the triangle a b c; for a coplanar one, its interior."""
    u, v = _volume(p, a, b, c, s), _volume(p, a, b, c, t)
    if (u > tiny and v > tiny) or (u < -tiny and v < -tiny):
        return False
    if abs(u) <= plane and abs(v) <= plane:
        return _segment_enters_coplanar(p, s, t, a, b, c, flat)
    x, y, z = _volume(p, s, t, a, b), _volume(p, s, t, b, c), _volume(p, s, t, c, a)
    return (x >= -tiny and y >= -tiny and z >= -tiny) or (x <= tiny and y <= tiny and z <= tiny)


@inlined
def _signed_area(p, a, b, x, y, i, j):  # type: ignore[no-untyped-def]
    """Twice the signed area of the triangle a, b, (x, y) in the plane of the axes i and j."""
    return (p[b, i] - p[a, i]) * (y - p[a, j]) - (p[b, j] - p[a, j]) * (x - p[a, i])


@inlined
def _strictly_inside(p, x, y, a, b, c, i, j, flat):  # type: ignore[no-untyped-def]
    u, v, w = _signed_area(p, a, b, x, y, i, j), _signed_area(p, b, c, x, y, i, j), _signed_area(p, c, a, x, y, i, j)
    return (u > flat and v > flat and w > flat) or (u < -flat and v < -flat and w < -flat)


@inlined
def _segments_cross(p, s, t, a, b, i, j, flat):  # type: ignore[no-untyped-def]
    """Whether two coplanar segments cross in their interiors."""
    u, v = _signed_area(p, s, t, p[a, i], p[a, j], i, j), _signed_area(p, s, t, p[b, i], p[b, j], i, j)
    x, y = _signed_area(p, a, b, p[s, i], p[s, j], i, j), _signed_area(p, a, b, p[t, i], p[t, j], i, j)
    return ((u > flat and v < -flat) or (u < -flat and v > flat)) and (
        (x > flat and y < -flat) or (x < -flat and y > flat)
    )


@kernel
def _segment_enters_coplanar(p, s, t, a, b, c, flat):  # type: ignore[no-untyped-def]
    """Whether a coplanar segment has a point inside a triangle; projected along the axis nearest to the plane's normal."""
    i, j, most = 0, 1, -1.0
    for k in range(3):
        m, n = (k + 1) % 3, (k + 2) % 3
        area = abs(_signed_area(p, a, b, p[c, m], p[c, n], m, n))
        if area > most:
            i, j, most = m, n, area
    for fraction in (0.0, 0.5, 1.0):
        x, y = p[s, i] + fraction * (p[t, i] - p[s, i]), p[s, j] + fraction * (p[t, j] - p[s, j])
        if _strictly_inside(p, x, y, a, b, c, i, j, flat):
            return True
    return (
        _segments_cross(p, s, t, a, b, i, j, flat)
        or _segments_cross(p, s, t, b, c, i, j, flat)
        or _segments_cross(p, s, t, c, a, i, j, flat)
    )
