"""UV atlas by xatlas (Jonathan Young, after Microsoft's UVAtlas)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xatlas
from numpy.typing import NDArray

Array = NDArray[Any]
PADDING = 4  # texels between charts
GROWTH = (
    0.3  # how far a chart may bend as it grows; xatlas' own 2.0 takes up to four times as long for hardly fewer charts
)


def unwrap(vertices: Array, faces: Array, texture_size: int) -> tuple[Array, Array, Array]:
    """Cuts the surface into charts and packs them for a square texture.

    Returns index (k,) of the original vertex for each new one, faces (m, 3) int32 over the new ones, in the order of
    `faces`, and uv (k, 2) float32 in [0, 1]. Vertices on seams appear once per chart."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = texture_size, PADDING, True
    chart = xatlas.ChartOptions()
    chart.max_cost = GROWTH
    atlas.generate(chart, pack)
    index, new_faces, uv = atlas[0]
    # xatlas may pack a little larger than asked for, and not square: scale both axes alike so that texels stay square
    uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
    return index.astype(np.int64), new_faces.astype(np.int32), uv.astype(np.float32)
