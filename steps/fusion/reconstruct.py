"""Depth fusion to a closed mesh, UV atlas, texture from the six views: reconviagen's engine `fusion`, and nvdiffrec's start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt

from steps.compute.arrays import Array
from steps.compute.device import to_device, to_host
from steps.compute.kernels import parallel_map
from steps.compute.launch import map_on
from steps.fusion import thin_parts
from steps.fusion.isosurface import extract, vertex_normals
from steps.fusion.signed_field import DepthView, Grid, downsample, grid_around, signed_field
from steps.geometry.depth_ops import depth_noise, dequantize, inpaint_depth
from steps.geometry.uv_mesh import UvMesh
from steps.io.mesh_files import Mesh
from steps.io.scene import SceneView
from steps.runtime.errors import ModelConvergenceFailed
from steps.texturing.atlas import unwrap
from steps.texturing.bake import EXACT, ROUGH, Photo, bake

LEAST_NOISE = 0.1  # voxels: less depth noise is left to the smoothing of the mesh
# standard deviations of noise: width of the interval in which a depth is denoised
BAND_SIGMAS = 3.0
# share of the object's pixels missing in the mesh from which a finer grid is tried, and from which there is a warning
FINER_GRID_LOSS, WARNING_LOSS = 0.01, 0.03
LEAST_REFINEMENT = 1.2  # least factor of a finer grid
MAX_VOXELS = 40_000_000  # of a grid that is refined without being asked
NOISE_PASSES = 2  # of denoising: noise is of single pixels, and more would flatten curvature
SMOOTH_LEVEL = 0.05  # voxels: depth levels finer than this need no smoothing
LARGEST_TEXTURE = 2048  # by default; more on request
SAMPLES_PER_VOXEL = 4  # pixels of depth per voxel and axis: more costs memory and changes nothing
PARTS = 4  # of the work, for the progress


@dataclass(frozen=True)
class Settings:
    """resolution: longest side in pixels of the views worked on, 0 for as given; grid: voxels along the longest side; faces:
    target number of triangles; texture_size: side in texels, 0 for what the views can fill; exact: whether views are known
    to be registered and lit alike; device: `cpu` or `cuda`."""

    resolution: int = 0
    grid: int = 256
    faces: int = 20000
    texture_size: int = 0
    exact: bool = True
    device: str = "cpu"


def reconstruct(
    views: list[SceneView], settings: Settings, on_part: Callable[[int], None] = lambda part: None
) -> tuple[Mesh, dict[str, Any]]:
    """The textured mesh, and metadata, with what a person should read under "notes". done(i) is called after part i of PARTS."""
    field, grid = fuse(views, settings)
    on_part(1)
    surface, notes = with_thin_parts(field, grid, views, settings)
    on_part(2)
    mesh, metadata, _ = texture_mesh(surface.vertices, surface.faces, views, settings, lambda: on_part(3))
    on_part(4)
    return mesh, {**metadata, "grid": list(surface.grid.shape), "voxel": surface.grid.voxel, "notes": notes}


@dataclass(frozen=True)
class Surface:
    """vertices: (n, 3); faces: (m, 3), none where the field encloses nothing; lost: share of the object's pixels, over all
    views, of parts too thin for the voxels; whole: the subset of these that is not at the mesh's rim, [H, W] bool for each
    view."""

    vertices: Array
    faces: Array
    field: Array
    grid: Grid
    lost: float
    whole: list[Array]


def with_thin_parts(field: Array, grid: Grid, views: list[SceneView], settings: Settings) -> tuple[Surface, list[str]]:
    """The surface of a field, and notes. Where thin parts are missing, from a finer grid if that keeps more of them; what is
    too thin for any grid gets a shell. Raises ModelConvergenceFailed."""
    sides = [depth_view(view, SAMPLES_PER_VOXEL * max(grid.shape)) for view in views]
    best, grid_size, notes = surface_of(field, grid, sides, settings), settings.grid, list[str]()
    finer_size = int(grid_size * min(2.0, (MAX_VOXELS / float(np.prod(grid.shape))) ** (1 / 3)))
    if best.lost > FINER_GRID_LOSS and finer_size >= LEAST_REFINEMENT * grid_size:
        other = surface_of(*fuse(views, replace(settings, grid=finer_size)), sides, settings)
        if other.lost < best.lost or other.lost == best.lost > WARNING_LOSS:
            best = other
            notes.append(
                f"Parts of the object are thinner than voxels of a grid of {grid_size}: it was made {finer_size}."
            )
    if best.lost > FINER_GRID_LOSS and any(whole.any() for whole in best.whole):
        shelled = thin_parts.with_shells(best.field, best.grid, sides, best.whole)
        other = surface_of(shelled, best.grid, sides, settings)
        if other.lost < best.lost:
            notes.append(_shell_note(best, other))
            best = other
    if best.lost > WARNING_LOSS:
        notes.append(
            f"WARNING: {best.lost:.0%} of what the views show is thinner than about two voxels and was lost: "
            f"views that it fills more, of more pixels, or --grid {2 * max(best.grid.shape)} keep more."
        )
    _check(best)
    return best, notes


def _shell_note(before: Surface, after: Surface) -> str:
    thick = 2 * thin_parts.RADIUS / max(after.grid.shape)
    return (
        f"{before.lost - after.lost:.0%} of what the views show is thinner than voxels: it was made two voxels thick, "
        f"{thick:.1%} of the object's longest side."
    )


def surface_of(field: Array, grid: Grid, views: list[DepthView], settings: Settings) -> Surface:
    """The surface of a field, and what it misses of the views."""
    try:
        vertices, triangles = extract(field, grid, settings.faces, settings.device)
    except ModelConvergenceFailed:
        vertices, triangles = np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    mesh, device = (vertices, triangles, grid.voxel), settings.device
    lost = [thin_parts.missing_pixels(*mesh, view, views, device) for view in views]
    n_object_pixels = sum(int((view.coverage >= 0.5).sum()) for view in views)
    lost_fraction = sum(int(pixels.sum()) for pixels, _ in lost) / max(1, n_object_pixels)
    return Surface(vertices, triangles, field, grid, lost_fraction, [whole for _, whole in lost])


def texture_mesh(
    vertices: Array,
    faces: Array,
    views: list[SceneView],
    settings: Settings,
    on_unwrapped: Callable[[], None] = lambda: None,
    own_colours: Callable[[Array], Array] | None = None,
) -> tuple[Mesh, dict[str, Any], Array]:
    """A mesh (n, 3), (m, 3) with a UV atlas and a texture baked from the views; metadata; and the texels no view saw, [S, S]
    bool. own_colours: the mesh's own colours at points (n, 3), for unseen texels."""
    size = settings.texture_size or texture_size(views, settings.resolution)
    index, cut, uv = unwrap(vertices, faces, size)
    on_unwrapped()
    normals = vertex_normals(vertices, faces)[index]
    photos = [photo(view, settings.resolution) for view in views]
    visible = [p for p in photos if (p.coverage >= 0.5).any()]
    blend = EXACT if settings.exact else ROUGH
    mesh_uv = UvMesh(vertices[index], cut, uv, normals)
    baked = bake(mesh_uv, visible, size, blend, own_colours, settings.device)
    metadata = {
        "resolution": [photos[0].camera.width, photos[0].camera.height],
        "texture_size": size,
        "seen": round(baked.seen, 6),
    }
    mesh = Mesh(baked.vertices.astype(np.float32), cut, uv, normals.astype(np.float32), baked.texture)
    return mesh, metadata, baked.unseen_at


def working_size(view: SceneView, side: int) -> tuple[int, int]:
    """Width and height of the view with its longest side at most `side` pixels, 0 for as it is."""
    width, height = view.camera.width, view.camera.height
    factor = min(1.0, side / max(width, height)) if side else 1.0
    return max(1, round(width * factor)), max(1, round(height * factor))


def photo(view: SceneView, side: int) -> Photo:
    """The view as `bake` takes it, box-filtered to `side`."""
    width, height = working_size(view, side)
    colour, coverage = view.colour(), view.coverage()
    if (width, height) == (view.camera.width, view.camera.height):
        return Photo(view.camera, colour, coverage)
    object_fraction = _resize(coverage[..., None], width, height)
    premultiplied = _resize(colour * coverage[..., None], width, height)
    return Photo(
        view.camera.resized(width, height), premultiplied / np.maximum(object_fraction, 1e-3), object_fraction[..., 0]
    )


def _resize(image: Array, width: int, height: int) -> Array:
    """Box-filters every channel of [H, W, C]."""
    layers = [Image.fromarray(np.ascontiguousarray(image[..., k])) for k in range(image.shape[2])]
    box = Image.Resampling.BOX
    return np.stack([np.asarray(layer.resize((width, height), box), np.float32) for layer in layers], axis=-1)


def fuse(views: list[SceneView], settings: Settings) -> tuple[Array, Grid]:
    """The carved field on a grid around the object."""
    side = min(settings.resolution or SAMPLES_PER_VOXEL * settings.grid, SAMPLES_PER_VOXEL * settings.grid)
    raw = [view for view in parallel_map(lambda view: depth_view(view, side), views) if view.shows_something]
    if len(raw) < len(
        views
    ):  # views that show nothing end no surface, and at the rim a pixel's outline is all that the others say
        raw = [extend_to_outline(view) for view in raw]
    grid = grid_around(raw, settings.grid)
    device = settings.device
    smooth = map_on(device, lambda view: denoise(fill_holes(view, device), grid.voxel, device), raw)
    return signed_field(smooth, grid, device=settings.device), grid


def depth_view(view: SceneView, side: int) -> DepthView:
    """The view as fusion takes it: coverage at the depth map's size, both downsampled to about `side` pixels."""
    camera = view.depth_camera
    coverage = view.coverage()
    if coverage.shape != (camera.height, camera.width):
        size = camera.width, camera.height
        coverage = np.asarray(Image.fromarray(coverage).resize(size, Image.Resampling.BOX), np.float32)
    return downsample(DepthView(camera, view.depth(), coverage, view.step()), side)


def extend_to_outline(view: DepthView) -> DepthView:
    """The view with nearest-neighbour depth at partially covered pixels without depth."""
    rim = (view.depth <= 0) & (view.coverage > 0)
    known = view.depth > 0
    _, nearest = distance_transform_edt(~known, return_indices=True)
    depth, step = (np.where(rim, layer[tuple(nearest)], layer) for layer in (view.depth, view.step))
    return replace(view, depth=depth, step=step)


def fill_holes(view: DepthView, device: str = "cpu") -> DepthView:
    """The view with depth inpainted inside the silhouette, and marked as guessed. Not along the outline, where a pixel's centre
    may lie outside. device: computes it."""
    unknown = (view.depth <= 0) & (view.coverage >= 0.5)
    unknown &= binary_erosion(view.coverage > 0, np.ones((3, 3)), border_value=1)
    if not unknown.any():
        return view
    step = np.where(unknown, float(np.median(view.step[view.depth > 0])), view.step).astype(np.float32)
    depth = to_host(inpaint_depth(to_device(view.depth, device), to_device(unknown, device)))
    return replace(view, depth=depth, step=step, guessed=unknown)


def denoise(view: DepthView, voxel: float, device: str = "cpu") -> DepthView:
    """The view with quantization and noise smoothed: the smoothest depth within the interval that either allows, where that is
    coarse against a voxel. device: computes it."""
    depth = to_device(view.depth, device)
    noise = depth_noise(view.depth, np.zeros_like(view.depth), np.ones_like(view.depth))
    known = view.step[view.depth > 0]
    if len(known) and noise > max(LEAST_NOISE * voxel, float(np.median(known))):
        band = np.where(view.depth > 0, np.maximum(view.step, BAND_SIGMAS * noise), 0).astype(np.float32)
        return replace(view, depth=to_host(dequantize(depth, to_device(band, device), NOISE_PASSES, 1.0)))
    if float(np.median(known)) < SMOOTH_LEVEL * voxel:
        return view
    return replace(view, depth=to_host(dequantize(depth, to_device(view.step, device))))


def texture_size(views: list[SceneView], side: int) -> int:
    """The power of two at or above twice the views' longest side, so that resampling loses nothing; at most LARGEST_TEXTURE."""
    longest = max(max(working_size(view, side)) for view in views)
    return int(min(LARGEST_TEXTURE, 1 << int(np.ceil(np.log2(2 * longest)))))


def _check(surface: Surface) -> None:
    if not len(surface.faces):
        raise ModelConvergenceFailed("The fused depth encloses nothing: the views do not agree on any solid.")
    if len(surface.faces) < 4 or not np.isfinite(surface.vertices).all():
        raise ModelConvergenceFailed(
            f"The fused surface has only {len(surface.faces)} faces: the views do not agree on any solid."
        )
