"""Simulated storage of depth: quantity, curve, quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, ray_to_z
from steps.raster.rasterize import rasterize
from steps.sample.render import GroundTruth

if TYPE_CHECKING:
    from steps.sample.capture import Capture, ViewNoise


def srgb(v: Array) -> Array:
    """sRGB's transfer function (IEC 61966-2-1) of v in [0, 1], as a view transform left on stores depth."""
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * np.maximum(v, 0.0031308) ** (1 / 2.4) - 0.055)


def gamma22(v: Array) -> Array:
    return np.asarray(np.maximum(v, 0) ** (1 / 2.2))


def filmic(v: Array) -> Array:
    """A filmic tone curve of v in [0, 1], logarithmic exposure and a sigmoid, in the shape of Blender's Filmic and AgX."""
    stops = np.clip((np.log2(np.maximum(v, 1e-6) / 0.18) + 10) / 16.5, 0, 1)
    return np.asarray(stops * stops * (3 - 2 * stops))


TRANSFORMS = {"srgb": srgb, "gamma22": gamma22, "filmic": filmic}
PER_VIEW = ("normalised", "disparity")  # each view has one for itself
INVERSE = ("inverse", "reversed_z", "disparity")  # straight in 1 / depth
LARGER_NEARER = ("reversed_z", "disparity")
CURVES = ("linear", "inverse", "reversed_z", *TRANSFORMS, *PER_VIEW)


def counts_of(truth: GroundTruth, views: list[tuple[Camera, Camera, ViewNoise]], capture: Capture) -> list[Array]:
    """The six stored depth renders: [H, W] uint8 or uint16, or [H, W, 2] with alpha. views: ideal camera, true camera of the
    depth render, and errors of each."""
    measured = [_measure(truth, *v, capture) for v in views]
    ranges = [(float(s[s > 0].min()), float(s[s > 0].max())) for s in measured]
    if capture.curve not in PER_VIEW:
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))] * len(ranges)
    return [_quantize(s, span, i, capture) for i, (s, span) in enumerate(zip(measured, ranges, strict=True))]


def _measure(truth: GroundTruth, view: Camera, camera: Camera, noise: ViewNoise, capture: Capture) -> Array:
    """Distance or inverse distance before quantization, 0 where nothing is."""
    z = rasterize(truth.vertices, truth.faces, camera).depth.astype(np.float64)
    middle = float(np.linalg.norm(view.position))
    half = middle * view.width / 2 / view.fx
    distorted = middle - (middle - z) * noise.gain - noise.offset * half
    if capture.distance == "ray":
        distorted = distorted / ray_to_z(camera, z.shape)
    return np.where(z > 0, 1 / distorted if _is_inverse(capture) else distorted, 0)


def _is_inverse(capture: Capture) -> bool:
    return capture.encoding == "inverse"


def _quantize(measured: Array, span: tuple[float, float], view: int, capture: Capture) -> Array:
    """One view's counts. span: the values of the lowest and the highest count."""
    normalized = (measured - span[0]) / max(span[1] - span[0], 1e-12)
    if (capture.nearer_is == "larger") != _is_inverse(capture):
        normalized = 1 - normalized
    if capture.curve == "disparity":  # as estimators have it: up to a factor and an offset of each view's own
        factor, offset = capture.own[view]
        normalized = offset + factor * normalized
    value = (capture.lowest + normalized * (capture.levels - 1)) / 255
    if capture.curve in TRANSFORMS:
        value = TRANSFORMS[capture.curve](value)
    top, kind = 2**capture.bits - 1, np.uint8 if capture.bits == 8 else np.uint16
    counts = np.rint(value * top).astype(np.int64)
    if capture.background == "alpha":
        return np.dstack([np.where(measured > 0, counts, top // 2), np.where(measured > 0, top, 0)]).astype(kind)
    return np.where(measured > 0, counts, int(capture.background) * top // 255).astype(kind)
