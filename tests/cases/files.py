"""Cases: file names, archives and camera files of other tools."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steps.runtime.contract import VIEW_NAMES
from tests.cases.kit import Case, cameras, depth, metres, view, write_cameras, write_depth, write_view

Y_TO_Z = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # as Blender's importer turns a world
INVALID = "VALIDATION_FAILED"


# -- transforms.json ----------------------------------------------------------------------------------------------------


def transforms(
    folder: Path, change: Callable[[dict[str, Any]], object] = lambda t: None, encoding: str = "utf-8"
) -> Path:
    """The sample's cameras as nerfstudio writes them, in place of cameras.json; with depth in counts whose scale it names."""
    document = cameras(folder)
    k = document["views"][0]["intrinsics"]
    frames = [
        {"file_path": f"images/{v['name']}.png", "transform_matrix": (Y_TO_Z @ np.array(v["camera_to_world"])).tolist()}
        for v in document["views"]
    ]
    size = {"w": k["width"], "h": k["height"], "fl_x": k["fx"], "fl_y": k["fy"], "cx": k["cx"], "cy": k["cy"]}
    made = {"camera_model": "OPENCV", **size, "k1": 0.0, "k2": 0.0, "integer_depth_scale": 1e-4, "frames": frames}
    change(made)
    for name in VIEW_NAMES:
        write_depth(folder, name, np.rint(metres(depth(folder, name)) * 1e4).astype(np.uint16))
    (folder / "cameras.json").unlink()
    (folder / "transforms.json").write_bytes(json.dumps(made, indent=1).encode(encoding))
    return folder


def each_frame(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda made: [change(frame) for frame in made["frames"]]


def windows_paths(frame: dict[str, Any]) -> None:
    frame["file_path"] = "C:\\scans\\mug 1\\images\\" + Path(frame["file_path"]).name


def as_angle(in_degrees: bool) -> Callable[[dict[str, Any]], object]:
    def change(made: dict[str, Any]) -> None:
        angle = 2 * np.arctan(made["w"] / 2 / made["fl_x"])
        for key in ("fl_x", "fl_y", "cx", "cy"):
            del made[key]
        made["camera_angle_x"] = float(np.degrees(angle) if in_degrees else angle)

    return change


def video_frames(made: dict[str, Any]) -> None:
    made["frames"] = [{**made["frames"][0], "file_path": f"images/frame_{i:05d}.png"} for i in range(40)] + made[
        "frames"
    ]


def fisheye(folder: Path) -> Path:
    """Pictures of an equidistant lens (r = f * angle), with all its coefficients zero."""
    k = cameras(folder)["views"][0]["intrinsics"]
    focal, side = k["fx"], k["width"]
    y, x = np.mgrid[0:side, 0:side] + 0.5 - side / 2
    r = np.hypot(x, y)
    s = np.tan(np.minimum(r / focal, 1.5)) * focal / np.maximum(r, 1e-9)
    column, row = (np.clip(np.floor(a * s + side / 2).astype(int), 0, side - 1) for a in (x, y))
    for name in VIEW_NAMES:
        write_view(folder, name, view(folder, name)[row, column])
        write_depth(folder, name, depth(folder, name)[row, column])
    return transforms(folder, lambda made: made.update(camera_model="OPENCV_FISHEYE"))


# -- cameras.json -------------------------------------------------------------------------------------------------------


def number(place: tuple[str, ...], value: float) -> Callable[[Path], Path]:
    """One number of the left view's camera changed."""

    def make(folder: Path) -> Path:
        document = cameras(folder)
        item = next(v for v in document["views"] if v["name"] == "left")
        for key in place[:-1]:
            item = item[key]
        item[place[-1]] = value
        write_cameras(folder, document)
        return folder

    return make


def nan_pose(folder: Path) -> Path:
    document = cameras(folder)
    document["views"][2]["camera_to_world"][0][3] = float("nan")
    write_cameras(folder, document)
    return folder


BOXES = (
    (30, 20, 236, 240),
    (10, 36, 256, 226),
    (44, 10, 210, 250),
    (40, 40, 220, 230),
    (0, 30, 256, 200),
    (20, 0, 230, 256),
)


def needed_cameras(folder: Path, place: str, encoding: str = "utf-8") -> Path:
    """Each view cropped differently, so that the cameras must be read, from a file with another path or name."""
    document = cameras(folder)
    for box, item in zip(BOXES, document["views"], strict=True):
        name, k = item["name"], item["intrinsics"]
        left, top, right, bottom = (edge * k["width"] // 256 for edge in box)
        write_view(folder, name, view(folder, name)[top:bottom, left:right])
        write_depth(folder, name, depth(folder, name)[top:bottom, left:right])
        k.update(cx=k["cx"] - left, cy=k["cy"] - top, width=right - left, height=bottom - top)
    (folder / "cameras.json").unlink()
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_bytes(json.dumps(document).encode(encoding))
    return folder


def colmap_beside(folder: Path) -> Path:
    """cameras.txt of a COLMAP model, alone."""
    (folder / "cameras.json").unlink()
    (folder / "cameras.txt").write_text("# Camera list\n1 PINHOLE 256 256 277.75 277.75 128 128\n")
    return folder


def two_candidates(folder: Path) -> Path:
    text = (folder / "cameras.json").read_text()
    (folder / "cameras.json").unlink()
    for name in ("rig-1.json", "rig-2.json"):
        (folder / name).write_text(text)
    return folder


# -- archives and names -------------------------------------------------------------------------------------------------


def archived(folder: Path, called: Callable[[str], str], more: dict[str, bytes] | None = None) -> Path:
    """A ZIP; called: from a path in the set to its name in the archive; more: other entries."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo()
            info.filename = called(file.relative_to(folder).as_posix())  # set afterwards, as it would be put right
            archive.writestr(info, file.read_bytes())
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return path


def with_backup(folder: Path, place: str) -> Path:
    copies = {f"{place}/{p.relative_to(folder)}": p.read_bytes()[:-9] for p in folder.rglob("*.*") if p.is_file()}
    return archived(folder, lambda name: f"mug/{name}", copies)


def renamed(folder: Path, views: str, depths: str) -> Path:
    """Patterns with {name} and {number}."""
    for index, name in enumerate(VIEW_NAMES):
        for field, pattern in (("multi_views", views), ("depth_renders", depths)):
            (folder / field / f"{name}.png").rename(folder / field / pattern.format(name=name, number=index))
    return folder


def from_one(folder: Path, views: str = "view_{}", depths: str = "depth_{}", first: int = 1) -> Path:
    """Patterns of a number that counts from one; first: that of the depth renders."""
    for index, name in enumerate(VIEW_NAMES):
        for field, new in (("multi_views", views.format(index + 1)), ("depth_renders", depths.format(index + first))):
            (folder / field / f"{name}.png").rename(folder / field / f"{new}.png")
    return folder


def numbered_cameras(folder: Path) -> Path:
    """The same, and the frames of a transforms.json, too."""
    numbers = {name: i + 1 for i, name in enumerate(VIEW_NAMES)}

    def renumber(frame: dict[str, Any]) -> None:
        frame["file_path"] = f"images/view_{numbers[Path(frame['file_path']).stem]:03d}.png"

    return from_one(transforms(folder, each_frame(renumber)), "view_{:03d}", "view_{:03d}")


def seven_numbered(folder: Path) -> Path:
    renamed(folder, "view_{number}.png", "depth_{number}.png")
    (folder / "multi_views" / "view_6.png").write_bytes((folder / "multi_views" / "view_0.png").read_bytes())
    return folder


def side_files(folder: Path, upper: bool = False) -> Path:
    """What Unity, Godot, Synology, GDAL, Windows and Blender leave beside pictures."""
    for field in ("multi_views", "depth_renders"):
        for name in VIEW_NAMES:
            for ending in ("meta", "import", "aux.xml", "xmp"):
                (folder / field / f"{name}.png.{ending}").write_text("guid: 1")
            (folder / field / f"{name}.exr").write_bytes(b"v/1\x01")
        (folder / field / "@eaDir").mkdir()
        (folder / field / "@eaDir" / "front.png@SynoEAStream").write_bytes(b"x")
        (folder / field / "old").mkdir()
        (folder / field / "old" / "front.png").write_bytes(b"x")
        for name in ("Thumbs.db", ".DS_Store", "._front.png", "notes.txt"):
            (folder / field / name).write_bytes(b"x")
        if upper:
            (folder / field).rename(folder / field.title())
    return folder


CASES: list[Case] = [
    Case("nerf_transforms", transforms, loss=0.2, says=("transforms.json",)),
    Case("nerf_transforms backslash", lambda f: transforms(f, each_frame(windows_paths)), loss=0.2),
    Case(
        "nerf_transforms row3x4",
        lambda f: transforms(f, each_frame(lambda t: t.update(transform_matrix=t["transform_matrix"][:3]))),
        loss=0.2,
    ),
    Case("nerf_transforms utf16", lambda f: transforms(f, encoding="utf-16"), loss=0.2),
    Case("nerf_transforms utf8 with a mark", lambda f: transforms(f, encoding="utf-8-sig"), loss=0.2),
    Case("nerf_transforms camera_angle", lambda f: transforms(f, as_angle(False)), loss=0.2),
    Case("nerf_transforms video frames", lambda f: transforms(f, video_frames), loss=0.2),
    Case(
        "nerf_transforms camera_angle_deg",
        lambda f: transforms(f, as_angle(True)),
        code=INVALID,
        says=("degrees", "camera_angle_x"),
    ),
    Case(
        "nerf_transforms fisheye_flag",
        lambda f: transforms(f, lambda t: t.update(is_fisheye=True)),
        code=INVALID,
        says=("fisheye",),
    ),
    Case(
        "nerf_transforms equirectangular",
        lambda f: transforms(f, lambda t: t.update(camera_model="EQUIRECTANGULAR")),
        code=INVALID,
        says=("EQUIRECTANGULAR",),
    ),
    Case(
        "nerf_transforms distorted",
        lambda f: transforms(f, lambda t: t.update(k1=0.05)),
        code=INVALID,
        says=("distorted lens",),
    ),
    Case(
        "nerf_transforms nan_fl",
        lambda f: transforms(f, lambda t: t.update(fl_x=float("nan"))),
        code=INVALID,
        says=("fl_x: nan",),
    ),
    Case(
        "nerf_transforms zero_fl",
        lambda f: transforms(f, lambda t: t.update(fl_x=0)),
        code=INVALID,
        says=("fl_x 0 for front",),
    ),
    Case(
        "nerf_transforms negative_fl",
        lambda f: transforms(f, lambda t: t.update(fl_y=-300)),
        code=INVALID,
        says=("fl_y -300",),
    ),
    Case(
        "nerf_transforms w0",
        lambda f: transforms(f, lambda t: t.update(w=0)),
        code=INVALID,
        says=("has w 0 for front",),
    ),
    Case(
        "nerf_transforms nan_pose",
        lambda f: transforms(f, lambda t: t["frames"][2]["transform_matrix"][0].__setitem__(3, float("inf"))),
        code=INVALID,
        says=("images/left.png", "inf"),
    ),
    Case("nerf_fisheye", fisheye, code=INVALID, says=("fisheye", "OPENCV_FISHEYE")),
    Case("cam_wrong nan_fx", number(("intrinsics", "fx"), float("nan")), code=INVALID, says=("left", "fx: nan")),
    Case("cam_wrong nan_cx", number(("intrinsics", "cx"), float("nan")), code=INVALID, says=("left", "cx: nan")),
    Case("cam_wrong inf_fx", number(("intrinsics", "fx"), float("inf")), code=INVALID, says=("left", "fx: inf")),
    Case("cam_wrong nan_near", number(("depth", "near"), float("nan")), code=INVALID, says=("left", "near: nan")),
    Case("cam_wrong zero_fy", number(("intrinsics", "fy"), 0), code=INVALID, says=("fy", "minimum")),
    Case("cam_wrong k1", number(("intrinsics", "k1"), 0.1), code=INVALID, says=("distortion for left (k1)",)),
    Case("cam_wrong nan pose", nan_pose, code=INVALID, says=("left", "camera_to_world/0/3: nan")),
    *(
        Case(
            f"cameras_file_misplaced {place}",
            lambda f, p=place: needed_cameras(f, p),
            loss=1.0,
            says=(f"read from {place}",),
        )  # type: ignore[misc]
        for place in (
            "Cameras.json",
            "camera.json",
            "multi_views/cameras.json",
            "cameras.json.txt",
            "calibration/cameras.json",
            "my poses.json",
            "CAMERAS.JSON",
        )
    ),
    Case(
        "cameras_file_misplaced utf16",
        lambda f: needed_cameras(f, "depth_renders/Camera.json", "utf-16"),
        loss=1.0,
        says=("read from",),
    ),
    Case("cameras_file_misplaced colmap", colmap_beside, code=INVALID, says=("cameras.txt", "COLMAP")),
    Case("cameras_file_misplaced twice", two_candidates, code=INVALID, says=("rig-1.json", "rig-2.json")),
    Case("zip backslashes", lambda f: archived(f, lambda n: f"mug\\{n}".replace("/", "\\"), {"mug\\": b""}), loss=0.1),
    Case("zip entry .", lambda f: archived(f, lambda n: n, {".": b"", "./": b""}), loss=0.1),
    Case("zip ./ before names", lambda f: archived(f, lambda n: f"./{n}"), loss=0.1),
    Case("zip colon", lambda f: archived(f, lambda n: f"scan 12:30/{n}"), loss=0.1),
    Case("zip backup", lambda f: with_backup(f, "mug/backup"), loss=0.1, says=("mug/backup",)),
    Case("zip backup two deep", lambda f: with_backup(f, "mug/multi_views/old/1"), loss=0.1, says=("left out",)),
    Case("zip two sets", lambda f: with_backup(f, "mug 2"), code=INVALID, says=("mug 2",)),
    Case("zip side files", lambda f: archived(side_files(f), lambda n: f"mug/{n}"), loss=0.1),
    Case("names side files", side_files, loss=0.1, says=("front.exr",)),
    Case("names upper case fields", lambda f: side_files(f, upper=True), loss=0.1),
    Case("names frame numbers", lambda f: renamed(f, "{name}0001.png", "{name}_0001.png"), loss=0.1),
    Case("names three digits", lambda f: renamed(f, "view_{number:03d}.png", "depth_{number:04d}.png"), loss=0.1),
    Case("names from one", from_one, loss=0.1, says=("count from one", "view_1.png is front", "depth_6.png is bottom")),
    Case("names from one 001", lambda f: from_one(f, "view_{:03d}"), loss=0.1, says=("view_001.png is front",)),
    Case("names from one and cameras", numbered_cameras, loss=0.2, says=("count from one", "transforms.json")),
    Case("names from one, depth from 0", lambda f: from_one(f, first=0), loss=0.1, says=("in multi_views count",)),
    Case("names 0 to 6", seven_numbered, code="INVALID_FILE_COUNT", says=("7 files", "0 to 6: six are 0 to 5")),
    Case("names with a word", lambda f: renamed(f, "RGB_{name}.png", "{name}_depth.0001.png"), loss=0.1),
]
