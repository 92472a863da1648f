"""Depth encodings: the mapping from a depth render's stored values to depth.

With v the stored value divided by the largest the PNG can hold (255 or 65535):
linear    depth = near + v * (far - near)
inverse   1 / depth = 1 / near + v * (1 / far - 1 / near)
logarithmic  log depth = log near + v * (log far - log near)
metric    depth = stored value * scale, in scene units per count (0.001 for millimetres in metres)
`curve` is what v goes through first, to undo what a view transform or tone mapping has done (see `steps.geometry.depth_curve`);
metric depth has none.
Where larger values are nearer, near and far are simply given the other way round.
`distance` says whether that depth is measured along the viewing axis ("z") or along the pixel's ray ("ray").
`background` is the stored value that means "nothing here": a count, "max" for the largest, "alpha" where the PNG's own alpha
says so, or null where every pixel is part of the object.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.depth_curve import Curve, invert_curve
from steps.io.png import Picture


@dataclass(frozen=True)
class DepthEncoding:
    """Parameters of an encoding, see the module's docstring. near, far: scene units, for all but metric; scale: for metric."""

    encoding: str = "linear"
    distance: str = "z"
    near: float = 1.5
    far: float = 3.5
    scale: float = 0.001
    background: int | str | None = 0
    curve: Curve = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "curve" or value is not None}


@dataclass(frozen=True)
class MetricDepth:
    """depth: [H, W] along the viewing axis, 0 where nothing is; step: [H, W], the size of one stored level."""

    depth: Array
    step: Array


def metric_depth(picture: Picture, encoding: DepthEncoding, to_z: Array) -> MetricDepth:
    """Decodes a depth render: float64, in the encoding's unit. to_z: [H, W] factor from ray to axis (see `cameras.ray_to_z`),
    used for distance = "ray"."""
    counts = picture.pixels[..., 0].astype(np.float64)
    known = foreground(picture, encoding)
    level = _level(picture.pixels[..., 0][known])
    depth, slope = _decode(counts, picture.maximum, encoding)
    if encoding.distance == "ray":
        depth, slope = depth * to_z, slope * to_z
    usable = known & np.isfinite(depth) & (depth > 0)
    return MetricDepth(np.where(usable, depth, 0.0), np.where(usable, np.abs(slope) * level, 0.0))


def foreground(picture: Picture, encoding: DepthEncoding) -> Array:
    """Mask [H, W] bool of the object's pixels, by the background value and the picture's alpha."""
    counts = picture.pixels[..., 0]
    known = np.ones(counts.shape, bool)
    if encoding.background == "max":
        known = counts != picture.maximum
    elif isinstance(encoding.background, int):
        known = counts != encoding.background
    return known if picture.alpha is None else known & (picture.alpha >= 0.5)


def _level(counts: Array) -> float:
    """The distance between two stored levels in counts: more than one where 8 bits were stretched to 16."""
    steps = np.diff(np.unique(counts).astype(np.int64))
    return float(np.gcd.reduce(steps)) if len(steps) else 1.0


def _decode(counts: Array, maximum: int, e: DepthEncoding) -> tuple[Array, Array]:
    """Depth and its change per count."""
    if e.encoding == "metric":
        return counts * e.scale, np.full_like(counts, e.scale)
    share, rise = invert_curve(e.curve, counts / maximum)
    rise = rise / maximum
    if e.encoding == "linear":
        return e.near + share * (e.far - e.near), rise * (e.far - e.near)
    if e.encoding == "logarithmic":
        depth = e.near * (e.far / e.near) ** share
        return depth, depth * np.log(e.far / e.near) * rise
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1.0 / (1.0 / e.near + share * (1.0 / e.far - 1.0 / e.near))
    return depth, depth**2 * (1.0 / e.far - 1.0 / e.near) * rise


def encode_linear(depth: Array, near: float, far: float, bits: int) -> Array:
    """Metric depth [H, W], 0 for nothing, to linear counts with background 0: uint8 or uint16."""
    maximum = 2**bits - 1
    counts = np.clip(np.rint((depth - near) / (far - near) * maximum), 1, maximum)
    return np.where(depth > 0, counts, 0).astype(np.uint8 if bits == 8 else np.uint16)
