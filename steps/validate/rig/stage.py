"""The stage `rig`: cameras and depth encoding of a set that came without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steps.calibration import observations, photometric, search, selection
from steps.calibration.hypotheses import Hypothesis, axes_of, hypotheses
from steps.calibration.observations import Observations
from steps.calibration.rig_model import CURVE, END_HEIGHTS, PER_VIEW, SHARED, EncodingModel, initial_params, undo_curve
from steps.calibration.search import Candidate
from steps.calibration.selection import Choice
from steps.calibration.solver import STRICT, Fit
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map
from steps.geometry.cameras import (
    CANONICAL_DISTANCE,
    CANONICAL_FOCAL_PER_WIDTH,
    VIEW_NAMES,
    Camera,
    Placement,
    ray_to_z,
)
from steps.geometry.depth_curve import Curve
from steps.io import cameras_json, png
from steps.io.cameras_json import Arrangement
from steps.io.depth_encoding import DepthEncoding, metric_depth
from steps.io.input_checks import Pictures
from steps.validate.depth.stored import FRAME, background_of, counts_of
from steps.validate.rig import nominal as nominal_rig
from steps.validate.rig.messages import ambiguous, metadata_of, note_of

ANY = Arrangement()
UNIT = CANONICAL_DISTANCE / (
    2 * CANONICAL_FOCAL_PER_WIDTH
)  # scene units per half picture width, as in the canonical rig
LEAST_PERSPECTIVE = 0.004  # of a camera: an orthographic one is written as a very long lens
MAX_SIDE = 1024  # pixels to a side, larger pictures are subsampled
NOMINAL_COST = 1.0  # up to which the nominal rig fits the depth as stored
# final cost of most correct rigs, and the largest of any
GOOD_COST, ACCEPTED_COST = 0.1, 0.25
PER_VIEW_GAIN = 2.0  # factor by which per-view ranges must lower the cost to be chosen
RANGE_TOLERANCE = 0.01  # of all stored values: difference of the ends of ranges that count as equal
CURVE_KNOTS, CURVE_DIGITS = 33, 9  # of a curve in cameras.json
SMALL_SIDE, NOMINAL_COST_SMALL = 64, 2.5  # the same for pictures below so many pixels, whose depth says less


@dataclass(frozen=True)
class Rig:
    """views: cameras and encodings for the depth renders' sizes, and where the views' colours lie on those; metadata: for
    scene/rig.json; note: a sentence for the report, none for the nominal rig."""

    views: list[cameras_json.View]
    metadata: dict[str, Any]
    note: str


def find(pictures: Pictures, outputs: Path, arrangement: Arrangement = ANY) -> Rig:
    """The rig, as far as `arrangement` leaves it open. Raises RigAmbiguous, with files in `outputs`/rig, where the pictures leave
    several rigs possible or none."""
    background = background_of(pictures.depths)
    full_size, pictures = (
        pictures,
        Pictures(*([_downsample(p) for p in part] for part in (pictures.views, pictures.depths))),
    )
    counts, known, span = counts_of(pictures.depths, background)
    observed = observations.observations_of(counts, known)
    nominal = _nominal(pictures, span, background) if arrangement == ANY else None
    if nominal is not None and _nominal_fits(observed, nominal, pictures):
        return _as_nominal(full_size)
    if (
        nominal is not None
        and (nominal_curved := nominal_rig.nominal_with_encoding(full_size, background))
        and _nominal_fits_decoded(nominal_curved[0], pictures, full_size)
    ):
        metadata = {"decision": "nominal", "cameras": cameras_json.document(nominal_curved[0])}
        return Rig(nominal_curved[0], metadata, nominal_curved[1])
    placements = parallel_map(
        lambda both: _align(*both), zip(pictures.views, observed.silhouette_distance, strict=True)
    )
    maps = [photometric.colour_map(_over_white(p), q) for p, q in zip(pictures.views, placements, strict=True)]
    choice, ranges, per_view = _choose(observed, counts, known, hypotheses_left_open(arrangement), maps)
    if not choice.clear:
        raise ambiguous(choice, lambda c: views_of(c, full_size, ranges, background, placements), full_size, outputs)
    views = views_of(choice.chosen, full_size, ranges, background, placements)
    depth = views[0].depth
    assert depth is not None
    return Rig(views, metadata_of(choice, views, per_view), note_of(choice, depth, per_view))


def _choose(
    observed: Observations, counts: list[Array], known: list[Array], hypotheses: list[Hypothesis], maps: list[Array]
) -> tuple[Choice, list[tuple[float, float]], bool]:
    """The choice, each view's range of stored values, and whether ranges are per view: where a shared range does not fit and
    per-view ones do."""
    choice = selection.choose(observed, search.search(observed, hypotheses), maps)
    common, per_view = (observations.value_ranges(counts, known, each) for each in (False, True))
    if choice.chosen.fit.final_cost <= (GOOD_COST / 2 if _all_ranges_equal(per_view) else GOOD_COST):
        return choice, common, False
    observed = observations.observations_of(counts, known, per_view_range=True)
    per_view_choice = selection.choose(observed, search.search(observed, hypotheses), maps)
    if (
        per_view_choice.chosen.fit.final_cost <= ACCEPTED_COST
        and per_view_choice.chosen.fit.final_cost * PER_VIEW_GAIN < choice.chosen.fit.final_cost
    ):
        return per_view_choice, per_view, True
    return choice, common, False


def _all_ranges_equal(ranges: list[tuple[float, float]]) -> bool:
    """Whether all views span the same values, as if each was normalized to them."""
    ends = np.array(ranges)
    return bool((np.ptp(ends, axis=0) <= RANGE_TOLERANCE * np.ptp(ends)).all())


def hypotheses_left_open(arrangement: Arrangement) -> list[Hypothesis]:
    """Hypotheses that a cameras.json or an option leaves open."""
    if arrangement.preset:
        return [Hypothesis(preset=arrangement.preset)]
    wanted = (arrangement.left_is, arrangement.top_turned, arrangement.bottom_turned)
    return [
        replace(r, field_of_view=arrangement.field_of_view)
        for r in hypotheses()
        if all(w is None or w == v for w, v in zip(wanted, (r.left_is, 90 * r.top, 90 * r.bottom), strict=True))
    ]


# -- the pictures -------------------------------------------------------------------------------------------------------


def _downsample(picture: png.Picture) -> png.Picture:
    """Subsamples a large picture: more pixels add nothing about the rig, and memory."""
    step = max(1, max(picture.pixels.shape[:2]) // MAX_SIDE)
    return replace(picture, pixels=picture.pixels[step // 2 :: step, step // 2 :: step])


def _over_white(picture: png.Picture) -> Array:
    """The view over white, [H, W, 3] in [0, 1]."""
    colour = picture.colour / np.float32(255)
    return colour if picture.alpha is None else colour * picture.alpha[..., None] + 1 - picture.alpha[..., None]


def _align(picture: png.Picture, outside: Array) -> Placement:
    colour = _over_white(picture)
    behind = np.median(np.concatenate([colour[e].reshape(-1, 3) for e in FRAME]), axis=0)
    return photometric.align_to_silhouette(colour, behind, outside)


# -- the nominal rig ----------------------------------------------------------------------------------------------------


def _nominal(pictures: Pictures, span: tuple[float, float], background: int | str) -> Candidate | None:
    """The canonical rig with its encoding, None where the background alone contradicts it."""
    if background != 0 or any(p.pixels.shape[0] != p.pixels.shape[1] for p in pictures.depths):
        return None
    encoding = DepthEncoding()
    maximum = pictures.depths[0].maximum
    depth = [encoding.near + count / maximum * (encoding.far - encoding.near) for count in span]
    return _canonical(*depth)


def _canonical(low: float, high: float) -> Candidate:
    """The canonical rig. low, high: depth at the lowest and at the highest stored value."""
    ends = ((CANONICAL_DISTANCE - depth) / UNIT for depth in (low, high))
    return Candidate(
        Hypothesis("viewer", 0, 0), EncodingModel(), Fit(initial_params(UNIT / CANONICAL_DISTANCE, *ends), 0.0)
    )


def _nominal_fits(observed: Observations, nominal: Candidate, pictures: Pictures) -> bool:
    """Whether the nominal rig fits the depth as stored, and colours do not favour another that fits as well."""
    limit = NOMINAL_COST if min(p.pixels.shape[0] for p in pictures.depths) >= SMALL_SIDE else NOMINAL_COST_SMALL
    params = nominal.fit.params
    if search.cost(observed, nominal.hypothesis, nominal.encoding, params, STRICT) > limit:
        return False
    maps = [photometric.colour_map(_over_white(p), Placement()) for p in pictures.views]
    scored = selection.choose(observed, selection.at_nominal(observed, nominal), maps, exact=False).scored
    own = [j for j in scored if j.candidate.hypothesis == nominal.hypothesis]
    return bool(own) and not scored[0].excludes(own[0])


def _nominal_fits_decoded(views: list[cameras_json.View], pictures: Pictures, stored: Pictures) -> bool:
    """Whether the nominal rig fits the depth that these encodings decode to."""
    decoded = []
    for view, picture in zip(views, stored.depths, strict=True):
        shape = picture.pixels.shape[:2]
        assert view.depth is not None
        decoded.append(metric_depth(picture, view.depth, ray_to_z(view.camera.resized(*shape[::-1]), shape)).depth)
    step = max(1, max(decoded[0].shape) // MAX_SIDE)
    depths = [d[step // 2 :: step, step // 2 :: step].astype(np.float64) for d in decoded]
    inside = np.concatenate([d[d > 0] for d in depths])
    observed = observations.observations_of(depths, [d > 0 for d in depths])
    return _nominal_fits(observed, _canonical(float(inside.min()), float(inside.max())), pictures)


def _as_nominal(pictures: Pictures) -> Rig:
    views = [cameras_json.canonical_views(*p.pixels.shape[1::-1])[i] for i, p in enumerate(pictures.depths)]
    metadata = {"decision": "nominal", "cameras": cameras_json.document(views)}
    return Rig(views, metadata, "")


# -- from numbers to cameras --------------------------------------------------------------------------------------------


def views_of(
    candidate: Candidate,
    pictures: Pictures,
    ranges: list[tuple[float, float]],
    background: int | str,
    placements: list[Placement],
) -> list[cameras_json.View]:
    """Cameras and encodings of the depth renders, and where the views' colours lie on them."""
    axes, params = axes_of(candidate.hypothesis), candidate.fit.params
    k = max(float(params[0]), LEAST_PERSPECTIVE)
    result = []
    for i, (name, picture) in enumerate(zip(VIEW_NAMES, pictures.depths, strict=True)):
        height, width = picture.pixels.shape[:2]
        scale, x, y, gain, offset = params[SHARED + PER_VIEW * i :][:PER_VIEW]
        half = max(width, height) / 2
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes[i].T, axes[i, 2] * UNIT / k
        focal = float(np.exp(scale)) * half / k
        camera = Camera(name, pose, focal, focal, width / 2 + x * half, height / 2 - y * half, width, height)
        ends = [UNIT * (1 / k - ((1 + gain) * h + offset)) for h in params[END_HEIGHTS]]
        encoding = encoding_of(candidate.encoding, ends, ranges[i], picture.maximum, background)
        if candidate.encoding.curved and ranges[i][1] > ranges[i][0]:
            encoding = replace(encoding, near=ends[0], far=ends[1], curve=_curve(params, ranges[i], picture.maximum))
        result.append(cameras_json.View(camera, encoding, placements[i]))
    return result


def _curve(params: Array, span: tuple[float, float], maximum: int) -> Curve:
    """The curve as cameras.json has it: knots over normalized depth 0 to 1."""
    normalized_depths = np.linspace(0.0, 1.0, CURVE_KNOTS)
    values = (span[0] + normalized_depths * (span[1] - span[0])) / maximum
    undone_values = [undo_curve(normalized_depth, *params[CURVE])[0] for normalized_depth in normalized_depths]
    # a view may show a span of a few of 65,536 values: rounded to fewer digits, two knots would be one
    return {
        "knots": [
            [round(float(v), CURVE_DIGITS), round(float(w), CURVE_DIGITS)]
            for v, w in zip(values, undone_values, strict=True)
        ]
    }


def encoding_of(
    encoding_model: EncodingModel, ends: list[float], span: tuple[float, float], maximum: int, background: int | str
) -> DepthEncoding:
    """ends: depth at the lowest and highest stored value; extrapolated to 0 and to the largest value."""
    a, b = (1 / e for e in ends) if encoding_model.inverse else ends
    slope = (b - a) / max(span[1] - span[0], 1.0)  # one value alone is that of the lowest
    near, far = (a - span[0] * slope, a + (maximum - span[0]) * slope)
    if encoding_model.inverse:
        near, far = (1 / v if v else 1e9 for v in (near, far))
    kind, distance = "inverse" if encoding_model.inverse else "linear", "ray" if encoding_model.ray else "z"
    return DepthEncoding(kind, distance, float(near), float(far), background=background)
