"""Named rigs: the camera poses of well-known multi-view generators, in the order of their views.

Zero123++ (Shi et al. 2023, its README's table of camera parameters); Wonder3D (Long et al. 2023, its fixed poses)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array


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
