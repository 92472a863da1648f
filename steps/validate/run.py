"""The step validate: cheap checks first, then the rig, then the scene."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import ray_to_z
from steps.io import cameras_json, input_checks, png, scene, unseen
from steps.io.cameras_json import Arrangement, Given, View
from steps.io.depth_encoding import DepthEncoding, MetricDepth, foreground, metric_depth
from steps.runtime import devices
from steps.runtime.contract import OUTLINES, PRESETS, VIEW_NAMES, Validate
from steps.runtime.errors import RigAmbiguous, ValidationFailed
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter
from steps.validate import placement

if TYPE_CHECKING:  # they load scipy and kernels, which a faulty set must not wait for
    from steps.validate.consistency.judgement import Findings
    from steps.validate.foreground.masks import Masks
    from steps.validate.local_frame import LocalFrame


def run(parameters: Validate, out: Path, reporter: Reporter) -> None:
    """Writes the scene to `out`; raises BadInput with every fault, RigAmbiguous or GpuUnavailable."""
    write_json(parameters.outputs / "preflight.json", devices.preflight(parameters.device))
    pictures, given = input_checks.check_set(parameters.input, parameters.cameras)
    reporter.progress(1, 3)
    pictures = clean_set(pictures, given)
    cameras = determine_cameras(pictures, given, parameters, out, reporter)
    cameras = replace(cameras, notes=[*pictures.notes, *cameras.notes])
    if not (out / "rig.json").exists():
        write_json(out / "rig.json", {"decision": cameras.source, "cameras": document(pictures, cameras.views)})
    if cameras.views is not None:
        pictures, views = placement.aligned(pictures, cameras.views)
        cameras = replace(cameras, views=views, exact=cameras.exact and not any(v.colour for v in cameras.views))
    reporter.progress(2, 3)
    write_scene(pictures, cameras, out, reporter)
    from steps.validate.foreground import outlines

    outlines.sheet(out).save(parameters.outputs / OUTLINES, quality=85)
    if parameters.picture:
        from steps.validate.rig import picture as rig_picture  # only now: hardly anybody asks for it

        rig_picture.rig_picture(rig_picture.boards_of(scene.load(out))).save(out / "rig.png")
    reporter.progress(3, 3)


def document(pictures: input_checks.Pictures, given: list[View] | None) -> dict[str, Any]:
    """The cameras.json of a set whose rig did not have to be estimated."""
    sizes = [picture.pixels.shape[1::-1] for picture in pictures.depths]
    views = given or [cameras_json.canonical_views(*size)[i] for i, size in enumerate(sizes)]
    return cameras_json.document(views)


def clean_set(pictures: input_checks.Pictures, given: Given | None) -> input_checks.Pictures:
    """The set with depth that is distance and alpha that is coverage; decisions are in its notes."""
    from steps.validate.foreground import (  # only now: they load scipy, which a faulty set must not wait for
        alpha,
        holes,
        masks,
        outside,
    )

    background_values = holes.backgrounds(pictures, given)
    depths, outside_notes = outside.without_surroundings(pictures.depths, pictures.views, background_values)
    pictures, hole_notes = holes.without_invalid(replace(pictures, depths=depths), background_values)
    outlines = [
        foreground(p, DepthEncoding(background=b)) for p, b in zip(pictures.depths, background_values, strict=True)
    ]
    insides = [masks.resize_mask(o, p.pixels.shape[:2]) for o, p in zip(outlines, pictures.views, strict=True)]
    views, alpha_notes = alpha.interpret_alpha(pictures.views, insides)
    return replace(pictures, views=views, notes=[*pictures.notes, *outside_notes, *hole_notes, *alpha_notes])


@dataclass(frozen=True)
class Cameras:
    """views: None for the canonical rig; source: where they come from; notes: what to say about it; exact: whether views are
    known to meet, with each other and with their depth; metadata: the numbers behind a rig that was found."""

    views: list[View] | None
    source: str
    notes: list[str]
    exact: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)


def determine_cameras(
    pictures: input_checks.Pictures, given: Given | None, parameters: Validate, out: Path, reporter: Reporter
) -> Cameras:
    """The given cameras, with what is missing estimated."""
    hidden = unseen.empty_of(dict(enumerate(pictures.depths)))
    if isinstance(given, list) and all(view.depth for view in given):
        from steps.validate.depth import encoding

        views, note = (given, "") if hidden else encoding.check_encoding(pictures, given)
        return Cameras(views, "cameras.json", [note] if note else [])
    if given is None and parameters.rig == "nominal":
        return Cameras(None, "canonical", [])
    if hidden:
        raise _thin_views_error(hidden, given)
    if unseen.only_masks(pictures.depths):
        raise ValidationFailed(
            "The depth renders have one value on the object, the same in all six: these are masks, they hold no depth.",
            "Render depth: the distance from the camera, another value at each pixel.",
        )
    reporter.stage("rig")
    # only now: they load kernels, which a faulty set must not wait for
    if isinstance(given, list):
        from steps.validate.consistency import judgement
        from steps.validate.depth import encoding

        try:
            views, note = encoding.find_encoding(pictures, given)
        except RigAmbiguous as error:
            raise judgement.with_convention(error, given) from None
        return Cameras(views, "given, without encoding", [note])
    from steps.validate.rig import stage

    arrangement = given or Arrangement(preset=parameters.rig if parameters.rig in PRESETS else "")
    rig = stage.find(pictures, parameters.outputs, arrangement)
    write_json(out / "rig.json", rig.metadata)
    if rig.metadata["decision"] == "nominal":
        return Cameras(rig.views, "canonical", [rig.note] if rig.note else [])
    metadata = {key: value for key, value in rig.metadata.items() if key != "cameras"}
    return Cameras(rig.views, "found", [rig.note], exact=False, metadata=metadata)


def _thin_views_error(hidden: list[int], given: Given | None) -> RigAmbiguous:
    """The error for sets with empty views, where an estimate needs all six."""
    what = "depth encoding" if isinstance(given, list) else "cameras"
    help_ = (
        "give the encoding as `depth` in cameras.json"
        if isinstance(given, list)
        else "give cameras.json, or --rig nominal"
    )
    return RigAmbiguous(
        f"The object is too thin to be seen in {', '.join(VIEW_NAMES[i] for i in hidden)}: from the other views alone the {what} "
        "cannot be found.",
        f"If you know the {what}, {help_}. {unseen.ADVICE}",
        hypotheses=[],
    )


@dataclass(frozen=True)
class Seen:
    """What the views show, in the local frame. depths: without what lies outside the outlines; all_depths: with it; user_views:
    the cameras in the user's frame; notes: what was decided."""

    views: list[View]
    user_views: list[View]
    depths: list[MetricDepth]
    all_depths: list[MetricDepth]
    local: LocalFrame
    segmentation: Masks
    notes: list[str]


def write_scene(pictures: input_checks.Pictures, cameras: Cameras, out: Path, reporter: Reporter) -> None:
    """Masks, and in the local frame metric depth and cameras, of a set that passed the checks. Raises ValidationFailed where the
    views contradict each other too much."""
    from steps.validate.foreground import outside

    seen = _seen(pictures, cameras)
    _write_views(out, pictures, seen)
    try:
        agreement = _judged(pictures, seen, cameras.source, reporter)
    except ValidationFailed as error:
        raise outside.with_notes(error, seen.notes) from None
    notes = [*seen.notes, *agreement.warnings]
    for note in notes:
        reporter.warn(note)
    metadata = {
        "rig": cameras.source,
        "depth": [v.depth.to_json() for v in seen.views if v.depth],
        "mask": seen.segmentation.source,
        "exact": cameras.exact,
        "found": cameras.metadata,
        "agreement": agreement.metadata,
        "notes": notes,
    }
    background, frame = seen.segmentation.background, seen.local.frame
    write_json(out / "scene.json", scene.describe([v.camera for v in seen.views], background, frame, **metadata))


def _seen(pictures: input_checks.Pictures, cameras: Cameras) -> Seen:
    """Depth and outlines of all views. Raises ValidationFailed where a view that should show the object does not."""
    from steps.validate import local_frame
    from steps.validate.foreground import holes, masks, outside

    user_views = [_view_of(i, picture, cameras.views) for i, picture in enumerate(pictures.views)]
    local = local_frame.local_frame_of(pictures.depths, user_views)
    depths = [local.depth(i, _metric(p, v)) for i, (p, v) in enumerate(zip(pictures.depths, user_views, strict=True))]
    insides = [masks.resize_mask(d.depth > 0, p.pixels.shape[:2]) for d, p in zip(depths, pictures.views, strict=True)]
    segmentation = masks.segment(pictures.views, insides)
    inner_depths, outside_notes = outside.remove_outside(depths, segmentation.coverages)
    notes = [*cameras.notes, *local_frame.notes(local), *segmentation.notes]
    notes += [*holes.unknown(segmentation.coverages, insides), *outside_notes]
    visible = [
        (c >= 128) & (masks.resize_mask(d.depth > 0, c.shape) >= 0.5)
        for c, d in zip(segmentation.coverages, inner_depths, strict=True)
    ]
    input_checks.raise_all([_empty(index) for index in unseen.unexpectedly_empty(visible)])
    notes += unseen.notes([i for i, mask in enumerate(visible) if not mask.any()])
    return Seen(local.cameras(user_views), user_views, inner_depths, depths, local, segmentation, notes)


def _write_views(out: Path, pictures: input_checks.Pictures, seen: Seen) -> None:
    """The files of each view: picture, mask, depth, and the picture of its background where there is one."""
    for folder in ("views", "masks", "depth", "steps", "backgrounds"):
        (out / folder).mkdir()
    for index, (view, picture, depth) in enumerate(zip(seen.views, pictures.views, seen.depths, strict=True)):
        coverage, behind = seen.segmentation.coverages[index], seen.segmentation.behind[index]
        _write_view(out, view.camera.name, picture, coverage, depth)
        if behind is not None:
            png.write(out / "backgrounds" / f"{view.camera.name}.png", behind, level=1)


def _judged(pictures: input_checks.Pictures, seen: Seen, source: str, reporter: Reporter) -> Findings:
    """How well the views agree. Raises ValidationFailed where they contradict each other too much."""
    from steps.validate.consistency import judgement
    from steps.validate.foreground import outside

    local_cameras, user_cameras = (
        [v.camera.resized(*d.depth.shape[::-1]) for v, d in zip(views, seen.depths, strict=True)]
        for views in (seen.views, seen.user_views)
    )
    # pictures that are exchanged leave out depth that is right: unless it lies along outlines, all is judged
    judged_depths = seen.depths if outside.SMEARS in seen.notes else seen.all_depths
    coverages = [c / np.float32(255) for c in seen.segmentation.coverages]
    evidence = judgement.evidence_of(
        local_cameras, [d.depth for d in judged_depths], pictures.views, coverages, seen.segmentation.uniform
    )
    evidence = replace(evidence, users=user_cameras, unit=seen.local.frame.scale)
    return judgement.judge_given(evidence, pictures, source, reporter)


def _view_of(index: int, picture: png.Picture, given: list[View] | None) -> View:
    height, width = picture.pixels.shape[:2]
    view = given[index] if given else cameras_json.canonical_views(width, height)[index]
    return View(view.camera.resized(width, height), view.depth)


def _metric(picture: png.Picture, view: View) -> MetricDepth:
    shape = picture.pixels.shape[:2]
    assert view.depth is not None
    return metric_depth(picture, view.depth, ray_to_z(view.camera.resized(shape[1], shape[0]), shape))


def _empty(index: int) -> input_checks.Fault:
    error = ValidationFailed(
        "shows nothing: no pixel belongs to the object",
        "Check the transparency, and which depth value means background (cameras.json, depth/background). "
        + unseen.ADVICE,
    )
    return input_checks.Fault(error, "multi_views", index, f"multi_views/{VIEW_NAMES[index]}")


def _write_view(out: Path, name: str, picture: png.Picture, coverage: Array, depth: MetricDepth) -> None:
    pixels = picture.colour if picture.alpha is None else np.dstack([picture.colour, png.to_bytes(picture.alpha)])
    png.write(out / "views" / f"{name}.png", pixels, level=1)
    png.write(out / "masks" / f"{name}.png", coverage, level=1)
    np.save(out / "depth" / f"{name}.npy", depth.depth)
    np.save(out / "steps" / f"{name}.npy", depth.step)
