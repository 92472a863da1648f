"""Parts of the object thinner than voxels: the pixels that show them, and a shell around their depth points.

A field on a grid loses what is thinner than about two voxels, since no voxel centre lies inside. The depth renders still
give its surface, and a union of balls of one voxel radius around points on that replaces it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, map_coordinates

from steps.compute.arrays import Array
from steps.compute.device import to_device, to_host
from steps.compute.kernels import kernel
from steps.fusion.signed_field import TRUNCATION, DepthView, Grid, inside_silhouettes, silhouette_sdf
from steps.geometry.cameras import project, unproject
from steps.geometry.depth_ops import tangent_planes
from steps.raster.rasterize import rasterize

THIN = 3.0  # voxels: thinner parts may be torn or missing
RADIUS = 1.0  # voxels: of a shell; less might slip between the centres of voxels
SPACING = 0.5  # voxels between its points
MAX_SAMPLES = 6  # points to a pixel's side
OPPOSITE = -0.5  # cosine between two views' axes, below which they see opposite sides of a sheet


def missing_pixels(
    vertices: Array, faces: Array, voxel: float, view: DepthView, views: list[DepthView], device: str = "cpu"
) -> tuple[Array, Array]:
    """Pixels [H, W] bool of thin parts that the mesh does not have: narrow in the picture, or with another view's surface close
    behind; and the subset of these that is more than a rim beside the mesh. faces may be empty; device: draws the mesh."""
    inside = view.coverage >= 0.5
    rendered = np.zeros(inside.shape, bool)
    if len(faces):
        mesh = to_device(vertices, device), to_device(faces, device)
        rendered = to_host(rasterize(*mesh, view.camera).face >= 0)
    missing = inside & ~rendered
    if not missing.any():
        return missing, missing
    missing &= narrow(view, voxel) | _is_thin_sheet(view, missing, voxel, views)
    away_from_mesh = missing & ~binary_dilation(rendered, np.ones((3, 3)))
    return missing, binary_dilation(away_from_mesh, np.ones((3, 3)), mask=missing, iterations=2)


def narrow(view: DepthView, voxel: float) -> Array:
    """[H, W] bool: pixels of parts less than THIN voxels wide, by morphological opening."""
    known = view.depth[view.depth > 0]
    pixels = THIN * voxel * view.camera.fx / float(np.median(known)) if len(known) else 1.0
    inside = view.coverage >= 0.5
    return np.asarray(inside & ~binary_opening(inside, np.ones((2 * int(np.ceil(pixels / 2)) + 1,) * 2)))


def _is_thin_sheet(view: DepthView, where: Array, voxel: float, views: list[DepthView]) -> Array:
    """[H, W] bool: pixels of `where` whose opposite side another view sees less than THIN voxels behind."""
    depth = np.where(where, view.depth, 0)
    points, thin = unproject(depth, view.camera), np.zeros(int((depth > 0).sum()), bool)
    for other in views:
        if (view.camera.camera_to_world[:3, 2] @ other.camera.camera_to_world[:3, 2]) > OPPOSITE:
            continue
        pixels, z = project(points, other.camera)
        height, width = other.depth.shape
        at = np.flatnonzero((z > 0) & (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height))
        column, row = pixels[at].astype(int).T
        back = other.depth[row, column]
        thin[at] |= (back > 0) & (np.abs(back - z[at]) < THIN * voxel)
    flat = np.zeros(depth.shape, bool)
    flat[depth > 0] = thin
    return flat


def with_shells(field: Array, grid: Grid, views: list[DepthView], pixels: list[Array]) -> Array:
    """The field united with balls around the depth points of the given pixels of each view, [H, W] bool. Clipped by the other
    views' silhouettes, and for parts that are wide in the view by its own."""
    field = field.copy()
    for view, chosen in zip(views, pixels, strict=True):
        slim = narrow(view, grid.voxel)
        for part, is_wide in ((chosen & slim, False), (chosen & ~slim, True)):
            points = _points(view, part, grid.voxel)
            points = points[inside_silhouettes(points, views)]
            if len(points):
                shell = np.full(grid.shape, TRUNCATION, np.float32)
                _carve_balls(((points - grid.origin) / grid.voxel).astype(np.float32), RADIUS, shell)
                np.minimum(field, _within_outline(shell, grid, view) if is_wide else shell, out=field)
    for axis in range(3):  # close the surface at the grid's border
        layers = np.moveaxis(field, axis, 0)
        layers[0], layers[-1] = np.maximum(layers[0], 0.5), np.maximum(layers[-1], 0.5)
    return field


def _points(view: DepthView, chosen: Array, voxel: float) -> Array:
    """(n, 3): points on the tangent planes of these pixels, at most SPACING apart."""
    rows, columns = np.nonzero(chosen & (view.depth > 0))
    if not len(rows):
        return np.zeros((0, 3))
    z, camera = view.depth[rows, columns].astype(np.float64), view.camera
    side = int(np.clip(np.ceil(np.median(z) / camera.fx / (SPACING * voxel)), 1, MAX_SAMPLES))
    offsets = (np.arange(side) + 0.5) / side - 0.5
    dx, dy = tangent_planes(view.depth, camera)[rows, columns, :2].T.astype(np.float64)
    parts = []
    for v in offsets:
        for u in offsets:
            far = z + dx * u + dy * v
            x, y = (columns + 0.5 + u - camera.cx) / camera.fx, (rows + 0.5 + v - camera.cy) / camera.fy
            parts.append(np.stack([x * far, -y * far, -far], axis=1))
    pose = np.asarray(camera.camera_to_world)
    return np.asarray(np.concatenate(parts) @ pose[:3, :3].T + pose[:3, 3])


def _within_outline(shell: Array, grid: Grid, view: DepthView) -> Array:
    """The shell clipped by the view's silhouette."""
    near = np.nonzero(shell < TRUNCATION)
    pixels, z = project(np.stack(near, axis=1) * grid.voxel + grid.origin, view.camera)
    outline = silhouette_sdf(view.coverage)
    beside = map_coordinates(outline, pixels[:, ::-1].T - 0.5, order=1, mode="nearest") * z
    shell[near] = np.maximum(shell[near], beside / (view.camera.fx * grid.voxel))
    return shell


@kernel
def _carve_balls(points, radius, shell):  # type: ignore[no-untyped-def]
    """Lowers `shell` to the signed distance of balls of this radius around the points, in voxels."""
    reach = int(radius + 2.5)
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        if not (
            abs(x) < 1e6 and abs(y) < 1e6 and abs(z) < 1e6
        ):  # nor where they are no numbers: these have no whole part
            continue
        for i in range(max(int(x) - reach, 0), min(int(x) + reach + 2, shell.shape[0])):
            for j in range(max(int(y) - reach, 0), min(int(y) + reach + 2, shell.shape[1])):
                for k in range(max(int(z) - reach, 0), min(int(z) + reach + 2, shell.shape[2])):
                    distance = ((i - x) ** 2 + (j - y) ** 2 + (k - z) ** 2) ** 0.5 - radius
                    shell[i, j, k] = min(shell[i, j, k], distance)
