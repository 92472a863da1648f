"""What is said about a depth encoding that was found: its name, what may have made it, and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.formats.depth_encoding import DepthEncoding
from steps.geometry.depth_curve import Curve

Array = NDArray[Any]
SAME = 2e-3  # relative difference up to which two numbers are one
TRANSFORM = (
    "To have depth stored without it, set the view transform to Raw (Blender: Color Management) or save without gamma; it can "
    "also be left, for it is undone here."
)


def told(depths: list[DepthEncoding]) -> str:
    """Sentences for the report."""
    first = depths[0]
    kind = {"linear": "linear", "inverse": "inverse (disparity)", "logarithmic": "logarithmic"}[first.encoding]
    along = "ray" if first.distance == "ray" else "axis"
    order = "farther" if first.far > first.near else "nearer"
    text = f"{kind} along the {along}, larger is {order}, {_range(depths)}{curve_words(first.curve)}."
    return " ".join([text, *_causes(depths)])


def is_per_view(depths: list[DepthEncoding]) -> bool:
    return any(abs(d.near - depths[0].near) + abs(d.far - depths[0].far) > 1e-9 * abs(d.far) for d in depths)


def _range(depths: list[DepthEncoding]) -> str:
    if is_per_view(depths):
        return "with a range of its own in every view"
    return f"from {depths[0].near:.5g} at 0 to {depths[0].far:.5g} at the largest value"


def curve_words(curve: Curve) -> str:
    """What may have made a curve; nothing where there is none."""
    if curve is None:
        return ""
    if curve == "srgb":
        return ", as if saved through sRGB"
    if isinstance(curve, dict) and "gamma" in curve:
        return f", as if saved with a gamma of {curve['gamma']:.3g}"
    return ", through a curve without a name, as a view transform like Filmic or AgX makes it"


def _causes(depths: list[DepthEncoding]) -> list[str]:
    causes = []
    if depths[0].curve is not None:
        causes.append(TRANSFORM)
    if is_per_view(depths):
        causes.append(
            "Each view looks stretched between its own nearest and farthest point, as cv2.normalize, Blender's Normalize node "
            "and monocular estimators do; one range for all six views keeps more of what was measured."
        )
    return causes


def factor_between(depths: list[Array], given: list[Array]) -> float:
    """By how much depth differs from what was given, where that is all; else 0. depths, given: of each view, (n,), of some
    stored values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.concatenate(depths) / np.concatenate(given)
    if not np.isfinite(ratios).all():
        return 0.0
    return float(ratios.mean()) if np.ptp(ratios) < 10 * SAME * abs(ratios.mean()) else 0.0
