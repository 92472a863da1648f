"""Cameras as NeRF and COLMAP write them, read back as the cameras they were made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES, Camera, look_at, project
from steps.io import camera_import
from steps.io.cameras_json import View
from steps.io.depth_encoding import DepthEncoding
from steps.runtime.errors import ValidationFailed

SIZE = 320
Y_TO_Z = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # Blender's importer
OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
POINTS = np.random.default_rng(1).normal(size=(20, 3)) * 0.3


def cameras() -> list[Camera]:
    positions = np.random.default_rng(0).normal(size=(6, 3))
    positions *= 3 / np.linalg.norm(positions, axis=1, keepdims=True)
    return [
        look_at(name, p, np.array([0.0, 1.0, 0.0]), SIZE, 400.0) for name, p in zip(VIEW_NAMES, positions, strict=True)
    ]


def transforms(change: Callable[[dict[str, Any]], object] = lambda d: None) -> dict[str, Any]:
    frames = [
        {"file_path": f"./multi_views/{c.name}.png", "transform_matrix": (Y_TO_Z @ c.camera_to_world).tolist()}
        for c in cameras()
    ]
    made = {"camera_angle_x": 2 * np.arctan(SIZE / 2 / 400.0), "frames": frames[::-1]}
    change(made)
    return made


def read(folder: Path, made: dict[str, Any]) -> list[View]:
    path = folder / "transforms.json"
    path.write_text(json.dumps(made))
    views = camera_import.read(path, [(SIZE, SIZE)] * 6)
    assert isinstance(views, list)
    return views


def assert_same_pictures(views: list[View], world: Array | None = None) -> None:
    """Asserts that the views project world points to the pixels of the original cameras. world: (3, 3), rotation between both."""
    rotated_points = POINTS if world is None else POINTS @ world.T
    for view, camera in zip(views, cameras(), strict=True):
        assert view.camera.name == camera.name and (view.camera.width, view.camera.height) == (SIZE, SIZE)
        for there, here in zip(project(rotated_points, view.camera), project(POINTS, camera), strict=True):
            assert there == pytest.approx(here, abs=1e-6)


def test_transforms_become_cameras_with_y_up_and_no_encoding(tmp_path: Path) -> None:
    views = read(tmp_path, transforms())
    assert_same_pictures(views)
    assert all(view.depth is None for view in views)


def test_intrinsics_may_stand_with_a_frame_and_depth_may_have_a_scale(tmp_path: Path) -> None:
    def change(made: dict[str, Any]) -> None:
        del made["camera_angle_x"]
        made["integer_depth_scale"] = 0.001
        for frame in made["frames"]:
            frame |= {"fl_x": 400.0, "fl_y": 400.0, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE}

    views = read(tmp_path, transforms(change))
    assert_same_pictures(views)
    assert views[0].depth == DepthEncoding("metric", scale=0.001)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["frames"].pop(), "no camera for front"),
        (lambda d: d["frames"][0].update(file_path="multi_views/view_0.png"), "two cameras for the view front"),
        (lambda d: d.update(k1=0.1), "distorted lens"),
        (lambda d: d.pop("camera_angle_x"), "camera_angle_x"),
        (lambda d: d["frames"][0].update(transform_matrix=[[1, 2], [3, 4]]), "no 4 x 4 matrix"),
        (lambda d: d["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "last row"),
        (lambda d: d.update(frames=3), "understood"),
    ],
)
def test_a_wrong_transforms_json_is_refused_with_what_is_wrong(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words):
        read(tmp_path, transforms(change))


def colmap(
    folder: Path, lens: str = f"PINHOLE {SIZE} {SIZE} 400 400 {SIZE / 2} {SIZE / 2}", names: str = "{}.png"
) -> Path:
    """A COLMAP text model in an arbitrarily rotated world. Every other line of 2D points is empty."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.random(random_state=4).as_matrix(), (0.3, -2.0, 1.0)
    lines = ["# Image list with two lines of data per image:"]
    for number, camera in enumerate(cameras(), 1):
        pose = np.linalg.inv(world @ camera.camera_to_world @ OPENCV)
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        name = names.format(camera.name)
        lines += [f"{number} {w} {x} {y} {z} {' '.join(map(str, pose[:3, 3]))} 7 {name}"]
        lines += ["" if number % 2 else "10.5 20.5 -1 30.25 40.5 7 1.0 2.0 3 4.0 5.0 -1"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "cameras.txt").write_text(f"# Camera list\n7 {lens}\n")
    return folder


def test_a_colmap_model_becomes_cameras_around_an_upright_front(tmp_path: Path) -> None:
    views = camera_import.of_colmap(colmap(tmp_path))
    front = np.asarray(views[0].camera.camera_to_world)[:3, :3]
    assert front == pytest.approx(np.eye(3), abs=1e-9)
    distances = [np.linalg.norm(a.camera.position - b.camera.position) for a, b in zip(views, views[1:], strict=False)]
    expected = [np.linalg.norm(a.position - b.position) for a, b in zip(cameras(), cameras()[1:], strict=False)]
    assert distances == pytest.approx(expected)
    turn = front @ np.asarray(cameras()[0].camera_to_world)[:3, :3].T
    apart = views[0].camera.position - turn @ cameras()[0].position
    shifted = [View(_shifted(v.camera, -apart), None) for v in views]
    assert_same_pictures(shifted, turn)


def _shifted(camera: Camera, by: Array) -> Camera:
    pose = np.array(camera.camera_to_world)
    pose[:3, 3] += by
    return Camera(camera.name, pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)


def test_a_colmap_model_is_found_where_colmap_puts_it_and_names_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    colmap(tmp_path / "sparse" / "0", names="multi_views/{}.png")
    views = camera_import.read(tmp_path, None)
    assert isinstance(views, list) and [v.camera.name for v in views] == list(VIEW_NAMES)


@pytest.mark.parametrize(
    ("lens", "names", "words"),
    [
        (f"SIMPLE_RADIAL {SIZE} {SIZE} 400 160 160 0.1", "{}.png", "distortion"),
        (f"THIN_PRISM_FISHEYE {SIZE} {SIZE} 400 400 160 160 0 0 0 0 0 0 0 0", "{}.png", "fisheye"),
        (f"PINHOLE {SIZE} {SIZE} 400", "{}.png", "understood"),
        (f"PINHOLE {SIZE} {SIZE} 400 400 160 160", "photo_of_{}.jpg", "no camera for front"),
    ],
)
def test_a_wrong_colmap_model_is_refused_with_what_is_wrong(tmp_path: Path, lens: str, names: str, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words):
        camera_import.of_colmap(colmap(tmp_path, lens, names))


def test_a_missing_camera_file_is_reported_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match=r"no cameras.txt"):
        camera_import.read(tmp_path, None)
    with pytest.raises(ValidationFailed, match="no file"):
        camera_import.read(tmp_path / "none.json", None)


def test_undistorted_radial_lenses_are_taken(tmp_path: Path) -> None:
    views = camera_import.of_colmap(colmap(tmp_path, f"SIMPLE_RADIAL {SIZE} {SIZE} 400 160 160 0"))
    assert (views[0].camera.fx, views[0].camera.fy, views[0].camera.cx) == (400, 400, 160)
