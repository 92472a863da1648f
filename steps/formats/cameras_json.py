"""cameras.json: where the six cameras stand and how the depth renders are encoded. Its schema lies beside this file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.errors import ValidationFailed
from steps.formats.depth_encoding import DepthEncoding
from steps.geometry.cameras import VIEW_NAMES, Camera, Placement, canonical_camera

SCHEMA = Path(__file__).with_name("cameras.schema.json")
ROTATION_TOLERANCE = 1e-3
_HELP = "See the section on cameras.json in the README; `sixview sample` writes a valid one."


@dataclass(frozen=True)
class View:
    """One view's camera, for pictures of the size its intrinsics name, and its depth encoding. colour: where the view's picture
    lies on its depth render, whose camera this is then; None where they meet."""

    camera: Camera
    depth: DepthEncoding
    colour: Placement | None = None


def canonical_views(width: int, height: int) -> list[View]:
    """The rig and the encoding that hold where no cameras.json is given."""
    return [View(canonical_camera(name, width, height), DepthEncoding()) for name in VIEW_NAMES]


def parse(data: bytes) -> list[View]:
    """The six views in the order of VIEW_NAMES. Raises ValidationFailed with the place and what is wrong there."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"is not valid JSON: {error}", _HELP) from None
    _check_schema(document)
    views = {item["name"]: _view(item, document.get("depth")) for item in document["views"]}
    missing = [name for name in VIEW_NAMES if name not in views]
    if missing:
        raise ValidationFailed(f"names no camera for {', '.join(missing)}, and another one twice", _HELP)
    return [views[name] for name in VIEW_NAMES]


def _check_schema(document: Any) -> None:
    import jsonschema  # here, since most inputs come without a cameras.json and its import takes a while

    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    problems = sorted(validator.iter_errors(document), key=lambda e: list(map(str, e.absolute_path)))
    if problems:
        places = [f"{'/'.join(map(str, e.absolute_path)) or 'the whole'}: {e.message[:200]}" for e in problems[:5]]
        raise ValidationFailed(f"does not fit its schema: {'; '.join(places)}", _HELP)


def _view(item: dict[str, Any], common: dict[str, Any] | None) -> View:
    depth = item.get("depth", common)
    if depth is None:
        raise ValidationFailed(f"says nothing about the depth encoding of {item['name']}", _HELP)
    pose = np.array(item["camera_to_world"], dtype=np.float64)
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all() or not np.allclose(pose[3], [0, 0, 0, 1]):
        raise ValidationFailed(f"has a camera_to_world for {item['name']} whose last row is not 0 0 0 1", _HELP)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValidationFailed(
            f"has a camera_to_world for {item['name']} that is no rotation (scaled, skewed or mirrored)", _HELP
        )
    _check_range(item["name"], depth)
    k = item["intrinsics"]
    camera = Camera(item["name"], pose, k["fx"], k["fy"], k["cx"], k["cy"], k["width"], k["height"])
    colour = Placement(**item["colour"]) if "colour" in item else None
    return View(camera, DepthEncoding(**depth), colour)


def _check_range(name: str, depth: dict[str, Any]) -> None:
    near, far = depth.get("near"), depth.get("far")
    if near is None or far is None:
        return
    if near == far:
        raise ValidationFailed(f"has near equal to far for {name}", _HELP)
    if max(near, far) <= 0 or (depth["encoding"] == "inverse" and 0 in (near, far)):
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
    """The cameras.json that `parse` turns back into `views`, each with its own depth encoding."""
    return {
        "format": "sixview-cameras/1",
        "views": [{**camera_json(v.camera), "depth": _written(v.depth), **_placed(v.colour)} for v in views],
    }


def _placed(colour: Placement | None) -> dict[str, Any]:
    return {} if colour is None else {"colour": asdict(colour)}


def _written(e: DepthEncoding) -> dict[str, Any]:
    unused = ("near", "far") if e.encoding == "metric" else ("scale",)
    return {key: value for key, value in e.to_json().items() if key not in unused}
