"""Signed field to a closed, manifold mesh of a target size.

Components are scipy's. The edges between faces are found here, since trimesh's `graph.face_adjacency` gives the same in 1.4 times
the time, and importing it takes a second. Taubin's smoothing is a kernel, for CPU and GPU: trimesh's, in float64, gives vertices
that differ by up to 1e-4 voxels. `tests/geometry/test_soundness.py` compares them."""

from __future__ import annotations

import fast_simplification
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from steps.compute.arrays import Array
from steps.compute.device import to_device, to_host
from steps.compute.kernels import kernel
from steps.compute.launch import copied, launch
from steps.fusion.marching_tetrahedra import march
from steps.fusion.signed_field import Grid
from steps.geometry.collapse import decimate_safely
from steps.geometry.crossings import resolve_crossings
from steps.geometry.edges import half_edges, undirected_keys
from steps.geometry.soundness import is_closed, soundness
from steps.runtime.errors import ModelConvergenceFailed

SPECK = 0.01  # share of the faces below which a component is noise
TOWARDS, AWAY = 0.5, -0.53  # shares of the way to the neighbours' mean in Taubin's two steps
SMOOTHING = 10  # Taubin passes: removes the grain that 8-bit depth leaves, which would otherwise use up the faces
# voxels: least magnitude of the field at lattice points, so that no two vertices coincide
LEAST_MAGNITUDE = 1e-3
TARGET_FACTORS = 1.0, 0.97, 1.05  # factors on the target, tried in turn where rounding to 32 bits makes faces intersect


def extract(field: Array, grid: Grid, target_faces: int, device: str = "cpu") -> tuple[Array, Array]:
    """The zero level of `field` [nx, ny, nz]: vertices (n, 3) float64 in the world, faces (m, 3) int32, m about target_faces at
    most.

    Marching cubes (Lewiner et al. 2003), small components dropped, Taubin smoothing, decimation; marching tetrahedra where
    marching cubes are not manifold. The mesh is sound (see `soundness`) in float32. Raises ModelConvergenceFailed where the
    field has no surface, or every one intersects itself. device: smooths."""
    if not (field.min() < 0 < field.max()):
        raise ModelConvergenceFailed("The fused depth encloses nothing: the views do not agree on any solid.")
    nonzero = np.where(np.abs(field) < LEAST_MAGNITUDE, np.copysign(np.float32(LEAST_MAGNITUDE), field), field)
    for surface_of in (_by_cubes, _by_tetrahedra):
        unsmoothed, faces = without_specks(*surface_of(nonzero))
        if len(faces) and is_closed(faces):
            smooth = taubin(unsmoothed, faces, SMOOTHING, device)
            wanted, safe = (points * grid.voxel + grid.origin for points in (smooth.astype(np.float64), unsmoothed))
            if mesh := sound_mesh(wanted, safe, faces, target_faces):
                return mesh
    raise ModelConvergenceFailed("The fused depth has no surface whose faces do not cross.")


def sound_mesh(wanted: Array, safe: Array, faces: Array, target_faces: int) -> tuple[Array, Array] | None:
    """A sound mesh of about `target_faces` faces, its vertices (n, 3) float64 representable in float32; None where there is
    none. wanted: (n, 3), vertices of a closed mesh; safe: (n, 3), positions without intersections to move back to."""
    points, _ = resolve_crossings(wanted, faces, safe)
    for factor in TARGET_FACTORS:
        vertices, fewer = decimate_safely(points, faces, int(factor * target_faces))
        vertices = vertices.astype(np.float32)
        if soundness(vertices, fewer).sound:
            return vertices.astype(np.float64), fewer
    return None


def _by_cubes(field: Array) -> tuple[Array, Array]:
    vertices, faces, _, _ = marching_cubes(field, 0.0)
    return vertices.astype(np.float64), faces


def _by_tetrahedra(field: Array) -> tuple[Array, Array]:
    ends, faces = march((field < 0).reshape(-1), field.shape)
    values = field.reshape(-1)[ends].astype(np.float64)
    fraction = (values[:, 0] / (values[:, 0] - values[:, 1]))[:, None]
    first, second = (np.stack(np.unravel_index(ends[:, k], field.shape), axis=1) for k in (0, 1))
    return first * (1 - fraction) + second * fraction, faces


def taubin(vertices: Array, faces: Array, passes: int, device: str = "cpu") -> Array:
    """Vertices (n, 3) float32 of a closed mesh smoothed without shrinking: alternate steps towards and away from the neighbours'
    mean (Taubin, "A signal processing approach to fair surface design", 1995). device: computes it."""
    edges = half_edges(faces)  # each edge both ways
    ones = np.ones(len(edges), np.int8)
    links = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2).tocsr()
    starts, neighbours = (to_device(a.astype(np.int32), device) for a in (links.indptr, links.indices))
    points = to_device(vertices.astype(np.float32), device)
    out = copied(points)
    for _ in range(passes):
        for share in (TOWARDS, AWAY):
            launch(_smooth, (len(points),), starts, neighbours, points, np.float32(share), out)
            points, out = out, points
    return to_host(points)


@kernel
def _smooth(items, starts, neighbours, points, share, out):  # type: ignore[no-untyped-def]
    """Moves each point by a share of the way to its neighbours' mean. neighbours: of point i from starts[i] to starts[i + 1]."""
    for i in range(items[0], items[1], items[2]):
        x, y, z = np.float32(0), np.float32(0), np.float32(0)
        for at in range(starts[i], starts[i + 1]):
            j = neighbours[at]
            x, y, z = x + points[j, 0], y + points[j, 1], z + points[j, 2]
        inverse_degree = np.float32(1) / np.float32(max(starts[i + 1] - starts[i], 1))
        out[i, 0] = points[i, 0] + share * (x * inverse_degree - points[i, 0])
        out[i, 1] = points[i, 1] + share * (y * inverse_degree - points[i, 1])
        out[i, 2] = points[i, 2] + share * (z * inverse_degree - points[i, 2])


def decimate(vertices: Array, faces: Array, target_faces: int) -> tuple[Array, Array]:
    """The mesh with at most about `target_faces` faces, closed where it was closed.

    The simplifier sometimes leaves a folded pair of faces, on edges used four times, which is dropped as a small component.
    Where a hole would remain, a slightly different target is tried."""
    target = target_faces
    for _ in range(6):
        if len(faces) <= target:
            return vertices, faces
        v, f = without_specks(*quadric_decimation(vertices, faces, target))
        if is_closed(f):
            return v, f
        target = int(target * 0.97)
    return v, f


def quadric_decimation(vertices: Array, faces: Array, target_faces: int) -> tuple[Array, Array]:
    """One quadric decimation to about `target_faces`."""
    v, f = fast_simplification.simplify(vertices.astype(np.float32), faces.astype(np.int32), target_count=target_faces)
    return v, f.astype(np.int32)


def without_specks(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Only components, connected across edges of two faces, with at least SPECK of all faces."""
    key = undirected_keys(half_edges(faces))
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) > 0])
    twice = starts[np.diff(np.r_[starts, len(order)]) == 2]
    a, b = order[twice] // 3, order[twice + 1] // 3
    count, label = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(faces),) * 2), directed=False)
    keep = np.bincount(label, minlength=count)[label] >= SPECK * len(faces)
    used, index = np.unique(faces[keep], return_inverse=True)
    return vertices[used], index.reshape(-1, 3).astype(np.int32)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Unit normals (n, 3): area-weighted means of the faces around each vertex."""
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack([np.bincount(faces.ravel(), np.repeat(area[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20))
