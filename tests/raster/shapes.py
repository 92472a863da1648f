"""Small meshes and scenes for gradient tests."""

from __future__ import annotations

import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, look_at
from steps.nvdiffrec.targets import FAR, NEAR, clip_matrix
from steps.raster import torch_ops as dr

UP = np.array([0.0, 1.0, 0.0])


def ball(cells: int, radius: float = 0.8, rough: float = 0.01, seed: int = 0) -> tuple[Array, Array]:
    """A closed mesh of a rough ball: vertices (n, 3) float64, faces (m, 3) int32."""
    axis = np.linspace(-1.2, 1.2, cells)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    vertices, faces, _, _ = marching_cubes(
        np.linalg.norm(grid, axis=-1) - radius, 0.0, spacing=(axis[1] - axis[0],) * 3
    )
    noise = np.random.default_rng(seed).normal(size=vertices.shape) * rough
    return vertices - 1.2 + noise, faces.astype(np.int32)


def camera(size: int, *position: float) -> Camera:
    return look_at("test", np.array(position or (0.4, 0.7, 2.2)), UP, size, size * 1.1)


def clip_of(vertices: Tensor, seen_by: Camera) -> Tensor:
    """Clip-space positions (n, 4) of vertices (n, 3)."""
    distance = float(np.linalg.norm(seen_by.position))
    matrix = torch.from_numpy(clip_matrix(seen_by, NEAR * distance, FAR * distance)).to(vertices.dtype)
    return torch.cat([vertices, torch.ones_like(vertices[:, :1])], dim=1) @ matrix.T


def waves(size: int) -> Tensor:
    """A smooth weight for every pixel and channel, [1, size, size, 3]: the loss sum(weight * picture) has a gradient
    everywhere."""
    y, x = np.mgrid[:size, :size] / size
    layers = [np.sin(5 * x + 1) * np.cos(4 * y), np.cos(6 * x * y), np.sin(3 * y + 2 * x)]
    return torch.tensor(np.stack(layers, axis=-1)[None], dtype=torch.float32)


def rendered(vertices: Tensor, colours: Tensor, tri: Tensor, size: int, antialiased: bool = True) -> Tensor:
    """Vertex colours over black, [1, size, size, C]."""
    pos = clip_of(vertices, camera(size))
    rast, _ = dr.rasterize(pos, tri, (size, size), with_db=False)
    picture, _ = dr.interpolate(colours, rast, tri)
    picture = torch.where(rast[..., 3:] > 0, picture, torch.zeros(()))
    return dr.antialias(picture, rast, pos, tri) if antialiased else picture


def supersampled(vertices: Array, colours: Array, tri: Tensor, size: int, samples: int = 16) -> Tensor:
    """The same from samples^2 samples per pixel, without antialiasing."""
    many = rendered(
        torch.tensor(vertices, dtype=torch.float32),
        torch.tensor(colours, dtype=torch.float32),
        tri,
        size * samples,
        False,
    )
    return many.reshape(1, size, samples, size, samples, -1).mean((2, 4))


def likeness(result: Array, expected: Array) -> tuple[float, float]:
    """Cosine between two gradients, and the first one's length over the second's."""
    a, b = result.ravel(), expected.ravel()
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return float(a @ b) / (lengths[0] * lengths[1]), lengths[0] / lengths[1]
