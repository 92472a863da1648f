"""sample: an input set whose object, cameras and surface are known."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map
from steps.geometry.cameras import CANONICAL_DISTANCE, CANONICAL_FOCAL_PER_WIDTH, VIEW_NAMES, Camera, look_at
from steps.io import png
from steps.io.cameras_json import camera_json, canonical_views, document
from steps.io.depth_encoding import DepthEncoding, encode_linear
from steps.io.mesh_files import write_ply
from steps.runtime.contract import Sample
from steps.runtime.errors import ValidationFailed
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter
from steps.sample import capture, foreign
from steps.sample.objects import OBJECTS
from steps.sample.render import GroundTruth, build, render

UP = np.array([0.0, 1.0, 0.0])
CANONICAL_DEPTH = DepthEncoding()


def run(parameters: Sample, out: Path, reporter: Reporter) -> None:
    """Writes multi_views/, depth_renders/, cameras.json and ground_truth/ to `out`."""
    check(parameters)
    truth = truth_of(parameters.object)
    if parameters.capture == "real":
        write_capture(truth, parameters, out)
        reporter.progress(1, 1)
        return
    views = canonical_views(parameters.size, parameters.size)
    for folder in ("multi_views", "depth_renders", "ground_truth"):
        (out / folder).mkdir()
    pictures = parallel_map(lambda view: render(truth, view.camera), views)
    for index, (view, (colour, depth)) in enumerate(zip(views, pictures, strict=True)):
        name, depth_name = (
            (view.camera.name,) * 2 if parameters.views == "named" else (f"view_{index}", f"depth_{index}")
        )
        png.write(out / "multi_views" / f"{name}.png", _picture(colour, parameters.background))
        counts = encode_linear(depth, CANONICAL_DEPTH.near, CANONICAL_DEPTH.far, parameters.depth_bits)
        png.write(out / "depth_renders" / f"{depth_name}.png", counts)
    write_json(out / "cameras.json", document(views))
    _write_truth(out / "ground_truth", truth, parameters)
    write_json(
        out / "sample.json",
        {
            "object": parameters.object,
            "about": truth.about,
            "size": parameters.size,
            "depth_bits": parameters.depth_bits,
        },
    )
    reporter.progress(1, 1)


def truth_of(name: str) -> GroundTruth:
    """The sample object of that name, or the one in the file of that path."""
    return build(OBJECTS[name]) if name in OBJECTS else foreign.read(Path(name))


def write_capture(truth: GroundTruth, parameters: Sample, out: Path) -> None:
    """A set of unknown cameras; ground truth goes to ground_truth/."""
    write_settings(truth, capture.random_capture(parameters.seed), parameters, out)


def write_settings(truth: GroundTruth, chosen: capture.Capture, parameters: Sample, out: Path) -> None:
    """Writes an input set with the settings of a capture; ground truth goes to ground_truth/."""
    settings = replace(chosen, side=(chosen.side[0] * parameters.size // 512, chosen.side[1] * parameters.size // 512))
    ideal = capture.cameras(truth, settings)
    counts = capture.depth_counts(truth, ideal, settings)
    pictures = parallel_map(
        lambda item: capture.picture(truth, *item, settings), zip(ideal, settings.noises, strict=True)
    )
    for folder in ("multi_views", "depth_renders", "ground_truth"):
        (out / folder).mkdir()
    for name, picture, count in zip(VIEW_NAMES, pictures, counts, strict=True):
        png.write(out / "multi_views" / f"{name}.png", picture)
        png.write(out / "depth_renders" / f"{name}.png", count)
    view_cameras = [capture.colour_camera(c, n, settings.side[0]) for c, n in zip(ideal, settings.noises, strict=True)]
    write_json(
        out / "ground_truth" / "capture.json", {**asdict(settings), "cameras": [camera_json(c) for c in view_cameras]}
    )
    _write_truth(out / "ground_truth", truth, parameters)
    write_json(out / "sample.json", {"object": parameters.object, "about": truth.about, "seed": parameters.seed})


def check(parameters: Sample) -> None:
    """Raises ValidationFailed for parameters of which no sample can be made."""
    if parameters.object not in OBJECTS and not Path(parameters.object).is_file():
        raise ValidationFailed(
            f"There is no object called {parameters.object!r}.",
            f"Choose one of: {', '.join(OBJECTS)}; or name a file with a textured mesh.",
        )
    if parameters.depth_bits not in (8, 16):
        raise ValidationFailed(f"Depth of {parameters.depth_bits} bits is not possible.", "Choose 8 or 16.")
    if not png.MIN_SIDE <= parameters.size <= 4096:
        raise ValidationFailed(
            f"A size of {parameters.size} pixels is not possible.", f"Choose one from {png.MIN_SIDE} to 4096."
        )


def _picture(colour: Array, background: str) -> Array:
    if background == "transparent":
        return png.to_bytes(colour)
    return png.to_bytes(colour[..., :3] * colour[..., 3:] + 1.0 - colour[..., 3:])


def random_cameras(count: int, size: int, seed: int) -> list[Camera]:
    """Cameras in random directions at the canonical distance."""
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    focal = size * CANONICAL_FOCAL_PER_WIDTH
    return [look_at(f"held_{i:02d}", d * CANONICAL_DISTANCE, UP, size, focal) for i, d in enumerate(directions)]


def _write_truth(folder: Path, truth: GroundTruth, parameters: Sample) -> None:
    _write_coloured_ply(folder / "mesh.ply", truth)
    cameras = random_cameras(parameters.held_out, parameters.size, parameters.seed)
    for camera, (colour, depth) in zip(cameras, parallel_map(lambda c: render(truth, c), cameras), strict=True):
        png.write(folder / f"{camera.name}.png", png.to_bytes(colour))
        np.save(folder / f"{camera.name}_depth.npy", depth)
    write_json(folder / "held_out.json", {"views": [camera_json(camera) for camera in cameras]})


def _write_coloured_ply(path: Path, truth: GroundTruth) -> None:
    """The true surface with its colours at the vertices."""
    rows = np.empty(len(truth.vertices), [("position", "<f4", 3), ("colour", "u1", 3)])
    rows["position"], rows["colour"] = truth.vertices, png.to_bytes(truth.colours)
    properties = [*(f"float {n}" for n in "xyz"), *(f"uchar {n}" for n in ("red", "green", "blue"))]
    write_ply(path, properties, rows, truth.faces)
