"""validate: checks first, cheaply; then the scene."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.contracts import PRESETS, VIEW_NAMES, Validate
from steps.errors import RigAmbiguous, ValidationFailed
from steps.files import write_json
from steps.formats import cameras_json, checks, png, scene
from steps.formats.cameras_json import Arrangement, Given, View
from steps.formats.depth_encoding import MetricDepth, metric_depth
from steps.geometry.cameras import ray_to_z
from steps.reporter import Reporter
from steps.validate import devices, judgement, masks, placement

Array = NDArray[Any]


def run(parameters: Validate, out: Path, reporter: Reporter) -> None:
    """Writes the scene to `out`; raises BadInput with every fault, RigAmbiguous or GpuUnavailable."""
    write_json(parameters.outputs / "preflight.json", devices.preflight(parameters.device))
    pictures, given = checks.check_set(parameters.input, parameters.cameras)
    reporter.progress(1, 3)
    cameras = known(pictures, given, parameters, out, reporter)
    if cameras.views is not None:
        pictures, views = placement.met(pictures, cameras.views)
        cameras = replace(cameras, views=views, exact=cameras.exact and not any(v.colour for v in cameras.views))
    reporter.progress(2, 3)
    write_scene(pictures, cameras, out, reporter)
    if parameters.picture:
        from steps.validate import rig_picture  # only now: hardly anybody asks for it

        rig_picture.drawn(rig_picture.boards_of(scene.load(out))).save(out / "rig.png")
    reporter.progress(3, 3)


@dataclass(frozen=True)
class Cameras:
    """views: None for the canonical rig; source: where they come from; notes: what to say about it; exact: whether views are
    known to meet, with each other and with their depth; facts: the numbers behind a rig that was found."""

    views: list[View] | None
    source: str
    notes: list[str]
    exact: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


def known(
    pictures: checks.Pictures, given: Given | None, parameters: Validate, out: Path, reporter: Reporter
) -> Cameras:
    """The cameras that were given, with what has to be found of them."""
    if isinstance(given, list) and all(view.depth for view in given):
        return Cameras(given, "cameras.json", [])
    if given is None and parameters.rig == "nominal":
        return Cameras(None, "canonical", [])
    reporter.stage("rig")
    # only now: they load kernels, which a faulty set must not wait for
    if isinstance(given, list):
        from steps.validate import encoding

        try:
            views, note = encoding.found(pictures, given)
        except RigAmbiguous as error:
            raise judgement.with_convention(error, given) from None
        return Cameras(views, "given, without encoding", [note])
    from steps.validate import rig

    wanted = given or Arrangement(preset=parameters.rig if parameters.rig in PRESETS else "")
    found = rig.find(pictures, parameters.outputs, wanted)
    write_json(out / "rig.json", found.facts)
    if not found.note:
        return Cameras(found.views, "canonical", [])
    facts = {key: value for key, value in found.facts.items() if key != "cameras"}
    return Cameras(found.views, "found", [found.note], exact=False, facts=facts)


def write_scene(pictures: checks.Pictures, cameras: Cameras, out: Path, reporter: Reporter) -> None:
    """Masks, metric depth and cameras of a set that passed the checks. Raises ValidationFailed where the views contradict each
    other too much."""
    source, notes = cameras.source, cameras.notes
    views = [_view_of(i, picture, cameras.views) for i, picture in enumerate(pictures.views)]
    depths = [_metric(picture, view) for picture, view in zip(pictures.depths, views, strict=True)]
    shapes = [d.depth.shape for d in depths]
    own = [v.camera.resized(w, h) for v, (h, w) in zip(views, shapes, strict=True)]
    insides = [masks.resized(d.depth > 0, p.pixels.shape[:2]) for d, p in zip(depths, pictures.views, strict=True)]
    opaque = [(p.colour, i) for p, i in zip(pictures.views, insides, strict=True) if p.alpha is None]
    background, even = (
        masks.background_colour([c for c, _ in opaque], [i for _, i in opaque]) if opaque else (masks.WHITE, True)
    )
    faults, coverages = [], []
    for folder in ("views", "masks", "depth", "steps"):
        (out / folder).mkdir()
    for index, (view, picture, depth, inside) in enumerate(zip(views, pictures.views, depths, insides, strict=True)):
        coverage = _coverage(picture, inside, background)
        if not (coverage >= 0.5).any() or not depth.depth.any():
            faults.append(_empty(index))
        coverages.append(coverage)
        _write_view(out, view.camera.name, picture, coverage, depth)
    checks.raise_all(faults)
    if not even:
        notes = [*notes, "The background of the views is not even; metrics compare over its median colour."]
    evidence = judgement.evidence_of(
        own, [d.depth for d in depths], pictures.views, coverages, background if even else None
    )
    agreement = judgement.given(evidence, pictures, source, reporter)
    notes = [*notes, *agreement.warnings]
    for note in notes:
        reporter.warn(note)
    about = {
        "rig": source,
        "depth": [v.depth.to_json() for v in views if v.depth],
        "mask": "depth and colour" if opaque else "alpha",
        "exact": cameras.exact,
        "found": cameras.facts,
        "agreement": agreement.facts,
        "notes": notes,
    }
    write_json(out / "scene.json", scene.describe([v.camera for v in views], background, **about))


def _view_of(index: int, picture: png.Picture, given: list[View] | None) -> View:
    height, width = picture.pixels.shape[:2]
    view = given[index] if given else cameras_json.canonical_views(width, height)[index]
    return View(view.camera.resized(width, height), view.depth)


def _metric(picture: png.Picture, view: View) -> MetricDepth:
    shape = picture.pixels.shape[:2]
    assert view.depth is not None
    return metric_depth(picture, view.depth, ray_to_z(view.camera.resized(shape[1], shape[0]), shape))


def _coverage(picture: png.Picture, inside: Array, background: Array) -> Array:
    """The picture's own transparency where it has any, else what depth says, sharpened by colour."""
    if picture.alpha is not None:
        return picture.alpha
    return masks.sharpened(inside, picture.colour / np.float32(255), background)


def _empty(index: int) -> checks.Fault:
    error = ValidationFailed(
        "shows nothing: no pixel belongs to the object",
        "Check the transparency, and which depth value means background (cameras.json, depth/background).",
    )
    return checks.Fault(error, "multi_views", index, f"multi_views/{VIEW_NAMES[index]}")


def _write_view(out: Path, name: str, picture: png.Picture, coverage: Array, depth: MetricDepth) -> None:
    pixels = picture.colour if picture.alpha is None else np.dstack([picture.colour, png.to_bytes(picture.alpha)])
    png.write(out / "views" / f"{name}.png", pixels, level=1)
    png.write(out / "masks" / f"{name}.png", png.to_bytes(coverage), level=1)
    np.save(out / "depth" / f"{name}.npy", depth.depth)
    np.save(out / "steps" / f"{name}.npy", depth.step)
