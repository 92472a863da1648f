"""Depth fusion: six depth maps and masks to one signed field on a voxel grid, and that to a closed surface.

The field at a point is the largest over the views of two distances, positive outside: how far outside the silhouette
the point lies, and how far in front of the surface that the pixel saw. Each view can only carve, so what no camera saw
stays solid and the surface is closed. (The idea is space carving, Kutulakos and Seitz 2000, with depth as in Curless and
Levoy 1996.) Distances are measured to the pixel's tangent plane, not along its ray; along the ray, oblique views
overestimate free space and the maximum shrinks everything.

What a view does not know it does not carve. Where its depth has holes these are bridged, as flat as what surrounds them allows,
and such a guess carves only where no view that sees has a surface.

Where depth is only roughly right the maximum would carve at every error. How far the views disagree about surfaces that they see
together is measured, and within a few times that they vote: their surface is the mean of what they see, each by how squarely it
looks. What lies further in front of a view's surface is free, whatever the others say. Exact depth disagrees by less than voxels
can show, and then nothing is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, maximum_filter

from steps.compute.kernels import cell, for_bands, kernel, parallel_map, within
from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.depth_ops import tangent_planes
from steps.geometry.image_ops import box_down
from steps.runtime.errors import ModelConvergenceFailed

Array = NDArray[Any]
TRUNCATION = 4.0  # voxels; further from the surface the field only has the right sign
STEEPEST = 6.0  # depth per width: pixels of a block that differ by more than such a slope see two surfaces
ROUGHNESS, FINE_ENOUGH = (
    3.0,
    1.5,
)  # standard deviations that views may be outvoted within; fewer voxels than that are exact
SAME_SURFACE = 0.02  # of the diagonal: what two views see further apart are two surfaces
SQUARELY = 0.35  # least cosine between a surface and the sight of it, for views to be compared there
TURNED = 0.1  # by how much squared cosines may contradict each other
BESIDE = 0.03  # of a picture's longest side: views that do not quite meet have outlines so far apart
WITNESSES = 3000  # points of each view that they are compared at
REACH = 6.0  # voxels in front of a pixel's surface over which its tangent plane is believed


@dataclass(frozen=True)
class DepthView:
    """camera: of the depth map; depth: [H, W] float32; coverage: [H, W] float32 in [0, 1], the share of
    the pixel inside; step: [H, W] float32, the size of one stored depth level; guessed: [H, W] bool, where depth was not seen but
    bridged, None for nowhere."""

    camera: Camera
    depth: Array
    coverage: Array
    step: Array
    guessed: Array | None = None

    @property
    def shows_something(self) -> bool:
        """False where the object is so thin that it falls between the pixels: such a view says nothing."""
        return bool((self.depth > 0).any() and (self.coverage >= 0.5).any())

    @property
    def seen(self) -> Array:
        """The depth without what was guessed, [H, W]."""
        return self.depth if self.guessed is None else np.where(self.guessed, np.float32(0), self.depth)


@dataclass(frozen=True)
class Grid:
    """origin: (3,) world position of voxel centre (0, 0, 0); voxel: edge length; shape: voxels per axis (x, y, z)."""

    origin: Array
    voxel: float
    shape: tuple[int, int, int]


def grid_around(views: list[DepthView], cells: int) -> Grid:
    """A grid whose longest side has `cells` voxels around everything that the depth maps saw, but for what lies clearly beside
    another view's outline. Raises ModelConvergenceFailed where that has no extent."""
    points = np.concatenate([unproject(view.depth, view.camera)[::7] for view in views])
    inside = inside_outlines(points, views)
    points = points[inside] if inside.any() else points
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(3), np.zeros(3))
    voxel = float((high - low).max() / (cells - 8))
    if not 0 < voxel < np.inf:
        raise ModelConvergenceFailed(
            "The depth renders show no extent: all that they have lies in one point, or nowhere."
        )
    shape = np.ceil((high - low) / voxel).astype(int) + 8
    return Grid((low + high) / 2 - (shape - 1) / 2 * voxel, voxel, (int(shape[0]), int(shape[1]), int(shape[2])))


def inside_outlines(points: Array, views: list[DepthView]) -> Array:
    """Which points (n, 3) no view has beside its outline by more than BESIDE."""
    inside = np.ones(len(points), bool)
    for view in views:
        height, width = view.coverage.shape
        wide = maximum_filter(view.coverage, 2 * int(np.ceil(BESIDE * max(height, width))) + 1)
        pixels, z = project(points, view.camera)
        shown = (z > 0) & (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        column, row = pixels[shown].astype(int).T
        inside[shown] &= wide[row, column] > 0
        if not (wide[[0, -1]].any() or wide[:, [0, -1]].any()):  # all of the object is in the picture
            inside &= shown | (z <= 0)
    return inside


def thinned(view: DepthView, side: int) -> DepthView:
    """The view with its longest side at about `side` pixels: coverage averaged over blocks, depth too where a block sees one
    surface, else the block's first pixel that sees anything. A whole factor that divides both sides, or nothing changes."""
    height, width = view.depth.shape
    factor = next(f for f in range(max(1, max(width, height) // side), 0, -1) if width % f == height % f == 0)
    if factor == 1:
        return view
    depth, step = _blocks(view.depth, factor), _blocks(view.step, factor)
    seen = depth > 0
    spread = np.where(seen, depth, -np.inf).max(axis=2) - np.where(seen, depth, np.inf).min(axis=2)
    one_surface = spread < STEEPEST * factor * depth.max() / view.camera.fx
    first = np.take_along_axis(depth, seen.argmax(axis=2)[..., None], axis=2)[..., 0]
    mean = depth.sum(axis=2) / np.maximum(seen.sum(axis=2), 1)
    small = np.where(one_surface, mean, first).astype(np.float32)
    camera = view.camera.resized(width // factor, height // factor)
    return DepthView(camera, small, box_down(view.coverage, factor).astype(np.float32), step.max(axis=2))


def _blocks(image: Array, factor: int) -> Array:
    """[H, W] to [h, w, factor * factor]."""
    h, w = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(h, factor, w, factor).swapaxes(1, 2).reshape(h, w, factor * factor)


def silhouette_distance(coverage: Array) -> Array:
    """Signed distance to the outline in pixels [H, W] float32, positive outside. Exact below the pixel for upright edges:
    a pixel that is covered in part says how far from its centre the outline runs, and the others ask the nearest such one."""
    inside = coverage >= 0.5
    partial = (coverage > 0) & (coverage < 1)
    seeds = partial | _meets(inside & ~partial, ~inside & ~partial)
    if not seeds.any():
        return np.where(inside, -1.0, 1.0).astype(np.float32) * max(coverage.shape)
    distance, nearest = distance_transform_edt(~seeds, return_indices=True)
    offset = 0.5 - coverage[tuple(nearest)]
    return np.asarray(np.where(inside, -distance, distance) + offset, np.float32)


def _meets(full: Array, empty: Array) -> Array:
    """Pixels of one kind that lie directly beside one of the other."""
    found = np.zeros(full.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        hard = (full[a] & empty[b]) | (empty[a] & full[b])
        found[a] |= hard
        found[b] |= hard
    return found


def signed_field(views: list[DepthView], grid: Grid, slack: float | None = None) -> Array:
    """The carved field in voxels [nx, ny, nz] float32 at the voxel centres, negative inside, clipped to TRUNCATION. slack: see
    `patience`, which measures it where none is given."""
    slack = patience(views, grid.voxel) if slack is None else slack
    projections = np.stack([view.camera.projection for view in views])
    focals = np.array([(view.camera.fx + view.camera.fy) / 2 for view in views])
    outlines = tuple(parallel_map(lambda view: silhouette_distance(view.coverage), views))
    planes = tuple(parallel_map(lambda view: tangent_planes(view.depth, view.camera), views))
    depths = tuple(np.ascontiguousarray(view.depth, np.float32) for view in views)
    halves = tuple(np.ascontiguousarray(view.step / 2, np.float32) for view in views)
    guesses = tuple(np.zeros(v.depth.shape, bool) if v.guessed is None else v.guessed for v in views)
    field = np.empty(grid.shape, np.float32)
    for_bands(
        lambda a, b: _carve(
            projections,
            focals,
            outlines,
            depths,
            planes,
            halves,
            guesses,
            grid.origin,
            grid.voxel,
            slack,
            np.empty((5, len(views))),
            field,
            a,
            b,
        ),
        grid.shape[0],
    )
    for axis in range(3):  # what reaches beyond the grid ends at its border
        layers = np.moveaxis(field, axis, 0)
        layers[0], layers[-1] = np.maximum(layers[0], 0.5), np.maximum(layers[-1], 0.5)
    return field


def patience(views: list[DepthView], voxel: float) -> float:
    """Voxels in front of a view's surface up to which others may outvote it; 0 where the views agree."""
    rough = ROUGHNESS * disagreement(views) / voxel
    return rough if rough > FINE_ENOUGH else 0.0


def disagreement(views: list[DepthView]) -> float:
    """How far apart two views have the same surface, in scene units: the standard deviation that the median distance across the
    surface stands for. 0 where they see none together."""
    cameras = [view.camera for view in views]
    clouds = [unproject(view.seen, camera) for view, camera in zip(views, cameras, strict=True)]
    if not any(map(len, clouds)):
        return 0.0
    far = SAME_SURFACE * float(np.linalg.norm(np.ptp(np.concatenate(clouds), axis=0)))
    planes = parallel_map(lambda view: tangent_planes(view.depth, view.camera), views)
    found = []
    for i, (cloud, own) in enumerate(zip(clouds, planes, strict=True)):
        cosine = own[views[i].seen > 0][:, 2]
        step = max(1, int((cosine > SQUARELY).sum()) // WITNESSES)
        points, cosines = cloud[cosine > SQUARELY][::step], cosine[cosine > SQUARELY][::step]
        found += [
            _gaps(points, cosines, views[i].camera, view, plane, far)
            for j, (view, plane) in enumerate(zip(views, planes, strict=True))
            if j != i and len(points)
        ]
    gaps = np.concatenate(found) if found else np.empty(0)
    return float(1.4826 * np.median(np.abs(gaps))) if len(gaps) >= WITNESSES // 10 else 0.0


def _gaps(points: Array, cosines: Array, seen_by: Camera, view: DepthView, planes: Array, far: float) -> Array:
    """Signed distances across the surface of the points (n, 3), which `seen_by` sees at those cosines, as far as the view may see
    the same surface: squarely, at most `far` away, and at a cosine that one normal can have together with the first."""
    pixels, z = project(points, view.camera)
    column, row = np.floor(pixels[:, 0]).astype(int), np.floor(pixels[:, 1]).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < view.depth.shape[1]) & (row < view.depth.shape[0]) & (z > 0)
    points, cosines, pixels, z, column, row = (v[inside] for v in (points, cosines, pixels, z, column, row))
    depth, plane = view.depth[row, column], planes[row, column]
    across = depth + plane[:, 0] * (pixels[:, 0] - column - 0.5) + plane[:, 1] * (pixels[:, 1] - row - 0.5) - z
    gap, cosine = across * plane[:, 2], plane[:, 2]
    here, there = (_directions(points, camera) for camera in (seen_by, view.camera))
    between = (here * there).sum(axis=1)
    one_normal = cosines**2 + cosine**2 - 2 * cosines * cosine * between < 1 - between**2 + TURNED
    return np.asarray(gap[(depth > 0) & (cosine > SQUARELY) & (np.abs(gap) < far) & one_normal])


def _directions(points: Array, camera: Camera) -> Array:
    """Unit vectors (n, 3) from the points to the camera."""
    way = camera.position - points
    return np.asarray(way / np.linalg.norm(way, axis=1, keepdims=True))


@kernel
def _free_space(depth, plane, half, hull, voxel, x, y, z):  # type: ignore[no-untyped-def]
    """Distance in voxels of a point in front of the surface seen at pixel coordinates (x, y), negative behind; nan where no
    depth is. A stored depth is only known to `half` a level: close to the hull, whose outline is sharper, the hull decides
    within that slack. Far in front, a steep pixel's plane says nothing any more and the gap along the axis counts."""
    height, width = depth.shape
    if not within(x, y, width, height):
        return np.nan
    c, r = int(x), int(y)
    if depth[r, c] <= 0:
        return np.nan
    gap = (depth[r, c] + plane[r, c, 0] * (x - c - 0.5) + plane[r, c, 1] * (y - r - 0.5) - z) / voxel
    slack = half[r, c] / voxel
    near_hull = min(max(2.0 + hull / (4 * slack + 1e-9), 0.0), 1.0)
    return max((gap - near_hull * slack) * plane[r, c, 2], gap - slack - REACH)


@kernel
def _bilinear(image, x, y):  # type: ignore[no-untyped-def]
    """`image` [H, W] at pixel coordinates (x, y), clamped at the border."""
    height, width = image.shape
    c, c1, u = cell(x - 0.5, width)
    r, r1, v = cell(y - 0.5, height)
    above = image[r, c] * (1 - u) + image[r, c1] * u
    return above * (1 - v) + (image[r1, c] * (1 - u) + image[r1, c1] * u) * v


@kernel
def _squareness(plane, x, y):  # type: ignore[no-untyped-def]
    """The weight of a view at pixel coordinates (x, y): the square of the cosine at which it sees the surface there."""
    return plane[int(y), int(x), 2] ** 2 if within(x, y, plane.shape[1], plane.shape[0]) else 0.0


@kernel
def _outvoted(fronts, weights, slack):  # type: ignore[no-untyped-def]
    """What views say together of a point that is so far in front of their surfaces, nan where they see none: the mean of those
    whose surface it may be; but what is clearly before any surface is free."""
    total, weight, most = 0.0, 0.0, -np.inf
    for v in range(len(fronts)):
        if fronts[v] == fronts[v]:
            most = max(most, fronts[v])
            if abs(fronts[v]) <= slack:
                total += weights[v] * fronts[v]
                weight += weights[v]
    return most if most > slack or weight == 0.0 else total / weight


@kernel
def _carve(  # type: ignore[no-untyped-def]
    projections, focals, outlines, depths, planes, halves, guesses, origin, voxel, slack, seen, field, start, stop
):
    views = len(projections)
    x, y, z, fronts, weights = seen[0], seen[1], seen[2], seen[3], seen[4]
    for i in range(start, stop):
        px = origin[0] + i * voxel
        for j in range(field.shape[1]):
            py = origin[1] + j * voxel
            for k in range(field.shape[2]):
                pz = origin[2] + k * voxel
                hull = -TRUNCATION
                for v in range(views):
                    m = projections[v]
                    z[v] = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
                    if z[v] <= 0:
                        continue
                    x[v] = (m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]) / z[v]
                    y[v] = (m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]) / z[v]
                    hull = max(hull, _bilinear(outlines[v], x[v], y[v]) * z[v] / (focals[v] * voxel))
                    if hull >= TRUNCATION:
                        break
                value = hull
                if value < TRUNCATION:
                    guess = -np.inf
                    for v in range(views):
                        fronts[v] = np.nan
                        if z[v] > 0:
                            fronts[v] = _free_space(depths[v], planes[v], halves[v], hull, voxel, x[v], y[v], z[v])
                            weights[v] = _squareness(planes[v], x[v], y[v])
                            if fronts[v] == fronts[v] and guesses[v][int(y[v]), int(x[v])]:
                                guess = max(guess, fronts[v])
                                fronts[v] = np.nan
                    front = _outvoted(fronts, weights, slack)
                    if not front > -TRUNCATION:  # no view that sees has a surface just before this point
                        front = guess
                    if front > value:  # false for nan and for views that see nothing
                        value = front
                field[i, j, k] = min(value, TRUNCATION)
