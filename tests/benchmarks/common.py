"""What the benchmarks share: samples with held-out views, jobs, and measures against the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, project, unproject
from steps.geometry.image_ops import psnr
from steps.io import mesh_files, scene
from steps.io.mesh_files import Mesh
from steps.raster.render import render
from steps.sample.objects import OBJECTS

WORK = Path("out/benchmarks")
HELD_OUT = 12
POINTS = 300_000
SEEN = 0.004  # scene units: a point this close to what an input view saw was seen
WHITE = np.ones(3, np.float32)


def sample(name: str, size: int = 512, bits: int = 16) -> Path:
    """The sample's folder; made once."""
    folder = WORK / "samples" / f"{name}_{size}_{bits}"
    if not (folder / "sample.json").exists():
        words = [
            "sample",
            folder,
            "--object",
            name,
            "--size",
            size,
            "--depth-bits",
            bits,
            "--held-out",
            HELD_OUT,
            "--seed",
            3,
        ]
        subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", *map(str, words)], check=True, stdout=subprocess.DEVNULL
        )
    return folder


def job(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    """A whole run from the start. Returns outputs.json."""
    words = ["run", source, "--out", out, "--restart", "--json", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", *map(str, words)], capture_output=True, text=True, check=False
    )
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["status"] == "completed", summary["error"]
    return summary


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


def surface_error(vertices: Array, faces: Array, source: Path, seen: Inputs) -> tuple[float, float]:
    """Chamfer-L1 in percent of the true diagonal, and the F-score at 0.5 %, both over the seen surface: exact distances
    from points on each surface to the other."""
    truth = trimesh.load_mesh(source / "ground_truth" / "mesh.ply", process=False)
    diagonal = float(np.linalg.norm(np.ptp(truth.vertices, axis=0)))
    found = trimesh.Trimesh(vertices, faces, process=False)
    there, here = (_distances(a, b, seen) / diagonal for a, b in ((truth, found), (found, truth)))
    precision, recall = (here < 0.005).mean(), (there < 0.005).mean()
    return float(50 * (there.mean() + here.mean())), float(2 * precision * recall / (precision + recall))


def _distances(on: Any, to: Any, seen: Inputs) -> Array:
    """From seen points on one surface to the other."""
    import open3d as o3d  # here: most benchmarks do without it

    points, _ = trimesh.sample.sample_surface(on, POINTS, seed=0)
    points = points[seen.saw(points)]
    rays = o3d.t.geometry.RaycastingScene()
    rays.add_triangles(np.asarray(to.vertices, np.float32), np.asarray(to.faces, np.uint32))
    return rays.compute_distance(points.astype(np.float32)).numpy()


def table(header: list[str], rows: list[list[object]]) -> None:
    """A table in Markdown."""
    cells = [header, *[[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    print("\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]), flush=True)


def load(out: Path) -> Mesh:
    return mesh_files.load(out / "reconviagen")


NAMES = list(OBJECTS)
