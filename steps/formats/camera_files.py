"""Cameras as other programs write them: NeRF's transforms.json, and COLMAP's text model. Neither says how depth is stored.

The pictures are told by their names, as in the input set: front.png or view_0.png, in whatever folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.errors import ValidationFailed
from steps.formats import cameras_json
from steps.formats.cameras_json import Given, View
from steps.formats.depth_encoding import DepthEncoding
from steps.formats.inputs import MAX_CAMERAS_BYTES, shown, view_index
from steps.geometry.cameras import VIEW_NAMES, Camera

Array = NDArray[Any]
Sizes = list[tuple[int, int]]  # width and height of the six views
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # from OpenCV's axes, x right, y down, z forward
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # from Blender's world, z up
COLMAP = {  # model: how many of its parameters are focal lengths; the principal point follows, then distortion
    "SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2, "FULL_OPENCV": 2,
}  # fmt: skip


def read(path: Path, sizes: Sizes | None) -> Given:
    """A cameras.json, rig.json or transforms.json, or the folder of a COLMAP text model. sizes: of the views; None where those
    cannot be read. Raises ValidationFailed."""
    if path.is_dir():
        return of_colmap(path)
    if not path.is_file():
        raise ValidationFailed(
            f"There is no file {shown(path)}.", "Name an existing cameras.json, or leave the option out."
        )
    data = path.read_bytes()[:MAX_CAMERAS_BYTES]
    if b'"frames"' not in data:
        return cameras_json.parse(data)
    return of_transforms(cameras_json.loaded(data), sizes)


# -- NeRF ---------------------------------------------------------------------------------------------------------------


def of_transforms(document: dict[str, Any], sizes: Sizes | None) -> list[View]:
    """NeRF's and instant-ngp's: `transform_matrix` is OpenGL's camera to a world with z up, which becomes one with y up here, as
    Blender's exporters do it. Intrinsics stand at the top or with the frame: fl_x, fl_y, cx, cy, w, h, or camera_angle_x."""
    try:
        frames = {str(f["file_path"]): {**document, **f} for f in document["frames"]}
        chosen = _six(frames)
        return [_of_frame(i, chosen[i], sizes[i] if sizes else (1, 1)) for i in range(len(VIEW_NAMES))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValidationFailed(
            f"is no transforms.json that can be understood ({type(error).__name__}: {error})",
            "Each frame has file_path and transform_matrix; camera_angle_x or fl_x stands at the top or in the frame.",
        ) from None


def _six(by_file: dict[str, Any]) -> dict[int, Any]:
    """What belongs to each of the six views, by its index."""
    found: dict[int, Any] = {}
    for name, item in by_file.items():
        index = view_index("multi_views", name, VIEW_NAMES)
        if index is not None and found.setdefault(index, item) is not item:
            raise ValidationFailed(f"has two cameras for the view {VIEW_NAMES[index]}", _NAMES)
    missing = [name for i, name in enumerate(VIEW_NAMES) if i not in found]
    if missing:
        raise ValidationFailed(f"names no camera for {', '.join(missing)}", _NAMES)
    return found


_NAMES = (
    "It names pictures front.png, back.png, left.png, right.png, top.png and bottom.png, or view_0.png to view_5.png."
)


def _of_frame(index: int, frame: dict[str, Any], size: tuple[int, int]) -> View:
    if any(frame.get(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2")):
        raise ValidationFailed(f"has a distorted lens for {VIEW_NAMES[index]}", "Undistort the views before.")
    width, height = int(frame.get("w", size[0])), int(frame.get("h", size[1]))
    fx = frame["fl_x"] if "fl_x" in frame else width / 2 / np.tan(float(frame["camera_angle_x"]) / 2)
    fy = frame.get("fl_y", fx)
    pose = Y_UP @ cameras_json.checked_pose(VIEW_NAMES[index], frame["transform_matrix"])
    middle = frame.get("cx", width / 2), frame.get("cy", height / 2)
    camera = Camera(VIEW_NAMES[index], pose, float(fx), float(fy), float(middle[0]), float(middle[1]), width, height)
    scale = frame.get("integer_depth_scale")
    return View(camera, DepthEncoding("metric", scale=float(scale)) if scale else None)


# -- COLMAP -------------------------------------------------------------------------------------------------------------


def of_colmap(folder: Path) -> list[View]:
    """cameras.txt and images.txt, whose poses are OpenCV's from the world to the camera. Its world lies anyhow: it is turned
    until the front view is upright and looks along -z."""
    folder = next(
        (f for f in (folder, folder / "sparse" / "0", folder / "sparse") if (f / "images.txt").is_file()), folder
    )
    if not all((folder / name).is_file() for name in ("cameras.txt", "images.txt")):
        raise ValidationFailed(
            f"{shown(folder)} holds no cameras.txt and images.txt.",
            "Name the folder of a COLMAP model as text: colmap model_converter --output_type TXT.",
        )
    try:
        lenses = {line.split()[0]: line.split() for line in _lines(folder / "cameras.txt")}
        poses = _six({words[9]: words for words in _images(folder / "images.txt")})
        found = [_of_image(i, poses[i], lenses[poses[i][8]]) for i in range(len(VIEW_NAMES))]
    except (KeyError, IndexError, ValueError) as error:
        raise ValidationFailed(
            f"is no COLMAP model that can be understood ({type(error).__name__}: {error})", "Export it as text again."
        ) from None
    turn = np.eye(4)
    turn[:3, :3] = np.asarray(found[0].camera_to_world)[:3, :3].T
    return [View(_turned(camera, turn), None) for camera in found]


def _lines(path: Path) -> list[str]:
    text = path.read_bytes()[: 100 * MAX_CAMERAS_BYTES].decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _images(path: Path) -> Iterator[list[str]]:
    """The lines with poses. Between them stand lines of points, which may be empty, and hold numbers alone."""
    for line in _lines(path):
        words = line.split(maxsplit=9)
        if len(words) == 10 and not re.fullmatch(r"[-+.\deE]+", words[9].split()[0]):
            yield words


def _of_image(index: int, words: list[str], lens: list[str]) -> Camera:
    w, x, y, z, tx, ty, tz = (float(word) for word in words[1:8])
    to_camera = np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = _rotation(w, x, y, z), (tx, ty, tz)
    model, width, height, numbers = lens[1], int(lens[2]), int(lens[3]), [float(word) for word in lens[4:]]
    if model not in COLMAP or any(numbers[COLMAP[model] + 2 :]):
        raise ValidationFailed(
            f"has a {model} lens with distortion for {VIEW_NAMES[index]}", "Undistort first: colmap image_undistorter."
        )
    fx, fy, (cx, cy) = numbers[0], numbers[COLMAP[model] - 1], numbers[COLMAP[model] : COLMAP[model] + 2]
    return Camera(VIEW_NAMES[index], np.linalg.inv(to_camera) @ OPENGL, fx, fy, cx, cy, width, height)


def _rotation(w: float, x: float, y: float, z: float) -> Array:
    """(3, 3) of a quaternion."""
    n = 2 / (w * w + x * x + y * y + z * z)
    return np.array(
        [
            [1 - n * (y * y + z * z), n * (x * y - w * z), n * (x * z + w * y)],
            [n * (x * y + w * z), 1 - n * (x * x + z * z), n * (y * z - w * x)],
            [n * (x * z - w * y), n * (y * z + w * x), 1 - n * (x * x + y * y)],
        ]
    )


def _turned(camera: Camera, turn: Array) -> Camera:
    return Camera(camera.name, turn @ camera.camera_to_world, *(getattr(camera, k) for k in _INTRINSICS))


_INTRINSICS = ("fx", "fy", "cx", "cy", "width", "height")
