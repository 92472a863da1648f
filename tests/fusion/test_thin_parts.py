"""Parts that are thinner than voxels are kept by a finer grid, or by a shell; what is thick pays nothing for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import trimesh

from steps.compute.arrays import Array
from steps.fusion import reconstruct
from steps.fusion.reconstruct import Settings, Surface
from steps.geometry.cameras import VIEW_NAMES, Camera, canonical_camera
from steps.geometry.image_ops import box_down
from steps.geometry.soundness import soundness
from steps.raster.rasterize import rasterize
from tests.cases.thin import leaf

SIZE, CELLS = 128, 64


@dataclass(frozen=True)
class View:
    """A view of a scene, held in memory."""

    depth_camera: Camera
    seen: Array
    share: Array

    def depth(self) -> Array:
        return self.seen

    def coverage(self) -> Array:
        return self.share

    def step(self) -> Array:
        return np.full_like(self.seen, 1e-6)


def views_of(mesh: trimesh.Trimesh) -> Any:
    made = []
    for name in VIEW_NAMES:
        camera = canonical_camera(name, SIZE, SIZE)
        fine = rasterize(mesh.vertices, mesh.faces, camera.resized(4 * SIZE, 4 * SIZE)).face >= 0
        depth = rasterize(mesh.vertices, mesh.faces, camera).depth
        made.append(View(camera, depth, box_down(fine.astype(np.float32), 4)))
    return made


def surface(views: Any) -> tuple[Surface, list[str]]:
    settings = Settings(grid=CELLS, faces=20000)
    return reconstruct.with_thin_parts(*reconstruct.fuse(views, settings), views, settings)


def overlap(surface_found: Surface, views: Any) -> float:
    """Of the outlines, in the worst of the views that show something."""
    each = []
    for view in views:
        rendered, inside = (
            rasterize(surface_found.vertices, surface_found.faces, view.depth_camera).face >= 0,
            view.share >= 0.5,
        )
        if inside.sum() > SIZE:
            each.append((rendered & inside).sum() / (rendered | inside).sum())
    return float(min(each))


def ball_with_fin(thickness: float) -> trimesh.Trimesh:
    fin = trimesh.creation.box((1.0, 0.9, thickness), trimesh.transformations.translation_matrix((0.45, 0.2, 0.013)))
    return trimesh.util.concatenate(trimesh.creation.icosphere(4, 0.5), fin)


def test_a_thin_fin_that_the_usual_grid_loses_is_kept_by_a_finer_one() -> None:
    views = views_of(ball_with_fin(0.022))  # a voxel of the usual grid is 0.026
    lost = reconstruct.surface_of(
        *reconstruct.fuse(views, Settings(grid=CELLS)), [reconstruct.depth_view(v, SIZE) for v in views], Settings()
    )
    surface_found, notes = surface(views)
    assert overlap(lost, views) < 0.8 and overlap(surface_found, views) > 0.95
    assert surface_found.lost < reconstruct.FINER_GRID_LOSS < lost.lost
    assert max(surface_found.grid.shape) > 1.2 * CELLS
    assert notes == [f"Parts of the object are thinner than voxels of a grid of {CELLS}: it was made {2 * CELLS}."]


def test_thick_objects_keep_the_requested_grid() -> None:
    views = views_of(ball_with_fin(0.15))
    surface_found, notes = surface(views)
    assert notes == [] and max(surface_found.grid.shape) == CELLS
    assert overlap(surface_found, views) > 0.95


def test_a_sheet_without_thickness_gets_a_shell_which_is_said() -> None:
    views = views_of(leaf())
    surface_found, notes = surface(views)
    assert overlap(surface_found, [view for view in views if view.depth_camera.name in ("front", "back")]) > 0.95
    assert soundness(surface_found.vertices, surface_found.faces).sound
    assert any("two voxels thick" in note for note in notes) and not any("WARNING" in note for note in notes)
    depth = rasterize(surface_found.vertices, surface_found.faces, views[0].depth_camera).depth
    both = (depth > 0) & (views[0].seen > 0)
    assert np.abs(depth - views[0].seen)[both].max() < 2.5 * surface_found.grid.voxel


@pytest.mark.parametrize("thickness", [1e-6, 1e-3])
def test_views_that_show_nothing_carve_nothing(thickness: float) -> None:
    views = views_of(trimesh.creation.box((1.0, 1.4, thickness)))
    assert sum(not (view.share >= 0.5).any() for view in views) == 4
    surface_found, _ = surface(views)
    assert overlap(surface_found, views) > 0.92  # voxels are three pixels wide
    assert (
        np.ptp(surface_found.vertices[:, 2]) < 2.5 * surface_found.grid.voxel
    )  # nor does it grow a rim where no view ends it
    assert soundness(surface_found.vertices, surface_found.faces).sound
