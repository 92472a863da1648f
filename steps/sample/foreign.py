"""Sample objects from mesh files of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.fusion.isosurface import vertex_normals
from steps.geometry.image_ops import sample_bilinear
from steps.runtime.errors import ValidationFailed
from steps.sample.objects import shaded
from steps.sample.render import GroundTruth, fit_to_radius, interpolate_vertices, unit

GREY = 0.7  # of what has neither texture nor colours


def read(path: Path) -> GroundTruth:
    """A mesh with y up in any format that trimesh knows, with its texture or the colours of its vertices."""
    import trimesh  # here, since objects with a name need it not

    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # a parser's failure on a damaged file may be anything
        raise _unusable(path, f"cannot be read: {error or type(error).__name__}") from None
    if not len(getattr(mesh, "faces", ())):
        raise _unusable(path, "holds no triangles")
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)
    normals = _normals(mesh, vertices, faces)
    colour = _colour(mesh, faces)

    def paint(face: Array, weights: Array) -> Array:
        return shaded(colour(face, weights), unit(interpolate_vertices(normals, faces, face, weights)))

    return GroundTruth(f"from {path.name}", fit_to_radius(vertices), faces, normals, paint)


def _unusable(path: Path, why: str) -> ValidationFailed:
    return ValidationFailed(f"{path.name} {why}.", "Give a textured mesh as GLB, OBJ or PLY.")


def _normals(mesh: Any, vertices: Array, faces: Array) -> Array:
    """Vertex normals (n, 3): the file's own, which keep sharp edges, where it has any."""
    own = np.asarray(mesh.vertex_normals) if "vertex_normals" in mesh._cache.cache else None
    return unit(own if own is not None and own.shape == vertices.shape else vertex_normals(vertices, faces))


def _colour(mesh: Any, faces: Array) -> Callable[[Array, Array], Array]:
    """Faces (k,) and weights (k, 3) to colours (k, 3) in [0, 1]."""
    image = _image(mesh.visual)
    uv = getattr(mesh.visual, "uv", None)
    if image is not None and uv is not None:
        return lambda face, weights: _looked_up(
            image, interpolate_vertices(np.asarray(uv, np.float64), faces, face, weights)
        )
    if mesh.visual.defined and mesh.visual.kind in ("vertex", "face"):
        own = np.asarray(mesh.visual.vertex_colors, np.float64)[:, :3] / 255
        return lambda face, weights: interpolate_vertices(own, faces, face, weights)
    return lambda face, weights: np.full((len(face), 3), GREY)


def _image(visual: Any) -> Array | None:
    """The texture of a trimesh visual, [H, W, 3] in [0, 1]; None without one."""
    material = getattr(visual, "material", None)
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    return None if picture is None else np.asarray(picture.convert("RGB"), np.float64) / 255


def _looked_up(image: Array, uv: Array) -> Array:
    """Bilinear texture samples at uv (..., 2), origin bottom left, repeated beyond [0, 1]."""
    height, width = image.shape[:2]
    return sample_bilinear(image, (uv[:, 0] % 1) * width, (1 - uv[:, 1] % 1) * height, repeated=True)
