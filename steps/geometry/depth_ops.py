"""Depth maps: undoing quantisation, and the local plane that every pixel sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.compute.kernels import kernel
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import filled

Array = NDArray[Any]
OWN_NOISE = 0.02  # pixels: depth noise below this is below what triangles of a few pixels can follow
RELAXATIONS = 60  # sweeps: holes of some tens of pixels come to rest


def dequantized(depth: Array, step: Array, passes: int = 120, haste: float = 1.6) -> Array:
    """The smoothest depth [H, W] that rounds to the one given.

    A staircase of 8-bit levels is relaxed towards its neighbours' mean, and every pixel is held within half a level of
    what was stored, so that nothing the data says is lost and 16-bit depth stays as it is. Neighbours further than three
    levels away lie across an edge and do not count. step: [H, W] float, the size of one level at each pixel, scene units;
    haste: how far beyond the mean a value goes at a time: 1.6 comes to rest soonest, 1 for few passes.
    """
    smooth = depth.astype(np.float32, copy=True)
    for _ in range(passes):
        for colour in range(2):
            _relax(depth, step, smooth, colour, np.float32(haste))
    return smooth


@kernel
def _relax(stored, step, smooth, colour, haste):  # type: ignore[no-untyped-def]
    """One over-relaxed sweep over the pixels of one colour of a chequerboard (red-black Gauss-Seidel)."""
    height, width = stored.shape
    for r in range(height):
        for c in range((r + colour) & 1, width, 2):
            if stored[r, c] <= 0:
                continue
            total, count = np.float32(0), 0
            reach = 3 * step[r, c]
            for axis in range(2):  # a pair of opposite neighbours counts together, so that slopes survive at an edge
                dr, dc = (1, 0) if axis == 0 else (0, 1)
                if r < dr or c < dc or r + dr >= height or c + dc >= width:
                    continue
                a, b = stored[r - dr, c - dc], stored[r + dr, c + dc]
                if a <= 0 or b <= 0 or abs(a - stored[r, c]) > reach or abs(b - stored[r, c]) > reach:
                    continue
                total += smooth[r - dr, c - dc] + smooth[r + dr, c + dc]
                count += 2
            if count:
                value = smooth[r, c] + haste * (total / count - smooth[r, c])
                half = step[r, c] / 2
                smooth[r, c] = min(max(value, stored[r, c] - half), stored[r, c] + half)


def bridged(depth: Array, unknown: Array) -> Array:
    """The depth [H, W] with values at `unknown` pixels [H, W] bool that continue what surrounds them, as far as that has any. In
    the inverse of depth, in which a plane is linear: by a pyramid, then relaxed to the membrane over the hole."""
    known = (depth > 0) & ~unknown
    if not unknown.any() or not known.any():
        return depth
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0).astype(np.float32)
    first = filled(inverse[..., None], known)[..., 0]
    membrane = np.where(unknown, first, inverse).astype(np.float32)
    for _ in range(RELAXATIONS):
        for colour in range(2):
            _stretch(membrane, unknown, colour)
    return np.asarray(np.where(unknown, 1.0 / np.maximum(membrane, 1e-30), depth), np.float32)


@kernel
def _stretch(values, unknown, colour):  # type: ignore[no-untyped-def]
    """One over-relaxed sweep over the unknown pixels of one colour of a chequerboard, towards the mean of their neighbours that
    have a value."""
    height, width = values.shape
    for r in range(height):
        for c in range((r + colour) & 1, width, 2):
            if not unknown[r, c]:
                continue
            total, count = np.float32(0), 0
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                i, j = r + dr, c + dc
                if 0 <= i < height and 0 <= j < width and values[i, j] > 0:
                    total += values[i, j]
                    count += 1
            if count:
                values[r, c] += np.float32(1.6) * (total / count - values[r, c])


def tangent_planes(depth: Array, camera: Camera) -> Array:
    """The plane each pixel sees, [H, W, 3] float32: change of depth per column and per row, and the factor that turns a
    difference in depth along the pixel's ray into distance from the plane. Zero where depth is."""
    planes = np.zeros((*depth.shape, 3), np.float32)
    _tangent_planes(depth, camera.fx, camera.fy, camera.cx, camera.cy, planes)
    return planes


@kernel
def _one_sided(before, here, after):  # type: ignore[no-untyped-def]
    """A slope that does not reach across an edge: the flatter side where both differ much, else their mean."""
    if before > 0 and after > 0:
        a, b = here - before, after - here
        if abs(a - b) < 0.5 * (abs(a) + abs(b)) + 1e-4 * here:
            return 0.5 * (a + b)
        return a if abs(a) < abs(b) else b
    if before > 0:
        return here - before
    return after - here if after > 0 else here * 0


@kernel
def _tangent_planes(depth, fx, fy, cx, cy, planes):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for r in range(height):
        for c in range(width):
            z = depth[r, c]
            if z <= 0:
                continue
            dx = _one_sided(depth[r, c - 1] if c > 0 else z * 0, z, depth[r, c + 1] if c + 1 < width else z * 0)
            dy = _one_sided(depth[r - 1, c] if r > 0 else z * 0, z, depth[r + 1, c] if r + 1 < height else z * 0)
            # the surface point is z * ray with ray = (x, y, 1); its normal is the cross product of the two derivatives
            x, y = (c + 0.5 - cx) / fx, (r + 0.5 - cy) / fy
            ux, uy, uz = dx * x + z / fx, dx * y, dx
            vx, vy, vz = dy * x, dy * y + z / fy, dy
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            planes[r, c, 0] = dx
            planes[r, c, 1] = dy
            planes[r, c, 2] = abs(nx * x + ny * y + nz) / np.sqrt(nx * nx + ny * ny + nz * nz)


def depth_noise(depth: Array, step: Array, pixel: Array) -> float:
    """How far a depth map [H, W] is off, in pixels: from its second differences, whose median a smooth surface leaves near zero
    (after Donoho's estimator), but no less than what its levels round away."""
    a, b, c = depth[:, :-2], depth[:, 1:-1], depth[:, 2:]
    both = (a > 0) & (b > 0) & (c > 0)
    if not both.any():
        return OWN_NOISE
    bend = np.abs(a - 2 * b + c)[both] / pixel[:, 1:-1][both]
    levels = float(np.median(step[:, 1:-1][both] / pixel[:, 1:-1][both])) / 12**0.5
    return max(float(np.median(bend)) / (0.6745 * 6**0.5), levels)
