"""Marching tetrahedra: closed for any signs, and at the field's zero level."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from steps.fusion.marching_tetrahedra import lattice, march
from steps.geometry.soundness import is_closed

SHAPE = (14, 15, 16)


@pytest.mark.parametrize("seed", range(5))
def test_any_signs_give_a_closed_surface_that_faces_outwards(seed: int) -> None:
    points = lattice(SHAPE)
    inside = np.random.default_rng(seed).random(len(points)) < 0.4
    inside &= (points > 0).all(axis=1) & (points < np.array(SHAPE) - 1).all(axis=1)
    ends, faces = march(inside, SHAPE)
    assert is_closed(faces) and (inside[ends[:, 0]] != inside[ends[:, 1]]).all()
    middle = points[ends].mean(axis=1)
    assert trimesh.Trimesh(middle, faces, process=False).volume > 0


def test_a_ball_has_its_volume() -> None:
    shape = (40, 41, 42)
    points = lattice(shape)
    field = np.linalg.norm(points - 20, axis=1) - 15
    ends, faces = march(field < 0, shape)
    values = field[ends]
    share = values[:, :1] / (values[:, :1] - values[:, 1:])
    vertices = points[ends[:, 0]] * (1 - share) + points[ends[:, 1]] * share
    assert trimesh.Trimesh(vertices, faces, process=False).volume == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.005)


def test_nothing_inside_gives_no_faces() -> None:
    ends, faces = march(np.zeros(np.prod(SHAPE), bool), SHAPE)
    assert len(ends) == len(faces) == 0
