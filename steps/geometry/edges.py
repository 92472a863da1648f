"""Edges of triangles. Half-edge 3 f + k of faces (m, 3) runs from corner k of face f to the next."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array


def half_edges(faces: Array) -> Array:
    """(3 m, 2) int64: start and end of every half-edge."""
    return np.asarray(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64))


def opposite_corners(faces: Array) -> Array:
    """(3 m,): the corner of its face that each half-edge does not touch."""
    return np.asarray(faces[:, [2, 0, 1]].reshape(-1))


def directed_keys(edges: Array) -> Array:
    """One integer for each edge (n, 2) int64, which the opposite direction does not share."""
    return np.asarray(edges[:, 0] << 32 | edges[:, 1])


def undirected_keys(edges: Array) -> Array:
    """One integer for each edge (n, 2) int64, the same in both directions; they sort as pairs (smaller end, larger end) do."""
    return directed_keys(np.sort(edges, axis=1))
