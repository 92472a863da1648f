"""The steps' computations as scenes: the same functions as in a job, from views to scores and pictures, where their arrays lie on
a GPU, against the CPU's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.compute.device import to_device
from steps.geometry.cameras import Camera

SIDE = LEAST_SIDE = 14  # of the pictures; a larger scene's side changes it


def ball_depth(seen_by: Camera, radius: float = 0.8) -> Array:
    """Depth [H, W] float32 of a ball around the origin, 0 beside it."""
    x = (np.arange(SIDE) + 0.5 - seen_by.cx) / seen_by.fx
    far, x2 = float(np.linalg.norm(seen_by.position)), x[None] ** 2 + x[:, None] ** 2 + 1
    root = far**2 - x2 * (far**2 - radius**2)
    return np.where(root > 0, (far - np.sqrt(np.maximum(root, 0))) / x2, 0).astype(np.float32)


def views() -> list[Any]:
    """Depth views of a ball from five sides; a part of one is guessed."""
    from steps.fusion.signed_field import DepthView
    from tests.raster.shapes import camera

    seen = []
    for number, angle in enumerate((0.1, 1.4, 2.7, 4.0, 5.2)):
        one = camera(SIDE, 2.2 * np.sin(angle), 0.8 * (-1) ** number, 2.2 * np.cos(angle))
        depth = ball_depth(one)
        guessed = np.zeros(depth.shape, bool)
        guessed[5:7, 5:7] = number == 0
        coverage = (depth > 0).astype(np.float32)
        coverage[:, 1:][(coverage[:, 1:] == 0) & (coverage[:, :-1] == 1)] = 0.3
        seen.append(DepthView(one, depth, coverage, np.full_like(depth, 0.01), guessed))
    return seen


def denoised(where: str) -> list[Array]:
    """Depth in coarse levels with a hole: inpainted, then dequantized."""
    from dataclasses import replace

    from steps.fusion import reconstruct
    from steps.geometry import depth_ops

    depth_ops.RELAXATIONS = 3
    view = views()[1]
    levels = np.round(view.depth / 0.1).astype(np.float32) * np.float32(0.1)
    levels[6:8, 6:8] = 0
    holed = replace(view, depth=levels, step=np.where(levels > 0, np.float32(0.1), 0), guessed=None)
    filled = reconstruct.fill_holes(holed, where)
    depth, step = (to_device(a, where) for a in (filled.depth, filled.step))
    return [filled.depth, depth_ops.dequantize(depth, step, 2)]


def smoothed(where: str) -> list[Array]:
    from steps.fusion.isosurface import taubin
    from tests.raster.shapes import ball

    vertices, faces = ball(6, rough=0.1)
    return [taubin(vertices, faces, passes, where) for passes in (1, 3)]


def fused(where: str) -> list[Array]:
    from steps.fusion import signed_field as sf

    grid = sf.Grid(np.full(3, -0.75), 0.25, (7, 7, 7))
    sf.SLAB = 3 * 49  # so that the grid takes several
    return [sf.signed_field(views(), grid, band, where) for band in (0.0, 2.0)]


def uv_ball() -> Any:
    from steps.fusion.isosurface import vertex_normals
    from steps.geometry.uv_mesh import UvMesh
    from tests.raster.shapes import ball

    vertices, faces = ball(6)
    uv = (0.5 + vertices[:, :2] * 0.6).astype(np.float32)
    return UvMesh(vertices, faces, uv, vertex_normals(vertices, faces))


def textured(where: str) -> list[Array]:
    from steps.texturing.bake import ROUGH, Photo, bake

    random = np.random.default_rng(5)
    photos = [Photo(v.camera, random.random((SIDE, SIDE, 3)).astype(np.float32), v.coverage) for v in views()[:2]]
    baked = bake(uv_ball(), photos, SIDE, ROUGH, device=where)
    return [baked.texture, baked.unseen_at.astype(float)]


def painted_mesh(where: str) -> Any:
    """A mesh with a random texture, and a material that is not plain."""
    from steps.geometry import pbr
    from steps.io.mesh_files import Mesh

    mesh, random = uv_ball(), np.random.default_rng(8)
    tangents = pbr.tangents_of(mesh.vertices, mesh.faces, mesh.uv, mesh.normals)
    texture, *images = (random.random((5, 5, 3)).astype(np.float32) for _ in range(3))
    light = pbr.WHITE + 0.1 * random.standard_normal((9, 3)).astype(np.float32)
    material = pbr.Material(images[0], images[1], tangents, 0.5, light)
    vertices, normals = (a.astype(np.float32) for a in (mesh.vertices, mesh.normals))
    return Mesh(vertices, mesh.faces, mesh.uv, normals, texture, material).on(where)


def scored(where: str) -> list[Array]:
    """Every number that the step quality writes of a view."""
    from steps.geometry.frame import Frame
    from steps.quality import run
    from steps.raster import render

    mesh, seen = painted_mesh(where), views()[1]
    random = np.random.default_rng(9)
    picture = random.random((SIDE, SIDE, 3)).astype(np.float32)
    view = SimpleNamespace(camera=seen.camera, depth_camera=seen.camera, picture=lambda: picture)
    view.coverage, view.depth = (lambda: seen.coverage), (lambda: seen.depth * np.float32(1.01))
    view.behind = lambda: np.array([0.2, 0.4, 0.9], np.float32)
    run.samples_for = lambda camera: 2  # type: ignore[attr-defined]
    render.STRIP = 8
    scores = run.score_view(mesh, view, Frame())  # type: ignore[arg-type]
    numbers = [scores["psnr"], scores["ssim"], *scores["object"].values(), *scores["blank"].values(), scores["iou"]]
    return [np.array(numbers), np.array(list(scores["depth_error"].values()))]


def drawn(where: str) -> list[Array]:
    """The pictures of the step preview."""
    from steps.preview.run import draw

    mesh, seen = painted_mesh(where), views()[2]
    view = SimpleNamespace(behind=lambda: np.zeros(3, np.float32))
    return [picture.astype(float) / 255 for picture in draw(mesh, view, seen.camera)]  # type: ignore[arg-type]


WORKS = denoised, fused, smoothed, textured, scored, drawn
