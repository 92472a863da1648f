"""The whole of the method: a start from fused depth, two passes of optimisation, and a judge that keeps the best."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from steps.compute.kernels import parallel_map
from steps.fusion import reconstruct
from steps.fusion.isosurface import sound_mesh, taubin, without_specks
from steps.geometry import image_ops
from steps.geometry.cameras import Camera
from steps.io import scene
from steps.io.mesh_files import Mesh, as_stored
from steps.io.scene import Scene, SceneView
from steps.nvdiffrec import losses
from steps.nvdiffrec.checkpoint import Checkpoint, fits
from steps.nvdiffrec.clock import Clock
from steps.nvdiffrec.drawing import Look, picture, shape
from steps.nvdiffrec.first_pass import FirstPass
from steps.nvdiffrec.ladder import SAMPLES, Rung
from steps.nvdiffrec.second_pass import LOOSE, TIGHT, SecondPass, surface_of
from steps.nvdiffrec.targets import Target, targets
from steps.raster.render import render, samples_for
from steps.runtime.contract import Nvdiffrec

Array = NDArray[Any]
SHAPE_SIDE = 256  # pixels: the first pass's views; its cells are several pixels wide even so
GOOD_DEPTH, GOOD_MASK = 0.5, 0.99  # pixels, IoU: a start this close is finer than the lattice
# where views do not quite meet: outlines that contradict each other dent what is free
FAIR_DEPTH, FAIR_MASK = (
    2.0,
    0.95,
)
ROUGH = 1.0  # pixels of depth noise from which on the lattice starts from a smoothed field
STALL, STALL_WINDOW = 0.002, 8  # a pass ends early when this many iterations gain less than this share
SMOOTHING = 4  # Taubin passes over what marching tetrahedra leave


@dataclass
class Work:
    """What all parts of the work share. start_views: what the start is fused from, the scene's own views but in experiments."""

    scene: Scene
    start_views: list[SceneView]
    parameters: Nvdiffrec
    rung: Rung
    device: str
    checkpoint: Checkpoint
    clock: Clock
    saved: dict[str, Any]

    @property
    def settings(self) -> reconstruct.Settings:
        p = self.parameters
        return reconstruct.Settings(p.resolution, p.fusion_grid, p.faces, p.texture_size, self.scene.exact)


def start(work: Work) -> tuple[Mesh, dict[str, Any]]:
    """The fused mesh that everything is measured against."""
    if "start" in work.saved:
        return work.saved["start"], work.saved["facts"]
    mesh, facts = reconstruct.reconstruct(work.start_views, work.settings)
    work.saved.update(start=mesh, facts=facts)
    work.checkpoint.save(**work.saved)
    return mesh, facts


def optimised(work: Work, first: Mesh, voxel: float) -> tuple[Mesh, dict[str, Any]]:
    """The best mesh found, and what was done to find it. Never one that scores below `first` at the input views."""
    before = psnr(first, work.scene)
    shaped, first_pass = reshaped(work, first, voxel)
    candidates, second_pass = refined(work, shaped, voxel)
    scores = {name: psnr(mesh, work.scene) for name, mesh in candidates.items()}
    candidates["start"], scores["start"] = first, before
    kept = max(scores, key=lambda name: scores[name] + (MARGIN if name != "lit" else 0.0))
    facts = {
        "first_pass": first_pass,
        "second_pass": second_pass,
        "candidates": {name: round(score, 4) for name, score in scores.items()},
        "kept": kept,
        "start": {"psnr": round(before, 4), "faces": len(first.faces)},
    }
    return candidates[kept], facts


MARGIN = 0.02  # dB that light and material must gain to be kept over plain colour


def psnr(mesh: Mesh, taken: Scene) -> float:
    """Mean PSNR in dB at the input views: the very number that the quality step's gate judges by."""

    written = as_stored(mesh, taken.frame)

    def one(view: SceneView) -> float:
        rgba = drawn(written, view.camera, samples_for(view.camera))
        return image_ops.psnr(view.picture(), scene.as_stored(rgba, view.behind()))

    return float(np.mean(parallel_map(one, taken.views)))


def drawn(mesh: Mesh, camera: Camera, samples: int) -> Array:
    """The mesh as a camera sees it, [H, W, 4] premultiplied RGBA."""
    geometry = mesh.vertices, mesh.faces, mesh.uv, mesh.texture
    return render(*geometry, camera, samples, mesh.material, mesh.normals)


# -- the first pass -----------------------------------------------------------------------------------------------------


def reshaped(work: Work, first: Mesh, voxel: float) -> tuple[Mesh, dict[str, Any]]:
    """The mesh that the second pass gets: from the lattice where that fits the views better than the start, else the start."""
    if "shaped" in work.saved:
        work.clock.tick(work.parameters.iterations)
        return work.saved["shaped"], work.saved["first_pass"]
    views = targets(work.scene.views, min(SHAPE_SIDE, work.rung.resolution), voxel, work.device)
    off, overlap = agreement(first, views, work.device)
    about: dict[str, Any] = {"start_depth_error_px": round(off, 4), "start_iou": round(overlap, 5)}
    exact = work.scene.exact
    most, least = (GOOD_DEPTH, GOOD_MASK) if exact else (FAIR_DEPTH, FAIR_MASK)
    if off < most and overlap > least and not work.parameters.always_first_pass:
        work.clock.tick(work.parameters.iterations)
        close = "a lattice's cells" if exact else "the views are to each other, as far as is known"
        shaped, about["skipped"] = first, f"the start is closer to the views than {close}"
    else:
        made = {"start": first}
        if (mesh := _from_lattice(work, views)) is not None:
            made["lattice"] = mesh
        fits = {name: misfit(mesh, views, work.device) for name, mesh in made.items()}
        about.update(misfit=fits, kept=min(fits, key=lambda name: fits[name]))
        shaped = made[about["kept"]]
        about["faces"] = len(made.get("lattice", first).faces)
    work.saved.pop("first_pass_state", None)
    work.saved.update(shaped=shaped, first_pass=about)
    work.checkpoint.save(**work.saved)
    return shaped, about


def _from_lattice(work: Work, views: list[Target]) -> Mesh | None:
    """None where the fitted surface cannot be had without faces that cross."""
    p = work.parameters
    field, grid = reconstruct.fuse(work.start_views, reconstruct.Settings(grid=work.rung.grid))
    if max(view.noise for view in views) > ROUGH:
        field = gaussian_filter(field, 1.0)
    fitted = FirstPass(field, grid, p.iterations, views, work.device)
    _iterate(work, fitted, "first_pass_state", p.iterations, lambda i: fitted.step(i, views))
    vertices, unshifted, faces = fitted.mesh()
    both, faces = without_specks(np.hstack([vertices, unshifted]), faces)
    smooth = taubin(both[:, :3], faces, SMOOTHING).astype(np.float64)
    found = sound_mesh(smooth, both[:, 3:], faces, p.faces)
    if found is None:
        return None
    mesh, *_ = reconstruct.texture_mesh(*found, work.scene.views, work.settings)
    return mesh


def agreement(mesh: Mesh, views: list[Target], device: str) -> tuple[float, float]:
    """Mean absolute error of depth in pixels, and overlap of the silhouettes (IoU), over all views."""
    surface = surface_of(mesh, device)
    off, pixels, both, either = 0.0, 0, 0, 0
    with torch.no_grad():
        for view in views:
            there, depth, _ = shape(surface, None, view)
            known, inside = there & (view.depth > 0), view.rgba[..., 3] >= 0.5
            off += float(((depth - view.depth).abs() / view.pixel)[known].sum())
            pixels += int(known.sum())
            both, either = both + int((there & inside).sum()), either + int((there | inside).sum())
    return off / max(1, pixels), both / max(1, either)


def misfit(mesh: Mesh, views: list[Target], device: str) -> float:
    """How badly silhouettes, depth and normals fit, colours aside."""
    surface = surface_of(mesh, device)
    total = 0.0
    with torch.no_grad():
        for view in views:
            there, depth, normal = shape(surface, None, view)
            rgba = picture(surface, Look(torch.ones((2, 2, 3), device=device)), view, 1)
            mask = ((rgba[..., 3] - view.rgba[..., 3]) ** 2).sum() / view.frame
            total += float(mask + losses.depth(there, depth, view, 1e3) + losses.normal(there, normal, view))
    return total / len(views)


# -- the second pass ----------------------------------------------------------------------------------------------------


def refined(work: Work, mesh: Mesh, voxel: float) -> tuple[dict[str, Mesh], dict[str, Any]]:
    """Meshes to choose from: with plain colours, and with light and material."""
    p = work.parameters
    views = targets(work.scene.views, work.rung.resolution, voxel, work.device)
    coarse = targets(work.scene.views, max(1, work.rung.resolution // 2), voxel, work.device)
    fitted = SecondPass(mesh, p.iterations, views, work.device, LOOSE if work.scene.exact else TIGHT)
    off, _ = agreement(mesh, views, work.device)
    rough = fitted.lit_from() // 3 if off > ROUGH and max(view.noise for view in views) < ROUGH else 0

    def step(iteration: int) -> float:
        small = iteration < rough or iteration >= fitted.lit_from()  # light and material are smooth, and dear
        return fitted.step(iteration, coarse if small else views, SAMPLES, work.rung.batch)

    plain = _iterate(work, fitted, "plain_state", fitted.lit_from(), step, anew=rough)
    fitted.check()
    candidates = {"plain": fitted.result(False)}
    lit = _iterate(work, fitted, "lit_state", p.iterations, step, fitted.lit_from())
    fitted.check()
    candidates["lit"] = fitted.result(True)
    ran = {"plain": plain, "lit": lit, "coarse": rough}
    about = {"iterations": ran, "samples": SAMPLES**2, "noise_px": [round(view.noise, 4) for view in views]}
    return candidates, about


def _iterate(work: Work, fitted: Any, name: str, stop: int, step: Any, first: int = 0, anew: int = 0) -> int:
    """Iterations `first` to `stop` - 1, going on from a checkpoint, ending early when nothing is gained. anew: the iteration that
    begins with other views, to whose losses those before say nothing. Returns how many ran."""
    state = work.saved.get(name)
    iteration, history = first, []
    if state and not (first <= state["iteration"] <= stop and resumable(fitted, state)):
        work.clock.reporter.note(f"The checkpoint's {name} does not fit this pass: it began anew.")
    elif state:
        iteration, history = state["iteration"], state["history"]
        restore(fitted, state)
        work.clock.tick(iteration - first)
    while iteration < stop and (iteration <= anew or not _stalled(history)):
        if iteration == anew:
            history.clear()
        history.append(step(iteration))
        iteration += 1
        work.clock.tick()
        if work.checkpoint.due():
            work.saved[name] = {"iteration": iteration, "history": history, **snapshot(fitted)}
            work.checkpoint.save(**work.saved)
    work.clock.tick(stop - iteration)
    work.saved[name] = {"iteration": iteration, "history": history, **snapshot(fitted)}
    return iteration - first


def _stalled(history: list[float]) -> bool:
    """Whether the last iterations gained next to nothing over those before."""
    if len(history) < 3 * STALL_WINDOW:
        return False
    recent, older = min(history[-STALL_WINDOW:]), min(history[:-STALL_WINDOW])
    return recent > older * (1 - STALL)


def _tensors(fitted: Any) -> dict[str, torch.Tensor]:
    return fitted.parameters if isinstance(fitted, FirstPass) else fitted.state.tensors()


def snapshot(fitted: Any) -> dict[str, Any]:
    """All that a pass needs to go on, detached from it."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(fitted).items()}
    return {"tensors": tensors, "optimizer": fitted.optimizer.state_dict()}


def resumable(fitted: Any, state: dict[str, Any]) -> bool:
    """Whether `state` is one that `snapshot` can have made of such a pass."""
    own, saved = fitted.optimizer.state_dict(), state["optimizer"]
    if not fits(state["tensors"], _tensors(fitted)) or not isinstance(saved, dict) or saved.keys() != own.keys():
        return False
    moved = [tensor for group in fitted.optimizer.param_groups for tensor in group["params"]]
    moments = [{"step": torch.zeros(()), "exp_avg": tensor, "exp_avg_sq": tensor} for tensor in moved]
    known = isinstance(saved["state"], dict) and all(
        isinstance(i, int) and 0 <= i < len(moved) and fits(entry, moments[i]) for i, entry in saved["state"].items()
    )
    return known and fits(saved["param_groups"], own["param_groups"])


def restore(fitted: Any, state: dict[str, Any]) -> None:
    """Puts a pass where `snapshot` found it."""
    with torch.no_grad():
        for name, tensor in _tensors(fitted).items():
            tensor.copy_(state["tensors"][name])
    fitted.optimizer.load_state_dict(state["optimizer"])


def described(rung: Rung, asked: Rung, reason: str) -> dict[str, Any]:
    """The rung for the report, with what was given up."""
    given_up = {
        key: [getattr(asked, key), value] for key, value in asdict(rung).items() if value != getattr(asked, key)
    }
    return {**asdict(rung), "reason": reason, "given_up": given_up}
