"""Visibility on CUDA, where threads compete for a pixel: the smallest key wins, by an atomic minimum. A key has the depth in its
upper half and the face or edge in its lower one, so that among equals the first wins, in whatever order threads come.

Faces are cut into tiles, one thread each: a face over the whole picture is not one thread's work."""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.compute.cuda import atomic_min, on_cuda
from steps.compute.kernels import inlined, kernel
from steps.compute.launch import full, launch, zeros
from steps.raster.coverage import depth_test, draw_face, edge_function, nearest_edge_test, walk_edge

TILE = 16  # pixels to a side of a face's part that is one thread's work
NOTHING = int(np.iinfo(np.int64).max)  # the key of a pixel without a face
LOWER = np.int64(0xFFFFFFFF)
LEVELS = float((1 << 31) - 1)  # depths that a key can tell apart


@inlined
def _key(z, span, item):  # type: ignore[no-untyped-def]
    """span: z / w of the nearest and the farthest depth, (2,) float64."""
    share = min(max((z - span[0]) / (span[1] - span[0]), 0.0), 1.0)
    return (np.int64(share * LEVELS) << 32) | np.int64(item)


@on_cuda(depth_test)
def _depth_test(buffers, row, column, f, z, u, v):  # type: ignore[no-untyped-def]
    keys, span = buffers
    atomic_min(keys, (row, column), _key(z, span, f))


@on_cuda(nearest_edge_test)
def _nearest_edge_test(buffers, row, column, e, z):  # type: ignore[no-untyped-def]
    keys, span = buffers
    atomic_min(keys, (row, column), _key(z, span, e))


# -- faces --------------------------------------------------------------------------------------------------------------


def draw(corners: Any, faces: Any, bounds: Any, span: tuple[float, float], fragments: Any) -> None:
    """Rasterizes into empty `rasterize.Fragments`. bounds: `rasterize._face_bounds` of each face; span: z / w of the nearest and
    the farthest depth."""
    height, width = fragments.face.shape
    keys = full((height, width), NOTHING, np.int64, corners)
    limits = span_array(span, corners)
    if len(faces):
        ends = zeros((len(faces),), np.int64, corners)
        launch(_count_tiles, (len(faces),), bounds, ends)
        ends = ends.cumsum(0)
        launch(_draw_tile, (int(ends[-1]),), ends, corners, faces, bounds, *span, (keys, limits))
    launch(_resolve, (height, width), keys, corners, faces, fragments.face, fragments.bary, fragments.depth)


def span_array(span: tuple[float, float], like: Any) -> Any:
    """(2,) float64 on the device of `like`."""
    limits = zeros((2,), np.float64, like)
    limits[0], limits[1] = span
    return limits


@inlined
def _tiles(first, last):  # type: ignore[no-untyped-def]
    """Number of tiles over the pixels from first to last, along one axis."""
    return max(last - first + TILE, 0) // TILE


@kernel
def _count_tiles(items, bounds, counts):  # type: ignore[no-untyped-def]
    for f in range(items[0], items[1], items[2]):
        counts[f] = _tiles(bounds[f, 0], bounds[f, 1]) * _tiles(bounds[f, 2], bounds[f, 3])


@kernel
def _draw_tile(items, ends, corners, faces, bounds, lowest, highest, buffers):  # type: ignore[no-untyped-def]
    """ends: number of tiles of the faces up to each, itself with them."""
    for item in range(items[0], items[1], items[2]):
        low, high = 0, len(ends) - 1
        while low < high:  # the first face whose tiles end behind this one
            middle = (low + high) // 2
            if ends[middle] > item:
                high = middle
            else:
                low = middle + 1
        f = low
        number = item - (ends[f - 1] if f > 0 else 0)
        across = _tiles(bounds[f, 0], bounds[f, 1])
        top, left = bounds[f, 2] + number // across * TILE, bounds[f, 0] + number % across * TILE
        rows = top, min(top + TILE - 1, bounds[f, 3])
        columns = left, min(left + TILE - 1, bounds[f, 1])
        draw_face(f, corners, faces, lowest, highest, buffers, rows, columns)


@kernel
def _resolve(rows, columns, keys, corners, faces, face, bary, depth):  # type: ignore[no-untyped-def]
    """Face, barycentric weights and z / w of each pixel from its key."""
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            if keys[row, column] == NOTHING:
                continue
            f = keys[row, column] & LOWER
            p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
            x, y = column + 0.5, row + 0.5
            e0, e1, e2 = _edge(q, r, x, y), _edge(r, p, x, y), _edge(p, q, x, y)
            total = e0 + e1 + e2
            a, b, c = edge_function(q, r)
            determinant = a * p[0] + b * p[1] + c * p[3]
            face[row, column] = f
            bary[row, column, 0], bary[row, column, 1] = e0 / total, e1 / total
            depth[row, column] = (e0 * p[2] + e1 * q[2] + e2 * r[2]) / determinant


@inlined
def _edge(p, q, x, y):  # type: ignore[no-untyped-def]
    a, b, c = edge_function(p, q)
    return a * x + b * y + c


# -- edges --------------------------------------------------------------------------------------------------------------


def walk_edges(corners: Any, edges: Any, chosen: Any, rast: Any, axis: int) -> Any:
    """The nearest of the chosen edges between each pixel and the next along an axis, [H, W] int32, -1 for none."""
    keys = full(rast.shape[:2], NOTHING, np.int64, rast)
    buffers = keys, span_array((-1.0, 1.0), corners)
    launch(_walk, (len(chosen),), corners, edges, chosen, rast, axis, buffers)
    out = zeros(rast.shape[:2], np.int32, rast)
    launch(_decode, rast.shape[:2], keys, out)
    return out


@kernel
def _walk(items, corners, edges, chosen, rast, axis, buffers):  # type: ignore[no-untyped-def]
    for i in range(items[0], items[1], items[2]):
        walk_edge(chosen[i], corners, edges, rast, axis, buffers, 0, rast.shape[axis])


@kernel
def _decode(rows, columns, keys, edge_hits):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            edge_hits[row, column] = -1 if keys[row, column] == NOTHING else keys[row, column] & LOWER
