"""Cameras that contradict the pictures are said to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES, Camera, canonical_camera
from steps.geometry.frame import Frame
from steps.geometry.rasterize import rasterize
from steps.sample.objects import OBJECTS
from steps.sample.render import build
from steps.validate import agreement

SIDE = 96


def seen(name: str) -> tuple[list[np.ndarray], list[Camera]]:  # type: ignore[type-arg]
    truth = build(OBJECTS[name], 60)
    cameras = [canonical_camera(view, SIDE, SIDE) for view in VIEW_NAMES]
    return [rasterize(truth.vertices, truth.faces, camera).depth for camera in cameras], cameras


@pytest.mark.parametrize("name", OBJECTS)
def test_what_was_rendered_by_these_cameras_agrees(name: str) -> None:
    assert agreement.contradicted(*seen(name)) < 0.01


@pytest.mark.parametrize("name", OBJECTS)
def test_depth_of_another_encoding_does_not(name: str) -> None:
    depths, cameras = seen(name)
    inverted = [np.where(depth > 0, 5 - depth, 0) for depth in depths]
    assert agreement.contradicted(inverted, cameras) > agreement.SUSPICIOUS


@pytest.mark.parametrize("name", ["mug", "duck"])
def test_nor_do_exchanged_sides_where_the_object_is_not_symmetric(name: str) -> None:
    depths, (front, back, left, right, *rest) = seen(name)
    assert agreement.contradicted(depths, [front, back, right, left, *rest]) > agreement.SUSPICIOUS


def test_a_cameras_json_is_never_overruled_but_its_contradictions_are_told(set_copy: Path, tmp_path: Path) -> None:
    path = set_copy / "cameras.json"
    document = json.loads(path.read_text())
    left, right = (next(v for v in document["views"] if v["name"] == name) for name in ("left", "right"))
    left["camera_to_world"], right["camera_to_world"] = right["camera_to_world"], left["camera_to_world"]
    path.write_text(json.dumps(document))
    words = ["--input", set_copy, "--out", tmp_path / "scene", "--outputs", tmp_path / "outputs"]
    subprocess.run([sys.executable, "-m", "steps.validate", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
    scene = json.loads((tmp_path / "scene" / "scene.json").read_text())
    assert scene["rig"] == "cameras.json" and any("WARNING" in note for note in scene["notes"])
    pose = np.array(scene["views"][VIEW_NAMES.index("left")]["camera_to_world"])
    pose[:3, 3] = Frame.from_json(scene["frame"]).points_out(pose[:3, 3])
    assert np.allclose(pose, left["camera_to_world"], atol=1e-6)
