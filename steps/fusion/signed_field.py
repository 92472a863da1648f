"""Depth fusion: six depth maps and masks to one signed field on a voxel grid, and that to a closed surface.

The field at a point is the maximum over the views of two signed distances, positive outside: to the silhouette, and to the
surface in front of which the point lies. Each view only carves, so unseen space stays solid and the surface is closed (space
carving, Kutulakos and Seitz 2000, with depth as in Curless and Levoy 1996). Distances are to the pixel's tangent plane, not
along its ray: along the ray, oblique views overestimate free space and the maximum shrinks everything.

Unknown depth carves nothing. Holes in depth are inpainted by a membrane, and inpainted depth carves only where no view with
measured depth has a surface.

With noisy depth the maximum would carve at every error. So the standard deviation between overlapping views is measured, and
within a few times that the surface is the weighted mean of the views' distances, by the squared cosine of the viewing angle.
Further in front of a view's surface space is free, whatever the other views say. Exact depth disagrees by less than a voxel,
and then nothing is averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from steps.compute.arrays import Array
from steps.compute.device import ndimage_of, to_device, to_host
from steps.compute.kernels import blend, cell, inlined, kernel, parallel_map, project_point, within
from steps.compute.launch import MOST_ROWS, launch, map_on
from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.depth_ops import tangent_planes
from steps.geometry.image_ops import box_down
from steps.runtime.errors import ModelConvergenceFailed

SLAB = 1 << 26  # voxels that a GPU computes at a time: 256 MiB
TRUNCATION = 4.0  # voxels: the field is clipped there
MAX_SLOPE = 6.0  # depth per width, of one surface: pixels of a block that differ by more see two
# standard deviations in the half width of the consensus band; a band of fewer voxels than LEAST_BAND is none
CONSENSUS_SIGMAS, LEAST_BAND = 3.0, 1.5
SAME_SURFACE = 0.02  # of the diagonal: points of two views further apart are on two surfaces
LEAST_COSINE = 0.35  # least cosine between normal and viewing ray, for views to be compared there
COSINE_TOLERANCE = 0.1  # tolerance on squared cosines of one common normal
OUTLINE_MARGIN = 0.03  # of a picture's longest side: misregistration of silhouettes that is tolerated
N_SAMPLES = 3000  # of each view, that are compared with the others
PLANE_RANGE = 6.0  # voxels in front of a pixel's surface within which its tangent plane is valid


@dataclass(frozen=True)
class DepthView:
    """camera: of the depth map; depth: [H, W] float32, 0 where there is none; coverage: [H, W] float32 in [0, 1], the object's
    share of the pixel; step: [H, W] float32, size of one stored depth level; guessed: [H, W] bool, where depth is inpainted,
    None for nowhere."""

    camera: Camera
    depth: Array
    coverage: Array
    step: Array
    guessed: Array | None = None

    @property
    def shows_something(self) -> bool:
        """False where the object is so thin that it falls between the pixels."""
        return bool((self.depth > 0).any() and (self.coverage >= 0.5).any())

    @property
    def seen(self) -> Array:
        """Measured depth, without what was inpainted, [H, W]."""
        return self.depth if self.guessed is None else np.where(self.guessed, np.float32(0), self.depth)


@dataclass(frozen=True)
class Grid:
    """origin: (3,) world position of voxel centre (0, 0, 0); voxel: edge length; shape: voxels per axis (x, y, z)."""

    origin: Array
    voxel: float
    shape: tuple[int, int, int]


def grid_around(views: list[DepthView], cells: int) -> Grid:
    """Grid with `cells` voxels along its longest side, around all depth points inside the other views' silhouettes. Raises
    ModelConvergenceFailed where these have no extent."""
    points = np.concatenate([unproject(view.depth, view.camera)[::7] for view in views])
    inside = inside_silhouettes(points, views)
    points = points[inside] if inside.any() else points
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(3), np.zeros(3))
    voxel = float((high - low).max() / (cells - 8))
    if not 0 < voxel < np.inf:
        raise ModelConvergenceFailed(
            "The depth renders show no extent: all that they have lies in one point, or nowhere."
        )
    shape = np.ceil((high - low) / voxel).astype(int) + 8
    return Grid((low + high) / 2 - (shape - 1) / 2 * voxel, voxel, (int(shape[0]), int(shape[1]), int(shape[2])))


def inside_silhouettes(points: Array, views: list[DepthView]) -> Array:
    """(n,) bool: points (n, 3) that no view has outside its silhouette by more than OUTLINE_MARGIN."""
    inside = np.ones(len(points), bool)
    for view in views:
        height, width = view.coverage.shape
        wide = maximum_filter(view.coverage, 2 * int(np.ceil(OUTLINE_MARGIN * max(height, width))) + 1)
        pixels, z = project(points, view.camera)
        shown = (z > 0) & (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        column, row = pixels[shown].astype(int).T
        inside[shown] &= wide[row, column] > 0
        if not (wide[[0, -1]].any() or wide[:, [0, -1]].any()):  # the whole object is in the picture
            inside &= shown | (z <= 0)
    return inside


def downsample(view: DepthView, side: int) -> DepthView:
    """The view with its longest side at about `side` pixels: mean coverage of blocks; mean depth where a block sees one
    surface, else its first pixel with depth. By a whole factor that divides both sides; unchanged where there is none."""
    height, width = view.depth.shape
    factor = next(f for f in range(max(1, max(width, height) // side), 0, -1) if width % f == height % f == 0)
    if factor == 1:
        return view
    depth, step = _blocks(view.depth, factor), _blocks(view.step, factor)
    seen = depth > 0
    depth_range = np.where(seen, depth, -np.inf).max(axis=2) - np.where(seen, depth, np.inf).min(axis=2)
    one_surface = depth_range < MAX_SLOPE * factor * depth.max() / view.camera.fx
    first = np.take_along_axis(depth, seen.argmax(axis=2)[..., None], axis=2)[..., 0]
    mean = depth.sum(axis=2) / np.maximum(seen.sum(axis=2), 1)
    small = np.where(one_surface, mean, first).astype(np.float32)
    camera = view.camera.resized(width // factor, height // factor)
    return DepthView(camera, small, box_down(view.coverage, factor).astype(np.float32), step.max(axis=2))


def _blocks(image: Array, factor: int) -> Array:
    """[H, W] to [h, w, factor * factor]."""
    h, w = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(h, factor, w, factor).swapaxes(1, 2).reshape(h, w, factor * factor)


def silhouette_sdf(coverage: Array) -> Array:
    """Signed distance to the silhouette, pixels [H, W] float32, positive outside, on the array's device. Sub-pixel for
    axis-aligned edges: a pixel with partial coverage gives the distance of the outline from its centre, and the others take the
    nearest such pixel's."""
    inside = coverage >= 0.5
    partial = (coverage > 0) & (coverage < 1)
    seeds = partial | _boundary(inside & ~partial, ~inside & ~partial)
    if not seeds.any():
        return np.where(inside, -1.0, 1.0).astype(np.float32) * max(coverage.shape)
    distance, nearest = ndimage_of(coverage).distance_transform_edt(~seeds, return_indices=True)
    sdf: Array = np.where(inside, -distance, distance) + (0.5 - coverage[tuple(nearest)])
    return sdf.astype(np.float32)


def _boundary(full: Array, empty: Array) -> Array:
    """[H, W] bool: full pixels next to empty ones, and the reverse."""
    boundary = np.zeros_like(full)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        hard = (full[a] & empty[b]) | (empty[a] & full[b])
        boundary[a] |= hard
        boundary[b] |= hard
    return boundary


def signed_field(views: list[DepthView], grid: Grid, band: float | None = None, device: str = "cpu") -> Array:
    """Carved signed field at the voxel centres, voxels [nx, ny, nz] float32, negative inside, clipped to TRUNCATION. band: half
    width of the consensus band, None to measure it (`consensus_band`); device: computes it, a GPU in slabs of SLAB voxels."""
    band = consensus_band(views, grid.voxel) if band is None else band
    projections = np.stack([view.camera.projection for view in views])
    focals = np.array([(view.camera.fx + view.camera.fy) / 2 for view in views])
    maps = tuple(zip(*map_on(device, lambda view: _field_maps(view, device), views), strict=True))
    field = np.empty(grid.shape, np.float32)
    layers = grid.shape[0] if device == "cpu" else layers_of_slab(grid)
    for first in range(0, grid.shape[0], layers):
        slab = to_device(field[first : first + layers], device)
        place = grid.origin, grid.voxel, first
        launch(_carve, (slab.shape[0] * slab.shape[1], slab.shape[2]), projections, focals, maps, place, band, slab)
        if device != "cpu":
            field[first : first + layers] = to_host(slab)
    for axis in range(3):  # close the surface at the grid's border
        border = np.moveaxis(field, axis, 0)
        border[0], border[-1] = np.maximum(border[0], 0.5), np.maximum(border[-1], 0.5)
    return field


def layers_of_slab(grid: Grid) -> int:
    """Along x, of the part of the grid that a GPU computes at a time: within SLAB voxels and the rows of a launch."""
    _, ny, nz = grid.shape
    return max(1, min(SLAB // (ny * nz), MOST_ROWS // ny))


def _field_maps(view: DepthView, device: str) -> tuple[Array, ...]:
    """What `_carve` reads of a view: distances to its silhouette, depth, tangent planes, half levels, where depth is guessed."""
    guessed = np.zeros(view.depth.shape, bool) if view.guessed is None else view.guessed
    coverage, depth, half, guessed = (
        to_device(np.ascontiguousarray(array), device)
        for array in (view.coverage, np.asarray(view.depth, np.float32), np.asarray(view.step / 2, np.float32), guessed)
    )
    return silhouette_sdf(coverage), depth, tangent_planes(depth, view.camera), half, guessed


def consensus_band(views: list[DepthView], voxel: float) -> float:
    """Half width of the consensus band in voxels: 3 sigma of the depth disagreement, 0 if below 1.5."""
    band = CONSENSUS_SIGMAS * depth_sigma(views) / voxel
    return band if band > LEAST_BAND else 0.0


def depth_sigma(views: list[DepthView]) -> float:
    """Robust standard deviation (1.4826 MAD) of point-to-plane distances between overlapping views, scene units; 0 without
    overlap."""
    pointclouds = parallel_map(lambda view: unproject(view.seen, view.camera), views)
    if not any(map(len, pointclouds)):
        return 0.0
    max_distance = SAME_SURFACE * float(np.linalg.norm(np.ptp(np.concatenate(pointclouds), axis=0)))
    planes = parallel_map(lambda view: tangent_planes(view.depth, view.camera), views)

    def residuals_of(i: int) -> list[Array]:
        """Of samples of view i, to each other view."""
        cosine = planes[i][views[i].seen > 0][:, 2]
        step = max(1, int((cosine > LEAST_COSINE).sum()) // N_SAMPLES)
        points, cosines = pointclouds[i][cosine > LEAST_COSINE][::step], cosine[cosine > LEAST_COSINE][::step]
        return [
            _point_to_plane_residuals(points, cosines, views[i].camera, view, plane, max_distance)
            for j, (view, plane) in enumerate(zip(views, planes, strict=True))
            if j != i and len(points)
        ]

    residuals = [part for parts in parallel_map(residuals_of, range(len(views))) for part in parts]
    all_residuals = np.concatenate(residuals) if residuals else np.empty(0)
    return float(1.4826 * np.median(np.abs(all_residuals))) if len(all_residuals) >= N_SAMPLES // 10 else 0.0


def _point_to_plane_residuals(
    points: Array, cosines: Array, seen_by: Camera, view: DepthView, planes: Array, max_distance: float
) -> Array:
    """Signed point-to-plane distances of points (n, 3) to the view's surface, where both may see the same one: at least at
    LEAST_COSINE, within max_distance, and with a normal compatible with the cosine in `seen_by`."""
    pixels, z = project(points, view.camera)
    column, row = np.floor(pixels[:, 0]).astype(int), np.floor(pixels[:, 1]).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < view.depth.shape[1]) & (row < view.depth.shape[0]) & (z > 0)
    points, cosines, pixels, z, column, row = (v[inside] for v in (points, cosines, pixels, z, column, row))
    depth, plane = view.depth[row, column], planes[row, column]
    plane_depth_difference = (
        depth + plane[:, 0] * (pixels[:, 0] - column - 0.5) + plane[:, 1] * (pixels[:, 1] - row - 0.5) - z
    )
    residual, cosine = plane_depth_difference * plane[:, 2], plane[:, 2]
    to_first, to_second = (_viewing_directions(points, camera) for camera in (seen_by, view.camera))
    cosine_between = (to_first * to_second).sum(axis=1)
    compatible = (
        cosines**2 + cosine**2 - 2 * cosines * cosine * cosine_between < 1 - cosine_between**2 + COSINE_TOLERANCE
    )
    return np.asarray(residual[(depth > 0) & (cosine > LEAST_COSINE) & (np.abs(residual) < max_distance) & compatible])


def _viewing_directions(points: Array, camera: Camera) -> Array:
    """Unit vectors (n, 3) from the points to the camera."""
    way = camera.position - points
    return np.asarray(way / np.linalg.norm(way, axis=1, keepdims=True))


@kernel
def _free_space(depth, plane, half, silhouette_sdf, voxel, x, y, z):  # type: ignore[no-untyped-def]
    """Signed distance, voxels, of a point in front of the surface at pixel coordinates (x, y), negative behind; nan without
    depth.

    Depth is known to half a level: close to the silhouette, which is sharper, the silhouette decides within that. Beyond
    PLANE_RANGE the tangent plane of a steep pixel is not valid and the distance along the axis counts."""
    height, width = depth.shape
    if not within(x, y, width, height):
        return np.nan
    c, r = int(x), int(y)
    if depth[r, c] <= 0:
        return np.nan
    distance = (depth[r, c] + plane[r, c, 0] * (x - c - 0.5) + plane[r, c, 1] * (y - r - 0.5) - z) / voxel
    half_level = half[r, c] / voxel
    near_silhouette = min(max(2.0 + silhouette_sdf / (4 * half_level + 1e-9), 0.0), 1.0)
    return max((distance - near_silhouette * half_level) * plane[r, c, 2], distance - half_level - PLANE_RANGE)


@kernel
def _bilinear(image, x, y):  # type: ignore[no-untyped-def]
    """`image` [H, W] at pixel coordinates (x, y), clamped at the border."""
    height, width = image.shape
    c, c1, u = cell(x - 0.5, width)
    r, r1, v = cell(y - 0.5, height)
    return blend(image[r, c], image[r, c1], image[r1, c], image[r1, c1], u, v)


@kernel
def _view_weight(plane, x, y):  # type: ignore[no-untyped-def]
    """Squared cosine of the viewing angle at pixel coordinates (x, y), 0 outside the picture."""
    return plane[int(y), int(x), 2] ** 2 if within(x, y, plane.shape[1], plane.shape[0]) else 0.0


@kernel
def _carve(lines, layers, projections, focals, maps, place, band, field):  # type: ignore[no-untyped-def]
    """lines: over the voxels' x and y; layers: over their z; place: of the grid, and the first x of this slab of it."""
    outlines, depths, planes, halves, guesses = maps
    origin, voxel, first = place
    for line in range(lines[0], lines[1], lines[2]):
        i, j = line // field.shape[1], line % field.shape[1]
        px, py = origin[0] + (first + i) * voxel, origin[1] + j * voxel
        for k in range(layers[0], layers[1], layers[2]):
            pz = origin[2] + k * voxel
            value = _silhouette_distance(px, py, pz, projections, focals, outlines, voxel)
            if value < TRUNCATION:
                measured = depths, planes, halves, guesses
                distance = _surface_distance(px, py, pz, projections, measured, value, voxel, band)
                if distance > value:  # false for nan: no depth
                    value = distance
            field[i, j, k] = min(value, TRUNCATION)


@inlined
def _silhouette_distance(px, py, pz, projections, focals, outlines, voxel):  # type: ignore[no-untyped-def]
    """The largest signed distance to a view's silhouette, voxels; some value from TRUNCATION on where it is at least that."""
    farthest = -TRUNCATION
    for v in range(len(projections)):
        z, x, y = project_point((px, py, pz), projections[v])
        if z <= 0:
            continue
        farthest = max(farthest, _bilinear(outlines[v], x, y) * z / (focals[v] * voxel))
        if farthest >= TRUNCATION:
            break
    return farthest


@inlined
def _surface_distance(px, py, pz, projections, maps, silhouette_sdf, voxel, band):  # type: ignore[no-untyped-def]
    """Signed distance to the surface that the views have measured, voxels: the weighted mean of the views' distances within the
    band; their maximum where that lies beyond it. Of inpainted depth where no measured one has a surface just in front of the
    point; nan, or -inf, without any."""
    depths, planes, halves, guesses = maps
    total, weight, farthest, guess = 0.0, 0.0, -np.inf, -np.inf
    for v in range(len(projections)):
        z, x, y = project_point((px, py, pz), projections[v])
        if not z > 0:
            continue
        distance = _free_space(depths[v], planes[v], halves[v], silhouette_sdf, voxel, x, y, z)
        if math.isnan(distance):
            continue
        if guesses[v][int(y), int(x)]:
            guess = max(guess, distance)
            continue
        farthest = max(farthest, distance)
        if abs(distance) <= band:
            view_weight = _view_weight(planes[v], x, y)
            total += view_weight * distance
            weight += view_weight
    consensus = farthest if farthest > band or weight == 0.0 else total / weight
    return consensus if consensus > -TRUNCATION else guess
