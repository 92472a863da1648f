"""The first pass: optimizes a signed field on a tetrahedral lattice, started from fused depth; topology is free."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from steps.compute.arrays import Array
from steps.fusion.marching_tetrahedra import lattice, march
from steps.fusion.signed_field import Grid
from steps.geometry.cameras import project
from steps.nvdiffrec import losses
from steps.nvdiffrec.drawing import Surface, homogeneous, vertex_normals
from steps.nvdiffrec.targets import Target
from steps.raster import torch_ops
from steps.runtime.errors import ModelConvergenceFailed

FIELD_RATE, SHIFT_RATE, COLOUR_RATE = 0.05, 0.02, 0.03  # cells, cells, colour, per iteration at first
MAX_SHIFT = 0.45  # cells that a lattice point may be shifted
SIGN_WEIGHT = 0.02, 0.002  # weight of the field's regulariser, first and last
MASK_AND_COLOUR = 0.05  # weight of what losses.colour_robust sums, against depth
DEPTH_OUTLIER = 8.0  # pixels: the start may be this far off
LEAST_FACES = 20  # fewer triangles are no object


class FirstPass:
    """Optimizes the field, an iteration at a time, with a plain colour per lattice point."""

    def __init__(self, field: Array, grid: Grid, iterations: int, views: list[Target], device: str) -> None:
        self.shape, self.iterations, self.device = grid.shape, iterations, device
        points = lattice(grid.shape)
        self.origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
        self.voxel = grid.voxel
        self.points = torch.from_numpy(points).to(device)
        colours = colours_of_points(points * grid.voxel + grid.origin, 2.0 * grid.voxel, views)
        self.parameters = {
            "field": torch.from_numpy(np.ascontiguousarray(field.reshape(-1), np.float32)).to(device).clone(),
            "shift": torch.zeros((len(points), 3), device=device),
            "colour": torch.from_numpy(colours).to(device),
        }
        rates = {"field": FIELD_RATE, "shift": SHIFT_RATE, "colour": COLOUR_RATE}
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)
        groups = [{"params": [self.parameters[k]], "lr": rate, "rate": rate} for k, rate in rates.items()]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self._topology: tuple[Array, Tensor, Tensor, Tensor] | None = None

    def _faces(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edges that the surface crosses, its faces, and their topology; cached while no sign changes."""
        inside = self.parameters["field"].detach().cpu().numpy() < 0
        if self._topology is None or not np.array_equal(inside, self._topology[0]):
            ends, faces = march(inside, self.shape)
            if len(faces) < LEAST_FACES:
                raise ModelConvergenceFailed("The optimisation lost the object: its surface is empty.")
            tri = torch.from_numpy(faces).to(self.device)
            edges = torch_ops.antialias_construct_topology_hash(tri)
            self._topology = inside, torch.from_numpy(ends).to(self.device), tri, edges
        return self._topology[1:]

    def surface(self) -> tuple[Surface, Tensor, Tensor]:
        """The current zero level, its vertices' colours (n, 3), and the field at the ends (n, 2) of the edges it crosses."""
        ends, tri, edges = self._faces()
        values = self.parameters["field"][ends]
        fraction = _zero_fraction(values)
        lattice_points = self.points[ends] + MAX_SHIFT * torch.tanh(self.parameters["shift"][ends])
        positions = lattice_points[:, 0] * (1 - fraction) + lattice_points[:, 1] * fraction
        colours = self.parameters["colour"][ends]
        colours = colours[:, 0] * (1 - fraction) + colours[:, 1] * fraction
        surface = Surface(positions * self.voxel + self.origin, tri, edges, positions[:, :2], tri, ends[:, 0])
        return surface, colours, values

    def step(self, iteration: int, views: list[Target]) -> float:
        """One iteration over all views. Returns the loss."""
        progress = iteration / max(1, self.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * 0.1**progress
        self.optimizer.zero_grad(set_to_none=True)
        surface, colours, values = self.surface()
        # the views' gradients are gathered at the vertices, and go back through the lattice once
        vertices = surface.positions.detach().requires_grad_(True)
        paint = colours.detach().requires_grad_(True)
        total = 0.0
        for view in views:
            loss = _loss(surface.at(vertices), paint, view) / len(views)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        weight = SIGN_WEIGHT[0] ** (1 - progress) * SIGN_WEIGHT[1] ** progress
        regular = weight * sign_entropy(values)
        torch.autograd.backward([surface.positions, colours, regular], [vertices.grad, paint.grad, None])
        self.optimizer.step()
        if not bool(torch.isfinite(self.parameters["field"]).all()):
            raise ModelConvergenceFailed("The optimisation diverged: the field came to values that are not numbers.")
        return total

    def mesh(self) -> tuple[Array, Array, Array]:
        """The current surface: vertices (n, 3) float64; the same without the lattice points' shifts, where each face lies in a
        tetrahedron of its own and none can intersect; and faces (m, 3) int32."""
        surface, _, values = self.surface()
        ends, *_ = self._faces()
        fraction = _zero_fraction(values)
        unshifted = self.points[ends[:, 0]] * (1 - fraction) + self.points[ends[:, 1]] * fraction
        vertex_sets = (surface.positions, unshifted * self.voxel + self.origin)
        return *(p.detach().cpu().numpy().astype(np.float64) for p in vertex_sets), surface.tri.cpu().numpy()  # type: ignore[return-value]


def _zero_fraction(values: Tensor) -> Tensor:
    """Position of the zero along each edge (n, 2), (n, 1)."""
    return (values[:, :1] / (values[:, :1] - values[:, 1:])).clamp(0.001, 0.999)


def sign_entropy(values: Tensor) -> Tensor:
    """Regularizer of the field at both ends of crossed edges, (n, 2), against floaters: binary cross entropy of each with the
    other's sign (Munkberg et al., "Extracting triangular 3D models, materials, and lighting from images", 2022)."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    a, b = values[:, 0], values[:, 1]
    return cross_entropy(a, (b > 0).float()) + cross_entropy(b, (a > 0).float())


def _loss(surface: Surface, colours: Tensor, view: Target) -> Tensor:
    size = view.camera.height, view.camera.width
    points = homogeneous(surface.positions)
    pos = points @ view.clip.T
    rast, _ = torch_ops.rasterize(pos, surface.tri, size, with_db=False)
    rendered = rast[..., 3:] > 0
    normals = vertex_normals(surface.positions, surface.tri)
    attributes = torch.cat([colours, (points @ view.depth_row)[:, None], normals], dim=1)
    attributes_seen, _ = torch_ops.interpolate(attributes, rast, surface.tri)
    rgba = torch.cat([attributes_seen[..., :3], rendered.float()], dim=-1) * rendered
    rgba = torch_ops.antialias(rgba, rast, pos, surface.tri, surface.edges)[0]
    normal = torch.nn.functional.normalize(attributes_seen[0, ..., 4:], dim=-1)
    shape = losses.depth(rendered[0, ..., 0], attributes_seen[0, ..., 3], view, DEPTH_OUTLIER)
    return (
        MASK_AND_COLOUR * losses.colour_robust(rgba, view)
        + 50 * shape
        + losses.normal(rendered[0, ..., 0], normal, view)
    )


def colours_of_points(points: Array, max_distance: float, views: list[Target]) -> Array:
    """Colours (n, 3) float32 of points (n, 3): mean of the views with a surface within max_distance of them, grey without any."""
    total, count = np.full((len(points), 3), 0.5e-3), np.full((len(points), 1), 1e-3)
    for view in views:
        pixel, depth = project(points, view.camera)
        column = np.clip(pixel[:, 0].astype(int), 0, view.camera.width - 1)
        row = np.clip(pixel[:, 1].astype(int), 0, view.camera.height - 1)
        rgba = view.rgba.cpu().numpy()[row, column]
        near = np.abs(view.depth.cpu().numpy()[row, column] - depth) < max_distance
        weight = (near * rgba[:, 3])[:, None]
        total += rgba[:, :3] / np.maximum(rgba[:, 3:], 1e-3) * weight
        count += weight
    return (total / count).astype(np.float32)
