"""Half-edge meshes with quadric error metrics (Garland and Heckbert 1997): cost and vertex position of each edge collapse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import inlined, kernel

# weight of an edge's middle against the quadrics: places on flat parts are not determined by these
MIDPOINT_WEIGHT = 1e-4


class HalfEdgeMesh(NamedTuple):
    """Half-edges: number 3 f + k runs from corner k of face f to the next. points: (n + 1, 3) float64, the last row for the
    trial position; faces: (m, 3) int32, -1 where removed; twin: (3 m,) int32, the opposite half-edge; out: (n,) int32, one
    half-edge from each vertex; quadric: (n, 10) float64."""

    points: Array
    faces: Array
    twin: Array
    out: Array
    quadric: Array


@kernel
def add_quadrics(mesh):  # type: ignore[no-untyped-def]
    """Each vertex's sum of the squared distances from the planes of its faces, weighted by their area."""
    p = mesh.points
    for f in range(len(mesh.faces)):
        a, b, c = mesh.faces[f, 0], mesh.faces[f, 1], mesh.faces[f, 2]
        x, y, z = double_area_normal(p, a, b, c)
        double = np.sqrt(x * x + y * y + z * z)
        if double <= 0.0:
            continue
        x, y, z = x / double, y / double, z / double
        d = -(x * p[a, 0] + y * p[a, 1] + z * p[a, 2])
        for k in range(3):
            q = mesh.quadric[mesh.faces[f, k]]
            q[0] += double * x * x
            q[1] += double * x * y
            q[2] += double * x * z
            q[3] += double * x * d
            q[4] += double * y * y
            q[5] += double * y * z
            q[6] += double * y * d
            q[7] += double * z * z
            q[8] += double * z * d
            q[9] += double * d * d


@inlined
def double_area_normal(p, a, b, c):  # type: ignore[no-untyped-def]
    """The normal of a face of the points' rows, as long as twice its area."""
    ux, uy, uz = p[b, 0] - p[a, 0], p[b, 1] - p[a, 1], p[b, 2] - p[a, 2]
    vx, vy, vz = p[c, 0] - p[a, 0], p[c, 1] - p[a, 1], p[c, 2] - p[a, 2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@kernel
def collapse_costs(mesh, edges, cost, position, start, stop):  # type: ignore[no-untyped-def]
    """Cost of each edge's collapse, and the new vertex's position."""
    p = mesh.points
    for e in range(start, stop):
        h = edges[e]
        u, v = mesh.faces[h // 3, h % 3], mesh.faces[mesh.twin[h] // 3, mesh.twin[h] % 3]
        q, r = mesh.quadric[u], mesh.quadric[v]
        xx, xy, xz, xd, yy = q[0] + r[0], q[1] + r[1], q[2] + r[2], q[3] + r[3], q[4] + r[4]
        yz, yd, zz, zd, dd = q[5] + r[5], q[6] + r[6], q[7] + r[7], q[8] + r[8], q[9] + r[9]
        midpoint_weight = MIDPOINT_WEIGHT * (xx + yy + zz) + 1e-300
        mx, my, mz = (p[u, 0] + p[v, 0]) / 2, (p[u, 1] + p[v, 1]) / 2, (p[u, 2] + p[v, 2]) / 2
        # relative to the middle: the least of the quadric and of the distance from there
        gx = xx * mx + xy * my + xz * mz + xd
        gy = xy * mx + yy * my + yz * mz + yd
        gz = xz * mx + yz * my + zz * mz + zd
        a, b, c = xx + midpoint_weight, yy + midpoint_weight, zz + midpoint_weight
        ca, cb, cc = b * c - yz * yz, xz * yz - xy * c, xy * yz - b * xz
        det = a * ca + xy * cb + xz * cc
        sx = -(ca * gx + cb * gy + cc * gz) / det
        sy = -(cb * gx + (a * c - xz * xz) * gy + (xy * xz - a * yz) * gz) / det
        sz = -(cc * gx + (xy * xz - a * yz) * gy + (a * b - xy * xy) * gz) / det
        long = (p[u, 0] - p[v, 0]) ** 2 + (p[u, 1] - p[v, 1]) ** 2 + (p[u, 2] - p[v, 2]) ** 2
        if not sx * sx + sy * sy + sz * sz <= long:  # nan, too
            sx, sy, sz = 0.0, 0.0, 0.0
        x, y, z = mx + sx, my + sy, mz + sz
        error = (
            x * (xx * x + 2 * (xy * y + xz * z + xd)) + y * (yy * y + 2 * (yz * z + yd)) + z * (zz * z + 2 * zd) + dd
        )
        position[e, 0], position[e, 1], position[e, 2] = x, y, z
        cost[e] = max(error, 0.0) + midpoint_weight * long * 0.1
