"""Antialiased silhouettes, and with them the gradient of visibility.

Every silhouette edge is walked along its dominant axis (along one only: slanted edges would count twice). Where it crosses
between two pixel centres, the pixel that it cuts becomes a blend of both, weighted by how much the edge cuts off; the
derivative of that weight by the edge's ends is the gradient of visibility. The blend is that of Laine et al., "Modular
primitives for high-performance differentiable rendering" (2020); they look for edges from the pixels' faces, which misses
edges of faces without a pixel and, with small triangles, most of the gradient. Walking the edges does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import check_indices, inlined, kernel
from steps.compute.launch import contiguous, copied, full, is_cuda, launch, launch_sums, true_indices, zeros
from steps.compute.per_device import add
from steps.geometry.edges import half_edges, opposite_corners, undirected_keys
from steps.raster.coverage import LEAST_W, edge_function, side_of, walk_edge


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
    silhouette = zeros((len(edges),), np.bool_, corners)
    launch(_mark, (len(edges),), corners, edges, silhouette)
    chosen = contiguous(true_indices(silhouette), np.int32)
    return EdgeHits(*(_walk_axis(corners, edges, chosen, rast, axis) for axis in range(2)))


def _walk_axis(corners: Array, edges: Array, chosen: Array, rast: Array, axis: int) -> Array:
    """The edge hits along one axis."""
    if is_cuda(corners):
        from steps.raster.keys import walk_edges

        return walk_edges(corners, edges, chosen, rast, axis)
    buffers = full(rast.shape[:2], -1, np.int32, rast), zeros(rast.shape[:2], np.float32, rast)
    launch(_walk_lines, (rast.shape[axis],), corners, edges, chosen, rast, axis, buffers)
    return buffers[0]


def antialias(image: Array, corners: Array, edges: Array, edge_hits: EdgeHits) -> Array:
    """`image` [H, W, C] float32 with its silhouettes blended."""
    _check(edges, corners)
    out = copied(image)
    launch(_blend, image.shape[:2], image, corners, edges, edge_hits.across, edge_hits.down, out)
    return out


def antialias_backward(
    image: Array, corners: Array, edges: Array, edge_hits: EdgeHits, gradient: Array
) -> tuple[Array, Array]:
    """Given a loss's gradient by the result, [H, W, C]: that by `image`, and by the corners' (column * w, row * w, w), (n, 3)."""
    _check(edges, corners)
    by_image, shape = copied(gradient), image.shape[:2]
    where = corners, edges, edge_hits.across, edge_hits.down, gradient
    launch(_by_image, shape, *where, by_image)
    return by_image, launch_sums(_by_corners, shape, (len(corners), 3), image, *where)


def _check(edges: Array, corners: Array) -> None:
    """Raises ValueError for a corner index out of range."""
    check_indices(edges[:, :3], len(corners), "edge")
    check_indices(edges[:, 3] + 1, len(corners) + 1, "edge")  # -1: it has one face


@kernel
def _mark(items, corners, edges, silhouette):  # type: ignore[no-untyped-def]
    for e in range(items[0], items[1], items[2]):
        _mark_edge(e, corners, edges, silhouette)


@inlined
def _mark_edge(e, corners, edges, silhouette):  # type: ignore[no-untyped-def]
    """An edge is a silhouette where both its faces project to the same side of it."""
    p, q = corners[edges[e, 0]], corners[edges[e, 1]]
    if p[3] < LEAST_W and q[3] < LEAST_W:
        return
    line = edge_function(p, q)
    first = side_of(line, corners[edges[e, 2]])
    second = first if edges[e, 3] < 0 else side_of(line, corners[edges[e, 3]])
    silhouette[e] = (first > 0 and second > 0) or (first < 0 and second < 0)


@kernel
def _walk_lines(lines, corners, edges, chosen, rast, axis, buffers):  # type: ignore[no-untyped-def]
    for e in chosen:
        walk_edge(e, corners, edges, rast, axis, buffers, lines[0], lines[1])


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
def _blend(rows, columns, image, corners, edges, across, down, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _blend_pixel(row, column, image, corners, edges, across, down, out)


@inlined
def _add_blend(row, column, r, c, share, image, out):  # type: ignore[no-untyped-def]
    if share > 0:
        for k in range(image.shape[2]):
            out[row, column, k] += share * (image[r, c, k] - image[row, column, k])


@inlined
def _blend_pixel(row, column, image, corners, edges, across, down, out):  # type: ignore[no-untyped-def]
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
def _by_image(rows, columns, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _by_image_pixel(row, column, corners, edges, across, down, gradient, out)


@inlined
def _add_blend_gradient(row, column, r, c, received, given, gradient, out):  # type: ignore[no-untyped-def]
    """Backward of two blends: `received`, this pixel's weight of the other, and `given`, the other's weight of this pixel."""
    for k in range(gradient.shape[2]):
        out[row, column, k] += given * gradient[r, c, k] - received * gradient[row, column, k]


@inlined
def _by_image_pixel(row, column, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
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
def _by_corners(rows, columns, image, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _by_corners_pixel(row, column, image, corners, edges, across, down, gradient, out)


@inlined
def _by_corners_pixel(row, column, image, corners, edges, across, down, gradient, out):  # type: ignore[no-untyped-def]
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
