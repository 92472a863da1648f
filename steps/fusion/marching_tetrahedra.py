"""Marching tetrahedra: the zero level of a signed field on a lattice of cubes, each cut into six tetrahedra along its main
diagonal (Kuhn), which neighbours share the faces of. Always closed and manifold, whatever the signs (but for the lattice's
border): what shape learning on a tetrahedral grid needs (Shen et al., "Deep marching tetrahedra", 2021).

Lattice points are counted with the last axis fastest. An edge goes from a point to one of the seven further corners of its
cube; its number is 8 * point + direction, with bits 4, 2 and 1 for a step along x, y and z.
"""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import inlined, kernel

# the corners that a walk from (0, 0, 0) to (1, 1, 1) of a cube passes, one for each order of the axes
TETRAHEDRA = np.array([[0, 4, 6, 7], [0, 4, 5, 7], [0, 2, 6, 7], [0, 2, 3, 7], [0, 1, 5, 7], [0, 1, 3, 7]], np.int64)


def lattice(shape: tuple[int, int, int]) -> Array:
    """Coordinates of the lattice points, (n, 3) float32, in cells."""
    axes = [np.arange(size, dtype=np.float32) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def march(inside: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """The surface between the points that are `inside` (n,) bool and those that are not.

    Returns ends (e, 2) int64, the two lattice points that each vertex lies between, and faces (m, 3) int32,
    counter-clockwise seen from outside."""
    if inside.shape != (np.prod(shape),):
        raise ValueError(f"A lattice of {shape} has {np.prod(shape)} points, not {inside.shape}.")
    counts = np.zeros(2, np.int64)
    number = np.full(len(inside) * 8, -1, np.int32)
    size = np.array(shape, np.int64)
    none = np.empty((0, 3), np.int32)
    _march(inside, size, TETRAHEDRA, number, np.empty(0, np.int64), none, counts, False)
    keys, faces = np.empty(counts[0], np.int64), np.empty((counts[1], 3), np.int32)
    number.fill(-1)
    counts.fill(0)
    _march(inside, size, TETRAHEDRA, number, keys, faces, counts, True)
    step = keys & 7
    stride = (step >> 2) * size[1] * size[2] + (step >> 1 & 1) * size[2] + (step & 1)
    return np.stack([keys >> 3, (keys >> 3) + stride], axis=1), faces


@inlined
def _point(i, j, k, corner, size):  # type: ignore[no-untyped-def]
    return ((i + (corner >> 2)) * size[1] + j + (corner >> 1 & 1)) * size[2] + k + (corner & 1)


@inlined
def _vertex(i, j, k, a, b, size, number, keys, counts, write):  # type: ignore[no-untyped-def]
    """Index of the vertex on the edge between two corners of a cube; a new one at its first occurrence."""
    low, high = min(a, b), max(a, b)  # on a Kuhn tetrahedron's edges the bits of one are among those of the other
    key = _point(i, j, k, low, size) * 8 + (high - low)
    if number[key] < 0:
        number[key] = counts[0]
        if write:
            keys[counts[0]] = key
        counts[0] += 1
    return number[key]


@inlined
def _place(a, b, axis):  # type: ignore[no-untyped-def]
    """Twice the coordinate of the middle between two corners."""
    shift = 2 - axis
    return (a >> shift & 1) + (b >> shift & 1)


@inlined
def _triangle(i, j, k, a0, b0, a1, b1, a2, b2, size, number, keys, faces, counts, write):  # type: ignore[no-untyped-def]
    """The triangle on three edges, each from a corner inside (a) to one outside (b), turned so that it faces outwards."""
    u = _vertex(i, j, k, a0, b0, size, number, keys, counts, write)
    v = _vertex(i, j, k, a1, b1, size, number, keys, counts, write)
    w = _vertex(i, j, k, a2, b2, size, number, keys, counts, write)
    volume = 0
    for axis in range(3):
        n, m = (axis + 1) % 3, (axis + 2) % 3
        p, q = _place(a1, b1, n) - _place(a0, b0, n), _place(a2, b2, m) - _place(a0, b0, m)
        r, s = _place(a1, b1, m) - _place(a0, b0, m), _place(a2, b2, n) - _place(a0, b0, n)
        shift = 2 - axis
        volume += (p * q - r * s) * ((b0 >> shift & 1) - (a0 >> shift & 1))
    if write:
        f = counts[1]
        faces[f, 0], faces[f, 1], faces[f, 2] = (u, v, w) if volume > 0 else (u, w, v)
    counts[1] += 1


@kernel
def _march(inside, size, tetrahedra, number, keys, faces, counts, write):  # type: ignore[no-untyped-def]
    for i in range(size[0] - 1):
        for j in range(size[1] - 1):
            for k in range(size[2] - 1):
                total = 0
                for corner in range(8):
                    total += inside[_point(i, j, k, corner, size)]
                if total == 0 or total == 8:
                    continue
                for t in range(6):
                    _tetrahedron(i, j, k, t, inside, size, tetrahedra, number, keys, faces, counts, write)


@kernel
def _tetrahedron(i, j, k, t, inside, size, tetrahedra, number, keys, faces, counts, write):  # type: ignore[no-untyped-def]
    """One or two triangles, by how many corners lie inside."""
    c0, c1, c2, c3 = tetrahedra[t, 0], tetrahedra[t, 1], tetrahedra[t, 2], tetrahedra[t, 3]
    for _ in range(4):  # bring the corners that lie inside to the front
        if not inside[_point(i, j, k, c0, size)] and inside[_point(i, j, k, c1, size)]:
            c0, c1 = c1, c0
        if not inside[_point(i, j, k, c1, size)] and inside[_point(i, j, k, c2, size)]:
            c1, c2 = c2, c1
        if not inside[_point(i, j, k, c2, size)] and inside[_point(i, j, k, c3, size)]:
            c2, c3 = c3, c2
    count = 0
    for corner in (c0, c1, c2, c3):
        count += inside[_point(i, j, k, corner, size)]
    if count == 1:
        _triangle(i, j, k, c0, c1, c0, c2, c0, c3, size, number, keys, faces, counts, write)
    elif count == 3:
        _triangle(i, j, k, c0, c3, c1, c3, c2, c3, size, number, keys, faces, counts, write)
    elif count == 2:  # a quadrilateral: c0 c2, c0 c3, c1 c3, c1 c2
        _triangle(i, j, k, c0, c2, c0, c3, c1, c3, size, number, keys, faces, counts, write)
        _triangle(i, j, k, c0, c2, c1, c3, c1, c2, size, number, keys, faces, counts, write)
