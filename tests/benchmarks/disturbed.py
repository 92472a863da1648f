"""Meshes as a generative model returns them: anywhere, in any pose and size, noisy, with parts missing or added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from steps.geometry.registration import Similarity
from steps.sample.render import GroundTruth

Array = np.ndarray[Any, Any]
NOISE = 0.02  # standard deviation of each vertex along its normal, as a share of the diagonal
SHARE = 0.2  # of the surface that is missing or added


@dataclass(frozen=True)
class Disturbed:
    """vertices (n, 3), faces (m, 3); paint: (face, weights) to colours there; back: the transform that returns the mesh to where
    it was; what: missing or added."""

    vertices: Array
    faces: Array
    paint: Callable[[Array, Array], Array]
    back: Similarity
    what: str


def disturbed(truth: GroundTruth, seed: int) -> Disturbed:
    """The mesh after a random similarity transform, with NOISE, and SHARE of its surface missing or as much added."""
    random = np.random.default_rng(seed)
    vertices, normals, faces, source, corners = dense(truth)
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    noisy = vertices + normals * random.normal(0, NOISE * diagonal, (len(vertices), 1))
    what = "missing" if random.random() < 0.5 else "added"
    kept = _hole(noisy, faces, random) if what == "missing" else np.arange(len(faces))
    v, f = (noisy, faces[kept]) if what == "missing" else _with_ball(noisy, faces, random)
    grey = random.random(3)

    def paint(face: Array, weights: Array) -> Array:
        own = face < len(kept)
        out = np.tile(grey, (len(face), 1))
        which = kept[face[own]]
        out[own] = truth.paint(source[which], (corners[which] * weights[own][..., None]).sum(axis=1))
        return out

    pose = Similarity(
        float(np.exp(random.uniform(np.log(0.3), np.log(3.0)))),
        Rotation.random(random_state=random).as_matrix(),
        random.uniform(-1, 1, 3) * diagonal,
    )
    return Disturbed(pose(v), f, paint, pose.inverse(), what)


def dense(truth: GroundTruth, edge: float = 0.02) -> tuple[Array, Array, Array, Array, Array]:
    """The mesh in faces whose edges are at most `edge` diagonals: vertices, normals, faces, the face that each is a part of, and
    the weights of its corners there (m, 3, 3)."""
    v, f = truth.vertices, truth.faces
    corners = v[f]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    parts = np.ceil(longest / (edge * np.linalg.norm(np.ptp(v, axis=0)))).astype(int)
    source, weights = [], []
    for n in np.unique(parts):
        which, small = np.flatnonzero(parts == n), _split(int(n))
        source.append(np.repeat(which, len(small)))
        weights.append(np.tile(small, (len(which), 1, 1)))
    face, w = np.concatenate(source), np.concatenate(weights)
    places = np.einsum("mck,mkx->mcx", w, v[f[face]]).reshape(-1, 3)
    turned = np.einsum("mck,mkx->mcx", w, truth.normals[f[face]]).reshape(-1, 3)
    _, first, index = np.unique(np.round(places, 6), axis=0, return_index=True, return_inverse=True)
    unit = turned[first] / np.maximum(np.linalg.norm(turned[first], axis=1, keepdims=True), 1e-12)
    return places[first], unit, index.reshape(-1, 3), face, w


def _split(n: int) -> Array:
    """The n^2 small triangles of one, (n^2, 3 corners, 3 weights)."""
    found = []
    for i in range(n):
        for j in range(n - i):
            found.append([(i, j), (i + 1, j), (i, j + 1)])
            if i + j + 2 <= n:
                found.append([(i + 1, j), (i + 1, j + 1), (i, j + 1)])
    at = np.array(found, float) / n
    return np.concatenate([at, 1 - at.sum(axis=2, keepdims=True)], axis=2)


def areas(vertices: Array, faces: Array) -> Array:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)


def _hole(vertices: Array, faces: Array, random: np.random.Generator) -> Array:
    """The faces that are left when those around one of them, SHARE of the surface, are taken away."""
    middle = vertices[faces].mean(axis=1)
    order = np.argsort(np.linalg.norm(middle - middle[random.integers(len(faces))], axis=1))
    size = areas(vertices, faces)[order]
    return order[np.cumsum(size) > SHARE * size.sum()]


def _with_ball(vertices: Array, faces: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """A ball that sticks to the surface, with SHARE of its area."""
    radius = float(np.sqrt(SHARE * areas(vertices, faces).sum() / (4 * np.pi)))
    ball = trimesh.creation.icosphere(3, radius)
    place = vertices[random.integers(len(vertices))]
    return np.concatenate([vertices, np.asarray(ball.vertices) + place]), np.concatenate(
        [faces, np.asarray(ball.faces) + len(vertices)]
    )
