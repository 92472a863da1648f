"""The step quality: the mesh rendered by the six input cameras, compared with the input views; and the gate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute import device
from steps.compute.device import beside
from steps.compute.launch import map_on
from steps.geometry import image_ops
from steps.geometry.frame import Frame
from steps.geometry.soundness import soundness
from steps.io import mesh_files, scene
from steps.io.mesh_files import Mesh
from steps.io.scene import Scene, SceneView
from steps.quality import between, judgement, metrics
from steps.raster.rasterize import rasterize
from steps.raster.render import render_mesh, samples_for
from steps.runtime.contract import START_MESH, Quality
from steps.runtime.errors import QualityThresholdFailed
from steps.runtime.files import read_json, write_json
from steps.runtime.reporter import Reporter

FORMAT = "sixview-quality/1"
LENGTHS = ("bounds", "offset", "depth_error", "voxel", "to_scene")  # in the user's unit, rounded for that


def run(parameters: Quality, out: Path, reporter: Reporter) -> None:
    """Writes quality.json to `out`. Raises QualityThresholdFailed, with the file written, where the mesh does not pass."""
    model_metadata = read_json(parameters.mesh / "model.json", {})
    loaded = scene.load(parameters.scene)
    mesh = mesh_files.load(parameters.mesh, loaded.frame)
    start_file = parameters.mesh / START_MESH
    start = mesh_files.load_glb(start_file, loaded.frame) if start_file.is_file() else None
    where = device.choose(parameters.device, reporter.note)
    views = scores(mesh, loaded, where)
    report = summary(views, mesh, model_metadata, parameters, loaded.frame)
    report["scored_on"] = where
    report["before"] = before(start, loaded, where) if start else None
    report["between"] = between_views(mesh, start, loaded, parameters.held_out, where)
    report["rig"] = loaded.rig
    agreement = loaded.metadata.get("agreement", {})
    warnings = judgement.warnings(report, agreement)
    report["judgement"] = {
        "object_psnr_allowed": judgement.allowed_psnr(agreement),
        "agreement": agreement,
        "warnings": warnings,
    }
    report = dict(_rounded(report))
    write_json(out / "quality.json", report)
    for name in ("model", "engine", "device"):
        reporter.value(name, report[name])
    for name in ("psnr", "ssim"):
        reporter.value(name, f"{report[name]:.4f}")
    reporter.value("passed", str(report["passed"]).lower())
    reporter.value("peak-vram-mib", device.peak_memory_mib(where))
    for warning in warnings:
        reporter.warn(warning)
    reporter.progress(1, 1)
    if not report["passed"]:
        raise failure(report)


def scores(mesh: Mesh, loaded: Scene, where: str) -> list[dict[str, Any]]:
    """`score_view` of all views, on the device `where`."""
    placed = mesh.on(where)
    return map_on(where, lambda view: score_view(placed, view, loaded.frame), loaded.views)


def score_view(mesh: Mesh, view: SceneView, frame: Frame) -> dict[str, Any]:
    """All scores of one view, computed on the mesh's device; None for those of an object too thin to be seen in it."""
    reference, coverage, behind, view_depth = (
        beside(array, mesh.vertices) for array in (view.picture(), view.coverage(), view.behind(), view.depth())
    )
    inside = coverage >= 0.5
    rgba = render_mesh(mesh, view.camera, samples_for(view.camera))
    picture = scene.as_stored(rgba, behind)
    blank = np.broadcast_to(behind, picture.shape).astype(np.float32)
    full_ssim, object_ssim = metrics.ssim(reference, picture, inside)
    blank_ssim, _ = metrics.ssim(reference, blank, inside)
    depth = rasterize(mesh.vertices, mesh.faces, view.depth_camera).depth
    return {
        "name": view.camera.name,
        "psnr": image_ops.psnr(reference, picture),
        "ssim": full_ssim,
        "object": {"psnr": image_ops.psnr(reference, picture, inside), "ssim": object_ssim} if inside.any() else None,
        "blank": {"psnr": image_ops.psnr(reference, blank), "ssim": blank_ssim},
        "iou": image_ops.iou(inside, rgba[..., 3] >= 0.5) if inside.any() else None,
        "depth_error": {k: frame.length_out(v) for k, v in metrics.depth_error(view_depth, depth).items()},
    }


def summary(
    views: list[dict[str, Any]], mesh: Mesh, model_metadata: dict[str, Any], parameters: Quality, frame: Frame
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
    mesh_metadata = {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        **asdict(soundness(mesh.vertices, mesh.faces)),
        "texture_size": len(mesh.texture),
        "seen": model_metadata.get("seen"),
        "bounds": [list(map(frame.rounded, frame.points_out(end))) for end in (low, high)],
        "offset": list(frame.origin),
    }
    return {
        "format": FORMAT,
        "model": model_metadata.get("model", ""),
        "engine": model_metadata.get("engine", ""),
        "device": model_metadata.get("device", ""),
        "psnr": psnr,
        "ssim": ssim,
        "passed": not _below_threshold({"psnr": psnr, "ssim": ssim, "object": of_object, "thresholds": thresholds}),
        "thresholds": thresholds,
        "object": of_object,
        "blank": {"psnr": _mean(views, "blank", "psnr"), "ssim": _mean(views, "blank", "ssim")},
        "views": views,
        "mesh": mesh_metadata,
        "settings": model_metadata,
    }


def before(start: Mesh, loaded: Scene, where: str) -> dict[str, Any]:
    """The scores of the mesh that the model started from."""
    views = scores(start, loaded, where)
    means = {"psnr": _mean(views, "psnr"), "ssim": _mean(views, "ssim")}
    return {**means, "object": {key: _mean(views, "object", key) for key in means}}


def between_views(
    mesh: Mesh, start: Mesh | None, loaded: Scene, folder: Path | None, where: str
) -> dict[str, Any] | None:
    """Scores at held-out views; None without any."""
    if folder is None:
        return None
    views = between.load(folder, loaded)
    earlier = between.score(start, views, loaded.background, where) if start else None
    return {"views": len(views), "psnr": between.score(mesh, views, loaded.background, where), "before": earlier}


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


def _below_threshold(report: dict[str, Any]) -> dict[str, str]:
    """Scores below their thresholds, each with its sentence."""
    thresholds = report["thresholds"]
    pairs = [(name, name.upper(), report[name], thresholds[name]) for name in ("psnr", "ssim")]
    pairs += [
        (f"object_{name}", f"{name.upper()} on the object alone", report["object"][name], thresholds["object"][name])
        for name in ("psnr", "ssim")
    ]
    return {key: f"{words} {score:.4g} is below {least:g}" for key, words, score, least in pairs if score < least}


def failure(report: dict[str, Any]) -> QualityThresholdFailed:
    """The error of a mesh below the thresholds, with details of each score."""
    below, thresholds = _below_threshold(report), report["thresholds"]
    scores: dict[str, Any] = {
        name: {"actual": report[name], "threshold": thresholds[name]} for name in ("psnr", "ssim")
    }
    for name in ("psnr", "ssim"):
        if f"object_{name}" in below:
            scores[f"object_{name}"] = {"actual": report["object"][name], "threshold": thresholds["object"][name]}
    cause = report["judgement"]["agreement"].get("cause", "")  # what validate has warned of, where it knew one
    message, advice = (
        f"The mesh does not match its views: {' and '.join(below.values())}.",
        QualityThresholdFailed.advice,
    )
    if cause:
        message, advice = f"{message} {cause}", f"{cause} Otherwise: {advice[0].lower()}{advice[1:]}"
    return QualityThresholdFailed(message, advice, **scores)
