"""Small objects far from the origin: the same scores as around it, and files in the user's coordinates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import trimesh

from steps.fusion import reconstruct
from steps.io import mesh_files, scene
from steps.quality import run as quality
from steps.runtime.contract import Quality
from steps.runtime.reporter import Reporter
from tests.cases import units
from tests.cases.kit import Case
from tests.io.test_mesh_files import khronos_issues
from tests.quality.test_quality import SCHEMA
from tests.validate.test_local_frame import validated

FACTOR, OFFSET = 0.02, np.array(units.UTM)


def quality_of(source: Path, work: Path) -> tuple[dict[str, Any], Path]:
    """quality.json, and the folder with the mesh."""
    loaded = validated(source, work)
    mesh, _ = reconstruct.reconstruct(loaded.views, reconstruct.Settings(grid=64, faces=2000, texture_size=256))
    for folder in ("mesh", "quality"):
        (work / folder).mkdir()
    mesh_files.save(work / "mesh", mesh, loaded.frame)
    held_out = source / "ground_truth"
    parameters = Quality(
        out=work, outputs=work, scene=work / "scene", mesh=work / "mesh", held_out=held_out, psnr_threshold=10.0
    )
    quality.run(parameters, work / "quality", Reporter(work, "inference"))
    return json.loads((work / "quality" / "quality.json").read_text()), work / "mesh"


@pytest.fixture(scope="module")
def clean(sample_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return quality_of(sample_set("mug", "--held-out", 3), tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def far(sample_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    work = tmp_path_factory.mktemp("far")
    source = sample_set("mug", "--held-out", 3)
    far_set = Case("", units.in_unit(FACTOR, units.UTM)).write(source, work / "set")
    units.move_truth(source / "ground_truth", far_set / "ground_truth", FACTOR, units.UTM)
    return quality_of(far_set, work)


def test_the_scores_are_those_of_the_same_object_around_the_origin(clean: Any, far: Any) -> None:
    here, there = clean[0], far[0]
    assert there["psnr"] == pytest.approx(here["psnr"], abs=1e-3)
    assert there["between"]["psnr"] == pytest.approx(here["between"]["psnr"], abs=1e-3) and here["between"]["psnr"] > 25
    assert there["mesh"]["watertight"] == here["mesh"]["watertight"]


def test_lengths_in_the_quality_file_are_in_the_user_s_unit_with_digits_enough(clean: Any, far: Any) -> None:
    here, there = clean[0], far[0]
    jsonschema.validate(there, json.loads(SCHEMA.read_text()))
    expected = np.array(here["mesh"]["bounds"]) * FACTOR + OFFSET
    assert np.abs(np.array(there["mesh"]["bounds"]) - expected).max() < 1e-5 * FACTOR
    for a, b in zip(here["views"], there["views"], strict=True):
        assert b["depth_error"]["mean"] == pytest.approx(a["depth_error"]["mean"] * FACTOR, rel=0.01) != 0
    assert here["mesh"]["offset"] == [0, 0, 0] and there["mesh"]["offset"] == [431200.0, 5812300.0, 112.0]


@pytest.mark.parametrize("name", ["mesh.obj", "mesh.ply", "mesh.glb"])
def test_every_file_is_where_the_user_has_the_object_and_as_fine_as_around_the_origin(
    name: str, clean: Any, far: Any
) -> None:
    expected, vertices = (
        np.asarray(trimesh.load_mesh(folder / name, process=False).vertices, np.float64) for _, folder in (clean, far)
    )
    assert len(expected) == len(vertices)
    assert np.abs(vertices - (expected * FACTOR + OFFSET)).max() < 1e-5 * FACTOR


def test_a_glb_far_away_is_one_by_khronos_rules(far: Any) -> None:
    issues = khronos_issues(far[1] / "mesh.glb")
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_a_mesh_read_back_is_what_was_scored(far: Any) -> None:
    frame = scene.load(far[1].parent / "scene").frame
    mesh = mesh_files.load(far[1], frame)
    assert np.abs(mesh.vertices).max() < 2
    assert np.array_equal(mesh_files.as_stored(mesh, frame).vertices, mesh.vertices)
