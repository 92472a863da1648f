"""The six views as tensors: colour, coverage, depth and normals at one resolution, each cropped to the object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steps.compute.arrays import Array
from steps.compute.device import memory_shared_with_torch
from steps.fusion import reconstruct
from steps.geometry.cameras import Camera
from steps.geometry.depth_ops import depth_noise, surface_normals, tangent_planes
from steps.geometry.image_ops import box_down
from steps.io.scene import SceneView
from steps.texturing.bake import Photo

WHOLE = 1 << 16  # a side that no picture has
MARGIN = 8  # pixels kept around the object: outlines that are still off must be seen to be pulled in
NEAR, FAR = 0.02, 50.0  # of the least and of the largest depth that a view shows


@dataclass(frozen=True)
class Target:
    """One view. camera: of the crop; clip: (4, 4), world to clip space; depth_row: (4,), world to depth; eye: (3,); rgba: [H,
    W, 4], premultiplied; depth: [H, W], 0 for unknown; normal: [H, W, 3] in the world, 0 for unknown; pixel: [H, W], a
    pixel's size on the surface in scene units; noise: standard deviation of depth, in pixels; frame: number of pixels of the
    whole picture."""

    camera: Camera
    clip: Tensor
    depth_row: Tensor
    eye: Tensor
    rgba: Tensor
    depth: Tensor
    normal: Tensor
    pixel: Tensor
    noise: float
    frame: int


def targets(views: list[SceneView], side: int, voxel: float, device: str) -> list[Target]:
    """The views with their longest side at most `side` pixels. voxel: size against which coarse depth levels are smoothed."""
    with memory_shared_with_torch(device):
        return [_target(view, side, voxel, device) for view in views]


def _target(view: SceneView, side: int, voxel: float, device: str) -> Target:
    photo = _downsample(reconstruct.photo(view, 0), side)
    depth_view = reconstruct.denoise(reconstruct.depth_view(view, side or WHOLE), voxel, device)
    camera = photo.camera
    depth, step = _resize_nearest(depth_view.depth, camera), _resize_nearest(depth_view.step, camera)
    normal = normals(depth, camera)
    pixel = depth / camera.fx
    noise = depth_noise(depth, step, pixel)
    camera, crop = _crop(camera, photo.coverage > 0)

    def tensor(array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)

    rgba = np.concatenate([photo.colour * photo.coverage[..., None], photo.coverage[..., None]], axis=-1)
    return Target(
        camera,
        tensor(clip_matrix(camera, *planes(depth_view.depth))),
        tensor(camera.projection[2]),
        tensor(camera.position),
        tensor(rgba[crop]),
        tensor(depth[crop]),
        tensor(normal[crop]),
        tensor(np.maximum(pixel[crop], 1e-9)),
        noise,
        photo.coverage.size,
    )


def _downsample(photo: Photo, side: int) -> Photo:
    """Box-filters by a whole factor until the longest side is at most `side`; unchanged where no factor divides both sides."""
    height, width = photo.coverage.shape
    wanted = -(-max(height, width) // side) if side else 1
    factor = next((f for f in range(wanted, max(height, width)) if height % f == width % f == 0), 1)
    if factor == 1:
        return photo
    coverage = box_down(photo.coverage, factor)
    colour = box_down(photo.colour * photo.coverage[..., None], factor) / np.maximum(coverage[..., None], 1e-3)
    return Photo(photo.camera.resized(width // factor, height // factor), colour, coverage)


def _resize_nearest(image: Array, camera: Camera) -> Array:
    """Nearest-neighbour samples of a depth map: means across edges would be no depth of either side."""
    rows = ((np.arange(camera.height) + 0.5) * image.shape[0] / camera.height).astype(int)
    columns = ((np.arange(camera.width) + 0.5) * image.shape[1] / camera.width).astype(int)
    return np.asarray(image[rows][:, columns])


def _crop(camera: Camera, mask: Array) -> tuple[Camera, tuple[slice, slice]]:
    """The camera cropped to the object, and the slices of the crop."""
    slices = []
    for axis, size in ((1, camera.height), (0, camera.width)):
        indices = np.flatnonzero(mask.any(axis=axis))
        first, last = (indices[0], indices[-1]) if len(indices) else (0, size - 1)
        slices.append(slice(max(0, int(first) - MARGIN), min(size, int(last) + 1 + MARGIN)))
    rows, columns = slices
    width, height = columns.stop - columns.start, rows.stop - rows.start
    cropped = replace(camera, cx=camera.cx - columns.start, cy=camera.cy - rows.start, width=width, height=height)
    return cropped, (rows, columns)


def planes(depth: Array) -> tuple[float, float]:
    """Near and far planes of a view, from its depth map [H, W], 0 for unknown, with wide margins for a surface that still
    moves."""
    known = depth[depth > 0]
    return (NEAR * float(known.min()), FAR * float(known.max())) if len(known) else (NEAR, FAR)


def clip_matrix(camera: Camera, near: float, far: float) -> Array:
    """(4, 4) float64: world to clip space, y down, so that row 0 of what is drawn is on top."""
    p = camera.projection
    z = p[2] * (far + near) / (far - near)
    z[3] -= 2 * far * near / (far - near)
    return np.stack([2 * p[0] / camera.width - p[2], 2 * p[1] / camera.height - p[2], z, p[2]])


def normals(depth: Array, camera: Camera) -> Array:
    """World normals of a depth map's tangent planes, [H, W, 3], towards the camera; 0 where depth is."""
    planes = tangent_planes(np.ascontiguousarray(depth, np.float32), camera)
    x = ((np.arange(depth.shape[1]) + 0.5 - camera.cx) / camera.fx)[None, :]
    y = ((np.arange(depth.shape[0]) + 0.5 - camera.cy) / camera.fy)[:, None]
    world = surface_normals(x, y, depth, (planes[..., 0], planes[..., 1]), camera)
    return np.where(depth[..., None] > 0, world, 0.0)
