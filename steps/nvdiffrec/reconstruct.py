"""nvdiffrec's optimization: fused depth as the start, two passes, and the best of the resulting meshes by PSNR."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from steps.compute import gpu_time
from steps.compute.device import memory_shared_with_torch, to_device
from steps.compute.launch import map_on
from steps.fusion import reconstruct
from steps.fusion.isosurface import sound_mesh, taubin, without_specks
from steps.geometry import image_ops
from steps.io import scene
from steps.io.mesh_files import Mesh, as_stored
from steps.io.scene import Scene, SceneView
from steps.nvdiffrec import losses
from steps.nvdiffrec.checkpoint import Checkpoint, same_structure
from steps.nvdiffrec.clock import Clock
from steps.nvdiffrec.drawing import Appearance, render_geometry, render_rgba
from steps.nvdiffrec.first_pass import FirstPass
from steps.nvdiffrec.memory_levels import SAMPLES, LevelChoice, MemoryLevel
from steps.nvdiffrec.second_pass import STRONG, WEAK, SecondPass, surface_of
from steps.nvdiffrec.targets import Target, targets
from steps.raster.render import render_mesh, samples_for
from steps.runtime.contract import Nvdiffrec

SHAPE_SIDE = 256  # pixels: side of the first pass's views; its cells are still several pixels wide
SKIP_DEPTH_ERROR, SKIP_IOU = 0.5, 0.99  # pixels, IoU: a start this close is finer than the lattice
# where views do not quite meet: outlines that contradict each other dent what is free
SKIP_DEPTH_ERROR_ROUGH, SKIP_IOU_ROUGH = 2.0, 0.95
NOISY_DEPTH = 1.0  # pixels of depth noise from which the lattice starts from a smoothed field
STALL, STALL_WINDOW = 0.002, 8  # a pass ends early when this many iterations gain less than this share
SMOOTHING = 4  # Taubin passes over what marching tetrahedra leave


@dataclass
class Job:
    """Shared inputs of all parts. start_views: views that the start is fused from; the scene's, except in experiments."""

    scene: Scene
    start_views: list[SceneView]
    parameters: Nvdiffrec
    level: MemoryLevel
    device: str
    checkpoint: Checkpoint
    clock: Clock
    saved: dict[str, Any]

    @property
    def settings(self) -> reconstruct.Settings:
        p = self.parameters
        return reconstruct.Settings(p.resolution, p.fusion_grid, p.faces, p.texture_size, self.scene.exact, self.device)


def start(job: Job) -> tuple[Mesh, dict[str, Any]]:
    """The fused mesh: initial value, and baseline of the comparison."""
    if "start" in job.saved:
        return job.saved["start"], job.saved["facts"]
    with memory_shared_with_torch(job.device):
        mesh, metadata = reconstruct.reconstruct(job.start_views, job.settings)
    job.saved.update(start=mesh, facts=metadata)
    job.checkpoint.save(**job.saved)
    return mesh, metadata


def optimize(job: Job, first: Mesh, voxel: float) -> tuple[Mesh, dict[str, Any]]:
    """The best mesh by PSNR at the input views, never one below `first`; and metadata."""
    before = psnr(first, job.scene, job.device)
    first_pass_mesh, first_pass = run_first_pass(job, first, voxel)
    candidates, second_pass = run_second_pass(job, first_pass_mesh, voxel)
    scores = {name: psnr(mesh, job.scene, job.device) for name, mesh in candidates.items()}
    candidates["start"], scores["start"] = first, before
    best = max(scores, key=lambda name: scores[name] + (MARGIN if name != "lit" else 0.0))
    metadata = {
        "first_pass": first_pass,
        "second_pass": second_pass,
        "candidates": {name: round(score, 4) for name, score in scores.items()},
        "kept": best,
        "start": {"psnr": round(before, 4), "faces": len(first.faces)},
    }
    return candidates[best], metadata


MARGIN = 0.02  # dB that light and material must gain to be kept over plain colour


def psnr(mesh: Mesh, loaded: Scene, device: str) -> float:
    """Mean PSNR in dB at the input views, as the quality step's gate computes it."""
    written = as_stored(mesh, loaded.frame).on(device)

    def one(view: SceneView) -> float:
        rgba = render_mesh(written, view.camera, samples_for(view.camera))
        picture, behind = (to_device(array, device) for array in (view.picture(), view.behind()))
        return image_ops.psnr(picture, scene.as_stored(rgba, behind))

    with memory_shared_with_torch(device):
        return float(np.mean(map_on(device, one, loaded.views)))


# -- the first pass -----------------------------------------------------------------------------------------------------


def run_first_pass(job: Job, first: Mesh, voxel: float) -> tuple[Mesh, dict[str, Any]]:
    """The start of the second pass, and metadata: the lattice's mesh where its geometric loss is lower than the start's, else
    the start."""
    if "shaped" in job.saved:
        job.clock.tick(job.parameters.iterations)
        return job.saved["shaped"], job.saved["first_pass"]
    views = targets(job.scene.views, min(SHAPE_SIDE, job.level.resolution), voxel, job.device)
    depth_error, iou = agreement(first, views, job.device)
    metadata: dict[str, Any] = {"start_depth_error_px": round(depth_error, 4), "start_iou": round(iou, 5)}
    exact = job.scene.exact
    max_depth_error, min_iou = (SKIP_DEPTH_ERROR, SKIP_IOU) if exact else (SKIP_DEPTH_ERROR_ROUGH, SKIP_IOU_ROUGH)
    if depth_error < max_depth_error and iou > min_iou and not job.parameters.always_first_pass:
        job.clock.tick(job.parameters.iterations)
        reason = "a lattice's cells" if exact else "the views are to each other, as far as is known"
        chosen, metadata["skipped"] = first, f"the start is closer to the views than {reason}"
    else:
        candidates = {"start": first}
        if (mesh := _fit_lattice(job, views)) is not None:
            candidates["lattice"] = mesh
        losses_of = {name: geometric_loss(mesh, views, job.device) for name, mesh in candidates.items()}
        metadata.update(misfit=losses_of, kept=min(losses_of, key=lambda name: losses_of[name]))
        chosen = candidates[metadata["kept"]]
        metadata["faces"] = len(candidates.get("lattice", first).faces)
    job.saved.pop("first_pass_state", None)
    job.saved.update(shaped=chosen, first_pass=metadata)
    job.checkpoint.save(**job.saved)
    return chosen, metadata


def _fit_lattice(job: Job, views: list[Target]) -> Mesh | None:
    """The fitted lattice's mesh; None where it cannot be had without self-intersections."""
    p = job.parameters
    with memory_shared_with_torch(job.device):
        field, grid = reconstruct.fuse(job.start_views, reconstruct.Settings(grid=job.level.grid, device=job.device))
    if max(view.noise for view in views) > NOISY_DEPTH:
        field = gaussian_filter(field, 1.0)
    optimization = FirstPass(field, grid, p.iterations, views, job.device)
    _iterate(job, optimization, "first_pass_state", p.iterations, lambda i: optimization.step(i, views))
    vertices, unshifted, faces = optimization.mesh()
    vertex_pairs, faces = without_specks(np.hstack([vertices, unshifted]), faces)
    smooth = taubin(vertex_pairs[:, :3], faces, SMOOTHING, job.device).astype(np.float64)
    mesh_arrays = sound_mesh(smooth, vertex_pairs[:, 3:], faces, p.faces)
    if mesh_arrays is None:
        return None
    with memory_shared_with_torch(job.device):
        mesh, *_ = reconstruct.texture_mesh(*mesh_arrays, job.scene.views, job.settings)
    return mesh


def agreement(mesh: Mesh, views: list[Target], device: str) -> tuple[float, float]:
    """Mean absolute depth error in pixels, and silhouette IoU, over all views."""
    surface = surface_of(mesh, device)
    depth_error, pixels, intersection, union = 0.0, 0, 0, 0
    with torch.no_grad():
        for view in views:
            rendered, depth, _ = render_geometry(surface, None, view)
            known, inside = rendered & (view.depth > 0), view.rgba[..., 3] >= 0.5
            depth_error += float(((depth - view.depth).abs() / view.pixel)[known].sum())
            pixels += int(known.sum())
            intersection, union = intersection + int((rendered & inside).sum()), union + int((rendered | inside).sum())
    return depth_error / max(1, pixels), intersection / max(1, union)


def geometric_loss(mesh: Mesh, views: list[Target], device: str) -> float:
    """Mean loss of silhouettes, depth and normals, without colour."""
    surface = surface_of(mesh, device)
    total = 0.0
    with torch.no_grad():
        for view in views:
            rendered, depth, normal = render_geometry(surface, None, view)
            rgba = render_rgba(surface, Appearance(torch.ones((2, 2, 3), device=device)), view, 1)
            mask = ((rgba[..., 3] - view.rgba[..., 3]) ** 2).sum() / view.frame
            total += float(mask + losses.depth(rendered, depth, view, 1e3) + losses.normal(rendered, normal, view))
    return total / len(views)


# -- the second pass ----------------------------------------------------------------------------------------------------


def run_second_pass(job: Job, mesh: Mesh, voxel: float) -> tuple[dict[str, Mesh], dict[str, Any]]:
    """Candidate meshes, with plain colours and with light and material; and metadata."""
    p = job.parameters
    views = targets(job.scene.views, job.level.resolution, voxel, job.device)
    coarse = targets(job.scene.views, max(1, job.level.resolution // 2), voxel, job.device)
    optimization = SecondPass(mesh, p.iterations, views, job.device, WEAK if job.scene.exact else STRONG)
    depth_error, _ = agreement(mesh, views, job.device)
    n_coarse = (
        optimization.lit_from() // 3
        if depth_error > NOISY_DEPTH and max(view.noise for view in views) < NOISY_DEPTH
        else 0
    )

    def step(iteration: int) -> float:
        coarse_views = (
            iteration < n_coarse or iteration >= optimization.lit_from()
        )  # light and material are smooth, and dear
        return optimization.step(iteration, coarse if coarse_views else views, SAMPLES, job.level.batch)

    plain = _iterate(job, optimization, "plain_state", optimization.lit_from(), step, restart=n_coarse)
    optimization.check()
    candidates = {"plain": optimization.result(False)}
    lit = _iterate(job, optimization, "lit_state", p.iterations, step, optimization.lit_from())
    optimization.check()
    candidates["lit"] = optimization.result(True)
    n_iterations = {"plain": plain, "lit": lit, "coarse": n_coarse}
    metadata = {"iterations": n_iterations, "samples": SAMPLES**2, "noise_px": [round(view.noise, 4) for view in views]}
    return candidates, metadata


def _iterate(job: Job, optimization: Any, name: str, stop: int, step: Any, first: int = 0, restart: int = 0) -> int:
    """Runs iterations `first` to `stop` - 1, resuming from a checkpoint, with early stopping. restart: the iteration at which
    the views change, so that earlier losses are not comparable. Returns the number of iterations run."""
    state = job.saved.get(name)
    iteration, history = first, []
    if state and not (first <= state["iteration"] <= stop and resumable(optimization, state)):
        job.clock.reporter.note(f"The checkpoint's {name} does not fit this pass: it began anew.")
    elif state:
        iteration, history = state["iteration"], state["history"]
        restore(optimization, state)
        job.clock.tick(iteration - first)
    while iteration < stop and (iteration <= restart or not _stalled(history)):
        if iteration == restart:
            history.clear()
        with gpu_time.iteration(job.device):
            history.append(step(iteration))
        iteration += 1
        job.clock.tick()
        if job.checkpoint.due():
            job.saved[name] = {"iteration": iteration, "history": history, **snapshot(optimization)}
            job.checkpoint.save(**job.saved)
    job.clock.tick(stop - iteration)
    job.saved[name] = {"iteration": iteration, "history": history, **snapshot(optimization)}
    return iteration - first


def _stalled(history: list[float]) -> bool:
    """Whether the last STALL_WINDOW iterations lowered the loss by less than STALL."""
    if len(history) < 3 * STALL_WINDOW:
        return False
    recent, older = min(history[-STALL_WINDOW:]), min(history[:-STALL_WINDOW])
    return recent > older * (1 - STALL)


def _tensors(optimization: Any) -> dict[str, torch.Tensor]:
    return optimization.parameters if isinstance(optimization, FirstPass) else optimization.state.tensors()


def snapshot(optimization: Any) -> dict[str, Any]:
    """Parameters and optimizer state of a pass, detached."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(optimization).items()}
    return {"tensors": tensors, "optimizer": optimization.optimizer.state_dict()}


def resumable(optimization: Any, state: dict[str, Any]) -> bool:
    """Whether `state` matches this pass in structure, shapes and types."""
    expected, saved = optimization.optimizer.state_dict(), state["optimizer"]
    if (
        not same_structure(state["tensors"], _tensors(optimization))
        or not isinstance(saved, dict)
        or saved.keys() != expected.keys()
    ):
        return False
    params = [tensor for group in optimization.optimizer.param_groups for tensor in group["params"]]
    moments = [{"step": torch.zeros(()), "exp_avg": tensor, "exp_avg_sq": tensor} for tensor in params]
    known = isinstance(saved["state"], dict) and all(
        isinstance(i, int) and 0 <= i < len(params) and same_structure(entry, moments[i])
        for i, entry in saved["state"].items()
    )
    return known and same_structure(saved["param_groups"], expected["param_groups"])


def restore(optimization: Any, state: dict[str, Any]) -> None:
    """Loads a snapshot into a pass."""
    with torch.no_grad():
        for name, tensor in _tensors(optimization).items():
            tensor.copy_(state["tensors"][name])
    optimization.optimizer.load_state_dict(state["optimizer"])


def level_metadata(choice: LevelChoice) -> dict[str, Any]:
    """The memory level for the report, with what was reduced from the request."""
    level, requested = asdict(choice.level), asdict(choice.requested)
    given_up = {key: [requested[key], value] for key, value in level.items() if value != requested[key]}
    return {**level, "reason": choice.reason, "given_up": given_up}
