"""Differentiable texture sampling: nearest, bilinear, and bilinear between mip levels.

Here v counts along the array's rows, so that (0, 0) is the corner of texel [0, 0] and its centre lies at half a texel;
callers whose v starts at the bottom flip it (see `steps.geometry`). A texture and its mip levels are one array of texels,
(t, C) float32, finest level first, and a table (l, 3) int64 of each level's first texel, height and width."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.compute.cores import core_count
from steps.compute.kernels import floor_int, for_bands, inlined, kernel
from steps.compute.launch import is_cuda, launch, zeros
from steps.compute.per_device import add

BOUNDARIES = ("wrap", "clamp", "zero")
NEAREST, LINEAR, MIPMAP_NEAREST, MIPMAP_LINEAR = range(4)
FILTERS = ("nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear")


def lookup(texels: Array, table: Array, uv: Array, level: Array, filter_mode: int, boundary: int) -> Array:
    """The texture sampled at `uv` [H, W, 2] float32: [H, W, C] float32. level: [H, W] float32, mip level of each pixel;
    filter_mode and boundary: indices into FILTERS and BOUNDARIES."""
    out = zeros((*uv.shape[:2], texels.shape[1]), np.float32, uv)
    launch(_forward, uv.shape[:2], texels, table, uv, level, filter_mode, boundary, out)
    return out


def lookup_backward(
    texels: Array, table: Array, uv: Array, level: Array, filter_mode: int, boundary: int, gradient: Array
) -> tuple[Array, Array]:
    """Given a loss's gradient by the pixels [H, W, C]: that by the texels (t, C) and by `uv` [H, W, 2], both float32.

    On a CPU each thread has a range of texels and visits all pixels in order, so that no two threads add to one texel and sums
    round the same with any number of threads; on CUDA they come in no fixed order."""
    by_texels, by_uv = zeros(texels.shape, np.float32, texels), zeros(uv.shape, np.float32, uv)
    where = table, uv, level, filter_mode, boundary, gradient
    height, width = uv.shape[:2]
    if is_cuda(texels):
        launch(_scatter, (height, width), *where, 0, len(texels), by_texels)
    else:
        ends = np.linspace(0, len(texels), core_count() + 1).astype(np.int64)
        whole = (0, height, 1), (0, width, 1)
        for_bands(lambda a, b: _scatter(*whole, *where, ends[a], ends[b], by_texels), core_count(), 1)
    launch(_by_uv, (height, width), texels, *where, by_uv)
    return by_texels, by_uv


@inlined
def _wrap_index(index, size, boundary):  # type: ignore[no-untyped-def]
    """Index of a texel after the boundary mode, -1 for none."""
    if 0 <= index < size:
        return index
    if boundary == 0:
        return index % size
    if boundary == 1:
        return min(max(index, 0), size - 1)
    return -1


@inlined
def _footprint(height, width, u, v, filter_mode, boundary):  # type: ignore[no-untyped-def]
    """The two rows and columns around a point, -1 for none, and the bilinear weights."""
    if filter_mode == 0:
        c, r = floor_int(u * width), floor_int(v * height)
        return _wrap_index(r, height, boundary), -1, _wrap_index(c, width, boundary), -1, np.float32(0), np.float32(0)
    x, y = u * np.float32(width) - np.float32(0.5), v * np.float32(height) - np.float32(0.5)
    if boundary == 1:  # held at the border's texels, where it has no slope any more
        x, y = min(max(x, np.float32(0)), np.float32(width - 1)), min(max(y, np.float32(0)), np.float32(height - 1))
    c, r = floor_int(x), floor_int(y)
    return (
        _wrap_index(r, height, boundary),
        _wrap_index(r + 1, height, boundary),
        _wrap_index(c, width, boundary),
        _wrap_index(c + 1, width, boundary),
        np.float32(x - np.float32(c)),
        np.float32(y - np.float32(r)),
    )


@inlined
def _mip_blend(level, filter_mode, count):  # type: ignore[no-untyped-def]
    """The two mip levels to sample and the second one's weight."""
    if filter_mode < 2:
        return 0, 0, np.float32(0)
    level = min(level, count - 1) if level > 0 else 0  # false for nan
    if filter_mode == 2:
        nearest = min(floor_int(level + 0.5), count - 1)
        return nearest, nearest, np.float32(0)
    low = int(level)
    return low, min(low + 1, count - 1), np.float32(level - low)


@kernel
def _forward(rows, columns, texels, table, uv, level, filter_mode, boundary, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _forward_pixel(row, column, texels, table, uv, level, filter_mode, boundary, out)


@inlined
def _forward_pixel(row, column, texels, table, uv, level, filter_mode, boundary, out):  # type: ignore[no-untyped-def]
    low, high, high_weight = _mip_blend(level[row, column], filter_mode, len(table))
    for second in range(2):
        which, weight = (high, high_weight) if second else (low, np.float32(1) - high_weight)
        if weight == 0:
            continue
        first, height, width = table[which, 0], table[which, 1], table[which, 2]
        r0, r1, c0, c1, x, y = _footprint(height, width, uv[row, column, 0], uv[row, column, 1], filter_mode, boundary)
        for corner in range(4):
            r, wy = (r1, y) if corner & 2 else (r0, np.float32(1) - y)
            c, wx = (c1, x) if corner & 1 else (c0, np.float32(1) - x)
            if r >= 0 and c >= 0:
                for k in range(texels.shape[1]):
                    out[row, column, k] += weight * wx * wy * texels[first + r * width + c, k]


@kernel
def _scatter(rows, columns, table, uv, level, filter_mode, boundary, gradient, begin, end, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _scatter_pixel(row, column, table, uv, level, filter_mode, boundary, gradient, begin, end, out)


@inlined
def _scatter_pixel(row, column, table, uv, level, filter_mode, boundary, gradient, begin, end, out):  # type: ignore[no-untyped-def]
    """Adds the pixel's gradient to its texels from begin to end - 1."""
    some = False
    for k in range(gradient.shape[2]):
        some = some or gradient[row, column, k] != 0
    if not some:
        return
    low, high, high_weight = _mip_blend(level[row, column], filter_mode, len(table))
    for second in range(2):
        which, weight = (high, high_weight) if second else (low, np.float32(1) - high_weight)
        if weight == 0:
            continue
        first, height, width = table[which, 0], table[which, 1], table[which, 2]
        r0, r1, c0, c1, x, y = _footprint(height, width, uv[row, column, 0], uv[row, column, 1], filter_mode, boundary)
        for corner in range(4):
            r, wy = (r1, y) if corner & 2 else (r0, np.float32(1) - y)
            c, wx = (c1, x) if corner & 1 else (c0, np.float32(1) - x)
            texel = first + r * width + c
            if r >= 0 and c >= 0 and begin <= texel < end:
                for k in range(out.shape[1]):
                    add(out, (texel, k), weight * wx * wy * gradient[row, column, k])


@kernel
def _by_uv(rows, columns, texels, table, uv, level, filter_mode, boundary, gradient, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _by_uv_pixel(row, column, texels, table, uv, level, filter_mode, boundary, gradient, out)


@inlined
def _texel(texels, first, width, r, c, k):  # type: ignore[no-untyped-def]
    return texels[first + r * width + c, k] if r >= 0 and c >= 0 else np.float32(0)


@inlined
def _by_uv_pixel(row, column, texels, table, uv, level, filter_mode, boundary, gradient, out):  # type: ignore[no-untyped-def]
    if filter_mode == 0:
        return
    low, high, high_weight = _mip_blend(level[row, column], filter_mode, len(table))
    by_u, by_v = np.float32(0), np.float32(0)
    for second in range(2):
        which, weight = (high, high_weight) if second else (low, np.float32(1) - high_weight)
        if weight == 0:
            continue
        first, height, width = table[which, 0], table[which, 1], table[which, 2]
        r0, r1, c0, c1, x, y = _footprint(height, width, uv[row, column, 0], uv[row, column, 1], filter_mode, boundary)
        clamped_x = boundary == 1 and uv[row, column, 0] * np.float32(width) < np.float32(0.5)
        clamped_y = boundary == 1 and uv[row, column, 1] * np.float32(height) < np.float32(0.5)
        for k in range(texels.shape[1]):
            g = weight * gradient[row, column, k]
            if g == 0:
                continue
            a, b = _texel(texels, first, width, r0, c0, k), _texel(texels, first, width, r0, c1, k)
            c, d = _texel(texels, first, width, r1, c0, k), _texel(texels, first, width, r1, c1, k)
            if not clamped_x:
                by_u += g * np.float32(width) * ((b - a) * (np.float32(1) - y) + (d - c) * y)
            if not clamped_y:
                by_v += g * np.float32(height) * ((c - a) * (np.float32(1) - x) + (d - b) * x)
    out[row, column, 0], out[row, column, 1] = by_u, by_v
