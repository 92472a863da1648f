"""The judgement on what the views of a set say of each other, after cameras, depth encodings and masks are settled.

Up to `WARNS` nothing is said; above it, and wherever a hypothesis explains what is seen much better than what was given, there is
a warning; above `FAILS` the job ends as VALIDATION_FAILED, with the numbers and the likeliest cause. Nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from steps.geometry.cameras import Camera, ray_to_z
from steps.io import png
from steps.io.cameras_json import View
from steps.io.depth_encoding import metric_depth
from steps.io.input_checks import Pictures
from steps.runtime.errors import RigAmbiguous, ValidationFailed
from steps.runtime.reporter import Reporter
from steps.validate.consistency import causes, conventions, exchanged
from steps.validate.consistency.agreement import Agreement, DepthView, compare, least_around
from steps.validate.consistency.causes import Cause, Evidence, Trial
from steps.validate.foreground import masks

Array = NDArray[Any]
# the share of denied points from which it is seen whether views are exchanged; exact renders have none
SUSPECTED = 0.01
WARNS, FAILS = 0.05, 0.25  # the same, from which there is a warning, and from which the job fails
OUTLINE = 0.12  # of a view's outline, the share that lies elsewhere in its depth render from which there is a warning
TOUCHED = 0.05  # of a pixel: that a picture must show of the object, for its depth to be unknown rather than nothing
TILE = 256  # pixels to a side of a view in the picture
PICTURE = "contradictions.png"  # among the step's outputs
RED, BLUE = (220, 40, 30), (30, 90, 220)


@dataclass(frozen=True)
class Judgement:
    """agreement: of the depth renders; outlines: how much of each view's outline lies elsewhere in its depth render, 0 where the
    picture does not tell; colours: how unlike what two views see looks in both, 0 to 1; cause: what is most likely wrong, None
    where nothing is or nobody knows."""

    agreement: Agreement
    outlines: list[float]
    colours: float
    cause: Cause | None

    def to_json(self, names: list[str]) -> dict[str, Any]:
        """For scene.json: what the report and quality.json show."""
        return {
            "denied": round(self.agreement.share, 4),
            "denied_of_each": {n: round(v, 4) for n, v in zip(names, self.agreement.of_each, strict=True)},
            "surface_distance": round(self.agreement.distance, 5),
            "outline_mismatch": {n: round(v, 4) for n, v in zip(names, self.outlines, strict=True)},
            "colour_mismatch": round(self.colours, 4),
            "cause": self.cause.sentence if self.cause else "",
        }


@dataclass(frozen=True)
class Told:
    """warnings: notes for scene.json; facts: the numbers behind them, for scene.json too."""

    warnings: list[str]
    facts: dict[str, Any]


def evidence_of(
    cameras: list[Camera],
    depths: list[Array],
    pictures: list[png.Picture],
    coverages: list[Array],
    background: Array | None,
) -> Evidence:
    """cameras, depths: of the depth maps, [H, W], 0 where nothing is; coverages: of the pictures, the object's share of each
    pixel; background: the colour (3,) behind opaque pictures, None where it is not even. A picture without transparency tells its
    outline by that alone: its coverage comes from depth."""
    views = []
    for camera, depth, coverage in zip(cameras, depths, coverages, strict=True):
        views.append(DepthView.of(camera, depth, unknown(depth, masks.resized(coverage, depth.shape))))
    looks = []
    for picture, coverage in zip(pictures, coverages, strict=True):
        told = coverage if picture.alpha is not None else None
        if told is None and background is not None:
            told = exchanged.told_by_colour(picture.colour, background)
        looks.append(exchanged.look(picture.colour, told))
    return Evidence(views, looks)


def unknown(depth: Array, coverage: Array) -> Array:
    """[H, W] bool: where a picture shows the object and its depth render has nothing: holes, and what is thinner than a pixel and
    lies between the centres of two. Pixels at the rim of what the depth render has are no such."""
    nothing = depth <= 0
    return nothing & ((coverage >= 0.5) | ((coverage > TOUCHED) & least_around(nothing, 1)))


def given(evidence: Evidence, pictures: Pictures, source: str, reporter: Reporter) -> Told:
    """What the views of a set say of each other; of one with warnings there is a picture in the step's outputs. source: where the
    cameras come from. Raises ValidationFailed above FAILS."""
    # an encoding that was found with its cameras is not theirs alone: nobody can leave it out
    found = judged(evidence, lambda: iter(()) if source == "found" else encodings(evidence, pictures))
    words = warnings(found, evidence.names, source)
    if words or found.agreement.share > FAILS:
        drawn(found, evidence.views, [_over_white(p) for p in pictures.views]).save(reporter.outputs / PICTURE)
    check(found, evidence.names, source)
    return Told(words, found.to_json(evidence.names))


def encodings(evidence: Evidence, pictures: Pictures) -> Iterator[Trial]:
    """The depth encoding that fits these cameras best, if any does."""
    from steps.validate.depth import encoding  # only now: it loads kernels

    views = [View(camera, None) for camera in evidence.cameras]
    try:
        fitted, note = encoding.found(pictures, views)
    except RigAmbiguous:
        return
    depths = []
    for view, stored in zip(fitted, pictures.depths, strict=True):
        assert view.depth is not None
        shape = stored.pixels.shape[:2]
        depths.append(metric_depth(stored, view.depth, ray_to_z(view.camera.resized(*shape[::-1]), shape)).depth)
    trial = [DepthView.of(camera, depth) for camera, depth in zip(evidence.cameras, depths, strict=True)]
    words = note.removesuffix(".").replace("was found from the pictures", "that fits these cameras is another one")
    yield Trial(f"{words}: leave `depth` out of cameras.json to have it found.", replace(evidence, views=trial))


def with_convention(error: RigAmbiguous, views: list[View]) -> RigAmbiguous:
    """The same error, with the convention under which cameras that came without an encoding all look at one place, where they do
    not as they stand."""
    cameras = [view.camera for view in views]
    if conventions.look_inward(cameras):
        return error
    fitting = (words for words, read in conventions.hypotheses(cameras) if conventions.look_inward(read))
    words = next(fitting, "")
    if not words:
        return error
    return RigAmbiguous(
        f"{error.message} They do not look at one place; they would, if they were {words}.",
        f"Write the cameras as cameras.json wants them: these look like {words}. {error.suggestion}",
        **error.details,
    )


def judged(evidence: Evidence, more: Callable[[], Iterator[Trial]] | None = None) -> Judgement:
    """more: further hypotheses on the depth renders' encoding, tried where those on cameras and order do not mend it."""
    agreement = compare(evidence.views)
    fits = causes.fits_of(evidence)
    cause = None
    if agreement.share > WARNS:
        cause = causes.of_depth(evidence, agreement.share, more)
    elif agreement.share > SUSPECTED:
        cause = causes.of_order(evidence, agreement.share)
    outlines = [
        exchanged.mismatch(look.object, exchanged.outline(view))
        for look, view in zip(evidence.looks, evidence.views, strict=True)
    ]
    cause = cause or causes.of_pictures(evidence, fits, max(outlines) > OUTLINE / 3)
    return Judgement(agreement, outlines, fits.colour_cost(causes.SIX), cause)


def warnings(judgement: Judgement, names: list[str], source: str) -> list[str]:
    """What has to be said, each a note for scene.json. source: where the cameras come from."""
    share, cause = judgement.agreement.share, judgement.cause
    found = []
    if share > WARNS:
        found.append(f"{_numbers(judgement, names)}: cameras or depth encoding ({source}) do not fit these pictures.")
    odd = [name for name, v in zip(names, judgement.outlines, strict=True) if v > OUTLINE]
    if odd and not (cause and found):
        found.append(
            f"The outline of the object in the {_pictures(odd)} lies elsewhere than in the depth render of the same name "
            f"({max(judgement.outlines):.0%} of it)."
        )
    if cause and not found:
        found.append("The pictures fit each other much better otherwise.")
    if not found:
        return []
    return [f"WARNING: {' '.join(found)}" + (f" {cause.sentence}" if cause else "")]


def check(judgement: Judgement, names: list[str], source: str) -> None:
    """Raises ValidationFailed where the views contradict each other too much for any mesh to be right."""
    share, cause = judgement.agreement.share, judgement.cause
    if share <= FAILS:
        return
    advice = "Correct the cameras or the depth encoding; the report's picture shows in red what other views deny."
    raise ValidationFailed(
        f"{_numbers(judgement, names)} (at most {FAILS:.0%} may be): cameras or depth encoding ({source}) do not fit these "
        f"pictures." + (f" {cause.sentence}" if cause else ""),
        f"{cause.sentence} Otherwise: {advice[0].lower()}{advice[1:]}" if cause else advice,
        field="cameras",
        agreement=judgement.to_json(names),
    )


def _numbers(judgement: Judgement, names: list[str]) -> str:
    each = sorted(zip(judgement.agreement.of_each, names, strict=True), reverse=True)[:2]
    worst = ", ".join(f"{name} {share:.0%}" for share, name in each)
    return f"{judgement.agreement.share:.0%} of what the depth renders show is denied by another view (most: {worst})"


def _pictures(names: list[str]) -> str:
    return f"picture {names[0]}" if len(names) == 1 else f"pictures {', '.join(names[:-1])} and {names[-1]}"


def _over_white(picture: png.Picture) -> Array:
    """[H, W, 3] uint8."""
    if picture.alpha is None:
        return picture.colour
    share = picture.alpha[..., None]
    return np.rint(picture.colour * share + 255 * (1 - share)).astype(np.uint8)


def drawn(judgement: Judgement, views: list[DepthView], pictures: list[Array]) -> Image.Image:
    """The six views [H, W, 3] uint8 with the outlines of their depth renders in blue, and in red what other views deny."""
    canvas = Image.new("RGB", (3 * TILE, 2 * TILE), "white")
    for k, (view, picture) in enumerate(zip(views, pictures, strict=True)):
        tile = Image.fromarray(picture).convert("RGB").resize((TILE, TILE))
        inside = np.asarray(Image.fromarray(view.depth > 0).resize((TILE, TILE)))
        pixels = np.array(tile)
        pixels[inside ^ least_around(inside, 1)] = BLUE
        tile = Image.fromarray(pixels)
        draw = ImageDraw.Draw(tile)
        height, width = view.depth.shape
        for column, row in judgement.agreement.pixels[k][judgement.agreement.wrong[k]]:
            x, y = (column + 0.5) / width * TILE, (row + 0.5) / height * TILE
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=RED)
        draw.text((6, 4), view.camera.name, fill=(30, 30, 30))
        canvas.paste(tile, (k % 3 * TILE, k // 3 * TILE))
    return canvas
