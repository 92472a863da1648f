"""The stage `rig`: cameras and depth encoding of a set that came without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.calibration import observations, photometric, search, selection
from steps.calibration.search import Candidate, Reading
from steps.calibration.selection import Choice
from steps.calibration.solver import BENDS, ENDS, PER_VIEW, SHARED, STRICT, Coding, Fit, Sights, bent, numbers
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
from steps.validate.rig.messages import ambiguous, facts_of, note_of

Array = NDArray[Any]
ANY = Arrangement()
UNIT = CANONICAL_DISTANCE / (
    2 * CANONICAL_FOCAL_PER_WIDTH
)  # scene units per half picture width, as in the canonical rig
FURTHEST = 0.004  # the least perspective of a camera: an orthographic one is drawn as a very long lens
ENOUGH = 1024  # pixels to a side that are looked at
EXACTLY = 1.0  # cost up to which the nominal rig explains the depth as it stands
# cost by the finest tolerance that most rigs which are right leave, and the most that any does
PLAIN, EXPLAINED = 0.1, 0.25
BETTER = 2.0  # how many times better views with ranges of their own must agree to be taken for such
SAME_ENDS = 0.01  # of all stored values: by how much the ends of views may differ that were all stretched to them
KNOTS, DIGITS = 33, 9  # of a curve as it is written down
SMALL, ROUGHLY = 64, 2.5  # the same for pictures below so many pixels, whose depth says less


@dataclass(frozen=True)
class Found:
    """views: cameras and encodings for the depth renders' sizes, and where the views' colours lie on those; facts: for
    scene/rig.json; note: a sentence for the report, none for the nominal rig."""

    views: list[cameras_json.View]
    facts: dict[str, Any]
    note: str


def find(pictures: Pictures, outputs: Path, arrangement: Arrangement = ANY) -> Found:
    """The rig, as far as `arrangement` leaves it open. Raises RigAmbiguous, with files in `outputs`/rig, where the pictures leave
    several rigs possible or none."""
    background = background_of(pictures.depths)
    stored, pictures = pictures, Pictures(*([_thinned(p) for p in part] for part in (pictures.views, pictures.depths)))
    counts, known, span = counts_of(pictures.depths, background)
    sights = observations.sights_of(counts, known)
    nominal = _nominal(pictures, span, background) if arrangement == ANY else None
    if nominal is not None and _holds(sights, nominal, pictures):
        return _as_nominal(stored)
    if (
        nominal is not None
        and (curved := nominal_rig.explained(stored, background))
        and _agree(curved[0], pictures, stored)
    ):
        facts = {"decision": "nominal", "cameras": cameras_json.document(curved[0])}
        return Found(curved[0], facts, curved[1])
    placements = parallel_map(lambda both: _placed(*both), zip(pictures.views, sights.outside, strict=True))
    maps = [photometric.colour_map(_seen(p), q) for p, q in zip(pictures.views, placements, strict=True)]
    choice, spans, per_view = _chosen(sights, counts, known, allowed(arrangement), maps)
    if not choice.clear:
        raise ambiguous(choice, lambda c: views_of(c, stored, spans, background, placements), stored, outputs)
    views = views_of(choice.chosen, stored, spans, background, placements)
    depth = views[0].depth
    assert depth is not None
    return Found(views, facts_of(choice, views, per_view), note_of(choice, depth, per_view))


def _chosen(
    sights: Sights, counts: list[Array], known: list[Array], readings: list[Reading], maps: list[Array]
) -> tuple[Choice, list[tuple[float, float]], bool]:
    """The choice, the stored values that each view's shares begin and end with, and whether each view has a range of its own:
    where the views deny a common one and agree by their own."""
    choice = selection.choose(sights, search.search(sights, readings), maps)
    shared, own = (observations.spans_of(counts, known, each) for each in (False, True))
    if choice.chosen.fit.left <= (PLAIN / 2 if _stretched(own) else PLAIN):
        return choice, shared, False
    sights = observations.sights_of(counts, known, own=True)
    other = selection.choose(sights, search.search(sights, readings), maps)
    if other.chosen.fit.left <= EXPLAINED and other.chosen.fit.left * BETTER < choice.chosen.fit.left:
        return other, own, True
    return choice, shared, False


def _stretched(spans: list[tuple[float, float]]) -> bool:
    """Whether all views use the same values, as if each had been stretched to them."""
    ends = np.array(spans)
    return bool((np.ptp(ends, axis=0) <= SAME_ENDS * np.ptp(ends)).all())


def allowed(arrangement: Arrangement) -> list[Reading]:
    """The readings that a cameras.json or an option leaves open."""
    if arrangement.preset:
        return [Reading(preset=arrangement.preset)]
    wanted = (arrangement.left_is, arrangement.top_turned, arrangement.bottom_turned)
    return [
        replace(r, field_of_view=arrangement.field_of_view)
        for r in search.readings()
        if all(w is None or w == v for w, v in zip(wanted, (r.left_is, 90 * r.top, 90 * r.bottom), strict=True))
    ]


# -- what is looked at --------------------------------------------------------------------------------------------------


def _thinned(picture: png.Picture) -> png.Picture:
    """Every so many'th pixel of a large picture: more tell nothing new about the rig, and would fill the memory."""
    step = max(1, max(picture.pixels.shape[:2]) // ENOUGH)
    return replace(picture, pixels=picture.pixels[step // 2 :: step, step // 2 :: step])


def _seen(picture: png.Picture) -> Array:
    """The view over white, [H, W, 3] in [0, 1]."""
    colour = picture.colour / np.float32(255)
    return colour if picture.alpha is None else colour * picture.alpha[..., None] + 1 - picture.alpha[..., None]


def _placed(picture: png.Picture, outside: Array) -> Placement:
    colour = _seen(picture)
    behind = np.median(np.concatenate([colour[e].reshape(-1, 3) for e in FRAME]), axis=0)
    return photometric.placed(colour, behind, outside)


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
    return Candidate(Reading("viewer", 0, 0), Coding(), Fit(numbers(UNIT / CANONICAL_DISTANCE, *ends), 0.0))


def _holds(sights: Sights, nominal: Candidate, pictures: Pictures) -> bool:
    """Whether the nominal rig explains the depth as it stands, and colours do not speak for another that does, too."""
    limit = EXACTLY if min(p.pixels.shape[0] for p in pictures.depths) >= SMALL else ROUGHLY
    theta = nominal.fit.theta
    if search.cost(sights, nominal.reading, nominal.coding, theta, STRICT) > limit:
        return False
    maps = [photometric.colour_map(_seen(p), Placement()) for p in pictures.views]
    judged = selection.choose(sights, selection.at_nominal(sights, nominal), maps, exact=False).judged
    own = [j for j in judged if j.candidate.reading == nominal.reading]
    return bool(own) and not judged[0].excludes(own[0])


def _agree(views: list[cameras_json.View], pictures: Pictures, stored: Pictures) -> bool:
    """Whether the nominal rig holds for the depth that these encodings make of the pictures."""
    found = []
    for view, picture in zip(views, stored.depths, strict=True):
        shape = picture.pixels.shape[:2]
        assert view.depth is not None
        found.append(metric_depth(picture, view.depth, ray_to_z(view.camera.resized(*shape[::-1]), shape)).depth)
    step = max(1, max(found[0].shape) // ENOUGH)
    depths = [d[step // 2 :: step, step // 2 :: step].astype(np.float64) for d in found]
    inside = np.concatenate([d[d > 0] for d in depths])
    sights = observations.sights_of(depths, [d > 0 for d in depths])
    return _holds(sights, _canonical(float(inside.min()), float(inside.max())), pictures)


def _as_nominal(pictures: Pictures) -> Found:
    views = [cameras_json.canonical_views(*p.pixels.shape[1::-1])[i] for i, p in enumerate(pictures.depths)]
    facts = {"decision": "nominal", "cameras": cameras_json.document(views)}
    return Found(views, facts, "")


# -- from numbers to cameras --------------------------------------------------------------------------------------------


def views_of(
    found: Candidate,
    pictures: Pictures,
    spans: list[tuple[float, float]],
    background: int | str,
    placements: list[Placement],
) -> list[cameras_json.View]:
    """Cameras and encodings of the depth renders, and where the views' colours lie on them."""
    axes, theta = search.axes_of(found.reading), found.fit.theta
    k = max(float(theta[0]), FURTHEST)
    result = []
    for i, (name, picture) in enumerate(zip(VIEW_NAMES, pictures.depths, strict=True)):
        height, width = picture.pixels.shape[:2]
        scale, x, y, gain, offset = theta[SHARED + PER_VIEW * i :][:PER_VIEW]
        half = max(width, height) / 2
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes[i].T, axes[i, 2] * UNIT / k
        focal = float(np.exp(scale)) * half / k
        camera = Camera(name, pose, focal, focal, width / 2 + x * half, height / 2 - y * half, width, height)
        ends = [UNIT * (1 / k - ((1 + gain) * h + offset)) for h in theta[ENDS]]
        encoding = encoding_of(found.coding, ends, spans[i], picture.maximum, background)
        if found.coding.bends and spans[i][1] > spans[i][0]:
            encoding = replace(encoding, near=ends[0], far=ends[1], curve=_curve(theta, spans[i], picture.maximum))
        result.append(cameras_json.View(camera, encoding, placements[i]))
    return result


def _curve(theta: Array, span: tuple[float, float], maximum: int) -> Curve:
    """As cameras.json has it, of values that stand for the shares from 0 to 1."""
    shares = np.linspace(0.0, 1.0, KNOTS)
    values = (span[0] + shares * (span[1] - span[0])) / maximum
    meant = [bent(share, *theta[BENDS])[0] for share in shares]
    # a view may show a span of a few of 65,536 values: rounded to fewer digits, two knots would be one
    return {"knots": [[round(float(v), DIGITS), round(float(w), DIGITS)] for v, w in zip(values, meant, strict=True)]}


def encoding_of(
    coding: Coding, ends: list[float], span: tuple[float, float], maximum: int, background: int | str
) -> DepthEncoding:
    """ends: depth at the lowest and highest stored value; -> what it would be at 0 and at the largest."""
    a, b = (1 / e for e in ends) if coding.inverse else ends
    slope = (b - a) / max(span[1] - span[0], 1.0)  # one value alone is that of the lowest
    near, far = (a - span[0] * slope, a + (maximum - span[0]) * slope)
    if coding.inverse:
        near, far = (1 / v if v else 1e9 for v in (near, far))
    kind, distance = "inverse" if coding.inverse else "linear", "ray" if coding.ray else "z"
    return DepthEncoding(kind, distance, float(near), float(far), background=background)
