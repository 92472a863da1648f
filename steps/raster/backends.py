"""Backends of `steps.raster.torch_ops`: the CPU's kernels, or the same ones on CUDA, over torch tensors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from steps.compute.arrays import Array
from steps.raster import antialias, interpolate, texture
from steps.raster import rasterize as rasterizer
from steps.raster.antialias import EdgeHits


class Backend(Protocol):
    """The operations on one picture. rast: [H, W, 4]; corners: [V, 4] float64; edges: [E, 4]; edge_hits: [2, H, W] int32."""

    def rasterize(self, corners: Tensor, tri: Tensor, height: int, width: int) -> Tensor: ...
    def derivatives(self, corners: Tensor, tri: Tensor, rast: Tensor) -> Tensor: ...
    def rasterize_backward(self, corners: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor) -> Tensor: ...
    def interpolate(self, attr: Tensor, tri: Tensor, rast: Tensor) -> Tensor: ...
    def interpolate_backward(
        self, attr: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]: ...
    def screen_derivatives(self, attr: Tensor, tri: Tensor, rast: Tensor, rast_db: Tensor) -> Tensor: ...
    def lookup(self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int) -> Tensor: ...
    def lookup_backward(
        self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int, gradient: Tensor
    ) -> tuple[Tensor, Tensor]: ...
    def find_edge_hits(self, corners: Tensor, edges: Tensor, rast: Tensor) -> Tensor: ...
    def antialias(self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor) -> Tensor: ...
    def antialias_backward(
        self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]: ...


def backend_of(tensor: Tensor) -> Backend:
    """The backend for a tensor's device."""
    if tensor.device.type == "cpu":
        return Cpu()
    if tensor.device.type == "cuda":
        from steps.raster.cuda import Cuda  # it asks for a driver when it is loaded

        return Cuda()
    raise ValueError(f"The rasterizer runs on the CPU and on CUDA, not on {tensor.device}.")


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().numpy())


class Cpu:
    """numba's kernels over the tensors' memory."""

    def rasterize(self, corners: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
        fragments = rasterizer.rasterize_homogeneous(_array(corners), _array(tri), width, height)
        return torch.from_numpy(rasterizer.pack_fragments(fragments))

    def derivatives(self, corners: Tensor, tri: Tensor, rast: Tensor) -> Tensor:
        return torch.from_numpy(rasterizer.derivatives(_array(corners), _array(tri), _array(rast)))

    def rasterize_backward(self, corners: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor) -> Tensor:
        arrays = _array(corners), _array(tri), _array(rast), _array(gradient)
        return torch.from_numpy(rasterizer.rasterize_backward(*arrays))

    def interpolate(self, attr: Tensor, tri: Tensor, rast: Tensor) -> Tensor:
        return torch.from_numpy(interpolate.interpolate(_array(attr), _array(tri), _array(rast)))

    def interpolate_backward(self, attr: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradients = interpolate.interpolate_backward(_array(attr), _array(tri), _array(rast), _array(gradient))
        return torch.from_numpy(gradients[0]), torch.from_numpy(gradients[1])

    def screen_derivatives(self, attr: Tensor, tri: Tensor, rast: Tensor, rast_db: Tensor) -> Tensor:
        arrays = _array(attr), _array(tri), _array(rast), _array(rast_db)
        return torch.from_numpy(interpolate.screen_derivatives(*arrays))

    def lookup(self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int) -> Tensor:
        arrays = _array(texels), _array(table), _array(uv), _array(level)
        return torch.from_numpy(texture.lookup(*arrays, mode, boundary))

    def lookup_backward(
        self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        arrays = _array(texels), _array(table), _array(uv), _array(level)
        gradients = texture.lookup_backward(*arrays, mode, boundary, _array(gradient))
        return torch.from_numpy(gradients[0]), torch.from_numpy(gradients[1])

    def find_edge_hits(self, corners: Tensor, edges: Tensor, rast: Tensor) -> Tensor:
        edge_hits = antialias.find_edge_hits(_array(corners), _array(edges), _array(rast))
        return torch.from_numpy(np.stack([edge_hits.across, edge_hits.down]))

    def antialias(self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor) -> Tensor:
        hits = EdgeHits(*_array(edge_hits))
        return torch.from_numpy(antialias.antialias(_array(color), _array(corners), _array(edges), hits))

    def antialias_backward(
        self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        arrays = _array(color), _array(corners), _array(edges), EdgeHits(*_array(edge_hits)), _array(gradient)
        by_color, by_corners = antialias.antialias_backward(*arrays)
        return torch.from_numpy(by_color), torch.from_numpy(by_corners)
