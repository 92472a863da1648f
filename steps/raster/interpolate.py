"""Interpolates vertex attributes at every pixel; and the gradients by attributes and weights."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import check_indices, inlined, kernel
from steps.compute.launch import launch, launch_sums, zeros
from steps.compute.per_device import add
from steps.raster.rasterize import face_of


def interpolate(attributes: Array, faces: Array, rast: Array) -> Array:
    """`attributes` (n, C) at each pixel of `rast` (see `rasterize.pack_fragments`), [H, W, C] float32; 0 where there is none."""
    check_indices(faces, len(attributes))
    out = zeros((*rast.shape[:2], attributes.shape[1]), np.float32, rast)
    launch(_forward, rast.shape[:2], attributes, faces, rast, out)
    return out


def interpolate_backward(attributes: Array, faces: Array, rast: Array, gradient: Array) -> tuple[Array, Array]:
    """Given a loss's gradient by the pixels, [H, W, C]: that by the attributes, (n, C) float64, and by `rast`, [H, W, 4], of
    which only the weights' is not 0."""
    check_indices(faces, len(attributes))
    by_rast = zeros(rast.shape, np.float32, rast)
    by_attributes = launch_sums(_backward, rast.shape[:2], attributes.shape, attributes, faces, rast, gradient, by_rast)
    return by_attributes, by_rast


def screen_derivatives(attributes: Array, faces: Array, rast: Array, bary_derivatives: Array) -> Array:
    """Screen-space derivatives of attributes: [H, W, 2 C] float32, d/dx and d/dy of each in turn."""
    check_indices(faces, len(attributes))
    out = zeros((*rast.shape[:2], 2 * attributes.shape[1]), np.float32, rast)
    launch(_derivatives, rast.shape[:2], attributes, faces, rast, bary_derivatives, out)
    return out


@kernel
def _forward(rows, columns, attributes, faces, rast, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _forward_pixel(row, column, attributes, faces, rast, out)


@inlined
def _forward_pixel(row, column, attributes, faces, rast, out):  # type: ignore[no-untyped-def]
    f = face_of(rast, row, column, len(faces))
    if f < 0:
        return
    b0, b1 = rast[row, column, 0], rast[row, column, 1]
    b2 = np.float32(1) - b0 - b1
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    for c in range(attributes.shape[1]):
        out[row, column, c] = b0 * attributes[i, c] + b1 * attributes[j, c] + b2 * attributes[k, c]


@kernel
def _backward(rows, columns, attributes, faces, rast, gradient, by_rast, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _backward_pixel(row, column, attributes, faces, rast, gradient, by_rast, out)


@inlined
def _backward_pixel(row, column, attributes, faces, rast, gradient, by_rast, out):  # type: ignore[no-untyped-def]
    f = face_of(rast, row, column, len(faces))
    if f < 0:
        return
    b0, b1 = rast[row, column, 0], rast[row, column, 1]
    b2 = np.float32(1) - b0 - b1
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    g0, g1 = np.float32(0), np.float32(0)
    for c in range(attributes.shape[1]):
        g = gradient[row, column, c]
        if g != 0.0:
            g0 += g * (attributes[i, c] - attributes[k, c])
            g1 += g * (attributes[j, c] - attributes[k, c])
            add(out, (i, c), g * b0)
            add(out, (j, c), g * b1)
            add(out, (k, c), g * b2)
    by_rast[row, column, 0], by_rast[row, column, 1] = g0, g1


@kernel
def _derivatives(rows, columns, attributes, faces, rast, bary_derivatives, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            _derivatives_pixel(row, column, attributes, faces, rast, bary_derivatives, out)


@inlined
def _derivatives_pixel(row, column, attributes, faces, rast, bary_derivatives, out):  # type: ignore[no-untyped-def]
    f = face_of(rast, row, column, len(faces))
    if f < 0:
        return
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    for c in range(attributes.shape[1]):
        u, v = attributes[i, c] - attributes[k, c], attributes[j, c] - attributes[k, c]
        for axis in range(2):
            du, dv = bary_derivatives[row, column, axis], bary_derivatives[row, column, 2 + axis]
            out[row, column, 2 * c + axis] = du * u + dv * v
