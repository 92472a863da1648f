"""The depth encoding of a set with known cameras: estimated where it is not given, checked where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from steps.calibration import depth_fit
from steps.calibration.depth_fit import Fit, Problem
from steps.calibration.depth_models import Model, Offset
from steps.calibration.depth_views import EmptyVisualHull, Frame, depth_view, normalize_cameras
from steps.compute.arrays import Array
from steps.geometry.depth_curve import Curve
from steps.io.cameras_json import View
from steps.io.depth_encoding import DepthEncoding
from steps.io.input_checks import Pictures
from steps.runtime.errors import RigAmbiguous
from steps.validate.depth.messages import describe, factor_between
from steps.validate.depth.steadied import denoise
from steps.validate.depth.stored import background_of, counts_of

MAX_COST = 2.5  # the largest cost of an encoding that is believed
REPLACEMENT_COST = 1.5  # the same of one that replaces a given one
DENIED_COST = 4.0  # cost from which a given encoding is rejected
REPLACEMENT_GAIN = 3.0  # factor by which another one must lower the cost to replace it
# pixels: with so little surface noise the encoding is right, and mismatched outlines have holes or are exchanged
REGISTERED_NOISE = 0.1
OUTLINED = 0.02  # share of pixels without depth, below which the outlines are the pictures' frames
# radii, and times the surfaces' noise, by which another encoding must move some depth
LEAST_CHANGE, LEAST_CHANGE_SIGMAS = 0.02, 4.0
LEVELS = 9  # at which two encodings are compared
_HELP = "Check that each camera belongs to its view, or give the encoding as `depth` in cameras.json."
KNOTS = 33  # of a curve in cameras.json


@dataclass(frozen=True)
class Prepared:
    """Input of the fit. maximum: the largest value that the pictures can hold; background: the value of no depth."""

    problem: Problem
    frame: Frame
    maximum: int
    background: int | str | None


def find_encoding(pictures: Pictures, views: list[View]) -> tuple[list[View], str]:
    """The views with an estimated encoding each, and a note. Raises RigAmbiguous where none fits."""
    from steps.calibration import depth_search  # only now: it loads kernels

    try:
        ready = prepared(pictures, views, background_of(pictures.depths))
    except EmptyVisualHull:
        raise RigAmbiguous(
            "Under the cameras given, the six outlines have no place in common.", _HELP, hypotheses=[]
        ) from None
    fit = depth_search.find_model(ready.problem, ready.frame)
    if not fit.cost <= MAX_COST:  # nor where it is no number
        raise RigAmbiguous(
            f"No depth encoding makes the six depth renders agree under the cameras given: the best misses by {fit.cost:.1f}, "
            "about 1 is usual.",
            _HELP,
            hypotheses=[],
        )
    depths = encodings(fit, ready)
    result = [v if v.depth else replace(v, depth=d) for v, d in zip(views, depths, strict=True)]
    return result, f"The depth's encoding was found from the pictures: {describe(depths)}"


def check_encoding(pictures: Pictures, views: list[View]) -> tuple[list[View], str]:
    """The views as given where their encoding fits, or no other does; else with the encoding that fits, and a note."""
    given = [v.depth for v in views if v.depth]
    if (
        len(given) < len(views)
        or any(v.colour for v in views)
        or len({(d.encoding, d.distance, str(d.curve)) for d in given}) > 1
    ):
        return views, ""
    ready = None
    for ready in _problems(pictures, views, given[0].background):
        model, params = _as_model(given, ready)
        given_fit = depth_fit.evaluate(ready.problem, model, params)
        if given_fit.cost <= DENIED_COST or given_fit.noise < REGISTERED_NOISE or not _have_outlines(ready):
            return views, ""
    if ready is None:
        return views, ""
    from steps.calibration import depth_search  # only now: it loads kernels

    fit = depth_search.find_model(ready.problem, ready.frame)
    if not fit.cost <= REPLACEMENT_COST or fit.cost * REPLACEMENT_GAIN > given_fit.cost:
        return views, ""
    stated, after = (_decoded(ready, m, t) for m, t in ((model, params), (fit.model, fit.params)))
    if model.ray == fit.model.ray:
        change = max(float(np.abs(a - b).max()) for a, b in zip(after, stated, strict=True))
        if change < max(LEAST_CHANGE, LEAST_CHANGE_SIGMAS * fit.noise * ready.problem.pixel):
            return views, ""  # noise makes views deny each other, too, and what fits best is a little off for it
        if factor_between(after, stated):
            # depth in another unit than the cameras is reported by the agreement of the views: either may be the wrong one
            return views, ""
    depths = encodings(fit, ready)
    note = (
        f"WARNING: the pictures deny the depth encoding that cameras.json gives ({_short(given[0])}); under its cameras they "
        f"agree with another one, which was taken: {describe(depths)}"
    )
    return [replace(v, depth=d) for v, d in zip(views, depths, strict=True)], note


def _have_outlines(ready: Prepared) -> bool:
    return float(np.mean([(v.value < 0).mean() for v in ready.problem.views])) > OUTLINED


def _decoded(ready: Prepared, model: Model, params: Array) -> list[Array]:
    """Depth (LEVELS,) over each view's range of values, radii."""
    return [
        model.depth(np.linspace(*span, LEVELS), model.view_params(params, i))[0]
        for i, span in enumerate(ready.problem.spans)
    ]


def _short(e: DepthEncoding) -> str:
    return f"metric, scale {e.scale:g}" if e.encoding == "metric" else f"{e.encoding} from {e.near:g} to {e.far:g}"


def _problems(pictures: Pictures, views: list[View], background: int | str | None) -> Iterator[Prepared]:
    """The pictures as they are, then denoised; none where the silhouettes have no common point: wrong cameras are reported by
    the agreement of the views."""
    with contextlib.suppress(EmptyVisualHull):
        yield prepared(pictures, views, background)
        yield prepared(pictures, views, background, steady=True)


def prepared(pictures: Pictures, views: list[View], background: int | str | None, steady: bool = False) -> Prepared:
    """Input of the fit. steady: denoised first (see `denoise`). Raises EmptyVisualHull."""
    counts, known, _ = counts_of(pictures.depths, "alpha" if background is None else background)
    maximum = pictures.depths[0].maximum
    values = [np.where(k, c / p.maximum, -1.0) for c, k, p in zip(counts, known, pictures.depths, strict=True)]
    outlines, shapes = known, [k.shape for k in known]
    levels = np.unique(np.concatenate([v[v >= 0] for v in values]))
    level = float(np.diff(levels).min()) if len(levels) > 1 else 1.0
    if steady:
        both = [denoise(v, p) for v, p in zip(values, pictures.views, strict=True)]
        values, outlines = [v for v, _ in both], [o for _, o in both]
    cameras, frame = normalize_cameras(
        [v.camera.resized(w, h) for v, (h, w) in zip(views, shapes, strict=True)], outlines
    )
    # medians around each pixel have no stairs left that smoothing would not move further
    seen = [depth_view(*each, level, smooth_stairs=not steady) for each in zip(cameras, values, outlines, strict=True)]
    return Prepared(depth_fit.problem(seen), frame, maximum, background)


def _as_model(given: list[DepthEncoding], ready: Prepared) -> tuple[Model, Array]:
    """Given encodings as a model and parameters, radii."""
    radius, first = ready.frame.radius, given[0]
    kind = "linear" if first.encoding == "metric" else first.encoding
    model = Model(kind, first.distance == "ray", first.curve, per_view=True)
    params = []
    for e in given:
        if e.encoding == "metric":
            params += [0.0, e.scale * ready.maximum / radius]
            continue
        near, far = (
            model.linearize(np.array(v / radius)) if kind == "logarithmic" else _line(kind, v / radius)
            for v in (e.near, e.far)
        )
        params += [float(near), float(far - near)]
    return model, np.array(params)


def _line(kind: str, depth: float) -> float:
    return 1 / depth if kind == "inverse" else depth


def encodings(fit: Fit, ready: Prepared) -> list[DepthEncoding]:
    """One for each view, in scene units."""
    return [_encoding(fit.model, fit.model.view_params(fit.params, i), ready) for i in range(len(ready.problem.views))]


def _encoding(model: Model, params: Array, ready: Prepared) -> DepthEncoding:
    radius, distance = ready.frame.radius, "ray" if model.ray else "z"
    if isinstance(model, Offset):
        return _knotted(model, params, ready)
    curve: Curve = {"gamma": round(float(np.exp(params[2])), 4)} if model.free_exponent else model.curve
    ends = params[0], params[0] + params[1]
    if model.encoding == "logarithmic":
        near, far = (float(np.exp(y)) * radius for y in ends)
    elif model.encoding == "inverse":
        near, far = (radius / y if abs(y) > 1e-9 else 1e9 * radius for y in ends)
    else:
        near, far = (float(y) * radius for y in ends)
    return DepthEncoding(model.encoding, distance, float(near), float(far), background=ready.background, curve=curve)


def _knotted(model: Offset, params: Array, ready: Prepared) -> DepthEncoding:
    """A linear encoding after a curve through KNOTS knots."""
    low, high = ready.problem.span
    v = np.linspace(low, high, KNOTS)
    z = model.depth(v, params)[0]
    near, far = z[0] - low * (z[-1] - z[0]) / (high - low), z[0] + (1 - low) * (z[-1] - z[0]) / (high - low)
    knots = [[round(float(a), 6), round(float(b), 6)] for a, b in zip(v, (z - near) / (far - near), strict=True)]
    radius = ready.frame.radius
    distance = "ray" if model.ray else "z"
    return DepthEncoding(
        "linear",
        distance,
        float(near * radius),
        float(far * radius),
        background=ready.background,
        curve={"knots": knots},
    )
