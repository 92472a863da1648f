"""Depth fusion to a closed mesh, UV atlas, texture from the six views: the engine `fusion` of reconviagen, and what nvdiffrec
starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt

from steps.compute.kernels import parallel_map
from steps.fusion import thin_parts
from steps.fusion.isosurface import extract, vertex_normals
from steps.fusion.signed_field import DepthView, Grid, grid_around, signed_field, thinned
from steps.geometry.depth_ops import bridged, depth_noise, dequantized
from steps.io.mesh_files import Mesh
from steps.io.scene import SceneView
from steps.runtime.errors import ModelConvergenceFailed
from steps.texturing.atlas import unwrap
from steps.texturing.bake import EXACT, ROUGH, Photo, bake

Array = NDArray[Any]
NOISY = 0.1  # voxels: depth noise finer than this is left to the mesh's smoothing
BAND = 3.0  # standard deviations of its noise, between the least and the largest value that a depth may really have
LOST, MUCH_LOST = 0.01, 0.03  # of the object's pixels: from so many lost on a finer grid is tried, and it is told
FINER = 1.2  # times as many voxels a side, at least, or it is not worth it
MOST_VOXELS = 40_000_000  # that a grid may take by itself
NOISE_PASSES = 2  # noise is of single pixels: more would flatten what is round
FINE = 0.05  # voxels: depth levels finer than this need no smoothing
LARGEST_TEXTURE = 2048  # by default; more on request
SAMPLES_PER_VOXEL = 4  # pixels of depth per voxel and axis: more cost memory and change nothing
PARTS = 4  # of the work, for the progress


@dataclass(frozen=True)
class Settings:
    """resolution: longest side in pixels of the views worked on, 0 for as given; grid: voxels along the longest side;
    faces: about how many triangles; texture_size: side of the texture in texels, 0 for what the views can fill; exact: whether
    the views are known to meet and to be lit alike."""

    resolution: int = 0
    grid: int = 256
    faces: int = 20000
    texture_size: int = 0
    exact: bool = True


def reconstruct(
    views: list[SceneView], settings: Settings, done: Callable[[int], None] = lambda part: None
) -> tuple[Mesh, dict[str, Any]]:
    """The textured mesh, and facts about it; among these under "notes" what a person should read. done(i) is called when part i
    of PARTS has been done."""
    field, grid = fused(views, settings)
    done(1)
    made, notes = with_thin_parts(field, grid, views, settings)
    done(2)
    mesh, facts, _ = textured(made.vertices, made.faces, views, settings, lambda: done(3))
    done(4)
    return mesh, {**facts, "grid": list(made.grid.shape), "voxel": made.grid.voxel, "notes": notes}


@dataclass(frozen=True)
class Surface:
    """vertices: (n, 3); faces: (m, 3), none where the field encloses nothing; lost: the share of the object's pixels, over all
    views, that show parts which are too thin for its voxels; whole: those of them, [H, W] bool for each view, that the surface
    does not even come near."""

    vertices: Array
    faces: Array
    field: Array
    grid: Grid
    lost: float
    whole: list[Array]


def with_thin_parts(field: Array, grid: Grid, views: list[SceneView], settings: Settings) -> tuple[Surface, list[str]]:
    """The surface of a field, and what is to be said about it. Where thin parts were lost that the views show, it is that of a
    finer grid, if this keeps more of them; and what is too thin for any gets a shell. Raises ModelConvergenceFailed."""
    sides = [depth_view(view, SAMPLES_PER_VOXEL * max(grid.shape)) for view in views]
    found, usual, notes = surface_of(field, grid, sides, settings.faces), settings.grid, list[str]()
    finer = int(usual * min(2.0, (MOST_VOXELS / float(np.prod(grid.shape))) ** (1 / 3)))
    if found.lost > LOST and finer >= FINER * usual:
        other = surface_of(*fused(views, replace(settings, grid=finer)), sides, settings.faces)
        if other.lost < found.lost or other.lost == found.lost > MUCH_LOST:
            found = other
            notes.append(f"Parts of the object are thinner than voxels of a grid of {usual}: it was made {finer}.")
    if found.lost > LOST and any(whole.any() for whole in found.whole):
        shelled = thin_parts.with_shells(found.field, found.grid, sides, found.whole)
        other = surface_of(shelled, found.grid, sides, settings.faces)
        if other.lost < found.lost:
            notes.append(_of_shells(found, other))
            found = other
    if found.lost > MUCH_LOST:
        notes.append(
            f"WARNING: {found.lost:.0%} of what the views show is thinner than about two voxels and was lost: "
            f"views that it fills more, of more pixels, or --grid {2 * max(found.grid.shape)} keep more."
        )
    _check(found)
    return found, notes


def _of_shells(before: Surface, after: Surface) -> str:
    thick = 2 * thin_parts.RADIUS / max(after.grid.shape)
    return (
        f"{before.lost - after.lost:.0%} of what the views show is thinner than voxels: it was made two voxels thick, "
        f"{thick:.1%} of the object's longest side."
    )


def surface_of(field: Array, grid: Grid, views: list[DepthView], faces: int) -> Surface:
    """The surface of a field, and what it lost of the views."""
    try:
        vertices, triangles = extract(field, grid, faces)
    except ModelConvergenceFailed:
        vertices, triangles = np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    lost = [thin_parts.lost(vertices, triangles, grid.voxel, view, views) for view in views]
    shown = sum(int((view.coverage >= 0.5).sum()) for view in views)
    share = sum(int(pixels.sum()) for pixels, _ in lost) / max(1, shown)
    return Surface(vertices, triangles, field, grid, share, [whole for _, whole in lost])


def textured(
    vertices: Array,
    faces: Array,
    views: list[SceneView],
    settings: Settings,
    unwrapped: Callable[[], None] = lambda: None,
    own: Callable[[Array], Array] | None = None,
) -> tuple[Mesh, dict[str, Any], Array]:
    """A mesh (n, 3), (m, 3) with an atlas and the views' colours on it, facts about those, and which texels they
    did not see, [S, S] bool. own: the mesh's own colours at points (n, 3), for what no view saw."""
    size = settings.texture_size or texture_size(views, settings.resolution)
    index, cut, uv = unwrap(vertices, faces, size)
    unwrapped()
    normals = vertex_normals(vertices, faces)[index]
    photos = [photo(view, settings.resolution) for view in views]
    telling = [p for p in photos if (p.coverage >= 0.5).any()]
    baked = bake(vertices[index], cut, uv, normals, telling, size, EXACT if settings.exact else ROUGH, own)
    facts = {
        "resolution": [photos[0].camera.width, photos[0].camera.height],
        "texture_size": size,
        "seen": round(baked.seen, 6),
    }
    mesh = Mesh(baked.vertices.astype(np.float32), cut, uv, normals.astype(np.float32), baked.texture)
    return mesh, facts, baked.unseen_at


def working_size(view: SceneView, side: int) -> tuple[int, int]:
    """Width and height of the view with its longest side at most `side` pixels, 0 for as it is."""
    width, height = view.camera.width, view.camera.height
    share = min(1.0, side / max(width, height)) if side else 1.0
    return max(1, round(width * share)), max(1, round(height * share))


def photo(view: SceneView, side: int) -> Photo:
    """The view as the bake wants it, averaged down to `side`."""
    width, height = working_size(view, side)
    colour, coverage = view.colour(), view.coverage()
    if (width, height) == (view.camera.width, view.camera.height):
        return Photo(view.camera, colour, coverage)
    share = _averaged(coverage[..., None], width, height)
    premultiplied = _averaged(colour * coverage[..., None], width, height)
    return Photo(view.camera.resized(width, height), premultiplied / np.maximum(share, 1e-3), share[..., 0])


def _averaged(image: Array, width: int, height: int) -> Array:
    """Every channel of [H, W, C] at another size."""
    layers = [Image.fromarray(np.ascontiguousarray(image[..., k])) for k in range(image.shape[2])]
    box = Image.Resampling.BOX
    return np.stack([np.asarray(layer.resize((width, height), box), np.float32) for layer in layers], axis=-1)


def fused(views: list[SceneView], settings: Settings) -> tuple[Array, Grid]:
    """The carved field on a grid around the object."""
    side = min(settings.resolution or SAMPLES_PER_VOXEL * settings.grid, SAMPLES_PER_VOXEL * settings.grid)
    raw = [view for view in parallel_map(lambda view: depth_view(view, side), views) if view.shows_something]
    if len(raw) < len(
        views
    ):  # views that show nothing end no surface, and at the rim a pixel's outline is all that the others say
        raw = [with_rim(view) for view in raw]
    grid = grid_around(raw, settings.grid)
    smooth = parallel_map(lambda view: smoothed(without_holes(view), grid.voxel), raw)
    return signed_field(smooth, grid), grid


def depth_view(view: SceneView, side: int) -> DepthView:
    """The view as fusion wants it: coverage at the depth map's size, both thinned out to about `side` pixels."""
    camera = view.depth_camera
    coverage = view.coverage()
    if coverage.shape != (camera.height, camera.width):
        size = camera.width, camera.height
        coverage = np.asarray(Image.fromarray(coverage).resize(size, Image.Resampling.BOX), np.float32)
    return thinned(DepthView(camera, view.depth(), coverage, view.step()), side)


def with_rim(view: DepthView) -> DepthView:
    """The view with the depth of their neighbours where pixels at the outline have none."""
    rim = (view.depth <= 0) & (view.coverage > 0)
    known = view.depth > 0
    _, nearest = distance_transform_edt(~known, return_indices=True)
    depth, step = (np.where(rim, layer[tuple(nearest)], layer) for layer in (view.depth, view.step))
    return replace(view, depth=depth, step=step)


def without_holes(view: DepthView) -> DepthView:
    """The view with its depth bridged where there is none inside the outline: what was guessed is marked. Not along the outline,
    where a pixel's middle may lie outside."""
    unknown = (view.depth <= 0) & (view.coverage >= 0.5)
    unknown &= binary_erosion(view.coverage > 0, np.ones((3, 3)), border_value=1)
    if not unknown.any():
        return view
    step = np.where(unknown, float(np.median(view.step[view.depth > 0])), view.step).astype(np.float32)
    return replace(view, depth=bridged(view.depth, unknown), step=step, guessed=unknown)


def smoothed(view: DepthView, voxel: float) -> DepthView:
    """The view with a staircase of coarse depth levels undone, and its noise: the smoothest depth within what either allows,
    where that is coarse against a voxel."""
    noise = depth_noise(view.depth, np.zeros_like(view.depth), np.ones_like(view.depth))
    known = view.step[view.depth > 0]
    if len(known) and noise > max(NOISY * voxel, float(np.median(known))):
        band = np.where(view.depth > 0, np.maximum(view.step, BAND * noise), 0).astype(np.float32)
        return replace(view, depth=dequantized(view.depth, band, NOISE_PASSES, 1.0))
    if float(np.median(known)) < FINE * voxel:
        return view
    return replace(view, depth=dequantized(view.depth, view.step))


def texture_size(views: list[SceneView], side: int) -> int:
    """The power of two at or above twice the views' longest side, so that resampling loses nothing; at most LARGEST_TEXTURE."""
    longest = max(max(working_size(view, side)) for view in views)
    return int(min(LARGEST_TEXTURE, 1 << int(np.ceil(np.log2(2 * longest)))))


def _check(found: Surface) -> None:
    if not len(found.faces):
        raise ModelConvergenceFailed("The fused depth encloses nothing: the views do not agree on any solid.")
    if len(found.faces) < 4 or not np.isfinite(found.vertices).all():
        raise ModelConvergenceFailed(
            f"The fused surface has only {len(found.faces)} faces: the views do not agree on any solid."
        )
