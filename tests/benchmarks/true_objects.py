"""Meshes against the true objects: the alignment, the distance, and PSNR from any camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import psnr
from steps.io import mesh_files
from steps.raster.render import render_mesh
from steps.sample.render import GroundTruth
from steps.sample.render import render as true_render


def between(placed: Array, mesh: mesh_files.Mesh, truth: GroundTruth, camera: Camera) -> float:
    """PSNR on the object, as if all light were the same: what each picture's light made of it is set apart by its median."""
    expected, _ = true_render(truth, camera, 4)
    found = render_mesh(replace(mesh, vertices=placed.astype(np.float32)), camera)
    inside = (expected[..., 3] > 0.5) | (found[..., 3] > 0.5)
    over = [
        p[..., :3] * (p[..., 3:] if straight else 1) + 1 - p[..., 3:] for p, straight in ((expected, 1), (found, 0))
    ]
    both = (expected[..., 3] > 0.99) & (found[..., 3] > 0.99)
    light = np.median(over[0][both] / np.maximum(over[1][both], 1e-3)) if both.any() else 1.0
    lit = np.where(both[..., None], over[1] * light, over[1])
    return psnr(over[0].astype(np.float32), np.clip(lit, 0, 1).astype(np.float32), inside)


def aligned(
    vertices: Array, faces: Array, truth: GroundTruth, behind: bool, points: int = 60_000
) -> tuple[Array, float]:
    """The vertices in the truth's frame, and Chamfer-L1 as a share of its diagonal there: after the similarity transform that
    fits best (Umeyama 1991, in ICP), since the rig knows no scale, and front may be the back."""
    turned = np.asarray(vertices, np.float64) * ([-1, 1, -1] if behind else [1, 1, 1])
    found, true = (trimesh.Trimesh(v, f, process=False) for v, f in ((turned, faces), (truth.vertices, truth.faces)))
    a, b = (np.asarray(trimesh.sample.sample_surface(m, points, seed=0)[0]) for m in (found, true))
    moved = (a - a.mean(axis=0)) * np.linalg.norm(np.ptp(b, axis=0)) / np.linalg.norm(np.ptp(a, axis=0)) + b.mean(
        axis=0
    )
    tree = cKDTree(b)
    for _ in range(40):
        scale, turn, shift = similarity(a, b[tree.query(moved, workers=-1)[1]])
        moved = scale * a @ turn.T + shift
    both = tree.query(moved, workers=-1)[0].mean() + cKDTree(moved).query(b, workers=-1)[0].mean()
    return scale * turned @ turn.T + shift, float(both / 2 / np.linalg.norm(np.ptp(b, axis=0)))


def similarity(a: Array, b: Array) -> tuple[float, Array, Array]:
    """Scale, rotation (3, 3) and shift (3,) that take points a (n, 3) closest to b (n, 3)."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    u, s, vt = np.linalg.svd(y.T @ x)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = float((s * np.diag(sign)).sum() / (x**2).sum())
    turn = u @ sign @ vt
    return scale, turn, b.mean(axis=0) - scale * turn @ a.mean(axis=0)
