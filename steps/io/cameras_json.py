"""cameras.json: poses and intrinsics of the six cameras and the encoding of the depth renders, as far as known. Its JSON schema
is beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES, Camera, Placement, canonical_camera
from steps.geometry.depth_curve import is_monotone
from steps.io.depth_encoding import DepthEncoding
from steps.io.input_set import sanitize
from steps.runtime.errors import ValidationFailed

SCHEMA = Path(__file__).with_name("cameras.schema.json")
ROTATION_TOLERANCE = 1e-3
_HELP = "See docs/cameras.md; `sixview sample` writes a valid one."


@dataclass(frozen=True)
class View:
    """One view's camera, for pictures of the size its intrinsics name, and its depth encoding, None where that is unknown.
    colour: where the view's picture lies on its depth render, whose camera this is then; None where they meet."""

    camera: Camera
    depth: DepthEncoding | None
    colour: Placement | None = None


@dataclass(frozen=True)
class Arrangement:
    """The arrangement of cameras with unknown poses: the name of a rig, or the meaning of the views' names, each None where it is
    unknown. left_is: `viewer` or `object`; top_turned, bottom_turned: degrees, counter-clockwise; field_of_view: degrees across
    the depth renders' longer side, 0 for orthographic."""

    preset: str = ""
    left_is: str | None = None
    top_turned: int | None = None
    bottom_turned: int | None = None
    field_of_view: float | None = None


Given = list[View] | Arrangement


def canonical_views(width: int, height: int) -> list[View]:
    """The six views of the canonical rig with its depth encoding, the default where no cameras.json is given."""
    return [View(canonical_camera(name, width, height), DepthEncoding()) for name in VIEW_NAMES]


def parse(data: bytes) -> Given:
    """The six views in the order of VIEW_NAMES, or their arrangement, from a cameras.json or rig.json. Raises ValidationFailed
    with the JSON path and the fault."""
    return of_document(load_json(data))


def of_document(document: Any) -> Given:
    """As `parse`, from decoded JSON."""
    if isinstance(document, dict) and "decision" in document:
        document = document.get("cameras", document)
    if isinstance(document, dict) and ("views" in document) == ("rig" in document):
        raise ValidationFailed("needs either views, with all cameras, or rig, with how they stand", _HELP)
    _check_lenses(document)
    _check_schema(document)
    if "rig" in document:
        rig = document["rig"]
        return Arrangement(preset=rig) if isinstance(rig, str) else Arrangement(**rig)
    views = {item["name"]: _view(item, document.get("depth")) for item in document["views"]}
    missing = [name for name in VIEW_NAMES if name not in views]
    if missing:
        raise ValidationFailed(f"names no camera for {', '.join(missing)}, and another one twice", _HELP)
    return [views[name] for name in VIEW_NAMES]


def load_json(data: bytes) -> Any:
    """Decoded JSON of any Unicode encoding. Raises ValidationFailed, also for numbers that are not finite."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"is not valid JSON: {error}", _HELP) from None
    if json_paths := list(_not_finite(document, "")):
        raise ValidationFailed(
            f"has numbers that are not finite: {', '.join(json_paths[:5])}",
            "Export the cameras again, and look at these places.",
        )
    return document


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """JSON paths of NaN and Infinity, as `views/2 (left)/intrinsics/fx: nan`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place.lstrip('/')}: {value}"
    has_name = isinstance(value, dict) and isinstance(value.get("name", value.get("file_path")), str)
    label = f" ({sanitize(value.get('name', value.get('file_path')))[:80]})" if has_name else ""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _not_finite(item, f"{place}{label}/{sanitize(key)[:80]}")


def _check_lenses(document: Any) -> None:
    """Raises ValidationFailed for keys of lens distortion, which other formats have: cameras.json describes pinholes only."""
    views = document.get("views") if isinstance(document, dict) else None
    for item in views if isinstance(views, list) else []:
        inner = item.get("intrinsics") if isinstance(item, dict) else None
        words = [key for part in (item, inner) if isinstance(part, dict) for key in part if str(key).lower() in _LENSES]
        if words:
            name = item.get("name", "a view") if isinstance(item, dict) else "a view"
            raise ValidationFailed(
                f"has a lens with distortion for {sanitize(name)} ({sanitize(', '.join(map(str, words)))})",
                "Undistort the views before, and leave these out: only pinhole cameras are known here.",
            )


_LENSES = {
    *(f"k{i}" for i in range(1, 7)),
    "p1",
    "p2",
    "distortion",
    "dist_coeffs",
    "is_fisheye",
    "fisheye",
    "camera_model",
    "model",
}


def _check_schema(document: Any) -> None:
    import jsonschema  # here, since most inputs come without a cameras.json and its import takes a while

    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    problems = sorted(validator.iter_errors(document), key=lambda e: list(map(str, e.absolute_path)))
    if problems:
        faults_by_path = [
            f"{'/'.join(map(str, e.absolute_path)) or 'the whole'}: {e.message[:200]}" for e in problems[:5]
        ]
        raise ValidationFailed(f"does not fit its schema: {'; '.join(faults_by_path)}", _HELP)


def _view(item: dict[str, Any], common: dict[str, Any] | None) -> View:
    depth = item.get("depth", common)
    if depth is not None:
        _check_range(item["name"], depth)
    k = item["intrinsics"]
    pose = check_pose(item["name"], item["camera_to_world"])
    camera = Camera(item["name"], pose, k["fx"], k["fy"], k["cx"], k["cy"], k["width"], k["height"])
    colour = Placement(**item["colour"]) if "colour" in item else None
    return View(camera, None if depth is None else DepthEncoding(**depth), colour)


def check_pose(name: str, rows: Any) -> Array:
    """A rigid camera_to_world matrix (4, 4). Raises ValidationFailed for others."""
    pose = np.array(rows, dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValidationFailed(f"has a camera_to_world for {name} that is no 4 x 4 matrix", _HELP)
    rotation = pose[:3, :3]
    if np.allclose(pose[:, 3], [0, 0, 0, 1]) and not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValidationFailed(
            f"has a camera_to_world for {name} that looks transposed: its translation stands in the last row",
            "Write each matrix row by row, with the translation in the last column.",
        )
    if not np.isfinite(pose).all() or not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValidationFailed(f"has a camera_to_world for {name} whose last row is not 0 0 0 1", _HELP)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValidationFailed(
            f"has a camera_to_world for {name} that is no rotation (scaled, skewed or mirrored)", _HELP
        )
    return pose


def _check_range(name: str, depth: dict[str, Any]) -> None:
    if not is_monotone(depth.get("curve")):
        raise ValidationFailed(f"has a curve for {name} whose knots do not rise, in both numbers", _HELP)
    near, far = depth.get("near"), depth.get("far")
    if near is None or far is None:
        return
    if near == far:
        raise ValidationFailed(f"has near equal to far for {name}", _HELP)
    undefined = {"inverse": 0 in (near, far), "logarithmic": min(near, far) <= 0}
    if max(near, far) <= 0 or undefined.get(depth["encoding"], False):
        raise ValidationFailed(f"has near and far for {name} between which nothing lies before the camera", _HELP)


def camera_json(camera: Camera) -> dict[str, Any]:
    """A camera as cameras.json has it."""
    intrinsics = {key: getattr(camera, key) for key in ("fx", "fy", "cx", "cy", "width", "height")}
    return {
        "name": camera.name,
        "camera_to_world": np.asarray(camera.camera_to_world).tolist(),
        "intrinsics": intrinsics,
    }


def document(views: list[View]) -> dict[str, Any]:
    """The cameras.json of views, each with its own depth encoding if known; inverse of `parse`."""
    return {
        "format": "sixview-cameras/1",
        "views": [{**camera_json(v.camera), **_encoding_json(v.depth), **_placement_json(v.colour)} for v in views],
    }


def _placement_json(colour: Placement | None) -> dict[str, Any]:
    return {} if colour is None else {"colour": asdict(colour)}


def _encoding_json(e: DepthEncoding | None) -> dict[str, Any]:
    if e is None:
        return {}
    unused = ("near", "far") if e.encoding == "metric" else ("scale",)
    return {"depth": {key: value for key, value in e.to_json().items() if key not in unused}}
