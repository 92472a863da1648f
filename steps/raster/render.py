"""Renders of a textured mesh, antialiased by supersampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from steps.compute.arrays import Array
from steps.compute.device import beside
from steps.compute.kernels import blend, cell, check_indices, kernel
from steps.compute.launch import contiguous, launch, zeros
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import box_down
from steps.geometry.pbr import Material, MetallicRoughness
from steps.geometry.pbr import shade as lit
from steps.geometry.uv_mesh import UvMesh
from steps.raster.rasterize import Fragments, rasterize


def samples_for(camera: Camera) -> int:
    """Samples per axis and pixel, more for smaller pictures, whose scores depend more on outline pixels. With fewer, another
    renderer's score of the same mesh differs by up to a decibel."""
    longest = max(camera.width, camera.height)
    return next((samples for side, samples in ((256, 8), (512, 6), (1024, 4)) if longest <= side), 2)


def render(mesh: UvMesh, texture: Array, camera: Camera, samples: int = 3, material: Material | None = None) -> Array:
    """The mesh rendered, [H, W, 4] float32, premultiplied RGBA, samples^2 samples per pixel, on the mesh's device. Unlit, unless
    a material that is not plain is given: then under its light."""

    def draw(strip: Camera) -> Array:
        fragments = rasterize(mesh.vertices, mesh.faces, strip)
        shaded = shade(fragments, mesh.faces, mesh.uv, texture)
        if material is not None and not material.is_plain:
            _light(shaded, fragments, mesh, material, camera)
        return shaded

    return _in_strips(camera, samples, draw)


class TexturedMesh(Protocol):
    """Protocol of the meshes that `render_mesh` renders, such as `io.mesh_files.Mesh`."""

    @property
    def geometry(self) -> UvMesh: ...
    @property
    def texture(self) -> Array: ...
    @property
    def material(self) -> Material | None: ...


def render_mesh(mesh: TexturedMesh, camera: Camera, samples: int = 3) -> Array:
    """The mesh rendered under its material's light: [H, W, 4] float32, premultiplied RGBA, samples^2 samples per pixel."""
    return render(mesh.geometry, mesh.texture, camera, samples, mesh.material)


def _light(shaded: Array, fragments: Fragments, mesh: UvMesh, material: Material, camera: Camera) -> None:
    """Shades base colours [H, W, 4] in place."""
    visible = fragments.face >= 0
    corners, first_weights = mesh.faces[fragments.face[visible]], fragments.bary[visible]
    weights = np.concatenate([first_weights, 1 - first_weights.sum(axis=1, keepdims=True)], axis=1)[:, :, None]
    point, normal, tangent = (
        (a[corners] * weights).sum(axis=1) for a in (mesh.vertices, mesh.normals, material.tangents)
    )
    orm, mapped = (
        shade(fragments, mesh.faces, mesh.uv, image)[visible][:, :3] for image in (material.orm, material.normal)
    )
    normal = apply_normal_map(_unit(normal), _unit(tangent[:, :3]), np.sign(tangent[:, 3:]), mapped * 2 - 1)
    view = _unit(beside(camera.position, point) - point)
    surface = MetallicRoughness(shaded[visible][:, :3], orm[:, 1:2], orm[:, 2:3], material.specular)
    shaded[visible, :3] = lit(surface, normal, view, material.light, np).clip(0, 1)


def apply_normal_map(normal: Array, tangent: Array, sign: Array, mapped: Array) -> Array:
    """Unit normals (n, 3) perturbed by a normal map's values, mapped (n, 3) in [-1, 1]."""
    return _unit(mapped[:, :1] * tangent + mapped[:, 1:2] * sign * np.cross(normal, tangent) + mapped[:, 2:] * normal)


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


STRIP = 256  # rows of the finished picture drawn at a time: what is held in memory does not grow with its height


def _in_strips(camera: Camera, samples: int, draw: Callable[[Camera], Array]) -> Array:
    """The picture of a camera. draw: gives a strip of it, `samples` times finer, by that strip's camera."""
    rows = range(0, camera.height, STRIP)
    return np.concatenate([box_down(draw(_strip(camera, row, samples)), samples) for row in rows])


def _strip(camera: Camera, row: int, samples: int) -> Camera:
    """The camera of STRIP rows of the picture, `samples` times finer."""
    height = min(STRIP, camera.height - row)
    part = replace(camera, cy=camera.cy - row, height=height)
    return part.resized(camera.width * samples, height * samples)


def shade(fragments: Fragments, faces: Array, uv: Array, texture: Array) -> Array:
    """The texture's colour, bilinear, at each fragment: [H, W, 4] float32, alpha 1 on the surface, all 0 elsewhere. Raises
    ValueError for an index out of range."""
    check_indices(faces, len(uv))
    shape = fragments.face.shape
    out = zeros((*shape, 4), np.float32, fragments.face)
    launch(_shade, shape, fragments.face, fragments.bary, faces, uv, contiguous(texture, np.float32), out)
    return out


@kernel
def _shade(rows, columns, face, bary, faces, uv, texture, out):  # type: ignore[no-untyped-def]
    height, width = texture.shape[:2]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            f = face[row, column]
            if f < 0:
                continue
            b0, b1 = bary[row, column, 0], bary[row, column, 1]
            b2 = np.float32(1) - b0 - b1
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            x = (b0 * uv[i, 0] + b1 * uv[j, 0] + b2 * uv[k, 0]) * width - 0.5
            y = (1.0 - (b0 * uv[i, 1] + b1 * uv[j, 1] + b2 * uv[k, 1])) * height - 0.5
            c, c1, u = cell(x, width)
            r, r1, v = cell(y, height)
            for a in range(3):
                out[row, column, a] = blend(
                    texture[r, c, a], texture[r, c1, a], texture[r1, c, a], texture[r1, c1, a], u, v
                )
            out[row, column, 3] = 1.0


LINE = 0.6  # width of a wireframe's lines in pixels of the finished picture


def wireframe(vertices: Array, faces: Array, camera: Camera, samples: int = 3) -> Array:
    """The mesh's edges in dark on faces in light grey, lit from the camera: [H, W, 4] float32, premultiplied RGBA, on the mesh's
    device."""
    normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    axis = beside(np.asarray(camera.camera_to_world)[:3, 2], vertices)
    light = np.abs(normals @ axis) / np.maximum(np.linalg.norm(normals, axis=1), 1e-20)

    def draw(strip: Camera) -> Array:
        face = rasterize(vertices, faces, strip).face
        projection, half = beside(strip.projection, vertices), LINE * samples / 2
        corners = vertices @ projection[:, :3].T + projection[:, 3]
        out: Array = zeros((*face.shape, 4), np.float32, face)
        launch(_draw_wireframe, face.shape, face, corners[:, :2] / corners[:, 2:], faces, light, half, out)
        return out

    return _in_strips(camera, samples, draw)


@kernel
def _draw_wireframe(rows, columns, face, points, faces, light, half, out):  # type: ignore[no-untyped-def]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            f = face[row, column]
            if f < 0:
                continue
            value = 0.55 + 0.4 * light[f]
            for k in range(3):
                p, q = points[faces[f, k]], points[faces[f, (k + 1) % 3]]
                dx, dy = q[0] - p[0], q[1] - p[1]
                length = math.sqrt(dx * dx + dy * dy)
                if abs(dx * (row + 0.5 - p[1]) - dy * (column + 0.5 - p[0])) < half * length:
                    value = 0.15
            out[row, column, 0] = value
            out[row, column, 1] = value
            out[row, column, 2] = min(1.0, value * 1.05)
            out[row, column, 3] = 1.0
