"""The canonical rig with depth stored in another encoding: its cameras determine the encoding, if they are the right ones."""

from __future__ import annotations

from steps.calibration import depth_search
from steps.calibration.depth_views import EmptyVisualHull, silhouette_shortfall
from steps.io import cameras_json
from steps.io.cameras_json import View
from steps.io.input_checks import Pictures
from steps.validate.depth import encoding
from steps.validate.depth.messages import describe
from steps.validate.depth.stored import counts_of

MAX_SHORTFALL = 0.02  # radii: of outlines that these cameras may have seen


def nominal_with_encoding(pictures: Pictures, background: int | str) -> tuple[list[View], str] | None:
    """The canonical cameras with the encoding that explains the depth renders, and a note; None where there is none.
    Silhouettes alone rule out most sets of other cameras quickly."""
    sizes = [p.pixels.shape[1::-1] for p in pictures.depths]
    if any(width != height for width, height in sizes):
        return None
    views = [View(cameras_json.canonical_views(*size)[i].camera, None) for i, size in enumerate(sizes)]
    try:
        if silhouette_shortfall([v.camera for v in views], counts_of(pictures.depths, background)[1]) > MAX_SHORTFALL:
            return None
        prepared = encoding.prepared(pictures, views, background)
    except EmptyVisualHull:
        return None
    fit = depth_search.find_model(prepared.problem, prepared.frame)
    if fit.cost > depth_search.EXPLAINED_COST or fit.noise > 2 * depth_search.EXPLAINED_NOISE:
        return None
    depths = encoding.encodings(fit, prepared)
    note = f"The cameras are the canonical ones; depth is stored otherwise than these have it: {describe(depths)}"
    return [View(v.camera, d) for v, d in zip(views, depths, strict=True)], note
