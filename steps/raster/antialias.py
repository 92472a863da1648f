"""Antialiased silhouettes, and with them the gradient of visibility.

Every silhouette edge is walked along its dominant axis (along one only: slanted edges would count twice). Where it crosses
between two pixel centres, the pixel that it cuts becomes a blend of both, weighted by how much the edge cuts off; the
derivative of that weight by the edge's ends is the gradient of visibility. The blend is that of Laine et al., "Modular
primitives for high-performance differentiable rendering" (2020); they look for edges from the pixels' faces, which misses
edges of faces without a pixel and, with small triangles, most of the gradient. Walking the edges does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import add, check_indices, for_bands, inlined, kernel, summed_bands
from steps.geometry.edges import half_edges, opposite_corners, undirected_keys
from steps.raster.rasterize import LEAST_W, edge_function


@dataclass(frozen=True)
class EdgeHits:
    """Visible silhouette edges between pixel centres. across: [H, W] int32, the edge between (r, c) and (r, c + 1), -1 for
    none; down: the same between (r, c) and (r + 1, c)."""

    across: Array
    down: Array


def edges_of(faces: Array) -> Array:
    """(e, 4) int32: the two ends of every edge and the opposite corners in its faces, -1 where there is no second face. Of more
    than two faces the first two count."""
    if not len(faces):
        return np.empty((0, 4), np.int32)
    ends = half_edges(faces)
    key = undirected_keys(ends)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    shared = np.diff(np.r_[starts, len(order)]) > 1
    opposite = opposite_corners(faces)[order]
    second = np.where(shared, opposite[np.minimum(starts + 1, len(order) - 1)], -1)
    return np.column_stack([np.sort(ends[order[starts]], axis=1), opposite[starts], second]).astype(np.int32)


def find_edge_hits(corners: Array, edges: Array, rast: Array) -> EdgeHits:
    """Silhouette edges between neighbouring pixels. corners: (n, 4) as for rasterize_homogeneous; rast: its result, packed."""
    _check(edges, corners)
    height, width = rast.shape[:2]
    silhouette = np.zeros(len(edges), np.bool_)
    for_bands(lambda a, b: _mark_band(corners, edges, silhouette, a, b), len(edges))
    chosen = np.flatnonzero(silhouette).astype(np.int32)
    across = _walk_axis(corners, edges, chosen, rast, 0, height)
    return EdgeHits(across, _walk_axis(corners, edges, chosen, rast, 1, width))


def _walk_axis(corners: Array, edges: Array, chosen: Array, rast: Array, axis: int, lines: int) -> Array:
    """The edge hits along one axis."""
    edge_hits = np.full(rast.shape[:2], -1, np.int32)
    depths = np.empty(rast.shape[:2], np.float32)
    for_bands(lambda a, b: _walk_band(corners, edges, chosen, rast, axis, edge_hits, depths, a, b), lines)
    return edge_hits


def antialias(image: Array, corners: Array, edges: Array, edge_hits: EdgeHits) -> Array:
    """`image` [H, W, C] float32 with its silhouettes blended."""
    _check(edges, corners)
    out = image.copy()
    for_bands(lambda a, b: _blend_band(image, corners, edges, edge_hits.across, edge_hits.down, out, a, b), len(image))
    return out


def antialias_backward(
    image: Array, corners: Array, edges: Array, edge_hits: EdgeHits, gradient: Array
) -> tuple[Array, Array]:
    """Given a loss's gradient by the result, [H, W, C]: that by `image`, and by the corners' (column * w, row * w, w), (n, 3)."""
    _check(edges, corners)
    by_image = gradient.copy()
    across, down = edge_hits.across, edge_hits.down
    for_bands(lambda a, b: _by_image_band(corners, edges, across, down, gradient, by_image, a, b), len(image))
    by_corners = summed_bands(
        lambda out, a, b: _by_corners_band(image, corners, edges, across, down, gradient, out, a, b),
        len(image),
        (len(corners), 3),
    )
    return by_image, by_corners


def _check(edges: Array, corners: Array) -> None:
    """Raises ValueError for a corner index out of range."""
    check_indices(edges[:, :3], len(corners), "edge")
    check_indices(edges[:, 3] + 1, len(corners) + 1, "edge")  # -1: it has one face


@inlined
def _side(line, p):  # type: ignore[no-untyped-def]
    return line[0] * p[0] + line[1] * p[1] + line[2] * p[3]


@kernel
def _mark_band(corners, edges, silhouette, start, stop):  # type: ignore[no-untyped-def]
    for e in range(start, stop):
        mark_edge(e, corners, edges, silhouette)


@inlined
def mark_edge(e, corners, edges, silhouette):  # type: ignore[no-untyped-def]
    """An edge is a silhouette where both its faces project to the same side of it."""
    p, q = corners[edges[e, 0]], corners[edges[e, 1]]
    if p[3] < LEAST_W and q[3] < LEAST_W:
        return
    line = edge_function(p, q)
    first = _side(line, corners[edges[e, 2]])
    second = first if edges[e, 3] < 0 else _side(line, corners[edges[e, 3]])
    silhouette[e] = (first > 0 and second > 0) or (first < 0 and second < 0)


@kernel
def _walk_band(corners, edges, chosen, rast, axis, edge_hits, depths, start, stop):  # type: ignore[no-untyped-def]
    for e in chosen:
        walk_edge(e, corners, edges, rast, axis, edge_hits, depths, start, stop)


@inlined
def walk_edge(e, corners, edges, rast, axis, edge_hits, depths, start, stop):  # type: ignore[no-untyped-def]
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
    inner_side = _side((a, b, c), corners[edges[e, 2]])
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
            nearest_edge_test(edge_hits, depths, r0, c0, e, z)


@inlined
def nearest_edge_test(edge_hits, depths, row, column, e, z):  # type: ignore[no-untyped-def]
    """Keeps the nearest edge, among equals the first. Not atomic: `cuda` has another."""
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


@inlined
def _crossing_offset(corners, edges, e, middle, at, axis):  # type: ignore[no-untyped-def]
    """Distance from the first pixel's centre to the crossing of edge e, 0 to 1."""
    a, b, c = edge_function(corners[edges[e, 0]], corners[edges[e, 1]])
    place = -(b * middle + c) / a if axis == 0 else -(a * middle + c) / b
    return min(max(place - at - 0.5, 0.0), 1.0)


@inlined
def _blend_weights(row, column, axis, corners, edges, edge_hits):  # type: ignore[no-untyped-def]
    """Weights with which pixel (row, column) blends into its successor along `axis`, and the reverse: at most one is not 0."""
    e = edge_hits[row, column]
    if e < 0:
        return np.float32(0), np.float32(0)
    middle, at = (row + 0.5, column) if axis == 0 else (column + 0.5, row)
    t = _crossing_offset(corners, edges, e, middle, at, axis)
    return np.float32(max(t - 0.5, 0.0)), np.float32(max(0.5 - t, 0.0))


@kernel
def _blend_band(image, corners, edges, across, down, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(image.shape[1]):
            blend_pixel(row, column, image, corners, edges, across, down, out)


@inlined
def _add_blend(row, column, r, c, share, image, out):  # type: ignore[no-untyped-def]
    if share > 0:
        for k in range(image.shape[2]):
            out[row, column, k] += share * (image[r, c, k] - image[row, column, k])


@inlined
def blend_pixel(row, column, image, corners, edges, across, down, out):  # type: ignore[no-untyped-def]
    for axis in range(2):
        edge_hits = across if axis == 0 else down
        r, c = (row, column - 1) if axis == 0 else (row - 1, column)
        if edge_hits[row, column] >= 0:
            _, received = _blend_weights(row, column, axis, corners, edges, edge_hits)
            _add_blend(row, column, row + axis, column + 1 - axis, received, image, out)
        if r >= 0 and c >= 0 and edge_hits[r, c] >= 0:
            given, _ = _blend_weights(r, c, axis, corners, edges, edge_hits)
            _add_blend(row, column, r, c, given, image, out)


@kernel
def _by_image_band(corners, edges, across, down, gradient, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(gradient.shape[1]):
            by_image_pixel(row, column, corners, edges, across, down, gradient, out)


@inlined
def _add_blend_gradient(row, column, r, c, received, given, gradient, out):  # type: ignore[no-untyped-def]
    """Backward of two blends: `received`, this pixel's weight of the other, and `given`, the other's weight of this pixel."""
    for k in range(gradient.shape[2]):
        out[row, column, k] += given * gradient[r, c, k] - received * gradient[row, column, k]


@inlined
def by_image_pixel(row, column, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
    for axis in range(2):
        edge_hits = across if axis == 0 else down
        r, c = (row, column - 1) if axis == 0 else (row - 1, column)
        if edge_hits[row, column] >= 0:
            given, received = _blend_weights(row, column, axis, corners, edges, edge_hits)
            _add_blend_gradient(row, column, row + axis, column + 1 - axis, received, given, gradient, out)
        if r >= 0 and c >= 0 and edge_hits[r, c] >= 0:
            given, received = _blend_weights(r, c, axis, corners, edges, edge_hits)
            _add_blend_gradient(row, column, r, c, given, received, gradient, out)


@kernel
def _by_corners_band(image, corners, edges, across, down, gradient, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for column in range(image.shape[1]):
            by_corners_pixel(row, column, image, corners, edges, across, down, gradient, out)


@inlined
def by_corners_pixel(row, column, image, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
    """The crossing at x on the line P x Q moves by -(Q x q) / a for a change of P, with q = (x, y, 1), and likewise for Q."""
    for axis in range(2):
        e = across[row, column] if axis == 0 else down[row, column]
        if e < 0:
            continue
        r, c = (row, column + 1) if axis == 0 else (row + 1, column)
        middle, at = (row + 0.5, column) if axis == 0 else (column + 0.5, row)
        t = _crossing_offset(corners, edges, e, middle, at, axis)
        cut_r, cut_c = (row, column) if t < 0.5 else (r, c)
        slope = 0.0
        for k in range(image.shape[2]):
            slope += gradient[cut_r, cut_c, k] * (image[row, column, k] - image[r, c, k])
        if slope == 0.0:
            continue
        i, j = edges[e, 0], edges[e, 1]
        p, q = corners[i], corners[j]
        line = edge_function(p, q)
        place = at + 0.5 + t
        x, y = (place, middle) if axis == 0 else (middle, place)
        s = -slope / (line[0] if axis == 0 else line[1])
        add(out, (i, 0), s * (q[1] - q[3] * y))  # s * (Q x (x, y, 1))
        add(out, (i, 1), s * (q[3] * x - q[0]))
        add(out, (i, 2), s * (q[0] * y - q[1] * x))
        add(out, (j, 0), s * (y * p[3] - p[1]))  # s * ((x, y, 1) x P)
        add(out, (j, 1), s * (p[0] - x * p[3]))
        add(out, (j, 2), s * (x * p[1] - y * p[0]))
