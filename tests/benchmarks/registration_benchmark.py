"""A model's mesh may come in any pose: is it laid where it belongs, and what is it worth in the photographs' colours?

`python -m tests.benchmarks registration` takes each object in turn, disturbs it as tests/benchmarks/disturbed.py says and
registers it; then it lays each object on every other one's views, which must be refused; then it bakes the six views onto the
undisturbed meshes where registration puts them, beside the engine fusion's own result."""

from __future__ import annotations

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
from tests.benchmarks.common import once
from tests.benchmarks.disturbed import Disturbed, dense, disturbed
from tests.benchmarks.records import Run

FOLDER = Path("out/benchmarks/registration")
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


def main(run: Run) -> None:
    names, size = run.size(objects.NAMES, ("mug", "duck")), run.size(512, 192)
    results = []
    for seed in range(int(run.variable("SIXVIEW_REGISTRATIONS", run.size(300, 1)))):
        name = names[seed % len(names)]
        results.append(tried(name, seed, size))
        print(f"{seed} {name}: {described(results[-1])}", flush=True)
    run.table("Meshes in any pose", HEADER, [summary(results)])
    pairs = [(name, other) for name in names for other in names if other != name]
    run.table("Meshes of other objects", STRANGERS, [strangers(pairs[:1] if run.smallest else pairs, size)])
    table_of_bakes(run, names[:1] if run.smallest else names, size)


HEADER = (
    "meshes",
    "right",
    "turned at most, degrees",
    "displaced at most, %",
    "IoU at least",
    "median, s",
    "slowest, s",
)


STRANGERS = ("meshes", "refused", "taken")


def summary(results: list[Result]) -> list[object]:
    seconds = sorted(r.seconds for r in results)
    worst = max(r.turned for r in results), 100 * max(r.shifted for r in results), min(r.iou for r in results)
    return [len(results), sum(r.right for r in results), *worst, seconds[len(seconds) // 2], seconds[-1]]


def described(r: Result) -> str:
    word = "right" if r.right else "WRONG"
    return (
        f"{word}, {r.turned:.2f} degrees, {100 * r.shifted:.2f} % of the diagonal, IoU {r.iou:.3f}, explained "
        f"{r.found.precision:.2f}, covered {r.found.recall:.2f}, margin {r.found.margin:.2f}, {r.seconds:.1f} s"
    )


def scene_of(name: str, size: int = 512, folder: Path = FOLDER) -> scene.Scene:
    """The object's clean views, through the project's own steps; made once."""

    def make(out: Path) -> None:
        _step("sample", out / "set", "--object", objects.source(name), "--size", str(size))
        _step("validate", out / "scene", "--input", str(out / "set"))

    return scene.load(once(folder / f"{name}_{size}", make) / "scene")


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


def strangers(pairs: list[tuple[str, str]], size: int) -> list[object]:
    """An object on the views of another: how many, how many are refused, and which are taken."""
    taken = []
    clouds = {name: cloud_of(disturbed(truth_of(name), 5)) for name, _ in pairs}
    for name, other in pairs:
        found = register(clouds[name], [registration_view(view) for view in scene_of(other, size).views])
        taken += [f"{name} for {other} ({found.precision:.2f}, {found.recall:.2f})"] if found.fits else []
    return [len(pairs), len(pairs) - len(taken), ", ".join(taken) or "none"]


# -- in the photographs' colours ----------------------------------------------------------------------------------------


def table_of_bakes(run: Run, names: tuple[str, ...], size: int) -> None:
    """PSNR at the inputs, in dB, and a picture of each beside the view: out/benchmarks/registration/bakes.png."""
    settings = run.size(reconstruct.Settings(), reconstruct.Settings(grid=64, faces=2_000))
    rows, strips = [], []
    for seed, name in enumerate(names):
        truth = truth_of(name)
        loaded = scene_of(name, size)
        fused, _ = reconstruct.reconstruct(loaded.views, settings)
        mesh, pictures = rebaked(truth, loaded, seed)
        ours, reference = scored(mesh, loaded), scored(fused, loaded)
        rows.append([name, ours, reference, ours - reference])
        strips.append(pictures)
        print(f"{name}: baked where it was laid {ours:.2f} dB, fusion's own {reference:.2f} dB", flush=True)
    Image.fromarray(np.vstack(strips)).save(FOLDER / "bakes.png")
    means = np.array([row[1:] for row in rows], float).mean(axis=0).tolist()
    header = ("object", "laid back and baked, dB", "fusion's own, dB", "difference, dB")
    run.table("The true meshes, laid back and baked", header, [*rows, ["mean", *means]])


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
