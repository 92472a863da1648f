"""What the benchmarks share: samples with held-out views, jobs, and measures against the truth."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.image_ops import psnr
from steps.io import mesh_files, scene
from steps.io.mesh_files import Mesh
from steps.raster.render import render
from steps.sample.objects import OBJECTS
from tests.benchmarks import records

WORK = Path("out/benchmarks")
HELD_OUT = 12
# the smallest forms: held-out views, points that distances are measured from, and flags of `sixview run`
FEW, FEW_POINTS, COARSE = 2, 10_000, ("--grid", "64", "--faces", "2000")
POINTS = 100_000  # that distances are measured from
DENSE = 3  # times as many the nearest faces are looked for by
NEAREST = (
    32  # of the points on a surface: of the faces they lie on one is the nearest, up to 0.1 % of the mean distance
)
SEEN = 0.004  # scene units: a point this close to what an input view saw was seen
WHITE = np.ones(3, np.float32)


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, made anew unless today's steps have made it: a figure is never of older code than its record says."""
    if not (_mark(folder).is_file() and _mark(folder).read_text() == _code()):
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        made(folder)
    return folder


def made(folder: Path) -> None:
    """Says that today's code made the folder."""
    _mark(folder).write_text(_code())


def _mark(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.code")


@functools.cache
def _code() -> str:
    """Over the steps, the commands that run them, and the benchmarks, which say what is made."""
    return records.digest_of(*records.sources(*records.PRODUCT, records.OWN))


def sixview(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def sample(name: str, size: int = 512, bits: int = 16) -> Path:
    """The sample's folder; made once. Small ones have few held-out views: no figure is of these."""
    held_out = HELD_OUT if size >= 512 else FEW
    words = ["--object", name, "--size", size, "--depth-bits", bits, "--held-out", held_out, "--seed", 3]
    return once(
        WORK / "samples" / f"{name}_{size}_{bits}", lambda folder: sixview("sample", folder, *words).check_returncode()
    )


def job(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    """A whole run from the start. Returns outputs.json."""
    done = sixview("run", source, "--out", out, "--restart", "--json", *flags)
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["status"] == "completed", summary["error"]
    return summary


def job_folder(source: Path) -> Path:
    return WORK / "jobs" / source.name


def job_of(source: Path, flags: tuple[str, ...] = ()) -> Path:
    """The folder of a whole run on a sample; made once: the smallest forms, with COARSE, have samples of their own size."""
    return once(job_folder(source), lambda out: job(source, out, *flags))


def sample_views(source: Path) -> list[tuple[Camera, Array, Array]]:
    """Camera, colour over white and true depth of each held-out view."""
    truth = source / "ground_truth"
    found = []
    for item in json.loads((truth / "held_out.json").read_text())["views"]:
        camera = Camera(item["name"], np.array(item["camera_to_world"]), **item["intrinsics"])
        found.append((camera, over_white(truth / f"{camera.name}.png"), np.load(truth / f"{camera.name}_depth.npy")))
    return found


def over_white(path: Path) -> Array:
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


@dataclass(frozen=True)
class Inputs:
    """What the six input views saw: cameras and depth maps [H, W], of the scene that a run left."""

    cameras: list[Camera]
    depths: list[Array]

    def saw(self, points: Array) -> Array:
        """Which world points (n, 3) at least one view saw."""
        seen = np.zeros(len(points), bool)
        for camera, depth in zip(self.cameras, self.depths, strict=True):
            pixel, z = project(points, camera)
            column, row = (np.clip(pixel[:, k].astype(int), 0, depth.shape[1 - k] - 1) for k in (0, 1))
            seen |= np.abs(depth[row, column] - z) < SEEN
        return seen


def inputs(folder: Path) -> Inputs:
    """In the user's frame."""
    loaded = scene.load(folder)
    cameras = [loaded.frame.camera_out(view.depth_camera) for view in loaded.views]
    return Inputs(cameras, [view.depth() * np.float32(loaded.frame.scale) for view in loaded.views])


def in_users_frame(mesh: Mesh, loaded: scene.Scene) -> Mesh:
    return replace(mesh, vertices=loaded.frame.points_out(mesh.vertices).astype(np.float32))


def between(mesh: Mesh, source: Path, seen: Inputs) -> tuple[float, float]:
    """Mean PSNR of the held-out views, leaving out what no input view saw: full frame, and object only."""
    scores = []
    for camera, reference, depth in sample_views(source):
        rgba = render(mesh.geometry, mesh.texture, camera)
        picture = np.clip(rgba[..., :3] + 1 - rgba[..., 3:], 0, 1)
        object_seen = np.zeros(depth.shape, bool)
        object_seen[depth > 0] = seen.saw(unproject(depth, camera))
        scores.append((psnr(reference, picture, object_seen | (depth <= 0)), psnr(reference, picture, object_seen)))
    full, inner = np.mean(scores, axis=0)
    return float(full), float(inner)


def surface_error(
    vertices: Array, faces: Array, source: Path, seen: Inputs, points: int = POINTS
) -> tuple[float, float]:
    """Chamfer-L1 in percent of the true diagonal, and the F-score at 0.5 %, both over the seen surface: distances from points on
    each surface to the other."""
    truth = trimesh.load_mesh(source / "ground_truth" / "mesh.ply", process=False)
    diagonal = float(np.linalg.norm(np.ptp(truth.vertices, axis=0)))
    found = trimesh.Trimesh(vertices, faces, process=False)
    there, here = (seen_distances(a, b, seen, points) / diagonal for a, b in ((truth, found), (found, truth)))
    precision, recall = (here < 0.005).mean(), (there < 0.005).mean()
    return float(50 * (there.mean() + here.mean())), float(2 * precision * recall / (precision + recall))


def seen_distances(on: Any, to: Any, seen: Inputs, count: int) -> Array:
    """From seen ones of so many points on one surface to the other."""
    points, _ = trimesh.sample.sample_surface(on, count, seed=0)
    return distances(points[seen.saw(points)], to, DENSE * count)


def distances(points: Array, to: Any, dense: int = DENSE * POINTS) -> Array:
    """From each point (n, 3) to a surface: to the nearest of the faces on which the NEAREST of many of its points lie, among them
    each face's centre."""
    there, faces = trimesh.sample.sample_surface(to, dense, seed=1)
    there, faces = np.vstack([there, to.triangles_center]), np.concatenate([faces, np.arange(len(to.faces))])
    candidates = faces[cKDTree(there).query(points, k=NEAREST, workers=-1)[1]]
    least = np.full(len(points), np.inf)
    for face in candidates.T:
        closest = trimesh.triangles.closest_point(to.triangles[face], points)
        least = np.minimum(least, np.linalg.norm(closest - points, axis=1))
    return least


def load(out: Path) -> Mesh:
    return mesh_files.load(out / "reconviagen")


NAMES = tuple(OBJECTS)
