"""quality: the mesh, seen by the six input cameras, against the input views; and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.contracts import Quality
from steps.errors import QualityThresholdFailed
from steps.files import read_json, write_json
from steps.formats import meshes, scene
from steps.formats.meshes import Mesh
from steps.formats.scene import Scene, SceneView
from steps.geometry.cameras import Camera
from steps.geometry.kernels import parallel_map
from steps.geometry.rasterize import rasterize
from steps.geometry.render import render, samples_for
from steps.quality import between, metrics
from steps.reporter import Reporter

Array = NDArray[Any]
FORMAT = "sixview-quality/1"
START = "start.glb"  # what a model that starts from another mesh leaves of that


def run(parameters: Quality, out: Path, reporter: Reporter) -> None:
    """Writes quality.json to `out`. Raises QualityThresholdFailed, with the file written, where the mesh does not pass."""
    about = read_json(parameters.mesh / "model.json", {})
    mesh, taken = meshes.load(parameters.mesh), scene.load(parameters.scene)
    start = meshes.load_glb(parameters.mesh / START) if (parameters.mesh / START).is_file() else None
    views = parallel_map(lambda view: judged(mesh, view, taken), taken.views)
    report = summary(views, mesh, about, parameters)
    report["before"] = before(start, taken) if start else None
    report["between"] = between_views(mesh, start, taken, parameters.held_out)
    report["rig"] = taken.rig
    report = dict(_rounded(report))
    write_json(out / "quality.json", report)
    for name in ("model", "engine", "device"):
        reporter.value(name, report[name])
    for name in ("psnr", "ssim"):
        reporter.value(name, f"{report[name]:.4f}")
    reporter.value("passed", str(report["passed"]).lower())
    reporter.progress(1, 1)
    if not report["passed"]:
        raise failure(report)


def judged(mesh: Mesh, view: SceneView, taken: Scene) -> dict[str, Any]:
    """Every number about one view."""
    reference, inside = view.picture(), view.coverage() >= 0.5
    rgba = drawn(mesh, view.camera)
    picture = scene.as_stored(rgba, view.behind())
    blank = np.broadcast_to(view.behind(), picture.shape).astype(np.float32)
    full_ssim, object_ssim = metrics.ssim(reference, picture, inside)
    blank_ssim, _ = metrics.ssim(reference, blank, inside)
    depth = rasterize(mesh.vertices, mesh.faces, view.depth_camera).depth
    return {
        "name": view.camera.name,
        "psnr": metrics.psnr(reference, picture),
        "ssim": full_ssim,
        "object": {"psnr": metrics.psnr(reference, picture, inside), "ssim": object_ssim},
        "blank": {"psnr": metrics.psnr(reference, blank), "ssim": blank_ssim},
        "iou": metrics.iou(inside, rgba[..., 3] >= 0.5),
        "depth_error": metrics.depth_error(view.depth(), depth),
    }


def drawn(mesh: Mesh, camera: Camera) -> Array:
    """The mesh as a camera sees it, [H, W, 4] premultiplied RGBA."""
    geometry = mesh.vertices, mesh.faces, mesh.uv, mesh.texture
    return render(*geometry, camera, samples_for(camera), mesh.material, mesh.normals)


def summary(views: list[dict[str, Any]], mesh: Mesh, about: dict[str, Any], parameters: Quality) -> dict[str, Any]:
    """quality.json (see quality.schema.json)."""
    psnr, ssim = _mean(views, "psnr"), _mean(views, "ssim")
    thresholds = {"psnr": parameters.psnr_threshold, "ssim": parameters.ssim_threshold}
    facts = {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "watertight": metrics.is_watertight(mesh.vertices, mesh.faces),
        "texture_size": len(mesh.texture),
        "seen": about.get("seen"),
        "bounds": [mesh.vertices.min(axis=0).tolist(), mesh.vertices.max(axis=0).tolist()],
    }
    return {
        "format": FORMAT,
        "model": about.get("model", ""),
        "engine": about.get("engine", ""),
        "device": about.get("device", ""),
        "psnr": psnr,
        "ssim": ssim,
        "passed": psnr >= thresholds["psnr"] and ssim >= thresholds["ssim"],
        "thresholds": thresholds,
        "object": {"psnr": _mean(views, "object", "psnr"), "ssim": _mean(views, "object", "ssim")},
        "blank": {"psnr": _mean(views, "blank", "psnr"), "ssim": _mean(views, "blank", "ssim")},
        "views": views,
        "mesh": facts,
        "settings": about,
    }


def before(start: Mesh, taken: Scene) -> dict[str, Any]:
    """The scores of the mesh that the model started from."""
    views = parallel_map(lambda view: judged(start, view, taken), taken.views)
    scores = {"psnr": _mean(views, "psnr"), "ssim": _mean(views, "ssim")}
    return {**scores, "object": {key: _mean(views, "object", key) for key in scores}}


def between_views(mesh: Mesh, start: Mesh | None, taken: Scene, folder: Path | None) -> dict[str, Any] | None:
    """The scores at views that no model saw, where there are some."""
    if folder is None:
        return None
    views = between.load(folder, taken)
    earlier = between.score(start, views, taken.background) if start else None
    return {"views": len(views), "psnr": between.score(mesh, views, taken.background), "before": earlier}


def _mean(views: list[dict[str, Any]], *keys: str) -> float:
    values = [view[keys[0]] if len(keys) == 1 else view[keys[0]][keys[1]] for view in views]
    return float(np.mean(values))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def failure(report: dict[str, Any]) -> QualityThresholdFailed:
    """The record of a mesh below the gate."""
    scores: dict[str, Any] = {
        name: {"actual": report[name], "threshold": report["thresholds"][name]} for name in ("psnr", "ssim")
    }
    low = [
        f"{name.upper()} {s['actual']:.4g} is below {s['threshold']:g}"
        for name, s in scores.items()
        if s["actual"] < s["threshold"]
    ]
    return QualityThresholdFailed(f"The mesh does not match its views: {' and '.join(low)}.", "", **scores)
