"""Registration of meshes to six views. The full-size version is `python -m tests.benchmarks registration`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from steps.compute.arrays import Array
from steps.geometry.cameras import project, unproject
from steps.registration import pointcloud
from steps.registration.global_icp import (
    Poses,
    Similarity,
    angle,
    flipped,
    rotated_about,
    rotations,
    symmetry_axis,
    unit_normalization,
    weighted_similarities,
)
from steps.registration.refine import Registration, register
from steps.sample.objects import OBJECTS
from tests.benchmarks import registration_benchmark as benchmark
from tests.benchmarks.disturbed import disturbed

RANDOM = np.random.default_rng(3)
SIDE = 192
SEEDS = range(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registration")


def anywhere(seed: int) -> Similarity:
    random = np.random.default_rng(seed)
    return Similarity(
        float(random.uniform(0.3, 3)), Rotation.random(random_state=random).as_matrix(), random.normal(size=3)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_noisy_meshes_with_parts_missing_or_added_are_laid_where_they_belong(seed: int, folder: Path) -> None:
    """Any rotation, a scale from 0.3 to 3, 2 % noise, 20 % of the surface missing or added; symmetric objects among them."""
    names = tuple(OBJECTS)
    result = benchmark.tried(names[seed % len(names)], seed, SIDE, folder)
    assert result.right, benchmark.described(result)


@pytest.mark.parametrize(("mesh", "views"), [("duck", "mug"), ("donut", "house"), ("house", "bowl")])
def test_a_mesh_of_something_else_does_not_fit(mesh: str, views: str, folder: Path) -> None:
    cloud = benchmark.cloud_of(disturbed(benchmark.truth_of(mesh), 1))
    others = [benchmark.registration_view(view) for view in benchmark.scene_of(views, SIDE, folder).views]
    assert not register(cloud, others).fits


def test_a_mesh_that_covers_the_views_loosely_does_not_fit_either() -> None:
    registration = Registration(Similarity(1, np.eye(3), np.zeros(3)), 0.01, 0.85, 0.95, 0.8, 0.0)
    assert registration.fits
    assert not replace(registration, residual=0.016).fits
    assert not replace(registration, recall=0.7).fits


def test_a_mesh_without_colours_is_laid_by_its_shape(folder: Path) -> None:
    mesh = disturbed(benchmark.truth_of("duck"), 4)
    views = [benchmark.registration_view(view) for view in benchmark.scene_of("duck", SIDE, folder).views]
    registration = register(replace(benchmark.cloud_of(mesh), colours=None), views)
    assert np.degrees(angle(registration.pose.rotation, mesh.back.rotation)) < 2
    assert registration.colour == 1.0


def test_a_mirrored_mesh_is_not_turned_inside_out(folder: Path) -> None:
    cloud = benchmark.cloud_of(disturbed(benchmark.truth_of("house"), 2))
    mirrored = replace(cloud, points=cloud.points * [-1, 1, 1], normals=cloud.normals * [-1, 1, 1])
    registration = register(
        mirrored, [benchmark.registration_view(view) for view in benchmark.scene_of("house", SIDE, folder).views]
    )
    assert np.linalg.det(registration.pose.rotation) == pytest.approx(1)


# -- its parts ----------------------------------------------------------------------------------------------------------


def test_similarities_are_a_group() -> None:
    one, other, points = anywhere(1), anywhere(2), RANDOM.normal(size=(50, 3))
    np.testing.assert_allclose(one.inverse()(one(points)), points, atol=1e-12)
    np.testing.assert_allclose(one.after(other)(points), one(other(points)), atol=1e-12)


def test_no_rotation_is_far_from_those_that_are_begun_from() -> None:
    grid, wanted = rotations(960), Rotation.random(500, random_state=0).as_matrix()
    nearest = np.einsum("gij,wij->wg", grid, wanted).max(axis=1)
    assert np.degrees(np.arccos((nearest - 1) / 2)).max() < 22
    np.testing.assert_allclose(np.linalg.det(grid), 1)


def test_the_closest_transform_is_exact_for_exact_points_and_never_a_reflection() -> None:
    pose, x = anywhere(5), RANDOM.normal(size=(1, 40, 3))
    registration: Poses = weighted_similarities(x, pose(x), np.ones((1, 40)))
    np.testing.assert_allclose(registration.one(0)(x[0]), pose(x[0]), atol=1e-5)
    mirrored = weighted_similarities(x, x * [-1, 1, 1], np.ones((1, 40)))
    assert np.linalg.det(mirrored.rotation[0]) == pytest.approx(1, abs=1e-5)


def test_points_of_a_mesh_are_spread_by_area_and_lie_on_it() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]], float)
    cloud, face, weights = pointcloud.sample_mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 4000)
    assert (face == 1).mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(cloud.normals, np.tile([0, 0, 1], (4000, 1)))
    assert (weights >= 0).all()


def test_what_the_views_show_lies_on_the_object_and_faces_out(folder: Path) -> None:
    truth, loaded = benchmark.truth_of("duck"), benchmark.scene_of("duck", SIDE, folder)
    cloud = pointcloud.pointcloud_of_views([benchmark.registration_view(view) for view in loaded.views], 3000)
    cloud = replace(cloud, points=loaded.frame.points_out(cloud.points))
    middle = truth.vertices.mean(axis=0)
    assert ((cloud.points - middle) * cloud.normals).sum(axis=1).mean() > 0.2
    assert (
        np.linalg.norm(cloud.points - middle, axis=1).max()
        < 1.1 * np.linalg.norm(truth.vertices - middle, axis=1).max()
    )


def test_how_a_views_colours_change_is_what_differences_say(folder: Path) -> None:
    view = benchmark.scene_of("mug", SIDE, folder).views[0]
    smooth = replace(benchmark.registration_view(view), colour=_waves(SIDE), depth=np.full((SIDE, SIDE), 2.5))
    points = RANDOM.uniform(-0.3, 0.3, (200, 3))
    seen, colours, slopes = smooth.sample_colours(points, smooth.camera.position - points, np.inf)
    assert seen.all()
    np.testing.assert_allclose(colours[:, 1], _wave(project(points, smooth.camera)[0]), atol=1e-3)
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1e-2
        pixels = [project(points + s, smooth.camera)[0] for s in (step, -step)]
        expected = (_wave(pixels[0]) - _wave(pixels[1])) / 2e-2
        np.testing.assert_allclose(slopes[:, 0, axis], expected, atol=0.02 * np.abs(expected).max() + 1e-6)


def test_a_view_shows_what_lies_on_its_depth_and_is_turned_to_it(folder: Path) -> None:
    view = benchmark.registration_view(benchmark.scene_of("mug", SIDE, folder).views[0])
    points = unproject(view.depth, view.camera)[::7]
    to_eye = view.camera.position - points
    assert view.sample_colours(points, to_eye, 0.01)[0].mean() > 0.99
    assert not view.sample_colours(points, -to_eye, 0.01)[0].any()
    assert not view.sample_colours(points + 0.1 * to_eye, to_eye, 0.01)[0].any()


@pytest.mark.parametrize("offset", [-43.0, -0.5, SIDE + 0.5, SIDE + 43.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_view_shows_nothing_of_what_lies_beside_its_picture(offset: float, axis: int, folder: Path) -> None:
    """Even where its depth reaches the picture's edge."""
    view = benchmark.registration_view(benchmark.scene_of("mug", SIDE, folder).views[0])
    everywhere = replace(view, depth=np.full((SIDE, SIDE), 2.5))
    c = everywhere.camera
    for place, shows in ((offset, False), (SIDE / 2, True)):
        pixel = np.full(2, SIDE / 2)
        pixel[axis] = place
        local = np.array([(pixel[0] - c.cx) / c.fx, (c.cy - pixel[1]) / c.fy, -1.0]) * 2.5
        point = (c.camera_to_world[:3, :3] @ local + c.position)[None]
        assert everywhere.sample_colours(point, c.position - point, np.inf)[0].tolist() == [shows]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_thinned_view_has_everything_in_its_place(step: int, folder: Path) -> None:
    view = benchmark.registration_view(benchmark.scene_of("mug", SIDE, folder).views[0])
    ramp = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, [0.0]), axis=2).reshape(SIDE, SIDE, 3)
    few = replace(view, colour=ramp, depth=np.full((SIDE, SIDE), 2.5)).subsampled(step)
    points = RANDOM.uniform(-0.3, 0.3, (200, 3))
    seen, colours, _ = few.sample_colours(points, few.camera.position - points, np.inf)
    assert seen.all()
    np.testing.assert_allclose(colours[:, :2], project(points, view.camera)[0], atol=1e-3)


def test_point_to_plane_distances_are_along_the_normal(folder: Path) -> None:
    """Of a tilted plane, whose depth is known everywhere."""
    view = benchmark.registration_view(benchmark.scene_of("mug", SIDE, folder).views[0])
    normal = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])
    rays = unproject(np.ones((SIDE, SIDE)), view.camera) - view.camera.position
    depth = -(view.camera.position @ normal) / (rays @ normal)
    plane = replace(view, depth=depth.reshape(SIDE, SIDE))
    off = RANDOM.uniform(-0.02, 0.02, 300)
    across = np.column_stack([RANDOM.uniform(-0.3, 0.3, (300, 2)), np.zeros(300)])
    points = across - (across @ normal)[:, None] * normal + off[:, None] * normal
    known, gap, normals = plane.point_to_plane(points, 0.2)
    assert known.all()
    np.testing.assert_allclose(gap, -off, atol=1e-4)
    np.testing.assert_allclose(normals, np.tile(-normal, (300, 1)), atol=5e-3)


def _wave(pixels: Array) -> Array:
    return np.asarray(0.5 + 0.3 * np.sin(pixels[:, 0] / 19) * np.cos(pixels[:, 1] / 23))


def _waves(side: int) -> Array:
    c, r = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    layer = _wave(np.stack([c.ravel(), r.ravel()], axis=1)).reshape(side, side)
    return np.repeat(layer[..., None], 3, axis=2)


def test_only_solids_of_revolution_have_a_symmetry_axis() -> None:
    angles, heights = RANDOM.uniform(0, 2 * np.pi, 6000), RANDOM.uniform(-2, 2, 6000)
    tube = np.stack([np.cos(angles), heights, np.sin(angles)], axis=1)
    cloud = pointcloud.PointCloud(tube, tube)
    unit = replace(cloud, points=unit_normalization(cloud)(tube))
    np.testing.assert_allclose(np.abs(symmetry_axis(unit)), [0, 1, 0], atol=0.03)
    assert not symmetry_axis(replace(unit, points=unit.points * [1.3, 1, 1])).any()


def test_sweeping_about_an_axis_leaves_it_and_turning_over_turns_it() -> None:
    axis, pose = np.array([0.0, 1.0, 0.0]), Similarity(1, np.eye(3), np.zeros(3))
    assert len(rotated_about(axis, [pose])) == 120
    for turned in rotated_about(axis, [pose])[::17]:
        np.testing.assert_allclose(turned(axis[None])[0], axis, atol=1e-12)
    np.testing.assert_allclose(flipped(axis, pose)(axis[None])[0], -axis, atol=1e-12)
