"""The second pass: with fixed topology, optimizes vertices, base colour, roughness, metalness, normal map and light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steps.compute.arrays import Array
from steps.geometry import pbr
from steps.geometry.crossings import resolve_crossings
from steps.geometry.depth_ops import LEAST_NOISE
from steps.geometry.pbr import Material, tangents_of
from steps.io.mesh_files import Mesh
from steps.nvdiffrec import losses
from steps.nvdiffrec.drawing import Appearance, Surface, render_geometry, render_rgba, vertex_normals
from steps.nvdiffrec.targets import Target
from steps.raster.torch_ops import antialias_construct_topology_hash
from steps.runtime.contract import VIEW_NAMES
from steps.runtime.errors import ModelConvergenceFailed

VERTEX_RATE = 0.008  # edge lengths per iteration, at first
COLOUR_RATE, LIGHT_RATE, MATERIAL_RATE, NORMAL_RATE = 0.01, 0.05, 0.05, 0.02
FINE_COLOUR = 0.01
FINE_DEPTH = 0.05  # pixels
FINE_NORMAL = 0.05  # radians
ROUGHNESS_EFFECT = 0.02  # approximate derivative of colour by roughness
PIXELS_PER_VERTEX = 5  # about, at the default sizes
PRIOR = 1e-3  # weight of plain white light and a matt surface: they change only for what colour alone cannot explain
# roughness and metalness have so many times fewer texels: six views say little about them, and that is blurred
MATERIAL_REDUCTION = 4
SHARE_MATERIAL = 0.25  # of the iterations, at the end, go to light and material
MAX_OFFSET = 0.25  # of the start's diagonal: a mesh that has grown by more is broken


@dataclass(frozen=True)
class Regularization:
    """stiffness: weight of the offsets' Laplacian, at the first and the last iteration; smoothness: weight of differences
    between neighbouring texels' changes, against a pixel's error of the same size."""

    stiffness: tuple[float, float]
    smoothness: float


WEAK = Regularization((0.12, 0.012), 0.0)
# slightly misregistered views overfit surface and texture: what that gains at the input views is lost between them
STRONG = Regularization((12.0, 1.2), 0.5)


@dataclass
class State:
    """All parameters. offsets: (n, 3) from the start's vertices; base, normal: [S, S, 3]; orm: [s, s, 3], coarser; specular:
    (); light: (9, 3)."""

    offsets: Tensor
    base: Tensor
    orm: Tensor
    normal: Tensor
    specular: Tensor
    light: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))


class SecondPass:
    """Optimizes a textured mesh, an iteration at a time."""

    def __init__(
        self, mesh: Mesh, iterations: int, views: list[Target], device: str, regularization: Regularization = WEAK
    ) -> None:
        self.regularization = regularization
        self.mesh, self.iterations, self.device = mesh, iterations, device
        self.frame, self.pixel = views[0].frame, float(views[0].pixel[views[0].depth > 0].mean())
        self.start = surface_of(mesh, device)
        self.tangents = _tensor(tangents_of(mesh.vertices, mesh.faces, mesh.uv, mesh.normals), device)
        self.edge_length = _edge_length(self.start)
        self.diagonal = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
        self.state = _initial(self.start, mesh, device)
        self.paint = self.state.base.clone()
        for tensor in self.state.tensors().values():
            tensor.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))

    def _groups(self) -> list[dict[str, Any]]:
        s = self.state
        rates = {
            "offsets": VERTEX_RATE * self.edge_length,
            "base": COLOUR_RATE,
            "orm": MATERIAL_RATE,
            "normal": NORMAL_RATE,
            "specular": MATERIAL_RATE,
            "light": LIGHT_RATE,
        }
        groups = [
            {"params": [getattr(s, name)], "lr": rate, "rate": rate, "name": name} for name, rate in rates.items()
        ]
        # Adam's first steps have the full rate whatever the gradient; below these eps they are proportional to it
        pixels = len(VIEW_NAMES) * self.frame
        depth_weight = losses.COLOUR_NOISE**2 / LEAST_NOISE**2
        groups[0]["eps"] = FINE_DEPTH * depth_weight * PIXELS_PER_VERTEX / (pixels * self.pixel)
        groups[1]["eps"] = FINE_COLOUR / (8 * pixels)
        groups[2]["eps"] = FINE_COLOUR * ROUGHNESS_EFFECT / (8 * pixels)
        groups[3]["eps"] = FINE_NORMAL * losses.NORMAL * losses.COLOUR_NOISE**2 / (LEAST_NOISE * 4 * pixels)
        return groups

    def lit_from(self) -> int:
        """The iteration from which light and material are optimized; until then they are plain."""
        return self.iterations - round(SHARE_MATERIAL * self.iterations)

    def surface(self) -> Surface:
        return self.start.at(self.start.positions + self.state.offsets)

    def step(self, iteration: int, views: list[Target], samples: int, batch: int) -> float:
        """One iteration over all views, `batch` of them in memory at a time. Returns the loss."""
        lit = iteration >= self.lit_from()
        self._set_rates(iteration, lit)
        self.optimizer.zero_grad(set_to_none=True)
        normal_map = unit(self.state.normal)
        shared_normal_map = normal_map.detach().requires_grad_(
            not lit
        )  # one for all views, whose gradients it gathers: a large map is dear
        total = 0.0
        for first in range(0, len(views), batch):
            part = views[first : first + batch]
            loss = sum(
                (self._loss(v, samples, lit, shared_normal_map) for v in part), torch.zeros((), device=self.device)
            )
            loss = loss / len(views)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if shared_normal_map.grad is not None:
            normal_map.backward(shared_normal_map.grad)  # type: ignore[no-untyped-call]
        total += self._regularise(iteration, lit)
        self.optimizer.step()
        self._constrain()
        return total

    def _set_rates(self, iteration: int, lit: bool) -> None:
        """Rates decay tenfold over each part. Light and material are optimized alone, so that they explain only what shape and
        colour cannot."""
        begin, end = (self.lit_from(), self.iterations) if lit else (0, self.lit_from())
        fall = 0.1 ** ((iteration - begin) / max(1, end - begin))
        moving = {"orm", "specular", "light"} if lit else {"offsets", "base", "normal"}
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * fall if group["name"] in moving else 0.0

    def _loss(self, view: Target, samples: int, lit: bool, normal: Tensor) -> Tensor:
        """normal: the normal map, of unit length."""
        s = self.state
        if lit:  # shape and colour are fixed by now
            surface = self.start.at(self.start.positions + s.offsets.detach())
            appearance = Appearance(s.base.detach(), s.orm, normal, self.tangents, s.specular, s.light)
            return losses.colour(render_rgba(surface, appearance, view, 1), view)
        surface, geometry_appearance = self.surface(), Appearance(s.base, normal=normal, tangents=self.tangents)
        rendered, depth, rendered_normal = render_geometry(surface, geometry_appearance, view)
        loss = losses.colour(render_rgba(surface, Appearance(s.base), view, samples), view)
        return loss + losses.depth(rendered, depth, view) + losses.normal(rendered, rendered_normal, view)

    def _regularise(self, iteration: int, lit: bool) -> float:
        s = self.state
        if lit:
            white = torch.from_numpy(pbr.WHITE).to(self.device)
            loss = PRIOR * (((s.light - white) ** 2).mean() + s.specular**2 + (s.orm[..., 2] ** 2).mean())
        else:
            loss = self._regularization_loss(iteration / max(1, self.lit_from()))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _regularization_loss(self, progress: float) -> Tensor:
        """progress: 0 to 1 over the iterations of shape and colour."""
        s, (first, last) = self.state, self.regularization.stiffness
        stiff = (
            first ** (1 - progress) * last**progress * losses.laplacian(s.offsets, self.start.edges, self.edge_length)
        )
        if not self.regularization.smoothness:
            return stiff
        smooth = losses.squared_gradient(s.base - self.paint) / (4 * len(VIEW_NAMES) * self.frame)
        return stiff + self.regularization.smoothness * smooth

    def _constrain(self) -> None:
        with torch.no_grad():
            self.state.base.clamp_(0, 1)
            self.state.orm[..., 0] = 1
            self.state.orm[..., 1].clamp_(0.05, 1)
            self.state.orm[..., 2].clamp_(0, 1)
            self.state.specular.clamp_(0, 1)

    def check(self) -> None:
        """Raises ModelConvergenceFailed where the optimization has diverged."""
        offsets = self.state.offsets.detach()
        if not all(bool(torch.isfinite(t).all()) for t in self.state.tensors().values()):
            raise ModelConvergenceFailed("The optimisation diverged: it came to values that are not numbers.")
        if float(offsets.norm(dim=1).max()) > MAX_OFFSET * self.diagonal:
            raise ModelConvergenceFailed("The optimisation diverged: vertices flew apart.")

    def result(self, lit: bool) -> Mesh:
        """The mesh as it stands, with its material; lit: whether light, roughness and metalness count or stay plain. Where its
        faces cross, vertices go back towards the start."""
        s = self.state
        wanted, start = (p.detach().cpu().numpy() for p in (self.surface().positions, self.start.positions))
        uncrossing, _ = resolve_crossings(wanted, self.start.tri.cpu().numpy(), start)
        positions = _tensor(uncrossing, self.device)
        normals = vertex_normals(positions, self.start.tri)[self.start.welded].cpu().numpy()
        vertices = positions[self.start.welded].cpu().numpy()
        plain = _initial(self.start, self.mesh, self.device)
        orm, specular, light = (s.orm, s.specular, s.light) if lit else (plain.orm, plain.specular * 0, plain.light)
        material = Material(
            _bytes(_resized(orm, len(s.base))),
            _bytes(unit(s.normal) / 2 + 0.5),
            tangents_of(vertices, self.mesh.faces, self.mesh.uv, normals),
            float(specular.detach()),
            light.detach().cpu().numpy().astype(np.float32),
        )
        return Mesh(vertices, self.mesh.faces, self.mesh.uv, normals.astype(np.float32), _bytes(s.base), material)


def unit(normal: Tensor) -> Tensor:
    return torch.nn.functional.normalize(normal, dim=-1)


def _bytes(image: Tensor) -> Array:
    """Image [..., C] rounded to 8 bits, as the PNG stores it, so that the scored texture is the written one."""
    return np.asarray(np.rint(image.detach().clamp(0, 1).cpu().numpy() * 255) / np.float32(255), np.float32)


def _resized(image: Tensor, size: int) -> Tensor:
    """Texture [s, s, C] resized, bilinear."""
    layers = image.detach().permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(layers, (size, size), mode="bilinear")[0].permute(1, 2, 0)


def _tensor(array: Array, device: str, kind: Any = np.float32) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, kind)).to(device)


def surface_of(mesh: Mesh, device: str) -> Surface:
    """The mesh with its seams welded."""
    positions, welded = np.unique(mesh.vertices, axis=0, return_inverse=True)
    welded = welded.reshape(-1)
    tri = _tensor(welded[mesh.faces], device, np.int32)
    flipped = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
    return Surface(
        _tensor(positions, device),
        tri,
        antialias_construct_topology_hash(tri),
        _tensor(flipped, device),
        _tensor(mesh.faces, device, np.int32),
        _tensor(welded, device, np.int64),
    )


def _edge_length(surface: Surface) -> float:
    ends = surface.positions[surface.edges[:, :2].long()]
    return float((ends[:, 0] - ends[:, 1]).norm(dim=1).mean())


def _initial(surface: Surface, mesh: Mesh, device: str) -> State:
    size = len(mesh.texture)
    flat = torch.tensor([0.0, 0.0, 1.0], device=device).repeat(size, size, 1)
    orm = torch.tensor([1.0, 0.9, 0.0], device=device).repeat(
        max(1, size // MATERIAL_REDUCTION), max(1, size // MATERIAL_REDUCTION), 1
    )
    return State(
        torch.zeros_like(surface.positions),
        _tensor(mesh.texture, device).clone(),
        orm,
        flat,
        torch.tensor(0.02, device=device),
        torch.from_numpy(pbr.WHITE).clone().to(device),
    )
