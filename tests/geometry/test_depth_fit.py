"""Stored depth of known cameras: the distances it means are found again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steps.geometry import depth_fit
from steps.geometry.cameras import Camera, look_at, ray_to_z
from steps.geometry.rasterize import rasterize
from steps.geometry.rig_fit import Coding
from steps.geometry.rig_presets import PRESETS
from tests.geometry.shapes import ball

Array = np.ndarray[Any, Any]
SIZE = 128
DISTANCE = 3.0


def cameras() -> list[Camera]:
    up = np.array([0.0, 1.0, 0.0])
    return [look_at("view", back * DISTANCE, up, SIZE, SIZE * 1.2) for back in PRESETS["zero123plus-v1.2"].axes[:, 2]]


def bean() -> tuple[Array, Array]:
    """A lump without symmetry, which reaches to about 0.9."""
    vertices, faces = ball(24, 1.0, 0.0)
    x, y, z = vertices.T
    radius = 0.65 + 0.12 * np.sin(3 * x + 1) + 0.1 * np.cos(4 * y) * z
    return vertices * radius[:, None] * [1.0, 1.2, 0.8], faces


@pytest.mark.parametrize("ray", [0, 1])
@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("larger_is_farther", [True, False])
def test_the_ends_of_an_encoding_are_found(inverse: int, ray: int, larger_is_farther: bool) -> None:
    ends = (1.9, 4.2) if larger_is_farther else (4.2, 1.9)
    vertices, faces = bean()
    sights = []
    for camera in cameras():
        depth = rasterize(vertices, faces, camera).depth.astype(np.float64)
        stored = depth / ray_to_z(camera, depth.shape) if ray else depth
        with np.errstate(divide="ignore"):
            low, high, value = (1 / np.array(v) if inverse else np.array(v) for v in (*ends, stored))
        share = (value - low) / (high - low)
        sights.append(depth_fit.sight(camera, np.where(depth > 0, np.rint(share * 255) / 255, -1.0)))
    found = depth_fit.fitted(sights)
    assert found.error < depth_fit.FITS
    # another coding can say the same over the span that the object takes up: what counts is the depth at its ends
    for share in (0.2, 0.8):
        expected = _depth(Coding(inverse, ray), *ends, share)
        assert _depth(found.coding, found.low, found.high, share) == pytest.approx(expected, abs=0.04)


def _depth(coding: Coding, low: float, high: float, share: float) -> float:
    """On the axis."""
    return 1 / (1 / low + share * (1 / high - 1 / low)) if coding.inverse else low + share * (high - low)


def test_depth_of_another_object_agrees_in_no_encoding() -> None:
    vertices, faces = bean()
    sights = []
    for index, camera in enumerate(cameras()):
        turned = vertices[:, [1, 2, 0]] * [1.0, -1.0, 0.6] if index % 2 else vertices
        depth = rasterize(turned, faces if index % 2 == 0 else faces[:, ::-1].copy(), camera).depth.astype(np.float64)
        sights.append(depth_fit.sight(camera, np.where(depth > 0, (depth - 1.9) / 2.3, -1.0)))
    assert depth_fit.fitted(sights).error > depth_fit.FITS
