"""Cases: scenes in other units and with other origins. The mesh and its renders are the same; its files are in the user's
coordinates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera
from steps.io.depth_encoding import encode_linear
from steps.io.png import to_bytes
from steps.raster.rasterize import rasterize
from steps.sample.render import GroundTruth, render
from steps.sample.run import truth_of
from tests.cases.kit import MUG, Case, cameras, write_cameras, write_depth, write_view

UTM = (431200.0, 5812300.0, 112.0)  # metres, as photogrammetry has them: east, north, height
UTM_Y_UP = (500000.0, 120.0, 4649776.0)
EARTH_CENTRED = (3875123.4567, 332456.789, 5036789.0123)
FACTORS = (1e-6, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.7, 1000.0, 1e6)


Place = tuple[float, float, float]


def in_unit(factor: float = 1.0, offset: Place = (0.0, 0.0, 0.0)) -> Callable[[Path], Path]:
    """The scene with all lengths times `factor`, then moved by `offset`."""

    def make(folder: Path) -> Path:
        document = cameras(folder)
        for view in document["views"]:
            move(view, factor, offset)
            for end in ("near", "far"):
                view["depth"][end] *= factor
        write_cameras(folder, document)
        return folder

    return make


def from_afar(times: float) -> Callable[[Path], Path]:
    """The mug by cameras so many times further away with as much longer lenses: nearly a parallel projection."""

    def make(folder: Path) -> Path:
        document, truth = cameras(folder), truth_of("mug")
        for view in document["views"]:
            move(view, times, (0.0, 0.0, 0.0))
            for focal in ("fx", "fy"):
                view["intrinsics"][focal] *= times
            camera = Camera(view["name"], np.array(view["camera_to_world"]), **view["intrinsics"])
            near, far = (view["depth"][end] + 2.5 * (times - 1) for end in ("near", "far"))
            view["depth"].update(near=near, far=far)
            write_view(folder, camera.name, to_bytes(render(truth, camera)[0]))
            write_depth(folder, camera.name, encode_linear(exact_depth(truth, camera), near, far, 16))
        write_cameras(folder, document)
        return folder

    return make


def exact_depth(truth: GroundTruth, camera: Camera) -> Array:
    """[H, W] float64: what 32 bits cannot hold from far away."""
    seen = rasterize(truth.vertices, truth.faces, camera)
    weights = np.concatenate([seen.bary, 1 - seen.bary.sum(axis=2, keepdims=True)], axis=2).astype(np.float64)
    corners = np.asarray(truth.vertices, np.float64)[truth.faces[np.maximum(seen.face, 0)]]
    points = (corners * weights[..., None]).sum(axis=2)
    depth = points @ camera.projection[2, :3] + camera.projection[2, 3]
    return np.where(seen.face >= 0, depth, 0.0)


def move(view: Any, factor: float, offset: Place) -> None:
    for row, shift in zip(view["camera_to_world"], offset, strict=False):
        row[3] = row[3] * factor + shift


def move_truth(source: Path, target: Path, factor: float, offset: Place) -> None:
    """A copy of a sample's views from between, for the scene that `placed` makes."""
    shutil.copytree(source, target)
    document = json.loads((source / "held_out.json").read_text())
    for view in document["views"]:
        move(view, factor, offset)
    (target / "held_out.json").write_text(json.dumps(document))
    for depth in target.glob("*_depth.npy"):
        np.save(depth, np.load(depth) * np.float32(factor))


def without_encoding(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The same, with cameras alone: how depth is stored is not said."""

    def made(folder: Path) -> Path:
        document = cameras(make(folder))
        for view in document["views"]:
            del view["depth"]
        write_cameras(folder, document)
        return folder

    return made


FAR_OFF = ("far from the origin", "mesh.glb", "translation")
CASES: list[Case] = [
    *(Case(f"units x {factor:g}", in_unit(factor), loss=0.1) for factor in FACTORS),
    Case("map coordinates", in_unit(offset=UTM), loss=0.1, says=FAR_OFF),
    Case("map coordinates, y up", in_unit(offset=UTM_Y_UP), loss=0.1, says=FAR_OFF),
    Case("Earth-centred coordinates", in_unit(offset=EARTH_CENTRED), loss=0.1, says=FAR_OFF),
    Case("map coordinates in millimetres", in_unit(1000.0, (4.312e8, 5.8123e9, 1.12e5)), loss=0.1, says=FAR_OFF),
    Case("a few centimetres in map coordinates", in_unit(0.02, UTM), loss=0.1, says=FAR_OFF),
    Case("beside the origin", in_unit(0.02, (0.03, -0.05, 0.11)), loss=0.1),
    Case(
        "centimetres in metres, 8-bit depth",
        in_unit(0.05),
        base=("--object", "duck", "--size", "256", "--depth-bits", "8"),
        loss=0.1,
    ),
    Case(
        "millimetres for a donut in map coordinates",
        in_unit(0.001, UTM_Y_UP),
        base=("--object", "donut", *MUG[2:]),
        loss=0.1,
    ),
    Case(
        "a very long lens, as orthographic cameras are approximated", from_afar(1e5), loss=1.5, says=("very far away",)
    ),
    Case("centimetres, encoding not said", without_encoding(in_unit(0.02)), loss=0.5),
    Case("map coordinates, encoding not said", without_encoding(in_unit(offset=UTM)), loss=0.5),
]
