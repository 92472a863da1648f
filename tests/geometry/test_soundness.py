"""Soundness of meshes: the checks, decimation that preserves it, and isosurfaces of any field."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from steps.compute.arrays import Array
from steps.fusion.isosurface import extract, sound_mesh, taubin, without_specks
from steps.fusion.signed_field import Grid
from steps.geometry.collapse import decimate_safely
from steps.geometry.crossings import crossing_faces, resolve_crossings
from steps.geometry.soundness import Soundness, is_closed, soundness

SOUND = Soundness(watertight=True, oriented=True, vertex_manifold=True, crossing_faces=0)
TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
SIDES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)


def ball(subdivisions: int = 3, at: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions)
    made.apply_translation(at)
    return made


def meets(p: Array, q: Array, triangle: Array) -> bool:
    """Whether a segment meets a triangle, by Moeller and Trumbore's solution for the point."""
    a, b, c = triangle
    normal = np.cross(q - p, c - a)
    u = (p - a) @ normal / ((b - a) @ normal)
    other = np.cross(p - a, b - a)
    v, t = (q - p) @ other / ((b - a) @ normal), (c - a) @ other / ((b - a) @ normal)
    return bool(u >= 0 and v >= 0 and u + v <= 1 and 0 <= t <= 1)


# -- the checks ----------------------------------------------------------------------------------------------------------


def test_seams_do_not_make_a_sound_mesh_open() -> None:
    assert soundness(TETRAHEDRON[SIDES.ravel()], np.arange(12).reshape(4, 3)) == SOUND


def test_a_missing_face_is_not_watertight() -> None:
    assert not soundness(TETRAHEDRON, SIDES[:3]).watertight


def test_a_face_turned_over_is_watertight_and_not_oriented() -> None:
    turned = SIDES.copy()
    turned[0] = turned[0, ::-1]
    result = soundness(TETRAHEDRON, turned)
    assert result.watertight and not result.oriented and not result.sound


@pytest.mark.parametrize("missing", [0, 1, 400])
def test_components_closedness_and_smoothing_are_trimesh_s(missing: int) -> None:
    """trimesh's are not used, since they are slower; see `isosurface` and `soundness`."""
    made = trimesh.util.concatenate([ball(4), ball(0, (3, 0, 0)), ball(3, (0, 3, 0))])
    faces = np.roll(made.faces[missing:], 1, axis=1).astype(np.int32)
    vertices, kept = without_specks(made.vertices, faces)
    parts = trimesh.graph.connected_components(trimesh.graph.face_adjacency(faces), nodes=np.arange(len(faces)))
    large = np.sort(np.concatenate([part for part in parts if len(part) >= 0.01 * len(faces)]))
    assert np.array_equal(vertices[kept], made.vertices[faces[large]])
    both = trimesh.graph.is_watertight(trimesh.geometry.faces_to_edges(kept))
    assert is_closed(kept) == all(both) == (not missing)
    if not missing:
        smooth = trimesh.smoothing.filter_taubin(trimesh.Trimesh(vertices, kept, process=False), 0.5, 0.53, 20)
        assert np.allclose(taubin(vertices, kept, 10), smooth.vertices, atol=1e-5)


def test_two_solids_that_touch_in_a_corner_are_no_manifold_there() -> None:
    both = np.vstack([TETRAHEDRON, -TETRAHEDRON[1:]])
    other = np.where(SIDES > 0, SIDES + 3, 0)[:, ::-1]
    result = soundness(both, np.vstack([SIDES, other]))
    assert result.watertight and result.oriented and not result.vertex_manifold


def test_two_balls_that_overlap_cross_where_their_surfaces_meet() -> None:
    both = trimesh.util.concatenate(ball(), ball(at=(1.0, 0.0, 0.0)))
    crossing = crossing_faces(both.vertices, both.faces)
    centres = both.triangles_center[crossing]
    assert crossing.any() and np.abs(centres[:, 0] - 0.5).max() < 0.2
    assert not crossing_faces(
        *(getattr(trimesh.util.concatenate(ball(), ball(at=(2.1, 0, 0))), n) for n in ("vertices", "faces"))
    ).any()


def test_flat_parts_do_not_cross_and_folded_ones_do() -> None:
    box = trimesh.creation.box().subdivide().subdivide()
    assert not crossing_faces(box.vertices, box.faces).any()
    folded = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.5, 0]], float)
    assert crossing_faces(folded, np.array([[0, 1, 2], [1, 0, 3]])).all()


@pytest.mark.parametrize("shared", [0, 1])
def test_any_two_triangles_cross_where_an_edge_of_one_meets_the_other(shared: int) -> None:
    rng, hits = np.random.default_rng(shared), 0
    faces = np.array([[0, 1, 2], [3, 4, 5]] if shared == 0 else [[1, 0, 2], [4, 3, 0]])
    for _ in range(300):
        points = rng.normal(size=(6 - shared, 3))
        a, b = (list(face) for face in faces)
        pairs = [(face[i], face[i - 1], other) for face, other in ((a, b), (b, a)) for i in range(3)]
        wanted = any(meets(points[s], points[t], points[o]) for s, t, o in pairs if s not in o and t not in o)
        hits += wanted
        assert crossing_faces(points, faces).all() == wanted == crossing_faces(points, faces).any()
    assert 30 < hits < 270


# -- decimation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [2000, 200, 4])
def test_decimation_to_any_number_of_faces_is_sound(target: int) -> None:
    ring = trimesh.creation.torus(1.0, 0.3, major_sections=64, minor_sections=32)
    vertices, faces = decimate_safely(ring.vertices, ring.faces, target)
    assert soundness(vertices, faces) == SOUND
    assert len(faces) <= max(target, 40)  # a ring's hole stays: that takes more than four faces
    assert trimesh.Trimesh(vertices, faces).euler_number == 0


def test_decimation_keeps_a_ball_a_ball() -> None:
    vertices, faces = decimate_safely(ball(5).vertices, ball(5).faces, 900)
    assert len(faces) == 900 and np.linalg.norm(vertices, axis=1) == pytest.approx(1, abs=0.01)


def test_thin_shells_do_not_come_through_each_other_as_they_lose_faces() -> None:
    """A ball in a hollow of almost its size: with few faces, chords of the outer one would cut into the inner one."""
    inner, outer = ball(4), ball(4)
    shell = trimesh.util.concatenate([outer, trimesh.Trimesh(inner.vertices * 0.985, inner.faces[:, ::-1])])
    vertices, faces = decimate_safely(shell.vertices, shell.faces, 200)
    assert soundness(vertices, faces) == SOUND


def test_an_open_mesh_is_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        decimate_safely(ball().vertices, ball().faces[1:], 100)


# -- faces that would cross ----------------------------------------------------------------------------------------------


def test_only_vertices_of_intersecting_faces_move_back() -> None:
    safe, faces = np.array(ball().vertices), ball().faces
    wanted = safe * 1.1
    wanted[7] = -wanted[7]  # through the ball
    result, n_held_back = resolve_crossings(wanted, faces, safe)
    assert not crossing_faces(result, faces).any() and 0 < n_held_back < 60
    assert (result == wanted).all(axis=1).sum() == len(safe) - n_held_back


def test_soundness_is_checked_after_rounding_to_float32() -> None:
    """Two vertices that 32 bits cannot tell apart, far from the origin, open what was closed: the place is not delivered."""
    far = np.array(ball(2).vertices) * 1e-6 + 5.0
    assert sound_mesh(far, far, ball(2).faces.astype(np.int32), 300) is None


@pytest.mark.parametrize("seed", range(4))
def test_any_field_has_a_sound_surface(seed: int) -> None:
    """Noise without any shape, zeros among it, up to the grid's border."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(12, 12, 12)).astype(np.float32)
    field[rng.random(field.shape) < 0.1] = 0
    for axis in range(3):
        layers = np.moveaxis(field, axis, 0)
        layers[0], layers[-1] = 1.0, 1.0
    vertices, faces = extract(field, Grid(np.array([0.3, -7.0, 2.0]), 0.1, field.shape), 600)
    assert soundness(vertices.astype(np.float32), faces) == SOUND
