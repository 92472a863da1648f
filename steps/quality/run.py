"""quality: the mesh, seen by the six input cameras, against the input views; and the gate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.compute.kernels import parallel_map
from steps.geometry.cameras import Camera
from steps.geometry.frame import Frame
from steps.geometry.soundness import soundness
from steps.io import mesh_files, scene
from steps.io.mesh_files import Mesh
from steps.io.scene import Scene, SceneView
from steps.quality import between, judgement, metrics
from steps.raster.rasterize import rasterize
from steps.raster.render import render, samples_for
from steps.runtime.contract import Quality
from steps.runtime.errors import QualityThresholdFailed
from steps.runtime.files import read_json, write_json
from steps.runtime.reporter import Reporter

Array = NDArray[Any]
FORMAT = "sixview-quality/1"
LENGTHS = ("bounds", "offset", "depth_error", "voxel", "to_scene")  # in the user's unit, rounded for that
START = "start.glb"  # what a model that starts from another mesh leaves of that


def run(parameters: Quality, out: Path, reporter: Reporter) -> None:
    """Writes quality.json to `out`. Raises QualityThresholdFailed, with the file written, where the mesh does not pass."""
    about = read_json(parameters.mesh / "model.json", {})
    taken = scene.load(parameters.scene)
    mesh = mesh_files.load(parameters.mesh, taken.frame)
    start = mesh_files.load_glb(parameters.mesh / START, taken.frame) if (parameters.mesh / START).is_file() else None
    views = parallel_map(lambda view: judged(mesh, view, taken), taken.views)
    report = summary(views, mesh, about, parameters, taken.frame)
    report["before"] = before(start, taken) if start else None
    report["between"] = between_views(mesh, start, taken, parameters.held_out)
    report["rig"] = taken.rig
    agreement = taken.about.get("agreement", {})
    told = judgement.warnings(report, agreement)
    report["judgement"] = {
        "object_psnr_allowed": judgement.allowed(agreement),
        "agreement": agreement,
        "warnings": told,
    }
    report = dict(_rounded(report))
    write_json(out / "quality.json", report)
    for name in ("model", "engine", "device"):
        reporter.value(name, report[name])
    for name in ("psnr", "ssim"):
        reporter.value(name, f"{report[name]:.4f}")
    reporter.value("passed", str(report["passed"]).lower())
    for warning in told:
        reporter.warn(warning)
    reporter.progress(1, 1)
    if not report["passed"]:
        raise failure(report)


def judged(mesh: Mesh, view: SceneView, taken: Scene) -> dict[str, Any]:
    """Every number about one view; none about an object that is too thin to be seen in it."""
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
        "object": {"psnr": metrics.psnr(reference, picture, inside), "ssim": object_ssim} if inside.any() else None,
        "blank": {"psnr": metrics.psnr(reference, blank), "ssim": blank_ssim},
        "iou": metrics.iou(inside, rgba[..., 3] >= 0.5) if inside.any() else None,
        "depth_error": {k: taken.frame.length_out(v) for k, v in metrics.depth_error(view.depth(), depth).items()},
    }


def drawn(mesh: Mesh, camera: Camera) -> Array:
    """The mesh as a camera sees it, [H, W, 4] premultiplied RGBA."""
    geometry = mesh.vertices, mesh.faces, mesh.uv, mesh.texture
    return render(*geometry, camera, samples_for(camera), mesh.material, mesh.normals)


def summary(
    views: list[dict[str, Any]], mesh: Mesh, about: dict[str, Any], parameters: Quality, frame: Frame
) -> dict[str, Any]:
    """quality.json (see quality.schema.json)."""
    psnr, ssim = _mean(views, "psnr"), _mean(views, "ssim")
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    of_object = {"psnr": _mean(views, "object", "psnr"), "ssim": _mean(views, "object", "ssim")}
    thresholds = {
        "psnr": parameters.psnr_threshold,
        "ssim": parameters.ssim_threshold,
        "object": {"psnr": parameters.object_psnr_threshold, "ssim": parameters.object_ssim_threshold},
    }
    facts = {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        **asdict(soundness(mesh.vertices, mesh.faces)),
        "texture_size": len(mesh.texture),
        "seen": about.get("seen"),
        "bounds": [list(map(frame.rounded, frame.points_out(end))) for end in (low, high)],
        "offset": list(frame.origin),
    }
    return {
        "format": FORMAT,
        "model": about.get("model", ""),
        "engine": about.get("engine", ""),
        "device": about.get("device", ""),
        "psnr": psnr,
        "ssim": ssim,
        "passed": not _low({"psnr": psnr, "ssim": ssim, "object": of_object, "thresholds": thresholds}),
        "thresholds": thresholds,
        "object": of_object,
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
    views = [view for view in views if view[keys[0]] is not None]
    values = [view[keys[0]] if len(keys) == 1 else view[keys[0]][keys[1]] for view in views]
    return float(np.mean(values))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: item if key in LENGTHS else _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _low(report: dict[str, Any]) -> dict[str, str]:
    """The scores below their thresholds, each with its sentence."""
    asked = report["thresholds"]
    pairs = [(name, name.upper(), report[name], asked[name]) for name in ("psnr", "ssim")]
    pairs += [
        (f"object_{name}", f"{name.upper()} on the object alone", report["object"][name], asked["object"][name])
        for name in ("psnr", "ssim")
    ]
    return {key: f"{words} {score:.4g} is below {least:g}" for key, words, score, least in pairs if score < least}


def failure(report: dict[str, Any]) -> QualityThresholdFailed:
    """The record of a mesh below the gate."""
    low, asked = _low(report), report["thresholds"]
    scores: dict[str, Any] = {name: {"actual": report[name], "threshold": asked[name]} for name in ("psnr", "ssim")}
    for name in ("psnr", "ssim"):
        if f"object_{name}" in low:
            scores[f"object_{name}"] = {"actual": report["object"][name], "threshold": asked["object"][name]}
    cause = report["judgement"]["agreement"].get("cause", "")  # what validate has warned of, where it knew one
    message, advice = f"The mesh does not match its views: {' and '.join(low.values())}.", QualityThresholdFailed.advice
    if cause:
        message, advice = f"{message} {cause}", f"{cause} Otherwise: {advice[0].lower()}{advice[1:]}"
    return QualityThresholdFailed(message, advice, **scores)
