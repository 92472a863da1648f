"""The depth encoding of a set whose cameras are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steps.errors import RigAmbiguous
from steps.formats.cameras_json import View
from steps.formats.checks import Pictures
from steps.geometry import depth_fit
from steps.validate.rig import background_of, counts_of, encoding_of


def found(pictures: Pictures, views: list[View]) -> tuple[list[View], str]:
    """The views with an encoding each, and what to say about it. Raises RigAmbiguous where none fits."""
    background = background_of(pictures.depths)
    counts, known, span = counts_of(pictures.depths, background)
    width = max(span[1] - span[0], 1.0)
    sights = [
        depth_fit.sight(
            view.camera.resized(count.shape[1], count.shape[0]), np.where(inside, (count - span[0]) / width, -1.0)
        )
        for view, count, inside in zip(views, counts, known, strict=True)
    ]
    ends = depth_fit.fitted(sights)
    if ends.error > depth_fit.FITS:
        raise RigAmbiguous(
            "No depth encoding makes the six depth renders agree under the cameras given.",
            "Check that each camera belongs to its view, or give the encoding as `depth` in cameras.json.",
            hypotheses=[],
        )
    depths = [encoding_of(ends.coding, [ends.low, ends.high], span, p.maximum, background) for p in pictures.depths]
    result = [v if v.depth else replace(v, depth=depth) for v, depth in zip(views, depths, strict=True)]
    kind, along = "inverse" if ends.coding.inverse else "linear", "ray" if ends.coding.ray else "axis"
    order = "farther" if ends.high > ends.low else "nearer"
    return result, f"The depth's encoding was found from the pictures: {kind} along the {along}, larger is {order}."
