"""Hypotheses about the cameras of six named views, and named rigs: the poses of well-known multi-view generators, in the order
of their views.

Zero123++ (Shi et al. 2023, its README's table of camera parameters); Wonder3D (Long et al. 2023, its fixed poses)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import CANONICAL_AXES, VIEW_NAMES


@dataclass(frozen=True)
class Preset:
    """azimuths: degrees from the front towards its right as a viewer has it, seen from above counter-clockwise; elevations:
    degrees above the horizon; field_of_view: degrees across, 0 for orthographic, None where it is not fixed."""

    azimuths: tuple[int, ...]
    elevations: tuple[int, ...]
    field_of_view: float | None

    @property
    def axes(self) -> Array:
        """(6, 3, 3): right, up and back of each camera in the world."""
        return np.stack([_axes(*np.radians(pair)) for pair in zip(self.azimuths, self.elevations, strict=True)])


_AROUND = (30, 90, 150, 210, 270, 330)
PRESETS = {
    "zero123plus-v1.1": Preset(_AROUND, (30, -20) * 3, None),
    "zero123plus-v1.2": Preset(_AROUND, (20, -10) * 3, 30.0),
    "wonder3d": Preset((0, 45, 90, 180, 270, 315), (0,) * 6, 0.0),
}


def _axes(azimuth: float, elevation: float) -> Array:
    flat = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
    back = np.cos(elevation) * flat + np.array([0.0, np.sin(elevation), 0.0])
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    return np.stack([right, np.cross(back, right), back])


@dataclass(frozen=True)
class Hypothesis:
    """What the view names mean. left_is: whose left; top, bottom: quarter turns of that picture, counter-clockwise. Or preset:
    a named rig, whose views come in an order of its own. field_of_view: degrees, None to estimate it."""

    left_is: str = "viewer"
    top: int = 0
    bottom: int = 0
    preset: str = ""
    field_of_view: float | None = None


def axes_of(hypothesis: Hypothesis) -> Array:
    """(6, 3, 3): right, up and back of each camera in the world."""
    if hypothesis.preset:
        return PRESETS[hypothesis.preset].axes
    axes = []
    for name in VIEW_NAMES:
        back, up = (np.array(v, float) for v in CANONICAL_AXES[name])
        if hypothesis.left_is == "object" and name in ("left", "right"):
            back = -back
        for _ in range({"top": hypothesis.top, "bottom": hypothesis.bottom}.get(name, 0)):
            up = np.cross(up, back)
        axes.append(np.stack([np.cross(up, back), up, back]))
    return np.stack(axes)


def hypotheses() -> list[Hypothesis]:
    """All 32 hypotheses about the view names."""
    return [
        Hypothesis(left_is, top, bottom) for left_is, top, bottom in product(("viewer", "object"), range(4), range(4))
    ]


def perspective_of(hypothesis: Hypothesis) -> float | None:
    """Tangent of half the field of view, 0 for orthographic; None where the hypothesis leaves it open."""
    angle = PRESETS[hypothesis.preset].field_of_view if hypothesis.preset else hypothesis.field_of_view
    return None if angle is None else float(np.tan(np.radians(angle / 2)))
