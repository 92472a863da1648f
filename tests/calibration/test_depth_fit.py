"""Estimation of the depth encoding, also with a nonlinear curve, under known cameras."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from steps.calibration import depth_fit, depth_search
from steps.calibration.depth_fit import Fit
from steps.calibration.depth_models import Model
from steps.calibration.depth_views import Frame, depth_view, normalize_cameras
from steps.calibration.hypotheses import PRESETS
from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, look_at, ray_to_z
from steps.raster.rasterize import rasterize
from tests.raster.shapes import ball

SIZE = 128
DISTANCE = 3.0
FITS = 2.5
NEAR, FAR = 1.9, 4.2


def cameras() -> list[Camera]:
    up = np.array([0.0, 1.0, 0.0])
    return [look_at("view", back * DISTANCE, up, SIZE, SIZE * 1.2) for back in PRESETS["zero123plus-v1.2"].axes[:, 2]]


def bean() -> tuple[Array, Array]:
    """A lump without symmetry, which reaches to about 0.9."""
    vertices, faces = ball(24, 1.0, 0.0)
    x, y, z = vertices.T
    radius = 0.65 + 0.12 * np.sin(3 * x + 1) + 0.1 * np.cos(4 * y) * z
    return vertices * radius[:, None] * [1.0, 1.2, 0.8], faces


def depths() -> list[Array]:
    vertices, faces = bean()
    return [rasterize(vertices, faces, camera).depth.astype(np.float64) for camera in cameras()]


def fit_to(values: list[Array], given: list[Camera]) -> tuple[Fit, Frame]:
    """values: six [H, W], -1 where nothing is."""
    normalized, frame = normalize_cameras(given, [v >= 0 for v in values])
    levels = np.unique(np.concatenate([v[v >= 0] for v in values]))
    views = [depth_view(c, v, v >= 0, float(np.diff(levels).min())) for c, v in zip(normalized, values, strict=True)]
    return depth_search.find_model(depth_fit.problem(views), frame), frame


def normalized_depth(z: Array) -> Array:
    return (z - NEAR) / (FAR - NEAR)


def smoothstep(x: Array) -> Array:
    return x * x * (3 - 2 * x)


CURVES: dict[str, Callable[[Array], Array]] = {
    "linear": normalized_depth,
    "linear, larger is nearer": lambda z: 1 - normalized_depth(z),
    "a reversed z-buffer": lambda z: (1 / z - 1e-3) / (1 / 0.3 - 1e-3),
    "logarithmic": lambda z: np.log(z / NEAR) / np.log(FAR / NEAR),
    "gamma 1.6 on disparity": lambda z: ((1 / z - 1 / FAR) / (1 / NEAR - 1 / FAR)) ** (1 / 1.6),
    "an S, without a name": lambda z: smoothstep(smoothstep(normalized_depth(z))),
}


def worst(fit: Fit, frame: Frame, values: list[Array], true: list[Array]) -> float:
    """Scene units, but for one pixel in a hundred."""
    errors = []
    for i, (value, z, camera) in enumerate(zip(values, true, cameras(), strict=True)):
        seen = value >= 0
        factor = ray_to_z(camera, z.shape)[seen] if fit.model.ray else 1.0
        errors.append(
            frame.radius * fit.model.depth(value[seen], fit.model.view_params(fit.params, i))[0] * factor - z[seen]
        )
    return float(np.percentile(np.abs(np.concatenate(errors)), 99))


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_that_all_views_share_is_found(name: str) -> None:
    true = depths()
    values = [np.where(z > 0, CURVES[name](np.where(z > 0, z, 2.0)), -1.0) for z in true]
    fit, frame = fit_to(values, cameras())
    assert fit.cost < FITS
    assert worst(fit, frame, values, true) < 0.02  # 0.8 of a pixel


def test_the_simplest_of_those_that_fit_is_taken() -> None:
    true = depths()
    plain, frame = fit_to([np.where(z > 0, normalized_depth(z), -1.0) for z in true], cameras())
    assert plain.model == Model()
    assert frame.radius * plain.params == pytest.approx([NEAR, FAR - NEAR], abs=0.01)


def test_ray_distance_and_axial_depth_are_distinguished() -> None:
    true = depths()
    values = [
        np.where(z > 0, normalized_depth(z / ray_to_z(c, z.shape)), -1.0) for z, c in zip(true, cameras(), strict=True)
    ]
    fit, frame = fit_to(values, cameras())
    assert fit.model.ray and worst(fit, frame, values, true) < 0.02


def test_views_normalized_to_their_own_range_get_a_curve_each() -> None:
    true = depths()
    values = []
    for z in true:
        near = 1 / z[z > 0]
        stretched = (1 / np.maximum(z, 1e-9) - near.min()) / np.ptp(near)
        values.append(np.where(z > 0, np.rint(1 + 254 * stretched) / 255, -1.0))
    fit, frame = fit_to(values, cameras())
    assert fit.model.per_view and fit.model.encoding == "inverse"
    assert worst(fit, frame, values, true) < 0.03


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_fit_is_invariant_to_unit_and_origin(unit: float) -> None:
    true = depths()
    values = [np.where(z > 0, normalized_depth(z), -1.0) for z in true]
    moved_cameras = []
    for camera in cameras():
        pose = np.array(camera.camera_to_world)
        pose[:3, 3] = (pose[:3, 3] + [700.0, -20.0, 3.0]) * unit
        moved_cameras.append(Camera(camera.name, pose, camera.fx, camera.fy, camera.cx, camera.cy, SIZE, SIZE))
    fit, frame = fit_to(values, moved_cameras)
    assert frame.radius * fit.params / unit == pytest.approx([NEAR, FAR - NEAR], abs=0.01)


def test_depth_of_another_object_agrees_in_no_encoding() -> None:
    vertices, faces = bean()
    values = []
    for index, camera in enumerate(cameras()):
        turned = vertices[:, [1, 2, 0]] * [1.0, -1.0, 0.6] if index % 2 else vertices
        depth = rasterize(turned, faces if index % 2 == 0 else faces[:, ::-1].copy(), camera).depth.astype(np.float64)
        values.append(np.where(depth > 0, (depth - 1.9) / 2.3, -1.0))
    assert fit_to(values, cameras())[0].cost > FITS
