"""Cases: cameras in other conventions, and exchanged views."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from steps.runtime.contract import VIEW_NAMES
from tests.cases.kit import (
    Array,
    Case,
    cameras,
    depth,
    each_depth,
    each_view,
    view,
    write_cameras,
    write_depth,
    write_view,
)

DUCK = ("--object", "duck", "--size", "256")
HOUSE = ("--object", "house", "--size", "256")
BOWL = ("--object", "bowl", "--size", "256")
OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
BAD, LOW = "VALIDATION_FAILED", "QUALITY_THRESHOLD_FAILED"
Make = Callable[[Path], Path]


def posed(change: Callable[[Array], Array]) -> Make:
    """Every camera_to_world changed."""

    def make(folder: Path) -> Path:
        document = cameras(folder)
        for item in document["views"]:
            item["camera_to_world"] = change(np.array(item["camera_to_world"])).tolist()
        write_cameras(folder, document)
        return folder

    return make


def scaled_positions(factor: float) -> Make:
    """Positions in another unit than depth."""
    return posed(lambda pose: np.block([[pose[:3, :3], pose[:3, 3:] * factor], [np.array([[0, 0, 0, 1.0]])]]))


def near_and_far(near: float, far: float) -> Make:
    """A wrong near and far of the depth encoding."""

    def make(folder: Path) -> Path:
        document = cameras(folder)
        for item in document["views"]:
            item["depth"].update(near=near, far=far)
        write_cameras(folder, document)
        return folder

    return make


def zoomed(factor: float) -> Make:
    """Another focal length."""

    def make(folder: Path) -> Path:
        document = cameras(folder)
        for item in document["views"]:
            for key in ("fx", "fy"):
                item["intrinsics"][key] *= factor
        write_cameras(folder, document)
        return folder

    return make


def exchanged_cameras(a: str, b: str) -> Make:
    def make(folder: Path) -> Path:
        document = cameras(folder)
        of = {item["name"]: item for item in document["views"]}
        of[a]["camera_to_world"], of[b]["camera_to_world"] = of[b]["camera_to_world"], of[a]["camera_to_world"]
        write_cameras(folder, document)
        return folder

    return make


def one_camera(folder: Path) -> Path:
    document = cameras(folder)
    for item in document["views"]:
        item["camera_to_world"] = document["views"][0]["camera_to_world"]
    write_cameras(folder, document)
    return folder


def renamed(order: dict[str, str], views: bool = False, depths: bool = False) -> Make:
    """Views, depth renders or both permuted among the names."""

    def make(folder: Path) -> Path:
        seen = {name: (view(folder, name), depth(folder, name)) for name in VIEW_NAMES}
        for name, source in order.items():
            if views:
                write_view(folder, name, seen[source][0])
            if depths:
                write_depth(folder, name, seen[source][1])
        return folder

    return make


def turned_by_degrees(along: bool) -> Callable[[Array], Array]:
    """Angles about y and x in degrees, taken for radians. along: the positions are made with them."""

    def change(pose: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two of the angles of top and bottom turn about one axis
            angles = Rotation.from_matrix(pose[:3, :3]).as_euler("YXZ", degrees=True).round()
        wrong = np.eye(4)
        wrong[:3, :3] = Rotation.from_euler("YXZ", angles).as_matrix()
        wrong[:3, 3] = wrong[:3, :3] @ pose[:3, :3].T @ pose[:3, 3] if along else pose[:3, 3]
        return wrong

    return change


def swap(a: str, b: str) -> dict[str, str]:
    return {a: b, b: a}


def without_encoding(make: Make) -> Make:
    """The same case without the depth encoding in cameras.json."""

    def made(folder: Path) -> Path:
        document = cameras(make(folder))
        for item in document["views"]:
            item.pop("depth", None)
        document.pop("depth", None)
        write_cameras(folder, document)
        return folder

    return made


def described(name: str, make: Make, *says: str, base: tuple[str, ...] = DUCK, or_code: str = BAD) -> Case:
    """A mesh with a warning, or a refusal: either names the cause. or_code: LOW where fewer points are denied than validate
    refuses, and the mesh is too unlike its views."""
    return Case(f"views {name}", make, base, or_code=or_code, says=says, closed=False)


def refused(name: str, make: Make, *says: str, base: tuple[str, ...] = DUCK) -> Case:
    return Case(f"cameras {name}", make, base, code=BAD, says=says)


MUG = ("--object", "mug", "--size", "256")
ROUND = dict(zip(VIEW_NAMES, (*VIEW_NAMES[1:], VIEW_NAMES[0]), strict=True))
CASES: list[Case] = [
    described("left and right exchanged", renamed(swap("left", "right"), True), "pictures", "left and right", base=MUG),
    described(
        "front and top exchanged",
        renamed(swap("front", "top"), True),
        "pictures",
        "front and top",
        base=HOUSE,
        or_code=LOW,
    ),
    described("front and left exchanged on a bowl", renamed(swap("front", "left"), True), "front and left", base=BOWL),
    described("one twice", renamed({"back": "front"}, True), "back", "front once more", base=MUG),
    described("one twice, right", renamed({"right": "left"}, True), "right", "left once more", base=HOUSE),
    described(
        "depth exchanged", renamed(swap("left", "right"), False, True), "depth renders", "left and right", base=MUG
    ),
    described(
        "depth exchanged, front and top",
        renamed(swap("front", "top"), False, True),
        "depth renders",
        "front and top",
        or_code=LOW,
    ),
    described("depth in another order", renamed(ROUND, False, True), "depth renders", "mixed up", base=MUG),
    described("and depth exchanged", renamed(swap("left", "right"), True, True), "cameras of left and right", base=MUG),
    described(
        "and depth exchanged on a house", renamed(swap("left", "right"), True, True), "left and right", base=HOUSE
    ),
    described(
        "mirrored",
        lambda folder: each_view(folder, lambda p: p[:, ::-1]),
        "pictures stand mirrored",
        base=MUG,
        or_code=LOW,
    ),
    described(
        "and depth upside down",
        lambda folder: each_depth(folder, lambda p: p[::-1]),
        "depth renders stand upside down",
        or_code=LOW,
    ),
    refused("world to camera", posed(np.linalg.inv), "world-to-camera", base=MUG),
    refused("of OpenCV", posed(lambda pose: pose @ OPENCV), "OpenCV", base=MUG),
    refused(
        "of OpenCV, world to camera", posed(lambda pose: OPENCV @ np.linalg.inv(pose)), "world-to-camera", "OpenCV"
    ),
    refused("of PyTorch3D", posed(lambda pose: pose @ np.diag([-1.0, 1, -1, 1])), "PyTorch3D"),
    refused("looking along x", posed(lambda pose: pose @ np.eye(4)[[2, 0, 1, 3]]), "camera-to-world matrices with x"),
    refused("transposed", posed(np.transpose), "transposed", base=MUG),
    refused("with transposed rotations", posed(lambda p: np.block([[p[:3, :3].T, p[:3, 3:]], [p[3:]]])), "transposed"),
    refused("exchanged", exchanged_cameras("left", "right"), "cameras of left and right", base=MUG),
    refused("exchanged, front and bottom", exchanged_cameras("front", "bottom"), "cameras of front and bottom"),
    refused("all the front's", one_camera, "one and the same camera", base=MUG),
    refused("with depth in metres and positions in kilometres", near_and_far(1500.0, 3500.0), "kilometres", base=MUG),
    refused("with positions in millimetres", scaled_positions(1000.0), "millimetres"),
    refused("with positions in inches", scaled_positions(39.3701), "inches", base=HOUSE),
    refused("with positions in no known unit", scaled_positions(1.7), "multiply them by about"),
    refused("turned by degrees for radians", posed(turned_by_degrees(False)), "degrees", base=MUG),
    refused("turned and placed by degrees for radians", posed(turned_by_degrees(True)), "degrees", base=MUG),
    refused("of another lens", zoomed(1.5), "another lens"),
    Case(  # the pictures tell the range, so it is a mesh with a warning
        "cameras with Blender's clip range for near and far",
        near_and_far(0.1, 100.0),
        MUG,
        or_code=BAD,
        loss=0.3,
        ratio=1.3,
        says=("deny the depth encoding", "linear from 0.1 to 100"),
    ),
    Case(
        "cameras of OpenCV without an encoding",
        without_encoding(posed(lambda pose: pose @ OPENCV)),
        MUG,
        code="RIG_AMBIGUOUS",
        or_code=BAD,
        says=("OpenCV",),
    ),
]
