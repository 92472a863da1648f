"""The canonical rig where depth is not stored as it says: its cameras determine the encoding, if they are the right ones."""

from __future__ import annotations

from steps.calibration import depth_search
from steps.calibration.depth_views import EmptyVisualHull, silhouette_shortfall
from steps.io import cameras_json
from steps.io.cameras_json import View
from steps.io.input_checks import Pictures
from steps.validate.depth import encoding
from steps.validate.depth.messages import told
from steps.validate.depth.stored import counts_of

UNFILLED = 0.02  # radii: of outlines that these cameras may have seen


def explained(pictures: Pictures, background: int | str) -> tuple[list[View], str] | None:
    """The canonical cameras with the encoding by which the depth renders leave nothing to explain, and what to say about it; None
    where there is none. Outlines alone tell most sets of other cameras apart, at once."""
    sizes = [p.pixels.shape[1::-1] for p in pictures.depths]
    if any(width != height for width, height in sizes):
        return None
    views = [View(cameras_json.canonical_views(*size)[i].camera, None) for i, size in enumerate(sizes)]
    try:
        if silhouette_shortfall([v.camera for v in views], counts_of(pictures.depths, background)[1]) > UNFILLED:
            return None
        prepared = encoding.prepared(pictures, views, background)
    except EmptyVisualHull:
        return None
    fit = depth_search.find_model(prepared.problem, prepared.frame)
    if fit.cost > depth_search.EXPLAINED_COST or fit.noise > 2 * depth_search.EXPLAINED_NOISE:
        return None
    depths = encoding.encodings(fit, prepared)
    note = f"The cameras are the canonical ones; depth is stored otherwise than these have it: {told(depths)}"
    return [View(v.camera, d) for v, d in zip(views, depths, strict=True)], note
