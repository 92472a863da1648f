"""The stage `rig`: cameras and depth encoding of a set that came without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.errors import RigAmbiguous
from steps.files import write_json
from steps.formats import cameras_json, png
from steps.formats.checks import Pictures
from steps.formats.depth_encoding import DepthEncoding, foreground
from steps.geometry import rig, rig_choice, rig_photo
from steps.geometry.cameras import CANONICAL_DISTANCE, CANONICAL_FOCAL_PER_WIDTH, VIEW_NAMES, Camera, Placement
from steps.geometry.rig import Candidate, Reading
from steps.geometry.rig_choice import Choice
from steps.geometry.rig_fit import FINEST, PER_VIEW, SHARED, Coding, Fit, Sights

Array = NDArray[Any]
UNIT = CANONICAL_DISTANCE / (
    2 * CANONICAL_FOCAL_PER_WIDTH
)  # scene units per half picture width, as in the canonical rig
FURTHEST = 0.004  # the least perspective of a camera: an orthographic one is drawn as a very long lens
ENOUGH = 1024  # pixels to a side that are looked at
EXACTLY = 1.0  # cost up to which the nominal rig explains the depth as it stands
SMALL, ROUGHLY = 64, 2.5  # the same for pictures below so many pixels, whose depth says less


@dataclass(frozen=True)
class Found:
    """views: cameras and encodings for the depth renders' sizes, and where the views' colours lie on those; facts: for
    scene/rig.json; note: a sentence for the report, none for the nominal rig."""

    views: list[cameras_json.View]
    facts: dict[str, Any]
    note: str


def find(pictures: Pictures, outputs: Path) -> Found:
    """Raises RigAmbiguous, with files in `outputs`/rig, where the pictures leave several rigs possible or none."""
    background = background_of(pictures.depths)
    stored, pictures = pictures, Pictures(*([_thinned(p) for p in part] for part in (pictures.views, pictures.depths)))
    known = [foreground(p, DepthEncoding(background=background)) for p in pictures.depths]
    known = [k if k.any() else np.ones_like(k) for k in known]
    counts = [p.pixels[..., 0].astype(np.float64) for p in pictures.depths]
    sights = rig.sights_of(counts, known)
    span = (
        min(float(c[k].min()) for c, k in zip(counts, known, strict=True)),
        max(float(c[k].max()) for c, k in zip(counts, known, strict=True)),
    )
    nominal = _nominal(pictures, span, background)
    if nominal is not None and _holds(sights, nominal, pictures):
        return _as_nominal(stored)
    placements = [_placed(p, s) for p, s in zip(pictures.views, sights.outside, strict=True)]
    maps = [rig_photo.colour_map(_seen(p), q) for p, q in zip(pictures.views, placements, strict=True)]
    choice = rig_choice.choose(sights, rig.search(sights), maps)
    if not choice.clear:
        raise _ambiguous(choice, lambda c: views_of(c, stored, span, background, placements), outputs)
    views = views_of(choice.chosen, stored, span, background, placements)
    return Found(views, facts_of(choice, views), note_of(choice))


# -- what is looked at --------------------------------------------------------------------------------------------------


def _thinned(picture: png.Picture) -> png.Picture:
    """Every so many'th pixel of a large picture: more tell nothing new about the rig, and would fill the memory."""
    step = max(1, max(picture.pixels.shape[:2]) // ENOUGH)
    return replace(picture, pixels=picture.pixels[step // 2 :: step, step // 2 :: step])


def background_of(depths: list[png.Picture]) -> int | str:
    """Which stored value means nothing: what most of the frames around the pictures hold."""
    frames = [np.concatenate([p.pixels[e].reshape(-1, p.pixels.shape[2])[:, 0] for e in _EDGES]) for p in depths]
    votes = sum(float((f == p.maximum).mean() - (f == 0).mean()) for f, p in zip(frames, depths, strict=True))
    return "max" if votes > 0 else 0


_EDGES = (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:])


def _seen(picture: png.Picture) -> Array:
    """The view over white, [H, W, 3] in [0, 1]."""
    colour = picture.colour / np.float32(255)
    return colour if picture.alpha is None else colour * picture.alpha[..., None] + 1 - picture.alpha[..., None]


def _placed(picture: png.Picture, outside: Array) -> Placement:
    colour = _seen(picture)
    behind = np.median(np.concatenate([colour[e].reshape(-1, 3) for e in _EDGES]), axis=0)
    return rig_photo.placed(colour, behind, outside)


# -- the nominal rig ----------------------------------------------------------------------------------------------------


def _nominal(pictures: Pictures, span: tuple[float, float], background: int | str) -> Candidate | None:
    """The canonical rig with its encoding, None where the background alone contradicts it."""
    if background != 0 or any(p.pixels.shape[0] != p.pixels.shape[1] for p in pictures.depths):
        return None
    encoding = DepthEncoding()
    maximum = pictures.depths[0].maximum
    depth = [encoding.near + count / maximum * (encoding.far - encoding.near) for count in span]
    theta = np.zeros(SHARED + 6 * PER_VIEW)
    theta[:SHARED] = UNIT / CANONICAL_DISTANCE, *((CANONICAL_DISTANCE - d) / UNIT for d in depth)
    return Candidate(Reading("viewer", 0, 0), Coding(), Fit(theta, 0.0))


def _holds(sights: Sights, nominal: Candidate, pictures: Pictures) -> bool:
    """Whether the nominal rig explains the depth as it stands, and colours do not speak for another that does, too."""
    limit = EXACTLY if min(p.pixels.shape[0] for p in pictures.depths) >= SMALL else ROUGHLY
    theta = nominal.fit.theta
    if rig.cost(sights, nominal.reading, nominal.coding, theta, FINEST) > limit:
        return False
    maps = [rig_photo.colour_map(_seen(p), Placement()) for p in pictures.views]
    judged = rig_choice.choose(sights, rig_choice.at_nominal(sights, nominal), maps, exact=False).judged
    own = [j.colour for j in judged if j.candidate.reading == nominal.reading]
    return bool(own) and not own[0] > rig_choice.COLOUR_TIE * judged[0].colour


def _as_nominal(pictures: Pictures) -> Found:
    views = [cameras_json.canonical_views(*p.pixels.shape[1::-1])[i] for i, p in enumerate(pictures.depths)]
    facts = {"decision": "nominal", "cameras": cameras_json.document(views)}
    return Found(views, facts, "")


# -- from numbers to cameras --------------------------------------------------------------------------------------------


def views_of(
    found: Candidate,
    pictures: Pictures,
    span: tuple[float, float],
    background: int | str,
    placements: list[Placement],
) -> list[cameras_json.View]:
    """Cameras and encodings of the depth renders, and where the views' colours lie on them."""
    axes, theta = rig.axes_of(found.reading), found.fit.theta
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
        ends = [UNIT * (1 / k - ((1 + gain) * h + offset)) for h in theta[1:SHARED]]
        encoding = _encoding(found.coding, ends, span, picture.maximum, background)
        result.append(cameras_json.View(camera, encoding, placements[i]))
    return result


def _encoding(
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


# -- what is said about it ----------------------------------------------------------------------------------------------


def words(reading: Reading) -> str:
    turns = [
        f"{name} turned by {90 * n} degrees" for name, n in (("top", reading.top), ("bottom", reading.bottom)) if n
    ]
    return ", ".join([f"left means the {reading.left_is}'s left", *turns])


def field_of_view(found: Candidate) -> float:
    """Degrees across the picture's width; 0 for orthographic."""
    k = float(found.fit.theta[0])
    return 0.0 if k < 0.02 else float(2 * np.degrees(np.arctan(k)))


def note_of(choice: Choice) -> str:
    """One sentence for the report."""
    found, theta = choice.chosen, choice.chosen.fit.theta
    angle = field_of_view(found)
    lens = f"field of view {angle:.0f} degrees" if angle else "orthographic cameras"
    depth = f"depth {'inverse' if found.coding.inverse else 'linear'} along the {'ray' if found.coding.ray else 'axis'}"
    order = "larger is nearer" if theta[2] > theta[1] else "larger is farther"
    tie = f" {len(choice.alike)} other readings lead to the same mesh, up to its symmetry." if choice.alike else ""
    return f"The rig was found from the pictures: {words(found.reading)}; {lens}; {depth}, {order}.{tie}"


def facts_of(choice: Choice, views: list[cameras_json.View]) -> dict[str, Any]:
    """scene/rig.json."""
    found, theta = choice.chosen, choice.chosen.fit.theta
    per_view = theta[SHARED:].reshape(6, PER_VIEW)
    return {
        "decision": "found, alike others" if choice.alike else "found",
        "reading": _reading(found.reading),
        "field_of_view": round(field_of_view(found), 2),
        "larger_is": "nearer" if theta[2] > theta[1] else "farther",
        "encoding": "inverse" if found.coding.inverse else "linear",
        "distance": "ray" if found.coding.ray else "z",
        "cost": round(found.fit.cost, 4),
        "runner_up": round(choice.runner_up, 4) if np.isfinite(choice.runner_up) else None,
        "tied": [_tied(j) for j in choice.judged],
        "alike": [_reading(r) for r in choice.alike],
        "views": [
            {
                "name": name,
                "scale": round(float(np.exp(v[0])), 4),
                "shift": [round(float(x), 4) for x in v[1:3]],
                "depth_gain": round(1 + float(v[3]), 4),
                "depth_offset": round(float(v[4]), 4),
            }
            for name, v in zip(VIEW_NAMES, per_view, strict=True)
        ],
        "cameras": cameras_json.document(views),
    }  # fmt: skip


def _reading(reading: Reading) -> dict[str, Any]:
    return {"left_is": reading.left_is, "top_turned": 90 * reading.top, "bottom_turned": 90 * reading.bottom}


def _tied(judged: rig_choice.Judged) -> dict[str, Any]:
    found = judged.candidate
    return {**_reading(found.reading), "cost": round(found.fit.cost, 4), "colour": _number(judged.colour)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def _ambiguous(choice: Choice, views: Callable[[Candidate], list[cameras_json.View]], outputs: Path) -> RigAmbiguous:
    """What remains, each as a cameras.json that would settle it."""
    remaining = [choice.chosen, *choice.open]
    (outputs / "rig").mkdir(parents=True, exist_ok=True)
    hypotheses = []
    for candidate in remaining:
        r = candidate.reading
        name = f"{r.left_is}-{90 * r.top}-{90 * r.bottom}.json"
        write_json(outputs / "rig" / name, cameras_json.document(views(candidate)))
        about = {"in_words": words(r), "cost": round(candidate.fit.cost, 4), "cameras": f"rig/{name}"}
        hypotheses.append({**_reading(r), **about})
    several = "; or ".join(words(c.reading) for c in remaining)
    text = f"{len(remaining)} arrangements of the cameras explain the pictures equally well: {several}."
    if not choice.fits:
        least = min(j.candidate.fit.cost for j in choice.judged)
        text = f"No arrangement of the six cameras explains the depth renders: the best misses by {least:.1f}, below 1 is usual."
    files = ", ".join(f"rig/{h['cameras'].rpartition('/')[2]}" for h in hypotheses)
    advice = f"Give the right one as --cameras: {files} lie beside failure.json. Or render again with cameras that are known."
    return RigAmbiguous(text, advice, hypotheses=hypotheses)
