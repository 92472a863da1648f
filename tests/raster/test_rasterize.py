"""Invariants of the rasterizer: exact coverage, perspective-correct weights, visibility, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import Delaunay

from steps.compute import kernels
from steps.compute.arrays import Array
from steps.geometry.cameras import CANONICAL_FOCAL_PER_WIDTH, Camera, look_at, project, unproject
from steps.raster.rasterize import rasterize, rasterize_homogeneous

SIZE = 64
UP = np.array([0.0, 1.0, 0.0])


def flat(points: Array) -> Array:
    """Pixel coordinates (n, 2) as homogeneous corners at depth 1."""
    return np.column_stack([points, np.zeros(len(points)), np.ones(len(points))])


def camera_at(*position: float) -> Camera:
    return look_at("test", np.array(position), UP, SIZE, SIZE * CANONICAL_FOCAL_PER_WIDTH)


@pytest.mark.parametrize("seed", range(20))
def test_triangles_that_share_edges_cover_every_pixel_exactly_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    border = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]], float)
    inner = (
        np.rint(rng.uniform(0, SIZE, (60, 2)) * 2) / 2
    )  # on and between pixel centres: the ties that break watertightness
    points = np.concatenate([border, np.unique(inner, axis=0)])
    faces = Delaunay(points).simplices.astype(np.int32)
    counts = np.zeros((SIZE, SIZE), int)
    for face in faces:
        counts += rasterize_homogeneous(flat(points), face[None], SIZE, SIZE).face >= 0
    assert (counts == 1).all()


@pytest.mark.parametrize("flip", [False, True])
def test_coverage_is_the_exact_half_plane_test(flip: bool) -> None:
    points = np.array([[3.2, 5.1], [58.7, 20.4], [21.9, 60.3]])
    face = np.array([[0, 2, 1] if flip else [0, 1, 2]], np.int32)
    fragments = rasterize_homogeneous(flat(points), face, SIZE, SIZE).face == 0
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    inside = np.ones((SIZE, SIZE), bool)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        (ax, ay), (bx, by) = points[a], points[b]
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
    assert np.array_equal(fragments, inside)


def test_weights_are_perspective_correct() -> None:
    """The point that the weights name projects to the pixel's centre and lies at the pixel's depth."""
    camera = camera_at(0.3, 0.2, 2.5)
    vertices = np.array([[-0.9, -0.8, 0.9], [0.9, -0.7, -0.5], [0.0, 0.9, -1.4]])
    fragments = rasterize(vertices, np.array([[0, 1, 2]]), camera)
    rows, columns = np.nonzero(fragments.face >= 0)
    b = fragments.bary[rows, columns].astype(float)
    points = b[:, :1] * vertices[0] + b[:, 1:] * vertices[1] + (1 - b.sum(axis=1, keepdims=True)) * vertices[2]
    pixels, depth = project(points, camera)
    assert len(rows) > 300
    assert pixels == pytest.approx(np.stack([columns, rows], axis=1) + 0.5, abs=1e-3)
    assert depth == pytest.approx(fragments.depth[rows, columns], rel=1e-5)


def test_the_nearest_face_wins_whatever_the_order() -> None:
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0], [-1, -1, 0.5], [1, -1, 0.5], [0, 1, 0.5]], float)
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    camera = camera_at(0, 0, 2.5)
    one, other = rasterize(vertices, faces, camera), rasterize(vertices, faces[::-1], camera)
    assert one.face[SIZE // 2, SIZE // 2] == 1 and other.face[SIZE // 2, SIZE // 2] == 0
    assert np.array_equal(one.depth, other.depth)


def test_a_floor_that_runs_under_the_camera_is_drawn_in_front_of_it_only() -> None:
    """Corners behind the camera and at its very plane: no clipping, still exact."""
    camera = camera_at(0, 0, 2.5)
    floor = np.array([[-50, -1, 50], [50, -1, 50], [50, -1, -50], [-50, -1, -50]], float)
    fragments = rasterize(floor, np.array([[0, 1, 2], [0, 2, 3]]), camera)
    y = (np.arange(SIZE) + 0.5 - camera.cy) / camera.fy
    expected = np.where(y > 1 / 52.5, 1 / np.maximum(y, 1e-9), 0)
    assert fragments.depth == pytest.approx(np.repeat(expected[:, None], SIZE, axis=1), rel=1e-5)


def test_what_lies_behind_is_not_drawn() -> None:
    behind = np.array([[-1, -1, 5], [1, -1, 5], [0, 1, 5]], float)
    assert (rasterize(behind, np.array([[0, 1, 2]]), camera_at(0, 0, 2.5)).face == -1).all()


def test_faces_without_area_draw_nothing() -> None:
    line = np.array([[-1, 0, 0], [0, 0, 0], [1, 0, 0]], float)
    assert (rasterize(line, np.array([[0, 1, 2], [0, 0, 1]]), camera_at(0, 0, 2.5)).face == -1).all()


def test_the_result_does_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    vertices, faces = rng.normal(size=(300, 3)) * 0.5, rng.integers(0, 300, (500, 3))
    fragments = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(kernels, "core_count", lambda cores=cores: cores)
        fragments.append(rasterize(vertices, faces, camera_at(1, 1, 2)))
    assert all(
        np.array_equal(f.face, fragments[0].face) and np.array_equal(f.bary, fragments[0].bary) for f in fragments
    )


def test_projecting_inverts_unprojecting() -> None:
    camera = camera_at(1.0, 0.7, -2.0)
    depth = np.random.default_rng(0).uniform(1, 3, (SIZE, SIZE)).astype(np.float32)
    pixels, again = project(unproject(depth, camera), camera)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    assert pixels == pytest.approx(np.stack([x.ravel(), y.ravel()], axis=1), abs=1e-6)
    assert again == pytest.approx(depth.ravel(), rel=1e-6)
