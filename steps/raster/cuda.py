"""The rasterizer's kernels on CUDA, by numba-cuda: the CPU kernels' source compiled once more, with a thread per pixel, face
or edge in place of a loop, and atomic operations where threads share a target. Sums of gradients therefore come in no
fixed order; pictures are deterministic."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

import numpy as np
import torch
from numba import cuda as _cuda
from numba.core.dispatcher import Dispatcher
from torch import Tensor

from steps.compute import kernels
from steps.raster import antialias, interpolate, texture
from steps.raster import rasterize as rasterizer

cuda: Any = _cuda  # numba.cuda has no type hints

NOTHING = np.int64(np.iinfo(np.int64).max)  # in a buffer of keys, where the smallest wins
DEPTH_SCALE = float(1 << 30)  # z / w in [-1, 1] becomes the upper half of a key, which has
DEEPEST = float((1 << 31) - 1)  # no room for more than this
LOWER = np.int64(0xFFFFFFFF)
THREADS = 128


def gpu_function(function: Any) -> Any:
    """Marks a function that is compiled for the GPU alone, by `device`."""
    return function


@gpu_function
def _add(array, index, value):  # type: ignore[no-untyped-def]
    cuda.atomic.add(array, index, value)


@gpu_function
def _key(z, item):  # type: ignore[no-untyped-def]
    return (np.int64(min(max((z + 1.0) * DEPTH_SCALE, 0.0), DEEPEST)) << 32) | np.int64(item)


@gpu_function
def _depth_test(face, bary, depth, row, column, f, z, u, v):  # type: ignore[no-untyped-def]
    cuda.atomic.min(face, (row, column), _key(z, f))


@gpu_function
def _nearest_edge_test(edge_hits, depths, row, column, e, z):  # type: ignore[no-untyped-def]
    cuda.atomic.min(edge_hits, (row, column), _key(z, e))


@gpu_function
def _cross_in_order(p, q):  # type: ignore[no-untyped-def]
    """Edge function with operands in a fixed order: a fused multiply-add would break the exact antisymmetry under swapped
    ends on which watertight edges rest, so both faces of an edge compute the same one."""
    if p[0] < q[0] or (p[0] == q[0] and (p[1] < q[1] or (p[1] == q[1] and p[3] < q[3]))):
        return p[1] * q[3] - p[3] * q[1], p[3] * q[0] - p[0] * q[3], p[0] * q[1] - p[1] * q[0]
    a, b, c = q[1] * p[3] - q[3] * p[1], q[3] * p[0] - q[0] * p[3], q[0] * p[1] - q[1] * p[0]
    return -a, -b, -c


_INSTEAD = {
    kernels.add: _add,
    rasterizer.depth_test: _depth_test,
    rasterizer.edge_function: _cross_in_order,
    antialias.nearest_edge_test: _nearest_edge_test,
}


@functools.cache
def device(function: Any) -> Any:
    """A CPU kernel's function, or a plain one, for the GPU; with it all that it calls."""
    source: Any = _INSTEAD.get(function, function) if isinstance(function, Dispatcher) else function
    source = getattr(source, "py_func", source)
    scope = dict(source.__globals__)
    for name in source.__code__.co_names:
        if isinstance(scope.get(name), Dispatcher) or scope.get(name) is _key:
            scope[name] = device(scope[name])
    return cuda.jit(device=True)(types.FunctionType(source.__code__, scope, source.__name__))


@gpu_function
def resolve_pixel(row, column, keys, corners, faces, rast):  # type: ignore[no-untyped-def]
    """Barycentric weights and depth of a pixel, from the nearest face in its key."""
    if keys[row, column] == NOTHING:
        return
    f = keys[row, column] & LOWER
    p, q, r = corners[faces[f, 0]], corners[faces[f, 1]], corners[faces[f, 2]]
    x, y = column + 0.5, row + 0.5
    e0, e1, e2 = _edge(q, r, x, y), _edge(r, p, x, y), _edge(p, q, x, y)
    total = e0 + e1 + e2
    a, b, c = cross(q, r)
    determinant = a * p[0] + b * p[1] + c * p[3]
    rast[row, column, 0], rast[row, column, 1] = e0 / total, e1 / total
    rast[row, column, 2] = (e0 * p[2] + e1 * q[2] + e2 * r[2]) / determinant
    rast[row, column, 3] = f + 1


cross = rasterizer.edge_function


@kernels.inlined
def _edge(p, q, x, y):  # type: ignore[no-untyped-def]
    a, b, c = cross(p, q)
    return a * x + b * y + c


@gpu_function
def decode_pixel(row, column, keys, edge_hits):  # type: ignore[no-untyped-def]
    """The edge of a key, -1 for none."""
    edge_hits[row, column] = -1 if keys[row, column] == NOTHING else keys[row, column] & LOWER


@functools.cache
def launcher(function: Any, dimensions: int) -> Any:
    """A CUDA kernel that calls `function` for each pixel (2 dimensions) or item (1): its leading arguments are the indices."""
    names = list(inspect.signature(getattr(function, "py_func", function)).parameters)
    place, rest = names[:dimensions], ", ".join(names[dimensions:])
    limits = [f"limit_{name}" for name in place]
    inside = " and ".join(f"{name} < {limit}" for name, limit in zip(place, limits, strict=True))
    lines = [
        f"def kernel({', '.join(limits)}, {rest}):",
        f"    {', '.join(reversed(place))} = cuda.grid({dimensions})",
        f"    if {inside}:",
        f"        body({', '.join(place)}, {rest})",
    ]
    scope: dict[str, Any] = {"cuda": cuda, "body": device(function)}
    exec("\n".join(lines), scope)
    return cuda.jit(scope["kernel"])


def launch(function: Any, limits: tuple[int, ...], *arguments: Any) -> None:
    """Runs `function` over all indices below `limits`, on torch's current stream."""
    if min(limits) == 0:
        return
    kernel = launcher(function, len(limits))
    threads: tuple[int, ...] = (THREADS,) if len(limits) == 1 else (32, 4)
    across = limits[::-1]  # columns along the warp
    blocks = tuple(-(-n // t) for n, t in zip(across, threads, strict=True))
    values = [_array(a) if isinstance(a, Tensor) else a for a in arguments]
    kernel[(blocks, threads, *_stream())](*limits, *values)


def _stream() -> tuple[Any, ...]:
    if not torch.cuda.is_available():  # the simulator, which the tests run on
        return ()
    return (cuda.external_stream(torch.cuda.current_stream().cuda_stream),)


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach().contiguous()
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()


@gpu_function
def _walk(position, corners, edges, chosen, rast, axis, edge_hits, depths, start, stop):  # type: ignore[no-untyped-def]
    _walk_edge(chosen[position], corners, edges, rast, axis, edge_hits, depths, start, stop)


_walk_edge = antialias.walk_edge


class Cuda:
    """See `backends.Backend`. All arrays lie on the GPU."""

    def rasterize(self, corners: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
        bounds = tri.new_empty((len(tri), 4))
        launch(rasterizer.face_bounds, (len(tri),), corners, tri, width, height, bounds)
        keys = torch.full((height, width), int(NOTHING), dtype=torch.int64, device=corners.device)
        none = corners.new_empty((1, 1, 1))
        launch(rasterizer.draw_face, (len(tri),), corners, tri, bounds, -1.0, 1.0, keys, none, none, 0, height)
        rast = torch.zeros((height, width, 4), dtype=torch.float32, device=corners.device)
        launch(resolve_pixel, (height, width), keys, corners, tri, rast)
        return rast

    def derivatives(self, corners: Tensor, tri: Tensor, rast: Tensor) -> Tensor:
        out = torch.zeros_like(rast)
        launch(rasterizer.derivatives_pixel, _size(rast), corners, tri, rast, out)
        return out

    def rasterize_backward(self, corners: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor) -> Tensor:
        out = corners.new_zeros((len(corners), 3))
        launch(rasterizer.backward_pixel, _size(rast), corners, tri, rast, gradient, out)
        return out

    def interpolate(self, attr: Tensor, tri: Tensor, rast: Tensor) -> Tensor:
        out = attr.new_zeros((*_size(rast), attr.shape[1]))
        launch(interpolate.forward_pixel, _size(rast), attr, tri, rast, out)
        return out

    def interpolate_backward(self, attr: Tensor, tri: Tensor, rast: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        by_attr, by_rast = torch.zeros_like(attr), torch.zeros_like(rast)
        launch(interpolate.backward_pixel, _size(rast), attr, tri, rast, gradient, by_attr, by_rast)
        return by_attr, by_rast

    def screen_derivatives(self, attr: Tensor, tri: Tensor, rast: Tensor, rast_db: Tensor) -> Tensor:
        out = attr.new_zeros((*_size(rast), 2 * attr.shape[1]))
        launch(interpolate.derivatives_pixel, _size(rast), attr, tri, rast, rast_db, out)
        return out

    def lookup(self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int) -> Tensor:
        out = uv.new_zeros((*_size(uv), texels.shape[1]))
        launch(texture.forward_pixel, _size(uv), texels, table, uv, level, mode, boundary, out)
        return out

    def lookup_backward(
        self, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        by_texels, by_uv = torch.zeros_like(texels), torch.zeros_like(uv)
        where = table, uv, level, mode, boundary, gradient
        launch(texture.scatter_pixel, _size(uv), *where, by_texels, 0, len(texels))
        launch(texture.by_uv_pixel, _size(uv), texels, *where, by_uv)
        return by_texels, by_uv

    def find_edge_hits(self, corners: Tensor, edges: Tensor, rast: Tensor) -> Tensor:
        height, width = _size(rast)
        silhouette = torch.zeros(len(edges), dtype=torch.bool, device=rast.device)
        launch(antialias.mark_edge, (len(edges),), corners, edges, silhouette)
        chosen = silhouette.nonzero()[:, 0]
        out = torch.empty((2, height, width), dtype=torch.int32, device=rast.device)
        none = corners.new_empty((1, 1))
        for axis, lines in ((0, height), (1, width)):
            keys = torch.full((height, width), int(NOTHING), dtype=torch.int64, device=rast.device)
            launch(_walk, (len(chosen),), corners, edges, chosen, rast, axis, keys, none, 0, lines)
            launch(decode_pixel, (height, width), keys, out[axis])
        return out

    def antialias(self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor) -> Tensor:
        out = color.detach().clone(memory_format=torch.contiguous_format)
        launch(antialias.blend_pixel, _size(color), color, corners, edges, edge_hits[0], edge_hits[1], out)
        return out

    def antialias_backward(
        self, color: Tensor, corners: Tensor, edges: Tensor, edge_hits: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        by_color = gradient.detach().clone(memory_format=torch.contiguous_format)
        launch(antialias.by_image_pixel, _size(color), corners, edges, edge_hits[0], edge_hits[1], gradient, by_color)
        by_corners = corners.new_zeros((len(corners), 3))
        where = corners, edges, edge_hits[0], edge_hits[1], gradient, by_corners
        launch(antialias.by_corners_pixel, _size(color), color, *where)
        return by_color, by_corners


def _size(layers: Tensor) -> tuple[int, int]:
    return int(layers.shape[0]), int(layers.shape[1])
