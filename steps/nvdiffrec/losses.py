"""Losses between a rendered mesh and the views. Each is a mean over all pixels of the whole picture of squared errors in units
of their uncertainty, so that the weights hold at any resolution and scale.

Colours are compared as stored in the PNG (sRGB-encoded, premultiplied): that is also the tone mapping."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from steps.geometry.depth_ops import LEAST_NOISE
from steps.nvdiffrec.targets import Target

COLOUR_NOISE = 0.003  # of a colour, about one of 255 levels: against it depth is weighed
NORMAL = 0.1  # weight of normals beside depth, from which they come
OUTLIER = 2.0  # pixels beyond which a depth is another surface's, plus four times the noise


def colour(rgba: Tensor, target: Target) -> Tensor:
    """Squared error of premultiplied colour and coverage."""
    return ((rgba - target.rgba) ** 2).sum() / (4 * target.frame)


def colour_robust(rgba: Tensor, target: Target) -> Tensor:
    """Absolute error of colour, squared error of coverage: for a shape that is still far off."""
    difference = rgba - target.rgba
    return (difference[..., :3].abs().sum() / 3 + (difference[..., 3] ** 2).sum()) / target.frame


def depth(rendered: Tensor, depths: Tensor, target: Target, outlier: float = OUTLIER) -> Tensor:
    """Squared depth error in pixels over the depth's own noise, where both have the same surface."""
    known = rendered & (target.depth > 0)
    residual = (depths[known] - target.depth[known]) / target.pixel[known]
    residual = residual[residual.detach().abs() < outlier + 4 * target.noise]
    weight = COLOUR_NOISE**2 / (target.noise**2 + LEAST_NOISE**2)
    return weight * (residual**2).sum() / target.frame


def normal(rendered: Tensor, normals: Tensor, target: Target) -> Tensor:
    """1 - cosine between normals where both are known; a pixel's normal has the noise of its neighbours' depth."""
    known = rendered & (target.depth > 0)
    cosine = (normals[known] * target.normal[known]).sum(dim=-1)
    cosine = cosine[cosine.detach() > 0.5]  # beyond 60 degrees the depth map's slope was across an edge
    weight = NORMAL * COLOUR_NOISE**2 / (target.noise**2 + LEAST_NOISE)
    return weight * (1 - cosine).sum() / target.frame


def squared_gradient(change: Tensor) -> Tensor:
    """Squared differences between neighbouring texels, summed over [S, S, 3]."""
    down, across = (change[1:], change[:-1]), (change[:, 1:], change[:, :-1])
    return mse_loss(*down, reduction="sum") + mse_loss(*across, reduction="sum")


def laplacian(offsets: Tensor, edges: Tensor, edge_length: float) -> Tensor:
    """Mean squared uniform Laplacian of (n, 3) offsets, in edge lengths: penalizes bending, not translation of a region."""
    a, b = edges[:, 0].long(), edges[:, 1].long()
    degree = torch.zeros_like(offsets[:, :1]).index_add(0, a, torch.ones_like(offsets[a, :1]))
    degree = degree.index_add(0, b, torch.ones_like(offsets[b, :1]))
    around = torch.zeros_like(offsets).index_add(0, a, offsets[b]).index_add(0, b, offsets[a])
    return ((around / degree.clamp(min=1) - offsets) ** 2).sum() / (len(offsets) * edge_length**2)
