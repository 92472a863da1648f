"""Monotone curves that stored depth has gone through after it was encoded, as view transforms and tone mapping make them.

A curve is named by what undoes it. With v in [0, 1] the stored value over the largest possible, and w what it was before:
"srgb"               w = v as linear light (IEC 61966-2-1)
{"gamma": g}         w = v ** g
{"knots": [[v, w]]}  w by monotone cubic interpolation (Fritsch and Carlson 1980), straight on beyond the first and last knot
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.compute.arrays import Array

Curve = str | dict[str, Any] | None
SRGB_BEND = 0.04045  # stored value below which sRGB is straight


def invert_curve(curve: Curve, v: Array) -> tuple[Array, Array]:
    """w and dw/dv at stored values v, of the same shape."""
    v = np.asarray(v, np.float64)
    if curve is None:
        return v, np.ones_like(v)
    if curve == "srgb":
        return _srgb(v)
    assert isinstance(curve, dict)
    if "gamma" in curve:
        g, positive = float(curve["gamma"]), np.maximum(v, 1e-6)
        return positive**g, g * positive ** (g - 1)
    return _interpolate_knots(np.asarray(curve["knots"], np.float64), v)


def _srgb(v: Array) -> tuple[Array, Array]:
    base = (np.maximum(v, 0) + 0.055) / 1.055
    nonlinear = v > SRGB_BEND
    return np.where(nonlinear, base**2.4, v / 12.92), np.where(nonlinear, 2.4 / 1.055 * base**1.4, 1 / 12.92)


def _interpolate_knots(knots: Array, v: Array) -> tuple[Array, Array]:
    from scipy.interpolate import PchipInterpolator  # only now: hardly any set has such a curve

    x, y = knots.T
    spline = PchipInterpolator(x, y)
    inside = np.clip(v, x[0], x[-1])
    slope = spline.derivative()(inside)
    return spline(inside) + slope * (v - inside), slope


def is_monotone(curve: Curve) -> bool:
    """Whether a curve of knots is monotone, and so invertible; others always are."""
    if not isinstance(curve, dict) or "knots" not in curve:
        return True
    return bool((np.diff(np.asarray(curve["knots"], np.float64), axis=0) > 0).all())
