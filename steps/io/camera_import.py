"""Importers of other programs' cameras: NeRF's transforms.json, and COLMAP's text model. Neither has the depth encoding.

Views are identified by file name, as in the input set: front.png or view_0.png, in any folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES, Camera
from steps.io import cameras_json
from steps.io.cameras_json import Given, View
from steps.io.depth_encoding import DepthEncoding
from steps.io.input_set import MAX_CAMERAS_BYTES, sanitize, view_indices
from steps.runtime.errors import FileTooLarge, ValidationFailed

UNDISTORT = "Undistort the views before (colmap image_undistorter), or render them with a plain perspective camera."
Sizes = list[tuple[int, int]]  # width and height of the six views
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # from OpenCV's axes, x right, y down, z forward
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # from Blender's world, z up
COLMAP = {  # model: how many of its parameters are focal lengths; the principal point follows, then distortion
    "SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2, "FULL_OPENCV": 2,
}  # fmt: skip


def read(path: Path, sizes: Sizes | None) -> Given:
    """The cameras in a cameras.json, rig.json or transforms.json, or in the folder of a COLMAP text model. sizes: of the views;
    None where those cannot be read. Raises ValidationFailed."""
    if path.is_dir():
        return of_colmap(path)
    if not path.is_file():
        raise ValidationFailed(
            f"There is no file {sanitize(path)}.", "Name an existing cameras.json, or leave the option out."
        )
    if path.stat().st_size > MAX_CAMERAS_BYTES:
        raise FileTooLarge(f"has {path.stat().st_size / 1e6:.1f} MB; at most {MAX_CAMERAS_BYTES / 1e6:.0f} MB are read")
    return parse(path.read_bytes(), sizes)


def parse(data: bytes, sizes: Sizes | None) -> Given:
    """The cameras in a cameras.json, rig.json or transforms.json; the format follows from its keys. Raises ValidationFailed."""
    if data.lstrip()[:1] == b"#":
        raise ValidationFailed(
            "is no JSON but looks like part of a COLMAP model",
            "Name the model's folder with --cameras, and take the file out.",
        )
    document = cameras_json.load_json(data)
    if isinstance(document, dict) and "frames" in document:
        return of_transforms(document, sizes)
    return cameras_json.of_document(document)


# -- NeRF ---------------------------------------------------------------------------------------------------------------


def of_transforms(document: dict[str, Any], sizes: Sizes | None) -> list[View]:
    """The views of a transforms.json of NeRF or instant-ngp. `transform_matrix` is OpenGL camera-to-world in a world with z up,
    converted to y up. Intrinsics are at the top level or per frame: fl_x, fl_y, cx, cy, w, h, or camera_angle_x."""
    try:
        frames = {str(f["file_path"]): {**document, **f} for f in document["frames"]}
        chosen = _views_by_index(frames)
        return [_of_frame(i, chosen[i], sizes[i] if sizes else (1, 1)) for i in range(len(VIEW_NAMES))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValidationFailed(
            f"is no transforms.json that can be understood ({type(error).__name__}: {error})",
            "Each frame has file_path and transform_matrix; camera_angle_x or fl_x stands at the top or in the frame.",
        ) from None


def _views_by_index(by_file: dict[str, Any]) -> dict[int, Any]:
    """View index -> entry, from file name -> entry. Raises ValidationFailed."""
    by_index: dict[int, Any] = {}
    indices = view_indices("multi_views", list(by_file), VIEW_NAMES)
    for item, index in zip(by_file.values(), indices, strict=True):
        if index is not None and by_index.setdefault(index, item) is not item:
            raise ValidationFailed(f"has two cameras for the view {VIEW_NAMES[index]}", _NAMES)
    missing = [name for i, name in enumerate(VIEW_NAMES) if i not in by_index]
    if missing:
        raise ValidationFailed(f"names no camera for {', '.join(missing)}", _NAMES)
    return by_index


_NAMES = (
    "It names pictures front.png, back.png, left.png, right.png, top.png and bottom.png, or view_0.png to view_5.png (or "
    "view_1.png to view_6.png)."
)


PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "distortion", "distortion_params")


def _of_frame(index: int, frame: dict[str, Any], size: tuple[int, int]) -> View:
    name = VIEW_NAMES[index]
    _check_lens(name, frame)
    width, height = (int(_positive(name, frame, k, size[i])) for i, k in enumerate(("w", "h")))
    fx = _positive(name, frame, "fl_x") if "fl_x" in frame else width / 2 / np.tan(_angle(name, frame) / 2)
    fy = _positive(name, frame, "fl_y", fx)
    pose = Y_UP @ cameras_json.check_pose(name, _homogeneous(frame["transform_matrix"]))
    cx, cy = float(frame.get("cx", width / 2)), float(frame.get("cy", height / 2))
    scale = _positive(name, frame, "integer_depth_scale") if "integer_depth_scale" in frame else None
    camera = Camera(name, pose, fx, fy, cx, cy, width, height)
    return View(camera, DepthEncoding("metric", scale=scale) if scale else None)


def _check_lens(name: str, frame: dict[str, Any]) -> None:
    """Raises ValidationFailed with the lens model's name unless it is a pinhole without distortion."""
    model = str(frame.get("camera_model", "PINHOLE")).upper()
    fisheye = bool(frame.get("is_fisheye")) or "FISHEYE" in model
    if fisheye or model not in PINHOLES:
        kind = "a fisheye lens" if fisheye else "a lens that is no pinhole"
        raise ValidationFailed(f"has {kind} for {name} (camera_model {model})", UNDISTORT)
    if any(np.any(np.asarray(frame.get(key) or 0, np.float64)) for key in DISTORTION):
        raise ValidationFailed(f"has a distorted lens for {name}", UNDISTORT)


def _positive(name: str, frame: dict[str, Any], key: str, default: float = 0.0) -> float:
    """A positive number of the frame, the default where it is missing. Raises ValidationFailed for others."""
    value = float(frame.get(key, default))
    if not 0 < value < np.inf:
        raise ValidationFailed(f"has {key} {value:g} for {name}, which must be a number above zero", "Export it again.")
    return value


def _angle(name: str, frame: dict[str, Any]) -> float:
    """camera_angle_x, radians. Raises ValidationFailed outside (0, pi)."""
    angle = float(frame["camera_angle_x"])
    if not 0 < angle < np.pi:
        degrees = "; that looks like degrees, where radians are meant" if angle > 2 * np.pi else ""
        raise ValidationFailed(
            f"has camera_angle_x {angle:g} for {name}, which no pinhole has{degrees}",
            f"Write radians{f': {np.radians(angle):.6f}' if degrees and angle < 180 else ', between 0 and pi'}.",
        )
    return angle


def _homogeneous(rows: Any) -> Any:
    """A matrix (4, 4); to one of (3, 4), as some programs write it, the last row is added."""
    return [*rows, [0, 0, 0, 1]] if isinstance(rows, list) and len(rows) == 3 else rows


# -- COLMAP -------------------------------------------------------------------------------------------------------------


def of_colmap(folder: Path) -> list[View]:
    """The views of cameras.txt and images.txt. Poses are world-to-camera in OpenCV's axes. COLMAP's world has an arbitrary
    rotation: it is rotated so that the front view is upright and looks along -z."""
    folder = next(
        (f for f in (folder, folder / "sparse" / "0", folder / "sparse") if (f / "images.txt").is_file()), folder
    )
    if not all((folder / name).is_file() for name in ("cameras.txt", "images.txt")):
        raise ValidationFailed(
            f"{sanitize(folder)} holds no cameras.txt and images.txt.",
            "Name the folder of a COLMAP model as text: colmap model_converter --output_type TXT.",
        )
    try:
        lenses: dict[str, list[str]] = {line.split()[0]: line.split() for line in _lines(folder / "cameras.txt")}
        poses = _views_by_index({words[9]: words for words in _images(folder / "images.txt")})
        cameras = [_of_image(i, poses[i], lenses[poses[i][8]]) for i in range(len(VIEW_NAMES))]
    except (KeyError, IndexError, ValueError) as error:
        raise ValidationFailed(
            f"is no COLMAP model that can be understood ({type(error).__name__}: {error})", "Export it as text again."
        ) from None
    turn = np.eye(4)
    turn[:3, :3] = np.asarray(cameras[0].camera_to_world)[:3, :3].T
    return [View(_rotate_camera(camera, turn), None) for camera in cameras]


def _lines(path: Path) -> list[str]:
    text = path.read_bytes()[: 100 * MAX_CAMERAS_BYTES].decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _images(path: Path) -> Iterator[list[str]]:
    """The fields of each pose line of images.txt, without the lines of 2D points, which may be empty."""
    for line in _lines(path):
        words = line.split(maxsplit=9)
        if len(words) == 10 and not re.fullmatch(r"[-+.\deE]+", words[9].split()[0]):
            yield words


def _of_image(index: int, words: list[str], lens: list[str]) -> Camera:
    name = VIEW_NAMES[index]
    model, width, height = lens[1], int(lens[2]), int(lens[3])
    pose, numbers = [float(word) for word in words[1:8]], [float(word) for word in lens[4:]]
    if not np.isfinite(pose + numbers).all() or not any(pose[:4]):
        raise ValidationFailed(
            f"has numbers for {name} that are not finite, or a quaternion of zeros", "Export it again."
        )
    if model not in COLMAP or any(numbers[COLMAP[model] + 2 :]):
        kind = "a fisheye lens" if "FISHEYE" in model else "a lens with distortion"
        raise ValidationFailed(f"has {kind} for {name} ({model})", "Undistort first: colmap image_undistorter.")
    fx, fy, (cx, cy) = numbers[0], numbers[COLMAP[model] - 1], numbers[COLMAP[model] : COLMAP[model] + 2]
    if min(fx, fy, width, height) <= 0:
        raise ValidationFailed(f"has a focal length or a size for {name} that is not above zero", "Export it again.")
    to_camera = np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = _rotation(*pose[:4]), pose[4:]
    return Camera(name, np.linalg.inv(to_camera) @ OPENGL, fx, fy, cx, cy, width, height)


def _rotation(w: float, x: float, y: float, z: float) -> Array:
    """Rotation matrix (3, 3) of a quaternion."""
    n = 2 / (w * w + x * x + y * y + z * z)
    return np.array(
        [
            [1 - n * (y * y + z * z), n * (x * y - w * z), n * (x * z + w * y)],
            [n * (x * y + w * z), 1 - n * (x * x + z * z), n * (y * z - w * x)],
            [n * (x * z - w * y), n * (y * z + w * x), 1 - n * (x * x + y * y)],
        ]
    )


def _rotate_camera(camera: Camera, turn: Array) -> Camera:
    return Camera(camera.name, turn @ camera.camera_to_world, *(getattr(camera, k) for k in _INTRINSICS))


_INTRINSICS = ("fx", "fy", "cx", "cy", "width", "height")
