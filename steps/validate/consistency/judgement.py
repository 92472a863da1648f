"""Judges the consistency of a set's views, once cameras, depth encodings and masks are determined.

Above `WARNING_SHARE` of denied points, and wherever a hypothesis fits much better than what was given, there is a warning;
above `FAILURE_SHARE` the job fails with VALIDATION_FAILED, the numbers and the most likely cause. Nothing is corrected here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, ray_to_z
from steps.io import png
from steps.io.cameras_json import View
from steps.io.depth_encoding import metric_depth
from steps.io.input_checks import Pictures
from steps.runtime.errors import RigAmbiguous, ValidationFailed
from steps.runtime.reporter import Reporter
from steps.validate.consistency import causes, conventions, exchanged
from steps.validate.consistency.agreement import Agreement, DepthView, compare, minimum_filter
from steps.validate.consistency.causes import Cause, Evidence, Trial
from steps.validate.foreground import masks

# the share of denied points from which it is seen whether views are exchanged; exact renders have none
EXCHANGE_SHARE = 0.01
WARNING_SHARE, FAILURE_SHARE = 0.05, 0.25  # the same, from which there is a warning, and from which the job fails
OUTLINE = 0.12  # of a view's outline, the share that lies elsewhere in its depth render from which there is a warning
# of a pixel: that a picture must show of the object, for its depth to be unknown rather than nothing
LEAST_COVERAGE = 0.05
TILE = 256  # pixels to a side of a view in the picture
PICTURE = "contradictions.png"  # among the step's outputs
RED, BLUE = (220, 40, 30), (30, 90, 220)


@dataclass(frozen=True)
class Judgement:
    """agreement: of the depth renders; outlines: mismatch of each view's outline with its depth render's, 0 where the picture
    has none; colours: colour difference where two views overlap, 0 to 1; cause: the most likely cause, None where unknown or
    nothing is wrong."""

    agreement: Agreement
    outlines: list[float]
    colours: float
    cause: Cause | None

    def to_json(self, names: list[str]) -> dict[str, Any]:
        """For scene.json: what the report and quality.json show."""
        return {
            "denied": round(self.agreement.denied_share, 4),
            "denied_of_each": {n: round(v, 4) for n, v in zip(names, self.agreement.denied_share_of_each, strict=True)},
            "surface_distance": round(self.agreement.distance, 5),
            "outline_mismatch": {n: round(v, 4) for n, v in zip(names, self.outlines, strict=True)},
            "colour_mismatch": round(self.colours, 4),
            "cause": self.cause.sentence if self.cause else "",
        }


@dataclass(frozen=True)
class Findings:
    """warnings: notes for scene.json; metadata: the numbers behind them, for scene.json too."""

    warnings: list[str]
    metadata: dict[str, Any]


def evidence_of(
    cameras: list[Camera],
    depths: list[Array],
    pictures: list[png.Picture],
    coverages: list[Array],
    backgrounds: list[Array | None],
) -> Evidence:
    """cameras, depths: of the depth maps, [H, W], 0 where nothing is; coverages: of the pictures; backgrounds: the
    colour (3,) behind each opaque picture, None where it is not uniform. For a picture without transparency the outline comes
    from colour alone, since its coverage comes from depth."""
    views = []
    for camera, depth, coverage in zip(cameras, depths, coverages, strict=True):
        views.append(DepthView.of(camera, depth, unknown(depth, masks.resize_mask(coverage, depth.shape))))
    sampled_pictures = []
    for picture, coverage, background in zip(pictures, coverages, backgrounds, strict=True):
        outline_coverage = coverage if picture.alpha is not None else None
        if outline_coverage is None and background is not None:
            outline_coverage = exchanged.object_by_colour(picture.colour, background)
        sampled_pictures.append(exchanged.sample_picture(picture.colour, outline_coverage))
    return Evidence(views, sampled_pictures)


def unknown(depth: Array, coverage: Array) -> Array:
    """[H, W] bool: pixels where the picture has the object and the depth render nothing: holes, and parts thinner than a pixel.
    Pixels at the rim of known depth do not count."""
    nothing = depth <= 0
    return nothing & ((coverage >= 0.5) | ((coverage > LEAST_COVERAGE) & minimum_filter(nothing, 1)))


def judge_given(evidence: Evidence, pictures: Pictures, source: str, reporter: Reporter) -> Findings:
    """Judges the set as given; writes a picture of the contradictions if there are any. source: where the cameras come from.
    Raises ValidationFailed above FAILURE_SHARE."""
    # an encoding that was estimated with the cameras is no input: the advice to leave it out would not apply
    judgement = judge(evidence, lambda: iter(()) if source == "found" else encodings(evidence, pictures))
    words = warnings(judgement, evidence.names, source)
    if words or judgement.agreement.denied_share > FAILURE_SHARE:
        contradiction_sheet(judgement, evidence.views, [_over_white(p) for p in pictures.views]).save(
            reporter.outputs / PICTURE
        )
    check(judgement, evidence.names, source)
    return Findings(words, judgement.to_json(evidence.names))


def encodings(evidence: Evidence, pictures: Pictures) -> Iterator[Trial]:
    """The depth encoding that fits these cameras best, if any does."""
    from steps.validate.depth import encoding  # only now: it loads kernels

    views = [View(camera, None) for camera in evidence.cameras]
    try:
        views_with_encoding, note = encoding.find_encoding(pictures, views)
    except RigAmbiguous:
        return
    depths = []
    for view, stored in zip(views_with_encoding, pictures.depths, strict=True):
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


def judge(evidence: Evidence, more: Callable[[], Iterator[Trial]] | None = None) -> Judgement:
    """more: further hypotheses, on the depth encoding, tried where those on cameras and order do not explain the
    contradictions."""
    agreement = compare(evidence.views)
    scores = causes.score_assignments(evidence)
    cause = None
    if agreement.denied_share > WARNING_SHARE:
        cause = causes.depth_cause(evidence, agreement.denied_share, more)
    elif agreement.denied_share > EXCHANGE_SHARE:
        cause = causes.order_cause(evidence, agreement.denied_share)
    outlines = [
        exchanged.outline_mismatch(sampled.object, exchanged.outline(view))
        for sampled, view in zip(evidence.pictures, evidence.views, strict=True)
    ]
    cause = cause or causes.picture_cause(evidence, scores, max(outlines) > OUTLINE / 3)
    return Judgement(agreement, outlines, scores.colour_cost(causes.SIX), cause)


def warnings(judgement: Judgement, names: list[str], source: str) -> list[str]:
    """Notes for scene.json. source: where the cameras come from."""
    share, cause = judgement.agreement.denied_share, judgement.cause
    sentences = []
    if share > WARNING_SHARE:
        sentences.append(
            f"{_numbers(judgement, names)}: cameras or depth encoding ({source}) do not fit these pictures."
        )
    mismatched = [name for name, v in zip(names, judgement.outlines, strict=True) if v > OUTLINE]
    if mismatched and not (cause and sentences):
        sentences.append(
            f"The outline of the object in the {_pictures(mismatched)} lies elsewhere than in the depth render of the same name "
            f"({max(judgement.outlines):.0%} of it)."
        )
    if cause and not sentences:
        sentences.append("The pictures match each other much better in another order or orientation.")
    if not sentences:
        return []
    return [f"WARNING: {' '.join(sentences)}" + (f" {cause.sentence}" if cause else "")]


def check(judgement: Judgement, names: list[str], source: str) -> None:
    """Raises ValidationFailed where the views contradict each other too much for any mesh to be right."""
    share, cause = judgement.agreement.denied_share, judgement.cause
    if share <= FAILURE_SHARE:
        return
    advice = "Correct the cameras or the depth encoding; the report's picture shows in red what other views deny."
    raise ValidationFailed(
        f"{_numbers(judgement, names)} (at most {FAILURE_SHARE:.0%} may be): cameras or depth encoding ({source}) do not fit "
        f"these pictures." + (f" {cause.sentence}" if cause else ""),
        f"{cause.sentence} Otherwise: {advice[0].lower()}{advice[1:]}" if cause else advice,
        field="cameras",
        agreement=judgement.to_json(names),
    )


def _numbers(judgement: Judgement, names: list[str]) -> str:
    each = sorted(zip(judgement.agreement.denied_share_of_each, names, strict=True), reverse=True)[:2]
    worst = ", ".join(f"{name} {share:.0%}" for share, name in each)
    return f"{judgement.agreement.denied_share:.0%} of what the depth renders show is denied by another view (most: {worst})"


def _pictures(names: list[str]) -> str:
    return f"picture {names[0]}" if len(names) == 1 else f"pictures {', '.join(names[:-1])} and {names[-1]}"


def _over_white(picture: png.Picture) -> Array:
    """[H, W, 3] uint8."""
    if picture.alpha is None:
        return picture.colour
    alpha = picture.alpha[..., None]
    return np.rint(picture.colour * alpha + 255 * (1 - alpha)).astype(np.uint8)


def contradiction_sheet(judgement: Judgement, views: list[DepthView], pictures: list[Array]) -> Image.Image:
    """The six views [H, W, 3] uint8 with the depth renders' outlines in blue and denied points in red."""
    canvas = Image.new("RGB", (3 * TILE, 2 * TILE), "white")
    for k, (view, picture) in enumerate(zip(views, pictures, strict=True)):
        tile = Image.fromarray(picture).convert("RGB").resize((TILE, TILE))
        inside = np.asarray(Image.fromarray(view.depth > 0).resize((TILE, TILE)))
        pixels = np.array(tile)
        pixels[inside ^ minimum_filter(inside, 1)] = BLUE
        tile = Image.fromarray(pixels)
        draw = ImageDraw.Draw(tile)
        height, width = view.depth.shape
        for column, row in judgement.agreement.pixels[k][judgement.agreement.denied[k]]:
            x, y = (column + 0.5) / width * TILE, (row + 0.5) / height * TILE
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=RED)
        draw.text((6, 4), view.camera.name, fill=(30, 30, 30))
        canvas.paste(tile, (k % 3 * TILE, k // 3 * TILE))
    return canvas
