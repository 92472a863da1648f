"""A signed field to a sound mesh of a wanted size."""

from __future__ import annotations

from typing import Any

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from steps.fusion.marching_tetrahedra import march
from steps.fusion.signed_field import Grid
from steps.geometry.collapse import collapsed
from steps.geometry.crossings import uncrossed
from steps.geometry.soundness import is_closed, soundness
from steps.runtime.errors import ModelConvergenceFailed

Array = NDArray[Any]
SPECK = 0.01  # components with less than this share of the faces are noise
SMOOTHING = 10  # Taubin passes: removes the grain that 8-bit depth leaves, which would otherwise use up the faces
OFF_ZERO = 1e-3  # voxels: how far from zero the field is held at lattice points, so that no two vertices fall into one
MILDER = 1.0, 0.97, 1.05  # times the wanted faces, in turn, where rounding to 32 bits makes faces cross


def extract(field: Array, grid: Grid, target_faces: int) -> tuple[Array, Array]:
    """The zero level of `field` [nx, ny, nz] as vertices (n, 3) float64 in the world and faces (m, 3) int32, m <= about
    target_faces: always sound (see `soundness`), as 32 bits hold it. Marching cubes (Lewiner et al. 2003), specks dropped,
    smoothed, decimated. Where marching cubes leave something else, marching tetrahedra, which cannot.
    Raises ModelConvergenceFailed where the field has no surface, or none whose faces do not cross."""
    if not (field.min() < 0 < field.max()):
        raise ModelConvergenceFailed("The fused depth encloses nothing: the views do not agree on any solid.")
    held = np.where(np.abs(field) < OFF_ZERO, np.copysign(np.float32(OFF_ZERO), field), field)
    for surface_of in (_by_cubes, _by_tetrahedra):
        rough, faces = without_specks(*surface_of(held))
        if len(faces) and is_closed(faces):
            smooth = taubin(rough, faces, SMOOTHING)
            wanted, safe = (points * grid.voxel + grid.origin for points in (smooth.astype(np.float64), rough))
            if found := solid(wanted, safe, faces, target_faces):
                return found
    raise ModelConvergenceFailed("The fused depth has no surface whose faces do not cross.")


def solid(wanted: Array, safe: Array, faces: Array, target_faces: int) -> tuple[Array, Array] | None:
    """A sound mesh of about `target_faces` faces, its vertices (n, 3) float64 such that 32 bits hold them; None where none is
    found. wanted: (n, 3), the vertices of a closed mesh; safe: (n, 3), where they go as far as faces would cross otherwise."""
    points, _ = uncrossed(wanted, faces, safe)
    for share in MILDER:
        vertices, fewer = collapsed(points, faces, int(share * target_faces))
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
    share = (values[:, 0] / (values[:, 0] - values[:, 1]))[:, None]
    first, second = (np.stack(np.unravel_index(ends[:, k], field.shape), axis=1) for k in (0, 1))
    return first * (1 - share) + second * share, faces


def taubin(vertices: Array, faces: Array, passes: int, down: float = 0.5, up: float = -0.53) -> Array:
    """Vertices (n, 3) smoothed without shrinking: alternate steps of `down` towards and `up` away from the neighbours'
    mean (Taubin, "A signal processing approach to fair surface design", 1995)."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ones = np.ones(len(edges), np.float32)
    links = coo_array(
        (ones, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2
    ).tocsr()  # closed: each edge both ways
    share = 1.0 / np.maximum(np.bincount(edges[:, 0], minlength=len(vertices)), 1)[:, None].astype(np.float32)
    points = vertices.astype(np.float32)
    for i in range(2 * passes):
        points = points + np.float32(up if i % 2 else down) * ((links @ points) * share - points)
    return points


def decimated(vertices: Array, faces: Array, target_faces: int) -> tuple[Array, Array]:
    """The mesh with at most about `target_faces` faces, closed where it was closed.

    The simplifier now and then leaves a folded pair of faces behind; those hang on edges used four times and fall away as
    specks. Where a hole would remain, a slightly different target is tried."""
    target = target_faces
    for _ in range(6):
        if len(faces) <= target:
            return vertices, faces
        v, f = without_specks(*simplified(vertices, faces, target))
        if is_closed(f):
            return v, f
        target = int(target * 0.97)
    return v, f


def simplified(vertices: Array, faces: Array, target_faces: int) -> tuple[Array, Array]:
    """One quadric decimation to about `target_faces`."""
    v, f = fast_simplification.simplify(vertices.astype(np.float32), faces.astype(np.int32), target_count=target_faces)
    return v, f.astype(np.int32)


def without_specks(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Only the components, joined across edges that two faces share, that have at least SPECK of all faces."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    key = edges[:, 0] << 32 | edges[:, 1]
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) > 0])
    twice = starts[np.diff(np.r_[starts, len(order)]) == 2]
    a, b = order[twice] // 3, order[twice + 1] // 3
    count, label = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(faces),) * 2), directed=False)
    keep = np.bincount(label, minlength=count)[label] >= SPECK * len(faces)
    used, index = np.unique(faces[keep], return_inverse=True)
    return vertices[used], index.reshape(-1, 3).astype(np.int32)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Unit normals (n, 3), the area-weighted mean of the faces around each vertex."""
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack([np.bincount(faces.ravel(), np.repeat(area[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20))
