"""The rasterizer's operations for torch: `rasterize`, `interpolate`, `texture`, `antialias`, on the CPU and on CUDA.

Names, arguments and results mean what nvdiffrast's users know (Laine et al., "Modular primitives for high-performance
differentiable rendering", 2020; no code of it is used), without a context object:

pos     [N, V, 4] or [V, 4] float32, clip space; row 0 of a picture lies at y / w = -1
tri     [T, 3] int32
rast    [N, H, W, 4] float32: u, v, z / w, face + 1 (0 for nothing); attribute = u a0 + v a1 + (1 - u - v) a2
rast_db [N, H, W, 4] float32: du/dx, du/dy, dv/dx, dv/dy per pixel

Gradients flow to pos (through u and v, and through outlines in `antialias`), to attributes, to textures and to uv. z / w carries
none: interpolate view-space depth for a loss on it. The derivatives (rast_db, uv_da) are constants to the backward pass, as with
nvdiffrast's grad_db=False. On the CPU all results are the same every time and on any number of cores; on CUDA sums of gradients
come in no fixed order. This is the only module of the package that loads torch.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from steps.compute.arrays import Array
from steps.raster import antialias as edge_ops
from steps.raster import interpolate as attribute_ops
from steps.raster import rasterize as visibility
from steps.raster import texture as lookups
from steps.raster.antialias import EdgeHits

Context = Any


def _in(tensor: Tensor) -> Any:
    """What kernels take: the tensor itself on CUDA, its memory as a numpy array on the CPU. Raises ValueError elsewhere."""
    tensor = tensor.detach().contiguous()
    if tensor.device.type == "cpu":
        return tensor.numpy()
    if tensor.device.type != "cuda":
        raise ValueError(f"The rasterizer runs on the CPU and on CUDA, not on {tensor.device}.")
    return tensor


def _out(array: Array | Tensor) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def rasterize(pos: Tensor, tri: Tensor, resolution: tuple[int, int], with_db: bool = True) -> tuple[Tensor, Tensor]:
    """rast and rast_db. resolution: height, width; with_db=False skips rast_db and returns an empty tensor in its place."""
    return _Rasterize.apply(_batched(pos, 3), tri, resolution, with_db)


def interpolate(
    attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None = None, diff_attrs: str | None = None
) -> tuple[Tensor, Tensor]:
    """Vertex attributes [N or 1, V, A] or [V, A] at each pixel, [N, H, W, A]; with rast_db and diff_attrs="all" also their
    derivatives [N, H, W, 2 A], else an empty tensor."""
    if diff_attrs not in (None, "all"):
        raise ValueError(f"diff_attrs is None or 'all', not {diff_attrs!r}.")
    attr = _batched(attr, 3)
    out = _Interpolate.apply(attr, rast, tri)
    if diff_attrs is None or rast_db is None:
        return out, out.new_zeros((*out.shape[:3], 0))
    layers = [
        _out(attribute_ops.screen_derivatives(_in(attr[i % len(attr)]), _in(tri), _in(rast[i]), _in(rast_db[i])))
        for i in range(len(rast))
    ]
    return out, _stack(layers)


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: Tensor | None = None,
    mip_level_bias: Tensor | None = None,
    filter_mode: str = "auto",
    boundary_mode: str = "wrap",
    max_mip_level: int | None = None,
) -> Tensor:
    """tex [N or 1, h, w, C] at uv [N, H, W, 2], where (0, 0) is the corner of tex[0, 0]: [N, H, W, C].

    filter_mode: nearest, linear, linear-mipmap-nearest, linear-mipmap-linear, or auto (the last where uv_da or a level bias
    [N, H, W] is given, else linear); boundary_mode: wrap, clamp or zero."""
    if filter_mode == "auto":
        filter_mode = "linear" if uv_da is None and mip_level_bias is None else "linear-mipmap-linear"
    if filter_mode not in lookups.FILTERS or boundary_mode not in lookups.BOUNDARIES:
        raise ValueError(f"There is no texture filter {filter_mode!r} with boundary {boundary_mode!r}.")
    mode, boundary = lookups.FILTERS.index(filter_mode), lookups.BOUNDARIES.index(boundary_mode)
    levels = mip_levels(tex, max_mip_level) if mode >= lookups.MIPMAP_NEAREST else [tex]
    level = _levels_wanted(uv, uv_da, mip_level_bias, tex.shape[1], tex.shape[2], len(levels) - 1)
    table = torch.tensor(_table([image.shape[1:3] for image in levels]), device=tex.device)
    texels = [image.flatten(1, 2) for image in levels]
    return _Texture.apply(texels[0] if len(texels) == 1 else torch.cat(texels, 1), table, uv, level, mode, boundary)


def antialias(
    color: Tensor,
    rast: Tensor,
    pos: Tensor,
    tri: Tensor,
    topology_hash: Tensor | None = None,
    pos_gradient_boost: float = 1.0,
) -> Tensor:
    """color [N, H, W, C] with its silhouettes blended. topology_hash: from `antialias_construct_topology_hash(tri)`, for
    meshes with fixed faces."""
    edges = antialias_construct_topology_hash(tri) if topology_hash is None else topology_hash
    return _Antialias.apply(color, rast, _batched(pos, 3), edges, pos_gradient_boost)


def antialias_construct_topology_hash(tri: Tensor) -> Tensor:
    """The edges of `tri`, [E, 4] int32: see `steps.raster.antialias.edges_of`."""
    return torch.from_numpy(edge_ops.edges_of(tri.cpu().numpy())).to(tri.device)


def mip_levels(tex: Tensor, coarsest: int | None = None) -> list[Tensor]:
    """tex [N, h, w, C] and its halvings, as long as both sides are even, at most `coarsest` of them."""
    levels = [tex]
    while (
        levels[-1].shape[1] % 2 == 0 and levels[-1].shape[2] % 2 == 0 and (coarsest is None or len(levels) <= coarsest)
    ):
        fine = levels[-1].permute(0, 3, 1, 2)
        levels.append(torch.nn.functional.avg_pool2d(fine, 2).permute(0, 2, 3, 1).contiguous())
    return levels


def _table(sizes: list[torch.Size]) -> list[list[int]]:
    """First texel, height and width of each mip level in the array of them all."""
    firsts = itertools.accumulate((height * width for height, width in sizes), initial=0)
    return [[first, height, width] for first, (height, width) in zip(firsts, sizes, strict=False)]


def _levels_wanted(
    uv: Tensor, uv_da: Tensor | None, bias: Tensor | None, height: int, width: int, coarsest: int
) -> Tensor:
    """The mip level of each pixel, [N, H, W]."""
    level = torch.zeros(uv.shape[:3], dtype=torch.float32, device=uv.device)
    if uv_da is not None and coarsest > 0:
        scale = torch.tensor([width, width, height, height], dtype=torch.float32, device=uv.device)
        a, b, c, d = (uv_da.detach() * scale).unbind(-1)
        half, skew = (a * a + b * b + c * c + d * d) / 2, a * d - b * c
        longest = half + (half * half - skew * skew).clamp(min=0).sqrt()  # the squared longer axis of the footprint
        level = 0.5 * longest.clamp(min=1e-12).log2()
    if bias is not None:
        level = level + bias.detach()
    return level.clamp(0, coarsest).contiguous()


def _batched(tensor: Tensor, dimensions: int) -> Tensor:
    return tensor if tensor.dim() == dimensions else tensor[None]


def _stack(layers: list[Tensor]) -> Tensor:
    """torch.stack, which copies, only where there is more than one."""
    return layers[0][None] if len(layers) == 1 else torch.stack(layers)


def _sum_by_index(layers: list[Tensor], count: int) -> Tensor:
    """Sums the gradients of pictures 0, 1, ... for the `count` items that they share cyclically."""
    return _stack([functools.reduce(torch.add, layers[k::count]) for k in range(count)])


def _corners(pos: Tensor, height: int, width: int) -> Tensor:
    """Clip space [V, 4] to what the kernels take: (column * w, row * w, z, w), float64."""
    x, y, z, w = pos.detach().double().unbind(-1)
    return torch.stack([(x + w) * (width / 2), (y + w) * (height / 2), z, w], dim=-1).contiguous()


def _to_clip(by_corners: Tensor, height: int, width: int) -> Tensor:
    """Gradient by clip-space positions [V, 4], given that by (column * w, row * w, w)."""
    x, y, w = by_corners.unbind(-1)
    x, y = x * (width / 2), y * (height / 2)
    return torch.stack([x, y, torch.zeros_like(x), x + y + w], dim=-1).float()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, pos: Tensor, tri: Tensor, resolution: tuple[int, int], with_db: bool
    ) -> tuple[Tensor, Tensor]:
        (height, width), faces = resolution, _in(tri)
        corners = [_in(_corners(p, height, width)) for p in pos]
        packed = [visibility.pack_fragments(visibility.rasterize_homogeneous(c, faces, width, height)) for c in corners]
        rast = _stack([_out(p) for p in packed])
        rast_db = rast.new_zeros((*rast.shape[:3], 0))
        if with_db:
            rast_db = _stack([_out(visibility.derivatives(c, faces, p)) for c, p in zip(corners, packed, strict=True)])
        ctx.save_for_backward(pos, tri, rast)
        ctx.mark_non_differentiable(rast_db)
        return rast, rast_db

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pos, tri, rast = ctx.saved_tensors
        height, width = rast.shape[1], rast.shape[2]
        by_corners = [
            visibility.rasterize_backward(_in(_corners(p, height, width)), _in(tri), _in(r), _in(g))
            for p, r, g in zip(pos, rast, gradients[0], strict=True)
        ]
        return _stack([_to_clip(_out(one), height, width) for one in by_corners]), None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, attr: Tensor, rast: Tensor, tri: Tensor) -> Tensor:
        ctx.save_for_backward(attr, rast, tri)
        layers = [attribute_ops.interpolate(_in(attr[i % len(attr)]), _in(tri), _in(rast[i])) for i in range(len(rast))]
        return _stack([_out(layer) for layer in layers])

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        attr, rast, tri = ctx.saved_tensors
        gradient_pairs = [
            attribute_ops.interpolate_backward(_in(attr[i % len(attr)]), _in(tri), _in(rast[i]), _in(gradients[0][i]))
            for i in range(len(rast))
        ]
        by_attr = _sum_by_index([_out(one) for one, _ in gradient_pairs], len(attr)).float()
        return by_attr, _stack([_out(one) for _, one in gradient_pairs]), None


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, texels: Tensor, table: Tensor, uv: Tensor, level: Tensor, mode: int, boundary: int
    ) -> Tensor:
        ctx.save_for_backward(texels, table, uv, level)
        ctx.mode = mode, boundary
        layers = [
            lookups.lookup(_in(texels[i % len(texels)]), _in(table), _in(uv[i]), _in(level[i]), mode, boundary)
            for i in range(len(uv))
        ]
        return _stack([_out(layer) for layer in layers])

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        texels, table, uv, level = ctx.saved_tensors
        (mode, boundary), count = ctx.mode, len(texels)
        gradient_pairs = []
        for i in range(len(uv)):
            where = _in(texels[i % count]), _in(table), _in(uv[i]), _in(level[i]), mode, boundary
            gradient_pairs.append(lookups.lookup_backward(*where, _in(gradients[0][i])))
        by_uv = _stack([_out(one) for _, one in gradient_pairs])
        return _sum_by_index([_out(one) for one, _ in gradient_pairs], len(texels)), None, by_uv, None, None, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, color: Tensor, rast: Tensor, pos: Tensor, edges: Tensor, boost: float) -> Tensor:
        (height, width), topology = rast.shape[1:3], _in(edges)
        corners = [_in(_corners(p, height, width)) for p in pos]
        edge_hits = [edge_ops.find_edge_hits(c, topology, _in(r)) for c, r in zip(corners, rast, strict=True)]
        stacked = [torch.stack([_out(hits.across), _out(hits.down)]) for hits in edge_hits]
        ctx.save_for_backward(color, pos, edges, _stack(stacked))
        ctx.boost = boost
        layers = [
            edge_ops.antialias(_in(one), c, topology, hits)
            for one, c, hits in zip(color, corners, edge_hits, strict=True)
        ]
        return _stack([_out(layer) for layer in layers])

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        color, pos, edges, edge_hits = ctx.saved_tensors
        height, width = color.shape[1:3]
        both = [
            edge_ops.antialias_backward(
                _in(c), _in(_corners(p, height, width)), _in(edges), EdgeHits(_in(hits[0]), _in(hits[1])), _in(g)
            )
            for c, p, hits, g in zip(color, pos, edge_hits, gradients[0], strict=True)
        ]
        by_pos = _stack([_to_clip(_out(one) * ctx.boost, height, width) for _, one in both])
        return _stack([_out(one) for one, _ in both]), None, by_pos, None, None
