"""Meshes as a generative model returns them: anywhere, in any pose and size, noisy, with parts missing or added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from steps.compute.arrays import Array
from steps.registration.global_icp import Similarity
from steps.sample.render import GroundTruth

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
    longest = edge * float(np.linalg.norm(np.ptp(v, axis=0)))
    face, weights = np.arange(len(f)), np.tile(np.eye(3), (len(f), 1, 1))
    while True:
        places = np.einsum("mck,mkx->mcx", weights, v[f[face]])
        sides = np.linalg.norm(np.roll(places, -1, axis=1) - places, axis=2)  # of corners 0 1, 1 2, 2 0
        long = np.round(sides, 9) > longest  # rounded, so that both faces of an edge say the same and no crack opens
        if not long.any():
            break
        parts = [_split(face[which], weights[which], shape) for shape, which in _by_shape(long)]
        face, weights = (np.concatenate([p[k] for p in parts]) for k in range(2))
    turned = np.einsum("mck,mkx->mcx", weights, truth.normals[f[face]]).reshape(-1, 3)
    places = places.reshape(-1, 3)
    _, first, index = np.unique(np.round(places, 6), axis=0, return_index=True, return_inverse=True)
    unit = turned[first] / np.maximum(np.linalg.norm(turned[first], axis=1, keepdims=True), 1e-12)
    return places[first], unit, index.reshape(-1, 3), face, weights


def _by_shape(long: Array) -> list[tuple[tuple[bool, ...], Array]]:
    """The faces of each kind, by which of their edges (m, 3) are too long."""
    shapes = [tuple(map(bool, shape)) for shape in np.unique(long, axis=0)]
    return [(shape, np.flatnonzero((long == shape).all(axis=1))) for shape in shapes]


def _split(face: Array, weights: Array, long: tuple[bool, ...]) -> tuple[Array, Array]:
    """Faces halved at those edges (of corners 0 1, 1 2, 2 0) that are too long."""
    turn = next((k for k in range(3) if long[k] and not long[k - 1]), 0)  # the first too long one becomes edge 0 1
    a, b, c = (weights[:, (k + turn) % 3] for k in range(3))
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = {
        0: [(a, b, c)],
        1: [(a, ab, c), (ab, b, c)],
        2: [(ab, b, bc), (a, ab, bc), (a, bc, c)],
        3: [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)],
    }[sum(long)]
    return np.tile(face, len(parts)), np.concatenate([np.stack(part, axis=1) for part in parts])


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
