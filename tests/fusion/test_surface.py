"""Depth fusion to a closed, textured surface, on analytic shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from steps.compute.arrays import Array
from steps.fusion.isosurface import decimate, extract, taubin, vertex_normals, without_specks
from steps.fusion.signed_field import (
    DepthView,
    Grid,
    consensus_band,
    depth_sigma,
    downsample,
    grid_around,
    signed_field,
    silhouette_sdf,
)
from steps.geometry.cameras import VIEW_NAMES, canonical_camera, look_at
from steps.geometry.depth_ops import dequantize, tangent_planes
from steps.geometry.image_ops import box_down, inpaint
from steps.geometry.soundness import is_closed
from steps.geometry.uv_mesh import UvMesh
from steps.raster.rasterize import rasterize
from steps.raster.render import render, wireframe
from steps.runtime.errors import ModelConvergenceFailed
from steps.texturing.atlas import unwrap
from steps.texturing.bake import EXACT, ROUGH, Blend, Photo, bake, texel_fragments

SIZE, RADIUS = 128, 0.8


def ball(subdivisions: int = 5, radius: float = RADIUS) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def views_of(mesh: trimesh.Trimesh, level: float = 1e-6) -> list[DepthView]:
    """What six canonical cameras see of a mesh: depth rounded to `level`, coverage from 4 x 4 samples."""
    made = []
    for name in VIEW_NAMES:
        camera = canonical_camera(name, SIZE, SIZE)
        depth = rasterize(mesh.vertices, mesh.faces, camera).depth
        fine = rasterize(mesh.vertices, mesh.faces, camera.resized(4 * SIZE, 4 * SIZE)).face >= 0
        rounded = (np.rint(depth / level) * level).astype(np.float32)
        made.append(DepthView(camera, rounded, box_down(fine.astype(np.float32), 4), np.full_like(depth, level)))
    return made


@pytest.fixture(scope="module")
def sphere() -> tuple[Array, Array]:
    views = views_of(ball())
    grid = grid_around(views, 96)
    return extract(signed_field(views, grid), grid, 4000)


def test_a_sphere_comes_back_as_a_closed_sphere_of_its_radius(sphere: tuple[Array, Array]) -> None:
    vertices, faces = sphere
    radii = np.linalg.norm(vertices, axis=1)
    assert is_closed(faces) and trimesh.Trimesh(vertices, faces).is_watertight
    assert abs(radii.mean() - RADIUS) < 0.001 and radii.std() < 0.002
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(
        4 / 3 * np.pi * RADIUS**3, rel=0.01
    )  # and faces point outwards
    assert len(faces) <= 4000


def off(views: list[DepthView], errors: list[float]) -> list[DepthView]:
    """The same views, each with all of its depth off by an error."""
    return [
        replace(v, depth=np.where(v.depth > 0, v.depth + e, 0).astype(np.float32))
        for v, e in zip(views, errors, strict=True)
    ]


def test_exact_and_eight_bit_views_agree_better_than_voxels_can_show() -> None:
    views = views_of(ball())
    voxel = grid_around(views, 96).voxel
    assert consensus_band(views, voxel) == 0
    assert depth_sigma(views) < 0.05 * voxel


def test_noisy_views_are_averaged_within_the_consensus_band() -> None:
    """A ball with depth off by a voxel in each view: the maximum over the views would carve at every error."""
    exact = views_of(ball())
    grid = grid_around(exact, 96)
    views = off(exact, [grid.voxel * sign for sign in (1, -1, 1, -1, 1, -1)])
    assert consensus_band(views, grid.voxel) > 2

    def missing(field: Array) -> float:
        return 1 - float((field < 0).sum()) * grid.voxel**3 / (4 / 3 * np.pi * RADIUS**3)

    greedy = missing(signed_field(views, grid, 0.0))
    assert greedy > 0.02 and abs(missing(signed_field(views, grid))) < greedy / 2


def test_flat_faces_that_each_but_one_view_sees_are_no_disagreement() -> None:
    assert depth_sigma(views_of(trimesh.creation.box((1.0, 0.8, 0.6)))) == 0


def test_depth_opens_a_hollow_that_silhouettes_cannot_see() -> None:
    half = trimesh.creation.box((1.2, 1.2, 1.2))
    hollow = trimesh.creation.box((0.8, 1.0, 0.8), transform=trimesh.transformations.translation_matrix((0, 0.3, 0)))
    both = trimesh.util.concatenate(half, hollow)  # the inner box shows its inside through the open top
    bowl = trimesh.Trimesh(both.vertices, both.faces[both.triangles_center[:, 1] < 0.59])
    views = views_of(bowl)
    field = signed_field(views, grid := grid_around(views, 64))
    middle = np.rint((np.array([0.0, 0.4, 0.0]) - grid.origin) / grid.voxel).astype(int)
    assert field[tuple(middle)] > 0
    without_depth = [DepthView(v.camera, np.zeros_like(v.depth), v.coverage, v.step) for v in views]
    assert signed_field(without_depth, grid)[tuple(middle)] < 0


def test_a_field_without_a_surface_raises_model_convergence_failed() -> None:
    with pytest.raises(ModelConvergenceFailed, match="encloses nothing"):
        extract(np.ones((8, 8, 8), np.float32), Grid(np.zeros(3), 1.0, (8, 8, 8)), 100)


# -- depth ---------------------------------------------------------------------------------------------------------------


def test_undoing_quantisation_stays_within_half_a_level_and_comes_closer_to_the_truth() -> None:
    y, x = np.mgrid[:96, :96] / 96
    truth = (2 + 0.15 * np.sin(3 * x) * np.cos(2 * y)).astype(np.float32)
    level = 0.01
    stored = (np.rint(truth / level) * level).astype(np.float32)
    smooth = dequantize(stored, np.full_like(stored, level))
    assert np.abs(smooth - stored).max() <= level / 2 + 1e-6
    assert np.abs(smooth - truth).mean() < 0.35 * np.abs(stored - truth).mean()


def test_an_edge_in_depth_is_left_alone() -> None:
    stored = np.where(np.arange(64) < 32, 1.0, 2.0)[None].repeat(64, axis=0).astype(np.float32)
    assert dequantize(stored, np.full_like(stored, 0.01)) == pytest.approx(stored, abs=1e-6)


def test_background_stays_background() -> None:
    stored = np.zeros((16, 16), np.float32)
    stored[4:12, 4:12] = 1.0
    assert (dequantize(stored, np.full_like(stored, 0.1))[stored == 0] == 0).all()


def test_a_tilted_plane_s_tangent_plane_is_itself() -> None:
    camera = canonical_camera("front", SIZE, SIZE)
    normal, distance = np.array([0.4, 0.2, 0.89]), 2.0
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    rays = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones_like(x)], axis=-1)
    depth = distance / (rays @ normal)
    planes = tangent_planes(depth.astype(np.float32), camera)
    inner = slice(2, -2), slice(2, -2)
    per_depth = (rays @ normal) / np.linalg.norm(normal)  # distance from the plane for each unit of depth along the ray
    assert planes[..., 2][inner] == pytest.approx(per_depth[inner], rel=2e-3)


def test_the_outline_is_found_below_the_pixel() -> None:
    edge = 20.3
    coverage = np.clip(edge - np.arange(64), 0, 1)[None].repeat(64, axis=0).astype(np.float32)
    distances = silhouette_sdf(coverage)[32]
    assert distances == pytest.approx(np.arange(64) + 0.5 - edge, abs=1e-5)


# -- mesh ----------------------------------------------------------------------------------------------------------------


def test_smoothing_removes_noise_and_keeps_the_volume() -> None:
    mesh = ball(4)
    rough = mesh.vertices + np.random.default_rng(0).normal(scale=0.01, size=mesh.vertices.shape)
    smooth = taubin(rough, mesh.faces, 10)
    assert np.linalg.norm(smooth, axis=1).std() < 0.5 * np.linalg.norm(rough, axis=1).std()
    assert trimesh.Trimesh(smooth, mesh.faces).volume == pytest.approx(mesh.volume, rel=0.01)


def test_decimation_keeps_a_closed_mesh_closed_and_reaches_its_target() -> None:
    mesh = ball(5)
    vertices, faces = decimate(mesh.vertices, mesh.faces.astype(np.int32), 900)
    assert is_closed(faces) and 600 < len(faces) <= 900
    assert np.linalg.norm(vertices, axis=1) == pytest.approx(RADIUS, abs=0.01)


def test_specks_fall_away_and_parts_stay() -> None:
    parts = [ball(3), ball(3), ball(0, 0.01)]
    for i, part in enumerate(parts):
        part.apply_translation((2.0 * i, 0, 0))
    mixed = trimesh.util.concatenate(parts)
    vertices, faces = without_specks(mixed.vertices, mixed.faces)
    assert len(faces) == 2 * len(parts[0].faces) and len(vertices) == 2 * len(parts[0].vertices)


def test_a_mesh_with_a_hole_is_not_closed() -> None:
    faces = ball(2).faces
    assert is_closed(faces) and not is_closed(faces[1:])


# -- texture -------------------------------------------------------------------------------------------------------------


def test_the_atlas_keeps_every_face_and_no_two_share_a_texel(sphere: tuple[Array, Array]) -> None:
    vertices, faces = sphere
    index, cut, uv = unwrap(vertices, faces, 256)
    assert np.array_equal(index[cut], faces)
    assert uv.min() >= 0 and uv.max() <= 1
    flat = np.stack([uv[:, 0] * 256, (1 - uv[:, 1]) * 256], axis=1)[cut]
    a, b = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    areas = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    assert (texel_fragments(cut, uv, 256).face >= 0).sum() == pytest.approx(areas.sum(), rel=0.02)


def painted(points: Array) -> Array:
    return 0.5 + 0.3 * np.sin(3 * points) / 1.0


def test_baking_six_photographs_of_a_painted_sphere_brings_back_its_paint(sphere: tuple[Array, Array]) -> None:
    vertices, faces = sphere
    index, cut, uv = unwrap(vertices, faces, 256)
    photos = []
    for name in VIEW_NAMES:
        camera = canonical_camera(name, SIZE, SIZE)
        seen = rasterize(vertices, faces, camera)
        corners = vertices[faces[seen.face]]
        weights = np.dstack([seen.bary, 1 - seen.bary.sum(axis=-1)])
        colour = painted((corners * weights[..., None]).sum(axis=2)).astype(np.float32)
        inside = (seen.face >= 0).astype(np.float32)
        photos.append(Photo(camera, colour * inside[..., None], inside))
    baked = bake(UvMesh(vertices[index], cut, uv, vertex_normals(vertices, faces)[index]), photos, 256)
    where = texel_fragments(cut, uv, 256)
    hit = where.face >= 0
    corners = vertices[index][cut[where.face[hit]]]
    weights = np.column_stack([where.bary[hit], 1 - where.bary[hit].sum(axis=1)])
    truth = painted((corners * weights[..., None]).sum(axis=1))
    assert np.abs(baked.texture[hit] - truth).mean() < 0.01
    assert baked.seen > 0.97


def patch(photos: list[Photo], blend: Blend) -> Array:
    """The red of a square patch whose normal lies half way between two cameras, [S, S]."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float) * 0.5
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    normals = np.tile([0.0, 0.0, 1.0], (4, 1))
    return bake(UvMesh(corners, faces, uv, normals), photos, 128, blend).texture[..., 0]


def slanted(shift: float, exposure: float, side: float) -> Photo:
    """A patch of fine stripes, seen from 45 degrees on one side, its paint off by `shift` of its width."""
    camera = look_at("slanted", np.array([2.5 * side, 0.0, 2.5]), np.array([0.0, 1.0, 0.0]), 256, 512.0)
    rows, columns = np.mgrid[:256, :256]
    rays = np.stack([(columns + 0.5 - 128) / 512, -(rows + 0.5 - 128) / 512, -np.ones((256, 256))], -1)
    rays = rays @ np.asarray(camera.camera_to_world)[:3, :3].T
    surface_points = camera.position + rays * (-camera.position[2] / rays[..., 2:])
    inside = (np.abs(surface_points[..., :2]).max(axis=2) < 0.5).astype(np.float32)
    stripes = exposure * (0.5 + 0.3 * np.sin(2 * np.pi * 16 * (surface_points[..., 1] + shift)))
    return Photo(camera, np.repeat((stripes * inside)[..., None], 3, axis=2).astype(np.float32), inside)


def test_views_that_do_not_meet_show_their_detail_once_and_no_seam() -> None:
    """Two views see the same stripes half a stripe apart, one brighter than the other: blended alike, the stripes fade where both
    count the same; in two bands they stay, and brightness still changes softly."""
    photos = [slanted(0.0, 0.9, 1.0), slanted(1 / 32, 1.1, -1.0)]

    def faded(seen: list[Photo], blend: Blend) -> float:
        """The share of the columns, away from the edges, in which less than half of the stripes' contrast is left."""
        return float((patch(seen, blend)[16:-16, 8:-8].std(axis=0) < 0.1).mean())

    assert faded(photos[:1], EXACT) == 0
    assert 2 * faded(photos, ROUGH) < faded(photos, EXACT)
    level = patch(photos, ROUGH)[16:-16, 8:-8].mean(axis=0)
    assert np.abs(np.diff(level)).max() < 0.02


def test_inpainting_keeps_known_pixels_and_stays_within_their_range() -> None:
    rng = np.random.default_rng(0)
    image, known = rng.uniform(0.2, 0.6, (37, 50, 3)).astype(np.float32), rng.random((37, 50)) > 0.7
    out = inpaint(image, known)
    assert np.array_equal(out[known], image[known])
    assert out.min() >= image[known].min() - 1e-5 and out.max() <= image[known].max() + 1e-5


def test_a_render_of_nothing_but_white_is_white_and_its_alpha_is_the_coverage(sphere: tuple[Array, Array]) -> None:
    vertices, faces = sphere
    uv = np.zeros((len(vertices), 2), np.float32)
    camera = canonical_camera("front", SIZE, SIZE)
    picture = render(UvMesh(vertices, faces, uv, vertex_normals(vertices, faces)), np.ones((4, 4, 3)), camera, 4)
    assert picture[..., 0] == pytest.approx(picture[..., 3], abs=1e-6)
    angular = RADIUS / np.sqrt(camera.position[2] ** 2 - RADIUS**2)
    assert picture[..., 3].sum() == pytest.approx(np.pi * (camera.fx * angular) ** 2, rel=0.005)


def test_the_wireframe_draws_lines_and_faces(sphere: tuple[Array, Array]) -> None:
    picture = wireframe(*sphere, canonical_camera("front", 512, 512))
    inside = picture[..., 3] > 0.99
    assert picture[..., 0][inside].min() < 0.3 and picture[..., 0][inside].max() > 0.8


def test_drawing_in_strips_changes_no_pixel(sphere: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = sphere
    uv = np.random.default_rng(0).random((len(vertices), 2)).astype(np.float32)
    camera, texture = canonical_camera("front", SIZE, SIZE), np.random.default_rng(1).random((8, 8, 3))
    mesh = UvMesh(vertices, faces, uv, vertex_normals(vertices, faces))
    whole = render(mesh, texture, camera, 2)
    monkeypatch.setattr("steps.raster.render.STRIP", 37)
    assert np.array_equal(render(mesh, texture, camera, 2), whole)


def test_a_thinned_view_sees_the_same_surface() -> None:
    view = views_of(ball())[0]
    small = downsample(view, SIZE // 2)
    assert small.depth.shape == small.coverage.shape == (SIZE // 2, SIZE // 2)
    truth = rasterize(ball().vertices, ball().faces, small.camera).depth
    both = (truth > 0) & (small.depth > 0) & (small.coverage > 0.99)
    assert np.abs(small.depth - truth)[both].mean() < 0.002
    assert small.coverage.sum() * 4 == pytest.approx(view.coverage.sum())
    assert downsample(view, SIZE) is view


# -- other units ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 0.02, 0.2, 1.0, 1000.0, 1e6])
def test_a_surface_is_unwrapped_in_any_unit(unit: float) -> None:
    mesh = ball(4)
    _, faces, uv = unwrap(mesh.vertices * unit, mesh.faces, 256)
    assert np.isfinite(uv).all() and not (uv == 0).all(axis=1).any()
    sides = np.stack([uv[faces[:, k]] - uv[faces[:, 0]] for k in (1, 2)], axis=1)
    area = np.abs(np.linalg.det(sides)).sum() / 2
    assert area > 0.4


def test_a_surface_torn_into_specks_is_unwrapped_too() -> None:
    """Faces of a hundred-millionth of the surface that they lie on, as depth in a wrong encoding leaves them."""
    speck = trimesh.creation.icosphere(subdivisions=1, radius=1e-4)
    places = np.random.default_rng(0).normal(size=(3, 3)) / 3
    torn = trimesh.util.concatenate([speck.copy().apply_translation(place) for place in places])
    _, _, uv = unwrap(torn.vertices, torn.faces, 256)
    assert np.isfinite(uv).all()


@pytest.mark.parametrize("vertices", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.array([[0, 0, np.inf]] * 3)])
def test_a_mesh_without_extent_raises_model_convergence_failed(vertices: Array) -> None:
    with pytest.raises(ModelConvergenceFailed, match="no extent"):
        unwrap(vertices, np.array([[0, 1, 2]]), 64)


@pytest.mark.parametrize("known", [0, 1])
def test_depth_of_a_point_or_none_raises_model_convergence_failed(known: int) -> None:
    depth = np.zeros((32, 32), np.float32)
    depth[10, :known] = 2.0
    view = DepthView(canonical_camera("front", 32, 32), depth, np.zeros_like(depth), np.zeros_like(depth))
    with pytest.raises(ModelConvergenceFailed, match="no extent"):
        grid_around([view], 64)


# -- what is no number ---------------------------------------------------------------------------------------------------


def test_texture_coordinates_that_are_no_numbers_are_the_corner_s_and_crash_nothing() -> None:
    mesh = ball(3)
    uv = np.full((len(mesh.vertices), 2), np.nan, np.float32)
    camera = canonical_camera("front", 64, 64)
    picture = render(UvMesh(mesh.vertices, mesh.faces, uv, mesh.vertex_normals), np.ones((8, 8, 3)), camera)
    assert np.isfinite(picture).all() and picture[32, 32] == pytest.approx(np.ones(4))


@pytest.mark.parametrize("corner", [-1, 642])
def test_a_face_with_a_vertex_that_is_not_there_is_refused(corner: int) -> None:
    mesh, camera = ball(3), canonical_camera("front", 64, 64)
    faces = np.array(mesh.faces)
    faces[7, 1] = corner
    with pytest.raises(ValueError, match="of 642"):
        rasterize(mesh.vertices, faces, camera)
