"""Depth with holes, with noise and with more than the object in it; parts that are thinner than voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from steps.compute.arrays import Array
from steps.fusion import reconstruct
from steps.fusion.signed_field import DepthView, grid_around, signed_field
from steps.geometry.cameras import VIEW_NAMES, canonical_camera
from steps.geometry.depth_ops import inpaint_depth
from steps.geometry.image_ops import box_down
from steps.io.depth_encoding import DepthEncoding, MetricDepth, foreground
from steps.io.png import Picture
from steps.raster.rasterize import rasterize
from steps.runtime.errors import ValidationFailed
from steps.validate.foreground import outside

SIZE, CELLS = 96, 64


def views_of(mesh: trimesh.Trimesh) -> list[DepthView]:
    made = []
    for name in VIEW_NAMES:
        camera = canonical_camera(name, SIZE, SIZE)
        depth = rasterize(mesh.vertices, mesh.faces, camera).depth
        fine = rasterize(mesh.vertices, mesh.faces, camera.resized(4 * SIZE, 4 * SIZE)).face >= 0
        made.append(DepthView(camera, depth, box_down(fine.astype(np.float32), 4), np.full_like(depth, 1e-6)))
    return made


@pytest.fixture(scope="module")
def bowl() -> list[DepthView]:
    """Half a thick shell, open to the top: only the view from there sees into it."""
    outer, inner = (trimesh.creation.icosphere(5, radius) for radius in (0.8, 0.6))
    shell = trimesh.util.concatenate([outer, trimesh.Trimesh(inner.vertices, inner.faces[:, ::-1])])
    return views_of(trimesh.Trimesh(shell.vertices, shell.faces[shell.triangles_center[:, 1] < 0.0]))


def with_hole(view: DepthView, rows: slice, columns: slice) -> DepthView:
    depth = view.depth.copy()
    depth[rows, columns] = 0
    return replace(view, depth=depth)


def test_a_plane_s_hole_is_bridged_by_the_plane() -> None:
    rows, columns = np.mgrid[:40, :40]
    depth = (1 / (0.4 + 0.002 * rows + 0.001 * columns)).astype(np.float32)
    unknown = (np.abs(rows - 20) < 6) & (np.abs(columns - 18) < 9)
    bridged = inpaint_depth(np.where(unknown, np.float32(0), depth), unknown)
    assert bridged == pytest.approx(depth, rel=1e-3) and np.array_equal(bridged[~unknown], depth[~unknown])


def test_a_hole_in_the_only_view_that_sees_a_hollow_does_not_fill_the_hollow(bowl: list[DepthView]) -> None:
    grid = grid_around(bowl, CELLS)
    whole = signed_field(bowl, grid)
    middle = slice(SIZE // 2 - 5, SIZE // 2 + 5)
    holed = [with_hole(v, middle, middle) if v.camera.name == "top" else v for v in bowl]
    pillar = signed_field(holed, grid)
    mended = signed_field([reconstruct.fill_holes(v) for v in holed], grid)
    filled = int(((pillar < 0) & (whole > 0)).sum())
    assert filled > 500 and int(((mended < 0) != (whole < 0)).sum()) < filled / 5


def test_inpainted_depth_never_carves_what_another_view_measures() -> None:
    """A block stands on a slab, and the view from above has a hole over it: the guess is the slab, and the sides see more."""
    slab = trimesh.creation.box((1.2, 0.2, 1.2))
    block = trimesh.creation.box((0.2, 0.5, 0.2), transform=trimesh.transformations.translation_matrix((0, 0.3, 0)))
    views = views_of(trimesh.util.concatenate(slab, block))
    grid = grid_around(views, CELLS)
    middle = slice(SIZE // 2 - 14, SIZE // 2 + 14)
    holed = [with_hole(v, middle, middle) if v.camera.name == "top" else v for v in views]
    field = signed_field([reconstruct.fill_holes(v) for v in holed], grid)
    near_its_side = np.rint((np.array([0.07, 0.4, 0.0]) - grid.origin) / grid.voxel).astype(int)
    assert field[tuple(near_its_side)] < 0


def test_flying_pixels_do_not_enlarge_the_grid(bowl: list[DepthView]) -> None:
    flying = [replace(v, depth=np.where(np.arange(SIZE)[:, None] % 7 == 0, np.float32(1.0), v.depth)) for v in bowl]
    assert grid_around(flying, CELLS).voxel == pytest.approx(grid_around(bowl, CELLS).voxel, rel=0.1)


def test_noise_is_smoothed_within_what_it_allows_and_exact_depth_is_left_alone() -> None:
    exact = views_of(trimesh.creation.icosphere(5, 0.8))[0]
    noisy = np.random.default_rng(0).normal(scale=0.005, size=exact.depth.shape)
    spoilt = replace(exact, depth=np.where(exact.depth > 0, exact.depth + noisy, 0).astype(np.float32))
    known = (exact.depth > 0) & (exact.depth < exact.depth[exact.depth > 0].min() + 0.3)  # seen squarely
    smoothed = reconstruct.denoise(spoilt, 0.01)
    assert np.abs(smoothed.depth - exact.depth)[known].mean() < 0.6 * np.abs(noisy[known]).mean()
    assert reconstruct.denoise(exact, 0.01) is exact


# -- more than the object ------------------------------------------------------------------------------------------------


def disc(background: float, smeared: bool) -> tuple[MetricDepth, Array]:
    """A flat disc at depth 2 before something at another, and the disc's coverage; smeared: over two pixels of its rim."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(rows, columns)
    slope = (2 + 0.005 * rows).astype(np.float32)
    depth = np.where(radius < (18 if smeared else 20), slope, np.float32(background))
    coverage = np.rint(255 * np.clip(20.5 - radius, 0, 1)).astype(np.uint8)
    return MetricDepth(depth, np.full_like(depth, 1e-4)), coverage


def stored(background: float, smeared: bool) -> tuple[Picture, Array]:
    """The same as a depth render of 16 bits, and the disc's coverage in [0, 1]."""
    depth, coverage = disc(background, smeared)
    return Picture(np.rint(depth.depth * 1e4)[..., None].astype(np.uint16), 65535), coverage / 255


def view_of(coverage: Array, behind: Array | None) -> Picture:
    """A red disc, transparent around, or opaque before `behind`."""
    red, share = np.array([0.8, 0.2, 0.1]), coverage[..., None]
    if behind is None:
        return Picture(np.rint(255 * np.dstack([np.broadcast_to(red, (64, 64, 3)), share])).astype(np.uint8), 255)
    return Picture(np.rint(255 * (red * share + behind * (1 - share))).astype(np.uint8), 255)


@pytest.mark.parametrize("smeared", [False, True])
@pytest.mark.parametrize("behind", [None, np.ones(3), np.array([0.1, 0.5, 0.2])], ids=["alpha", "white", "green"])
def test_a_wall_behind_the_object_is_removed_with_a_note(smeared: bool, behind: Array | None) -> None:
    depth, coverage = stored(3.4, smeared)
    cleaned, notes = outside.without_surroundings([depth] * 6, [view_of(coverage, behind)] * 6, [None] * 6)
    inside = foreground(cleaned[0], DepthEncoding(background=None))
    assert not inside[depth.pixels[..., 0] > 30000].any()
    assert inside[depth.pixels[..., 0] < 25000].mean() > 0.98
    assert notes == [outside.WALL] and "behind the object" in notes[0]


def test_a_wall_is_detected_in_depth_with_holes() -> None:
    depth, coverage = stored(3.4, False)
    gaps = np.random.default_rng(0).random((64, 64)) < 0.12
    pixels = np.where(gaps[..., None], 0, depth.pixels).astype(np.uint16)
    cleaned, notes = outside.without_surroundings([Picture(pixels, 65535)] * 6, [view_of(coverage, None)] * 6, [0] * 6)
    assert np.array_equal(foreground(cleaned[0], DepthEncoding()), (depth.pixels[..., 0] < 25000) & ~gaps)
    assert notes == [outside.WALL]


def test_an_outline_that_depth_reaches_beyond_all_around_is_another_lens_s() -> None:
    depth, coverage = stored(0.0, False)
    rows, columns = np.mgrid[:64, :64] - 31.5
    small = np.clip(15.5 - np.hypot(rows, columns), 0, 1)
    assert outside.without_surroundings([depth] * 6, [view_of(small, None)] * 6, [0] * 6) == ([depth] * 6, [])


def test_a_wall_that_nothing_tells_from_the_object_is_named() -> None:
    depth, coverage = stored(3.4, False)
    ramp = np.linspace(0, 1, 64)[:, None, None] * np.ones((64, 64, 3))
    cleaned, notes = outside.without_surroundings([depth] * 6, [view_of(coverage, ramp)] * 6, [None] * 6)
    assert cleaned[0] is depth and notes == [outside.UNKNOWN_OBJECT]
    error = outside.with_notes(ValidationFailed("The views deny each other.", "Look."), notes)
    assert "wall or a floor" in error.suggestion and error.suggestion.startswith("Look.")


@pytest.mark.parametrize("turn", [lambda a: a[:, ::-1], lambda a: 1 - a], ids=["mirrored", "turned round"])
def test_outlines_that_are_not_the_depth_s_leave_nothing_out(turn: Callable[[Array], Array]) -> None:
    depth, coverage = stored(0.0, False)
    shifted = turn(np.roll(coverage, 9, axis=1))
    cleaned, notes = outside.without_surroundings([depth] * 6, [view_of(shifted, None)] * 6, [0] * 6)
    assert cleaned[0] is depth and not notes


@pytest.mark.parametrize("width", [64, 20], ids=["floor", "plinth"])
def test_the_ground_below_the_object_is_removed(width: int) -> None:
    depth, coverage = stored(0.0, False)
    pixels = depth.pixels.copy()
    place = np.s_[48:, 32 - width // 2 : 32 + width // 2]
    pixels[place][coverage[place] == 0] = 22000
    floor = replace(depth, pixels=pixels)
    cleaned, notes = outside.without_surroundings([floor] * 6, [view_of(coverage, None)] * 6, [0] * 6)
    assert np.array_equal(foreground(cleaned[0], DepthEncoding()), (depth.pixels[..., 0] > 0))
    assert notes == [outside.WALL]


@pytest.mark.parametrize(("beside", "is_smeared"), [(range(20, 24), True), (range(20, 38), False)])
def test_smeared_depth_is_distinguished_from_other_surfaces(beside: range, is_smeared: bool) -> None:
    """What a wrong picture shows, too, lies further away, and it shows that the views are exchanged."""
    depth, coverage = disc(0.0, False)
    rows, columns = np.mgrid[:64, :64] - 31.5
    grown = (np.hypot(rows, columns) < beside.stop) & ((columns > 0) | is_smeared)
    stray = MetricDepth(np.where((depth.depth == 0) & grown, np.float32(1.6), depth.depth), depth.step)
    cleaned, notes = outside.remove_outside([stray] * 6, [coverage] * 6)
    assert (cleaned[0].depth > 0).sum() <= (coverage > 0).sum()
    assert (notes == [outside.SMEARS]) == is_smeared and len(notes) == 1


def test_jpeg_ringing_is_removed_and_the_rest_stays() -> None:
    """Eight-bit depth whose rim, some pixels wide, is off by many levels here and there."""
    depth, coverage = disc(0.0, False)
    rows, columns = np.mgrid[:64, :64] - 31.5
    radius, level = np.hypot(rows, columns), np.float32(0.008)
    ringing = np.random.default_rng(0).random(radius.shape) < 0.3
    spoilt = np.where(ringing & (radius > 12) & (radius < 26), np.float32(1.8), np.rint(depth.depth / level) * level)
    cleaned, _ = outside.remove_outside([MetricDepth(spoilt, np.full_like(spoilt, level))] * 6, [coverage] * 6)
    on_object, cleaned_depth = depth.depth > 0, cleaned[0].depth
    assert (cleaned_depth == np.float32(1.8)).sum() < 0.1 * (ringing & on_object & (radius > 12)).sum()
    assert (cleaned_depth[on_object & (spoilt != np.float32(1.8))] > 0).mean() > 0.8


def test_depth_of_the_object_alone_is_unchanged_without_a_note() -> None:
    depth, coverage = disc(0.0, False)
    cleaned, notes = outside.remove_outside([depth] * 6, [coverage] * 6)
    assert np.array_equal(cleaned[0].depth, depth.depth) and not notes
