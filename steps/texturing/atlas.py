"""UV atlas by xatlas (Jonathan Young, after Microsoft's UVAtlas)."""

from __future__ import annotations

import numpy as np
import xatlas

from steps.compute.arrays import Array
from steps.runtime.errors import ModelConvergenceFailed

PADDING = 4  # texels between charts
# xatlas' max_cost of growing a chart; its default of 2.0 takes up to four times as long for hardly fewer charts
CHART_COST = 0.3

# xatlas ignores edges and faces below fixed sizes. To be independent of the unit, meshes are unwrapped at a diagonal of UNIT to
# 2 UNIT, or where faces are tiny even so, FINER times larger. By powers of two, which round nothing.
UNIT, FINER = 1.75, 1024.0


def unwrap(vertices: Array, faces: Array, texture_size: int) -> tuple[Array, Array, Array]:
    """Cuts the surface into charts and packs them for a square texture.

    Returns index (k,) of the original vertex for each new one, faces (m, 3) int32 over the new ones, in the order of
    `faces`, and uv (k, 2) float32 in [0, 1]. Vertices on seams appear once per chart. Raises ModelConvergenceFailed where the
    mesh has no extent, or none that is a number."""
    usable = len(faces) > 0 and bool(np.isfinite(vertices).all())
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0))) if usable else 0.0
    if not 0 < diagonal < np.inf:
        raise ModelConvergenceFailed("The surface has no extent, so that no texture can be laid on it.")
    scale = 2.0 ** -np.floor(np.log2(diagonal / UNIT))
    unwrapped = _chart_and_pack(vertices * scale, faces, texture_size)
    if _n_unplaced(unwrapped[2]):
        unwrapped = min(
            unwrapped,
            _chart_and_pack(vertices * (scale * FINER), faces, texture_size),
            key=lambda atlas: _n_unplaced(atlas[2]),
        )
    if not np.isfinite(unwrapped[2]).all():
        raise ModelConvergenceFailed("The surface is torn into faces too small for a texture to be laid on it.")
    return unwrapped


def _n_unplaced(uv: Array) -> int:
    """Number of vertices without texture coordinates: at the corner or not finite."""
    return int((~np.isfinite(uv).all(axis=1) | (uv == 0).all(axis=1)).sum())


def _chart_and_pack(vertices: Array, faces: Array, texture_size: int) -> tuple[Array, Array, Array]:
    """`unwrap`, of a mesh at the scale that xatlas expects."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = texture_size, PADDING, True
    chart = xatlas.ChartOptions()
    chart.max_cost = CHART_COST
    atlas.generate(chart, pack)
    index, new_faces, uv = atlas[0]
    # xatlas may pack a little larger than asked for, and not square: scale both axes alike so that texels stay square
    uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
    return index.astype(np.int64), new_faces.astype(np.int32), uv.astype(np.float32)
