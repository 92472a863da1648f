"""Differentiable renderings of a mesh: antialiased colour, and depth with normals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steps.geometry import pbr
from steps.nvdiffrec.targets import Target
from steps.raster import torch_ops


@dataclass(frozen=True)
class Surface:
    """A mesh. positions: (n, 3); tri: (m, 3) over them; edges: its topology; uv: (k, 2), v from the top; uv_tri: (m, 3)
    over those; welded: (k,), the position of each uv vertex. Seams cut uv but not positions, so that outlines are true ones."""

    positions: Tensor
    tri: Tensor
    edges: Tensor
    uv: Tensor
    uv_tri: Tensor
    welded: Tensor

    def at(self, positions: Tensor) -> Surface:
        """The same mesh with these vertex positions (n, 3)."""
        return replace(self, positions=positions)


@dataclass(frozen=True)
class Appearance:
    """Textures of a surface, all [S, S, C]: base (3), and where it is lit also orm (3), normal (3, unit, tangent space);
    tangents: (k, 4); specular: scalar; light: (9, 3). Unlit where light is None."""

    base: Tensor
    orm: Tensor | None = None
    normal: Tensor | None = None
    tangents: Tensor | None = None
    specular: Tensor | None = None
    light: Tensor | None = None


def homogeneous(positions: Tensor) -> Tensor:
    return torch.cat([positions, torch.ones_like(positions[:, :1])], dim=1)


def vertex_normals(positions: Tensor, tri: Tensor) -> Tensor:
    """Unit normals (n, 3), the area-weighted mean of the faces around each vertex."""
    a, b, c = (positions[tri[:, k].long()] for k in range(3))
    area = torch.cross(b - a, c - a, dim=1)
    total = torch.zeros_like(positions)
    for k in range(3):
        total = total.index_add(0, tri[:, k].long(), area)
    return total / total.norm(dim=1, keepdim=True).clamp(min=1e-12)


def render_rgba(surface: Surface, appearance: Appearance, target: Target, samples: int) -> Tensor:
    """The rendered view, [H, W, 4], premultiplied RGBA; samples: per pixel and axis."""
    camera = target.camera
    size = camera.height * samples, camera.width * samples
    pos = homogeneous(surface.positions) @ target.clip.T
    rast, _ = torch_ops.rasterize(pos, surface.tri, size, with_db=False)
    uv, _ = torch_ops.interpolate(surface.uv, rast, surface.uv_tri)
    rendered = (rast[..., 3:] > 0).to(uv.dtype)
    colour = torch_ops.texture(appearance.base[None], uv, boundary_mode="clamp")
    if appearance.light is not None:
        colour = _shade(surface, appearance, target, colour, uv, rast)
    rgba = torch_ops.antialias(torch.cat([colour * rendered, rendered], dim=-1), rast, pos, surface.tri, surface.edges)
    if samples > 1:
        rgba = torch.nn.functional.avg_pool2d(rgba.permute(0, 3, 1, 2), samples).permute(0, 2, 3, 1)
    return rgba[0]


def _shade(surface: Surface, appearance: Appearance, target: Target, base: Tensor, uv: Tensor, rast: Tensor) -> Tensor:
    """Shaded colour under the appearance's light, at visible pixels; [1, H, W, 3]."""
    assert appearance.orm is not None
    visible = rast[..., 3] > 0
    orm = torch_ops.texture(appearance.orm[None], uv, boundary_mode="clamp")[visible]
    normal = shading_normals(surface, appearance, uv, rast)[visible]
    positions, _ = torch_ops.interpolate(surface.positions, rast, surface.tri)
    view = torch.nn.functional.normalize(target.eye - positions[visible], dim=-1)
    points = pbr.MetallicRoughness(base[visible], orm[:, 1:2], orm[:, 2:3], appearance.specular)
    lit = pbr.shade(points, normal, view, appearance.light, torch)
    return torch.zeros_like(base).masked_scatter(visible[..., None].expand_as(base), lit)


def shading_normals(surface: Surface, appearance: Appearance, uv: Tensor, rast: Tensor) -> Tensor:
    """Unit normals [1, H, W, 3] of the surface, perturbed by the normal map."""
    smooth = vertex_normals(surface.positions, surface.tri)
    normal, _ = torch_ops.interpolate(smooth, rast, surface.tri)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    if appearance.normal is None or appearance.tangents is None:
        return normal
    tangent, _ = torch_ops.interpolate(appearance.tangents, rast, surface.uv_tri)
    sign, along = tangent[..., 3:], torch.nn.functional.normalize(tangent[..., :3], dim=-1)
    across = sign * torch.cross(normal, along, dim=-1)
    mapped = torch_ops.texture(appearance.normal[None], uv, boundary_mode="clamp")
    return torch.nn.functional.normalize(
        mapped[..., :1] * along + mapped[..., 1:2] * across + mapped[..., 2:] * normal, dim=-1
    )


def render_geometry(surface: Surface, appearance: Appearance | None, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """The rendered geometry at pixel centres: mask, [H, W] bool; depth, [H, W]; normals, [H, W, 3], with the appearance's
    normal map."""
    size = target.camera.height, target.camera.width
    points = homogeneous(surface.positions)
    rast, _ = torch_ops.rasterize(points @ target.clip.T, surface.tri, size, with_db=False)
    depth, _ = torch_ops.interpolate((points @ target.depth_row)[:, None], rast, surface.tri)
    uv, _ = torch_ops.interpolate(surface.uv, rast, surface.uv_tri) if appearance else (rast, rast)
    plain = appearance or Appearance(depth)
    return rast[0, ..., 3] > 0, depth[0, ..., 0], shading_normals(surface, plain, uv, rast)[0]
