"""A triangle mesh with texture coordinates: what is rendered and what is baked onto."""

from __future__ import annotations

from dataclasses import dataclass

from steps.compute.arrays import Array


@dataclass(frozen=True)
class UvMesh:
    """vertices: (n, 3); faces: (m, 3) int32; uv: (n, 2), origin bottom left; normals: (n, 3), unit."""

    vertices: Array
    faces: Array
    uv: Array
    normals: Array
