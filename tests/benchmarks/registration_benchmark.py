"""A model's mesh may come in any pose: is it laid where it belongs, and what is it worth in the photographs' colours?

`python -m tests.benchmarks registration` takes each object in turn, disturbs it as tests/benchmarks/disturbed.py says and
registers it; then it lays each object on every other one's views, which must be refused; then it bakes the six views onto the
undisturbed meshes where registration puts them, beside the engine fusion's own result."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.fusion import reconstruct
from steps.geometry.image_ops import iou, psnr
from steps.io import scene
from steps.raster.rasterize import rasterize
from steps.raster.render import render
from steps.reconviagen.model import GeneratedMesh
from steps.reconviagen.placing import registration_view, texture_registered
from steps.registration import pointcloud
from steps.registration.global_icp import Similarity, angle
from steps.registration.refine import FULL_POINTS, Registration, register
from steps.sample.render import GroundTruth
from tests.benchmarks import objects
from tests.benchmarks.captures_benchmark import truth_of
from tests.benchmarks.disturbed import Disturbed, dense, disturbed

FOLDER = Path("out/benchmarks/registration")
COUNT = int(os.environ.get("SIXVIEW_REGISTRATIONS", "300"))
DEGREES, SHARE, OVERLAP = 1.0, 0.005, 0.97  # what is asked: rotation, mean displacement per diagonal, IoU of the masks


@dataclass(frozen=True)
class Result:
    """turned: degrees; shifted: root of the mean squared displacement of the mesh, as a share of the diagonal; iou: of the
    undisturbed mesh's outlines, where the found transform puts it, with the masks."""

    turned: float
    shifted: float
    iou: float
    seconds: float
    found: Registration

    @property
    def right(self) -> bool:
        return self.turned < DEGREES and self.shifted < SHARE and self.iou >= OVERLAP and self.found.fits


def main() -> None:
    results = []
    for seed in range(COUNT):
        name = objects.NAMES[seed % len(objects.NAMES)]
        results.append(tried(name, seed))
        print(f"{seed} {name}: {described(results[-1])}", flush=True)
    right, seconds = sum(r.right for r in results), sorted(r.seconds for r in results)
    print(f"{right} of {len(results)} right; median {seconds[len(seconds) // 2]:.1f} s, slowest {seconds[-1]:.1f} s")
    print_strangers()
    print_bakes()


def described(r: Result) -> str:
    word = "right" if r.right else "WRONG"
    return (
        f"{word}, {r.turned:.2f} degrees, {100 * r.shifted:.2f} % of the diagonal, IoU {r.iou:.3f}, explained "
        f"{r.found.precision:.2f}, covered {r.found.recall:.2f}, margin {r.found.margin:.2f}, {r.seconds:.1f} s"
    )


def scene_of(name: str, size: int = 512, folder: Path = FOLDER) -> scene.Scene:
    """The object's clean views, through the project's own steps; made once."""
    out = folder / f"{name}_{size}"
    if not (out / "scene" / "scene.json").exists():
        _step("sample", out / "set", "--object", objects.source(name), "--size", str(size))
        _step("validate", out / "scene", "--input", str(out / "set"))
    return scene.load(out / "scene")


def _step(step: str, out: Path, *words: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        f"steps.{step}",
        *words,
        "--out",
        str(out),
        "--outputs",
        str(out.with_suffix(".outputs")),
    ]
    subprocess.run(command, check=True)


def cloud_of(mesh: Disturbed) -> pointcloud.PointCloud:
    cloud, face, weights = pointcloud.sample_mesh(mesh.vertices, mesh.faces, FULL_POINTS)
    return replace(cloud, colours=mesh.paint(face, weights))


def tried(name: str, seed: int, size: int = 512, folder: Path = FOLDER) -> Result:
    truth = truth_of(name)
    loaded = scene_of(name, size, folder)
    mesh = disturbed(truth, seed)
    cloud, views = cloud_of(mesh), [registration_view(view) for view in loaded.views]
    began = time.perf_counter()
    found = register(cloud, views)
    seconds = time.perf_counter() - began
    pose = Similarity(loaded.frame.scale, np.eye(3), np.array(loaded.frame.offset)).after(found.pose)
    turned = float(np.degrees(angle(pose.rotation, mesh.back.rotation)))
    return Result(turned, displaced(mesh, pose), silhouette_iou(truth, mesh, pose, loaded), seconds, found)


def displaced(mesh: Disturbed, pose: Similarity) -> float:
    there, true = pose(mesh.vertices), mesh.back(mesh.vertices)
    return float(np.sqrt(((there - true) ** 2).sum(axis=1).mean()) / np.linalg.norm(np.ptp(true, axis=0)))


def silhouette_iou(truth: GroundTruth, mesh: Disturbed, pose: Similarity, loaded: scene.Scene) -> float:
    vertices = loaded.frame.points_in(pose(mesh.back.inverse()(truth.vertices)))
    found = []
    for view in loaded.views:
        own = rasterize(vertices, truth.faces, view.camera).face >= 0
        found.append(iou(own, view.coverage() > 0.5))
    return float(np.mean(found))


def print_strangers() -> None:
    """Every object on the views of every other."""
    refused, loaded = 0, []
    for name in objects.NAMES:
        cloud = cloud_of(disturbed(truth_of(name), 5))
        for other in objects.NAMES:
            if other == name:
                continue
            found = register(cloud, [registration_view(view) for view in scene_of(other).views])
            refused += not found.fits
            loaded += [f"{name} for {other} ({found.precision:.2f}, {found.recall:.2f})"] if found.fits else []
    print(f"meshes of other objects: {refused} refused, taken: {', '.join(loaded) or 'none'}", flush=True)


# -- in the photographs' colours ----------------------------------------------------------------------------------------


def print_bakes() -> None:
    """PSNR at the inputs, in dB, and a picture of each beside the view: out/benchmarks/registration/bakes.png."""
    rows, gains = [], []
    for seed, name in enumerate(objects.NAMES):
        truth = truth_of(name)
        loaded = scene_of(name)
        fused, _ = reconstruct.reconstruct(loaded.views, reconstruct.Settings())
        mesh, pictures = rebaked(truth, loaded, seed)
        ours, reference = scored(mesh, loaded), scored(fused, loaded)
        gains.append(ours - reference)
        rows.append(pictures)
        print(f"{name}: baked where it was laid {ours:.2f} dB, fusion's own {reference:.2f} dB", flush=True)
    Image.fromarray(np.vstack(rows)).save(FOLDER / "bakes.png")
    print(f"mean difference {np.mean(gains):+.2f} dB")


def rebaked(truth: GroundTruth, loaded: scene.Scene, seed: int) -> tuple[Any, Array]:
    """The true mesh after a random transform, without noise, laid back and baked; and pictures of it from three views."""
    vertices, _, faces, source, corners = dense(truth)
    pose = disturbed(truth, seed).back.inverse()
    owner = np.zeros(len(vertices), int)
    owner[faces.ravel()] = np.arange(faces.size)
    colours = truth.paint(source[owner // 3], corners[owner // 3, owner % 3])
    made = GeneratedMesh(pose(vertices), faces, colours)
    cloud, face, weights = pointcloud.sample_mesh(made.vertices, made.faces, FULL_POINTS)
    coloured = replace(cloud, colours=(colours[faces[face]] * weights[..., None]).sum(axis=1))
    found = register(coloured, [registration_view(view) for view in loaded.views])
    mesh, _, _ = texture_registered(made, found, loaded.views, reconstruct.Settings())
    pointclouds = [
        np.hstack([_small(view.picture()), _small(_drawn(mesh, view))])
        for view in loaded.views[:4:2] + loaded.views[4:5]
    ]
    return mesh, np.hstack(pointclouds)


def scored(mesh: Any, loaded: scene.Scene) -> float:
    return float(np.mean([psnr(view.picture(), _drawn(mesh, view)) for view in loaded.views]))


def _drawn(mesh: Any, view: scene.SceneView) -> Array:
    rgba = render(mesh.geometry, mesh.texture, view.camera, 4)
    return np.asarray(rgba[..., :3] + view.background * (1 - rgba[..., 3:]), np.float32)


def _small(picture: Array, side: int = 256) -> Array:
    image = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))
