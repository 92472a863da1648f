"""The model's mesh registered to the scene, decimated, and textured from the views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.fusion.isosurface import decimate, quadric_decimation
from steps.fusion.reconstruct import Settings, texture_mesh
from steps.geometry.cameras import look_at
from steps.geometry.image_ops import iou
from steps.geometry.soundness import is_closed
from steps.io import png
from steps.io.mesh_files import Mesh
from steps.io.scene import Scene, SceneView
from steps.raster.rasterize import rasterize
from steps.raster.render import render
from steps.reconviagen.model import GeneratedMesh
from steps.registration import pointcloud
from steps.registration.refine import FULL_POINTS, Registration, register
from steps.runtime.errors import ModelConvergenceFailed

SIDE = 512  # pixels of the longest side of the views that are registered with
SEEN, GENERATED = (0.82, 0.84, 0.86), (0.93, 0.42, 0.13)
DIRECTIONS = ((0.6, 0.5, 0.75), (-0.75, 0.5, -0.6), (0.7, -0.6, -0.6), (-0.6, -0.6, 0.75))
TILE = 320


def register_mesh(generated: GeneratedMesh, views: list[SceneView]) -> Registration:
    """Registers the mesh to the views. Raises ModelConvergenceFailed, with the numbers, where it is not the object that they
    show."""
    cloud, face, weights = pointcloud.sample_mesh(generated.vertices, generated.faces, FULL_POINTS)
    coloured = replace(cloud, colours=(generated.colours[generated.faces[face]] * weights[..., None]).sum(axis=1))
    registration = register(coloured, [registration_view(view) for view in views])
    if not registration.fits:
        raise ModelConvergenceFailed(
            f"The model's mesh does not fit the views: {registration.precision:.0%} of it lies on what their depth shows, "
            f"and it covers {registration.recall:.0%} of that; half of it is more than {registration.residual:.1%} of the size "
            "away.",
            "The model may have taken the views for something else: another --seed gives another mesh, and --engine fusion "
            "builds from the depth alone.",
            **registration_values(registration),
        )
    return registration


def registration_view(view: SceneView) -> pointcloud.RegistrationView:
    """The view as the registration takes it: depth and colour of one size."""
    depth, colour, coverage = view.depth(), view.colour(), view.coverage()
    if colour.shape[:2] != depth.shape:
        size = depth.shape[::-1]
        layers = [
            Image.fromarray(np.ascontiguousarray(a)).resize(size, Image.Resampling.BOX)
            for a in (*np.moveaxis(colour, 2, 0), coverage)
        ]
        *channels, coverage = (np.asarray(layer, np.float32) for layer in layers)
        colour = np.stack(channels, axis=2)
    whole = pointcloud.RegistrationView(view.depth_camera, np.where(coverage > 0.5, depth, 0), colour)
    return whole.subsampled(max(1, max(depth.shape) // SIDE))


def registration_values(registration: Registration) -> dict[str, float]:
    return {
        "residual": round(registration.residual, 5),
        "explained": round(registration.precision, 4),
        "covered": round(registration.recall, 4),
        "colour": round(registration.colour, 4),
        "margin": round(registration.margin, 4),
    }


def metadata(registration: Registration, mesh: Mesh, loaded: Scene) -> dict[str, Any]:
    """For the report: how well the mesh fits, and the transform from the model's frame to the user's, by rows."""
    pose, frame = registration.pose, loaded.frame
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = frame.scale * pose.scale * pose.rotation, frame.points_out(pose.shift)
    overlaps = [silhouette_iou(mesh, view) for view in loaded.views]
    return {
        **registration_values(registration),
        "iou": round(float(np.mean(overlaps)), 4),
        "to_scene": [[frame.rounded(x) for x in r] for r in matrix],
    }


def silhouette_iou(mesh: Mesh, view: SceneView) -> float:
    """Intersection over union of the mesh's silhouette and the view's mask."""
    camera = view.camera.resized(max(1, view.camera.width * 256 // view.camera.height), 256)
    mask = np.asarray(Image.fromarray(view.coverage()).resize((camera.width, 256), Image.Resampling.BOX)) > 0.5
    own = rasterize(mesh.vertices.astype(np.float64), mesh.faces, camera).face >= 0
    return iou(own, mask)


def texture_registered(
    generated: GeneratedMesh, registration: Registration, views: list[SceneView], settings: Settings
) -> tuple[Mesh, dict[str, Any], Array]:
    """The registered mesh with a texture from the views, and the model's own colours where no view sees; metadata; and the
    unseen texels, [S, S] bool."""
    vertices, faces = registration.pose(generated.vertices), face_outwards(generated.vertices, generated.faces)
    v, f = decimate_to(vertices, faces, settings.faces)
    tree = cKDTree(vertices)

    def own_colours(points: Array) -> Array:
        """The model's colours at points (n, 3), from the three nearest vertices of what it made."""
        distance, nearest = tree.query(points, k=3, workers=-1)
        weight = 1 / np.maximum(distance, 1e-9)
        return np.asarray(
            (generated.colours[nearest] * (weight / weight.sum(axis=1, keepdims=True))[..., None]).sum(axis=1)
        )

    return texture_mesh(v.astype(np.float64), f, views, settings, own_colours=own_colours)


def decimate_to(vertices: Array, faces: Array, target: int) -> tuple[Array, Array]:
    """At most about `target` faces. Scaled so that the simplifier's absolute lengths are those of fusion; by halves, since one
    step leaves long thin faces on a dense mesh."""
    unit = float(np.ptp(vertices, axis=0).max()) / Settings().grid
    v, f = vertices / unit, faces
    simpler = decimate if is_closed(faces) else quadric_decimation
    while len(f) > target:
        before = len(f)
        v, f = simpler(v, f, max(target, before // 2))
        if len(f) > 0.9 * before:
            break
    return v * unit, f


def face_outwards(vertices: Array, faces: Array) -> Array:
    """The faces, all flipped where the enclosed volume is negative."""
    a, b, c = (vertices[faces[:, k]] - vertices.mean(axis=0) for k in range(3))
    return faces if (a * np.cross(b, c)).sum() >= 0 else np.ascontiguousarray(faces[:, ::-1])


def write_coverage(mesh: Mesh, unseen: Array, path: Path) -> None:
    """A picture of which parts of the mesh the views saw and which the model generated, from four directions between them."""
    painted = np.where(unseen[..., None], GENERATED, SEEN).astype(np.float32)
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    vertices = mesh.vertices - middle
    radius = float(np.linalg.norm(vertices, axis=1).max())
    centred = replace(mesh.geometry, vertices=vertices.astype(np.float32))
    tiles = []
    for direction in DIRECTIONS:
        back = np.array(direction) / np.linalg.norm(direction)
        camera = look_at("between", back * 3.2 * radius, np.array([0.0, 1.0, 0.0]), TILE, TILE * 1.45)
        rgba = render(centred, painted, camera, 3)
        tiles.append(rgba[..., :3] + 1 - rgba[..., 3:])
    png.write(path, png.to_bytes(np.hstack(tiles)))
