"""Quadric decimation that preserves a solid: closed, manifold, oriented, without self-intersections.

Edges collapse in the order of their quadric error (Garland and Heckbert, "Surface simplification using quadric error
metrics", 1997), in rounds: the cheapest first, each vertex at most once a round, so that no cost is stale. An edge
collapses where its ends have exactly two common neighbours (the link condition: Dey et al., "Topology preserving edge
contraction", 1999), no face flips or degenerates, and no new face intersects another.

Own code, since fast_simplification keeps neither a mesh closed nor its faces apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.compute.kernels import for_bands, inlined, kernel
from steps.geometry.crossings import Cells, bounding_boxes, crossing_faces, grid_of_boxes, triangles_cross
from steps.geometry.quadrics import HalfEdgeMesh, add_quadrics, collapse_costs, double_area_normal
from steps.geometry.soundness import twins

ROUND_SHARE = 0.3  # the share of the edges, the cheapest, that a round may take
LEAST_REMOVED = 0.02  # of the faces: a round that removes fewer has used up the cheap ones
LEAST_NORMAL_COSINE = 0.2  # least cosine between a face's normal before and after
LEAST_AREA = 1e-3  # least area of a face against the square of its longest side
MAX_ATTEMPTS = 4  # the last one asks everywhere
MAX_STAR = 64  # faces around an edge


class AddedFaces(NamedTuple):
    """Faces that moved into cells since those were filled, as linked lists. head: (cells,) int32; face, next: (k,) int32; used:
    (1,) int64."""

    head: Array
    face: Array
    next: Array
    used: Array


class Scratch(NamedTuple):
    """star: (MAX_STAR,) faces around an edge; left, right: (MAX_STAR,) their corners opposite to the new vertex; mark: (m,)
    int32, the attempt in which a face was last visited; touched: (n,) bool, vertices that moved in this round; watched:
    see `_reduce`; box: (2, 3)."""

    star: Array
    left: Array
    right: Array
    mark: Array
    touched: Array
    watched: Array
    box: Array


def decimate_safely(vertices: Array, faces: Array, target_faces: int) -> tuple[Array, Array]:
    """A closed mesh (n, 3), (m, 3) with at most `target_faces` faces, or as few more as are needed to avoid
    self-intersections; without any if it had none. Raises ValueError where it is not closed.

    Testing every collapse for intersections takes several times as long as everything else, and most pass: so it is tested
    only around places where a finished decimation has intersections, and the decimation is repeated."""
    watched = np.zeros(len(vertices), bool)
    for i in range(MAX_ATTEMPTS):
        v, f = _reduce(_half_edges(vertices, faces), target_faces, watched.copy())
        crossing = crossing_faces(v, f)
        if not crossing.any() or watched.all():
            break
        watched |= _near(vertices, v, f[crossing]) | (i == MAX_ATTEMPTS - 2)
    return v, f


def _near(points: Array, vertices: Array, faces: Array) -> Array:
    """(n,) bool: points (n, 3) closer to a corner of the faces than twice their longest edge."""
    corners = vertices[faces]
    longest = float(np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2).max())
    distance, _ = cKDTree(corners.reshape(-1, 3)).query(points, distance_upper_bound=2 * longest, workers=-1)
    return np.isfinite(distance)


def _reduce(mesh: HalfEdgeMesh, target_faces: int, watched: Array) -> tuple[Array, Array]:
    """watched: (n,) bool, vertices around which collapses are tested for intersections."""
    count, share = int(len(mesh.faces)), ROUND_SHARE
    while count > target_faces:
        removed = _round(mesh, share, count - target_faces, watched)
        count -= removed
        if removed < LEAST_REMOVED * count:
            if share == 1.0 and not removed:
                break
            share = 1.0
    return _compact(mesh)


def _half_edges(vertices: Array, faces: Array) -> HalfEdgeMesh:
    points = np.vstack([vertices, np.zeros((1, 3))]).astype(np.float64)
    corners = np.array(faces, np.int32, order="C")
    out = np.zeros(len(vertices), np.int32)
    out[corners.reshape(-1)] = np.arange(3 * len(corners))
    mesh = HalfEdgeMesh(points, corners, twins(corners), out, np.zeros((len(vertices), 10)))
    add_quadrics(mesh)
    return mesh


def _compact(mesh: HalfEdgeMesh) -> tuple[Array, Array]:
    used, index = np.unique(mesh.faces[mesh.faces[:, 0] >= 0], return_inverse=True)
    return mesh.points[used], index.reshape(-1, 3).astype(np.int32)


def _round(mesh: HalfEdgeMesh, share: float, most: int, watched: Array) -> int:
    """Collapses the cheapest `share` of the edges where valid, until `most` faces are removed. Returns how many are."""
    alive = np.flatnonzero(mesh.faces[:, 0] >= 0)
    edges = (3 * alive[:, None] + np.arange(3)).reshape(-1)
    edges = edges[edges < mesh.twin[edges]]
    cost, position = np.empty(len(edges)), np.empty((len(edges), 3))
    for_bands(lambda a, b: collapse_costs(mesh, edges, cost, position, a, b), len(edges))
    order = _indices_of_least(cost, int(np.ceil(share * len(edges))))
    cells, added = _near_faces(mesh, alive, bool(watched.any()))
    star, left, right = np.empty((3, MAX_STAR), np.int32)
    mark = np.zeros(len(mesh.faces), np.int32)
    scratch = Scratch(star, left, right, mark, np.zeros(len(mesh.out), bool), watched, np.empty((2, 3)))
    return int(_collapse(mesh, edges[order], position[order], cells, added, scratch, most))


def _near_faces(mesh: HalfEdgeMesh, alive: Array, wanted: bool) -> tuple[Cells, AddedFaces]:
    """The faces `alive` by cells, with room for those that move; empty unless wanted."""
    if not wanted:
        nothing, nowhere = np.empty(0, np.int32), np.empty(0, np.int64)
        return Cells(np.zeros(3), 1.0, nowhere, nowhere, nothing), AddedFaces(nothing, nothing, nothing, nowhere)
    cells = grid_of_boxes(*bounding_boxes(mesh.points, mesh.faces[alive]))
    room = 8 * len(cells.face) + 4096
    heads = np.full(len(cells.first), -1, np.int32)
    added = AddedFaces(heads, np.empty(room, np.int32), np.empty(room, np.int32), np.zeros(1, np.int64))
    return cells._replace(face=alive.astype(np.int32)[cells.face]), added


def _indices_of_least(cost: Array, count: int) -> Array:
    """The indices of the `count` least, in order."""
    part = np.argpartition(cost, count - 1)[:count]
    part.sort()
    return np.asarray(part[np.argsort(cost[part], kind="stable")])


# -- collapsing ---------------------------------------------------------------------------------------------------------


@kernel
def _collapse(mesh, edges, position, cells, added, scratch, most):  # type: ignore[no-untyped-def]
    removed, trial = 0, len(mesh.out)
    for e in range(len(edges)):
        if removed >= most:
            break
        h = edges[e]
        if mesh.faces[h // 3, 0] < 0:
            continue
        u, v = mesh.faces[h // 3, h % 3], mesh.faces[mesh.twin[h] // 3, mesh.twin[h] % 3]
        if scratch.touched[u] or scratch.touched[v]:
            continue
        for k in range(3):
            mesh.points[trial, k] = position[e, k]
        count = _star_if_collapsible(mesh, h, scratch, e + 1)
        if count == 0 or _degenerates(mesh, scratch, count, trial):
            continue
        watched = scratch.watched[u] or scratch.watched[v]
        if watched and _crosses(mesh, cells, added, scratch, count, trial, e + 1):
            continue
        _merge(mesh, h, u, v, trial)
        scratch.touched[u] = scratch.touched[v] = True
        scratch.watched[u] = watched
        if len(added.head):
            _add_to_cells(mesh, cells, added, scratch, count)
        removed += 2
    return removed


@inlined
def _next(h):  # type: ignore[no-untyped-def]
    return h - 2 if h % 3 == 2 else h + 1


@inlined
def _previous(h):  # type: ignore[no-untyped-def]
    return h + 2 if h % 3 == 0 else h - 1


@kernel
def _star_if_collapsible(mesh, h, scratch, now):  # type: ignore[no-untyped-def]
    """Lists the faces around both ends, without the edge's own two. Returns how many, 0 where the link condition fails or an
    opposite corner has only three edges."""
    t = mesh.twin[h]
    scratch.mark[h // 3] = scratch.mark[t // 3] = now
    count = 0
    for end in range(2):
        first = h if end == 0 else t
        last = mesh.twin[_previous(first)]  # the next one around the centre
        while last != first:
            f = last // 3
            if f != h // 3 and f != t // 3:
                if count == MAX_STAR:
                    return 0
                scratch.mark[f] = now
                scratch.star[count] = f
                scratch.left[count] = mesh.faces[f, _next(last) % 3]
                scratch.right[count] = mesh.faces[f, _previous(last) % 3]
                count += 1
            last = mesh.twin[_previous(last)]
    w, x = mesh.faces[h // 3, _previous(h) % 3], mesh.faces[t // 3, _previous(t) % 3]
    if w == x or not (_has_fourth_edge(mesh, _previous(h)) and _has_fourth_edge(mesh, _previous(t))):
        return 0
    # the ends' common neighbours: corners of faces around both
    split = _degree(mesh, h) - 2
    for i in range(split):
        a = scratch.left[i]
        for j in range(split, count):
            if a == scratch.left[j] and a != w and a != x:
                return 0
    return count


@inlined
def _degree(mesh, h):  # type: ignore[no-untyped-def]
    """Number of edges at the start of a half-edge."""
    count, at = 1, mesh.twin[_previous(h)]
    while at != h:
        at = mesh.twin[_previous(at)]
        count += 1
    return count


@inlined
def _has_fourth_edge(mesh, h):  # type: ignore[no-untyped-def]
    return _degree(mesh, h) > 3


@kernel
def _degenerates(mesh, scratch, count, trial):  # type: ignore[no-untyped-def]
    """Whether a face would flip or become a sliver."""
    p = mesh.points
    for k in range(count):
        f, a, b = scratch.star[k], scratch.left[k], scratch.right[k]
        x, y, z = double_area_normal(p, trial, a, b)
        i, j, n = double_area_normal(p, mesh.faces[f, 0], mesh.faces[f, 1], mesh.faces[f, 2])
        new, old = x * x + y * y + z * z, i * i + j * j + n * n
        if x * i + y * j + z * n <= LEAST_NORMAL_COSINE * np.sqrt(new * old):
            return True
        longest = max(_square(p, trial, a), max(_square(p, a, b), _square(p, b, trial)))
        if new < (2 * LEAST_AREA * longest) ** 2 and new <= old:
            return True
    return False


@inlined
def _square(p, a, b):  # type: ignore[no-untyped-def]
    return (p[a, 0] - p[b, 0]) ** 2 + (p[a, 1] - p[b, 1]) ** 2 + (p[a, 2] - p[b, 2]) ** 2


@inlined
def _disjoint(p, a, b, c, d, e, f):  # type: ignore[no-untyped-def]
    """Whether the bounding boxes of two triangles are disjoint."""
    for k in range(3):
        if max(p[a, k], max(p[b, k], p[c, k])) < min(p[d, k], min(p[e, k], p[f, k])):
            return True
        if max(p[d, k], max(p[e, k], p[f, k])) < min(p[a, k], min(p[b, k], p[c, k])):
            return True
    return False


@kernel
def _crosses(mesh, cells, added, scratch, count, trial, now):  # type: ignore[no-untyped-def]
    """Whether a new face would intersect another, old or new; also where there is no room left for moved faces."""
    p = mesh.points
    if added.used[0] >= len(added.face):
        return True
    for k in range(count):
        for m in range(k):
            if triangles_cross(p, trial, scratch.left[k], scratch.right[k], trial, scratch.left[m], scratch.right[m]):
                return True
    for axis in range(3):
        low = high = p[trial, axis]
        for k in range(count):
            low = min(low, min(p[scratch.left[k], axis], p[scratch.right[k], axis]))
            high = max(high, max(p[scratch.left[k], axis], p[scratch.right[k], axis]))
        scratch.box[0, axis], scratch.box[1, axis] = low, high
    box = scratch.box
    for i in range(_cell(cells, box[0, 0], 0), _cell(cells, box[1, 0], 0) + 1):
        for j in range(_cell(cells, box[0, 1], 1), _cell(cells, box[1, 1], 1) + 1):
            for k in range(_cell(cells, box[0, 2], 2), _cell(cells, box[1, 2], 2) + 1):
                c = (i * cells.size[1] + j) * cells.size[2] + k
                for n in range(cells.first[c], cells.first[c + 1]):
                    if _crosses_new_faces(mesh, cells.face[n], scratch, count, trial, now):
                        return True
                n = added.head[c]
                while n >= 0:
                    if _crosses_new_faces(mesh, added.face[n], scratch, count, trial, now):
                        return True
                    n = added.next[n]
    return False


@inlined
def _cell(cells, x, axis):  # type: ignore[no-untyped-def]
    return min(max(int((x - cells.origin[axis]) / cells.side), 0), cells.size[axis] - 1)


@kernel
def _crosses_new_faces(mesh, f, scratch, count, trial, now):  # type: ignore[no-untyped-def]
    """Whether a face not yet visited in this attempt intersects one of the new ones."""
    if scratch.mark[f] == now or mesh.faces[f, 0] < 0:
        return False
    scratch.mark[f] = now
    p, box = mesh.points, scratch.box
    a, b, c = mesh.faces[f, 0], mesh.faces[f, 1], mesh.faces[f, 2]
    for axis in range(3):
        if max(p[a, axis], max(p[b, axis], p[c, axis])) < box[0, axis]:
            return False
        if min(p[a, axis], min(p[b, axis], p[c, axis])) > box[1, axis]:
            return False
    for k in range(count):
        left, right = scratch.left[k], scratch.right[k]
        if not _disjoint(p, a, b, c, trial, left, right) and triangles_cross(p, trial, left, right, a, b, c):
            return True
    return False


@kernel
def _merge(mesh, h, u, v, trial):  # type: ignore[no-untyped-def]
    """Removes the edge's two faces and moves its start, with all half-edges of its end, to the trial position."""
    t, twin = mesh.twin[h], mesh.twin
    w, x = mesh.faces[h // 3, _previous(h) % 3], mesh.faces[t // 3, _previous(t) % 3]
    at = twin[_previous(t)]
    while at != t:  # all half-edges that start at v
        mesh.faces[at // 3, at % 3] = u
        at = twin[_previous(at)]
    a, b = twin[_next(h)], twin[_previous(h)]
    c, d = twin[_next(t)], twin[_previous(t)]
    twin[a], twin[b], twin[c], twin[d] = b, a, d, c
    mesh.out[u], mesh.out[w], mesh.out[x] = b, a, c
    for k in range(3):
        mesh.faces[h // 3, k] = mesh.faces[t // 3, k] = -1
        mesh.points[u, k] = mesh.points[trial, k]
    for k in range(10):
        mesh.quadric[u, k] += mesh.quadric[v, k]


@kernel
def _add_to_cells(mesh, cells, added, scratch, count):  # type: ignore[no-untyped-def]
    """Adds moved faces to the cells that they touch now."""
    p = mesh.points
    for s in range(count):
        f = scratch.star[s]
        a, b, c = mesh.faces[f, 0], mesh.faces[f, 1], mesh.faces[f, 2]
        for axis in range(3):
            scratch.box[0, axis] = min(p[a, axis], min(p[b, axis], p[c, axis]))
            scratch.box[1, axis] = max(p[a, axis], max(p[b, axis], p[c, axis]))
        box = scratch.box
        for i in range(_cell(cells, box[0, 0], 0), _cell(cells, box[1, 0], 0) + 1):
            for j in range(_cell(cells, box[0, 1], 1), _cell(cells, box[1, 1], 1) + 1):
                for k in range(_cell(cells, box[0, 2], 2), _cell(cells, box[1, 2], 2) + 1):
                    n = added.used[0]
                    if n >= len(added.face):
                        return
                    at = (i * cells.size[1] + j) * cells.size[2] + k
                    added.face[n], added.next[n], added.head[at] = f, added.head[at], n
                    added.used[0] = n + 1
