"""Sample objects from mesh files: textures, vertex colours, normals and scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from steps.compute.arrays import Array
from steps.runtime.errors import ValidationFailed
from steps.sample import foreign
from steps.sample.objects import shaded
from steps.sample.render import RADIUS
from tests.conftest import sixview

QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # the upper row first


def card(folder: Path, visual: Any) -> Path:
    """A square that faces +z, its texture's corners at its own."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    mesh = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)
    mesh.export(folder / "card.glb")
    return folder / "card.glb"


def colours_at(path: Path, place: tuple[float, float]) -> Array:
    """What is painted at a point of the square, before light."""
    truth = foreign.read(path)
    x, y = place
    inside = [(0, (1 - x, x - y, y)), (1, (1 - y, x, y - x))][int(y > x)]
    order = [list(truth.faces[inside[0]]).index(v) for v in ((0, 1, 2) if inside[0] == 0 else (0, 2, 3))]
    weights = np.zeros(3)
    weights[order] = inside[1]
    light = shaded(np.ones((1, 3)), np.array([[0.0, 0.0, 1.0]]))[0]
    return truth.paint(np.array([inside[0]]), weights[None])[0] / light


@pytest.mark.parametrize(
    ("place", "colour"),
    [((0.25, 0.75), (1, 0, 0)), ((0.75, 0.75), (0, 1, 0)), ((0.25, 0.25), (0, 0, 1)), ((0.75, 0.25), (1, 1, 0))],
)
def test_a_texture_lies_where_its_coordinates_say(tmp_path: Path, place: tuple[float, float], colour: Any) -> None:
    image = Image.fromarray(QUARTERS).resize((64, 64), Image.Resampling.NEAREST)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    path = card(tmp_path, trimesh.visual.TextureVisuals(uv, material=material))
    assert colours_at(path, place) == pytest.approx(colour, abs=0.02)


def test_vertex_colours_are_mixed_across_a_face(tmp_path: Path) -> None:
    corners = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 0, 0, 255]], np.uint8)
    path = card(tmp_path, trimesh.visual.ColorVisuals(vertex_colors=corners))
    assert colours_at(path, (0.5, 0.0)) == pytest.approx((0.5, 0.5, 0.0), abs=0.01)


def test_what_has_no_colour_is_grey_and_everything_fits_the_sample_s_sphere(tmp_path: Path) -> None:
    trimesh.creation.box((3, 1, 2)).export(tmp_path / "box.obj")
    truth = foreign.read(tmp_path / "box.obj")
    assert np.linalg.norm(truth.vertices, axis=1).max() == pytest.approx(RADIUS)
    assert np.ptp(truth.colours, axis=1).max() == 0 and len(truth.colours) == len(truth.vertices)


@pytest.mark.parametrize("content", [b"no mesh at all", b""])
def test_what_is_no_mesh_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "thing.glb").write_bytes(content)
    with pytest.raises(ValidationFailed, match="cannot be read|no triangles"):
        foreign.read(tmp_path / "thing.glb")


def test_the_command_takes_a_file_and_says_what_else_there_is(tmp_path: Path) -> None:
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    assert sixview("sample", tmp_path / "set", "--object", tmp_path / "ball.ply", "--size", "64").returncode == 0
    assert (tmp_path / "set" / "depth_renders" / "front.png").is_file()
    refused = sixview("sample", tmp_path / "none", "--object", "teapot")
    assert refused.returncode == 10 and "mug" in refused.stderr + refused.stdout
