"""The unzipped result files in independent programs."""

from __future__ import annotations

import ctypes.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from steps.compute.arrays import Array
from steps.geometry.image_ops import psnr
from steps.io import mesh_files
from tests.conftest import Finished, need
from tests.foreign import f3d_picture, mitsuba_pictures
from tests.io.test_mesh_files import khronos_issues


@pytest.fixture(scope="module")
def unzipped(job: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unzipped")
    with zipfile.ZipFile(job.out / "result.zip") as archive:
        archive.extractall(folder)
    return folder / "reconviagen"


def view(duck: Path, name: str) -> Array:
    rgba = np.asarray(Image.open(duck / "multi_views" / f"{name}.png"), np.float32) / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def test_the_glb_has_neither_errors_nor_warnings(unzipped: Path) -> None:
    issues = khronos_issues(unzipped / "mesh.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_mitsuba_scores_the_glb_as_we_do(unzipped: Path, duck: Path) -> None:
    pictures = mitsuba_pictures(unzipped / "mesh.glb", duck / "cameras.json", samples=144)
    theirs = np.mean([psnr(view(duck, name), picture) for name, picture in pictures.items()])
    ours = json.loads((unzipped / "quality.json").read_text())["psnr"]
    assert theirs == pytest.approx(ours, abs=0.3)


@pytest.mark.parametrize("name", ["mesh.obj", "mesh.ply", "mesh.glb"])
def test_trimesh_finds_the_texture_beside_every_format(unzipped: Path, name: str) -> None:
    loaded = trimesh.load_mesh(unzipped / name, process=False)
    expected = mesh_files.load(unzipped)
    colours = loaded.visual.to_color().vertex_colors[:, :3]
    size = len(expected.texture)
    columns = np.clip((np.asarray(loaded.visual.uv)[:, 0] * size).astype(int), 0, size - 1)
    rows = np.clip(((1 - np.asarray(loaded.visual.uv)[:, 1]) * size).astype(int), 0, size - 1)
    difference = np.abs(colours - expected.texture[rows, columns] * 255)
    assert np.median(difference) < 8 and colours.std(axis=0).max() > 10


def test_the_viewer_f3d_shows_the_obj_with_its_texture(unzipped: Path, duck: Path) -> None:
    need(ctypes.util.find_library("EGL") is not None, "libEGL, for the viewer F3D")
    rendered = f3d_picture(unzipped / "mesh.obj", 128).astype(float)
    reference = view(duck, "front") * 255
    inside = (reference.min(axis=2) < 200) & (rendered.min(axis=2) < 250)
    assert inside.mean() > 0.1
    hues = [p[inside] / p[inside].sum(axis=1, keepdims=True) for p in (rendered, reference)]
    assert (
        np.corrcoef(hues[0].ravel(), hues[1].ravel())[0, 1] > 0.9
    )  # lamps darken, but a duck stays yellow and its beak red


def test_f3d_would_notice_a_missing_texture(unzipped: Path, duck: Path, tmp_path: Path) -> None:
    need(ctypes.util.find_library("EGL") is not None, "libEGL, for the viewer F3D")
    (tmp_path / "mesh.obj").write_bytes((unzipped / "mesh.obj").read_bytes())
    rendered = f3d_picture(tmp_path / "mesh.obj", 128).astype(float)
    inside = rendered.min(axis=2) < 250
    assert np.abs(rendered[inside] - rendered[inside].mean(axis=1, keepdims=True)).max() < 12  # grey
