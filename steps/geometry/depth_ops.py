"""Depth maps: dequantization, inpainting, tangent planes, noise."""

from __future__ import annotations

import math

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import kernel
from steps.compute.launch import launch, launch_by_one, zeros
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import inpaint

LEAST_NOISE = 0.02  # pixels: depth noise below this is below what triangles of a few pixels can follow
RELAXATIONS = 60  # sweeps: holes of some tens of pixels come to rest


def dequantize(depth: Array, step: Array, passes: int = 120, over_relaxation: float = 1.6) -> Array:
    """The smoothest depth [H, W] that rounds to the one given.

    Over-relaxed Gauss-Seidel towards the neighbours' mean, each pixel clamped to half a level around its stored value, so
    that no information is lost and 16-bit depth does not change. Neighbours further than three levels away lie across an
    edge and do not count. step: [H, W] float, size of one level, scene units; over_relaxation: 1.6 converges fastest, 1 for
    few passes. Computed where the arrays lie."""
    smooth = depth.astype(np.float32, copy=True)
    for _ in range(passes):
        for colour in range(2):
            launch_by_one(_relax, _half(depth), depth, step, smooth, colour, np.float32(over_relaxation))
    return smooth


def _half(image: Array) -> tuple[int, int]:
    """Rows, and pixels of one colour of a chequerboard in a row."""
    return image.shape[0], (image.shape[1] + 1) // 2


@kernel
def _relax(rows, pairs, stored, step, smooth, colour, over_relaxation):  # type: ignore[no-untyped-def]
    """One over-relaxed sweep over the pixels of one colour of a chequerboard (red-black Gauss-Seidel)."""
    height, width = stored.shape
    for r in range(rows[0], rows[1], rows[2]):
        for pair in range(pairs[0], pairs[1], pairs[2]):
            c = 2 * pair + ((r + colour) & 1)
            if c >= width or stored[r, c] <= 0:
                continue
            total, count = np.float32(0), 0
            max_difference = 3 * step[r, c]
            for axis in range(2):  # a pair of opposite neighbours counts together, so that slopes survive at an edge
                dr, dc = (1, 0) if axis == 0 else (0, 1)
                if r < dr or c < dc or r + dr >= height or c + dc >= width:
                    continue
                a, b = stored[r - dr, c - dc], stored[r + dr, c + dc]
                if a <= 0 or b <= 0 or abs(a - stored[r, c]) > max_difference or abs(b - stored[r, c]) > max_difference:
                    continue
                total += smooth[r - dr, c - dc] + smooth[r + dr, c + dc]
                count += 2
            if count:
                value = smooth[r, c] + over_relaxation * (total / count - smooth[r, c])
                half = step[r, c] / 2
                smooth[r, c] = min(max(value, stored[r, c] - half), stored[r, c] + half)


def inpaint_depth(depth: Array, unknown: Array) -> Array:
    """The depth [H, W] with `unknown` pixels [H, W] bool filled by a membrane, in inverse depth, in which planes are linear:
    started from a pyramid, then relaxed. Computed where the arrays lie."""
    known = (depth > 0) & ~unknown
    if not unknown.any() or not known.any():
        return depth
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0).astype(np.float32)
    first = inpaint(inverse[..., None], known)[..., 0]
    membrane = np.where(unknown, first, inverse).astype(np.float32)
    for _ in range(RELAXATIONS):
        for colour in range(2):
            launch_by_one(_relax_membrane, _half(depth), membrane, unknown, colour)
    filled: Array = np.where(unknown, 1.0 / np.maximum(membrane, 1e-30), depth)
    return filled.astype(np.float32)


@kernel
def _relax_membrane(rows, pairs, values, unknown, colour):  # type: ignore[no-untyped-def]
    """One over-relaxed sweep over the unknown pixels of one colour of a chequerboard, towards the mean of their neighbours with
    a value."""
    height, width = values.shape
    for r in range(rows[0], rows[1], rows[2]):
        for pair in range(pairs[0], pairs[1], pairs[2]):
            c = 2 * pair + ((r + colour) & 1)
            if c >= width or not unknown[r, c]:
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
    """Tangent plane of each pixel, [H, W, 3] float32, on the depth's device: derivative of depth per column and per row, and the
    factor from a difference in depth along the pixel's ray to the distance from the plane. Zero where depth is."""
    planes: Array = zeros((*depth.shape, 3), np.float32, depth)
    launch(_tangent_planes, depth.shape, depth, camera.fx, camera.fy, camera.cx, camera.cy, planes)
    return planes


@kernel
def _one_sided(before, here, after):  # type: ignore[no-untyped-def]
    """Slope that does not cross an edge: the flatter one-sided difference where both differ much, else their mean."""
    if before > 0 and after > 0:
        a, b = here - before, after - here
        if abs(a - b) < 0.5 * (abs(a) + abs(b)) + 1e-4 * here:
            return 0.5 * (a + b)
        return a if abs(a) < abs(b) else b
    if before > 0:
        return here - before
    return after - here if after > 0 else here * 0


@kernel
def _tangent_planes(rows, columns, depth, fx, fy, cx, cy, planes):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    for r in range(rows[0], rows[1], rows[2]):
        for c in range(columns[0], columns[1], columns[2]):
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
            planes[r, c, 2] = abs(nx * x + ny * y + nz) / math.sqrt(nx * nx + ny * ny + nz * nz)


def surface_normals(x: Array, y: Array, depth: Array, slopes: tuple[Array, Array], camera: Camera) -> Array:
    """World unit normals (..., 3), towards the camera, of the surface of these depths on the rays (x, y, 1); 0 where depth is.
    slopes: derivatives of depth by column and by row, as in `tangent_planes`. All arrays have one shape, or broadcast."""
    dx, dy = slopes
    across = np.stack([dx * x + depth / camera.fx, dx * y, dx], axis=-1)
    down = np.stack([dy * x, dy * y + depth / camera.fy, dy], axis=-1)
    normal = np.cross(down, across)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-30)
    opencv_to_world = np.asarray(camera.camera_to_world)[:3, :3] * [1.0, -1.0, -1.0]
    return np.asarray(normal @ opencv_to_world.T)


def depth_noise(depth: Array, step: Array, pixel: Array) -> float:
    """Standard deviation of depth [H, W] in pixels, from the median of second differences (after Donoho's estimator), at least
    that of quantization."""
    a, b, c = depth[:, :-2], depth[:, 1:-1], depth[:, 2:]
    both = (a > 0) & (b > 0) & (c > 0)
    if not both.any():
        return LEAST_NOISE
    bend = np.abs(a - 2 * b + c)[both] / pixel[:, 1:-1][both]
    levels = float(np.median(step[:, 1:-1][both] / pixel[:, 1:-1][both])) / 12**0.5
    return max(float(np.median(bend)) / (0.6745 * 6**0.5), levels)
