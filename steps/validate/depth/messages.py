"""Report texts about an estimated depth encoding: its name, likely origin, and advice."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.depth_curve import Curve, invert_curve
from steps.io.depth_encoding import DepthEncoding

GAMMAS = (0.45, 1.4, 1.8, 2.2, 2.6)
ALIKE = 0.02  # of a curve's range: by how much it may miss the one that it is called like
SAME = 2e-3  # relative difference up to which two numbers are one
TRANSFORM = (
    "To have depth stored without it, set the view transform to Raw (Blender: Color Management) or save without gamma; it can "
    "also be left, for it is undone here."
)
STRETCHED = (
    "Each view looks stretched between its own nearest and farthest point, as cv2.normalize, Blender's Normalize node and "
    "monocular estimators do; one range for all six views keeps more of what was measured."
)


def describe(depths: list[DepthEncoding]) -> str:
    """Sentences for the report, of cameras that are known."""
    per_view = is_per_view(depths)
    ends = f", from {depths[0].near:.5g} at 0 to {depths[0].far:.5g} at the largest value"
    return describe_encoding(depths[0], per_view, "" if per_view else ends)


def describe_encoding(depth: DepthEncoding, per_view: bool, ends: str = "") -> str:
    """Sentences for the report. per_view: whether each view has a range of its own; ends: what the shared range is, in words."""
    kind = {"linear": "linear", "inverse": "inverse (disparity)", "logarithmic": "logarithmic"}[depth.encoding]
    along = "ray" if depth.distance == "ray" else "axis"
    order = "farther" if depth.far > depth.near else "nearer"
    own = ", with a range of its own in every view" if per_view else ends
    text = f"{kind} along the {along}, larger is {order}{own}{curve_words(depth.curve)}."
    return " ".join([text, *([TRANSFORM] if depth.curve is not None else []), *([STRETCHED] if per_view else [])])


def is_per_view(depths: list[DepthEncoding]) -> bool:
    return any(abs(d.near - depths[0].near) + abs(d.far - depths[0].far) > 1e-9 * abs(d.far) for d in depths)


def curve_words(curve: Curve) -> str:
    """The likely origin of a curve; empty without one."""
    if curve is None:
        return ""
    if curve == "srgb":
        return ", as if saved through sRGB"
    if isinstance(curve, dict) and "gamma" in curve:
        return f", as if saved with a gamma of {curve['gamma']:.3g}"
    like = _similar_curve(np.asarray(curve["knots"], np.float64)) if isinstance(curve, dict) else ""
    if like:
        return f", through a curve like {like}"
    return ", through a curve without a name, as a view transform like Filmic or AgX makes it"


def _similar_curve(knots: Array) -> str:
    """The named curve within ALIKE of knots (n, 2), up to scale and offset; empty without one."""
    v, w = knots.T
    named_curves: dict[str, Curve] = {"that of sRGB": "srgb"} | {f"a gamma of {g}": {"gamma": g} for g in GAMMAS}
    missed = {words: _curve_distance(invert_curve(curve, v)[0], w) for words, curve in named_curves.items()}
    nearest = min(missed, key=lambda words: missed[words])
    return nearest if missed[nearest] < ALIKE else ""


def _curve_distance(reference: Array, w: Array) -> float:
    line = np.stack([reference, np.ones_like(reference)], axis=1)
    return float(np.abs(line @ np.linalg.lstsq(line, w, rcond=None)[0] - w).max() / np.ptp(w))


def factor_between(depths: list[Array], given: list[Array]) -> float:
    """The factor between two depths where they differ by one alone; else 0. depths, given: of each view, (n,), at the same
    stored values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.concatenate(depths) / np.concatenate(given)
    if not np.isfinite(ratios).all():
        return 0.0
    return float(ratios.mean()) if np.ptp(ratios) < 10 * SAME * abs(ratios.mean()) else 0.0
